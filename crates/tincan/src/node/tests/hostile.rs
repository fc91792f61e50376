//! A rendezvous that meddles with signals, and a peer that breaks the rules inside a valid link.

use std::time::Duration;

use api::link::{Delivered, LinkCall, LinkPhase, PeerMessage};
use api::{Blob, NetworkId, SessionId};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::world::{NETWORK, World, at, inner, inner_frame};
use super::{count, is_down, is_up, ms};
use crate::forward::DropReason;
use crate::frame::tests::frame;
use crate::ice::{Candidate, Credentials};
use crate::keys::seal_to;
use crate::limits;
use crate::signal::{Answer, Body, Candidates, LinkSecret, Offer, Restart, Signal, Stamp};

/// Everything that a host's user would notice.
fn picture(world: &mut World, host: usize) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut peer = world.peer(host, 1 - host);
    (peer.up_ms, peer.last_received_ms) = (None, None);
    let links = world.hosts[host].node.links.len();
    (
        peer,
        links,
        world.hosts[host].events.clone(),
        world.hosts[host].frames.clone(),
    )
}

fn both(world: &mut World) -> impl PartialEq + std::fmt::Debug + use<> {
    (picture(world, 0), picture(world, 1))
}

/// The signals that crossed, in their order, with the host that each was for.
fn crossed(world: &mut World) -> Vec<(usize, Vec<u8>)> {
    let signals = world.signals.clone().into_iter();
    let host = |world: &World, id| world.hosts.iter().position(|host| host.id == id).unwrap();
    signals.map(|(to, blob)| (host(world, to), blob)).collect()
}

fn delivered(world: &mut World, host: usize, blob: &[u8]) -> Option<Delivered> {
    let answer = world.deliver(host, blob.to_vec()).ok()?;
    Some(serde_json::from_value(answer).unwrap())
}

/// A signal that host `from` never meant to send, though it has the key and the next number.
fn sealed(world: &mut World, from: usize, to: usize, body: Body) -> Vec<u8> {
    let to = world.hosts[to].id;
    let net = world.hosts[from].node.networks.get_mut(&NETWORK).unwrap();
    let stamp = net.next_stamp();
    seal_to(&net.key, to, &Signal { stamp, body }.encode()).unwrap()
}

fn credentials(n: u8) -> Credentials {
    Credentials::from_entropy([n; 32])
}

fn offer(n: u64) -> Body {
    Body::Offer(Offer {
        session: SessionId(n),
        versions: vec![1],
        secret: LinkSecret::from_bytes([n as u8; 32]),
        credentials: credentials(n as u8),
        candidates: vec![Candidate::host(at("192.0.2.200:1"), 1)],
        members: Vec::new(),
    })
}

#[test]
fn a_changed_signal_is_refused_and_changes_nothing() {
    let mut world = World::new(2, false);
    world.hold_signals = true;
    world.open(0, 1);
    let before = both(&mut world);
    let (_, honest) = crossed(&mut world).remove(0);
    for bit in 0..honest.len() * 8 {
        let mut changed = honest.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(delivered(&mut world, 1, &changed), None, "bit {bit}");
    }
    for length in 0..honest.len() {
        assert_eq!(delivered(&mut world, 1, &honest[..length]), None, "{length} bytes");
    }
    let longer = [&honest[..], &[0]].concat();
    assert_eq!(delivered(&mut world, 1, &longer), None);
    assert_eq!(delivered(&mut world, 1, &vec![1; limits::SIGNAL_BLOB + 1]), None);
    assert_eq!(both(&mut world), before);
    world.hold_signals = false;
    world.run(ms(3000));
    assert!(
        world.is_up(0, 1) && world.is_up(1, 0),
        "the honest offer, sent again, is as good as ever"
    );
}

#[test]
fn a_signal_given_to_another_node_or_network_is_refused() {
    let mut world = World::new(3, false);
    world.hold_signals = true;
    world.open(0, 1);
    let (_, blob) = crossed(&mut world).remove(0);
    assert_eq!(delivered(&mut world, 2, &blob), None);
    assert_eq!(delivered(&mut world, 0, &blob), None, "back to its sender");
    let mut config = world.state(1).networks.remove(0).config;
    config.network = NetworkId([43; 32]);
    config.addresses = vec![api::Cidr::new("10.9.0.1".parse().unwrap(), 16).unwrap()];
    world.ask(1, LinkCall::CreateNetwork(config)).unwrap();
    let delivery = api::link::Delivery {
        network: NetworkId([43; 32]),
        blob: Blob(blob),
    };
    assert!(world.ask(1, LinkCall::Deliver(delivery)).is_err());
    for host in 0..3 {
        assert_eq!(world.hosts[host].node.links.len(), usize::from(host == 0));
    }
}

