//! How long to wait between tries.

use std::time::Duration;

use super::{limits, wire};

/// Doubles from [`limits::BACKOFF_FIRST`] to [`limits::BACKOFF_MAX`]; between half and all of it, by chance, so that
/// those who lost a server together do not come back together.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a try that stayed in the room for `stayed`.
    pub(super) fn next(&mut self, hopeless: bool, stayed: Duration) -> Duration {
        if stayed >= limits::STAY_COUNTS {
            self.failures = 0;
        }
        let first = if hopeless {
            limits::BACKOFF_HOPELESS
        } else {
            limits::BACKOFF_FIRST
        };
        let whole = first.saturating_mul(1 << self.failures.min(6)).min(limits::BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + wire::chance() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds_and_a_long_stay_forgets_them() {
        let mut backoff = Backoff::default();
        for whole in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = backoff.next(false, Duration::ZERO);
            let whole = Duration::from_secs(whole);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        assert!(backoff.next(false, limits::STAY_COUNTS) <= limits::BACKOFF_FIRST);
        let mut hopeless = Backoff::default();
        assert!(hopeless.next(true, Duration::ZERO) >= limits::BACKOFF_HOPELESS / 2);
    }
}
