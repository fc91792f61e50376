//! Whether a worker has much to do.
//!
//! Promises: the clock is read once in `TURNS` turns. Refuses to know: what is done about it.

use std::time::{Duration, Instant};

/// So many turns in so little time are much: 2,500 a second, which a program reaches that asks again as soon as it was answered.
const TURNS: u32 = 256;
const WITHIN: Duration = Duration::from_millis(100);

/// How much a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All there was.
    Some,
    /// As much as one turn gives; there may be more.
    Full,
}

/// Who finds so much at once had it coming faster than it was taken: about one train.
const FULL_BYTES: usize = 56 << 10;
/// The same for short frames: as many as a turn of the way out has.
const FULL_FRAMES: usize = 64;

impl Turn {
    /// Of what one system call brought.
    pub(super) fn of(bytes: usize, frames: usize) -> Self {
        if bytes >= FULL_BYTES || frames >= FULL_FRAMES {
            Self::Full
        } else {
            Self::Some
        }
    }
}

/// Of one worker.
pub(super) struct Pace {
    turns: u32,
    since: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { turns: 0, since: now }
    }

    /// A turn is over: whether there is much to do.
    pub(super) fn is_rush(&mut self, turn: Turn, now: impl FnOnce() -> Instant) -> bool {
        if turn == Turn::Full {
            return true;
        }
        self.turns += 1;
        if self.turns < TURNS {
            return false;
        }
        let last = std::mem::replace(&mut self.since, now());
        self.turns = 0;
        self.since.duration_since(last) < WITHIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_or_many_short_frames_are_a_full_turn() {
        for (bytes, frames, turn) in [
            (FULL_BYTES, 1, Turn::Full),
            (FULL_BYTES - 1, FULL_FRAMES - 1, Turn::Some),
            (64 * 92, 64, Turn::Full),
        ] {
            assert_eq!(Turn::of(bytes, frames), turn);
        }
    }

    #[test]
    fn much_is_a_full_turn_or_many_in_a_short_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.is_rush(Turn::Full, || start));
        for (pause, much) in [(WITHIN / TURNS / 2, true), (WITHIN / TURNS * 2, false)] {
            let mut now = start;
            pace = Pace::new(start);
            let rushes = (0..10 * TURNS).filter(|_| {
                now += pause;
                pace.is_rush(Turn::Some, || now)
            });
            assert_eq!(rushes.count(), if much { 10 } else { 0 }, "{pause:?}");
        }
    }
}
