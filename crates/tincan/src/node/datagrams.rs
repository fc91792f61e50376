//! Datagrams in and out: which machine they belong to, and the helpers that gather candidates and relay.
//!
//! Order of the demultiplexer: a STUN server's answer by its transaction, a TURN server's address, then the first byte:
//! STUN, record, handshake.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::link::Event;
use api::{NetworkId, NodeId};

use super::{IfAddr, Node, Output};
use crate::fast::{self, FastPath, Inbound, Tell};
use crate::forward::DropReason;
use crate::gather::GatherEvent;
use crate::ice::{plain, stun_username};
use crate::limits;
use crate::link::paths::Ends;
use crate::link::{Link, LinkId};
use crate::record::Header;
use crate::transit::{Way, is_reserved};
use crate::turn::{Handled, RelayOutput, Source, StreamId, StreamInput, TurnTransport};

/// Well before `Relays` takes a channel for unused.
const KEEP_CHANNEL: Duration = Duration::from_secs(60);

impl Node {
    /// A datagram came to our address `local` (unspecified where the kernel does not say).
    pub fn handle_udp(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &mut [u8]) {
        let (local, remote) = (plain(local), plain(remote));
        match fast::inbound(&self.snapshot, remote, bytes) {
            Inbound::Frames { network, range, tell } => {
                self.give_nic(network, &bytes[range]);
                self.on_tell(now, tell);
            }
            Inbound::PassOn {
                receiver,
                payload,
                tell,
                ..
            }
            | Inbound::Inside {
                receiver,
                payload,
                tell,
            } => {
                self.on_inside(now, receiver, &bytes[payload]);
                self.on_tell(now, tell);
            }
            Inbound::Dropped(_, tell) => self.on_tell(now, tell),
            Inbound::ToEngine => self.handle_rest(now, local, remote, bytes),
        }
        self.settle(now);
    }

    /// A worker opened a record that tells something (`fast::Inbound`).
    pub fn handle_opened(&mut self, now: Instant, tell: Tell) {
        self.on_tell(now, Some(tell));
        self.settle(now);
    }

    /// A worker sealed the first frame after a rest (`fast::Outbound`).
    pub fn handle_wake(&mut self, now: Instant, slot: fast::LinkSlot) {
        self.on_wake(now, slot);
        self.settle(now);
    }

    pub(super) fn on_wake(&mut self, now: Instant, slot: fast::LinkSlot) {
        if let Some(Some(id)) = self.slots.get(slot.get()).copied() {
            self.with_link(now, id, |link, cx| link.watch(cx));
        }
    }

    fn on_tell(&mut self, now: Instant, tell: Option<Tell>) {
        if let Some(tell) = tell
            && let Some(id) = self.indices.find(tell.receiver)
        {
            self.with_link(now, id, |link, cx| link.handle_opened(cx, tell));
        }
    }

    /// Something happened to a byte stream to a TURN server.
    pub fn handle_stream(&mut self, now: Instant, stream: StreamId, input: StreamInput<'_>) {
        if !self.check_stream(now, stream, &input) {
            self.relays.handle_stream(now, stream, input);
        }
        self.settle(now);
    }

    /// The addresses of this host, and the ports of the shared sockets (none: no socket of that family).
    pub fn handle_addresses(&mut self, now: Instant, v4: Option<u16>, v6: Option<u16>, addresses: &[IfAddr]) {
        let port = |family, port: Option<u16>| port.map(|port| api::link::Port { family, port });
        self.ports = [port(4, v4), port(6, v6)].into_iter().flatten().collect();
        self.gatherer.set_ports(now, v4, v6);
        self.gatherer.handle_addresses(now, addresses);
        // Servers may see us elsewhere from now on, where they know no allocation.
        self.relays.verify(now);
        self.event(Event::AddressesChanged {});
        self.settle(now);
    }

    /// The router maps a port to us (PCP, NAT-PMP, UPnP), found by the shell.
    pub fn handle_mapping(&mut self, now: Instant, external: SocketAddr, internal: SocketAddr, lifetime: Duration) {
        self.gatherer.add_mapped(now, external, internal, lifetime);
        self.settle(now);
    }

    /// The kernel refused a datagram of `size` bytes to `remote` as too big for the path.
    pub fn handle_too_big(&mut self, now: Instant, remote: SocketAddr, size: usize) {
        let remote = plain(remote);
        for (id, in_channel) in self.links_towards(remote) {
            self.with_link(now, id, |link, cx| link.on_too_big(cx, in_channel, size));
        }
        self.settle(now);
    }

    /// Links whose datagrams go to this address; true: in a TURN server's channel.
    fn links_towards(&self, remote: SocketAddr) -> Vec<(LinkId, bool)> {
        let by_relay = |link: &Link| {
            let relay = self.relays.relay_of(link.paths().current()?.local)?;
            (self.relays.server_of(relay)? == remote).then_some(true)
        };
        let towards = |link| match self.fast_path(link)? {
            FastPath::Direct { remote: to, .. } => (to == remote).then_some(false),
            FastPath::Channel { .. } | FastPath::Member(_) | FastPath::Engine => by_relay(link),
        };
        let links = self.links.iter();
        links
            .filter_map(|(id, entry)| Some((*id, towards(&entry.link)?)))
            .collect()
    }

