//! Whether a worker that finds nothing looks again or sleeps.
//!
//! Waking a thread that sleeps costs more than all that it does for a frame (70 us where a virtual machine's core has to be started
//! by its host), so a worker goes on looking for a moment as long as that pays, and gives its core to whoever else wants it meanwhile.
//!
//! A core that others are busy on is left to them: who yields it is punished by the scheduler (Linux 6.18 takes a whole slice away),
//! who sleeps is not, and to be woken there is cheap.
//!
//! Promises: at rest nothing is spent; traffic that never answers within the moment costs one try in 32.
//! Refuses to know: what is looked for.

use std::time::{Duration, Instant};

/// How long a worker goes on looking: about what it would cost to be woken, so that looking in vain no more than doubles it.
const MOMENT: Duration = Duration::from_micros(100);
/// Looks in vain that are forgiven.
const CREDIT: u8 = 16;
/// A look that comes so much later than the one before: somebody else was busy on the core.
const BUSY: Duration = Duration::from_micros(50);
/// When there is no credit, one sleep in so many begins with a look.
const TRY_AGAIN: u8 = 32;

/// Of one worker.
pub(super) struct Patience {
    credit: u8,
    sleeps: u8,
    /// When the moment ends, and when the last look was.
    looking: Option<(Instant, Instant)>,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            credit: CREDIT,
            sleeps: 0,
            looking: None,
        }
    }

    /// Something was found.
    pub(super) fn on_found(&mut self) {
        if self.looking.take().is_some() {
            // A success is worth two failures: an answer that came at once, then a pause, is how most programs talk.
            self.credit = CREDIT.min(self.credit + 2);
        }
    }

    /// Nothing was found: whether to look again at once, instead of sleeping until there is something.
    pub(super) fn looks_again(&mut self, now: Instant) -> bool {
        match self.looking {
            Some((_, last)) if now.duration_since(last) >= BUSY => {
                self.looking = None;
                self.credit = 0;
                false
            }
            Some((until, _)) if now < until => {
                self.looking = Some((until, now));
                true
            }
            Some(_) => {
                self.looking = None;
                self.credit = self.credit.saturating_sub(1);
                false
            }
            None => {
                self.sleeps = (self.sleeps + 1) % TRY_AGAIN;
                let looks = self.credit > 0 || self.sleeps == 0;
                self.looking = looks.then(|| (now + MOMENT, now));
                looks
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays rounds of "something is found, then nothing for `quiet`"; gives how many sleeps began with a look.
    fn looks(quiet: Duration, rounds: usize) -> usize {
        let (mut patience, mut now) = (Patience::new(), Instant::now());
        let mut looks = 0;
        for _ in 0..rounds {
            patience.on_found();
            let end = now + quiet;
            if patience.looks_again(now) {
                looks += 1;
                while now < end && patience.looks_again(now) {
                    now += MOMENT / 10;
                }
            }
            now = now.max(end);
        }
        looks
    }

    #[test]
    fn looks_go_on_while_they_pay_and_end_when_they_do_not() {
        assert_eq!(looks(MOMENT / 2, 1000), 1000);
        let in_vain = looks(MOMENT * 100, 1000);
        assert!((1000 / 32..1000 / 32 + 32).contains(&in_vain), "{in_vain}");
    }

    #[test]
    fn a_pause_after_each_answer_is_no_reason_to_stop() {
        let (mut patience, mut now) = (Patience::new(), Instant::now());
        for _ in 0..1000 {
            assert!(patience.looks_again(now), "for the answer");
            now += MOMENT / 4;
            patience.on_found();
            for _ in 0..10 {
                assert!(patience.looks_again(now), "for the next request");
                now += MOMENT / 10;
            }
            assert!(!patience.looks_again(now), "that is long in coming");
            patience.on_found();
        }
    }

    #[test]
    fn a_busy_core_is_left_to_the_others() {
        let (mut patience, now) = (Patience::new(), Instant::now());
        assert!(patience.looks_again(now));
        assert!(!patience.looks_again(now + BUSY), "though the moment is not over");
        let looks = (1..TRY_AGAIN).filter(|_| {
            patience.on_found();
            patience.looks_again(now)
        });
        assert_eq!(looks.count(), 1);
    }
}
