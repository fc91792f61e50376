//! Links that go through a member: who finds one, who carries, who refuses.

use api::link::{PathKind, PathState};

use super::ms;
use super::world::{World, inner_frame};
use crate::fast::KIND_FRAME;
use crate::record::{HEADER, TAG};
use crate::transit::{HERE, PeerNumber, ShortId, Way, arrived, is_reserved, onward};

/// Hosts of which the first two cannot send each other anything; all open links to those after them.
fn apart(count: u8) -> World {
    let mut world = World::new(count, false);
    let [ann, bob] = [0, 1].map(|host| world.hosts[host].addresses[0]);
    world.cut_both(ann, bob);
    for host in 0..usize::from(count) {
        for peer in host + 1..usize::from(count) {
            world.open(host, peer);
        }
    }
    world
}

fn path(world: &mut World, host: usize, peer: usize) -> Option<PathState> {
    world.peer(host, peer).path
}

fn expect_frames_both_ways(world: &mut World) {
    for (from, to) in [(0, 1), (1, 0)] {
        world.hosts[to].frames.clear();
        world.send(from, to, b"through");
        world.run(ms(100));
        assert_eq!(world.hosts[to].frames, [inner_frame(from, to, b"through")]);
    }
}

#[test]
fn two_that_cannot_reach_each_other_meet_inside_the_links_of_a_third() {
    let mut world = apart(3);
    world.run(ms(3000));
    let carol = world.hosts[2].addresses[0];
    for (host, peer) in [(0, 1), (1, 0)] {
        let path = path(&mut world, host, peer).expect("a path");
        assert_eq!((path.kind, path.remote), (PathKind::Member, carol));
        assert_eq!(path.local, world.hosts[host].addresses[0]);
        assert_eq!(path.via, Some(world.hosts[2].id.short()));
    }
    expect_frames_both_ways(&mut world);
    let carried = world.peer(2, 0).traffic;
    assert!(carried.relayed_frames > 0 && carried.relayed_bytes > 0);
    assert_eq!((carried.sent_frames, carried.received_frames), (0, 0));
}

#[test]
fn a_path_without_a_member_is_taken_as_soon_as_there_is_one() {
    let mut world = apart(3);
    world.run(ms(3000));
    assert_eq!(path(&mut world, 0, 1).unwrap().kind, PathKind::Member);
    world.cut.clear();
    for _ in 0..200 {
        world.send(0, 1, b"x");
        world.run(ms(100));
    }
    for (host, peer) in [(0, 1), (1, 0)] {
        assert_eq!(path(&mut world, host, peer).unwrap().kind, PathKind::Direct);
    }
}

#[test]
fn the_death_of_a_member_moves_the_link_to_another() {
    let mut world = apart(4);
    world.run(ms(4000));
    let members = [2, 3].map(|member| world.hosts[member].addresses[0]);
    let before = path(&mut world, 0, 1).unwrap().remote;
    let used = members.iter().position(|member| *member == before).expect("a member's");
    world.asleep.insert(2 + used);
    let (died, mut back) = (world.now, None);
    for n in 0..300u32 {
        world.send(0, 1, &n.to_be_bytes());
        world.send(1, 0, &n.to_be_bytes());
        let heard = world.hosts[1].frames.len();
        world.run(ms(10));
        if world.hosts[1].frames.len() > heard && world.now > died + ms(60) && back.is_none() {
            back = Some(world.now - died);
        }
    }
    let back = back.expect("frames flow again");
    assert!(back <= ms(1500), "{back:?}");
    assert_eq!(path(&mut world, 0, 1).unwrap().remote, members[1 - used]);
    world.run(ms(100));
    expect_frames_both_ways(&mut world);
}

#[test]
fn a_member_passes_on_only_what_it_may() {
    let mut world = apart(4);
    world.run(ms(4000));
    let [ann, bob] = [0, 1].map(|host| ShortId::of(world.hosts[host].id));
    let stranger = ShortId::of(api::NodeId([0xEE; 32]));
    let cases = [
        ("to itself", onward(ann), "transit_link"),
        ("to a stranger", onward(stranger), "transit_link"),
        ("from a stranger", arrived(stranger), "transit_link"),
        (
            "too often",
            {
                let mut head = onward(bob);
                head[0] &= 0xF0;
                head
            },
            "transit_hops",
        ),
    ];
    for (what, head, reason) in cases {
        let before = world.peer(2, 0).drops.get(reason).copied().unwrap_or(0);
        world.keep_sent = true;
        world.sent.clear();
        let payload = [&head[..], &[0x80; 60]].concat();
        world.meddle_with((0, 2), |link, cx| link.send_raw_record(cx, &payload));
        world.run(ms(30));
        assert_eq!(world.peer(2, 0).drops[reason], before + 1, "{what}");
        let member = world.hosts[2].addresses[0];
        let passed = world
            .sent
            .iter()
            .filter(|(from, _, bytes)| *from == member && bytes.len() > 100);
        assert_eq!(passed.count(), 0, "{what}");
    }
}

