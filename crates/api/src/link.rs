//! The link API: what a controller, ours or anybody's, asks of tincan over its Unix socket, and what tincan tells it.
//!
//! Promises: signals cross as opaque sealed blobs; `state.get` returns everything, so a controller can restart at any time.
//! Refuses to know: accounts, membership, rendezvous. A secret never crosses, but for the TURN credentials going in.

mod report;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::ids::{Blob, NetworkId, NodeId};
use crate::rpc::Empty;

pub use report::{NatKind, NetReport, ServerReport};

/// The major version of this API; a tincan of another one refuses to talk.
pub const API_VERSION: u32 = 1;

crate::calls! {
    /// A request to tincan.
    LinkCall {
        "tincan.info" => Info(Empty) -> TincanInfo: "Version, process and what this machine can do.";
        "state.get" => State(Empty) -> State: "Everything there is: networks, peers, links, candidates, relays, drops.";
        "events.subscribe" => Subscribe(Empty) -> Empty: "From now on events come as notifications with method \"event\" on this connection.";
        "root.create" => CreateRoot(Empty) -> NetworkRef: "Makes and keeps a group's root key; the network id is its public half.";
        "root.remove" => RemoveRoot(NetworkRef) -> Empty: "Erases a root key kept here; the group can then admit through invites no more.";
        "identity.get" => Identity(NetworkRef) -> NodeRef: "This device's node id in a network.";
        "identity.sign" => Sign(SignRequest) -> Signature: "Signs membership data with the node key or a root key kept here.";
        "network.create" => CreateNetwork(NetworkConfig) -> NicInfo: "Makes a network's NIC with addresses; the same call again changes them.";
        "network.remove" => RemoveNetwork(NetworkRef) -> Empty: "Takes NIC, routes, names, peers and links of a network away.";
        "network.names" => SetNames(NamesConfig) -> Empty: "Replaces the names that the resolver of this machine answers for a network.";
        "servers.set" => SetServers(ServersConfig) -> Empty: "Replaces the STUN and TURN servers used for a network.";
        "peer.set" => SetPeer(PeerConfig) -> Empty: "Allows a node to link to us and says which inner addresses are its own.";
        "peer.remove" => RemovePeer(NodeRef) -> Empty: "Cuts the link to a node and refuses it from now on.";
        "peer.send" => SendMessage(PeerMessage) -> Empty: "Sends bytes to the controller of a linked node, in order and without loss while the link lives; at most 32 KiB.";
        "link.open" => OpenLink(NodeRef) -> Empty: "Makes a link to a peer that was set; progress comes as events. Does nothing if one exists.";
        "link.close" => CloseLink(NodeRef) -> Empty: "Ends a link; the peer stays allowed.";
        "link.ping" => Ping(NodeRef) -> Pong: "One authenticated round trip over the link's present path.";
        "signal.seal" => SealMessage(PeerMessage) -> SealedMessage: "Seals bytes to a node's device key, for controllers that have no link yet; at most 32 KiB.";
        "signal.deliver" => Deliver(Delivery) -> Delivered: "Opens a blob that came over a rendezvous and acts on it.";
        "net.check" => CheckNetwork(ServersConfig) -> NetReport: "Finds out what the network around this machine allows; one at a time, at most 15 s.";
    }
}

/// What `tincan.info` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TincanInfo {
    /// Program version.
    pub version: String,
    /// See [`API_VERSION`].
    pub api: u32,
    /// Process id.
    pub pid: u32,
    /// Random at each start of tincan: another value means that it knows nothing any more.
    pub instance: u64,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// UDP ports in use, as (family 4 or 6, port).
    pub ports: Vec<Port>,
    /// What the kernel gives or withholds, each as one sentence.
    pub notes: Vec<String>,
}

/// A UDP port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// 4 or 6.
    pub family: u8,
    /// Port number.
    pub port: u16,
}

/// Names a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRef {
    /// The network.
    pub network: NetworkId,
}

/// Names a node in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRef {
    /// The network.
    pub network: NetworkId,
    /// The node.
    pub node: NodeId,
}

/// Which key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signer {
    /// This device's key in the network.
    Node,
    /// The group's root key, where it is kept here.
    Root,
}

/// What a signature is for; each has a context string of its own, so that none can stand for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// An entry of a group's membership log.
    LogEntry,
    /// What a node says of itself at a rendezvous.
    Presence,
}

impl Purpose {
    /// The string that goes before the signed bytes.
    pub fn context(self) -> &'static str {
        match self {
            Self::LogEntry => "ipop log entry v1",
            Self::Presence => "ipop presence v1",
        }
    }
}

