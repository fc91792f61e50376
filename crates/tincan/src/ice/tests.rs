//! Agents against each other through small NATs, in virtual time. A relay is an address that belongs to a node; the
//! TURN protocol itself is tested in `turn`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const STUN_SERVER: &str = "198.51.100.1:3478";

#[derive(Clone, Copy, PartialEq)]
enum Nat {
    /// A public address.
    None,
    /// One mapping for all destinations, entered only from where it was used (RFC 4787: EI, APD).
    PortRestricted,
    /// A mapping for each destination.
    Symmetric,
}

struct Node {
    agent: Agent,
    nat: Nat,
    host: SocketAddr,
    public: SocketAddr,
    relayed: SocketAddr,
    mappings: BTreeMap<Option<SocketAddr>, SocketAddr>,
    entered: BTreeSet<(SocketAddr, SocketAddr)>,
    events: Vec<AgentEvent>,
    sent: usize,
}

impl Node {
    fn new(number: u8, nat: Nat, controlling: bool, now: Instant) -> Self {
        let public: SocketAddr = format!("203.0.113.{number}:40000").parse().unwrap();
        let host = match nat {
            Nat::None => public,
            _ => format!("10.0.{number}.2:5000").parse().unwrap(),
        };
        let credentials = Credentials::from_entropy([number; 32]);
        let agent = Agent::new(
            credentials,
            controlling,
            u64::from(number),
            AddressPolicy::default(),
            now,
        );
        Node {
            agent,
            nat,
            host,
            public,
            relayed: format!("198.51.100.9:{}", 50_000 + u16::from(number)).parse().unwrap(),
            mappings: BTreeMap::new(),
            entered: BTreeSet::new(),
            events: Vec::new(),
            sent: 0,
        }
    }

    fn candidates(&mut self, with_relay: bool) -> Vec<Candidate> {
        let mut all = vec![Candidate::host(self.host, 65_534)];
        if self.nat != Nat::None {
            let mapped = self.translate(at(STUN_SERVER));
            all.push(Candidate::server_reflexive(mapped, self.host, 65_534));
        }
        if with_relay {
            all.push(Candidate::relayed(self.relayed, 65_534));
        }
        all
    }

    /// What the world sees as source of a datagram to `remote`.
    fn translate(&mut self, remote: SocketAddr) -> SocketAddr {
        let key = match self.nat {
            Nat::None => return self.host,
            Nat::PortRestricted => None,
            Nat::Symmetric => Some(remote),
        };
        let port = 40_000 + self.mappings.len() as u16;
        let outside = *self
            .mappings
            .entry(key)
            .or_insert(SocketAddr::new(self.public.ip(), port));
        self.entered.insert((outside, remote));
        outside
    }

    /// The local address at which a datagram arrives, if it does.
    fn admit(&self, source: SocketAddr, target: SocketAddr) -> Option<SocketAddr> {
        if target == self.relayed {
            return Some(self.relayed);
        }
        let open = match self.nat {
            Nat::None => target == self.host,
            _ => self.entered.contains(&(target, source)),
        };
        open.then_some(self.host)
    }

    fn nominations(&self) -> Vec<Pair> {
        let nominated = |event: &AgentEvent| match event {
            AgentEvent::Nominated(pair) => Some(*pair),
            _ => None,
        };
        self.events.iter().filter_map(nominated).collect()
    }
}

struct World {
    now: Instant,
    nodes: [Node; 2],
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    serial: u64,
    direct_open: bool,
}

impl World {
    fn new(nats: [Nat; 2], controlling: [bool; 2]) -> Self {
        seed_transactions(7);
        let now = Instant::now();
        World {
            now,
            nodes: [1, 2].map(|n| Node::new(n as u8, nats[n - 1], controlling[n - 1], now)),
            wire: BTreeMap::new(),
            serial: 0,
            direct_open: true,
        }
    }

