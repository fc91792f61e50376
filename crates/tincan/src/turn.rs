//! TURN allocations of this node (RFC 8656), shared by all links.
//!
//! Promises: a wrong password or a dead server is told in a sentence within seconds; tables are bounded; secrets are
//! never printed. Refuses to know: sockets, TLS roots' origin, links.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A TURN password.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

impl Password {
    /// Takes a password.
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// One relayed address at one server; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u32);

/// One byte stream to a server; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// How a datagram leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the shared UDP socket of the remote's family, from this local address if one is given.
    Udp(Option<IpAddr>),
    /// Through a TURN server.
    Relay(RelayId),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it leaves from.
    pub source: Source,
    /// Where it goes.
    pub remote: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// How to talk to a TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnTransport {
    /// Over the shared UDP socket.
    Udp,
    /// Over a TCP connection.
    Tcp,
    /// Over TLS.
    Tls {
        /// The name the certificate must carry.
        name: String,
        /// SHA-256 of the server key's SubjectPublicKeyInfo; replaces the check against the roots.
        pin: Option<[u8; 32]>,
    },
}

/// A TURN server and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnServer {
    /// Its address.
    pub address: SocketAddr,
    /// Entries with one label are ways to one host: UDP goes first, the others when it is silent.
    pub label: String,
    /// The way.
    pub transport: TurnTransport,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Password,
}

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Used up.
    Consumed,
    /// Not from a server of ours.
    NotMine,
    /// Carries a peer's datagram: `bytes[range]`.
    Data {
        /// The relayed address it came to.
        relay: RelayId,
        /// Who sent it.
        peer: SocketAddr,
        /// Where it is inside the datagram.
        range: Range<usize>,
    },
}

/// What the shell says about a stream.
#[derive(Debug)]
pub enum StreamInput<'a> {
    /// It is connected.
    Connected {
        /// Our address.
        local: SocketAddr,
    },
    /// Bytes came in.
    Data(&'a [u8]),
    /// It is closed, or could not be opened.
    Closed,
}

/// What the shell does with a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOutput {
    /// Open it.
    Connect(SocketAddr),
    /// Send bytes.
    Data(Vec<u8>),
    /// Close it.
    Close,
}

/// What the relays want done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayOutput {
    /// Send a datagram from the shared UDP socket.
    Udp {
        /// To the server.
        remote: SocketAddr,
        /// A STUN message or channel data.
        bytes: Vec<u8>,
    },
    /// Do something with a stream.
    Stream(StreamId, StreamOutput),
    /// A relayed address is ours.
    Allocated {
        /// Its name here.
        relay: RelayId,
        /// The relayed address.
        address: SocketAddr,
        /// The server's label.
        server: String,
    },
    /// A relayed address is gone.
    Lost {
        /// Its name.
        relay: RelayId,
        /// A sentence.
        reason: String,
    },
    /// A server gives us nothing.
    Failed {
        /// The server's label.
        server: String,
        /// A sentence.
        reason: String,
    },
    /// The peer may send to us through the relay, and we to it.
    Permitted {
        /// The relay.
        relay: RelayId,
        /// The peer.
        ip: IpAddr,
    },
    /// A peer's datagram that came over a stream.
    Data {
        /// The relay.
        relay: RelayId,
        /// Who sent it.
        peer: SocketAddr,
        /// What it sent.
        bytes: Vec<u8>,
    },
}

/// All TURN allocations of the node.
pub struct Relays {
    outputs: std::collections::VecDeque<RelayOutput>,
}

impl Relays {
    /// No server yet. `locals` are the local addresses of the shared sockets as the servers will see them from here;
    /// `roots` judge TLS servers without a pin.
    pub fn new(_now: Instant, _roots: Arc<rustls::RootCertStore>) -> Self {
        Relays {
            outputs: Default::default(),
        }
    }
    /// Replaces the list of servers.
    pub fn set_servers(&mut self, _now: Instant, _servers: Vec<TurnServer>) {}
    /// Takes a datagram.
    pub fn handle_udp(&mut self, _now: Instant, _remote: SocketAddr, _bytes: &[u8]) -> Handled {
        Handled::NotMine
    }
    /// Takes what happened to a stream.
    pub fn handle_stream(&mut self, _now: Instant, _stream: StreamId, _input: StreamInput<'_>) {}
    /// Sends a datagram to a peer; asks for the permission first where there is none.
    pub fn send(&mut self, _now: Instant, _relay: RelayId, _peer: SocketAddr, _bytes: &[u8]) {}
    /// Asks for the permission to exchange datagrams with a peer.
    pub fn permit(&mut self, _now: Instant, _relay: RelayId, _peer: IpAddr) {}
    /// Binds a channel to a peer.
    pub fn bind_channel(&mut self, _now: Instant, _relay: RelayId, _peer: SocketAddr) {}
    /// Server and channel number for a fast path that writes channel data itself; UDP only.
    pub fn channel(&self, _relay: RelayId, _peer: SocketAddr) -> Option<(SocketAddr, u16)> {
        None
    }
    /// The relay that owns a relayed address.
    pub fn relay_of(&self, _address: SocketAddr) -> Option<RelayId> {
        None
    }
    /// Whether datagrams from this address are a server's (looked at before the first byte).
    pub fn is_server(&self, _remote: SocketAddr) -> bool {
        false
    }
    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// When to call [`Relays::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }
}
