//! The handshake of a link: QUIC with TLS 1.3, both ends by raw public key, hybrid key exchange; and, afterwards,
//! the reliable stream of control messages that it leaves behind.
//!
//! Promises: `Keys` comes only after the peer proved the one expected key; a record sealed after `Ready` finds keys at
//! the peer; nobody without the offer's link secret can make it parse a byte or break it off; it is over, one way or the
//! other, after 20 s; an error names the guilty.
//! Refuses to know: paths and addresses (the link moves its datagrams), what messages mean, when to start afresh.
//!
//! Course: client's flight · server's flight with its Hello · client has keys; Finished and Hello · server has keys and
//! may send; Ready · client may send. The server's Hello comes first so that a client's Hello tells it that the client
//! has keys already. Every datagram ends in a 16-byte tag keyed from the link secret (`gate`).
//!
//! Several handshakes live on one link while a fresh one replaces the old: `owns` tells their datagrams apart.
//! Each has an endpoint of its own with one connection, so that no state is shared between them. Both ends derive the
//! fresh one's session id with `next_session`; the client just begins, the server knows it by `is_first_flight`.

mod gate;
mod ids;
mod message;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod types;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::{NetworkId, NodeId, SessionId};
use aws_lc_rs::digest::{SHA256, digest};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, ConnectionId, DatagramEvent, Endpoint, Event, StreamEvent,
    TransportErrorCode, VarInt,
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use zeroize::Zeroizing;

pub use gate::GATE_TAG;
pub use ids::destination_id;
pub use message::{Deframer, Hello, Kind, MessageFault, WIRE_VERSION};
pub use types::{HandshakeConfig, HandshakeEvent, MessageError, PeerHello, SessionError};

use crate::limits;
use crate::record::Cipher;
use crate::session::{Role, SessionKeys};
use gate::Gate;
use ids::OwnTag;
use message::frame;
use stream::{Incoming, Outgoing};

/// A handshake that is not through by then has failed.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(20);

/// The session id of the fresh handshake that follows the one of `session`.
pub fn next_session(session: SessionId) -> SessionId {
    let hash = digest(
        &SHA256,
        &[b"ipop fresh session v1\0", &session.0.to_be_bytes()[..]].concat(),
    );
    let (id, _) = hash.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
    SessionId(u64::from_be_bytes(*id))
}

/// Whether `datagram` is the beginning of the handshake that `config` describes, by its client.
pub fn is_first_flight(config: &HandshakeConfig<'_>, datagram: &[u8]) -> bool {
    let gate = Identity::new(config).gate(config.link_secret);
    destination_id(datagram) == Some(&gate.first_flight[..]) && gate.open(datagram).is_some()
}

/// Puts the tag behind a datagram that the peer of `config` would put there: what its holder of the link secret can do.
#[doc(hidden)]
pub fn fuzz_gate(config: &HandshakeConfig<'_>, datagram: &mut Vec<u8>) {
    let mut identity = Identity::new(config);
    identity.role = match identity.role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    identity.gate(config.link_secret).close(datagram);
}

/// One handshake and the stream that it leaves behind.
pub struct Handshake {
    identity: Identity,
    link_secret: Zeroizing<[u8; 32]>,
    own_hello: Hello,
    gate: Gate,
    own_tag: OwnTag,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    wrong_key: Arc<AtomicBool>,
    connected: bool,
    phase: Phase,
    outgoing: Outgoing,
    incoming: Incoming,
    events: VecDeque<HandshakeEvent>,
    /// A last datagram of a connection that never came to be.
    refusal: Option<Vec<u8>>,
    /// To be told to the peer at the next occasion that knows the time.
    close_with: Option<CloseCode>,
    deadline: Instant,
    wake: Option<Instant>,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    /// No keys yet.
    Waiting,
    /// We have keys.
    Keyed,
    /// The peer has them too.
    Ready,
    /// Over.
    Closed,
}

/// What the peer is told as QUIC application error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CloseCode {
    Done = 0,
    Misbehaved = 1,
    Incompatible = 2,
}

/// Who with whom about what.
#[derive(Clone, Copy)]
struct Identity {
    network: NetworkId,
    session: SessionId,
    lower: NodeId,
    higher: NodeId,
    peer: NodeId,
    role: Role,
}

/// The path is the link's affair; QUIC sees the same address always (RFC 5737).
const PEER_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
/// What a waiting message costs beside its bytes.
const MESSAGE_COST: usize = 64;

