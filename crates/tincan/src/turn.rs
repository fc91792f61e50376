//! TURN allocations of this node (RFC 8656), shared by all links.
//!
//! Promises: a wrong password or a dead server is told in a sentence within seconds; tables are bounded; secrets are
//! never printed. Refuses to know: sockets, TLS roots' origin, links.

mod client;
#[cfg(test)]
mod link_tests;
pub(crate) mod probe;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod types;
mod verify;

pub use stream::fuzz_framer;
pub use tls::TlsTrust;
pub use types::{
    Handled, Password, RelayId, RelayOutput, Source, StreamId, StreamInput, StreamOutput, Transmit, TurnServer,
    TurnTransport,
};

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::gauge::Gauges;
use crate::ice::plain;
use crate::limits;
use client::{Client, ClientEvent, ClientTransmit, Ending};

/// How long UDP is tried alone.
const OTHER_WAYS_AFTER: Duration = Duration::from_millis(500);
/// Wait before a host is tried again, and how far it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A wrong password counts as so many failures: the next attempt is half a minute away.
const FAILURES_OF_A_WRONG_PASSWORD: u32 = 5;
const LAST_RETRY: Duration = Duration::from_secs(120);

/// All TURN allocations of the node.
///
/// A permission or channel is refreshed while [`Relays::send`], [`Relays::permit`] or [`Relays::bind_channel`] named
/// it in the last five minutes: who lets a fast path write channel data must call `bind_channel` every few minutes.
pub struct Relays {
    base: Instant,
    trust: TlsTrust,
    hosts: Vec<Host>,
    relays: BTreeMap<RelayId, (usize, SocketAddr)>,
    next_relay: u32,
    next_stream: u32,
    outputs: VecDeque<RelayOutput>,
    dropped: u64,
}

/// One server host: several ways, one of which will hold the allocation.
struct Host {
    label: String,
    ways: Vec<TurnServer>,
    clients: Vec<Client>,
    /// When the other ways start.
    others_at: Option<Instant>,
    /// When everything starts again.
    retry_at: Option<Instant>,
    failures: u32,
    /// IPv6 is asked for beside IPv4 until a server chokes on it.
    dual: bool,
}

