//! Promises of the machine, held in a world of controllers (see `world`).

mod evil;
mod mtu;
mod names;
mod world;

use std::time::Duration;

use api::control::{ControlCall, GroupInfo, Joined};
use api::link::{LinkCall, NetReport};
use api::rendezvous::RendezvousFault;
use api::rpc::{ApiError, Empty, ErrorKind};
use api::status::Connection;

use super::*;
use world::{World, creation, joining};

/// Ann founds, the others join one after the other.
fn family(count: u8) -> (World, api::NetworkId) {
    let mut world = World::new(count);
    let group = world.create(0).expect("made");
    let invite = world.invite(0, 10);
    for machine in 1..usize::from(count) {
        world.join(machine, &invite).expect("let in");
    }
    world.pass(Duration::from_secs(3));
    (world, group.network)
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (ErrorKind, String) {
    let error = result.expect_err("refused");
    (error.kind, error.message)
}

#[test]
fn a_group_is_made_and_stored_before_it_is_promised() {
    let mut world = World::new(1);
    let group = world.create(0).expect("made");
    assert_eq!((group.name.as_str(), group.host_name.as_str()), ("home", "ann"));
    let subnet = group.addresses[0].network();
    assert_eq!(subnet.prefix, 16);
    assert!("10.0.0.0/8".parse::<Cidr>().expect("a subnet").contains(subnet.address));
    let stored = world.machines[0].stored.clone().expect("saved");
    assert_eq!(stored.groups.len(), 1);
    assert!(stored.groups[0].founder && stored.groups[0].login.register);
    let status = world.status(0);
    assert!(status.health.is_empty(), "{:?}", status.health);
    assert!(status.groups[0].rendezvous[0].online && status.groups[0].founder);
    let (kind, text) = kind_of(world.create(0));
    assert_eq!(kind, ErrorKind::Taken, "{text}");
}

#[test]
fn a_join_is_one_round_trip_and_links_at_once() {
    let mut world = World::new(2);
    let group = world.create(0).expect("made");
    let invite = world.invite(0, 1);
    let before = world.elapsed();
    let carried = world.carried.len();
    let joined = world.join(1, &invite).expect("let in");
    assert_eq!(world.elapsed(), before, "nothing waited for a timer");
    assert_eq!(
        (joined.member.as_str(), joined.group.host_name.as_str()),
        ("ann", "bob")
    );
    assert_eq!(joined.group.network, group.network);
    // Request and offer one way; welcome and answer the other.
    assert_eq!(world.carried.len() - carried, 4);
    assert_eq!(world.linked(0), ["bob"]);
    assert_eq!(world.linked(1), ["ann"]);
    assert_eq!(
        world.addresses(1, group.network),
        joined.group.addresses.iter().map(|c| c.address).collect::<Vec<_>>()
    );
    assert_eq!(world.machines[1].stored.clone().expect("saved").groups.len(), 1);
    assert_eq!(world.machines[0].stored.clone().expect("saved").groups[0].log.len(), 3);
    assert_eq!(world.ping(0, "bob").expect("linked").name, "bob");
    assert_eq!(world.ping(1, "ann.home.ipop").expect("linked").rtt_us, 7);
}

#[test]
fn everybody_is_linked_to_everybody_and_agrees() {
    let (mut world, network) = family(4);
    let names = ["ann", "bob", "carol", "dave"];
    for machine in 0..4 {
        let others: Vec<&str> = names
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != machine)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(world.linked(machine), others);
    }
    let logs: std::collections::BTreeSet<Vec<u8>> = (0..4)
        .map(|m| {
            world.machines[m].stored.clone().expect("saved").groups[0]
                .log
                .iter()
                .flat_map(|e| e.0.clone())
                .collect()
        })
        .collect();
    assert_eq!(logs.len(), 1);
    assert!(
        world.status(3).groups[0].drops.is_empty(),
        "{:?}",
        world.status(3).groups[0].drops
    );
    let own = world.addresses(2, network);
    let seen = world.status(0).groups[0]
        .peers
        .iter()
        .find(|p| p.name == "carol")
        .map(|p| p.addresses.clone());
    assert_eq!(seen, Some(own));
}

