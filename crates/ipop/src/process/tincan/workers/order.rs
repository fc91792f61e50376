//! In which order a worker's sources have their turns, and how long it keeps a core while some have much.
//!
//! A source that had little comes first and does not wait for those that have much, as sparse flows do in FQ-CoDel (RFC 8290
//! section 4.1); of these, one after the other has a turn between two looks at all. Where more programs want a core than there
//! are, who works without a pause keeps it for whole ticks of the scheduler (4 ms at 250 Hz), while what others wait for is short:
//! a worker therefore lets them have it after each stint, a short one where several flows share it.
//!
//! Promises: every source that has something has its turn; a worker with little to do never lets its core go.
//! Refuses to know: what the sources are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::pace::Turn;

/// How long a worker works on, all sources that have much together. Ping under four TCP streams, both ends and the load on
/// two cores: p50 0.1 to 1.3 ms (0.8 mostly) instead of 1.1 to 3.5.
const STINT: Duration = Duration::from_micros(200);
/// The same where of all workers' sources one alone has much: who waits for a core is mostly whoever that flow belongs to. One TCP
/// stream: 0.92 x the CPU for each GB that stints of 200 us cost, 1.06 x the throughput. Where others are in the same case beside it,
/// on other cores, ping under them would have a p50 of up to 2.4 ms.
const STINT_ALONE: Duration = Duration::from_millis(1);
/// A source that had much counts for so many turns of all sources, some ms: flows move to other queues.
const RECENT: u32 = 256;

/// How many sources of all workers have much.
#[derive(Default)]
pub(crate) struct FullSources(AtomicU32);

impl FullSources {
    /// One worker has other ones than before: how many there are of all.
    fn change(&self, before: u32, now: u32) -> u32 {
        if before == now {
            return self.0.load(Ordering::Relaxed);
        }
        let change = now.wrapping_sub(before);
        self.0.fetch_add(change, Ordering::Relaxed).wrapping_add(change)
    }
}

/// Of one worker.
pub(super) struct Order {
    /// By a source's number: at which turn it last left something, if its last turn did.
    full: Vec<Option<u32>>,
    /// How many turns there were.
    turns: u32,
    /// The full one that had the last turn.
    last: u64,
    since: Option<Instant>,
    all: Arc<FullSources>,
    /// How many of those are this worker's.
    told: u32,
}

impl Order {
    pub(super) fn new(all: Arc<FullSources>) -> Self {
        Self {
            full: Vec::new(),
            turns: 0,
            last: 0,
            since: None,
            all,
            told: 0,
        }
    }

    /// Whether it had little the last time.
    pub(super) fn is_sparse(&self, source: u64) -> bool {
        !self.full.get(source as usize).is_some_and(Option::is_some)
    }

    /// Which of the others is the next.
    pub(super) fn next_full(&mut self, found: impl Iterator<Item = u64>) -> Option<u64> {
        let last = self.last;
        let next = found
            .filter(|source| !self.is_sparse(*source))
            .min_by_key(|source| (*source <= last, *source))?;
        self.last = next;
        Some(next)
    }

    /// What a source's turn found.
    pub(super) fn on_turn(&mut self, source: u64, turn: Turn) {
        let at = source as usize;
        if at >= self.full.len() {
            self.full.resize(at + 1, None);
        }
        self.turns = self.turns.wrapping_add(1);
        self.full[at] = (turn == Turn::Full).then_some(self.turns);
    }

    /// The sources are others now.
    pub(super) fn forget(&mut self) {
        self.full.clear();
        self.last = 0;
        self.rest();
    }

    /// A worker slept, or is about to: what it does next is a new stint.
    pub(super) fn rest(&mut self) {
        self.since = None;
        self.tell(0);
    }

    /// Whether the worker should let others have its core; the clock is read only where some source has much.
    pub(super) fn is_stint_over(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let own = self.full();
        let all = self.tell(own);
        let stint = match own {
            0 => {
                self.since = None;
                return false;
            }
            1 if all == 1 => STINT_ALONE,
            some => STINT / some,
        };
        let now = now();
        let since = *self.since.get_or_insert(now);
        let is_over = now.duration_since(since) >= stint;
        if is_over {
            self.since = None;
        }
        is_over
    }

