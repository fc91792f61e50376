//! The node's own candidates: host addresses, what STUN servers see, port mappings, relays.
//!
//! Promises: host candidates at once; servers are asked only while links are wanted; changes come out as events.
//! Refuses to know: interfaces by name, name resolution, port-mapping protocols, links.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngCore;
use rand_chacha::ChaCha12Rng;

use crate::ice::{
    AddressPolicy, BindingAnswer, BindingError, Candidate, TransactionId, binding_request, plain, stun_transaction,
};
use crate::limits;
use crate::turn::{Source, Transmit};

/// First retransmission (RFC 8489 says 500 ms where the round trip is unknown; a lost first request would cost a
/// person half a second), and how often: 250, 500, 1000 and 2000 ms.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(250);
const TRANSMISSIONS: u32 = 4;
/// Between two questions to a server, so that its NAT mapping neither closes nor moves unseen.
const REFRESH: Duration = Duration::from_secs(25);
/// After a server was silent.
const RETRY: Duration = Duration::from_secs(60);

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
    policy: AddressPolicy,
    rng: ChaCha12Rng,
    port_v4: Option<u16>,
    port_v6: Option<u16>,
    addresses: Vec<IfAddr>,
    servers: Vec<Server>,
    mappings: Vec<Mapping>,
    relayed: Vec<Relayed>,
    candidates: Vec<Candidate>,
    active: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<GatherEvent>,
}

struct Server {
    address: SocketAddr,
    ask: Ask,
    /// Mapped address and the host address it is sent from.
    seen: Option<(SocketAddr, SocketAddr)>,
    failed: bool,
}

enum Ask {
    Never,
    At(Instant),
    Waiting {
        id: TransactionId,
        sent: u32,
        again_at: Instant,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Relayed {
    address: SocketAddr,
    over_stream: bool,
}

struct Mapping {
    external: SocketAddr,
    internal: SocketAddr,
    until: Instant,
}

impl Gatherer {
    /// Nothing known yet. `rng` draws transaction ids.
    pub fn new(policy: AddressPolicy, rng: ChaCha12Rng) -> Self {
        Gatherer {
            policy,
            rng,
            port_v4: None,
            port_v6: None,
            addresses: Vec::new(),
            servers: Vec::new(),
            mappings: Vec::new(),
            relayed: Vec::new(),
            candidates: Vec::new(),
            active: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Replaces the policy, as when a virtual network comes or goes.
    pub fn set_policy(&mut self, policy: AddressPolicy) {
        self.policy = policy;
        self.refresh_candidates();
    }

    /// The ports of the shared sockets; `None`: no socket of that family.
    pub fn set_ports(&mut self, now: Instant, v4: Option<u16>, v6: Option<u16>) {
        if (self.port_v4, self.port_v6) != (v4, v6) {
            (self.port_v4, self.port_v6) = (v4, v6);
            self.network_changed(now);
        }
    }

    /// The addresses of all interfaces as they are now, the most wanted first.
    pub fn handle_addresses(&mut self, now: Instant, addresses: &[IfAddr]) {
        // Also the same addresses may be in another network: half of all homes are 192.168.1.0/24.
        self.addresses = addresses.to_vec();
        self.network_changed(now);
    }

    /// The STUN servers to ask; the first few of each family are. Of several ports at one address only the lowest: the
    /// others would say the same, and are left to [`crate::netcheck`], which needs ports that the NAT has not heard of.
    pub fn set_servers(&mut self, now: Instant, servers: &[SocketAddr]) {
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for server in servers.iter().map(|server| plain(*server)) {
            let same_family = wanted
                .iter()
                .filter(|known| known.is_ipv4() == server.is_ipv4())
                .count();
            match wanted.iter_mut().find(|known| known.ip() == server.ip()) {
                Some(known) => known.set_port(known.port().min(server.port())),
                None if same_family < limits::STUN_SERVERS => wanted.push(server),
                None => {}
            }
        }
        self.servers.retain(|server| wanted.contains(&server.address));
        for address in wanted {
            if !self.servers.iter().any(|server| server.address == address) {
                let ask = if self.active { Ask::At(now) } else { Ask::Never };
                self.servers.push(Server {
                    address,
                    ask,
                    seen: None,
                    failed: false,
                });
            }
        }
        self.refresh_candidates();
        self.handle_timeout(now);
    }

    /// Whether links are being made or wanted. Inactive, nothing is sent.
    pub fn set_active(&mut self, now: Instant, active: bool) {
        if self.active == active {
            return;
        }
        self.active = active;
        for server in &mut self.servers {
            server.ask = if active { Ask::At(now) } else { Ask::Never };
        }
        self.handle_timeout(now);
    }

    /// A port mapping that the shell obtained from the router (PCP, NAT-PMP, UPnP), or renewed.
    pub fn add_mapped(&mut self, now: Instant, external: SocketAddr, internal: SocketAddr, lifetime: Duration) {
        let (external, internal) = (plain(external), plain(internal));
        let until = now + lifetime;
        self.mappings
            .retain(|mapping| mapping.internal != internal || mapping.external == external);
        let room = self.mappings.len() < limits::PORT_MAPPINGS;
        match self.mappings.iter_mut().find(|mapping| mapping.external == external) {
            Some(mapping) => mapping.until = until,
            None if room => self.mappings.push(Mapping {
                external,
                internal,
                until,
            }),
            None => {}
        }
        self.refresh_candidates();
    }

    /// A relayed address that [`crate::turn::Relays`] obtained, and whether its server is spoken to over a byte stream.
    pub fn add_relayed(&mut self, address: SocketAddr, over_stream: bool) {
        let address = plain(address);
        if !self.relayed.iter().any(|own| own.address == address) {
            self.relayed.push(Relayed { address, over_stream });
        }
        self.refresh_candidates();
    }

    /// A relayed address is gone.
    pub fn remove_relayed(&mut self, address: SocketAddr) {
        self.relayed.retain(|own| own.address != plain(address));
        self.refresh_candidates();
    }

    /// Takes a datagram of a STUN server that answers one of our questions. `false`: not ours, nothing changed.
    pub fn handle_udp(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let (local, remote) = (plain(local), plain(remote));
        let asked = |server: &Server| match &server.ask {
            Ask::Waiting { id, .. } => server.address == remote && stun_transaction(bytes) == Some(*id),
            Ask::Never | Ask::At(_) => false,
        };
        let Some(at) = self.servers.iter().position(asked) else {
            return false;
        };
        match BindingAnswer::parse(bytes) {
            Ok(answer) => self.answered(now, at, local, answer.mapped),
            Err(BindingError::NotAnAnswer) => return false,
            Err(error) => self.failed(now, at, &error.to_string()),
        }
        true
    }

    /// The candidates as they stand.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.mappings.iter().any(|mapping| now >= mapping.until) {
            self.mappings.retain(|mapping| now < mapping.until);
            self.refresh_candidates();
        }
        for at in 0..self.servers.len() {
            match self.servers[at].ask {
                Ask::At(due) if now >= due => self.ask(now, at),
                Ask::Waiting { id, sent, again_at } if now >= again_at => self.ask_again(now, at, id, sent),
                _ => {}
            }
        }
    }

    /// When to call [`Gatherer::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asks = self.servers.iter().filter_map(|server| match server.ask {
            Ask::Never => None,
            Ask::At(due) => Some(due),
            Ask::Waiting { again_at, .. } => Some(again_at),
        });
        asks.chain(self.mappings.iter().map(|mapping| mapping.until)).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next change.
    pub fn poll_event(&mut self) -> Option<GatherEvent> {
        self.events.pop_front()
    }

