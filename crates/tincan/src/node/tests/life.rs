//! Links that begin together, end in the middle of traffic, or carry frames too large for their path.

use std::time::Duration;

use api::link::{Event, LinkCall, LinkPhase};

use super::world::{DELAY, World, inner, inner_frame};
use super::{count, is_down, is_up, ms};
use crate::fast::slice::{Kind, Partial, Shape};
use crate::fast::trains::Trains;
use crate::fast::{self, Departure, Outbound};
use crate::forward::DropReason;
use crate::frame::Frame;
use crate::frame::tests::frame;

#[test]
fn dialling_at_nearly_the_same_time_makes_one_link() {
    for after in 0..60 {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut world = World::new(2, after % 2 == 0);
            world.open(first, second);
            world.run(ms(after));
            world.open(second, first);
            world.run(ms(3000));
            for (host, peer) in [(0, 1), (1, 0)] {
                assert!(world.is_up(host, peer), "{first} first, {after} ms");
                let ups = count(&world.hosts[host].events, is_up);
                assert_eq!(ups, 1, "{first} first, {after} ms: {:?}", world.hosts[host].events);
                assert_eq!(
                    count(&world.hosts[host].events, is_down),
                    0,
                    "{first} first, {after} ms"
                );
            }
            world.send(0, 1, b"a");
            world.send(1, 0, b"b");
            world.run(ms(50));
            assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"a")]);
            assert_eq!(world.hosts[0].frames, [inner_frame(1, 0, b"b")]);
        }
    }
}

#[test]
fn a_link_comes_up_over_a_path_that_loses_every_third_datagram() {
    for phase in 0..6u64 {
        let mut world = World::new(2, false);
        world.lose_every = Some(3);
        for _ in 0..phase {
            world.send(0, 1, b"x");
        }
        world.open(0, 1);
        world.run(Duration::from_secs(15));
        assert!(world.is_up(0, 1) && world.is_up(1, 0), "phase {phase}");
    }
}

#[test]
fn a_peer_removed_under_traffic_is_cut_at_once_and_told() {
    let mut world = World::linked();
    for n in 0..50u32 {
        world.send(0, 1, &n.to_be_bytes());
        world.send(1, 0, &n.to_be_bytes());
        world.run(ms(3));
    }
    let before = world.hosts[0].node.snapshot();
    let peer = world.peer_ref(1);
    world.ask(0, LinkCall::RemovePeer(peer)).unwrap();
    let received = world.hosts[0].frames.len();
    // What was on its way arrives at closed doors.
    for n in 0..50u32 {
        world.send(0, 1, &n.to_be_bytes());
        world.send(1, 0, &n.to_be_bytes());
        world.run(ms(3));
    }
    assert_eq!(world.hosts[0].frames.len(), received + unreachables(&world, 0));
    assert_eq!(count(&world.hosts[1].events, is_down), 1);
    let after = world.hosts[0].node.snapshot();
    assert!(before.receivers.len() == 1 && after.receivers.is_empty());
    assert!(after.networks[0].routes.is_empty());
    let state = world.state(0);
    assert!(state.networks[0].peers.is_empty());
    assert!(state.drops["unknown_receiver"] > 0 && state.networks[0].drops["no_route"] == 50);
    // Its signals are a stranger's now, and it comes back only when it is set again.
    world.open(1, 0);
    world.run(ms(1000));
    assert!(world.state(0).drops["signal_stranger"] > 0);
    world.set_peer(0, 1);
    world.open(0, 1);
    world.run(ms(3000));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
}

/// ICMP errors that a host's own NIC was given.
fn unreachables(world: &World, host: usize) -> usize {
    let own = inner(host as u8 + 1);
    let is_error = |bytes: &&Vec<u8>| matches!(Frame::parse(bytes), Ok(f) if f.destination == own[0] && bytes[9] == 1);
    world.hosts[host].frames.iter().filter(is_error).count()
}

#[test]
fn a_worker_with_an_old_snapshot_does_no_harm_after_a_peer_is_removed() {
    let mut world = World::linked();
    let old = world.hosts[0].node.snapshot();
    let peer = world.peer_ref(1);
    world.ask(0, LinkCall::RemovePeer(peer)).unwrap();
    world.run(ms(100));
    let mut lanes = fast::Lanes::new(1).unwrap();
    let sent = inner_frame(0, 1, b"late");
    let mut buffer = vec![0; fast::HEADROOM];
    buffer.extend_from_slice(&sent);
    buffer.resize(buffer.len() + fast::TAILROOM, 0);
    let Outbound::Sealed { range, slot, .. } = fast::outbound(&old, &mut lanes, super::world::NETWORK, &mut buffer)
    else {
        panic!("the old snapshot seals");
    };
    let now = world.now;
    world.hosts[0].node.handle_wake(now, slot);
    let (from, to) = (world.hosts[0].addresses[0], world.hosts[1].addresses[0]);
    world.inject(from, to, &buffer[range]);
    world.run(ms(100));
    assert!(world.hosts[1].frames.is_empty());
    assert_eq!(world.peer(1, 0).phase, LinkPhase::Idle);
}

