use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// How often the link looks at its counters.
const TICK: Duration = Duration::from_millis(250);

/// A machine and the path that its probes go over.
struct Bench {
    mtu: Mtu,
    now: Instant,
    next_tick: Instant,
    rtt: Duration,
    /// The largest frame that passes; none: nothing passes at all.
    passes: Option<usize>,
    /// Larger ones are refused by the own kernel.
    interface: usize,
    loss: f64,
    rng: ChaCha12Rng,
    under_way: BTreeMap<(Instant, u64), u64>,
    sent: Vec<(Instant, usize)>,
    /// Time during which less than `size` was used, or during which nothing was certain.
    small: Duration,
    unsettled: Duration,
    wrong: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Load {
    None,
    Small,
    Large,
}

impl Bench {
    fn new(top: usize, passes: usize) -> Self {
        let now = Instant::now();
        Self {
            mtu: Mtu::new(top),
            now,
            next_tick: now + TICK,
            rtt: 20 * MS,
            passes: Some(passes),
            interface: usize::MAX,
            loss: 0.0,
            rng: ChaCha12Rng::seed_from_u64(1),
            under_way: BTreeMap::new(),
            sent: Vec::new(),
            small: Duration::ZERO,
            unsettled: Duration::ZERO,
            wrong: false,
        }
    }

    fn start(&mut self, is_relayed: bool, is_v6: bool) -> &mut Self {
        let rtt = Some(self.rtt);
        self.mtu.start(
            self.now,
            Way {
                is_relayed,
                is_v6,
                wrapping: 0,
                rtt,
            },
        );
        self.carry();
        self
    }

    fn carry(&mut self) {
        while let Some(probe) = self.mtu.poll_probe() {
            if probe.size > self.interface {
                self.mtu.on_refused(self.now, probe.size);
                continue;
            }
            self.sent.push((self.now, probe.size));
            let lost = (0..2).any(|_| self.loss > 0.0 && self.rng.random_bool(self.loss));
            if !lost && self.passes.is_some_and(|most| probe.size <= most) {
                self.under_way.insert((self.now + self.rtt, probe.token), probe.token);
            }
        }
    }

    /// Goes on for a while; frames of full size are tried at every moment where the load is large.
    fn run(&mut self, time: Duration, load: Load) -> &mut Self {
        let end = self.now + time;
        while self.now < end {
            let answer = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let next = [answer, self.mtu.poll_timeout(), Some(self.next_tick), Some(end)];
            let next = next.into_iter().flatten().min().unwrap_or(end).max(self.now);
            let usual = self.mtu.top.min(USUAL);
            if self.mtu.size() < usual {
                self.small += next - self.now;
            }
            if !self.mtu.is_settled() {
                self.unsettled += next - self.now;
            }
            self.now = next;
            while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= next) {
                let token = entry.remove();
                self.mtu.on_answer(next, token);
                self.carry();
            }
            if self.mtu.poll_timeout().is_some_and(|due| due <= next) {
                self.mtu.handle_timeout(next);
            }
            if self.next_tick <= next {
                self.next_tick += TICK;
                self.mtu.on_look(next, load != Load::None, load == Load::Large);
            }
            self.carry();
            self.wrong |= self.mtu.is_settled() && self.passes.is_some_and(|most| self.mtu.size() > most);
        }
        self
    }

    fn sent_bytes(&self) -> usize {
        self.sent.iter().map(|(_, size)| size).sum()
    }

    fn state(&self) -> (usize, bool) {
        (self.mtu.size(), self.mtu.is_settled())
    }
}

#[test]
fn the_usual_size_is_used_at_once_and_confirmed_by_one_probe() {
    for top in [1280, 1400] {
        let mut bench = Bench::new(top, 1444);
        bench.start(false, false);
        assert_eq!(bench.state(), (top, false));
        bench.run(20 * MS, Load::None);
        assert_eq!(bench.state(), (top, true));
        bench.run(3600 * S, Load::None);
        assert_eq!(bench.sent.len(), 2, "a probe, its marker, and nothing more while idle");
    }
}