#[test]
fn a_member_lets_in_while_the_founder_is_away() {
    let (mut world, network) = family(2);
    // Bob never heard of this grant: the request brings it.
    let old = world.machines[1].stored.clone();
    let invite = world.invite(0, 1);
    world.machines[1].stored = old;
    world.power_off(0, network);
    world.crash_controller(1);
    let newcomer = world.grow();
    let joined = world.join(newcomer, &invite).expect("let in by bob");
    assert_eq!(joined.member, "bob");
    assert_eq!(world.machines[1].stored.clone().expect("saved").groups[0].log.len(), 5);
    assert_eq!(
        world.machines[newcomer].stored.clone().expect("saved").groups[0]
            .log
            .len(),
        5
    );
}

#[test]
fn a_used_up_invite_is_refused_and_leaves_nothing() {
    let mut world = World::new(3);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    world.join(1, &invite).expect("let in");
    let (kind, text) = kind_of(world.join(2, &invite));
    assert_eq!(
        (kind, text.as_str()),
        (ErrorKind::Invite, "the invite is used up: ask for a new one")
    );
    assert!(world.nothing_left(2));
    assert_eq!(world.linked(0), ["bob"]);
}

#[test]
fn of_two_that_use_the_last_use_at_two_members_one_stays() {
    let (mut world, network) = family(2);
    let invite = world.invite(0, 1);
    let (first, second) = (world.grow(), world.grow());
    let (ann, bob) = (world.node(0, network), world.node(1, network));
    // Two halves that do not hear of each other: each member lets one in.
    world.apart = [(0, 1), (0, second), (1, first), (first, second)].into();
    world.walls.insert((ann, bob));
    world.cut(0, network, bob, false);
    world.settle();
    let one = world.join(first, &invite).expect("let in by ann");
    let two = world.join(second, &invite).expect("let in by bob");
    assert_eq!((one.member.as_str(), two.member.as_str()), ("ann", "bob"));
    world.reunite(network);
    world.pass(Duration::from_secs(60));
    let out: Vec<usize> = [first, second]
        .into_iter()
        .filter(|m| world.status(*m).health.iter().any(|h| h.code == "not_a_member"))
        .collect();
    assert_eq!(out.len(), 1, "one of the two is told that its admission does not count");
    let stays = if out[0] == first { "dave" } else { "carol" };
    assert_eq!(world.linked(0), ["bob", stays]);
    assert_eq!(world.linked(1), ["ann", stays]);
    assert!(world.linked(out[0]).is_empty());
    world.leave(out[0]).expect("forgets it");
    assert!(world.nothing_left(out[0]));
}

#[test]
fn an_expired_invite_is_refused_by_joiner_and_sponsor() {
    let mut world = World::new(2);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    world.pass(Duration::from_secs(3600 + 601));
    let (kind, text) = kind_of(world.join(1, &invite));
    assert_eq!(kind, ErrorKind::Invite);
    assert!(text.starts_with("the invite expired 10 minutes ago"), "{text}");
    // A joiner whose clock stands still does not get past the sponsor's.
    world.machines[0].clock_offset = 3600;
    let invite = world.invite(0, 1);
    world.machines[0].clock_offset = 3600 * 3;
    let (kind, text) = kind_of(world.join(1, &invite));
    assert_eq!(kind, ErrorKind::Invite);
    assert!(text.contains("by the clock of ann"), "{text}");
    assert!(world.nothing_left(1));
}

#[test]
fn a_foreign_or_broken_invite_touches_nothing() {
    let mut world = World::new(2);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    world.machines[1].calls.clear();
    for bad in ["ipop://abc", "hello", &invite[..invite.len() - 9]] {
        assert_eq!(kind_of(world.join(1, bad)).0, ErrorKind::Invite);
    }
    assert!(world.machines[1].calls.is_empty() && !world.is_in_a_room(1));
}

#[test]
fn who_leaves_is_forgotten_by_all_and_leaves_nothing() {
    let (mut world, network) = family(3);
    world.leave(1).expect("left");
    assert!(world.nothing_left(1));
    world.pass(Duration::from_secs(5));
    for machine in [0, 2] {
        assert_eq!(
            world.status(machine).groups[0].peers.len(),
            1,
            "bob is gone for {machine}"
        );
    }
    // And comes back later by the same invite, which counts one node once.
    world.pass(Duration::from_secs(2));
    let invite = world.invite(0, 1);
    let joined = world.join(1, &invite).expect("let in again");
    assert_eq!(
        (joined.group.network, joined.group.host_name.as_str()),
        (network, "bob")
    );
    world.leave(0).expect("the founder may leave too");
    assert!(world.nothing_left(0));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.linked(2), ["bob"]);
}