impl Relays {
    /// No server yet. `trust` judges TLS servers without a pin.
    pub fn new(now: Instant, trust: TlsTrust) -> Self {
        Relays {
            base: now,
            trust,
            hosts: Vec::new(),
            relays: BTreeMap::new(),
            next_relay: 0,
            next_stream: 0,
            outputs: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Replaces the list of servers. Hosts whose entries did not change keep their allocations.
    pub fn set_servers(&mut self, now: Instant, servers: Vec<TurnServer>) {
        let mut wanted: Vec<(String, Vec<TurnServer>)> = Vec::new();
        for server in servers {
            match wanted.iter_mut().find(|(label, _)| *label == server.label) {
                Some((_, ways)) => ways.push(server),
                None => wanted.push((server.label.clone(), vec![server])),
            }
        }
        wanted.truncate(limits::TURN_HOSTS);
        for (_, ways) in &mut wanted {
            ways.sort_by_key(|way| way_rank(&way.transport));
        }
        for at in 0..self.hosts.len() {
            let keep = wanted
                .iter()
                .any(|(label, ways)| *label == self.hosts[at].label && *ways == self.hosts[at].ways);
            if !keep {
                self.drop_host(now, at);
            }
        }
        for (label, ways) in wanted {
            let known = |host: &Host| host.label == label && host.ways == ways;
            if !self.hosts.iter().any(known) {
                let at = self.free_host(Host::new(label, ways));
                self.start_host(now, at);
            }
        }
        self.collect(now);
    }

    /// Takes a datagram from the shared UDP socket.
    pub fn handle_udp(&mut self, now: Instant, remote: SocketAddr, bytes: &[u8]) -> Handled {
        let remote = plain(remote);
        for at in 0..self.hosts.len() {
            let clients = &mut self.hosts[at].clients;
            let Some(client) = clients.iter_mut().find(|client| client.owns(remote)) else {
                continue;
            };
            let data = client.take_message(now, bytes);
            self.collect(now);
            return match data {
                None => Handled::Consumed,
                Some((peer, range)) => match self.relay_for(at, peer) {
                    Some(relay) => Handled::Data {
                        relay,
                        peer: plain(peer),
                        range,
                    },
                    None => Handled::Consumed,
                },
            };
        }
        Handled::NotMine
    }

    /// Takes what happened to a stream.
    pub fn handle_stream(&mut self, now: Instant, stream: StreamId, input: StreamInput<'_>) {
        let clients = self.hosts.iter_mut().flat_map(|host| &mut host.clients);
        let mut mine = clients.filter(|client| client.stream_id == Some(stream));
        if let Some(client) = mine.next() {
            match input {
                StreamInput::Connected => client.connected(now, &self.trust),
                StreamInput::Data(bytes) => client.stream_data(now, bytes),
                StreamInput::Congested(congested) => client.set_congested(congested),
                StreamInput::Closed => client.stream_closed(),
            }
        }
        self.collect(now);
    }

    /// Sends a datagram to a peer; where the permission is missing it is asked for first, and the datagram waits.
    pub fn send(&mut self, now: Instant, relay: RelayId, peer: SocketAddr, bytes: &[u8]) {
        let peer = plain(peer);
        match self.client_of(relay, peer.ip()) {
            Some(client) => client.send(now, peer, bytes),
            None => self.dropped += 1,
        }
        self.collect(now);
    }

    /// Asks for the permission to exchange datagrams with a peer, or says that it is still used.
    pub fn permit(&mut self, now: Instant, relay: RelayId, peer: IpAddr) {
        let peer = peer.to_canonical();
        if let Some(client) = self.client_of(relay, peer) {
            client.permit(now, peer);
        }
        self.collect(now);
    }

    /// Binds a channel to a peer (after nomination), or says that it is still used.
    pub fn bind_channel(&mut self, now: Instant, relay: RelayId, peer: SocketAddr) {
        let peer = plain(peer);
        if let Some(client) = self.client_of(relay, peer.ip()) {
            client.bind_channel(now, peer);
        }
        self.collect(now);
    }

    /// Asks every server whether what it gave still lives; what does not is lost within seconds, and asked for anew.
    /// For when paths through relays fall silent, or this host's addresses changed.
    pub fn verify(&mut self, now: Instant) {
        for client in self.hosts.iter_mut().flat_map(|host| &mut host.clients) {
            client.verify(now);
        }
        self.collect(now);
    }

    /// Server and channel number for a fast path that writes channel data itself; UDP only.
    pub fn channel(&self, relay: RelayId, peer: SocketAddr) -> Option<(SocketAddr, u16)> {
        let (at, address) = *self.relays.get(&relay)?;
        let mut clients = self.hosts.get(at)?.clients.iter();
        let client = clients.find(|client| client.relayed().contains(&address))?;
        let number = client.channel(plain(peer))?;
        client.stream_id.is_none().then_some((client.server.address, number))
    }

    /// The relay that owns a relayed address.
    pub fn relay_of(&self, address: SocketAddr) -> Option<RelayId> {
        let address = plain(address);
        let mut relays = self.relays.iter();
        relays.find(|(_, (_, own))| *own == address).map(|(relay, _)| *relay)
    }

    /// The relayed address of a relay.
    pub fn address_of(&self, relay: RelayId) -> Option<SocketAddr> {
        self.relays.get(&relay).map(|(_, address)| *address)
    }

    /// The address of the server of a relay.
    pub fn server_of(&self, relay: RelayId) -> Option<SocketAddr> {
        let (at, address) = self.relays.get(&relay)?;
        let mut clients = self.hosts.get(*at)?.clients.iter();
        let client = clients.find(|client| client.relayed().contains(address))?;
        Some(client.server.address)
    }

    /// How the server of a relay is spoken to.
    pub fn transport_of(&self, relay: RelayId) -> Option<&TurnTransport> {
        let (at, address) = self.relays.get(&relay)?;
        let mut clients = self.hosts.get(*at)?.clients.iter();
        let client = clients.find(|client| client.relayed().contains(address))?;
        Some(&client.server.transport)
    }

    /// Whether datagrams from this address are a server's: looked at before the first byte.
    pub fn is_server(&self, remote: SocketAddr) -> bool {
        let remote = plain(remote);
        self.hosts
            .iter()
            .flat_map(|host| &host.clients)
            .any(|client| client.owns(remote))
    }

    /// Datagrams dropped for want of a permission, a place, or a free stream.
    pub fn dropped(&self) -> u64 {
        let clients = self.hosts.iter().flat_map(|host| &host.clients);
        self.dropped + clients.map(|client| client.dropped).sum::<u64>()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.hosts.len() {
            for client in &mut self.hosts[at].clients {
                client.handle_timeout(now);
            }
            if self.hosts[at].others_at.is_some_and(|due| now >= due) {
                self.hosts[at].others_at = None;
                self.start_others(now, at);
            }
            if self.hosts[at].retry_at.is_some_and(|due| now >= due) {
                self.hosts[at].retry_at = None;
                self.start_host(now, at);
            }
        }
        self.collect(now);
    }

    /// When to call [`Relays::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_host = |host: &Host| {
            let clients = host.clients.iter().filter_map(Client::poll_timeout).min();
            [clients, host.others_at, host.retry_at].into_iter().flatten().min()
        };
        self.hosts.iter().filter_map(of_host).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }

