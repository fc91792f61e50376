//! Keys and addresses that change under traffic: no frame is lost, the session goes on.

use std::time::Duration;

use api::link::{LinkPhase, PathKind};

use super::world::{World, at, inner_frame};
use super::{count, is_down, is_up, ms};

/// Sends a numbered frame each way every `every` for `time`, and checks that each came, once and in order.
fn exchange(world: &mut World, every: Duration, time: Duration) {
    let end = world.now + time;
    let mut sent = 0u32;
    for host in &mut world.hosts {
        host.frames.clear();
    }
    while world.now < end {
        world.send(0, 1, &sent.to_be_bytes());
        world.send(1, 0, &sent.to_be_bytes());
        sent += 1;
        world.run(every);
    }
    world.run(ms(50));
    for (from, to) in [(0, 1), (1, 0)] {
        let frames = std::mem::take(&mut world.hosts[to].frames);
        let first_wrong = (0..sent).find(|n| frames.get(*n as usize) != Some(&inner_frame(from, to, &n.to_be_bytes())));
        assert_eq!(first_wrong, None, "{from} to {to}, {} of {sent} came", frames.len());
        assert_eq!(frames.len(), sent as usize);
    }
}

#[test]
fn epochs_change_under_traffic_without_a_lost_frame() {
    let mut world = World::linked();
    // Frames take 10 ms, so that several are always on their way.
    exchange(&mut world, ms(3), Duration::from_secs(270));
    for (host, peer) in [(0, 1), (1, 0)] {
        let session = world.peer(host, peer).session.unwrap();
        assert!(session.send_epoch >= 2 && session.receive_epoch >= 2, "{session:?}");
        assert_eq!(session.handshakes, 1);
    }
}

#[test]
fn fresh_handshakes_take_over_under_traffic_without_a_lost_frame() {
    let mut world = World::linked();
    world.run(Duration::from_secs(1795));
    exchange(&mut world, ms(3), Duration::from_secs(30));
    world.run(Duration::from_secs(1770));
    exchange(&mut world, ms(3), Duration::from_secs(30));
    for (host, peer) in [(0, 1), (1, 0)] {
        let session = world.peer(host, peer).session.unwrap();
        assert_eq!(session.handshakes, 3, "{session:?}");
        assert_eq!(count(&world.hosts[host].events, is_up), 1);
        assert_eq!(count(&world.hosts[host].events, is_down), 0);
    }
}

#[test]
fn a_fresh_handshake_succeeds_over_a_lossy_path_and_frames_go_on() {
    let mut world = World::linked();
    world.lose_every = Some(5);
    for _ in 0..(1810 * 4) {
        world.send(0, 1, b"a");
        world.send(1, 0, b"b");
        world.run(ms(250));
    }
    world.lose_every = None;
    world.run(Duration::from_secs(70));
    let session = world.peer(0, 1).session.unwrap();
    assert!(session.handshakes >= 2, "{session:?}");
    exchange(&mut world, ms(5), Duration::from_secs(1));
}

#[test]
fn an_idle_link_changes_no_keys_and_wakes_up_after_hours() {
    let mut world = World::linked();
    world.run(Duration::from_secs(4 * 3600));
    assert!(world.is_up(0, 1) && world.is_up(1, 0));
    exchange(&mut world, ms(5), Duration::from_secs(2));
}

#[test]
fn a_peer_that_roams_keeps_its_session() {
    for roamer in [0, 1] {
        let mut world = World::linked();
        let real = world.hosts[roamer].addresses[0];
        let before = world.peer(roamer, 1 - roamer).up_ms.unwrap();
        // A NAT forgot the mapping: from now on the host looks as if it were elsewhere.
        let public = at("203.0.113.77:7777");
        world.alias.insert(real, public);
        for _ in 0..40 {
            world.send(roamer, 1 - roamer, b"x");
            world.send(1 - roamer, roamer, b"y");
            world.run(ms(50));
        }
        let seen = world.peer(1 - roamer, roamer);
        assert_eq!(seen.phase, LinkPhase::Up);
        let path = seen.path.unwrap();
        assert_eq!((path.remote, path.kind), (public, PathKind::Direct));
        assert!(world.peer(roamer, 1 - roamer).up_ms.unwrap() > before);
        exchange(&mut world, ms(5), Duration::from_secs(1));
        for host in [0, 1] {
            assert_eq!(count(&world.hosts[host].events, is_down), 0, "{roamer} roamed");
            assert_eq!(count(&world.hosts[host].events, is_up), 1);
        }
        world.run(Duration::from_secs(70));
        let session = world.peer(0, 1).session.unwrap();
        assert!(session.handshakes >= 2, "keys are made anew after roaming: {session:?}");
    }
}

#[test]
fn a_record_copied_to_another_address_moves_nobody_there() {
    let mut world = World::linked();
    world.keep_sent = true;
    world.send(0, 1, b"x");
    let (_, to, record) = world.sent.pop().unwrap();
    world.sent.clear();
    let thief = at("198.51.100.66:66");
    world.inject(thief, to, &record);
    world.run(ms(500));
    assert_eq!(world.peer(1, 0).path.unwrap().remote, world.hosts[0].addresses[0]);
    let to_thief: usize = world
        .sent
        .iter()
        .filter(|(_, to, _)| *to == thief)
        .map(|(.., bytes)| bytes.len())
        .sum();
    assert!(to_thief <= 3 * record.len(), "{to_thief} bytes for {}", record.len());
    exchange(&mut world, ms(5), Duration::from_secs(1));
}