/// The record that a worker makes of frames which a NIC hands over together.
fn sealed_together(world: &World, frames: &[(Shape, Vec<u8>)]) -> Vec<u8> {
    let (mut trains, mut lanes) = (Trains::new(1 << 14), fast::Lanes::new(1).unwrap());
    let snapshot = world.hosts[0].node.snapshot();
    let full = |_: &mut Trains| panic!("there is room");
    let mut departure = Departure::new(&snapshot, &mut lanes, super::world::NETWORK, &mut trains, full);
    for (shape, frame) in frames {
        departure.take(shape, frame);
    }
    drop(departure);
    let records: Vec<_> = trains.iter().map(|(_, bytes, _)| bytes.to_vec()).collect();
    assert_eq!(records.len(), 1, "one train of one record");
    records.concat()
}

#[test]
fn what_shares_a_record_reaches_the_nic_frame_by_frame() {
    let frames: Vec<_> = [&b"one"[..], b"two", b"three"]
        .map(|text| inner_frame(0, 1, text))
        .into();
    let elsewhere = super::world::at("203.0.113.77:7777");
    for came_as_expected in [true, false] {
        let mut world = World::linked();
        let together: Vec<_> = frames.iter().map(|frame| (Shape::default(), frame.clone())).collect();
        let record = sealed_together(&world, &together);
        let (from, to) = (world.hosts[0].addresses[0], world.hosts[1].addresses[0]);
        world.inject(if came_as_expected { from } else { elsewhere }, to, &record);
        world.run(ms(100));
        assert_eq!(world.hosts[1].frames, frames, "expected: {came_as_expected}");
    }
}

#[test]
fn the_engine_finishes_checksums_that_a_worker_left_unfinished() {
    // Two datagrams in one, from port 7 to 7, which the kernel did not sum.
    let mut joined = inner_frame(0, 1, &[0, 7, 0, 7, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    joined[9] = 17;
    let shape = Shape {
        kind: Kind::Udp,
        segment: 4,
        partial: Some(Partial { start: 20, offset: 6 }),
    };
    let mut world = World::linked();
    let record = sealed_together(&world, &[(shape, joined)]);
    let elsewhere = super::world::at("203.0.113.77:7777");
    let to = world.hosts[1].addresses[0];
    world.inject(elsewhere, to, &record);
    world.run(ms(100));
    let frames = &world.hosts[1].frames;
    let payloads: Vec<_> = frames.iter().map(|frame| &frame[28..]).collect();
    assert_eq!(payloads, [[1, 2, 3, 4], [5, 6, 7, 8]]);
    for frame in frames {
        // Addresses and transport header, checksum included, protocol and length (RFC 768).
        let words = frame[12..]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        assert_eq!((words.sum::<u32>() + 17 + 12) % 0xffff, 0);
    }
}

#[test]
fn a_network_removed_under_traffic_leaves_nothing() {
    let mut world = World::linked();
    world.send(0, 1, b"x");
    let network = api::link::NetworkRef {
        network: super::world::NETWORK,
    };
    world.ask(0, LinkCall::RemoveNetwork(network)).unwrap();
    world.send(0, 1, b"y");
    world.run(ms(500));
    let snapshot = world.hosts[0].node.snapshot();
    assert!(snapshot.networks.is_empty() && snapshot.receivers.is_empty() && snapshot.links.is_empty());
    assert!(world.state(0).networks.is_empty());
    assert_eq!(count(&world.hosts[1].events, is_down), 1);
    assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"x")]);
    assert_eq!(world.hosts[0].node.poll_timeout(), None);
}