    /// A stream id that nobody else has.
    pub(crate) fn new_stream(&mut self) -> StreamId {
        self.next_stream += 1;
        StreamId(self.next_stream - 1)
    }

    /// What TLS servers without a pin are judged by.
    pub(crate) fn trust(&self) -> &TlsTrust {
        &self.trust
    }

    fn client_of(&mut self, relay: RelayId, peer: IpAddr) -> Option<&mut Client> {
        let (at, address) = *self.relays.get(&relay)?;
        if address.is_ipv4() != peer.is_ipv4() {
            return None;
        }
        let mut clients = self.hosts.get_mut(at)?.clients.iter_mut();
        clients.find(|client| client.relayed().contains(&address))
    }

    fn relay_for(&self, host: usize, peer: SocketAddr) -> Option<RelayId> {
        let fits = |at: usize, address: SocketAddr| at == host && address.is_ipv4() == plain(peer).is_ipv4();
        let mut relays = self.relays.iter();
        relays
            .find(|(_, (at, address))| fits(*at, *address))
            .map(|(relay, _)| *relay)
    }

    /// Places are kept, so that relays point to their host for good.
    fn free_host(&mut self, host: Host) -> usize {
        match self.hosts.iter().position(|host| host.ways.is_empty()) {
            Some(at) => {
                self.hosts[at] = host;
                at
            }
            None => {
                self.hosts.push(host);
                self.hosts.len() - 1
            }
        }
    }

    fn drop_host(&mut self, now: Instant, at: usize) {
        for client in 0..self.hosts[at].clients.len() {
            self.retire(now, at, client);
        }
        self.lose(at, "the server was taken off the list");
        self.hosts[at] = Host::new(String::new(), Vec::new());
    }

    fn start_host(&mut self, now: Instant, at: usize) {
        if let Some(way) = self.hosts[at].ways.first().cloned() {
            self.start_way(now, at, way);
            let more = self.hosts[at].ways.len() > 1;
            self.hosts[at].others_at = more.then(|| now + OTHER_WAYS_AFTER);
        }
    }

    fn start_others(&mut self, now: Instant, at: usize) {
        if self.hosts[at].has_allocation() {
            return;
        }
        for way in self.hosts[at].ways.clone().into_iter().skip(1) {
            self.start_way(now, at, way);
        }
    }

    fn start_way(&mut self, now: Instant, at: usize, mut way: TurnServer) {
        way.address = plain(way.address);
        let stream = (way.transport != TurnTransport::Udp).then(|| self.new_stream());
        let dual = self.hosts[at].dual;
        let client = Client::new(now, self.base, way, stream, dual);
        self.hosts[at].clients.push(client);
    }

    /// Takes everything that clients produced.
    fn collect(&mut self, now: Instant) {
        for at in 0..self.hosts.len() {
            for client in 0..self.hosts[at].clients.len() {
                self.flush_transmits(at, client);
                while let Some(event) = self.hosts[at].clients[client].events.pop_front() {
                    self.take_event(now, at, client, event);
                }
                self.flush_transmits(at, client);
            }
            self.sweep(now, at);
        }
    }

    fn flush_transmits(&mut self, at: usize, client: usize) {
        let client = &mut self.hosts[at].clients[client];
        while let Some(transmit) = client.transmits.pop_front() {
            let output = match (transmit, client.stream_id) {
                (ClientTransmit::Datagram(bytes), _) => RelayOutput::Udp {
                    remote: client.server.address,
                    bytes,
                },
                (ClientTransmit::Connect, Some(stream)) => {
                    RelayOutput::Stream(stream, StreamOutput::Connect(client.server.address))
                }
                (ClientTransmit::Stream(bytes), Some(stream)) => RelayOutput::Stream(stream, StreamOutput::Data(bytes)),
                _ => continue,
            };
            if self.outputs.len() >= limits::TURN_OUTPUTS && matches!(output, RelayOutput::Udp { .. }) {
                self.dropped += 1;
            } else {
                self.outputs.push_back(output);
            }
        }
    }

    fn take_event(&mut self, now: Instant, at: usize, client: usize, event: ClientEvent) {
        match event {
            // One that lost against another way in the same call says so too late.
            ClientEvent::Allocated(_) if self.hosts[at].clients[client].ended() => {}
            ClientEvent::Allocated(address) => self.allocated(now, at, client, address),
            ClientEvent::Permitted(ip) => {
                let peer = SocketAddr::new(ip, 0);
                if let Some(relay) = self.relay_for(at, peer) {
                    self.outputs.push_back(RelayOutput::Permitted { relay, ip });
                }
            }
            ClientEvent::Data { peer, bytes } => {
                let full = self.outputs.len() >= limits::TURN_OUTPUTS;
                match self.relay_for(at, peer) {
                    Some(relay) if !full => {
                        let peer = plain(peer);
                        self.outputs.push_back(RelayOutput::Data { relay, peer, bytes });
                    }
                    _ => self.dropped += 1,
                }
            }
            ClientEvent::Ended(ending) => self.ended(at, client, &ending),
        }
    }