/// What to sign: signed is the purpose's context, a zero byte, then the payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SignRequest {
    /// The network.
    pub network: NetworkId,
    /// The key.
    pub signer: Signer,
    /// What for.
    pub purpose: Purpose,
    /// At most 16 KiB.
    pub payload: Blob,
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// The 64 bytes.
    pub signature: Blob,
}

/// What the NIC carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NicKind {
    /// IPv4 and IPv6 (TUN).
    Ip,
    /// Ethernet (TAP).
    Ethernet,
}

/// A network as its NIC needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkConfig {
    /// The network.
    pub network: NetworkId,
    /// IP or Ethernet.
    pub kind: NicKind,
    /// NIC name wished for, at most 15 bytes; the kernel picks `ipopN` where absent.
    #[serde(default)]
    pub nic: Option<String>,
    /// NIC MTU, bytes: 1280 to 9000.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Own addresses with the subnet that is reached through the NIC.
    pub addresses: Vec<Cidr>,
}

/// Least MTU of a NIC: IPv6 demands it (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1280;
/// Largest MTU of a NIC.
pub const MTU_MAX: u16 = 9000;

/// 1400 bytes: fits, with 28 bytes of record and 48 of IPv6 and UDP, in any path of 1476 bytes or more.
pub fn default_mtu() -> u16 {
    1400
}

/// The NIC that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NicInfo {
    /// Name of the NIC.
    pub nic: String,
    /// Our node id in the network.
    pub node: NodeId,
}

/// Names of a network, all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamesConfig {
    /// The network.
    pub network: NetworkId,
    /// Domain under which the names stand: `mygroup.ipop`.
    pub zone: String,
    /// The names.
    pub records: Vec<NameRecord>,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NameRecord {
    /// One label: `bob`.
    pub name: String,
    /// IPv4 and IPv6 addresses.
    pub addresses: Vec<IpAddr>,
}

/// STUN and TURN servers, resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServersConfig {
    /// The network they are used for; absent in `net.check`.
    #[serde(default)]
    pub network: Option<NetworkId>,
    /// STUN over UDP.
    #[serde(default)]
    pub stun: Vec<SocketAddr>,
    /// TURN.
    #[serde(default)]
    pub turn: Vec<TurnServer>,
}

/// How TURN is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnTransport {
    /// Datagrams.
    Udp,
    /// A plain TCP stream; what it carries is sealed end to end anyway.
    Tcp,
    /// TLS over TCP.
    Tls,
}

/// One TURN server with credentials.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// How to speak to it.
    pub transport: TurnTransport,
    /// Host name for TLS; the address where absent.
    #[serde(default)]
    pub name: Option<String>,
    /// SHA-256 of its TLS public key (SPKI), hexadecimal; the system's roots decide where absent.
    #[serde(default)]
    pub pin: Option<String>,
    /// User name.
    pub username: String,
    /// Password; never shown again.
    pub password: String,
}

impl std::fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnServer({} {:?})", self.address, self.transport)
    }
}

/// A peer as frames and offers need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerConfig {
    /// The network.
    pub network: NetworkId,
    /// The peer.
    pub node: NodeId,
    /// Its addresses: only these may stand as source in its frames, and frames to these go to it.
    pub addresses: Vec<IpAddr>,
    /// Its name, for people.
    #[serde(default)]
    pub name: Option<String>,
}

/// Bytes from or to another node's controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerMessage {
    /// The network.
    pub network: NetworkId,
    /// The other node.
    pub node: NodeId,
    /// The bytes.
    pub data: Blob,
}

/// A sealed message for the rendezvous to carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SealedMessage {
    /// Opaque.
    pub blob: Blob,
}

/// A blob that arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Delivery {
    /// The network it came for.
    pub network: NetworkId,
    /// At most 64 KiB.
    pub blob: Blob,
}

/// What a blob was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Delivered {
    /// It concerned a link to this node and was acted on.
    Link {
        /// Proven by signature.
        from: NodeId,
    },
    /// A message of a controller, made by `signal.seal`.
    Message {
        /// Proven by signature.
        from: NodeId,
        /// Its content.
        data: Blob,
    },
    /// An offer from a node that no `peer.set` allows; dropped.
    Stranger {
        /// Proven by signature.
        from: NodeId,
    },
}

/// An authenticated round trip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// Round trip, microseconds.
    pub rtt_us: u64,
    /// The path that the answer came by.
    pub path: PathState,
}