    /// What servers saw is stale; hosts are known at once.
    fn network_changed(&mut self, now: Instant) {
        let hosts = self.host_addresses();
        for server in &mut self.servers {
            server.seen = server.seen.filter(|(_, base)| hosts.contains(base));
            if self.active {
                server.ask = Ask::At(now);
            }
        }
        self.refresh_candidates();
        self.handle_timeout(now);
    }

    fn port(&self, v4: bool) -> Option<u16> {
        if v4 { self.port_v4 } else { self.port_v6 }
    }

    /// Host addresses that may be candidates: those of default routes first, else in the order given.
    fn host_addresses(&self) -> Vec<SocketAddr> {
        let mut usable: Vec<&IfAddr> = self.addresses.iter().filter(|address| !address.deprecated).collect();
        usable.sort_by_key(|address| !address.default_route);
        let socket = |address: &&IfAddr| {
            let ip = address.ip.to_canonical();
            self.port(ip.is_ipv4()).map(|port| SocketAddr::new(ip, port))
        };
        let mut hosts: Vec<SocketAddr> = Vec::new();
        for host in usable.iter().filter_map(socket) {
            let fits = hosts.len() < limits::HOST_CANDIDATES && !hosts.contains(&host);
            if fits && self.policy.check(host).is_ok() {
                hosts.push(host);
            }
        }
        hosts
    }

    /// The address a datagram to the internet leaves from.
    fn default_base(hosts: &[SocketAddr], v4: bool) -> Option<SocketAddr> {
        hosts.iter().find(|host| host.is_ipv4() == v4).copied()
    }