    /// The first way that gives an address wins; the others give up.
    fn allocated(&mut self, now: Instant, at: usize, winner: usize, address: SocketAddr) {
        self.hosts[at].failures = 0;
        self.hosts[at].others_at = None;
        for client in 0..self.hosts[at].clients.len() {
            if client != winner && !self.hosts[at].clients[client].ended() {
                self.retire(now, at, client);
            }
        }
        let relay = RelayId(self.next_relay);
        self.next_relay += 1;
        let address = plain(address);
        self.relays.insert(relay, (at, address));
        let server = self.hosts[at].label.clone();
        self.outputs
            .push_back(RelayOutput::Allocated { relay, address, server });
    }

    fn retire(&mut self, now: Instant, at: usize, client: usize) {
        self.hosts[at].clients[client].release(now);
        self.flush_transmits(at, client);
        self.close_stream(at, client);
    }

    pub(crate) fn gauges(&self, all: &mut Gauges) {
        all.add("TURN outputs", self.outputs.len(), 0);
        for client in self.hosts.iter().flat_map(|host| &host.clients) {
            client.gauges(all);
        }
    }

    fn close_stream(&mut self, at: usize, client: usize) {
        if let Some(stream) = self.hosts[at].clients[client].stream_id {
            self.outputs.push_back(RelayOutput::Stream(stream, StreamOutput::Close));
        }
    }

    fn ended(&mut self, at: usize, client: usize, ending: &Ending) {
        let reason = match ending {
            Ending::Failed(reason) => reason,
            Ending::WrongPassword(reason) => {
                self.hosts[at].failures = self.hosts[at].failures.max(FAILURES_OF_A_WRONG_PASSWORD);
                reason
            }
        };
        let ended = &self.hosts[at].clients[client];
        let sentence = format!(
            "TURN server {} ({}): {reason}",
            ended.server.label,
            way_name(&ended.server)
        );
        let had_allocation = !ended.relayed().is_empty();
        self.close_stream(at, client);
        if had_allocation {
            self.lose(at, &sentence);
        } else {
            let server = self.hosts[at].label.clone();
            self.outputs.push_back(RelayOutput::Failed {
                server,
                reason: sentence,
            });
        }
        // The next way need not wait for its second.
        if let Some(due) = &mut self.hosts[at].others_at {
            *due = (*due).min(self.base);
        }
    }

    fn lose(&mut self, host: usize, reason: &str) {
        let gone: Vec<RelayId> = self
            .relays
            .iter()
            .filter(|(_, (at, _))| *at == host)
            .map(|(relay, _)| *relay)
            .collect();
        for relay in gone {
            self.relays.remove(&relay);
            let reason = reason.to_owned();
            self.outputs.push_back(RelayOutput::Lost { relay, reason });
        }
    }

    /// Drops clients that ended, and plans the next attempt when none is left.
    fn sweep(&mut self, now: Instant, at: usize) {
        let host = &mut self.hosts[at];
        let lost: u64 = host
            .clients
            .iter()
            .filter(|client| client.ended())
            .map(|client| client.dropped)
            .sum();
        self.dropped += lost;
        host.clients.retain(|client| !client.ended());
        let idle = host.clients.is_empty() && host.others_at.is_none() && host.retry_at.is_none();
        if idle && !host.ways.is_empty() {
            host.failures += 1;
            // A server that chokes on the wish for IPv6 is asked for IPv4 alone every other time.
            host.dual = host.failures.is_multiple_of(2);
            let wait = FIRST_RETRY * 2u32.saturating_pow(host.failures.min(8) - 1);
            host.retry_at = Some(now + wait.min(LAST_RETRY));
        }
    }
}

impl Host {
    fn new(label: String, ways: Vec<TurnServer>) -> Self {
        Host {
            label,
            ways,
            clients: Vec::new(),
            others_at: None,
            retry_at: None,
            failures: 0,
            dual: true,
        }
    }

    fn has_allocation(&self) -> bool {
        self.clients.iter().any(|client| !client.relayed().is_empty())
    }
}

fn way_rank(transport: &TurnTransport) -> u8 {
    match transport {
        TurnTransport::Udp => 0,
        TurnTransport::Tcp => 1,
        TurnTransport::Tls { .. } => 2,
    }
}

fn way_name(server: &TurnServer) -> String {
    let protocol = match server.transport {
        TurnTransport::Udp => "UDP",
        TurnTransport::Tcp => "TCP",
        TurnTransport::Tls { .. } => "TLS",
    };
    format!("{protocol} {}", server.address)
}