/// Everything in tincan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// The instance, as in [`TincanInfo`].
    pub instance: u64,
    /// Every network.
    pub networks: Vec<NetworkState>,
    /// Candidates of this machine.
    pub candidates: Vec<CandidateState>,
    /// TURN allocations and attempts.
    pub relays: Vec<RelayState>,
    /// Datagrams that belong to no link, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkState {
    /// Its configuration.
    pub config: NetworkConfig,
    /// Our id in it.
    pub node: NodeId,
    /// NIC name.
    pub nic: Option<String>,
    /// Why there is no NIC, where there is none.
    #[serde(default)]
    pub fault: Option<String>,
    /// Its peers.
    pub peers: Vec<PeerState>,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerState {
    /// Its id.
    pub node: NodeId,
    /// Its inner addresses.
    pub addresses: Vec<IpAddr>,
    /// Its name.
    pub name: Option<String>,
    /// How far the link is.
    pub phase: LinkPhase,
    /// The present path, once there is one.
    pub path: Option<PathState>,
    /// Counters of the link since it was made.
    pub traffic: Traffic,
    /// Frames and records dropped on this link, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Milliseconds since the session began.
    pub up_ms: Option<u64>,
    /// Milliseconds since the last authenticated record came.
    pub last_received_ms: Option<u64>,
    /// Fresh handshakes and epochs, for the curious.
    pub session: Option<SessionState>,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkPhase {
    /// No link.
    Idle,
    /// Our offer is out.
    Offered,
    /// ICE checks run.
    Checking,
    /// A path works; the handshake runs.
    Securing,
    /// Frames flow.
    Up,
    /// The session lives, but no path answers; all are being probed.
    Lost,
}

/// How datagrams reach the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// UDP between the two nodes.
    Direct,
    /// Through a TURN server, ours or the peer's.
    Turn,
    /// Inside links of members.
    Member,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathState {
    /// Kind.
    pub kind: PathKind,
    /// Our end.
    pub local: SocketAddr,
    /// The address that datagrams go to: the member's, where one is between.
    pub remote: SocketAddr,
    /// The TURN server and transport, where one is used on our side, or the name of the member.
    #[serde(default)]
    pub via: Option<String>,
    /// Round trip, microseconds, as last measured.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Longest frame that the path carries whole, bytes, as far as found.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Inner frames sent.
    pub sent_frames: u64,
    /// Bytes of inner frames sent.
    pub sent_bytes: u64,
    /// Inner frames received and accepted.
    pub received_frames: u64,
    /// Bytes of inner frames received and accepted.
    pub received_bytes: u64,
    /// Datagrams of other nodes passed on to this peer.
    #[serde(default)]
    pub relayed_frames: u64,
    /// Bytes of datagrams of other nodes passed on to this peer.
    #[serde(default)]
    pub relayed_bytes: u64,
}

/// The session of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionState {
    /// AEAD.
    pub cipher: String,
    /// Epoch that we seal in.
    pub send_epoch: u16,
    /// Epoch last opened.
    pub receive_epoch: u16,
    /// Handshakes completed on this link.
    pub handshakes: u32,
}

/// One candidate of this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateState {
    /// `host`, `server_reflexive`, `relayed`, `mapped`.
    pub kind: String,
    /// The address offered.
    pub address: SocketAddr,
    /// The server it was learnt from.
    #[serde(default)]
    pub server: Option<SocketAddr>,
}

/// One TURN server as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RelayState {
    /// The server.
    pub server: SocketAddr,
    /// Transport.
    pub transport: TurnTransport,
    /// Relayed address, once allocated.
    pub relayed: Option<SocketAddr>,
    /// Why not, where it failed.
    pub fault: Option<String>,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Carry this sealed blob to that node, over any rendezvous.
    SignalOut {
        /// The network.
        network: NetworkId,
        /// For whom.
        to: NodeId,
        /// Opaque.
        blob: Blob,
    },
    /// Frames can flow.
    LinkUp {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The path.
        path: PathState,
    },
    /// The link is gone; open it again if it is still wanted.
    LinkDown {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// One sentence.
        reason: String,
    },
    /// The link moved to another path, or lost its path (none).
    PathChanged {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The path; none while lost.
        path: Option<PathState>,
    },
    /// A frame waits for a peer that has no link.
    LinkWanted {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
    },
    /// A message from a peer's controller, over the link.
    PeerMessage(PeerMessage),
    /// This machine's addresses or routes changed.
    AddressesChanged {},
    /// A STUN or TURN server does not serve us.
    ServerFailed {
        /// The server.
        server: SocketAddr,
        /// One sentence.
        reason: String,
    },
    /// The NIC of a network vanished or could not be made again.
    NicLost {
        /// The network.
        network: NetworkId,
        /// One sentence.
        reason: String,
    },
}