#[test]
fn shutdown_tells_every_peer() {
    let mut world = World::new(3, false);
    for peer in [1, 2] {
        world.open(0, peer);
    }
    world.run(ms(1000));
    let now = world.now;
    world.hosts[0].node.shutdown(now);
    world.run(DELAY * 2);
    for host in [1, 2] {
        assert_eq!(world.peer(host, 0).phase, LinkPhase::Idle);
        let reasons: Vec<_> = world.hosts[host]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::LinkDown { reason, .. } => Some(reason.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(reasons, ["the peer closed the link"]);
    }
    assert_eq!(world.hosts[0].node.poll_timeout(), None);
}

/// Datagrams of this size carry frames of 1224 bytes: what an IPv4 path of 1280 bytes leaves.
const NARROW: usize = 1252;

/// An inner frame of so many bytes from the first host to the second that may not be fragmented.
fn long_frame(family: usize, length: usize) -> Vec<u8> {
    let [source, destination] = [inner(1)[family].to_string(), inner(2)[family].to_string()];
    let head = if family == 0 { 20 } else { 40 };
    let mut frame = frame(&source, &destination, &vec![7; length - head]);
    if family == 0 {
        frame[6] = 0x40;
    }
    frame
}

/// The MTU that an ICMP error tells: RFC 1191 section 4, 16 bits at 26; RFC 4443 section 3.2, 32 bits at 44.
fn told(answer: &[u8]) -> u32 {
    match answer[0] >> 4 {
        4 => u32::from(u16::from_be_bytes([answer[26], answer[27]])),
        _ => u32::from_be_bytes(answer[44..48].try_into().unwrap()),
    }
}

#[test]
fn what_the_kernel_refuses_is_told_to_the_sender_with_the_size_that_fits() {
    for (family, too_long, mtu) in [(0, 1225, 1224), (1, 1281, 1280)] {
        let mut world = World::linked();
        world.interface = NARROW;
        world.send_frame(0, &long_frame(family, 1400));
        world.run(ms(600));
        assert_eq!(world.peer(0, 1).path.unwrap().mtu, Some(1224));
        world.hosts[1].frames.clear();
        for length in [100, 1223, 1224] {
            world.send_frame(0, &long_frame(family, length));
        }
        world.send_frame(0, &long_frame(family, too_long));
        world.run(ms(50));
        let arrived: Vec<usize> = world.hosts[1].frames.iter().map(Vec::len).collect();
        assert_eq!(arrived, [100, 1223, 1224]);
        let [answer] = &world.hosts[0].frames[..] else {
            panic!("one answer: {:?}", world.hosts[0].frames.len());
        };
        assert_eq!(Frame::parse(answer).unwrap().destination, inner(1)[family]);
        assert_eq!(told(answer), mtu);
        assert_eq!(world.state(0).networks[0].drops[DropReason::TooBig.name()], 1);
    }
}

#[test]
fn frames_that_must_pass_are_cut_and_joined() {
    let mut world = World::linked();
    world.carries = NARROW;
    // Not a word from the kernel: only probes can tell.
    world.send_frame(0, &long_frame(1, 1400));
    world.run(Duration::from_secs(2));
    assert_eq!(world.peer(0, 1).path.unwrap().mtu, Some(1224));
    world.hosts[1].frames.clear();
    let mut fragment = long_frame(0, 1400);
    fragment[6] = 0x20;
    for frame in [long_frame(1, 1280), fragment.clone(), long_frame(1, 1225)] {
        world.send_frame(0, &frame);
    }
    world.run(ms(50));
    assert_eq!(
        world.hosts[1].frames,
        [long_frame(1, 1280), fragment, long_frame(1, 1225)]
    );
    assert_eq!(world.hosts[0].frames.len(), 0);
}

#[test]
fn a_cut_frame_with_a_foreign_source_is_dropped() {
    let mut world = World::linked();
    let mut foreign = long_frame(1, 1280);
    foreign[20] ^= 1;
    world.meddle(0, |link, cx| link.send_cut(cx, &foreign).unwrap());
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames.len(), 0);
    assert_eq!(world.peer(1, 0).drops[DropReason::Source.name()], 1);
}

#[test]
fn a_refusal_of_next_to_nothing_leaves_the_link_as_it_is() {
    let mut world = World::linked();
    let (now, remote) = (world.now, world.hosts[1].addresses[0]);
    for _ in 0..10 {
        world.hosts[0].node.handle_too_big(now, remote, 100);
    }
    world.send_frame(0, &long_frame(1, 1280));
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames, [long_frame(1, 1280)]);
}

#[test]
fn too_big_for_one_address_changes_no_other_path() {
    let mut world = World::new(3, false);
    for peer in [1, 2] {
        world.open(0, peer);
    }
    world.run(ms(1000));
    let (remote, now) = (world.hosts[1].addresses[0], world.now);
    world.hosts[0].node.handle_too_big(now, remote, 1300);
    let large = inner_frame(0, 2, &[7; 1360]);
    world.send_frame(0, &large);
    world.run(ms(50));
    assert_eq!(world.hosts[2].frames, [large]);
}

/// How long until frames flow both ways again, both ends sending all the time.
fn until_frames_flow(world: &mut World) -> Duration {
    let begin = world.now;
    for host in &mut world.hosts {
        host.frames.clear();
    }
    for _ in 0..2000 {
        world.send(0, 1, b"a");
        world.send(1, 0, b"b");
        world.run(ms(10));
        let arrived = |from, to: usize, payload| world.hosts[to].frames.contains(&inner_frame(from, to, payload));
        if arrived(0, 1, b"a") && arrived(1, 0, b"b") {
            return world.now - begin;
        }
    }
    panic!("nothing after {:?}: {:?}", world.now - begin, world.hosts[0].events);
}

#[test]
fn a_machine_that_slept_is_linked_again_within_three_seconds() {
    for sleep in [5, 20, 40, 90, 600, 8 * 3600] {
        for sleeper in [0, 1] {
            let mut world = World::linked();
            world.asleep.insert(sleeper);
            world.run(Duration::from_secs(sleep));
            world.asleep.clear();
            let time = until_frames_flow(&mut world);
            assert!(time <= ms(3000), "{sleeper} slept {sleep} s: {time:?}");
        }
    }
}

#[test]
fn traffic_alone_links_a_restarted_peer_again_within_three_seconds() {
    for restarted in [0, 1] {
        let mut world = World::linked();
        world.restart(restarted);
        let time = until_frames_flow(&mut world);
        assert!(time <= ms(3000), "{restarted}: {time:?}");
    }
}