/// Outer MTU, IPv6, relayed, NIC's MTU, what comes of it.
#[test]
fn the_search_finds_what_every_usual_path_carries() {
    for (outer, is_v6, is_relayed, top, found) in [
        (1500, false, false, 1400, 1400),
        (1500, true, true, 1400, 1400),
        (1492, false, true, 1400, 1400),
        (1420, false, false, 1400, 1364),
        (1420, true, false, 1400, 1344),
        (1280, false, false, 1400, 1224),
        (1280, true, false, 1400, 1204),
        (1280, false, true, 1400, 1220),
        (1280, true, true, 1400, 1200),
        (1500, false, false, 8900, 1444),
        (1500, true, true, 8900, 1420),
        (1280, false, false, 8900, 1224),
        (9000, false, false, 8900, 8900),
        (9000, true, false, 9000, 8924),
        (4000, false, false, 8900, 3944),
        (1500, false, false, 1280, 1280),
    ] {
        let way = Way {
            is_relayed,
            is_v6,
            wrapping: 0,
            rtt: None,
        };
        let mut bench = Bench::new(top, outer - way.overhead());
        bench.start(is_relayed, is_v6).run(5 * S, Load::None);
        assert_eq!(bench.state(), (found, true), "{outer} {is_v6} {is_relayed} {top}");
    }
}

#[test]
fn the_search_comes_close_to_what_odd_paths_carry_with_few_probes() {
    for top in [1400, 8900] {
        for passes in (500..top).step_by(37) {
            let mut bench = Bench::new(top, passes);
            bench.start(false, false).run(6 * S, Load::None);
            let (size, is_settled) = bench.state();
            assert!(is_settled, "{passes}");
            assert!(size <= passes && size + GRAIN > passes, "{top} {passes}: {size}");
            assert!(bench.sent.len() < 110, "{top} {passes}: {} probes", bench.sent.len());
            assert!(bench.sent_bytes() < 40 * top, "{top} {passes}: {}", bench.sent_bytes());
        }
    }
}

#[test]
fn a_path_that_shrinks_under_large_frames_is_noticed_within_a_second() {
    for rtt in [1, 20, 60, 100, 150, 200] {
        for after in [0, 60, 120, 249] {
            let mut bench = Bench::new(1400, 1444);
            bench.rtt = rtt * MS;
            bench.start(false, false).run(10 * S + after * MS, Load::Large);
            assert_eq!(bench.state(), (1400, true));
            bench.passes = Some(1224);
            bench.run(S, Load::Large);
            assert!(bench.mtu.size() <= 1224, "{rtt} {after}: {:?}", bench.state());
            bench.run(3 * S, Load::Large);
            assert_eq!(bench.state(), (1224, true), "{rtt} {after}");
        }
    }
}

#[test]
fn a_path_that_shrinks_below_the_base_is_followed() {
    let mut bench = Bench::new(1400, 1400);
    bench.start(false, false).run(2 * S, Load::Large);
    bench.passes = Some(700);
    bench.run(4 * S, Load::Large);
    let (size, is_settled) = bench.state();
    assert!(is_settled && size <= 700 && size + GRAIN > 700, "{size}");
}

#[test]
fn an_idle_or_small_load_asks_nothing() {
    let mut bench = Bench::new(1400, 1444);
    bench.start(false, false).run(S, Load::None);
    let before = bench.sent.len();
    bench.run(600 * S, Load::None).run(600 * S, Load::Small);
    assert_eq!(bench.sent.len(), before);
    bench.run(10 * S, Load::Large);
    // A probe and its marker four times a second.
    assert!(bench.sent.len() - before <= 80, "{}", bench.sent.len() - before);
}

#[test]
fn a_lossy_path_keeps_its_size() {
    for seed in 0..20 {
        let mut bench = Bench::new(1400, 1444);
        bench.rng = ChaCha12Rng::seed_from_u64(seed);
        bench.loss = 0.01;
        bench.start(false, false).run(2 * S, Load::Large);
        (bench.small, bench.unsettled) = Default::default();
        bench.run(3600 * S, Load::Large);
        assert_eq!(bench.state(), (1400, true));
        // Once in nine hours three probes in a row are lost; then frames are cut for a round trip or two.
        assert!(bench.small < S, "{seed}: {:?}", bench.small);
    }
}

