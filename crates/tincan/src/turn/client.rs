//! One way to one TURN server: the only wrapper of `turn-client-proto`.
//!
//! Promises: a refusal is told in a sentence; permissions and channels that nobody uses lapse; tables are bounded.
//! Refuses to know: which other ways exist.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use stun_types::TransportType;
use stun_types::attribute::{ErrorCode, Nonce};
use stun_types::message::{Message, TransactionId};
use turn_client_proto::api::{Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::udp::TurnClientUdp;
use turn_types::attribute::{ChannelNumber, XorPeerAddress};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION};
use turn_types::{AddressFamily, TurnCredentials};

use super::stream::Stream;
use super::tls::TlsTrust;
use super::types::{channel_data, place_in};
use super::verify::Verify;
use super::{StreamId, TurnServer, TurnTransport};
use crate::gauge::Gauges;
use crate::limits;

/// First retransmission of a request over UDP, its growth and end: 250 + 500 + 1000 + 2000 ms.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(250);
const LAST_RETRANSMIT: Duration = Duration::from_millis(1000);
const TRANSMISSIONS: u32 = 4;
const AFTER_LAST: Duration = Duration::from_millis(1500);
/// A server that gave no allocation after this long gives none.
const ALLOCATE_WITHIN: Duration = Duration::from_millis(4500);
/// A permission or channel unused for this long is not refreshed any more (it lasts 5 or 10 minutes at the server).
const UNUSED_AFTER: Duration = Duration::from_secs(300);
/// The client sends its requests at least so far apart.
const REQUEST_SPACING: Duration = Duration::from_millis(50);
/// Where the client says "now" and nothing moves, it is asked again after this.
const STALLED: Duration = Duration::from_millis(50);

/// What a client tells.
#[derive(Debug)]
pub(super) enum ClientEvent {
    Allocated(SocketAddr),
    Permitted(IpAddr),
    Data {
        peer: SocketAddr,
        bytes: Vec<u8>,
    },
    /// It will do nothing more.
    Ended(Ending),
}

/// Why a client will do nothing more.
#[derive(Debug)]
pub(super) enum Ending {
    /// It may be otherwise in a moment.
    Failed(String),
    /// Name and password are wrong: asking often only locks the account.
    WrongPassword(String),
}

/// What a client wants on the wire.
#[derive(Debug)]
pub(super) enum ClientTransmit {
    Datagram(Vec<u8>),
    Connect,
    Stream(Vec<u8>),
}

/// One way to one server.
pub(super) struct Client {
    pub(super) server: TurnServer,
    pub(super) stream_id: Option<StreamId>,
    base: Instant,
    dual: bool,
    api: Option<TurnClient>,
    stream: Option<Stream>,
    congested: bool,
    give_up_at: Option<Instant>,
    wake_at: Option<Instant>,
    /// Allocate requests that carried our name (or its hash) and a nonce: a 401 to one of them is a wrong password.
    named_requests: Vec<TransactionId>,
    last_refusal: Option<String>,
    relayed: Vec<SocketAddr>,
    used: BTreeMap<IpAddr, Instant>,
    used_channels: BTreeMap<SocketAddr, Instant>,
    permitted: BTreeSet<IpAddr>,
    channels: BTreeMap<SocketAddr, u16>,
    asked_channels: BTreeMap<u16, SocketAddr>,
    waiting: BTreeMap<IpAddr, VecDeque<(SocketAddr, Vec<u8>)>>,
    ended: bool,
    pub(super) verify: Option<Verify>,
    /// Datagrams that found no place or no permission.
    pub(super) dropped: u64,
    pub(super) events: VecDeque<ClientEvent>,
    pub(super) transmits: VecDeque<ClientTransmit>,
}

impl Client {
    pub(super) fn gauges(&self, all: &mut Gauges) {
        let held: usize = self.waiting.values().map(VecDeque::len).sum();
        all.add("TURN permissions", self.used.len(), limits::TURN_PERMISSIONS);
        all.add("TURN channels", self.used_channels.len(), limits::TURN_PERMISSIONS);
        all.add("datagrams held for permission", held, limits::TURN_HELD);
        all.add("TURN events", self.events.len(), 0);
        all.add("TURN datagrams", self.transmits.len(), 0);
    }

