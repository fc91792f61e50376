//! What a person asks: who is there, how am I connected, what is wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::ids::{NetworkId, NodeId};

/// The answer to `ipop status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Whether networks are up (`ipop up`) or taken down (`ipop down`).
    pub up: bool,
    /// Whether the data-plane process answers.
    pub tincan: bool,
    /// Resident memory of the two processes, bytes: tincan, controller.
    pub memory_bytes: [u64; 2],
    /// Every group.
    pub groups: Vec<GroupStatus>,
    /// What is wrong, empty when nothing is.
    pub health: Vec<Health>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStatus {
    /// Name for people, and domain: `NAME.ipop`.
    pub name: String,
    /// Its id.
    pub network: NetworkId,
    /// Our id in it.
    pub node: NodeId,
    /// Our name in it.
    pub host_name: String,
    /// Our addresses in it.
    pub addresses: Vec<IpAddr>,
    /// Its subnets, IPv4 and IPv6.
    pub subnets: Vec<Cidr>,
    /// Its NIC, when up.
    pub nic: Option<String>,
    /// Whether this node holds the root key.
    pub founder: bool,
    /// Its rendezvous servers.
    pub rendezvous: Vec<RendezvousStatus>,
    /// Everybody else.
    pub peers: Vec<PeerStatus>,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One rendezvous server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RendezvousStatus {
    /// Host and port, or domain.
    pub server: String,
    /// Whether we are logged in.
    pub online: bool,
    /// Why not, one sentence.
    pub fault: Option<String>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// How it is reached.
    pub connection: Connection,
    /// Round trip, microseconds, as last measured.
    pub rtt_us: Option<u64>,
    /// Longest frame that the path carries whole, bytes, as far as found.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// Inner bytes sent to it since the link was made.
    pub sent_bytes: u64,
    /// Inner bytes received from it since the link was made.
    pub received_bytes: u64,
    /// Bytes of datagrams that other members sent to it through us.
    #[serde(default)]
    pub relayed_bytes: u64,
    /// Seconds since something authenticated came from it; none: never since we started.
    pub last_seen_s: Option<u64>,
    /// Frames dropped on its link, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Connection {
    /// UDP straight to it.
    Direct {
        /// Where datagrams go.
        remote: String,
    },
    /// Through a TURN server or a member.
    Relay {
        /// Which, and over what.
        via: String,
    },
    /// A link is being made.
    Connecting,
    /// It is there, but no link is needed now.
    Idle,
    /// It is not there.
    Offline,
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Stable name of the fault.
    pub code: String,
    /// What is wrong and what to do.
    pub message: String,
}