#[test]
fn what_is_settled_always_passes_though_much_is_lost() {
    for seed in 0..50 {
        let mut bench = Bench::new(1400, 1224);
        bench.rng = ChaCha12Rng::seed_from_u64(seed);
        bench.loss = 0.1;
        bench.start(false, false).run(60 * S, Load::Large);
        assert!(!bench.wrong, "{seed}");
    }
}

#[test]
fn a_dead_path_says_nothing_about_sizes() {
    let mut bench = Bench::new(1400, 1444);
    bench.start(false, false).run(2 * S, Load::Large);
    bench.passes = None;
    bench.run(30 * S, Load::Large);
    assert_eq!(bench.state(), (1400, true));
    bench.passes = Some(1444);
    bench.run(30 * S, Load::Large);
    assert_eq!(bench.state(), (1400, true));
}

#[test]
fn a_peer_that_answers_no_probe_gets_the_usual_size_and_few_probes() {
    let mut bench = Bench::new(8900, 8900);
    bench.passes = None;
    bench.start(false, false).run(3600 * S, Load::None);
    assert_eq!(bench.mtu.size(), 1400);
    assert!(bench.sent.len() <= 3 * BUDGET as usize, "{}", bench.sent.len());
    let before = bench.sent.len();
    bench.run(60 * S, Load::Large);
    assert_eq!(bench.mtu.size(), 1400);
    assert!(bench.sent.len() - before <= 3 * 30, "{}", bench.sent.len() - before);
}

#[test]
fn what_the_own_kernel_refuses_is_believed_at_once() {
    let mut bench = Bench::new(1400, 1444);
    bench.start(false, false).run(2 * S, Load::Large);
    bench.interface = 1224;
    bench.passes = Some(1224);
    bench.mtu.on_refused(bench.now, 1400);
    assert!(bench.mtu.size() <= 1224);
    bench.carry();
    bench.run(500 * MS, Load::Large);
    assert_eq!(bench.state(), (1224, true));

    let mut bench = Bench::new(8900, 1444);
    bench.interface = 1444;
    bench.start(false, false).run(500 * MS, Load::None);
    assert_eq!(bench.state(), (1444, true));
}

#[test]
fn a_path_that_grows_is_used_in_full_after_a_while() {
    let mut bench = Bench::new(1400, 1224);
    bench.start(false, false).run(10 * S, Load::Small);
    assert_eq!(bench.state(), (1224, true));
    bench.passes = Some(1444);
    bench.run(2 * RAISE_LAST, Load::None);
    assert_eq!(bench.state(), (1224, true), "nobody needs it");
    bench.run(S, Load::Small);
    assert_eq!(bench.state(), (1400, true));
}

#[test]
fn looking_for_more_takes_nothing_from_what_is_used() {
    let mut bench = Bench::new(1400, 1224);
    bench.start(false, false).run(10 * S, Load::Large);
    (bench.small, bench.unsettled) = Default::default();
    let before = bench.sent_bytes();
    bench.run(RAISE_LAST * 10, Load::Small);
    assert_eq!(bench.state(), (1224, true));
    assert_eq!(bench.unsettled, Duration::ZERO);
    assert!(
        bench.sent_bytes() - before < 16 * 60_000,
        "{}",
        bench.sent_bytes() - before
    );
}

#[test]
fn another_path_begins_anew_and_a_relay_is_asked_later() {
    let mut bench = Bench::new(1400, 1224);
    bench.start(false, false).run(10 * S, Load::Large);
    bench.passes = Some(1444);
    let before = bench.sent.len();
    bench.start(true, false);
    assert_eq!(bench.state(), (1400, false));
    bench.run(RELAY_FIRST - MS, Load::Large);
    assert_eq!(bench.sent.len(), before);
    bench.run(S, Load::Large);
    assert_eq!(bench.state(), (1400, true));
}

#[test]
fn another_mtu_of_the_nic_is_followed() {
    let mut bench = Bench::new(1400, 8944);
    bench.start(false, false).run(S, Load::None);
    bench.mtu.set_top(bench.now, 8900);
    bench.carry();
    bench.run(S, Load::None);
    assert_eq!(bench.state(), (8900, true));
    bench.mtu.set_top(bench.now, 1280);
    bench.carry();
    bench.run(S, Load::None);
    assert_eq!(bench.state(), (1280, true));
}