    /// Everything a signal carries, both ways at once.
    fn exchange(&mut self, with_relay: bool) {
        let lists = [0, 1].map(|n| self.nodes[n].candidates(with_relay));
        for n in [0, 1] {
            let peer = self.nodes[1 - n].agent.credentials().clone();
            let agent = &mut self.nodes[n].agent;
            for candidate in &lists[n] {
                agent.add_local(self.now, *candidate).unwrap();
            }
            agent.set_remote(self.now, peer);
            for candidate in &lists[1 - n] {
                agent.add_remote(self.now, signalled(candidate)).unwrap();
            }
        }
    }

    fn take_outputs(&mut self) {
        for n in [0, 1] {
            while let Some(transmit) = self.nodes[n].agent.poll_transmit() {
                self.nodes[n].sent += 1;
                let node = &mut self.nodes[n];
                let source = match transmit.local == node.relayed {
                    true => node.relayed,
                    false => node.translate(transmit.remote),
                };
                self.serial += 1;
                let key = (self.now + ms(20), self.serial);
                self.wire.insert(key, (source, transmit.remote, transmit.bytes));
            }
            while let Some(event) = self.nodes[n].agent.poll_event() {
                self.nodes[n].events.push(event);
            }
        }
    }

    fn deliver(&mut self, source: SocketAddr, target: SocketAddr, bytes: &[u8]) {
        let through_relay = self
            .nodes
            .iter()
            .any(|node| node.relayed == source || node.relayed == target);
        if !through_relay && !self.direct_open {
            return;
        }
        for node in &mut self.nodes {
            if let Some(local) = node.admit(source, target) {
                node.agent.handle_stun(self.now, local, source, bytes);
            }
        }
    }

    /// Runs until `done` or until virtual time `limit` has passed; tells how long it took.
    fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + limit);
        loop {
            self.take_outputs();
            if done(self) {
                return Some(self.now - begin);
            }
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let timers = [0, 1].map(|n| self.nodes[n].agent.poll_timeout());
            let next = [arrival, timers[0], timers[1]].into_iter().flatten().min()?;
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (source, target, bytes) = entry.remove();
                self.deliver(source, target, &bytes);
            }
            for n in [0, 1] {
                if self.nodes[n].agent.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.nodes[n].agent.handle_timeout(self.now);
                }
            }
        }
    }

    fn both(&self, wanted: impl Fn(&Pair) -> bool) -> bool {
        self.nodes
            .iter()
            .all(|node| node.agent.best().is_some_and(|pair| wanted(&pair)))
    }

    fn pass(&mut self, time: Duration) {
        assert_eq!(self.run(time, |_| false), None);
    }
}

/// What is left of a candidate after its journey.
fn signalled(candidate: &Candidate) -> Candidate {
    let mut bytes = Vec::new();
    candidate.encode(&mut bytes);
    Candidate::parse(&bytes).unwrap().0
}

fn direct(pair: &Pair) -> bool {
    !pair.is_relayed()
}

#[test]
fn public_nodes_agree_on_one_pair_and_leave_relays_alone() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(true);
    let took = world.run(ms(2000), |w| w.both(direct)).unwrap();
    assert!(took <= ms(150), "{took:?}");
    let [a, b] = [0, 1].map(|n| world.nodes[n].agent.best().unwrap());
    assert_eq!((a.local, a.remote), (b.remote, b.local));
    assert_eq!(a.rtt, Some(ms(40)));
    world.pass(ms(3000));
    for node in &world.nodes {
        let relays_in_reserve = node
            .agent
            .pairs()
            .iter()
            .any(|p| p.is_relayed() && p.state == PairState::Reserve);
        assert!(relays_in_reserve);
        assert!(
            node.agent
                .pairs()
                .iter()
                .all(|p| !p.is_relayed() || p.state == PairState::Reserve)
        );
    }
}

#[test]
fn port_restricted_nats_are_punched() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted], [true, false]);
    world.exchange(false);
    let took = world.run(ms(2000), |w| w.both(direct)).unwrap();
    assert!(took <= ms(700), "{took:?}");
}

#[test]
fn a_symmetric_nat_reaches_a_public_node_directly() {
    let mut world = World::new([Nat::Symmetric, Nat::None], [false, true]);
    world.exchange(true);
    world.run(ms(2000), |w| w.both(direct)).unwrap();
    assert_eq!(
        world.nodes[1].agent.best().unwrap().remote_kind,
        CandidateKind::PeerReflexive
    );
}

