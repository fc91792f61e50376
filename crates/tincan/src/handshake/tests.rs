//! Two ends and a wire in memory.

mod hostile;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::Rng;

use super::*;
use crate::keys::{DeviceSecret, NodeKey};
use crate::record::{HEADER, Lane, OVERHEAD, ReceiverIndex};
use crate::session::Session;

const NETWORK: NetworkId = NetworkId([9; 32]);
const SECRET: [u8; 32] = [5; 32];
const DELAY: Duration = Duration::from_millis(20);

fn node_key(device: u8) -> NodeKey {
    NodeKey::derive(&DeviceSecret::from_bytes([device; 32]), NETWORK)
}

/// Two keys, the lower id first: the client's and the server's.
fn two_keys() -> (NodeKey, NodeKey) {
    let (a, b) = (node_key(1), node_key(2));
    if a.id() < b.id() { (a, b) } else { (b, a) }
}

fn index(number: u32) -> ReceiverIndex {
    ReceiverIndex::new(number).expect("24 bits")
}

fn config(key: &NodeKey, peer: NodeId, seed: u8) -> HandshakeConfig<'_> {
    HandshakeConfig {
        key,
        peer,
        network: NETWORK,
        session: SessionId(77),
        link_secret: &SECRET,
        own_index: index(u32::from(seed)),
        ciphers: Cipher::preferred(true),
        capabilities: 0,
        initial_rtt: Duration::from_millis(50),
        seed: [seed; 32],
    }
}

/// What one end has reported, in order of course.
#[derive(Default)]
struct Seen {
    session: Option<Session>,
    hello: Option<PeerHello>,
    ready: bool,
    messages: Vec<Vec<u8>>,
    failed: Option<SessionError>,
    closed: bool,
}

struct End {
    handshake: Handshake,
    seen: Seen,
}