#[test]
fn replayed_signals_are_nothing_to_a_live_link() {
    let mut world = World::new(2, true);
    world.open(0, 1);
    world.open(1, 0);
    world.run(ms(4000));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
    let tape = crossed(&mut world);
    assert!(tape.len() >= 2);
    let before = both(&mut world);
    let sent_before = world.signals.len();
    for round in 0..3 {
        for (host, blob) in tape.iter().rev().chain(&tape) {
            assert!(matches!(
                delivered(&mut world, *host, blob),
                Some(Delivered::Link { .. })
            ));
        }
        world.run(ms(200 * round));
    }
    assert_eq!(both(&mut world), before);
    assert_eq!(world.signals.len(), sent_before, "no replay is answered");
    let drops = [0, 1].map(|host| world.state(host).drops);
    assert!(
        drops.iter().any(|drops| drops.contains_key("signal_stale")),
        "{drops:?}"
    );
}

#[test]
fn replayed_signals_of_a_life_before_do_not_keep_a_restarted_peer_away() {
    let mut world = World::linked();
    let tape = crossed(&mut world);
    world.restart(1);
    world.open(1, 0);
    for _ in 0..3 {
        world.run(ms(300));
        for (host, blob) in &tape {
            delivered(&mut world, *host, blob);
        }
    }
    world.run(ms(3000));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
    world.send(0, 1, b"x");
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"x")]);
}

#[test]
fn a_rendezvous_that_does_what_it_likes_gets_links_or_none() {
    for seed in 0..40 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut world = World::new(3, false);
        world.hold_signals = true;
        world.open(0, 1);
        for _ in 0..60 {
            world.run(ms(rng.random_range(0..120)));
            let tape = world.signals.clone();
            for _ in 0..rng.random_range(0..4) {
                let (to, mut blob) = tape[rng.random_range(0..tape.len())].clone();
                let meant = world.hosts.iter().position(|host| host.id == to).unwrap();
                let host = if rng.random_bool(0.2) {
                    rng.random_range(0..3)
                } else {
                    meant
                };
                if rng.random_bool(0.3) {
                    let at = rng.random_range(0..blob.len());
                    blob[at] ^= 1 << rng.random_range(0..8);
                }
                delivered(&mut world, host, &blob);
            }
        }
        // Whatever came about is between the two who meant it, and an honest rendezvous mends it.
        assert!(world.hosts[2].node.links.is_empty());
        world.hold_signals = false;
        world.run(Duration::from_secs(35));
        world.open(0, 1);
        world.open(1, 0);
        world.run(ms(3000));
        assert!(world.is_up(0, 1) && world.is_up(1, 0), "seed {seed}");
        world.hosts[1].frames.clear();
        world.send(0, 1, b"x");
        world.run(ms(50));
        assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"x")], "seed {seed}");
    }
}