    /// Has the link to a peer say anything (kind, then body) in a control record or on its stream: for fuzzing.
    #[doc(hidden)]
    pub fn fuzz_inside(&mut self, now: Instant, network: NetworkId, peer: NodeId, on_stream: bool, bytes: &[u8]) {
        let current = self.peer_mut(network, peer).and_then(|peer| peer.current);
        if let Some(id) = current {
            self.with_link(now, id, |link, cx| link.fuzz_inside(cx, on_stream, bytes));
        }
        self.settle(now);
    }

    /// What the fast path does not know.
    fn handle_rest(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &mut [u8]) {
        // Known by server and transaction; before the relays, as one address may serve STUN and TURN.
        if self.check_datagram(now, local, remote, bytes) || self.gatherer.handle_udp(now, local, remote, bytes) {
            return;
        }
        match self.relays.handle_udp(now, remote, bytes) {
            Handled::Consumed => {}
            Handled::Data { relay, peer, range } => {
                if let Some(local) = self.relays.address_of(relay) {
                    self.handle_outside(now, local, peer, &mut bytes[range]);
                }
            }
            Handled::NotMine => self.handle_outside(now, local, remote, bytes),
        }
    }

    /// A datagram from a wire; what claims to come through a member comes inside its link.
    fn handle_outside(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &mut [u8]) {
        if is_reserved(remote.ip()) || is_reserved(local.ip()) {
            return self.drops.count(DropReason::Nonsense);
        }
        self.handle_peers(now, local, remote, bytes);
    }

    /// A datagram that should be a peer's.
    pub(super) fn handle_peers(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &mut [u8]) {
        let ends = Ends { local, remote };
        let verdict = match bytes.first() {
            Some(0x00..=0x03) => self.handle_stun(now, ends, bytes),
            Some(0x80..=0xBF) => self.handle_record(now, ends, bytes),
            Some(0x40..=0x7F | 0xC0..=0xFF) => self.handle_quic(now, ends, bytes),
            Some(0x04..=0x3F) | None => Err(DropReason::Nonsense),
        };
        if let Err(reason) = verdict {
            self.drops.count(reason);
        }
    }

    fn handle_stun(&mut self, now: Instant, ends: Ends, bytes: &[u8]) -> Result<(), DropReason> {
        let id = match stun_username(bytes) {
            Some((ours, _)) => self.ufrags.get(ours).copied(),
            None => self.transactions.find(now, bytes),
        };
        let id = id.ok_or(DropReason::Stun)?;
        match self.with_link(now, id, |link, cx| link.handle_stun(cx, ends, bytes)) {
            Some(true) => {
                self.note_remote(id, ends.remote);
                Ok(())
            }
            _ => Err(DropReason::Stun),
        }
    }