impl End {
    fn new(config: &HandshakeConfig<'_>, now: Instant) -> Self {
        Self {
            handshake: Handshake::new(config, now).expect("a handshake begins"),
            seen: Seen::default(),
        }
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.handshake.poll_event() {
            let over = self.seen.failed.is_some() || self.seen.closed;
            assert!(!over, "nothing comes after the end");
            match event {
                HandshakeEvent::Keys(keys, hello) => {
                    assert!(self.seen.session.is_none());
                    let own = self.handshake.own_hello.receiver_index;
                    self.seen.session = Some(Session::new(keys, hello.receiver_index, own, now));
                    self.seen.hello = Some(hello);
                }
                HandshakeEvent::Ready => {
                    assert!(self.seen.session.is_some() && !self.seen.ready);
                    self.seen.ready = true;
                }
                HandshakeEvent::Message(message) => self.seen.messages.push(message),
                HandshakeEvent::Failed(error) => self.seen.failed = Some(error),
                HandshakeEvent::Closed => self.seen.closed = true,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.seen.failed.is_some() || self.seen.closed
    }
}

/// Per cent of datagrams that are lost, come twice, come late by up to 100 ms, have a bit flipped.
#[derive(Clone, Copy, Default, Debug)]
struct Weather {
    lost: u32,
    twice: u32,
    late: u32,
    damaged: u32,
}

/// Both ends, the wire between them and its clock.
struct World {
    now: Instant,
    ends: [End; 2],
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    weather: Weather,
    chance: ChaCha12Rng,
    /// All that was ever sent, with its receiver.
    tape: Vec<(usize, Vec<u8>)>,
}

impl World {
    fn new(client: &HandshakeConfig<'_>, server: &HandshakeConfig<'_>) -> Self {
        let now = Instant::now();
        Self {
            now,
            ends: [End::new(client, now), End::new(server, now)],
            wire: BTreeMap::new(),
            sent: 0,
            weather: Weather::default(),
            chance: ChaCha12Rng::from_seed([3; 32]),
            tape: Vec::new(),
        }
    }

    fn fair() -> Self {
        let (low, high) = two_keys();
        Self::new(&config(&low, high.id(), 1), &config(&high, low.id(), 2))
    }

    fn stormy(seed: u64, weather: Weather) -> Self {
        let mut world = Self::fair();
        world.chance = ChaCha12Rng::seed_from_u64(seed);
        world.weather = weather;
        world
    }

    fn collect(&mut self) {
        for from in 0..2 {
            let mut datagram = Vec::new();
            while self.ends[from].handshake.poll_transmit(self.now, &mut datagram) {
                assert!(datagram.len() <= 1200 + GATE_TAG);
                let first = datagram[0];
                assert!((0x40..0x80).contains(&first) || first >= 0xC0);
                self.tape.push((1 - from, datagram.clone()));
                self.post(1 - from, datagram.clone());
            }
            let now = self.now;
            self.ends[from].take_events(now);
        }
    }

    fn post(&mut self, to: usize, datagram: Vec<u8>) {
        let copies = 1 + u32::from(self.happens(self.weather.twice));
        for _ in 0..copies {
            if self.happens(self.weather.lost) {
                continue;
            }
            let mut datagram = datagram.clone();
            if self.happens(self.weather.damaged) {
                let at = self.chance.random_range(0..datagram.len());
                datagram[at] ^= 1 << self.chance.random_range(0..8);
            }
            let mut delay = DELAY;
            if self.happens(self.weather.late) {
                delay += Duration::from_millis(self.chance.random_range(0..100));
            }
            self.sent += 1;
            self.wire.insert((self.now + delay, self.sent), (to, datagram));
        }
    }

    fn happens(&mut self, per_cent: u32) -> bool {
        per_cent > 0 && self.chance.random_range(0..100) < per_cent
    }

    /// One step of the clock; false when nothing is left to happen.
    fn step(&mut self) -> bool {
        self.collect();
        let timers = self.ends.iter().map(|end| end.handshake.poll_timeout());
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let Some(next) = timers.chain([arrival]).flatten().min() else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= now
        {
            let (to, datagram) = entry.remove();
            self.ends[to].handshake.handle_datagram(now, &datagram);
        }
        for end in &mut self.ends {
            if end.handshake.poll_timeout().is_some_and(|at| at <= now) {
                end.handshake.handle_timeout(now);
            }
        }
        self.collect();
        true
    }

    fn run_until(&mut self, done: impl Fn(&World) -> bool) {
        for _ in 0..100_000 {
            if done(self) || !self.step() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn run_to_ready(&mut self) {
        self.run_until(|w| w.ends.iter().all(|e| e.seen.ready || e.is_over()));
        for end in &self.ends {
            assert_eq!(end.seen.failed, None);
            assert!(end.seen.ready);
        }
    }
}

/// Seals `payload` with a new lane of `from` and opens it at `to`.
fn passes(from: &Session, to: &Session, lane: u8, payload: &[u8]) -> bool {
    let mut lane = Lane::new(lane).expect("a lane");
    let mut record = vec![0; payload.len() + OVERHEAD];
    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    from.sealer().seal(&mut lane, &mut record).expect("sealed");
    to.opener()
        .open(&mut record)
        .is_ok_and(|opened| opened.payload == payload)
}

fn sessions(world: &World) -> (&Session, &Session) {
    let session = |end: usize| world.ends[end].seen.session.as_ref().expect("keys");
    (session(0), session(1))
}

#[test]
fn both_ends_come_to_the_same_keys() {
    let mut world = World::fair();
    let begin = world.now;
    world.run_to_ready();
    assert!(world.now - begin <= 4 * DELAY, "two round trips");
    let (client, server) = sessions(&world);
    assert!(passes(client, server, 1, b"one way"));
    assert!(passes(server, client, 1, b"the other way"));
    assert_eq!(client.cipher(), Cipher::Aes256Gcm);
    assert_eq!((client.peer_index(), server.peer_index()), (index(2), index(1)));
    let hello = world.ends[0].seen.hello.expect("a hello");
    assert_eq!((hello.version, hello.capabilities), (WIRE_VERSION, 0));
}

#[test]
fn nobody_may_send_before_the_peer_has_keys() {
    let weather = Weather {
        lost: 20,
        twice: 10,
        late: 30,
        damaged: 0,
    };
    for seed in 0..40 {
        let mut world = World::stormy(seed, weather);
        world.run_until(|world| {
            let has_keys = |end: usize| world.ends[end].seen.session.is_some();
            for end in 0..2 {
                assert!(!world.ends[end].seen.ready || has_keys(1 - end), "seed {seed}");
            }
            world.ends.iter().all(|e| e.seen.ready || e.is_over())
        });
    }
}

#[test]
fn weather_delays_but_does_not_prevent() {
    let weather = Weather {
        lost: 10,
        twice: 30,
        late: 30,
        damaged: 10,
    };
    for seed in 0..30 {
        let mut world = World::stormy(seed, weather);
        world.run_to_ready();
        let (client, server) = sessions(&world);
        assert!(passes(client, server, 3, b"x") && passes(server, client, 3, b"y"));
    }
}

#[test]
fn messages_arrive_whole_and_in_order() {
    let weather = Weather {
        lost: 5,
        twice: 10,
        late: 20,
        damaged: 5,
    };
    let mut world = World::stormy(4, weather);
    let message = |end: usize, number: usize| vec![(end * 16 + number) as u8; 60_000 - number];
    for end in 0..2 {
        // Some before there is a session, some after.
        for number in 0..2 {
            let taken = world.ends[end].handshake.send_message(&message(end, number));
            assert_eq!(taken, Ok(()));
        }
    }
    world.run_to_ready();
    for end in 0..2 {
        let taken = world.ends[end].handshake.send_message(&message(end, 2));
        assert_eq!(taken, Ok(()));
    }
    world.run_until(|w| w.ends.iter().all(|e| e.seen.messages.len() == 3));
    for end in 0..2 {
        for number in 0..3 {
            assert!(world.ends[1 - end].seen.messages[number] == message(end, number));
        }
    }
}

#[test]
fn messages_are_bounded() {
    let mut world = World::fair();
    let client = &mut world.ends[0].handshake;
    let long = vec![0; limits::MESSAGE_BYTES + 1];
    let refused = client.send_message(&long);
    assert_eq!(refused, Err(MessageError::TooLong(limits::MESSAGE_BYTES + 1)));
    let longest = &long[1..];
    while client.send_message(longest).is_ok() {}
    assert_eq!(client.send_message(longest), Err(MessageError::Backlog));
    assert!(client.outgoing.messages.len() <= limits::MESSAGE_BACKLOG + 5);
}

#[test]
fn a_caller_that_does_not_poll_stops_the_sender() {
    let mut world = World::fair();
    world.run_to_ready();
    let message = vec![1; 60_000];
    // The server's events are taken by hand only; the client sends whenever it may.
    let now = world.now;
    let mut accepted = 0;
    for _ in 0..2000 {
        while world.ends[0].handshake.send_message(&message).is_ok() {
            accepted += 1;
        }
        let (client, server) = world.ends.split_at_mut(1);
        let (client, server) = (&mut client[0].handshake, &mut server[0].handshake);
        let mut datagram = Vec::new();
        while client.poll_transmit(now, &mut datagram) {
            server.handle_datagram(now, &datagram);
        }
        while server.poll_transmit(now, &mut datagram) {
            client.handle_datagram(now, &datagram);
        }
    }
    let inbox = world.ends[1].handshake.incoming.waiting;
    assert!(inbox <= limits::MESSAGE_INBOX + 2 * limits::MESSAGE_BYTES, "{inbox}");
    assert!(accepted < 20, "{accepted}");
    // Polling lets the rest through.
    world.run_until(|w| w.ends[1].seen.messages.len() == accepted);
    assert_eq!(world.ends[1].seen.messages.len(), accepted);
}

#[test]
fn a_silent_peer_ends_in_a_timeout() {
    let weather = Weather {
        lost: 100,
        ..Weather::default()
    };
    let mut world = World::stormy(1, weather);
    let begin = world.now;
    world.run_until(|w| w.ends.iter().all(End::is_over));
    assert_eq!(world.ends[0].seen.failed, Some(SessionError::Timeout));
    assert_eq!(world.now - begin, HANDSHAKE_TIME);
    world.run_until(|w| w.ends.iter().all(|e| e.handshake.is_spent()));
    assert!(world.ends.iter().all(|e| e.handshake.is_spent()));
}

#[test]
fn a_session_at_rest_is_silent() {
    let mut world = World::fair();
    world.run_to_ready();
    let begin = world.now;
    world.run_until(|_| false);
    assert!(world.now - begin < Duration::from_secs(1), "no timer is left");
    assert!(world.ends.iter().all(|e| e.handshake.poll_timeout().is_none()));
}

/// A peer that holds the secret passes the gate with whatever it likes, at any moment.
/// The 30-minute case: a second handshake runs over the live link, told apart by connection ids.
#[test]
fn a_fresh_handshake_lives_beside_the_old_one() {
    let (low, high) = two_keys();
    let mut world = World::fair();
    world.run_to_ready();
    let fresh_session = next_session(SessionId(77));
    assert_ne!(fresh_session, SessionId(77));
    let fresh = |key, peer, seed| {
        let mut config = config(key, peer, seed);
        config.session = fresh_session;
        config
    };
    let (client, server) = (fresh(&low, high.id(), 3), fresh(&high, low.id(), 4));
    let mut new = World::new(&client, &server);
    new.run_to_ready();

    for (to, datagram) in &new.tape {
        assert!(!world.ends[*to].handshake.owns(datagram));
        assert!(new.ends[*to].handshake.owns(datagram));
    }
    for (to, datagram) in &world.tape {
        assert!(world.ends[*to].handshake.owns(datagram));
        assert!(!new.ends[*to].handshake.owns(datagram));
    }
    assert!(is_first_flight(&server, &new.tape[0].1));
    assert!(!is_first_flight(&server, &world.tape[0].1));
    let mut forged = new.tape[0].1.clone();
    forged[600] ^= 1;
    assert!(!is_first_flight(&server, &forged));

    let ((old_a, old_b), (new_a, new_b)) = (sessions(&world), sessions(&new));
    assert!(passes(old_a, old_b, 1, b"old") && passes(new_a, new_b, 1, b"new"));
    assert!(!passes(old_a, new_b, 2, b"mixed") && !passes(new_a, old_b, 2, b"mixed"));
}

#[test]
fn an_opened_record_makes_the_client_ready() {
    let mut world = World::fair();
    world.run_until(|w| w.ends[1].seen.ready);
    let (client, server) = sessions(&world);
    assert!(!world.ends[0].seen.ready);
    assert!(passes(server, client, 0, b"probe"));
    let now = world.now;
    let end = &mut world.ends[0];
    end.handshake.on_record_opened();
    end.take_events(now);
    assert!(end.seen.ready);
    world.run_to_ready();
}

#[test]
fn aes_needs_both_to_like_it() {
    use Cipher::{Aes256Gcm as A, ChaCha20Poly1305 as C};
    let rows: &[(&[Cipher], &[Cipher], Option<Cipher>)] = &[
        (&[A, C], &[A, C], Some(A)),
        (&[A, C], &[C, A], Some(C)),
        (&[C, A], &[A, C], Some(C)),
        (&[C, A], &[C, A], Some(C)),
        (&[A], &[C, A], Some(A)),
        (&[A], &[C], None),
        (&[A, C], &[], None),
    ];
    for (own, peer, expected) in rows {
        assert_eq!(settle(own, peer), *expected);
        assert_eq!(settle(peer, own), *expected);
    }
}

#[test]
fn a_peer_without_common_cipher_is_named_incompatible() {
    let mut world = World::fair();
    world.ends[0].handshake.own_hello.ciphers.clear();
    world.run_until(|w| w.ends.iter().all(End::is_over));
    let error = world.ends[0].seen.failed.as_ref().expect("failed");
    assert!(matches!(error, SessionError::PeerIncompatible(_)), "{error}");
    assert_eq!(world.ends[1].seen.failed, Some(SessionError::BrokenOff));
    assert!(world.ends[0].seen.session.is_none());
    assert!(world.ends[1].seen.session.is_none());
}

#[test]
fn a_node_has_no_link_to_itself() {
    let key = node_key(1);
    let own = Handshake::new(&config(&key, key.id(), 1), Instant::now());
    assert_eq!(own.err(), Some(SessionError::SameNode));
}

#[test]
fn unknown_high_kinds_are_left_out() {
    let mut deframer = Deframer::default();
    deframer.push(&[200, 0, 0, 0, 2, 7, 7, 3, 0, 0, 0, 1, 42]);
    assert_eq!(deframer.next_message(), Ok(Some((Kind::Message, vec![42]))));
    assert_eq!(deframer.next_message(), Ok(None));
}

proptest! {
    #[test]
    fn hello_reads_back(version in 1u8.., index in 0u32..1 << 24, capabilities: u32, aes: bool, more in proptest::collection::vec(any::<u8>(), 0..8)) {
        let hello = Hello {
            version,
            receiver_index: ReceiverIndex::new(index).expect("24 bits"),
            capabilities,
            ciphers: Cipher::preferred(aes).to_vec(),
        };
        let mut bytes = hello.encode();
        bytes.extend(more);
        prop_assert_eq!(Hello::parse(&bytes), Ok(hello));
    }

    #[test]
    fn outside_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Hello::parse(&bytes);
        let _ = destination_id(&bytes);
        let mut deframer = Deframer::default();
        deframer.push(&bytes);
        while let Ok(Some(_)) = deframer.next_message() {}
    }

    #[test]
    fn messages_read_back_however_they_are_cut(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        cut in 1usize..400,
    ) {
        let stream: Vec<u8> = bodies.iter().flat_map(|b| frame(Kind::Message, b)).collect();
        let mut deframer = Deframer::default();
        let mut found = Vec::new();
        for chunk in stream.chunks(cut) {
            deframer.push(chunk);
            while let Some((_, body)) = deframer.next_message().expect("well formed") {
                found.push(body);
            }
        }
        prop_assert_eq!(found, bodies);
    }
}