impl Handshake {
    /// Begins: the client's first datagrams are there to be polled, the server waits for them.
    pub fn new(config: &HandshakeConfig<'_>, now: Instant) -> Result<Self, SessionError> {
        let identity = Identity::new(config);
        if identity.lower == identity.higher {
            return Err(SessionError::SameNode);
        }
        let gate = identity.gate(config.link_secret);
        let own_tag = OwnTag::new(&mut ChaCha12Rng::from_seed(config.seed));
        let endpoint_config = Arc::new(tls::endpoint_config(own_tag, &config.seed));
        let wrong_key = Arc::new(AtomicBool::new(false));
        let peer = tls::OnlyKey::new(config.peer, wrong_key.clone());
        let (endpoint, connection) = match identity.role {
            Role::Client => {
                let id = ConnectionId::new(&gate.first_flight);
                let client = tls::client_config(config.key, peer, config.initial_rtt, id)?;
                let mut endpoint = Endpoint::new(endpoint_config, None, false, None);
                let connection = endpoint
                    .connect(now, client, PEER_ADDRESS, tls::SERVER_NAME)
                    .map_err(|e| SessionError::Library(e.to_string()))?;
                (endpoint, Some(connection))
            }
            Role::Server => {
                let server = tls::server_config(config.key, peer, config.initial_rtt, &config.seed)?;
                let server = Some(Arc::new(server));
                (Endpoint::new(endpoint_config, server, false, None), None)
            }
        };
        let mut handshake = Self {
            identity,
            link_secret: Zeroizing::new(*config.link_secret),
            own_hello: Hello {
                version: WIRE_VERSION,
                receiver_index: config.own_index,
                capabilities: config.capabilities,
                ciphers: config.ciphers.to_vec(),
            },
            gate,
            own_tag,
            endpoint,
            connection,
            wrong_key,
            connected: false,
            phase: Phase::Waiting,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            events: VecDeque::new(),
            refusal: None,
            close_with: None,
            deadline: now + HANDSHAKE_TIME,
            wake: None,
        };
        handshake.drive();
        Ok(handshake)
    }

    /// Which end this node is.
    pub fn role(&self) -> Role {
        self.identity.role
    }

    /// Whether a QUIC datagram names this handshake; a stranger's may too, `handle_datagram` finds out.
    pub fn owns(&self, datagram: &[u8]) -> bool {
        destination_id(datagram).is_some_and(|id| {
            self.own_tag.is_in(id) || (self.identity.role == Role::Server && id == self.gate.first_flight)
        })
    }