#[test]
fn every_kind_of_signal_from_a_hostile_peer_leaves_the_live_link_up() {
    let mut world = World::linked();
    let session = world.meddle(1, |link, _| link.config.session);
    let far: Vec<_> = (0..40u16)
        .map(|n| Candidate::host(at(&format!("198.51.100.7:{}", 1000 + n)), n))
        .collect();
    let inside = vec![
        Candidate::host(at("10.5.0.1:1000"), 9),
        Candidate::host(at("127.0.0.1:1"), 9),
    ];
    for candidates in [Vec::new(), far, inside] {
        for session in [session, SessionId(1)] {
            let bodies = [
                Body::Answer(Answer {
                    session,
                    version: 1,
                    credentials: credentials(9),
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
                Body::Answer(Answer {
                    session,
                    version: 77,
                    credentials: credentials(9),
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
                Body::Candidates(Candidates {
                    session,
                    generation: 0,
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
                Body::Candidates(Candidates {
                    session,
                    generation: u32::MAX,
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
                Body::Restart(Restart {
                    session,
                    generation: 0,
                    is_answer: false,
                    credentials: credentials(9),
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
                Body::Restart(Restart {
                    session,
                    generation: 7,
                    is_answer: true,
                    credentials: credentials(9),
                    candidates: candidates.clone(),
                    members: Vec::new(),
                }),
            ];
            for body in bodies {
                let blob = sealed(&mut world, 1, 0, body);
                delivered(&mut world, 0, &blob);
                world.run(ms(700));
                world.send(0, 1, b"x");
                world.run(ms(50));
                assert_eq!(world.hosts[1].frames.pop(), Some(inner_frame(0, 1, b"x")));
            }
        }
    }
    assert_eq!(count(&world.hosts[0].events, is_down), 0);
    assert!(world.is_up(0, 1));
}

#[test]
fn a_restart_of_the_last_generation_breaks_nothing_but_its_own_link() {
    let mut world = World::linked();
    let session = world.meddle(1, |link, _| link.config.session);
    let restart = Body::Restart(Restart {
        session,
        generation: u32::MAX,
        is_answer: false,
        credentials: credentials(9),
        candidates: Vec::new(),
        members: Vec::new(),
    });
    let blob = sealed(&mut world, 1, 0, restart);
    delivered(&mut world, 0, &blob);
    let (a, b) = (world.hosts[0].addresses[0], world.hosts[1].addresses[0]);
    world.cut_both(a, b);
    for _ in 0..100 {
        world.send(0, 1, b"x");
        world.run(ms(100));
    }
    world.cut.clear();
    world.run(Duration::from_secs(40));
    world.open(0, 1);
    world.run(ms(3000));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
}

#[test]
fn a_flood_of_signals_costs_a_bounded_number_of_links_and_answers() {
    let mut world = World::new(2, false);
    let start = world.signals.len();
    for n in 0..2000u64 {
        let blob = sealed(&mut world, 1, 0, offer(n));
        delivered(&mut world, 0, &blob);
        world.run(ms(1));
    }
    assert!(world.hosts[0].node.links.len() <= 1);
    let allowed = limits::SIGNALS_BURST as usize + 2 * limits::SIGNALS_PER_SECOND as usize + 10;
    let answers = world.signals.len() - start;
    assert!(answers <= 3 * allowed, "{answers} signals went out");
    assert!(world.state(0).drops["signal_rate"] > 1800);
    assert!(world.hosts[0].node.indices.0.len() <= 3 && world.hosts[0].node.ufrags.len() == 1);
    // The flood is over: the peer's honest self is linked.
    world.run(Duration::from_secs(40));
    world.open(1, 0);
    world.run(ms(3000));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
}

#[test]
fn nonsense_in_control_records_is_counted_and_answered_by_nothing() {
    let mut world = World::linked();
    world.keep_sent = true;
    let (mut bad, mut answers) = (0, 0);
    for kind in 0..=255u8 {
        for length in [0usize, 1, 7, 9, 64, 1300] {
            world.sent.clear();
            let payload = [&[kind][..], &vec![0xA5; length]].concat();
            world.meddle(0, |link, cx| link.send_raw_record(cx, &payload));
            world.run(ms(20));
            bad += 1;
            answers += world
                .sent
                .iter()
                .filter(|(_, to, _)| *to == world.hosts[0].addresses[0])
                .count() as u64;
        }
    }
    world.meddle(0, |link, cx| link.send_raw_record(cx, &[]));
    world.run(ms(20));
    let peer = world.peer(1, 0);
    // What else goes that way in half a minute are a few probes and checks.
    assert!(answers < bad / 10, "{answers} answers to {bad} records");
    // Kind 0 is a frame, kind 3 says nothing but "moved", kind 5 wants a token and any length.
    // Kinds 16 to 47 are datagrams in transit: without a datagram, for strangers, or passed on too often.
    let transit = [
        ("transit_form", 2 * 16 * 4),
        ("transit_link", 2 * 31),
        ("transit_hops", 2),
    ];
    for (reason, count) in transit {
        assert_eq!(peer.drops[reason], count, "{reason}");
    }
    assert_eq!(peer.drops["bad_control"], bad - 12 - 3 + 1 - 32 * 6, "{:?}", peer.drops);
    assert_eq!(peer.drops["malformed"], 6);
    assert_eq!((peer.phase, world.hosts[1].frames.len()), (LinkPhase::Up, 0));
    assert_eq!(count(&world.hosts[1].events, is_down), 0);
}

#[test]
fn frames_of_a_foreign_source_or_destination_are_dropped_on_every_lane() {
    let mut world = World::linked();
    let foreign = [
        (inner(3)[0].to_string(), inner(2)[0].to_string(), DropReason::Source),
        (inner(2)[0].to_string(), inner(2)[0].to_string(), DropReason::Source),
        (inner(3)[1].to_string(), inner(2)[1].to_string(), DropReason::Source),
        ("::ffff:10.5.0.1".into(), inner(2)[1].to_string(), DropReason::Source),
        ("fe80::1".into(), "ff02::1".into(), DropReason::Source),
        ("127.0.0.1".into(), inner(2)[0].to_string(), DropReason::Source),
        ("0.0.0.0".into(), "255.255.255.255".into(), DropReason::Source),
        (
            inner(1)[0].to_string(),
            inner(3)[0].to_string(),
            DropReason::Destination,
        ),
        (inner(1)[0].to_string(), "192.0.2.2".into(), DropReason::Destination),
        (inner(1)[0].to_string(), "127.0.0.1".into(), DropReason::Destination),
        (inner(1)[1].to_string(), "::1".into(), DropReason::Destination),
    ];
    for (source, destination, reason) in foreign {
        let before = world.peer(1, 0).drops.get(reason.name()).copied().unwrap_or(0);
        let inner = frame(&source, &destination, b"forged");
        let payload = [&[crate::fast::KIND_FRAME], &inner[..]].concat();
        world.meddle(0, |link, cx| link.send_raw_record(cx, &payload));
        world.run(ms(20));
        let after = world.peer(1, 0).drops[reason.name()];
        assert_eq!(after, before + 1, "{source} to {destination}");
    }
    assert!(world.hosts[1].frames.is_empty());
    assert_eq!(world.peer(1, 0).traffic.received_frames, 0);
}

#[test]
fn nonsense_on_the_stream_is_counted_and_the_link_stays() {
    let mut world = World::linked();
    let session = world.meddle(1, |link, _| link.config.session);
    let signal = |body: Body| {
        let stamp = Stamp { instance: 0, number: 0 };
        [&[1], &Signal { stamp, body }.encode()[..]].concat()
    };
    let list = |session, generation| {
        Body::Candidates(Candidates {
            session,
            generation,
            candidates: vec![Candidate::host(at("198.51.100.7:7"), 1)],
            members: Vec::new(),
        })
    };
    let mut messages: Vec<Vec<u8>> = (5..=255u8).map(|kind| vec![kind; 40]).collect();
    messages.extend([vec![], vec![1], vec![1; 300], vec![2], vec![2, 2, 2]]);
    messages.push(signal(offer(5)));
    messages.push(signal(list(SessionId(99), 0)));
    messages.push(signal(list(session, 5)));
    for message in &messages {
        assert!(world.meddle(0, |link, cx| link.send_raw_message(cx, message)));
        world.run(ms(30));
    }
    let drops = world.peer(1, 0).drops;
    let counted = drops["bad_message"] + drops["signal_stale"];
    assert_eq!(counted, messages.len() as u64, "{drops:?}");
    assert_eq!(count(&world.hosts[1].events, is_down), 0);
    // An honest message still gets through, in order.
    let data = Blob(b"honest".to_vec());
    let node = world.hosts[1].id;
    let message = PeerMessage {
        network: NETWORK,
        node,
        data: data.clone(),
    };
    world.ask(0, LinkCall::SendMessage(message)).unwrap();
    world.run(ms(100));
    let heard = world.hosts[1]
        .events
        .iter()
        .any(|event| matches!(event, api::link::Event::PeerMessage(m) if m.data == data));
    assert!(heard, "{:?}", world.hosts[1].events);
}

#[test]
fn a_flood_of_fresh_handshakes_is_refused_beyond_a_few() {
    let mut world = World::linked();
    let client = usize::from(world.hosts[1].id < world.hosts[0].id);
    for _ in 0..1000 {
        world.meddle(client, |link, cx| link.force_fresh_impatiently(cx));
        world.run(ms(20));
    }
    let handshakes = world.peer(1 - client, client).session.unwrap().handshakes;
    assert!(handshakes <= 8, "{handshakes} handshakes in 20 s");
    let (up, index) = (world.is_up(0, 1), world.hosts[1 - client].node.indices.0.len());
    assert!(up && index <= 3);
    world.send(0, 1, b"x");
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"x")]);
}

#[test]
fn a_peer_that_wants_a_fresh_handshake_again_and_again_gets_one_a_minute() {
    let mut world = World::linked();
    let server = usize::from(world.hosts[0].id < world.hosts[1].id);
    for _ in 0..6000 {
        world.meddle(server, |link, cx| link.send_raw_message(cx, &[4]));
        world.run(ms(20));
    }
    let handshakes = world.peer(1 - server, server).session.unwrap().handshakes;
    assert!((2..=4).contains(&handshakes), "{handshakes} handshakes in two minutes");
}

#[test]
fn a_flood_of_candidates_over_the_link_stays_bounded() {
    let mut world = World::linked();
    let session = world.meddle(1, |link, _| link.config.session);
    world.keep_sent = true;
    let begin = world.now;
    for n in 0..400u16 {
        let candidates = (0..30u16)
            .map(|m| Candidate::host(at(&format!("198.51.{}.{}:{}", n % 250, m, 1000 + n)), m))
            .collect();
        let body = Body::Candidates(Candidates {
            session,
            generation: 0,
            candidates,
            members: Vec::new(),
        });
        let stamp = Stamp { instance: 0, number: 0 };
        let message = [&[1], &Signal { stamp, body }.encode()[..]].concat();
        world.meddle(1, |link, cx| link.send_raw_message(cx, &message));
        world.run(ms(25));
    }
    let seconds = (world.now - begin).as_secs() + 1;
    let mine = world.hosts[0].addresses[0];
    let honest = world.hosts[1].addresses[0];
    let checks = world
        .sent
        .iter()
        .filter(|(from, to, _)| *from == mine && *to != honest)
        .count() as u64;
    let most = u64::from(limits::ICE_CHECKS_PER_SECOND) * seconds + u64::from(limits::ICE_CHECK_BURST);
    assert!(checks <= most, "{checks} checks in {seconds} s");
    let remotes = world.meddle(0, |link, _| link.remote_addresses().len());
    assert!(remotes <= limits::ICE_REMOTE_CANDIDATES, "{remotes}");
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
}

#[test]
fn a_handshake_without_an_ice_check_is_not_looked_at() {
    let mut world = World::new(2, false);
    let victim = world.hosts[1].addresses[0];
    let before = world.state(1).drops.get("handshake").copied().unwrap_or(0);
    for n in 0..2000u32 {
        let mut bytes = vec![0xC0 | (n as u8 & 0x3F); 1200];
        bytes[1..5].copy_from_slice(&1u32.to_be_bytes());
        world.inject(at(&format!("198.51.100.9:{}", 1000 + n)), victim, &bytes);
    }
    assert_eq!(world.state(1).drops["handshake"], before + 2000);
    assert!(world.hosts[1].node.links.is_empty() && world.hosts[1].node.by_remote.is_empty());
}

#[test]
fn closing_during_a_fresh_handshake_still_tells_the_peer() {
    for after in 0..80 {
        for closer in [0, 1] {
            let mut world = World::linked();
            let client = usize::from(world.hosts[1].id < world.hosts[0].id);
            world.meddle(client, |link, cx| link.force_fresh_impatiently(cx));
            world.run(ms(after));
            let peer = world.peer_ref(1 - closer);
            world.ask(closer, LinkCall::CloseLink(peer)).unwrap();
            world.run(ms(400));
            let downs = count(&world.hosts[1 - closer].events, is_down);
            assert_eq!(downs, 1, "{closer} closed after {after} ms");
        }
    }
}

#[test]
fn a_stranger_gets_no_answer_and_makes_nothing() {
    let mut world = World::new(2, false);
    let peer = world.peer_ref(1);
    world.ask(0, LinkCall::RemovePeer(peer)).unwrap();
    let blob = sealed(&mut world, 1, 0, offer(5));
    assert!(matches!(
        delivered(&mut world, 0, &blob),
        Some(Delivered::Stranger { .. })
    ));
    assert!(world.signals.is_empty() && world.hosts[0].node.links.is_empty());
    assert_eq!(count(&world.hosts[0].events, is_up), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_inside_a_valid_link_leave_it_up(
        records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..12),
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
    ) {
        let mut world = World::linked();
        for (record, message) in records.iter().zip(&messages) {
            world.meddle(0, |link, cx| link.send_raw_record(cx, record));
            world.meddle(0, |link, cx| link.send_raw_message(cx, message));
            world.run(ms(15));
        }
        prop_assert!(world.is_up(1, 0));
        world.hosts[1].frames.clear();
        world.send(0, 1, b"x");
        world.run(ms(50));
        prop_assert_eq!(&world.hosts[1].frames, &[inner_frame(0, 1, b"x")]);
    }
}