#[test]
fn symmetric_nats_meet_at_a_relay_soon() {
    let mut world = World::new([Nat::Symmetric, Nat::Symmetric], [true, false]);
    world.exchange(true);
    let took = world.run(ms(3000), |w| w.both(Pair::is_relayed)).unwrap();
    assert!(took <= ms(900), "{took:?}");
    let mut world = World::new([Nat::Symmetric, Nat::PortRestricted], [true, false]);
    world.exchange(false);
    world.pass(ms(10_000));
    assert!(
        world.nodes.iter().all(|node| node.agent.best().is_none()),
        "the table says relay"
    );
}

#[test]
fn a_direct_path_that_opens_later_replaces_the_relay() {
    for opens_after in [ms(3000), ms(60_000)] {
        let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted], [true, false]);
        world.direct_open = false;
        world.exchange(true);
        world.run(ms(3000), |w| w.both(Pair::is_relayed)).unwrap();
        world.pass(opens_after);
        world.direct_open = true;
        let took = world.run(ms(130_000), |w| w.both(direct)).unwrap();
        assert!(took <= 2 * opens_after.max(ms(8000)), "{took:?} after {opens_after:?}");
    }
}

#[test]
fn a_probe_finds_a_path_that_just_opened() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted], [true, false]);
    world.direct_open = false;
    world.exchange(true);
    world.run(ms(3000), |w| w.both(Pair::is_relayed)).unwrap();
    world.pass(ms(40_000));
    world.direct_open = true;
    let now = world.now;
    world.nodes.iter_mut().for_each(|node| node.agent.probe(now));
    let took = world.run(ms(3000), |w| w.both(direct)).unwrap();
    assert!(took <= ms(1500), "{took:?}");
}

#[test]
fn both_controlling_or_both_controlled_end_with_one_of_each() {
    for role in [true, false] {
        let mut world = World::new([Nat::PortRestricted, Nat::None], [role, role]);
        world.exchange(false);
        world.run(ms(3000), |w| w.both(direct)).unwrap();
        assert_ne!(world.nodes[0].agent.controlling(), world.nodes[1].agent.controlling());
    }
}

#[test]
fn a_restart_keeps_the_old_pair_until_a_new_one_is_found() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted], [true, false]);
    world.exchange(false);
    world.run(ms(3000), |w| w.both(direct)).unwrap();
    let old = world.nodes[0].agent.best().unwrap();
    for n in [0, 1] {
        let fresh = Credentials::from_entropy([n as u8 + 9; 32]);
        let before = world.nodes[n].events.len();
        world.nodes[n].agent.restart(world.now, fresh, 5 + n as u64);
        assert_eq!(world.nodes[n].events.len(), before);
        assert_eq!(world.nodes[n].agent.best().map(|p| p.local), Some(world.nodes[n].host));
        world.nodes[n].events.clear();
    }
    assert_eq!(world.nodes[0].agent.best().unwrap().remote, old.remote);
    world.exchange(false);
    world
        .run(ms(3000), |w| w.nodes.iter().all(|node| !node.nominations().is_empty()))
        .unwrap();
}

#[test]
fn a_silent_pair_is_told_and_the_relay_takes_over() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted], [true, false]);
    world.exchange(true);
    world.run(ms(3000), |w| w.both(direct)).unwrap();
    world.pass(ms(20_000));
    world.direct_open = false;
    let took = world.run(ms(20_000), |w| w.both(Pair::is_relayed)).unwrap();
    assert!(took <= ms(10_000), "{took:?}");
    let told = |node: &Node| node.events.iter().any(|e| matches!(e, AgentEvent::Silent(_)));
    assert!(world.nodes.iter().any(told));
}