    /// Takes a datagram from the peer; whatever it is, a wrong one changes nothing.
    pub fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) {
        if !self.owns(bytes) {
            return;
        }
        let Some(inner) = self.gate.open(bytes) else {
            return;
        };
        let mut reply = Vec::new();
        let event = self
            .endpoint
            .handle(now, PEER_ADDRESS, None, None, inner.into(), &mut reply);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((own, connection)) = &mut self.connection
                    && *own == handle
                {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(incoming, now),
            // Version negotiation and resets: the peer never needs one, so they are no answer to it.
            Some(DatagramEvent::Response(_)) | None => {}
        }
        self.drive();
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline && self.phase < Phase::Ready {
            self.fail(SessionError::Timeout, CloseCode::Done);
        }
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(now);
        }
        self.drive();
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = (self.phase < Phase::Ready).then_some(self.deadline);
        match (deadline, self.wake) {
            (Some(deadline), Some(wake)) => Some(deadline.min(wake)),
            (deadline, wake) => deadline.or(wake),
        }
    }

    /// Puts the next datagram for the peer into `out` in place of what was there; false if there is none.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        if let Some(refusal) = self.refusal.take() {
            *out = refusal;
            self.gate.close(out);
            return true;
        }
        let Some((_, connection)) = &mut self.connection else {
            return false;
        };
        if let Some(code) = self.close_with.take() {
            connection.close(now, VarInt::from_u32(code as u32), Default::default());
        }
        if connection.poll_transmit(now, 1, out).is_none() {
            self.drive();
            return false;
        }
        self.gate.close(out);
        self.drive();
        true
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<HandshakeEvent> {
        let event = self.events.pop_front()?;
        if let HandshakeEvent::Message(message) = &event {
            self.incoming.waiting -= message.len() + MESSAGE_COST;
            self.read();
        }
        Some(event)
    }

    /// Queues a control message; it leaves when the peer is proven, reliably and in order.
    pub fn send_message(&mut self, message: &[u8]) -> Result<(), MessageError> {
        if self.phase == Phase::Closed {
            return Err(MessageError::Closed);
        }
        if message.len() > limits::MESSAGE_BYTES {
            return Err(MessageError::TooLong(message.len()));
        }
        if self.outgoing.messages.len() + message.len() > limits::MESSAGE_BACKLOG {
            return Err(MessageError::Backlog);
        }
        self.outgoing.messages.extend(frame(Kind::Message, message));
        self.write();
        Ok(())
    }

    /// To be told that a record of the peer was opened: it has the keys, then, even if its Ready is still on the way.
    pub fn on_record_opened(&mut self) {
        self.become_ready();
    }

    /// Whether records may be sent.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Tells the peer that the stream is over. Poll for datagrams once more, then drop it.
    pub fn close(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.events.push_back(HandshakeEvent::Closed);
        if let Some((_, connection)) = &mut self.connection {
            connection.close(now, VarInt::from_u32(CloseCode::Done as u32), Default::default());
        }
        self.drive();
    }

    /// Whether nothing more comes of it and it may be dropped: over, told to the peer, and all events polled.
    pub fn is_spent(&self) -> bool {
        let is_quiet = match &self.connection {
            Some((_, connection)) => connection.is_drained(),
            None => self.refusal.is_none(),
        };
        self.phase == Phase::Closed && self.events.is_empty() && is_quiet
    }

    /// A client's first datagram that passed the gate.
    fn accept(&mut self, incoming: quinn_proto::Incoming, now: Instant) {
        let is_ours = incoming.orig_dst_cid()[..] == self.gate.first_flight;
        if self.connection.is_some() || self.phase == Phase::Closed || !is_ours {
            self.endpoint.ignore(incoming);
            return;
        }
        let mut reply = Vec::new();
        match self.endpoint.accept(incoming, now, &mut reply, None) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => {
                if error.response.is_some() {
                    self.refusal = Some(reply);
                }
                let reason = self.blame(error.cause);
                self.fail(reason, CloseCode::Done);
            }
        }
    }

    /// Lets the connection's affairs run until nothing moves, then looks when it must be woken.
    fn drive(&mut self) {
        loop {
            let Some((handle, connection)) = &mut self.connection else {
                return;
            };
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            let Some(event) = connection.poll() else {
                break;
            };
            self.on_event(event);
        }
        self.write();
        self.read();
        self.write();
        if let Some((_, connection)) = &mut self.connection {
            self.wake = connection.poll_timeout();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::ConnectionLost { reason } => self.on_lost(reason),
            Event::Stream(StreamEvent::Stopped { .. }) => {
                self.misbehaved("it stopped the control stream");
            }
            // Streams are looked at after every event.
            Event::Stream(_) | Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn on_lost(&mut self, reason: ConnectionError) {
        let closed = match &reason {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
            ConnectionError::LocallyClosed => Some(CloseCode::Done as u64),
            _ => None,
        };
        if closed == Some(CloseCode::Done as u64) && self.phase == Phase::Ready {
            self.phase = Phase::Closed;
            self.events.push_back(HandshakeEvent::Closed);
            return;
        }
        let error = self.blame(reason);
        self.fail(error, CloseCode::Done);
    }

    /// Whose fault the end of the connection is.
    fn blame(&self, reason: ConnectionError) -> SessionError {
        match reason {
            _ if self.wrong_key.load(Ordering::Relaxed) => SessionError::WrongKey(self.identity.peer),
            ConnectionError::ConnectionClosed(close) => blame_alert(
                close.error_code,
                SessionError::Refused,
                format!("it found fault with us: {close}"),
            ),
            ConnectionError::TransportError(error) => blame_alert(
                error.code,
                SessionError::WrongKey(self.identity.peer),
                error.to_string(),
            ),
            ConnectionError::ApplicationClosed(close) => match close.error_code.into_inner() {
                2 => SessionError::PeerIncompatible("it says so".into()),
                1 => SessionError::PeerMisbehaved("it found fault with us".into()),
                _ => SessionError::BrokenOff,
            },
            ConnectionError::VersionMismatch => SessionError::PeerIncompatible("no common version of QUIC".into()),
            ConnectionError::Reset | ConnectionError::LocallyClosed => SessionError::BrokenOff,
            ConnectionError::TimedOut => SessionError::Timeout,
            ConnectionError::CidsExhausted => SessionError::Library("no connection id is free".into()),
        }
    }

    fn fail(&mut self, error: SessionError, code: CloseCode) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.close_with = Some(code);
        self.events.push_back(HandshakeEvent::Failed(error));
    }

    fn misbehaved(&mut self, what: &str) {
        self.fail(SessionError::PeerMisbehaved(what.to_owned()), CloseCode::Misbehaved);
    }

    /// The proven peer said what it wants: there are keys now.
    fn on_hello(&mut self, hello: &Hello) {
        let version = hello.version.min(WIRE_VERSION);
        let cipher = settle(&self.own_hello.ciphers, &hello.ciphers);
        let (Some(cipher), 1..) = (cipher, version) else {
            let error = SessionError::PeerIncompatible("no common version or cipher".into());
            return self.fail(error, CloseCode::Incompatible);
        };
        let Some(keys) = self.export(cipher, hello.version) else {
            let error = SessionError::Library("no exporter".into());
            return self.fail(error, CloseCode::Done);
        };
        self.phase = Phase::Keyed;
        let peer = PeerHello {
            receiver_index: hello.receiver_index,
            cipher,
            version,
            capabilities: hello.capabilities,
        };
        self.events.push_back(HandshakeEvent::Keys(keys, peer));
        if self.identity.role == Role::Server {
            self.outgoing.own.extend(frame(Kind::Ready, &[]));
            self.become_ready();
        }
    }

    fn become_ready(&mut self) {
        if self.phase == Phase::Keyed {
            self.phase = Phase::Ready;
            self.events.push_back(HandshakeEvent::Ready);
        }
    }

    fn export(&self, cipher: Cipher, peer_version: u8) -> Option<SessionKeys> {
        let (_, connection) = self.connection.as_ref()?;
        let identity = &self.identity;
        let versions = match identity.role {
            Role::Client => [self.own_hello.version, peer_version],
            Role::Server => [peer_version, self.own_hello.version],
        };
        let context = identity.exporter_context(versions);
        let mut exported = Zeroizing::new([0; 32]);
        connection
            .crypto_session()
            .export_keying_material(&mut *exported, b"ipop frames v1", &context)
            .ok()?;
        Some(SessionKeys::new(&exported, &self.link_secret, cipher, identity.role))
    }
}