#[test]
fn a_tincan_that_restarts_is_given_everything_and_linked_at_once() {
    let (mut world, network) = family(3);
    let addresses = world.addresses(1, network);
    let before = world.elapsed();
    world.crash_tincan(1);
    assert_eq!(world.elapsed(), before, "nothing waited for a timer");
    assert_eq!(world.addresses(1, network), addresses);
    assert_eq!(world.linked(1), ["ann", "carol"]);
    assert_eq!(world.linked(0), ["bob", "carol"]);
    let names = world.machines[1]
        .calls
        .iter()
        .filter(|c| matches!(c, LinkCall::SetNames(_)))
        .count();
    assert!(names >= 2, "once at joining, once now");
}

#[test]
fn a_controller_that_restarts_disturbs_nothing() {
    let (mut world, network) = family(3);
    world.crash_controller(1);
    world.pass(Duration::from_secs(60));
    let disturbing: Vec<&LinkCall> = world.machines[1]
        .calls
        .iter()
        .filter(|call| {
            !matches!(
                call,
                LinkCall::Subscribe(_)
                    | LinkCall::State(_)
                    | LinkCall::SetNames(_)
                    | LinkCall::Sign(_)
                    | LinkCall::SendMessage(_)
            )
        })
        .collect();
    assert!(disturbing.is_empty(), "{disturbing:?}");
    assert_eq!(world.linked(1), ["ann", "carol"]);
    let group = &world.status(1).groups[0];
    assert_eq!((group.network, group.host_name.as_str()), (network, "bob"));
    assert_eq!(world.status(0).health, []);
}

#[test]
fn what_a_restarted_controller_missed_comes_by_comparing_logs() {
    let (mut world, _) = family(2);
    let old = world.machines[1].stored.clone();
    let newcomer = world.grow();
    let invite = world.invite(0, 1);
    world.join(newcomer, &invite).expect("let in");
    // Bob's disk had an older log.
    world.machines[1].stored = old;
    world.crash_controller(1);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.linked(1), ["ann", "carol"]);
}

#[test]
fn a_lost_link_is_opened_again_while_the_peer_is_there() {
    let (mut world, network) = family(2);
    let (ann, bob) = (world.node(0, network), world.node(1, network));
    world.walls.insert((ann, bob));
    world.cut(0, network, bob, false);
    world.settle();
    assert!(world.linked(0).is_empty());
    world.walls.clear();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.linked(0), ["bob"]);
    world.power_off(1, network);
    world.pass(Duration::from_secs(3));
    let peers = &world.status(0).groups[0].peers;
    assert_eq!(peers[0].connection, Connection::Offline);
    world.machines[0].calls.clear();
    world.pass(Duration::from_secs(600));
    assert!(
        !world.machines[0]
            .calls
            .iter()
            .any(|c| matches!(c, LinkCall::OpenLink(_))),
        "nobody is there to be called"
    );
}

#[test]
fn members_carry_signals_when_the_rendezvous_is_dead() {
    let (mut world, network) = family(3);
    world.kill_room();
    assert_eq!(world.linked(1), ["ann", "carol"], "links do not need it");
    let carol = world.node(2, network);
    world.cut(1, network, carol, false);
    world.settle();
    assert_eq!(world.linked(1), ["ann"]);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.linked(1), ["ann", "carol"]);
    let health = world.status(1).health;
    assert_eq!(
        health.iter().map(|h| h.code.as_str()).collect::<Vec<_>>(),
        ["rendezvous"]
    );
}

#[test]
fn a_rendezvous_that_refuses_ends_create_and_join_at_once() {
    for fault in [
        RendezvousFault::WrongPassword,
        RendezvousFault::Impostor,
        RendezvousFault::RegistrationRefused,
    ] {
        let mut world = World::new(2);
        world.machines[0].rendezvous_fault = Some(fault);
        let (kind, text) = kind_of(world.create(0));
        assert_eq!(kind, ErrorKind::Refused);
        assert!(text.starts_with("rdv.example:5222 does not let us in"), "{text}");
        assert!(world.nothing_left(0));
        world.machines[0].rendezvous_fault = None;
        world.create(0).expect("made now");
        let invite = world.invite(0, 1);
        world.machines[1].rendezvous_fault = Some(fault);
        assert_eq!(kind_of(world.join(1, &invite)).0, ErrorKind::Refused);
        assert_eq!(world.elapsed(), Duration::ZERO);
        assert!(world.nothing_left(1));
    }
}