    pub(super) fn new(
        now: Instant,
        base: Instant,
        server: TurnServer,
        stream_id: Option<StreamId>,
        dual: bool,
    ) -> Self {
        let mut client = Client {
            server,
            stream_id,
            base,
            dual,
            api: None,
            stream: None,
            congested: false,
            give_up_at: Some(now + ALLOCATE_WITHIN),
            wake_at: None,
            named_requests: Vec::new(),
            last_refusal: None,
            relayed: Vec::new(),
            used: BTreeMap::new(),
            used_channels: BTreeMap::new(),
            permitted: BTreeSet::new(),
            channels: BTreeMap::new(),
            asked_channels: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ended: false,
            verify: None,
            dropped: 0,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        };
        match stream_id {
            None => client.start(now),
            Some(_) => client.transmits.push_back(ClientTransmit::Connect),
        }
        client
    }

    /// The stream is connected: TLS first if wanted, then the allocation.
    pub(super) fn connected(&mut self, now: Instant, trust: &TlsTrust) {
        let stream = match &self.server.transport {
            TurnTransport::Udp => return,
            TurnTransport::Tcp => Ok(Stream::clear()),
            TurnTransport::Tls { name, pin } => open_tls(name, *pin, trust),
        };
        match stream {
            Ok(stream) => {
                self.stream = Some(stream);
                self.start(now);
            }
            Err(reason) => self.end(reason),
        }
    }

    pub(super) fn stream_closed(&mut self) {
        let reason = match (&self.stream, self.relayed.is_empty()) {
            (None, _) => "it refuses the connection".to_owned(),
            (Some(_), true) => "it closed the connection before giving an address".to_owned(),
            (Some(_), false) => "the connection broke".to_owned(),
        };
        self.end(reason);
    }

    pub(super) fn set_congested(&mut self, congested: bool) {
        self.congested = congested;
    }

    pub(super) fn stream_data(&mut self, now: Instant, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let received = stream.receive(bytes);
        let answer = stream.flush();
        if !answer.is_empty() {
            self.transmits.push_back(ClientTransmit::Stream(answer));
        }
        match received {
            Ok(messages) => {
                for message in messages {
                    if let Some((peer, range)) = self.take_message(now, &message) {
                        let bytes = message[range].to_vec();
                        self.events.push_back(ClientEvent::Data { peer, bytes });
                    }
                }
                self.pump(now);
            }
            Err(reason) => self.end(reason),
        }
    }

    /// Takes a message of the server. Where it carries a peer's datagram: from whom, and where it lies in `bytes`.
    pub(super) fn take_message(&mut self, now: Instant, bytes: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
        if let Some(number) = channel_data(bytes) {
            // The server uses it at once; its answer may come after that, or be lost.
            return Some((*self.asked_channels.get(&number)?, 4..bytes.len()));
        }
        self.note_refusal(bytes);
        if self.ended {
            return None;
        }
        let (from, to, transport, at) = (self.server.address, self.local(), self.wire(), self.to_turn(now));
        let data = match self.api.as_mut()?.recv(Transmit::new(bytes, transport, from, to), at) {
            TurnRecvRet::PeerData(data) => place_in(bytes, data.data()).map(|range| (data.peer, range)),
            TurnRecvRet::Handled | TurnRecvRet::Ignored(_) | TurnRecvRet::PeerIcmp { .. } => None,
        };
        if data.is_none() {
            self.pump(now);
        }
        data
    }