    fn handle_record(&mut self, now: Instant, ends: Ends, bytes: &mut [u8]) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        let id = self.indices.find(header.receiver).ok_or(DropReason::UnknownReceiver)?;
        let Some(entry) = self.links.get(&id) else {
            return Err(DropReason::UnknownReceiver);
        };
        let shared = entry.link.shared.clone();
        match self.with_link(now, id, |link, cx| link.handle_record(cx, ends, bytes)) {
            Some(Ok(())) => self.note_remote(id, ends.remote),
            Some(Err(reason)) => shared.drops.count(reason),
            None => {}
        }
        Ok(())
    }

    fn handle_quic(&mut self, now: Instant, ends: Ends, bytes: &[u8]) -> Result<(), DropReason> {
        let ids: Vec<LinkId> = match self.by_remote.get(&ends.remote) {
            Some(ids) => ids.iter().copied().collect(),
            None => return Err(DropReason::Handshake),
        };
        let taken = ids
            .into_iter()
            .any(|id| self.with_link(now, id, |link, cx| link.handle_quic(cx, ends, bytes)) == Some(true));
        if taken { Ok(()) } else { Err(DropReason::Handshake) }
    }

    /// A link's peer has proved to be at this address.
    fn note_remote(&mut self, id: LinkId, remote: SocketAddr) {
        let Some(entry) = self.links.get_mut(&id) else {
            return;
        };
        let room = entry.remotes.len() < 2 * limits::ICE_REMOTE_CANDIDATES + limits::PATHS;
        if room && entry.remotes.insert(remote) {
            self.by_remote.entry(remote).or_default().insert(id);
        }
    }

    // --- out ---

    /// Sends a datagram from a host or relayed address.
    pub(super) fn transmit(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        if let Some(way) = Way::of(remote) {
            return self.send_by_way(now, way, &bytes);
        }
        if let Some(relay) = self.relays.relay_of(local) {
            self.relays.send(now, relay, remote, &bytes);
            return;
        }
        let source = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        self.out.push_back(Output::Udp { source, remote, bytes });
    }

    /// Lets a peer's address through every relay of ours.
    pub(super) fn permit(&mut self, now: Instant, remote: SocketAddr) {
        let relays: Vec<_> = self.relay_labels.keys().copied().collect();
        for relay in relays {
            self.relays.permit(now, relay, remote.ip());
        }
    }

    /// The fast path writes into a channel by itself: only we can tell the relays, now and then, that it is used.
    pub(super) fn keep_used_channel(&mut self, now: Instant, id: LinkId) {
        let Some(entry) = self.links.get_mut(&id).filter(|entry| entry.link.is_up()) else {
            return;
        };
        let kept = *entry.channel_kept.get_or_insert(now);
        if now.saturating_duration_since(kept) >= KEEP_CHANNEL {
            entry.channel_kept = Some(now);
            self.keep_channel(now, id);
        }
    }

    /// Binds a channel where a link's path goes through a relay of ours.
    pub(super) fn keep_channel(&mut self, now: Instant, id: LinkId) {
        let ends = self.links.get(&id).and_then(|entry| entry.link.paths().current());
        if let Some(ends) = ends
            && let Some(relay) = self.relays.relay_of(ends.local)
        {
            self.relays.bind_channel(now, relay, ends.remote);
        }
    }

    pub(super) fn drain_gatherer(&mut self, now: Instant) {
        while let Some(transmit) = self.gatherer.poll_transmit() {
            if let Source::Udp(source) = transmit.source {
                self.out.push_back(Output::Udp {
                    source,
                    remote: transmit.remote,
                    bytes: transmit.bytes,
                });
            }
        }
        while let Some(event) = self.gatherer.poll_event() {
            let ids: Vec<LinkId> = self.links.keys().copied().collect();
            match event {
                GatherEvent::CandidateAdded(candidate) => {
                    for id in ids {
                        self.with_link(now, id, |link, cx| link.add_local(cx, candidate));
                    }
                }
                GatherEvent::CandidateRemoved(candidate) => {
                    for id in ids {
                        self.with_link(now, id, |link, cx| link.remove_local(cx, &candidate));
                    }
                }
                GatherEvent::ServerFailed { server, reason } => self.event(Event::ServerFailed { server, reason }),
            }
        }
    }

    pub(super) fn drain_relays(&mut self, now: Instant) {
        while let Some(output) = self.relays.poll_output() {
            match output {
                RelayOutput::Udp { remote, bytes } => {
                    let source = None;
                    self.out.push_back(Output::Udp { source, remote, bytes });
                }
                RelayOutput::Stream(stream, output) => self.out.push_back(Output::Stream(stream, output)),
                RelayOutput::Allocated { relay, address, server } => {
                    self.relay_faults.remove(&server);
                    self.relay_labels.insert(relay, server);
                    let over_udp = self.relays.transport_of(relay) == Some(&TurnTransport::Udp);
                    self.gatherer.add_relayed(address, !over_udp);
                    self.drain_gatherer(now);
                    self.permit_all(now);
                }
                RelayOutput::Lost { relay, reason } => self.on_relay_lost(now, relay, reason),
                RelayOutput::Failed { server, reason } => self.on_relay_failed(server, reason),
                // Held datagrams leave by themselves; checks are repeated.
                RelayOutput::Permitted { .. } => self.is_dirty = true,
                RelayOutput::Data { relay, peer, mut bytes } => {
                    if let Some(local) = self.relays.address_of(relay) {
                        self.handle_outside(now, local, peer, &mut bytes);
                    }
                }
            }
        }
        self.drain_gatherer(now);
    }

    fn permit_all(&mut self, now: Instant) {
        let remotes = self.links.values().flat_map(|entry| entry.link.remote_addresses());
        let remotes: std::collections::BTreeSet<SocketAddr> = remotes.collect();
        for remote in remotes {
            self.permit(now, remote);
        }
    }

    fn on_relay_lost(&mut self, now: Instant, relay: crate::turn::RelayId, reason: String) {
        let label = self.relay_labels.remove(&relay);
        let address = self.relays.address_of(relay);
        let lost: Vec<SocketAddr> = match address {
            Some(address) => vec![address],
            // It is already forgotten there: what no relay owns any more is gone.
            None => {
                let candidates = self.gatherer.candidates().iter();
                let relayed = candidates.filter(|c| c.kind == crate::ice::CandidateKind::Relayed);
                let gone = relayed.filter(|c| self.relays.relay_of(c.address).is_none());
                gone.map(|c| c.address).collect()
            }
        };
        for address in lost {
            self.gatherer.remove_relayed(address);
        }
        if let Some(label) = label {
            self.relay_faults.insert(label, reason);
        }
        self.drain_gatherer(now);
    }

    fn on_relay_failed(&mut self, label: String, reason: String) {
        let servers = self.networks.values().flat_map(|net| &net.servers.turn);
        let mut servers = servers.filter(|server| super::calls::label_of(server) == label);
        let server = servers.next().map(|server| server.address);
        self.relay_faults.insert(label, reason.clone());
        if let Some(server) = server {
            self.event(Event::ServerFailed { server, reason });
        }
    }
}
