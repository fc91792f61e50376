//! Datagrams of one link inside another: wrapped, passed on for others, unwrapped.
//!
//! Promises: passed on is only what a peer sealed for us, to a peer of the same network that has a link with us, once,
//! under the name of who sealed it; one datagram in is one out at most; every one that is dropped is counted.
//! Refuses to know: what is in them; that is sealed for somebody else.

use std::net::SocketAddr;
use std::time::Instant;

use api::NodeId;

use super::Node;
use super::peers::{Network, Peer};
use super::signals::Between;
use crate::fast::transit::{Inside, Name, Neighbour};
use crate::forward::DropReason;
use crate::limits;
use crate::link::LinkId;
use crate::record::ReceiverIndex;
use crate::transit::{self, HERE, ShortId, Transit, Way};

impl Node {
    /// A worker opened a transit payload that it leaves to us (`fast::Inbound::Inside`).
    pub fn handle_inside(&mut self, now: Instant, receiver: ReceiverIndex, payload: &[u8]) {
        self.on_inside(now, receiver, payload);
        self.settle(now);
    }

    pub(super) fn on_inside(&mut self, now: Instant, receiver: ReceiverIndex, payload: &[u8]) {
        if let Some(id) = self.indices.find(receiver)
            && let Some(config) = self.links.get(&id).map(|entry| &entry.link.config)
        {
            let (network, peer) = (config.network, config.peer);
            self.on_transit(now, id, Between { network, peer }, payload);
        }
    }

    /// A link's peer sealed a transit payload for us.
    pub(super) fn on_transit(&mut self, now: Instant, id: LinkId, sender: Between, payload: &[u8]) {
        let verdict = match Transit::parse(payload) {
            Ok(Transit::Onward { hops: 0, .. }) => Err(DropReason::TransitHops),
            Ok(Transit::Onward { to, datagram, .. }) => self.pass_on(now, sender, to, datagram),
            Ok(Transit::Arrived { from, datagram }) => self.unwrap_from(now, sender, from, datagram),
            Err(_) => Err(DropReason::TransitForm),
        };
        if let Err(reason) = verdict
            && let Some(entry) = self.links.get(&id)
        {
            entry.link.shared.drops.count(reason);
        }
    }

    fn pass_on(&mut self, now: Instant, from: Between, to: ShortId, datagram: &[u8]) -> Result<(), DropReason> {
        let net = self.networks.get(&from.network).ok_or(DropReason::TransitLink)?;
        let to = net.peer_by_start(to).filter(|to| *to != from.peer);
        let peer = to.ok_or(DropReason::TransitLink)?;
        let to = Between { peer, ..from };
        let head = transit::arrived(ShortId::of(from.peer));
        let id = self.send_inside(now, to, &head, datagram)?;
        if let Some(entry) = self.links.get(&id) {
            entry.link.shared.on_passed_on(1, datagram.len());
        }
        Ok(())
    }

    /// A member passed on what a peer of ours sent: it is handled as if it had come from the way's address.
    fn unwrap_from(
        &mut self,
        now: Instant,
        through: Between,
        from: ShortId,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let net = self.networks.get(&through.network).ok_or(DropReason::TransitLink)?;
        let numbers = net.peers.get(&through.peer).zip(net.peer_by_start(from));
        let numbers = numbers.and_then(|(member, from)| Some((member.number, net.peers.get(&from)?.number)));
        let (member, peer) = numbers.ok_or(DropReason::TransitLink)?;
        let remote = Way { member, peer }.address();
        self.handle_peers(now, HERE, remote, &mut datagram.to_vec());
        Ok(())
    }

