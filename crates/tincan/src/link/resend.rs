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

/// The whole candidate list is sent once more so long after it last changed, in case signals overtook each other.
const CANDIDATES_AGAIN: Duration = Duration::from_secs(1);
/// In a group that comes up together its links do so one after the other within this.
const CANDIDATES_TOGETHER: Duration = Duration::from_millis(100);

/// When the candidate list is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) at: Instant,
    /// The repetition of a list that went out.
    pub(super) is_last: bool,
}

impl Again {
    /// At once, and once more later.
    pub(super) fn now(now: Instant) -> Self {
        let is_last = false;
        Self { at: now, is_last }
    }

    /// In a moment, together with what else changes until then, and once more later.
    pub(super) fn soon(now: Instant) -> Self {
        let at = now + CANDIDATES_TOGETHER;
        Self { at, is_last: false }
    }

    /// Once more, later.
    pub(super) fn last(now: Instant) -> Self {
        let at = now + CANDIDATES_AGAIN;
        Self { at, is_last: true }
    }
}