#[test]
fn a_member_can_neither_forge_nor_replay() {
    let mut world = apart(3);
    world.run(ms(3000));
    let bob = ShortId::of(world.hosts[1].id);
    let record = world.meddle_with((1, 0), |link, cx| {
        let frame = inner_frame(1, 0, b"once");
        let mut record = [&[0; HEADER][..], &[KIND_FRAME], &frame, &[0; TAG]].concat();
        let sealer = link.up().expect("up").session().sealer();
        sealer.seal(cx.lane, &mut record).expect("sealed");
        record
    });
    for _ in 0..3 {
        let payload = [&arrived(bob)[..], &record].concat();
        world.meddle_with((2, 0), |link, cx| link.send_raw_record(cx, &payload));
        world.run(ms(100));
    }
    assert_eq!(world.hosts[0].frames, [inner_frame(1, 0, b"once")]);
    assert_eq!(world.peer(0, 1).drops["replay"], 2);
    let state = |world: &mut World| {
        let peer = world.peer(0, 1);
        (
            peer.phase,
            peer.path.map(|path| path.kind),
            peer.traffic.received_frames,
        )
    };
    let before = state(&mut world);
    for first in 0..=255u8 {
        for length in [1, 20, 28, 60, 1300] {
            let payload = [&arrived(bob)[..], &vec![first; length]].concat();
            world.meddle_with((2, 0), |link, cx| link.send_raw_record(cx, &payload));
        }
    }
    world.run(ms(100));
    assert_eq!(state(&mut world), before);
    assert_eq!(world.hosts[0].frames.len(), 1);
    let drops = world.state(0).drops;
    assert!(drops["nonsense"] > 0 && drops["stun"] > 0 && drops["handshake"] > 0 && drops["unknown_receiver"] > 0);
    expect_frames_both_ways(&mut world);
}

#[test]
fn what_is_wrapped_already_is_not_wrapped_again() {
    let mut world = apart(3);
    world.run(ms(3000));
    // Bob's link with ann goes through carol: bob asks ann to pass something on to carol.
    let carol = ShortId::of(world.hosts[2].id);
    let payload = [&onward(carol)[..], &[0x80; 60]].concat();
    world.meddle_with((1, 0), |link, cx| link.send_raw_record(cx, &payload));
    world.run(ms(100));
    assert_eq!(world.peer(0, 1).drops["transit_nested"], 1);
    assert_eq!(world.peer(0, 2).traffic.relayed_frames, 0);
    expect_frames_both_ways(&mut world);
}

#[test]
fn the_address_of_a_way_on_a_wire_is_nonsense() {
    let mut world = apart(3);
    world.run(ms(3000));
    let to = world.hosts[0].addresses[0];
    let before = world.state(0).drops.get("nonsense").copied().unwrap_or(0);
    let way = Way {
        member: PeerNumber(2),
        peer: PeerNumber(1),
    };
    for (first, from) in [(0x00, way.address()), (0x40, way.address()), (0xC0, HERE)] {
        world.inject(from, to, &[first; 60]);
    }
    assert_eq!(world.state(0).drops["nonsense"], before + 3);
}

#[test]
fn addresses_of_ways_stay_inside() {
    let mut world = World::new(3, false);
    world.hold_signals = false;
    world.keep_sent = true;
    let [ann, bob] = [0, 1].map(|host| world.hosts[host].addresses[0]);
    world.cut_both(ann, bob);
    for (host, peer) in [(0, 1), (0, 2), (1, 2)] {
        world.open(host, peer);
    }
    world.run(ms(3000));
    assert_eq!(path(&mut world, 0, 1).unwrap().kind, PathKind::Member);
    assert!(world.sent.iter().all(|(_, to, _)| !is_reserved(to.ip())));
    for host in 0..3 {
        let shown = format!("{:?} {:?}", world.state(host), world.hosts[host].events);
        assert!(!shown.contains("[100::"), "{shown}");
    }
}
