//! What a handshake is told and what it tells.

use std::time::Duration;

use api::{NetworkId, NodeId, SessionId};

use super::HANDSHAKE_TIME;
use crate::keys::NodeKey;
use crate::limits;
use crate::record::{Cipher, ReceiverIndex};
use crate::session::{KeysExhausted, SessionKeys};

/// What a handshake is about; both ends must agree on network, session and secret.
pub struct HandshakeConfig<'a> {
    /// Own key in the network.
    pub key: &'a NodeKey,
    /// Whom to expect: no other key is accepted.
    pub peer: NodeId,
    /// The link's network.
    pub network: NetworkId,
    /// The link's session id, or its `next_session` for each fresh handshake.
    pub session: SessionId,
    /// The secret of the sealed offer.
    pub link_secret: &'a [u8; 32],
    /// What the peer is to put on its records.
    pub own_index: ReceiverIndex,
    /// Own ciphers, the best liked first: `Cipher::preferred`.
    pub ciphers: [Cipher; 2],
    /// Bits for the peer to see; 0 for now.
    pub capabilities: u32,
    /// What ICE measured.
    pub initial_rtt: Duration,
    /// Fresh chance for connection ids and the like.
    pub seed: [u8; 32],
}

/// What the two ends settled on, and what the peer said of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHello {
    /// What to put on records for the peer.
    pub receiver_index: ReceiverIndex,
    /// The AEAD for records, the same at both ends.
    pub cipher: Cipher,
    /// The wire version, the same at both ends.
    pub version: u8,
    /// The peer's bits.
    pub capabilities: u32,
}

/// What happened.
pub enum HandshakeEvent {
    /// The peer proved its key: make the session and receive with it. Do not send yet.
    Keys(SessionKeys, PeerHello),
    /// The peer has the keys too: records may be sent.
    Ready,
    /// A control message, in order.
    Message(Vec<u8>),
    /// It is over for this reason; nothing more comes.
    Failed(SessionError),
    /// Either side closed it after `Ready`; nothing more comes.
    Closed,
}

/// Why there is no session, and whose fault that is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer, proven or holding the link secret, broke the protocol.
    #[error("the peer broke the protocol ({0}): report this with both versions of IPOP")]
    PeerMisbehaved(String),
    /// The peer speaks no version or cipher that we do.
    #[error("the peer's IPOP cannot talk to this one ({0}): update the older")]
    PeerIncompatible(String),
    /// The other end did not prove the expected key.
    #[error("the other end is not {0}: it holds the link's secret but not that node's key")]
    WrongKey(NodeId),
    /// The peer did not accept our key.
    #[error("the peer refused this node's key: it expects another one")]
    Refused,
    /// The peer closed before the handshake was through.
    #[error("the peer broke the handshake off: its own log says why")]
    BrokenOff,
    /// A node cannot have a link to itself.
    #[error("a node cannot have a link to itself")]
    SameNode,
    /// All epochs are used up.
    #[error(transparent)]
    KeysExhausted(#[from] KeysExhausted),
    /// The peer did not answer.
    #[error("no session with the peer after {} s: its answers do not arrive", HANDSHAKE_TIME.as_secs())]
    Timeout,
    /// TLS or QUIC could not be set up on this machine.
    #[error("the cryptographic library refused: {0}")]
    Library(String),
}

/// Why a control message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// Longer than `limits::MESSAGE_BYTES`.
    #[error("a control message of {0} bytes is too long, the most is {max}", max = limits::MESSAGE_BYTES)]
    TooLong(usize),
    /// The peer does not take what was sent before.
    #[error("too many control messages wait for the peer: try again later")]
    Backlog,
    /// The stream is gone.
    #[error("the link's control stream is closed")]
    Closed,
}
