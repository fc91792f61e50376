//! The words in which relays and their users talk.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A TURN password.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Password(pub(super) String);

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
    Connected,
    /// Bytes came in.
    Data(&'a [u8]),
    /// Its send buffer is full, or free again: meanwhile peers' datagrams are dropped, never the protocol's messages.
    Congested(bool),
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

/// Where `part`, a slice of `whole`, lies in it.
pub(super) fn place_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// The channel number, where the bytes are channel data (RFC 8656 section 12.4) of exactly their length.
pub(super) fn channel_data(bytes: &[u8]) -> Option<u16> {
    let &[first, second, high, low] = bytes.first_chunk::<4>()?;
    let number = u16::from_be_bytes([first, second]);
    let length = usize::from(u16::from_be_bytes([high, low]));
    ((0x4000..=0x4fff).contains(&number) && bytes.len() == 4 + length).then_some(number)
}
