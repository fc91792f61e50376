//! Promises of the engine, each played by a few nodes in virtual time.

mod hostile;
mod life;
mod rekey;
mod servers;
mod transit;
mod world;

use std::time::Duration;

use api::link::{Event, LinkCall, LinkPhase};

use crate::frame::tests::frame;
use world::{World, at, inner, inner_frame};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn count(events: &[Event], what: fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| what(event)).count()
}

fn is_up(event: &Event) -> bool {
    matches!(event, Event::LinkUp { .. })
}

fn is_down(event: &Event) -> bool {
    matches!(event, Event::LinkDown { .. })
}

#[test]
fn a_link_comes_up_and_carries_frames_of_both_families_both_ways() {
    for (opener, other) in [(0, 1), (1, 0)] {
        let mut world = World::new(2, true);
        world.open(opener, other);
        world.run(ms(300));
        assert!(world.is_up(0, 1) && world.is_up(1, 0), "opened by {opener}");
        for (from, to) in [(0, 1), (1, 0)] {
            for family in [0, 1] {
                let [source, destination] = [from, to].map(|host| inner(host as u8 + 1)[family].to_string());
                let sent = frame(&source, &destination, b"hello");
                world.send_frame(from, &sent);
                world.run(ms(50));
                assert_eq!(world.hosts[to].frames.pop(), Some(sent), "{source} to {destination}");
            }
        }
        assert_eq!(count(&world.hosts[0].events, is_up), 1);
        assert_eq!(count(&world.hosts[1].events, is_up), 1);
        let peer = world.peer(0, 1);
        assert_eq!((peer.traffic.sent_frames, peer.traffic.received_frames), (2, 2));
    }
}

#[test]
fn glare_makes_one_link() {
    let mut world = World::new(2, false);
    world.open(0, 1);
    world.open(1, 0);
    world.run(ms(2000));
    for (host, peer) in [(0, 1), (1, 0)] {
        assert!(world.is_up(host, peer));
        assert_eq!(count(&world.hosts[host].events, is_up), 1);
        assert_eq!(count(&world.hosts[host].events, is_down), 0);
    }
    world.send(0, 1, b"x");
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames.len(), 1);
}

#[test]
fn first_frames_wait_for_the_link_and_none_is_lost() {
    let mut world = World::new(2, false);
    for n in 0..20u8 {
        world.send(0, 1, &[n]);
    }
    assert_eq!(
        count(&world.hosts[0].events, |e| matches!(e, Event::LinkWanted { .. })),
        1
    );
    world.open(0, 1);
    world.run(ms(500));
    let expected: Vec<_> = (0..20u8).map(|n| inner_frame(0, 1, &[n])).collect();
    assert_eq!(world.hosts[1].frames, expected);
}

#[test]
fn a_restarted_peer_is_linked_again_within_three_seconds() {
    for dead in [0, 1] {
        let mut world = World::linked();
        world.restart(dead);
        // Its controller opens the link, as it does for every peer that is there.
        world.open(dead, 1 - dead);
        world.run(ms(3000));
        assert!(world.is_up(0, 1) && world.is_up(1, 0));
        world.hosts[0].frames.clear();
        world.hosts[1].frames.clear();
        world.send(0, 1, b"a");
        world.send(1, 0, b"b");
        world.run(ms(50));
        assert_eq!(world.hosts[1].frames, [inner_frame(0, 1, b"a")]);
        assert_eq!(world.hosts[0].frames, [inner_frame(1, 0, b"b")]);
    }
}

#[test]
fn a_path_that_dies_silently_is_replaced_under_traffic() {
    let mut world = World::new(2, true);
    world.open(0, 1);
    world.run(ms(1000));
    let path = world.peer(0, 1).path.unwrap();
    world.cut_both(path.local, path.remote);
    let cut_at = world.now;
    let mut back = None;
    for n in 0..300u32 {
        world.send(0, 1, &n.to_be_bytes());
        world.send(1, 0, &n.to_be_bytes());
        let before = world.hosts[1].frames.len();
        world.run(ms(10));
        if world.hosts[1].frames.len() > before && world.now > cut_at + ms(30) && back.is_none() {
            back = Some(world.now - cut_at);
        }
    }
    let back = back.expect("frames flow again");
    assert!(back <= ms(1500), "{back:?}");
    assert_ne!(world.peer(0, 1).path.unwrap().remote, path.remote);
    assert_eq!(count(&world.hosts[0].events, is_down), 0);
}

#[test]
fn garbage_changes_no_state() {
    let mut world = World::linked();
    let before = (world.peer(0, 1), world.peer(1, 0));
    let from = world.hosts[0].addresses[0];
    let to = world.hosts[1].addresses[0];
    for first in 0..=255u8 {
        for length in [0usize, 1, 3, 20, 28, 60, 1200] {
            let mut bytes = vec![first; length];
            for source in [from, at("198.51.100.9:9")] {
                world.inject(source, to, &bytes);
            }
            bytes.reverse();
        }
    }
    let after = (world.peer(0, 1), world.peer(1, 0));
    assert_eq!(before.0, after.0);
    assert_eq!(
        (before.1.phase, before.1.path, before.1.traffic),
        (after.1.phase, after.1.path, after.1.traffic)
    );
    assert_eq!(after.1.phase, LinkPhase::Up);
    let drops = world.state(1).drops;
    assert!(drops["nonsense"] > 0 && drops["stun"] > 0 && drops["handshake"] > 0 && drops["unknown_receiver"] > 0);
    world.send(0, 1, b"x");
    world.run(ms(50));
    assert_eq!(world.hosts[1].frames.len(), 1);
}

#[test]
fn ping_measures_the_round_trip() {
    let mut world = World::linked();
    let node = world.peer_ref(1);
    let id = world.call(0, LinkCall::Ping(node));
    world.run(ms(100));
    let pong: api::link::Pong = serde_json::from_value(world.hosts[0].replies.remove(&id).unwrap().unwrap()).unwrap();
    assert_eq!(pong.rtt_us, 20_000);
}
