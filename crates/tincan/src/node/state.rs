//! What `state.get` shows: everything that a controller needs to go on where another stopped.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::link::{
    CandidateState, LinkPhase, NetworkState, PathState, PeerState, RelayState, SessionState, State, Traffic,
    TurnTransport,
};

use super::peers::{Network, Peer};
use super::{Node, calls};
use crate::fast::LinkShared;
use crate::ice::{CandidateKind, plain};
use crate::link::{Link, LinkId};
use crate::record::Cipher;
use crate::turn::{self, RelayId};

impl Node {
    /// UDP ports in use, for `tincan.info`.
    pub fn ports(&self) -> &[api::link::Port] {
        &self.ports
    }

    /// Random at each start.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    pub(super) fn state(&self, now: Instant) -> State {
        State {
            instance: self.instance,
            networks: self.networks.values().map(|net| self.network_state(net, now)).collect(),
            candidates: self.candidate_states(),
            relays: self.relay_states(),
            drops: self.drops.to_map(),
        }
    }

    fn network_state(&self, net: &Network, now: Instant) -> NetworkState {
        NetworkState {
            config: net.config.clone(),
            node: net.key.id(),
            nic: net.nic.name.clone(),
            fault: net.nic.fault.clone(),
            peers: net.peers.values().map(|peer| self.peer_state(peer, now)).collect(),
            drops: net.drops.to_map(),
        }
    }

    fn peer_state(&self, peer: &Peer, now: Instant) -> PeerState {
        let id = peer.current.or(peer.attempt);
        let link = id.and_then(|id| self.links.get(&id)).map(|entry| &entry.link);
        let up = link.and_then(Link::up);
        PeerState {
            node: peer.config.node,
            addresses: peer.config.addresses.clone(),
            name: peer.config.name.clone(),
            phase: link.map_or(LinkPhase::Idle, Link::phase),
            path: id.and_then(|id| self.path_state(id)),
            traffic: link.map(|link| traffic(&link.shared)).unwrap_or_default(),
            drops: link.map(|link| link.shared.drops.to_map()).unwrap_or_default(),
            up_ms: up.map(|up| millis(now.saturating_duration_since(up.since()))),
            last_received_ms: link
                .filter(|link| link.is_up())
                .map(|link| millis(now.saturating_duration_since(link.paths().heard()))),
            session: up.map(|up| SessionState {
                cipher: cipher_name(up.session().cipher()).to_owned(),
                send_epoch: up.session().sealer().epoch(),
                receive_epoch: up.receive_epoch(),
                handshakes: up.handshakes_done(),
            }),
        }
    }

    /// A link's path, with the TURN server of ours or the member that it goes through.
    pub(super) fn path_state(&self, id: LinkId) -> Option<PathState> {
        let link = &self.links.get(&id)?.link;
        let mut path = link.path_state()?;
        if let Some(way) = link.way() {
            let (name, local, remote) = self.way_in_words(way)?;
            let via = Some(name);
            return Some(PathState {
                via,
                local,
                remote,
                ..path
            });
        }
        path.via = self
            .relays
            .relay_of(path.local)
            .and_then(|relay| self.relay_in_words(relay));
        Some(path)
    }

    /// `203.0.113.2 over TLS`.
    fn relay_in_words(&self, relay: RelayId) -> Option<String> {
        let label = self.relay_labels.get(&relay)?;
        let over = match self.relays.transport_of(relay)? {
            turn::TurnTransport::Udp => "UDP",
            turn::TurnTransport::Tcp => "TCP",
            turn::TurnTransport::Tls { .. } => "TLS",
        };
        Some(format!("{label} over {over}"))
    }

    fn candidate_states(&self) -> Vec<CandidateState> {
        let kind = |kind| match kind {
            CandidateKind::Host => "host",
            CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => "server_reflexive",
            CandidateKind::Relayed => "relayed",
        };
        let candidates = self.gatherer.candidates().iter();
        let state = candidates.map(|candidate| CandidateState {
            kind: kind(candidate.kind).to_owned(),
            address: candidate.address,
            server: None,
        });
        state.collect()
    }

    fn relay_states(&self) -> Vec<RelayState> {
        let mut states: Vec<RelayState> = Vec::new();
        for server in self.networks.values().flat_map(|net| &net.servers.turn) {
            let known = |s: &RelayState| (s.server, s.transport) == (server.address, server.transport);
            if states.iter().any(known) {
                continue;
            }
            let label = calls::label_of(server);
            let relay = self.relay_labels.iter().find(|(_, own)| **own == label);
            states.push(RelayState {
                server: server.address,
                transport: server.transport,
                relayed: relay.and_then(|(relay, _)| self.relays.address_of(*relay)),
                fault: self.relay_faults.get(&label).cloned(),
            });
        }
        states
    }

    /// Servers whose datagrams may be channel data.
    pub(super) fn turn_servers_over_udp(&self) -> Vec<SocketAddr> {
        let servers = self.networks.values().flat_map(|net| &net.servers.turn);
        let over_udp = servers.filter(|server| server.transport == TurnTransport::Udp);
        let mut addresses: Vec<SocketAddr> = over_udp.map(|server| plain(server.address)).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

fn traffic(shared: &LinkShared) -> Traffic {
    Traffic {
        sent_frames: shared.sent_frames.load(Ordering::Relaxed),
        sent_bytes: shared.sent_bytes.load(Ordering::Relaxed),
        received_frames: shared.received_frames.load(Ordering::Relaxed),
        received_bytes: shared.received_bytes.load(Ordering::Relaxed),
        relayed_frames: shared.relayed_frames.load(Ordering::Relaxed),
        relayed_bytes: shared.relayed_bytes.load(Ordering::Relaxed),
    }
}

fn cipher_name(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes256Gcm => "AES-256-GCM",
        Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