#[test]
fn checks_that_come_before_the_credentials_are_answered_after() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    let peer = world.nodes[1].agent.credentials().clone();
    let (own, far) = (world.nodes[0].host, world.nodes[1].host);
    let late = world.nodes[0].agent.credentials().clone();
    world.nodes[1]
        .agent
        .add_local(world.now, Candidate::host(far, 9))
        .unwrap();
    let first = &mut world.nodes[0].agent;
    first.add_local(world.now, Candidate::host(own, 9)).unwrap();
    first.set_remote(world.now, peer);
    first.add_remote(world.now, Candidate::host(far, 9)).unwrap();
    world.pass(ms(100));
    assert!(world.nodes[1].agent.pairs().is_empty());
    // The peer's candidates never come: its checks told its address.
    world.nodes[1].agent.set_remote(world.now, late);
    world.run(ms(300), |w| w.both(direct)).unwrap();
}

#[test]
fn an_idle_link_sends_one_datagram_in_twenty_seconds_and_keeps_its_nat_open() {
    let mut world = World::new([Nat::PortRestricted, Nat::None], [true, false]);
    world.exchange(true);
    world.run(ms(3000), |w| w.both(direct)).unwrap();
    world.nodes.iter_mut().for_each(|node| node.agent.set_pace(Pace::Idle));
    world.pass(ms(30_000));
    world.nodes.iter_mut().for_each(|node| node.sent = 0);
    world.pass(Duration::from_secs(600));
    for node in &world.nodes {
        assert!((24..=31).contains(&node.sent), "{}", node.sent);
    }
    assert!(world.both(direct));
}

#[test]
fn candidates_of_a_hostile_peer_draw_fifty_checks_a_second_at_most() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(false);
    let now = world.now;
    let agent = &mut world.nodes[0].agent;
    let mut refused = 0;
    for n in 0..200u16 {
        let victim = SocketAddr::new("192.0.2.1".parse().unwrap(), 1000 + n);
        refused += usize::from(agent.add_remote(now, Candidate::host(victim, n)).is_err());
    }
    assert_eq!(refused, 200 - (limits::ICE_REMOTE_CANDIDATES - 1));
    for second in 1..=20 {
        world.nodes[0].sent = 0;
        world.pass(ms(1000));
        let burst = if second == 1 {
            limits::ICE_CHECK_BURST as usize
        } else {
            0
        };
        let answers = 8;
        assert!(world.nodes[0].sent <= 50 + burst + answers, "{}", world.nodes[0].sent);
    }
}

#[test]
fn an_authenticated_peer_cannot_fill_the_tables_from_many_addresses() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(false);
    world
        .run(ms(100), |w| {
            w.wire.values().any(|(_, target, _)| *target == w.nodes[1].host)
        })
        .unwrap();
    world.wire.retain(|_, (_, target, _)| *target == world.nodes[1].host);
    let own = world.nodes[1].host;
    let (_, (_, _, check)) = world.wire.pop_first().unwrap();
    let accepted = (0..500u16)
        .filter(|n| {
            let source = SocketAddr::new("192.0.2.77".parse().unwrap(), 2000 + n);
            world.nodes[1].agent.handle_stun(world.now, own, source, &check)
        })
        .count();
    assert_eq!(accepted, limits::ICE_REMOTE_CANDIDATES);
    assert!(
        !world.nodes[1]
            .agent
            .handle_stun(world.now, own, at("127.0.0.1:9"), &check)
    );
}

fn state(agent: &Agent) -> String {
    let keys: Vec<_> = agent.pairs.keys().collect();
    format!(
        "{:?} {keys:?} {:?} {:?} {} {} {}",
        agent.inner,
        agent.discovered,
        agent.mapped,
        agent.attempts.len(),
        agent.early.len(),
        agent.outbox.len()
    )
}

#[test]
fn what_does_not_authenticate_changes_nothing() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(false);
    world.run(ms(100), |w| !w.wire.is_empty()).unwrap();
    let (_, (source, target, check)) = world.wire.pop_first().unwrap();
    let victim = usize::from(target == world.nodes[1].host);
    let agent = &mut world.nodes[victim].agent;
    let before = state(agent);
    for bit in 0..check.len() * 8 {
        let mut forged = check.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        // The bits of the fingerprint (last 4 bytes) are no proof of anything: `is` passes over them.
        if bit / 8 < check.len() - 8 {
            assert!(!agent.handle_stun(world.now, target, source, &forged), "bit {bit}");
        }
    }
    for cut in 0..check.len() {
        assert!(!agent.handle_stun(world.now, target, source, &check[..cut]));
    }
    assert_eq!(state(agent), before);
    assert!(agent.accepts(&check));
    assert!(agent.handle_stun(world.now, target, source, &check));
}

