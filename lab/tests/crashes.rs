//! What a crash of one process costs: of the controller nothing, of tincan a moment.

use std::time::{Duration, Instant};

use api::NodeId;
use api::status::GroupStatus;
use lab::{Failure, LINK_WITHIN, Node, Rendezvous, Rig, Role, Site, until};

/// What the issue of this program promises for links after a crash of tincan.
const LINKED_AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// ann at one site, bob at the other, linked.
fn two(rig: &mut Rig, sites: [Site; 2]) -> Result<(Rendezvous, Node, Node), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    let ann = Node::start(&rig.host("ann", sites[0])?)?;
    let bob = Node::start(&rig.host("bob", sites[1])?)?;
    let created = ann.create("home", rendezvous.address())?;
    bob.join(&created.invite)?;
    ann.wait_linked("bob", LINK_WITHIN)?;
    bob.wait_linked("ann", LINK_WITHIN)?;
    Ok((rendezvous, ann, bob))
}

/// What a controller knows of a group, without what changes by itself.
fn known(group: GroupStatus) -> impl PartialEq + std::fmt::Debug {
    let peers: Vec<(String, NodeId, Vec<_>, bool)> = group
        .peers
        .into_iter()
        .map(|peer| {
            let linked = lab::is_linked(&peer);
            (peer.name, peer.node, peer.addresses, linked)
        })
        .collect();
    let online = group.rendezvous.iter().all(|server| server.online);
    let own = (group.name, group.network, group.node, group.host_name, group.founder);
    (own, group.addresses, group.subnets, group.nic, peers, online)
}

/// Sequence numbers of the answers to `ping`.
fn answers(said: &str) -> Vec<usize> {
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
    said.lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(number)
        .collect()
}

#[test]
fn controller_killed() {
    lab::run(|rig| {
        let (_rendezvous, ann, bob) = two(rig, [Site::PortRestricted, Site::Public])?;
        let before = known(ann.group()?);
        let target = bob.addresses()?[0].to_string();
        ann.wait_ping(&target, LINK_WITHIN)?;
        let mut ping = ann.host().command("ping");
        ping.args(["-i", "0.01", &target]);
        let mut ping = ann.host().spawn("ping", &mut ping)?;
        until("the first answers", LINK_WITHIN, || match answers(&ping.said()) {
            some if some.len() > 10 => Ok(()),
            few => Err(format!("{few:?}")),
        })?;
        let tincan = ann.process(Role::Tincan);
        let dead = ann.kill(Role::Controller)?;
        until("a new controller that knows everything", LINK_WITHIN, || {
            if ann.process(Role::Controller).is_none_or(|pid| pid == dead) {
                return Err("no new process".into());
            }
            let now = known(ann.group().map_err(|failure| failure.to_string())?);
            if now == before {
                Ok(())
            } else {
                Err(format!("{now:?} instead of {before:?}"))
            }
        })?;
        let counted = answers(&ping.said());
        until("a hundred more answers", LINK_WITHIN, || match answers(&ping.said()) {
            now if now.len() > counted.len() + 100 => Ok(()),
            now => Err(format!("{}", now.len())),
        })?;
        ping.signal("INT")?;
        ping.wait(LINK_WITHIN)?;
        let answered = answers(&ping.said());
        let all: Vec<usize> = (1..=answered.len()).collect();
        assert_eq!(answered, all, "{}", ping.said());
        assert_eq!(ann.process(Role::Tincan), tincan, "tincan was restarted too");
        // The new one can do what the old one could.
        ann.ping("bob")?;
        ann.invite("home", 1)?;
        Ok(())
    });
}

#[test]
fn tincan_killed() {
    linked_again([Site::PortRestricted, Site::Public]);
}

#[test]
fn tincan_killed_behind_a_relay() {
    linked_again([Site::Symmetric, Site::Symmetric]);
}

#[test]
fn tincan_killed_where_no_udp_passes() {
    linked_again([Site::UdpBlocked, Site::PortRestricted]);
}

fn linked_again(sites: [Site; 2]) {
    lab::run(|rig| {
        let (_rendezvous, ann, bob) = two(rig, sites)?;
        let (from_ann, from_bob) = (bob.addresses()?[0].to_string(), ann.addresses()?[0].to_string());
        for (victim, other) in [(&ann, &bob), (&bob, &ann)] {
            ann.wait_ping(&from_ann, LINK_WITHIN)?;
            victim.kill(Role::Tincan)?;
            let killed = Instant::now();
            ann.wait_ping(&from_ann, LINK_WITHIN)?;
            bob.wait_ping(&from_bob, LINK_WITHIN)?;
            let took = killed.elapsed();
            assert!(took <= LINKED_AGAIN_WITHIN, "linked again only after {took:?}");
            eprintln!("{} killed: both ways again after {took:?}", victim.host().name());
            victim.wait_linked(other.host().name(), LINK_WITHIN)?;
            other.wait_linked(victim.host().name(), LINK_WITHIN)?;
        }
        Ok(())
    });
}