    /// How many of this worker's have much: says how many of all have.
    fn tell(&mut self, own: u32) -> u32 {
        self.all.change(std::mem::replace(&mut self.told, own), own)
    }

    /// How many have much.
    fn full(&self) -> u32 {
        let all = self.full.iter().flatten();
        all.map(|turn| u32::from(self.turns.wrapping_sub(*turn) < RECENT)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(sources: &[u64]) -> Order {
        beside(&Arc::default(), sources)
    }

    fn beside(all: &Arc<FullSources>, sources: &[u64]) -> Order {
        let mut order = Order::new(all.clone());
        for source in sources {
            order.on_turn(*source, Turn::Full);
        }
        order
    }

    #[test]
    fn who_had_little_comes_first_and_the_others_take_turns() {
        let mut order = full(&[2, 5, 9]);
        let found = [9, 1, 5, 2, 70];
        let sparse: Vec<u64> = found.into_iter().filter(|source| order.is_sparse(*source)).collect();
        assert_eq!(sparse, [1, 70]);
        let turns: Vec<_> = (0..7).map(|_| order.next_full(found.into_iter())).collect();
        assert_eq!(turns, [2, 5, 9, 2, 5, 9, 2].map(Some));
        order.on_turn(5, Turn::Some);
        assert!(order.is_sparse(5));
        assert_eq!(order.next_full([5].into_iter()), None);
    }

    #[test]
    fn a_stint_is_shared_by_those_that_have_much() {
        let start = Instant::now();
        for (sources, stint) in [
            (&[3][..], STINT_ALONE),
            (&[3, 4], STINT / 2),
            (&[3, 4, 5, 6], STINT / 4),
        ] {
            let mut order = full(sources);
            assert!(!order.is_stint_over(|| start));
            assert!(!order.is_stint_over(|| start + stint / 2));
            assert!(order.is_stint_over(|| start + stint));
            assert!(!order.is_stint_over(|| start + stint * 2), "another one begins");
            order.rest();
            assert!(!order.is_stint_over(|| start + stint * 9), "and after a rest");
        }
    }

    #[test]
    fn who_has_much_beside_another_worker_has_a_short_stint() {
        let start = Instant::now();
        let is_short = |order: &mut Order| {
            order.since = Some(start);
            order.is_stint_over(|| start + STINT)
        };
        let all = Arc::default();
        let (mut one, mut other) = (beside(&all, &[3]), beside(&all, &[4]));
        assert!(!is_short(&mut one), "the other one said nothing yet");
        assert!(is_short(&mut other));
        assert!(is_short(&mut one));
        one.rest();
        assert!(!is_short(&mut other), "one sleeps");
        assert!(is_short(&mut one), "and has still as much when it wakes");
        one.forget();
        assert!(!is_short(&mut other), "its sources are others");
    }

    #[test]
    fn whose_flow_went_elsewhere_does_not_count_for_long() {
        let start = Instant::now();
        let mut order = full(&[3, 4]);
        for (turns, is_over) in [(RECENT / 2, true), (RECENT, false)] {
            for _ in 0..turns {
                order.on_turn(4, Turn::Full);
            }
            order.rest();
            assert!(!order.is_stint_over(|| start));
            assert_eq!(
                order.is_stint_over(|| start + STINT),
                is_over,
                "{turns} turns of the other one"
            );
        }
        assert!(!order.is_sparse(3), "it may still have what it left");
    }

    #[test]
    fn little_to_do_is_no_stint() {
        let start = Instant::now();
        let mut order = full(&[3]);
        assert!(!order.is_stint_over(|| start));
        order.on_turn(3, Turn::Some);
        assert!(!order.is_stint_over(|| panic!("the clock need not be read")));
        order.on_turn(3, Turn::Full);
        assert!(!order.is_stint_over(|| start + STINT_ALONE * 5));
    }
}