#[test]
fn an_answer_from_elsewhere_is_ignored() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(false);
    world.run(ms(39), |_| false);
    // Answers are on the wire; they come from the address after the right one.
    let answers: Vec<_> = std::mem::take(&mut world.wire).into_values().collect();
    let mut seen = 0;
    for (source, target, bytes) in answers {
        if stun_class(&bytes) != Some(StunClass::Success) {
            continue;
        }
        seen += 1;
        let receiver = usize::from(target == world.nodes[1].host);
        let elsewhere = SocketAddr::new(source.ip(), source.port() + 1);
        let agent = &mut world.nodes[receiver].agent;
        assert!(agent.accepts(&bytes));
        assert!(!agent.handle_stun(world.now, target, elsewhere, &bytes));
        assert!(agent.handle_stun(world.now, target, source, &bytes));
    }
    assert!(seen > 0);
}

#[test]
fn a_lost_local_address_takes_its_pairs_along() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(true);
    world.run(ms(3000), |w| w.both(direct)).unwrap();
    let host = Candidate::host(world.nodes[0].host, 65_534);
    world.nodes[0].agent.remove_local(world.now, &host);
    assert_eq!(world.nodes[0].agent.best(), None);
    let took = world
        .run(ms(3000), |w| w.nodes[0].agent.best().is_some_and(|p| p.is_relayed()))
        .unwrap();
    assert!(took <= ms(1000), "{took:?}");
}

#[test]
fn addresses_that_change_for_ever_ask_for_a_restart() {
    let now = Instant::now();
    let mut agent = Agent::new(
        Credentials::from_entropy([1; 32]),
        true,
        1,
        AddressPolicy::default(),
        now,
    );
    for n in 0..limits::ICE_LOCALS_EVER as u16 {
        let candidate = Candidate::host(SocketAddr::new("10.1.1.1".parse().unwrap(), n + 1), 1);
        agent.add_local(now, candidate).unwrap();
        agent.remove_local(now, &candidate);
    }
    let one_more = Candidate::host(at("10.1.1.2:1"), 1);
    assert_eq!(
        agent.add_local(now, one_more),
        Err(Refused::Exhausted(limits::ICE_LOCALS_EVER))
    );
    agent.restart(now, Credentials::from_entropy([2; 32]), 2);
    assert_eq!(agent.add_local(now, one_more), Ok(()));
}