    /// Makes the candidate set anew and tells the difference.
    fn refresh_candidates(&mut self) {
        let wanted = self.wanted();
        let known = |list: &[Candidate], one: &Candidate| {
            list.iter()
                .any(|c| (c.kind, c.address, c.base) == (one.kind, one.address, one.base))
        };
        for gone in self.candidates.iter().filter(|candidate| !known(&wanted, candidate)) {
            self.events.push_back(GatherEvent::CandidateRemoved(*gone));
        }
        for new in wanted.iter().filter(|candidate| !known(&self.candidates, candidate)) {
            self.events.push_back(GatherEvent::CandidateAdded(*new));
        }
        self.candidates = wanted;
    }

    fn wanted(&self) -> Vec<Candidate> {
        let hosts = self.host_addresses();
        let mut wanted: Vec<Candidate> = Vec::new();
        for (place, host) in hosts.iter().enumerate() {
            wanted.push(Candidate::host(*host, preference(place, *host)));
        }
        let mapped = self.mappings.iter().map(|mapping| (mapping.external, mapping.internal));
        let seen = self.servers.iter().filter_map(|server| server.seen);
        for (place, (address, base)) in mapped.chain(seen).enumerate() {
            let base = match hosts.contains(&base) {
                true => Some(base),
                false => Self::default_base(&hosts, address.is_ipv4()),
            };
            // Without a NAT the server sees the host address: nothing new.
            let new = !hosts.contains(&address) && !wanted.iter().any(|candidate| candidate.address == address);
            if let Some(base) = base.filter(|base| new && base.is_ipv4() == address.is_ipv4())
                && self.policy.check(address).is_ok()
            {
                wanted.push(Candidate::server_reflexive(address, base, preference(place, address)));
            }
        }
        for (place, Relayed { address, over_stream }) in self.relayed.iter().copied().enumerate() {
            let is_foreign = Self::default_base(&hosts, address.is_ipv4()).is_none();
            let place = if is_foreign { place + FOREIGN_RELAY } else { place };
            let preference = preference(place, address);
            if self.policy.check(address).is_err() {
                continue;
            }
            wanted.push(if over_stream {
                Candidate::relayed_over_stream(address, preference)
            } else {
                Candidate::relayed(address, preference)
            });
        }
        wanted
    }

    fn ask(&mut self, now: Instant, at: usize) {
        let v4 = self.servers[at].address.is_ipv4();
        let hosts = self.host_addresses();
        // Without a socket or an address of the family the server cannot be reached: wait for one.
        if Self::default_base(&hosts, v4).is_none() {
            self.servers[at].ask = Ask::Never;
            return;
        }
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        self.send(at, id);
        self.servers[at].ask = Ask::Waiting {
            id,
            sent: 1,
            again_at: now + FIRST_RETRANSMIT,
        };
    }

    fn ask_again(&mut self, now: Instant, at: usize, id: TransactionId, sent: u32) {
        if sent >= TRANSMISSIONS {
            self.failed(now, at, "it does not answer; UDP to it may be blocked");
            return;
        }
        self.send(at, id);
        let again_at = now + FIRST_RETRANSMIT * 2u32.pow(sent);
        self.servers[at].ask = Ask::Waiting {
            id,
            sent: sent + 1,
            again_at,
        };
    }

    fn send(&mut self, at: usize, id: TransactionId) {
        let remote = self.servers[at].address;
        let bytes = binding_request(id, None);
        self.transmits.push_back(Transmit {
            source: Source::Udp(None),
            remote,
            bytes,
        });
    }

    fn answered(&mut self, now: Instant, at: usize, local: SocketAddr, mapped: SocketAddr) {
        let hosts = self.host_addresses();
        let base = match hosts.contains(&local) {
            true => Some(local),
            false => Self::default_base(&hosts, mapped.is_ipv4()),
        };
        let server = &mut self.servers[at];
        server.failed = false;
        server.seen = base.map(|base| (mapped, base));
        server.ask = Ask::At(now + REFRESH);
        self.refresh_candidates();
    }

    fn failed(&mut self, now: Instant, at: usize, why: &str) {
        let server = &mut self.servers[at];
        server.ask = Ask::At(now + RETRY);
        server.seen = None;
        if !std::mem::replace(&mut server.failed, true) {
            let reason = format!("STUN server {}: {why}", server.address);
            let server = server.address;
            self.events.push_back(GatherEvent::ServerFailed { server, reason });
        }
        self.refresh_candidates();
    }
}

/// Places behind others of a relayed address of a family that this host lacks: a peer that has this family alone is worth it,
/// any other would answer from a relay of its own, and the path would lead over two.
const FOREIGN_RELAY: usize = 1000;

/// Local preference (RFC 8421): by place, IPv6 before IPv4.
fn preference(place: usize, address: SocketAddr) -> u16 {
    let place = u16::try_from(place).unwrap_or(u16::MAX / 2).min(16_000);
    u16::MAX - 2 * place - u16::from(address.is_ipv4())
}