    /// Sends a datagram of a link over a way.
    pub(super) fn send_by_way(&mut self, now: Instant, way: Way, datagram: &[u8]) {
        let ends = [way.member, way.peer].map(|number| self.numbers.get(&number).copied());
        let [Some(member), Some(to)] = ends else {
            return self.drops.count(DropReason::TransitLink);
        };
        let head = transit::onward(ShortId::of(to.peer));
        let verdict = self.send_inside(now, member, &head, datagram);
        let Err(reason) = verdict else {
            return;
        };
        self.drops.count(reason);
        if reason == DropReason::TooBig {
            let peer = self.networks.get(&to.network).and_then(|net| net.peers.get(&to.peer));
            let links = peer.map(|peer| [peer.current, peer.attempt]);
            for id in links.into_iter().flatten().flatten() {
                self.tell_room(now, id);
            }
        }
    }

    /// Wraps a datagram and seals it for a peer whose link may carry it; which that was.
    fn send_inside(&mut self, now: Instant, to: Between, head: &[u8], datagram: &[u8]) -> Result<LinkId, DropReason> {
        let net = self.networks.get(&to.network);
        let id = net
            .and_then(|net| net.peers.get(&to.peer))
            .and_then(|peer| peer.current);
        let id = id.ok_or(DropReason::TransitLink)?;
        let entry = self.links.get(&id).filter(|entry| entry.link.carries());
        let most = entry.ok_or(DropReason::TransitLink)?.link.payload_max();
        let payload = [head, datagram].concat();
        // A handshake has no shorter datagrams; records that are too long must be missed where sizes are looked for.
        let is_record = matches!(datagram.first(), Some(0x80..=0xBF));
        let is_long = payload.len() > most && datagram.len() <= limits::HANDSHAKE_DATAGRAM;
        let may_be_cut = !is_record && is_long && self.cut_rate.allows(now);
        let sent = self.with_link(now, id, |link, cx| link.send_inside(cx, &payload, may_be_cut));
        sent.unwrap_or(Err(DropReason::TransitLink)).map(|()| id)
    }

    /// A link whose path goes through a member learns what ours with the member carries.
    pub(super) fn tell_room(&mut self, now: Instant, id: LinkId) {
        let way = self.links.get(&id).and_then(|entry| entry.link.way());
        let member = way.and_then(|way| self.numbers.get(&way.member));
        let net = member.and_then(|member| self.networks.get(&member.network)?.peers.get(&member.peer));
        let Some(outer) = net.and_then(|peer| self.link_up(peer)).filter(|outer| !outer.cuts()) else {
            return;
        };
        let room = outer.payload_max().saturating_sub(transit::HEAD);
        self.with_link(now, id, |link, cx| link.on_room(cx, room));
    }

    /// A way as workers see it; none where the link with the member does not carry it.
    pub(super) fn inside(&self, way: Way) -> Option<Inside> {
        let member = self.numbers.get(&way.member)?;
        let to = self.numbers.get(&way.peer)?;
        let peer = self.networks.get(&member.network)?.peers.get(&member.peer)?;
        let outer = self.link_up(peer).filter(|outer| outer.carries())?.config.slot;
        let to = ShortId::of(to.peer);
        Some(Inside { outer, to, way })
    }

    /// All peers of a network, for transit.
    pub(super) fn neighbours(&self, network: &Network) -> Vec<Neighbour> {
        let neighbour = |(node, peer): (&NodeId, &Peer)| {
            let link = self.link_up(peer).filter(|link| link.carries());
            Neighbour {
                name: name(*node, peer),
                slot: link.map(|link| link.config.slot),
            }
        };
        network.peers.iter().map(neighbour).collect()
    }

    /// The name of a way's member, and where datagrams for it really go.
    pub(super) fn way_in_words(&self, way: Way) -> Option<(String, SocketAddr, SocketAddr)> {
        let member = self.numbers.get(&way.member)?;
        let peer = self.networks.get(&member.network)?.peers.get(&member.peer)?;
        let ends = self.link_up(peer)?.paths().last()?.ends;
        let name = peer.config.name.clone().unwrap_or_else(|| member.peer.short());
        Some((name, ends.local, ends.remote)).filter(|_| !transit::is_reserved(ends.remote.ip()))
    }
}

pub(super) fn name(node: NodeId, peer: &Peer) -> Name {
    Name {
        short: ShortId::of(node),
        number: peer.number,
    }
}
