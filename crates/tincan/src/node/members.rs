//! Which members may stand between us and a peer, and what each link is told of that.
//!
//! Promises: only a member that both ends have a link with, in the same network, over a path that leads through no other
//! member; both ends prefer the same ones, and different pairs prefer different ones.
//! Refuses to know: whether a way works (ICE proves it), what travels over it.

use std::time::{Duration, Instant};

use api::{NetworkId, NodeId};

use super::Node;
use super::peers::{Network, Peer};
use super::signals::Between;
use crate::ice::Rank;
use crate::limits;
use crate::link::{Link, LinkId};
use crate::transit::{PeerNumber, ShortId, Way};

/// Links are told of members at most this often: in a group that comes up together there is news with every link.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// When links are told.
#[derive(Default)]
pub(super) struct Telling {
    pub(super) due: Option<Instant>,
    last: Option<Instant>,
}

/// A member that may stand between.
#[derive(Clone, Copy)]
struct Member {
    node: NodeId,
    number: PeerNumber,
    rank: Rank,
}

impl Node {
    /// A link came up, moved or went: others may have new ways, or lose some.
    pub(super) fn note_members(&mut self, now: Instant) {
        let soonest = self.telling.last.map_or(now, |last| now.max(last + TELL_EVERY));
        self.telling.due.get_or_insert(soonest);
    }

    /// Tells every link that has no direct path which members there are now, when it is time. One that has asks when it
    /// loses it.
    pub(super) fn tell_members(&mut self, now: Instant) {
        if self.telling.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        self.telling.last = Some(now);
        let networks: Vec<NetworkId> = self.networks.keys().copied().collect();
        for network in networks {
            let links = self.links.iter();
            let wanting = links.filter(|(_, e)| e.link.config.network == network && e.link.wants_members());
            let wanting: Vec<LinkId> = wanting.map(|(id, _)| *id).collect();
            if wanting.is_empty() {
                continue;
            }
            let usable = self.usable(network);
            for id in wanting {
                self.tell_link(now, id, &usable);
            }
        }
    }

    /// The same for one link, at once.
    pub(super) fn tell_members_to(&mut self, now: Instant, id: LinkId) {
        if let Some(network) = self.links.get(&id).map(|entry| entry.link.config.network) {
            let usable = self.usable(network);
            self.tell_link(now, id, &usable);
        }
    }

    /// A number for a new peer.
    pub(super) fn next_number(&mut self, whose: Between) -> PeerNumber {
        loop {
            // 0 would be our own end. There are far more numbers than peers.
            self.last_number = self.last_number.wrapping_add(1).max(1);
            let number = PeerNumber(self.last_number);
            if let std::collections::btree_map::Entry::Vacant(free) = self.numbers.entry(number) {
                free.insert(whose);
                return number;
            }
        }
    }

    /// Whom a new link names to a peer that names these.
    pub(super) fn members_to_name(&self, between: Between, theirs: &[NodeId]) -> Vec<NodeId> {
        let Some(net) = self.networks.get(&between.network) else {
            return Vec::new();
        };
        let both = self.usable_of(net, theirs, between.peer);
        named(&self.usable(between.network), &both, net.key.id(), between.peer)
    }

    fn tell_link(&mut self, now: Instant, id: LinkId, usable: &[Member]) {
        let Some(link) = self.links.get(&id).map(|entry| &entry.link) else {
            return;
        };
        let Some(net) = self.networks.get(&link.config.network) else {
            return;
        };
        let (own, peer) = (net.key.id(), link.config.peer);
        let Some(number) = net.peers.get(&peer).map(|peer| peer.number) else {
            return;
        };
        let both = self.usable_of(net, link.peer_members(), peer);
        let named = named(usable, &both, own, peer);
        let ways = in_order(both, own, peer).into_iter().take(limits::WAYS);
        let ways = ways.map(|member| Way {
            member: member.number,
            peer: number,
        });
        let ways = ways.collect();
        self.with_link(now, id, |link, cx| link.set_members(cx, named, ways));
    }

    /// The members of a network that may stand between, as many as are considered: the same ones at both ends of a link
    /// where both have links with all.
    fn usable(&self, network: NetworkId) -> Vec<Member> {
        let peers = self.networks.get(&network).into_iter().flat_map(|net| &net.peers);
        let mut members: Vec<Member> = peers.filter_map(|(node, peer)| self.member(*node, peer)).collect();
        members.sort_by_key(|member| (member.rank, member.node));
        members.truncate(limits::MEMBERS_CONSIDERED);
        members
    }

    /// Those of some that may stand between us and a peer.
    fn usable_of(&self, net: &Network, some: &[NodeId], peer: NodeId) -> Vec<Member> {
        let others = some.iter().filter(|node| **node != peer);
        let known = others.filter_map(|node| net.peers.get_key_value(node));
        known.filter_map(|(node, peer)| self.member(*node, peer)).collect()
    }

    fn member(&self, node: NodeId, peer: &Peer) -> Option<Member> {
        let link = self.link_up(peer)?;
        let rank = link.paths().rank();
        // Who reaches even members only over a stream has a server that relays to everybody.
        (link.carries() && rank <= Rank::Turn).then_some(Member {
            node,
            number: peer.number,
            rank,
        })
    }

    /// A peer's link that came up.
    pub(super) fn link_up(&self, peer: &Peer) -> Option<&Link> {
        Some(&self.links.get(&peer.current?)?.link)
    }
}

impl Network {
    /// The peer whose id begins so.
    pub(super) fn peer_by_start(&self, short: ShortId) -> Option<NodeId> {
        let (node, _) = self.peers.range(short.first()..).next()?;
        (ShortId::of(*node) == short).then_some(*node)
    }
}

/// Those whom the peer named too come first.
fn named(usable: &[Member], both: &[Member], own: NodeId, peer: NodeId) -> Vec<NodeId> {
    let is_other = |member: &&Member| member.node != peer && both.iter().all(|b| b.node != member.node);
    let others = usable.iter().filter(is_other).copied().collect();
    let mut members = in_order(both.to_vec(), own, peer);
    members.extend(in_order(others, own, peer));
    members.truncate(limits::LISTED_MEMBERS);
    members.into_iter().map(|member| member.node).collect()
}

/// The better path first; among equals an order that both ends know and that is another for every pair.
fn in_order(mut members: Vec<Member>, own: NodeId, peer: NodeId) -> Vec<Member> {
    let mixed = |member: &Member| -> [u8; 32] { std::array::from_fn(|at| member.node.0[at] ^ own.0[at] ^ peer.0[at]) };
    members.sort_by_cached_key(|member| (member.rank, mixed(member)));
    members
}
