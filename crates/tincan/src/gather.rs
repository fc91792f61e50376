//! The node's own candidates: host addresses, what STUN servers see, port mappings, relays.
//!
//! Promises: host candidates at once; servers are asked only while links are wanted; changes come out as events.
//! Refuses to know: interfaces by name, name resolution, port-mapping protocols, links.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::ice::{AddressPolicy, Candidate};
use crate::turn::Transmit;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfAddr {
    /// The address.
    pub ip: IpAddr,
    /// Whether the default route of its family leaves from it.
    pub default_route: bool,
    /// IPv6: no longer to be used for new conversations.
    pub deprecated: bool,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatherEvent {
    /// A new candidate: give it to every agent and signal it.
    CandidateAdded(Candidate),
    /// A candidate is gone.
    CandidateRemoved(Candidate),
    /// A STUN server does not answer or makes no sense.
    ServerFailed {
        /// Which.
        server: SocketAddr,
        /// A sentence.
        reason: String,
    },
}

/// Keeps the node's candidate set.
pub struct Gatherer {
    events: VecDeque<GatherEvent>,
}

impl Gatherer {
    /// Nothing known yet.
    pub fn new(_policy: AddressPolicy) -> Self {
        Gatherer {
            events: VecDeque::new(),
        }
    }
    /// The ports of the shared sockets; `None`: no socket of that family.
    pub fn set_ports(&mut self, _now: Instant, _v4: Option<u16>, _v6: Option<u16>) {}
    /// The addresses of all interfaces as they are now.
    pub fn handle_addresses(&mut self, _now: Instant, _addresses: &[IfAddr]) {}
    /// The STUN servers to ask.
    pub fn set_servers(&mut self, _now: Instant, _servers: &[SocketAddr]) {}
    /// Whether links are being made or wanted.
    pub fn set_active(&mut self, _now: Instant, _active: bool) {}
    /// A port mapping that the shell obtained.
    pub fn add_mapped(&mut self, _now: Instant, _external: SocketAddr, _internal: SocketAddr, _lifetime: Duration) {}
    /// A relayed address that [`crate::turn::Relays`] obtained.
    pub fn add_relayed(&mut self, _now: Instant, _address: SocketAddr) {}
    /// A relayed address is gone.
    pub fn remove_relayed(&mut self, _now: Instant, _address: SocketAddr) {}
    /// Takes a datagram from a STUN server. `false`: not ours.
    pub fn handle_udp(&mut self, _now: Instant, _local: SocketAddr, _remote: SocketAddr, _bytes: &[u8]) -> bool {
        false
    }
    /// The candidates as they stand.
    pub fn candidates(&self) -> Vec<Candidate> {
        Vec::new()
    }
    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// When to call [`Gatherer::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }
    /// The next change.
    pub fn poll_event(&mut self) -> Option<GatherEvent> {
        self.events.pop_front()
    }
}