#[test]
fn a_rendezvous_that_is_not_reached_is_said_in_time() {
    let mut world = World::new(1);
    world.room_down = true;
    let (kind, text) = kind_of(world.create(0));
    assert_eq!(kind, ErrorKind::Unreachable);
    assert!(text.starts_with("rdv.example:5222"), "{text}");
    assert_eq!(
        world.elapsed(),
        Duration::from_secs(3),
        "not at the next try, which may be long after"
    );
    assert!(world.nothing_left(0));
}

#[test]
fn a_join_that_finds_nobody_says_what_was_reached() {
    let (mut world, network) = family(1);
    let invite = world.invite(0, 1);
    world.power_off(0, network);
    let newcomer = world.grow();
    let (kind, text) = kind_of(world.join(newcomer, &invite));
    assert_eq!(kind, ErrorKind::Timeout);
    assert!(text.contains("was reached, but no member of home is online"), "{text}");
    assert!(world.nothing_left(newcomer));
}

#[test]
fn a_join_without_a_path_keeps_the_membership_and_says_so() {
    let mut world = World::new(2);
    let network = world.create(0).expect("made").network;
    let invite = world.invite(0, 1);
    let pair = (world.node(0, network), world.node(1, network));
    world.walls.insert(pair);
    let (kind, text) = kind_of(world.join(1, &invite));
    assert_eq!(kind, ErrorKind::Timeout);
    assert!(
        text.starts_with("home let this node in, but no member could be linked"),
        "{text}"
    );
    world.walls.clear();
    world.pass(Duration::from_secs(40));
    assert_eq!(world.linked(1), ["ann"]);
}

#[test]
fn without_permission_for_a_nic_nothing_is_made_and_nobody_asked() {
    let mut world = World::new(2);
    world.deny_nic(0, true);
    assert_eq!(
        kind_of(world.create(0)),
        (ErrorKind::Permission, "no permission for TUN: run as root".into())
    );
    assert!(world.nothing_left(0));
    world.deny_nic(0, false);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    world.deny_nic(1, true);
    assert_eq!(kind_of(world.join(1, &invite)).0, ErrorKind::Permission);
    assert!(world.nothing_left(1));
    assert_eq!(
        world.machines[0].stored.clone().expect("saved").groups[0].log.len(),
        2,
        "nobody was let in"
    );
}

#[test]
fn a_subnet_that_collides_is_refused_by_name() {
    let mut world = World::new(2);
    let routes: Vec<(Cidr, String)> = vec![
        ("0.0.0.0/0".parse().expect("a route"), "eth0".into()),
        ("192.168.7.0/24".parse().expect("a route"), "wlan0".into()),
    ];
    world.machines[1].routes.clone_from(&routes);
    world.connect(1);
    let call = || ControlCall::CreateGroup(creation("home", Some("192.168.0.0/16")));
    let (kind, text) = kind_of(world.wait::<GroupInfo>(1, call()));
    assert_eq!(kind, ErrorKind::Taken);
    assert!(text.contains("192.168.7.0/24 through wlan0"), "{text}");
    world.wait::<GroupInfo>(0, call()).expect("no such route there");
    let invite = world.invite(0, 1);
    let (kind, text) = kind_of(world.join(1, &invite));
    assert_eq!(kind, ErrorKind::Taken);
    assert!(text.contains("through wlan0"), "{text}");
    assert!(world.nothing_left(1));
}

#[test]
fn bad_wishes_are_refused_with_their_field() {
    let mut world = World::new(1);
    for (call, field) in [
        (creation("No Name", None), "name"),
        (creation("home", Some("10.0.0.0/30")), "subnet"),
        (creation("home", Some("fd00::/48")), "subnet"),
        (
            api::control::CreateGroup {
                server: "a b".into(),
                ..creation("home", None)
            },
            "server",
        ),
        (
            api::control::CreateGroup {
                mtu: Some(1279),
                ..creation("home", None)
            },
            "mtu",
        ),
    ] {
        let error = world
            .wait::<GroupInfo>(0, ControlCall::CreateGroup(call))
            .expect_err("refused");
        assert_eq!(
            (error.kind, error.field.as_deref()),
            (ErrorKind::InvalidParams, Some(field))
        );
    }
    let (kind, text) = kind_of(world.ping(0, "nobody"));
    assert_eq!(kind, ErrorKind::NotFound, "{text}");
}