impl Identity {
    fn new(config: &HandshakeConfig<'_>) -> Self {
        let own = config.key.id();
        let peer = config.peer;
        Self {
            network: config.network,
            session: config.session,
            lower: own.min(peer),
            higher: own.max(peer),
            peer,
            role: if own < peer { Role::Client } else { Role::Server },
        }
    }

    fn gate(&self, link_secret: &[u8; 32]) -> Gate {
        Gate::new(
            link_secret,
            self.network,
            self.session,
            (self.lower, self.higher),
            self.role,
        )
    }

    /// Binds exported keys to everything that both ends must agree on; `versions` are the lower node's and the higher's.
    fn exporter_context(&self, versions: [u8; 2]) -> [u8; 32] {
        let parts: [&[u8]; 5] = [
            &self.network.0,
            &self.session.0.to_be_bytes(),
            &self.lower.0,
            &self.higher.0,
            &versions,
        ];
        digest(&SHA256, &parts.concat())
            .as_ref()
            .try_into()
            .expect("SHA-256 has 32 bytes")
    }
}

/// Both ends come to the same: AES only where both like it best, for else one of them computes it slowly.
fn settle(own: &[Cipher], peer: &[Cipher]) -> Option<Cipher> {
    if own.first() == Some(&Cipher::Aes256Gcm) && peer.first() == Some(&Cipher::Aes256Gcm) {
        return Some(Cipher::Aes256Gcm);
    }
    [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm]
        .into_iter()
        .find(|cipher| own.contains(cipher) && peer.contains(cipher))
}

/// TLS alerts (RFC 8446 section 6.2) about keys, about versions, and all else.
fn blame_alert(code: TransportErrorCode, key: SessionError, text: String) -> SessionError {
    const QUIC_CRYPTO: u64 = 0x100;
    // An application's own code is not told before the handshake is through (RFC 9000 section 10.2.3).
    if code == TransportErrorCode::APPLICATION_ERROR {
        return SessionError::BrokenOff;
    }
    match u64::from(code).checked_sub(QUIC_CRYPTO) {
        Some(42..=46 | 48 | 49 | 51) => key,
        Some(40 | 70 | 71 | 109 | 120) => SessionError::PeerIncompatible(text),
        _ => SessionError::PeerMisbehaved(text),
    }
}
