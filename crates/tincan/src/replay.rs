//! The replay window of one lane in one epoch: each counter is accepted once, however many threads receive.
//!
//! Promises: of all callers that `mark` the same counter exactly one is told `true`; a counter no more than
//! `WINDOW - 1` behind the highest is never refused unless it was marked; refusing changes nothing.
//! Refuses to know: keys. The caller marks a counter only after its record was authenticated.
//!
//! Shape: a ring of 257 words. A word holds 32 marks and the number of the ring's turn they belong to, so one
//! compare-and-swap both moves a word to a newer turn and sets the mark: a mark of an older turn cannot survive,
//! and a slow thread cannot set its mark in a newer turn. Separate words for number and marks could do both.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far behind the highest counter a late one may be.
pub const WINDOW: u64 = 8192;

const BITS: u64 = 32;
/// One more than the window needs, so that a window that does not begin at a word's first bit fits too.
const SLOTS: u64 = WINDOW / BITS + 1;
/// Counters from here on would overflow the 32 bits that a turn's number has.
const LIMIT: u64 = (SLOTS * BITS) << 32;

/// Marks of the counters seen.
pub struct Window {
    highest: AtomicU64,
    words: [AtomicU64; SLOTS as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// An empty window.
    pub fn new() -> Self {
        Self {
            highest: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; SLOTS as usize],
        }
    }

    /// A cheap look before the record is opened: `false` means that `mark` would refuse.
    pub fn may_accept(&self, counter: u64) -> bool {
        if self.is_outside(counter) {
            return false;
        }
        let place = Place::of(counter);
        place.accepted_by(self.words[place.slot].load(Ordering::Relaxed))
    }

    /// Marks an authenticated counter; `true` for the one caller that may deliver it.
    pub fn mark(&self, counter: u64) -> bool {
        if self.is_outside(counter) {
            return false;
        }
        let place = Place::of(counter);
        let word = &self.words[place.slot];
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            if !place.accepted_by(seen) {
                return false;
            }
            // Relaxed is enough: the word's own modification order decides who wins, and nothing else is published by it.
            match word.compare_exchange_weak(seen, place.marked(seen), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        if counter > self.highest.load(Ordering::Relaxed) {
            self.highest.fetch_max(counter, Ordering::Relaxed);
        }
        true
    }

    fn is_outside(&self, counter: u64) -> bool {
        counter >= LIMIT || self.highest.load(Ordering::Relaxed).saturating_sub(counter) >= WINDOW
    }
}

/// Where a counter's mark lives.
struct Place {
    slot: usize,
    turn: u64,
    bit: u64,
}

impl Place {
    fn of(counter: u64) -> Self {
        let block = counter / BITS;
        Self {
            slot: (block % SLOTS) as usize,
            turn: block / SLOTS,
            bit: 1 << (counter % BITS),
        }
    }

    /// Not of an older turn than the word's, and not marked yet.
    fn accepted_by(&self, word: u64) -> bool {
        let turn = word >> BITS;
        turn < self.turn || (turn == self.turn && word & self.bit == 0)
    }

