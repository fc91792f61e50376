//! When a signal is sent again that may have been lost.

use std::time::{Duration, Instant};

/// An offer is sent again after this, then after twice that, up to `RESEND_MAX`.
const RESEND_FIRST: Duration = Duration::from_millis(500);
const RESEND_MAX: Duration = Duration::from_secs(4);

/// When something is sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resend {
    pub(super) at: Instant,
    after: Duration,
}

impl Resend {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: now + RESEND_FIRST,
            after: RESEND_FIRST,
        }
    }

    /// True when it is time; the next time is then set.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if now < self.at {
            return false;
        }
        self.after = (self.after * 2).min(RESEND_MAX);
        self.at = now + self.after;
        true
    }
}

/// When the candidate list is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) at: Instant,
    /// The repetition of a list that went out.
    pub(super) is_last: bool,
}