    /// Whether datagrams from this address are for this client.
    pub(super) fn owns(&self, remote: SocketAddr) -> bool {
        self.stream_id.is_none() && self.server.address == remote && !self.ended
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn relayed(&self) -> &[SocketAddr] {
        &self.relayed
    }

    pub(super) fn channel(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.get(&peer).copied()
    }

    /// Asks for a permission, or says that it is still in use. `false`: the table is full.
    pub(super) fn permit(&mut self, now: Instant, ip: IpAddr) -> bool {
        let full = !self.used.contains_key(&ip) && self.used.len() >= limits::TURN_PERMISSIONS;
        if full {
            return false;
        }
        self.used.insert(ip, now);
        if !self.permitted.contains(&ip) {
            self.ask_permission(now, ip);
        }
        true
    }

    pub(super) fn ask_permission(&mut self, now: Instant, ip: IpAddr) {
        let at = self.to_turn(now);
        if let Some(api) = &mut self.api {
            // "Already exists" means under way; "no allocation" is asked again by the next datagram.
            let _ = api.create_permission(TransportType::Udp, ip, at);
        }
        self.pump(now);
    }

    pub(super) fn bind_channel(&mut self, now: Instant, peer: SocketAddr) {
        // Crate turn-client-proto 0.7.3 counts channels from 0x4000 in each family, where they are one server's: with
        // both families bound a frame goes to the wrong peer. The second family does without channels.
        let is_second = self.used_channels.keys().any(|own| own.is_ipv4() != peer.is_ipv4());
        let known = self.used_channels.contains_key(&peer);
        let full = !known && self.used_channels.len() >= limits::TURN_PERMISSIONS;
        if !self.permit(now, peer.ip()) || full || is_second {
            return;
        }
        self.used_channels.insert(peer, now);
        // Asked again before the answer is there, the client takes another number, which the server refuses.
        if known || self.channels.contains_key(&peer) {
            return;
        }
        let at = self.to_turn(now);
        if let Some(api) = &mut self.api
            && api.bind_channel(TransportType::Udp, peer, at).is_err()
        {
            self.used_channels.remove(&peer);
        }
        self.pump(now);
    }

    /// Sends to a peer, or keeps the datagram until the permission is there.
    pub(super) fn send(&mut self, now: Instant, peer: SocketAddr, bytes: &[u8]) {
        if !self.permit(now, peer.ip()) {
            self.dropped += 1;
            return;
        }
        if self.permitted.contains(&peer.ip()) {
            self.send_permitted(now, peer, bytes);
            return;
        }
        let held: usize = self.waiting.values().map(VecDeque::len).sum();
        let queue = self.waiting.entry(peer.ip()).or_default();
        if queue.len() >= limits::TURN_HELD_EACH || held >= limits::TURN_HELD {
            self.dropped += 1;
            return;
        }
        queue.push_back((peer, bytes.to_vec()));
    }

    fn send_permitted(&mut self, now: Instant, peer: SocketAddr, bytes: &[u8]) {
        if self.used_channels.contains_key(&peer) {
            self.used_channels.insert(peer, now);
        }
        let at = self.to_turn(now);
        let sent = self
            .api
            .as_mut()
            .map(|api| api.send_to(TransportType::Udp, peer, bytes, at));
        match sent {
            Some(Ok(Some(transmit))) => {
                let message = transmit.build().data;
                if self.congested {
                    self.dropped += 1;
                } else {
                    self.put(message);
                }
            }
            _ => self.dropped += 1,
        }
    }

    /// Gives the relayed addresses back; the answer is not waited for.
    pub(super) fn release(&mut self, now: Instant) {
        let at = self.to_turn(now);
        if let Some(api) = &mut self.api
            && api.delete(at).is_ok()
        {
            // The client spaces requests out and will not be asked again: let this one go now.
            let next_request = now + REQUEST_SPACING;
            self.pump(next_request);
        }
        self.ended = true;
        self.relayed.clear();
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        self.verify_timeout(now);
        if self.give_up_at.is_some_and(|at| now >= at) {
            let silent = "it does not answer".to_owned();
            let reason = self.last_refusal.take().unwrap_or(silent);
            self.end(reason);
        } else if self.wake_at.is_some_and(|at| now >= at) {
            self.forget_unused(now);
            self.pump(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let all = [self.give_up_at, self.wake_at, self.verify_due()];
        all.into_iter().flatten().min()
    }

    fn start(&mut self, now: Instant) {
        let password = &self.server.password.0;
        let mut config = TurnConfig::new(TurnCredentials::new(&self.server.username, password));
        if self.dual {
            config.add_address_family(AddressFamily::IPV6);
        }
        config.set_request_retransmits(FIRST_RETRANSMIT, LAST_RETRANSMIT, TRANSMISSIONS, AFTER_LAST);
        let (local, remote) = (self.local(), self.server.address);
        self.api = Some(match self.stream_id {
            None => TurnClientUdp::allocate(local, remote, config).into(),
            Some(_) => TurnClientTcp::allocate(local, remote, config).into(),
        });
        if let Some(stream) = &mut self.stream {
            let hello = stream.flush();
            if !hello.is_empty() {
                self.transmits.push_back(ClientTransmit::Stream(hello));
            }
        }
        self.pump(now);
    }

    /// Moves the client as far as it goes. Events first: while one waits, its deadline is "now".
    fn pump(&mut self, now: Instant) {
        let at = self.to_turn(now);
        for _ in 0..limits::TURN_PUMP_ROUNDS {
            let mut moved = false;
            while let Some(event) = self.api.as_mut().and_then(TurnClient::poll_event) {
                moved = true;
                self.take_event(now, event);
            }
            while let Some(transmit) = self.api.as_mut().and_then(|api| api.poll_transmit(at)) {
                moved = true;
                let message: &[u8] = &transmit.data;
                if self.still_wanted(now, message) {
                    self.note_request(message);
                    self.put(message.to_vec());
                }
            }
            let Some(api) = &mut self.api else {
                return;
            };
            match api.poll(at) {
                TurnPollRet::WaitUntil(due) if due > at => {
                    self.wake_at = Some(self.std_instant(due));
                    return;
                }
                TurnPollRet::Closed => {
                    self.drain_events(now);
                    let reason = self
                        .last_refusal
                        .take()
                        .unwrap_or_else(|| match self.relayed.is_empty() {
                            true => "it does not answer".to_owned(),
                            false => "the allocation ran out because the server stopped answering".to_owned(),
                        });
                    self.end(reason);
                    return;
                }
                _ if !moved => break,
                _ => {}
            }
        }
        self.wake_at = Some(now + STALLED);
    }

    fn drain_events(&mut self, now: Instant) {
        while let Some(event) = self.api.as_mut().and_then(TurnClient::poll_event) {
            self.take_event(now, event);
        }
    }

    fn take_event(&mut self, now: Instant, event: TurnEvent) {
        match event {
            TurnEvent::AllocationCreated(_, address) => {
                self.give_up_at = None;
                self.relayed.push(address);
                self.events.push_back(ClientEvent::Allocated(address));
            }
            TurnEvent::PermissionCreated(_, ip) if !self.used.contains_key(&ip) => {}
            TurnEvent::PermissionCreated(_, ip) => {
                self.permitted.insert(ip);
                self.events.push_back(ClientEvent::Permitted(ip));
                for (peer, bytes) in self.waiting.remove(&ip).unwrap_or_default() {
                    self.send_permitted(now, peer, &bytes);
                }
            }
            TurnEvent::PermissionCreateFailed(_, ip) => {
                self.permitted.remove(&ip);
                self.used.remove(&ip);
                let lost = self.waiting.remove(&ip).map_or(0, |queue| queue.len());
                self.dropped += lost as u64;
            }
            TurnEvent::ChannelCreated(_, peer) => {
                let number = self.channel_number(now, peer);
                self.channels.extend(number.map(|number| (peer, number)));
            }
            TurnEvent::ChannelCreateFailed(_, peer) => {
                self.channels.remove(&peer);
                self.used_channels.remove(&peer);
            }
            TurnEvent::AllocationCreateFailed(_) | TurnEvent::TcpConnected(_) | TurnEvent::TcpConnectFailed(_) => {}
        }
    }

    /// The client does not tell channel numbers, but it writes them.
    fn channel_number(&mut self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let at = self.to_turn(now);
        let transmit = self
            .api
            .as_mut()?
            .send_to(TransportType::Udp, peer, [0u8; 0], at)
            .ok()??;
        let head: [u8; 2] = *transmit.build().data.first_chunk()?;
        let number = u16::from_be_bytes(head);
        (0x4000..=0x4fff).contains(&number).then_some(number)
    }

    fn put(&mut self, message: Vec<u8>) {
        let Some(stream) = &mut self.stream else {
            self.transmits.push_back(ClientTransmit::Datagram(message));
            return;
        };
        match stream.send(&message) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => self.transmits.push_back(ClientTransmit::Stream(bytes)),
            Err(reason) => self.end(reason),
        }
    }

    pub(super) fn end(&mut self, reason: String) {
        self.finish(Ending::Failed(reason));
    }

    fn finish(&mut self, ending: Ending) {
        if !self.ended {
            self.ended = true;
            self.events.push_back(ClientEvent::Ended(ending));
        }
    }

    fn note_request(&mut self, bytes: &[u8]) {
        if let Ok(message) = Message::from_bytes(bytes)
            && message.has_method(ALLOCATE)
            && message.attribute::<Nonce>().is_ok()
        {
            self.named_requests.push(message.transaction_id());
        }
    }

    /// The client passes over 401 in silence and keeps error codes to itself: read them as they come by.
    fn note_refusal(&mut self, bytes: &[u8]) {
        let Ok(message) = Message::from_bytes(bytes) else {
            return;
        };
        self.note_verified(&message);
        let Ok(error) = message.attribute::<ErrorCode>() else {
            return;
        };
        if !message.has_method(ALLOCATE) || !message.is_response() {
            return;
        }
        let named = self.named_requests.contains(&message.transaction_id());
        let name = &self.server.username;
        match (error.code(), named) {
            (401, true) => {
                let what = "the user name or the password is wrong or has expired";
                self.finish(Ending::WrongPassword(format!("it refuses user {name:?}: {what}")));
            }
            (401 | 438, _) => {}
            (442, _) => self.last_refusal = Some("it does not relay UDP (error 442)".to_owned()),
            (486, _) => self.last_refusal = Some(format!("user {name:?} has used up its allocations (error 486)")),
            (508, _) => self.last_refusal = Some("it has no address left (error 508)".to_owned()),
            (code, _) => self.last_refusal = Some(format!("it refuses with error {code}")),
        }
    }

    /// Refreshes of what nobody uses are swallowed, so that it lapses at the server; the client has no other way.
    fn still_wanted(&mut self, now: Instant, bytes: &[u8]) -> bool {
        let Ok(message) = Message::from_bytes(bytes) else {
            return true;
        };
        let Ok(peer) = message.attribute::<XorPeerAddress>() else {
            return true;
        };
        if self.note_verify(&message) {
            return true;
        }
        let peer = peer.addr(message.transaction_id());
        let fresh = |used: Option<&Instant>| used.is_some_and(|at| now.saturating_duration_since(*at) < UNUSED_AFTER);
        let number = message.attribute::<ChannelNumber>();
        if let Some(number) = number.ok().filter(|_| message.has_method(CHANNEL_BIND)) {
            self.asked_channels.insert(number.channel(), peer);
            return fresh(self.used_channels.get(&peer));
        }
        !message.has_method(CREATE_PERMISSION) || fresh(self.used.get(&peer.ip()))
    }

    fn forget_unused(&mut self, now: Instant) {
        let old = |used: &Instant| now.saturating_duration_since(*used) >= 2 * UNUSED_AFTER;
        self.used.retain(|ip, used| self.permitted.contains(ip) || !old(used));
        self.used_channels.retain(|_, used| !old(used));
    }

    fn wire(&self) -> TransportType {
        match self.stream_id {
            None => TransportType::Udp,
            Some(_) => TransportType::Tcp,
        }
    }

    /// The client compares its own address with itself only: a constant does.
    fn local(&self) -> SocketAddr {
        match self.server.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    fn to_turn(&self, now: Instant) -> stun_proto::Instant {
        let nanos = now.saturating_duration_since(self.base).as_nanos();
        stun_proto::Instant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX / 2))
    }

    fn std_instant(&self, at: stun_proto::Instant) -> Instant {
        self.base + Duration::from_nanos(u64::try_from(at.as_nanos()).unwrap_or(0))
    }
}

fn open_tls(name: &str, pin: Option<[u8; 32]>, trust: &TlsTrust) -> Result<Stream, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no server name for TLS"))?;
    let config = trust
        .client_config(pin)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Stream::tls(config, name).map_err(|error| format!("TLS cannot be set up: {error}"))
}