#[test]
fn passwords_are_not_printed_and_short_ones_not_taken() {
    let credentials = Credentials::from_entropy([3; 32]);
    assert!(!format!("{credentials:?}").contains(credentials.password()));
    assert!(Credentials::from_peer(credentials.ufrag(), credentials.password()).is_some());
    assert!(Credentials::from_peer("short", credentials.password()).is_none());
    assert!(Credentials::from_peer(credentials.ufrag(), "short").is_none());
    assert!(Credentials::from_peer("with:colon", credentials.password()).is_none());
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    /// A Binding message whose attributes have any type and any length, also one that runs over the end.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            0x0001u16, 0x0006, 0x0008, 0x0009, 0x000c, 0x000d, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016, 0x0020, 0x0022,
            0x0024, 0x0025, 0x8028, 0x8029, 0x802a, 0xc057, 0x7fff,
        ]);
        let lie = prop_oneof![9 => Just(None), 1 => any::<u16>().prop_map(Some), 1 => (65_530u16..).prop_map(Some)];
        let attribute = (known, prop::collection::vec(any::<u8>(), 0..40), lie);
        let kind = prop::sample::select(vec![0x0001u16, 0x0011, 0x0101, 0x0111, 0x0003, 0x0103, 0x3fff]);
        (kind, prop::collection::vec(attribute, 0..6)).prop_map(|(kind, attributes)| {
            let mut body = Vec::new();
            for (name, value, lie) in attributes {
                body.extend_from_slice(&name.to_be_bytes());
                body.extend_from_slice(&lie.unwrap_or(value.len() as u16).to_be_bytes());
                body.extend_from_slice(&value);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            bytes.extend_from_slice(&[5; 12]);
            bytes.extend_from_slice(&body);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn any_stun_message_is_refused_without_panic(bytes in message()) {
            let now = Instant::now();
            let mut agent = Agent::new(Credentials::from_entropy([1; 32]), true, 1, AddressPolicy::default(), now);
            agent.add_local(now, Candidate::host(at("10.0.0.1:1"), 1)).unwrap();
            agent.set_remote(now, Credentials::from_entropy([2; 32]));
            prop_assert!(!agent.handle_stun(now, at("10.0.0.1:1"), at("10.0.0.2:1"), &bytes));
            let _ = BindingAnswer::parse(&bytes);
        }
    }
}

#[test]
fn ipv6_is_taken_before_ipv4_where_both_work() {
    let mut world = World::new([Nat::None, Nat::None], [true, false]);
    world.exchange(false);
    let v6 = [at("[2001:db8::1]:5000"), at("[2001:db8::2]:5000")];
    // The model delivers by one host address: IPv6 is it now.
    for n in [0, 1] {
        world.nodes[n].host = v6[n];
        world.nodes[n]
            .agent
            .add_local(world.now, Candidate::host(v6[n], 65_535))
            .unwrap();
        world.nodes[n]
            .agent
            .add_remote(world.now, Candidate::host(v6[1 - n], 65_535))
            .unwrap();
    }
    world
        .run(ms(1000), |w| w.both(|pair| pair.local.is_ipv6() && direct(pair)))
        .unwrap();
}

#[test]
fn a_lost_keepalive_is_repeated_within_seconds() {
    let mut world = World::new([Nat::PortRestricted, Nat::None], [true, false]);
    world.exchange(false);
    world.run(ms(3000), |w| w.both(direct)).unwrap();
    world.nodes.iter_mut().for_each(|node| node.agent.set_pace(Pace::Idle));
    world.pass(ms(60_000));
    world.nodes[0].sent = 0;
    world.direct_open = false;
    world.run(ms(30_000), |w| w.nodes[0].sent == 1).unwrap();
    world.pass(ms(100));
    world.direct_open = true;
    let heard = |w: &World| w.nodes[0].agent.best().and_then(|pair| pair.last_heard);
    let before = heard(&world);
    let took = world.run(ms(5000), |w| heard(w) != before).unwrap();
    assert!(took <= ms(2000), "{took:?}");
    assert!(
        !world.nodes[0]
            .events
            .iter()
            .any(|event| matches!(event, AgentEvent::Silent(_)))
    );
}

/// Writes down everything that is logged.
#[derive(Clone, Default)]
struct Listener(Arc<std::sync::Mutex<String>>);

impl tracing::field::Visit for Listener {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        *self.0.lock().unwrap() += &format!("{field}={value:?}\n");
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn no_password_reaches_the_log_at_any_level() {
    let listener = Listener::default();
    let passwords = tracing::subscriber::with_default(listener.clone(), || {
        let mut world = World::new([Nat::PortRestricted, Nat::None], [true, false]);
        world.exchange(true);
        world.run(ms(3000), |w| w.both(direct)).unwrap();
        let now = world.now;
        let old = world.nodes[0].agent.credentials().clone();
        world.nodes[0].agent.restart(now, Credentials::from_entropy([8; 32]), 1);
        world.nodes[1].agent.restart(now, Credentials::from_entropy([9; 32]), 1);
        world.exchange(false);
        world.pass(ms(2000));
        [
            old,
            world.nodes[0].agent.credentials().clone(),
            world.nodes[1].agent.credentials().clone(),
        ]
    });
    let log = listener.0.lock().unwrap();
    assert!(log.contains("Pair") || log.contains("pair"), "something is logged");
    for credentials in passwords {
        assert!(!log.contains(credentials.password()));
    }
}
