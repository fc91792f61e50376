//! The control API: what the command line and other programs ask of the controller.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::ids::{NetworkId, NodeId};
use crate::link::{NetReport, PathState};
use crate::rpc::Empty;
use crate::status::Status;

crate::calls! {
    /// A request to the controller.
    ControlCall {
        "controller.info" => Info(Empty) -> ControllerInfo: "Version and process.";
        "status.get" => Status(Empty) -> Status: "Groups, peers, how each is reached, and what is wrong.";
        "network.up" => Up(Empty) -> Empty: "Brings every network up.";
        "network.down" => Down(Empty) -> Empty: "Takes NICs, routes, names and links of every network away; membership stays.";
        "group.create" => CreateGroup(CreateGroup) -> GroupInfo: "Makes a group whose root key this node holds.";
        "group.join" => JoinGroup(JoinGroup) -> Joined: "Joins by an invite; answers when the first member's link is up.";
        "group.leave" => LeaveGroup(GroupRef) -> Empty: "Leaves; nothing of the group stays on the machine.";
        "invite.create" => CreateInvite(CreateInvite) -> Invite: "Makes an invite.";
        "peer.ping" => PingPeer(PingPeer) -> PeerPong: "One round trip to a peer over its link.";
        "net.check" => CheckNetwork(Empty) -> NetReport: "What the network around this machine allows, with the servers of all groups.";
    }
}

/// What `controller.info` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControllerInfo {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// How many groups are configured.
    pub groups: u32,
}

/// An XMPP account.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// `user@domain`.
    pub jid: String,
    /// Its password; kept in the state directory, never shown.
    pub password: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.jid)
    }
}

/// A group to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateGroup {
    /// 1 to 32 letters a-z, digits, hyphens.
    pub name: String,
    /// IPv4 subnet, /8 to /29; random in 10.0.0.0/8 and clear of this host's routes where absent.
    #[serde(default)]
    pub subnet: Option<Cidr>,
    /// The rendezvous, in the text form of `ServerAddress`.
    pub server: String,
    /// Our name in the group; the machine's where absent.
    #[serde(default)]
    pub host_name: Option<String>,
    /// An account on the rendezvous; one is registered where absent.
    #[serde(default)]
    pub account: Option<Account>,
    /// MTU of this node's NIC, bytes: 1280 to 9000; 1400 where absent.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// A group as made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub network: NetworkId,
    /// Our id in it.
    pub node: NodeId,
    /// Our addresses in it with its subnets.
    pub addresses: Vec<Cidr>,
    /// Our name in it.
    pub host_name: String,
}

/// An invite taken up.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JoinGroup {
    /// The `ipop://` link.
    pub invite: String,
    /// Our name in the group; the machine's where absent.
    #[serde(default)]
    pub host_name: Option<String>,
    /// An account on the rendezvous; one is registered where absent.
    #[serde(default)]
    pub account: Option<Account>,
    /// MTU of this node's NIC, bytes: 1280 to 9000; 1400 where absent.
    #[serde(default)]
    pub mtu: Option<u16>,
}

impl std::fmt::Debug for JoinGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinGroup({:?})", self.host_name)
    }
}

/// We are in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Joined {
    /// The group.
    pub group: GroupInfo,
    /// The member whose link came up first.
    pub member: String,
    /// Milliseconds from the request to that.
    pub elapsed_ms: u64,
}

/// Names a group: by name or id; may be left out where there is only one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupRef {
    /// Name or id.
    pub group: String,
}

/// An invite to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateInvite {
    /// Name or id of the group; may be absent where there is only one.
    #[serde(default)]
    pub group: Option<String>,
    /// How many nodes may join by it: 1 to 1000.
    #[serde(default = "one")]
    pub uses: u32,
    /// Seconds that it is good for: 60 to 31,536,000.
    #[serde(default = "day")]
    pub expires_s: u64,
}

fn one() -> u32 {
    1
}

fn day() -> u64 {
    86_400
}

/// An invite.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Invite {
    /// The `ipop://` link: whoever holds it can join.
    pub invite: String,
    /// Unix time at which it ends.
    pub expires_at: u64,
    /// The group's name.
    pub group: String,
}

/// Whom to ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingPeer {
    /// Name, `name.group`, address or id.
    pub node: String,
}

/// It answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerPong {
    /// Name of the peer.
    pub name: String,
    /// Id of the peer.
    pub node: NodeId,
    /// Round trip, microseconds.
    pub rtt_us: u64,
    /// The path that the answer came by.
    pub path: PathState,
}