#[test]
fn down_takes_everything_away_and_up_brings_it_back() {
    let (mut world, network) = family(2);
    let _: Empty = world.wait(1, ControlCall::Down(Empty {})).expect("down");
    assert!(!world.is_in_a_room(1));
    assert!(world.linked(0).is_empty());
    let status = world.status(1);
    assert!(!status.up && status.groups.len() == 1 && status.health.is_empty());
    // It stays down over restarts of both.
    world.crash_controller(1);
    world.crash_tincan(1);
    world.pass(Duration::from_secs(30));
    assert!(world.linked(0).is_empty() && !world.is_in_a_room(1));
    let _: Empty = world.wait(1, ControlCall::Up(Empty {})).expect("up");
    world.pass(Duration::from_secs(3));
    assert_eq!(world.linked(1), ["ann"]);
    assert_eq!(world.addresses(1, network).len(), 2);
}

#[test]
fn up_says_what_the_nic_lacks() {
    let (mut world, _) = family(1);
    let _: Empty = world.wait(0, ControlCall::Down(Empty {})).expect("down");
    world.deny_nic(0, true);
    let (kind, _) = kind_of(world.wait::<Empty>(0, ControlCall::Up(Empty {})));
    assert_eq!(kind, ErrorKind::Permission);
    world.deny_nic(0, false);
    world.pass(Duration::from_secs(10));
    assert!(world.is_in_a_room(0), "it is tried again");
    // A controller that finds a network without its NIC sets it again; one that takes it down leaves nothing.
    world.deny_nic(0, true);
    world.crash_tincan(0);
    world.pass(Duration::from_secs(5));
    let codes: Vec<String> = world.status(0).health.into_iter().map(|h| h.code).collect();
    assert_eq!(codes, ["nic"]);
    world.crash_controller(0);
    world.deny_nic(0, false);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.status(0).health, []);
}

#[test]
fn without_tincan_every_request_is_answered() {
    let (mut world, _) = family(1);
    let now = Now {
        mono: std::time::Instant::now(),
        unix: 0,
    };
    world.machines[0].controller.handle_tincan_down(now, "killed".into());
    let status = world.status(0);
    assert!(!status.tincan && status.health.iter().any(|h| h.code == "tincan"));
    assert_eq!(kind_of(world.create(0)).0, ErrorKind::State);
    assert_eq!(kind_of(world.leave(0)).0, ErrorKind::State);
    assert_eq!(kind_of(world.ping(0, "bob")).0, ErrorKind::State);
    assert_eq!(
        kind_of(world.wait::<NetReport>(0, ControlCall::CheckNetwork(Empty {}))).0,
        ErrorKind::State
    );
}

#[test]
fn a_state_that_cannot_be_written_breaks_the_promise_and_says_so() {
    let mut world = World::new(1);
    world.machines[0].save_fails = true;
    let (kind, text) = kind_of(world.create(0));
    assert_eq!(kind, ErrorKind::Internal);
    assert!(text.contains("read-only file system"), "{text}");
    assert!(world.status(0).health.iter().any(|h| h.code == "state"));
}

#[test]
fn a_clock_that_is_off_is_said() {
    let mut world = World::new(2);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    world.machines[1].clock_offset = 1800;
    world.join(1, &invite).expect("within the invite's time");
    let health = world.status(1).health;
    assert!(
        health
            .iter()
            .any(|h| h.code == "clock" && h.message.contains("30 minutes")),
        "{health:?}"
    );
}

#[test]
fn pings_name_peers_by_anything() {
    let (mut world, network) = family(2);
    let peer = world.status(0).groups[0].peers[0].clone();
    let mut names = vec!["bob".to_owned(), "bob.home".to_owned(), peer.node.to_string()];
    names.extend(peer.addresses.iter().map(ToString::to_string));
    for name in names {
        assert_eq!(world.ping(0, &name).expect("linked").node, peer.node);
    }
    assert_eq!(kind_of(world.ping(0, "ann")).0, ErrorKind::InvalidParams);
    world.power_off(1, network);
    let (kind, text) = kind_of(world.ping(0, "bob"));
    assert_eq!(kind, ErrorKind::Unreachable);
    assert!(text.starts_with("bob is not linked"), "{text}");
}