    /// The word with the mark set; marks of an older turn go.
    fn marked(&self, word: u64) -> u64 {
        if word >> BITS == self.turn {
            word | self.bit
        } else {
            self.turn << BITS | self.bit
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    /// A row is a fresh window and counters in order of arrival; "!" behind one means that it is refused.
    const TABLE: &[&str] = &[
        // WireGuard's selftest/counter.c, its window of 8128 put at our 8192.
        "0 1 1! 9 8 7 7! 8192 8191 8191! 8192! 2 0! 8193 2! 1! 3",
        "0 1 1! 9 8 7 7! 8191 8190 8190! 8191! 8189 0! 8192 8193 8192! 8193!",
        "8192 8191 8190 8189 1 0! 8193 1! 2 2! 8193!",
        "0 8191 0! 8192 0! 1 1! 8193 1! 2",
        "16384 8193 8192! 8191! 0! 16384! 16385 8193! 8194",
        "100000 91809 91808! 91807! 100000! 99999 99999!",
        "0 1 2 3 4 5 6 7 0! 1! 2! 3! 4! 5! 6! 7!",
        "7 6 5 4 3 2 1 0 7! 6! 5! 4! 3! 2! 1! 0!",
        // A word of the ring is reused after 8224 counters: no mark of the turn before may be left.
        "0 1 2 3 31 8224 8225 8226 8227 8255 8224! 0! 1!",
        "5 8229 16453 24677 5! 8229! 16453! 24677!",
        // Far jumps skip turns; the skipped words hold stale turns until they are next used.
        "0 31 1000000 991809 991808! 999999 999969 999968",
        // The highest counter that there is, and those beyond.
        "35321811042303 35321811042303! 35321811042302 35321811034112 35321811034111! 35321811042304! 281474976710655!",
    ];

    #[test]
    fn table() {
        for row in TABLE {
            let window = Window::new();
            for word in row.split(' ') {
                let (number, accepted) = match word.strip_suffix('!') {
                    Some(number) => (number, false),
                    None => (word, true),
                };
                let counter: u64 = number.parse().expect("a number");
                assert_eq!(window.may_accept(counter), accepted, "{row}: look at {word}");
                assert_eq!(window.mark(counter), accepted, "{row}: mark {word}");
            }
        }
    }

    /// The loops of WireGuard's table: a whole window upwards, downwards, and what then lies outside.
    #[test]
    fn a_whole_window_either_way() {
        let upwards = Window::new();
        assert!((1..=WINDOW).all(|counter| upwards.mark(counter)));
        assert!(!upwards.mark(0));
        assert!((1..=WINDOW).all(|counter| !upwards.mark(counter)));
        for top in [WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW + 17] {
            let downwards = Window::new();
            let inside = top - (WINDOW - 1)..=top;
            assert!(inside.clone().rev().all(|counter| downwards.mark(counter)));
            assert!(inside.clone().all(|counter| !downwards.mark(counter)));
            assert!((0..*inside.start()).all(|counter| !downwards.mark(counter)));
            assert!(downwards.mark(top + 1));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((0u8..4, 0u64..20_000), 1..400)) {
            let window = Window::new();
            let mut seen = BTreeSet::new();
            let mut highest = 0u64;
            for (kind, number) in steps {
                let counter = match kind {
                    0 => number,
                    1 => highest + number,
                    2 => highest.saturating_sub(number % 9000),
                    _ => highest + number % 3,
                };
                let expected = highest.saturating_sub(counter) < WINDOW && !seen.contains(&counter);
                prop_assert_eq!(window.may_accept(counter), expected);
                prop_assert_eq!(window.mark(counter), expected);
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }

    /// Threads race over the same counters while the window moves under them.
    #[test]
    fn of_many_threads_one_wins_each_counter() {
        const THREADS: u64 = 4;
        const COUNTERS: u64 = 60_000;
        let window = Window::new();
        let wins: Vec<AtomicU32> = (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        let start = Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (window, wins, start) = (&window, &wins, &start);
                scope.spawn(move || {
                    start.wait();
                    for step in 0..COUNTERS {
                        // Each thread walks in its own order within 1024, so late and early meet in the same words.
                        let counter = (step & !1023) | ((step * (2 * thread + 1) + thread) & 1023);
                        if counter < COUNTERS && window.mark(counter) {
                            wins[counter as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let twice = wins.iter().filter(|w| w.load(Ordering::Relaxed) > 1).count();
        assert_eq!(twice, 0);
        assert!((0..COUNTERS).all(|counter| !window.mark(counter)), "all refused by now");
    }

    /// Two threads fight for one word at the moment it goes over to the next turn.
    #[test]
    fn a_slow_thread_cannot_mark_in_a_newer_turn() {
        for round in 0..2000u64 {
            let window = Window::new();
            let old = round % 32;
            let new = old + SLOTS * BITS;
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    start.wait();
                    window.mark(old)
                });
                start.wait();
                assert!(window.mark(new), "a new counter is never refused");
                let _ = other.join();
            });
            assert!(!window.mark(old) && !window.mark(new));
            assert!(window.mark(new + 1) || new % 32 == 31 && window.mark(new + 2));
        }
    }
}
