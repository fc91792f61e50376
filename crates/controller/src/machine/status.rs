//! What people ask: status, pings, what the network allows.

use std::net::IpAddr;

use api::control::PeerPong;
use api::link::{
    LinkCall, LinkPhase, NetworkState, NodeRef, PathKind, PathState, PeerState, Pong, ServersConfig, State, TincanInfo,
};
use api::rpc::{ApiError, Empty, ErrorKind};
use api::status::{Connection, GroupStatus, Health, PeerStatus, RendezvousStatus, Status};
use api::{NetworkId, NodeId};

use crate::addressing::collision;
use crate::limits::{CLOCK_TOLERANCE_S, PING_LINK_WAIT, SERVERS_MAX};
use crate::membership::Member;

use super::Controller;
use super::effects::{Cx, Now, Pending, RequestId};
use super::group::{Group, Link, Stage};

impl Controller {
    /// Asks tincan first, so that what is shown is fresh.
    pub(super) fn status(&mut self, _now: Now, request: RequestId) {
        if self.fx.connected {
            self.fx.call(Pending::StatusInfo(request), LinkCall::Info(Empty {}));
        } else {
            let status = self.compose_status(None, State::default());
            self.fx.reply(request, Ok(status));
        }
    }

    pub(super) fn status_info(&mut self, request: RequestId, info: Option<TincanInfo>) {
        let pending = Pending::StatusState(request, info.map(Box::new));
        self.fx.call(pending, LinkCall::State(Empty {}));
    }

    pub(super) fn status_state(
        &mut self,
        request: RequestId,
        info: Option<Box<TincanInfo>>,
        state: Result<State, ApiError>,
    ) {
        if let Some(info) = info.as_deref() {
            self.tincan = Some(info.clone());
        }
        let status = self.compose_status(info.as_deref(), state.unwrap_or_default());
        self.fx.reply(request, Ok(status));
    }

    pub(super) fn compose_status(&self, info: Option<&TincanInfo>, state: State) -> Status {
        let mut health = self.health();
        let mut groups = Vec::new();
        for group in self
            .groups
            .values()
            .filter(|g| !matches!(g.stage, Stage::Creating(_) | Stage::Gone))
        {
            let seen = state.networks.iter().find(|n| n.config.network == group.network);
            let status = group.status(seen);
            health.extend(group.health(self.up, &self.routes, &status, seen));
            groups.push(status);
        }
        Status {
            version: self.version.clone(),
            up: self.up,
            tincan: self.fx.connected,
            memory_bytes: [info.map_or(0, |i| i.memory_bytes), self.memory],
            groups,
            health,
        }
    }

    pub(super) fn ping(&mut self, now: Now, request: RequestId, text: &str) {
        let found = self.require_tincan().and_then(|()| self.peer_named(text));
        let (network, node) = match found {
            Ok(found) => found,
            Err(error) => return self.fx.refuse(request, error),
        };
        if self.too_many_requests() {
            let text = "too many pings are waiting: try again in a moment";
            return self.fx.refuse(request, ApiError::new(ErrorKind::Limit, text));
        }
        self.with(now, network, |group, cx| group.ping(cx, request, node));
    }

    /// A peer by name, `name.group`, address or id.
    fn peer_named(&self, text: &str) -> Result<(NetworkId, NodeId), ApiError> {
        let address: Option<IpAddr> = text.parse().ok();
        let id: Option<NodeId> = text.parse().ok();
        let name = text.strip_suffix(".ipop").unwrap_or(text);
        let mut found = Vec::new();
        for group in self.groups.values() {
            for member in group.roster.members.values() {
                let full = || format!("{}.{}", member.name, group.name());
                let hit = Some(member.node) == id
                    || address.is_some_and(|a| member.addresses().contains(&a))
                    || member.name == name
                    || full() == name;
                if hit {
                    found.push((group, member.node, full()));
                }
            }
        }
        let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
        match found.as_slice() {
            [] => {
                let text = format!("nobody is called \"{shown}\" here: `ipop status` lists the peers");
                Err(ApiError::new(ErrorKind::NotFound, text).field("node"))
            }
            [(group, node, _)] if group.node == Some(*node) => {
                let text = format!("\"{shown}\" is this machine: choose a peer");
                Err(ApiError::new(ErrorKind::InvalidParams, text).field("node"))
            }
            [(group, node, _)] => Ok((group.network, *node)),
            several => {
                let names: Vec<&str> = several.iter().map(|(_, _, full)| full.as_str()).collect();
                let text = format!("\"{shown}\" is in several groups: say which, {}", names.join(" or "));
                Err(ApiError::new(ErrorKind::InvalidParams, text).field("node"))
            }
        }
    }

    pub(super) fn pong(
        &mut self,
        request: RequestId,
        network: NetworkId,
        node: NodeId,
        result: Result<Pong, ApiError>,
    ) {
        let member = self.groups.get(&network).and_then(|g| g.roster.members.get(&node));
        let name = member.map_or_else(|| node.short(), |m| m.name.clone());
        let answer = result.map(|pong| PeerPong {
            name,
            node,
            rtt_us: pong.rtt_us,
            path: pong.path,
        });
        self.fx.reply(request, answer);
    }

    /// Asks with the servers of all groups.
    pub(super) fn check_network(&mut self, request: RequestId) {
        if let Err(error) = self.require_tincan() {
            return self.fx.refuse(request, error);
        }
        let mut servers = ServersConfig::default();
        for group in self.groups.values() {
            servers.stun.extend(&group.servers.stun);
            servers.turn.extend(group.servers.turn.iter().cloned());
        }
        servers.stun.sort_unstable();
        servers.stun.dedup();
        servers.stun.truncate(SERVERS_MAX);
        servers.turn.sort_by_key(|t| (t.address, t.transport));
        servers.turn.dedup_by_key(|t| (t.address, t.transport));
        servers.turn.truncate(SERVERS_MAX);
        self.fx.call(Pending::Pass(request), LinkCall::CheckNetwork(servers));
    }
}

impl Group {
    fn ping(&mut self, cx: &mut Cx<'_>, request: RequestId, node: NodeId) {
        if !cx.up {
            let text = "networks are down: `ipop up` first";
            return cx.fx.refuse(request, ApiError::new(ErrorKind::State, text));
        }
        let Some(peer) = self.peers.get_mut(&node) else {
            let text = "this node is not in the group (any more): see `ipop status`";
            return cx.fx.refuse(request, ApiError::new(ErrorKind::State, text));
        };
        if peer.is_up() {
            return self.send_ping(cx, request, node);
        }
        peer.pings.push((request, cx.now.mono + PING_LINK_WAIT));
        self.link_wanted(cx, node);
    }

    pub(super) fn send_ping(&mut self, cx: &mut Cx<'_>, request: RequestId, node: NodeId) {
        let network = self.network;
        cx.fx.call(
            Pending::Ping(request, network, node),
            LinkCall::Ping(NodeRef { network, node }),
        );
    }

    fn status(&self, seen: Option<&NetworkState>) -> GroupStatus {
        let facts = self.facts();
        let own = self.own_addresses();
        let mut peers: Vec<PeerStatus> = self
            .roster
            .members
            .values()
            .filter(|m| Some(m.node) != self.node)
            .map(|m| self.peer_status(m, seen.and_then(|s| s.peers.iter().find(|p| p.node == m.node))))
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut drops = seen.map(|s| s.drops.clone()).unwrap_or_default();
        drops.extend(self.counters.iter().map(|(what, count)| (what.clone(), *count)));
        GroupStatus {
            name: self.name().to_owned(),
            network: self.network,
            node: self.node.unwrap_or(NodeId([0; 32])),
            host_name: self.own_name(),
            addresses: own.iter().map(|c| c.address).collect(),
            subnets: facts.map(|f| vec![f.subnet, f.subnet6]).unwrap_or_default(),
            nic: seen.and_then(|s| s.nic.clone()),
            founder: self.founder,
            rendezvous: vec![RendezvousStatus {
                server: self.login.server.label(),
                online: self.meeting.online,
                fault: self.meeting.fault.as_ref().map(|(_, reason)| reason.clone()),
            }],
            peers,
            drops,
        }
    }

    fn peer_status(&self, member: &Member, seen: Option<&PeerState>) -> PeerStatus {
        let traffic = seen.map(|s| s.traffic).unwrap_or_default();
        PeerStatus {
            name: member.name.clone(),
            node: member.node,
            addresses: member.addresses(),
            connection: self.connection(member.node, seen),
            rtt_us: seen.and_then(|s| s.path.as_ref()?.rtt_us),
            path_mtu: seen.and_then(|s| s.path.as_ref()?.mtu),
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            relayed_bytes: traffic.relayed_bytes,
            last_seen_s: seen.and_then(|s| s.last_received_ms).map(|ms| ms / 1000),
            drops: seen.map(|s| s.drops.clone()).unwrap_or_default(),
        }
    }

    fn connection(&self, node: NodeId, seen: Option<&PeerState>) -> Connection {
        let phase = seen.map_or(LinkPhase::Idle, |s| s.phase);
        let path = seen.and_then(|s| s.path.as_ref());
        match (phase, path) {
            (LinkPhase::Up, Some(path)) => connection_of(path),
            (LinkPhase::Idle, _) => {
                let opening = self
                    .peers
                    .get(&node)
                    .is_some_and(|p| matches!(p.link, Link::Opening(_)));
                if opening {
                    Connection::Connecting
                } else if self.meeting.is_there(node) {
                    Connection::Idle
                } else {
                    Connection::Offline
                }
            }
            // Lost, and shown nowhere: what is being probed is most likely not there any more.
            (LinkPhase::Lost, _) if self.meeting.online && !self.meeting.is_there(node) => Connection::Offline,
            _ => Connection::Connecting,
        }
    }

    fn health(
        &self,
        up: bool,
        routes: &[crate::addressing::Route],
        status: &GroupStatus,
        seen: Option<&NetworkState>,
    ) -> Vec<Health> {
        let name = self.name();
        let mut health = Vec::new();
        let mut say = |code: &str, message: String| {
            health.push(Health {
                code: code.to_owned(),
                message,
            });
        };
        if matches!(self.stage, Stage::Member) && !self.is_in() {
            say("not_a_member", self.barred_because());
            return health;
        }
        if !up {
            return health;
        }
        if let Some((_, reason)) = &self.meeting.fault {
            say(
                "rendezvous",
                format!("{name}: {reason}; it is tried again, present links go on"),
            );
        }
        if let Some(fault) = seen.and_then(|s| s.fault.as_ref()).or(self.nic_fault.as_ref()) {
            say("nic", format!("{name} has no network interface: {fault}"));
        }
        for peer in &status.peers {
            if let Connection::Relay { via } = &peer.connection {
                let text = format!(
                    "{} is reached through {via}, because no direct path was found: `ipop netcheck` shows what this network allows",
                    peer.name
                );
                say("relayed", text);
            }
        }
        let nic = seen.and_then(|s| s.nic.as_deref()).or(self.seen.nic.as_deref());
        if let Some((subnet, (route, other))) = status
            .subnets
            .iter()
            .find_map(|s| Some((s, collision(*s, routes, nic)?)))
        {
            let text = format!(
                "{name}: its subnet {subnet} collides with the route {route} through {other} of this machine: remove that route, or leave {name}"
            );
            say("route_collision", text);
        }
        if let Some(minutes) = self.clock_off() {
            let text = format!(
                "{name}: this machine's clock and those of most peers differ by {minutes} minutes: set the clock"
            );
            say("clock", text);
        }
        health
    }

    /// Minutes by which our clock is off by the word of most peers that said theirs.
    fn clock_off(&self) -> Option<u64> {
        let mut skews: Vec<i64> = self.peers.values().filter_map(|p| p.skew).collect();
        skews.sort_unstable();
        let median = skews.get(skews.len() / 2)?.unsigned_abs();
        (median > CLOCK_TOLERANCE_S).then_some(median / 60)
    }
}

fn connection_of(path: &PathState) -> Connection {
    match path.kind {
        PathKind::Direct => Connection::Direct {
            remote: path.remote.to_string(),
        },
        PathKind::Turn => Connection::Relay {
            via: path
                .via
                .clone()
                .unwrap_or_else(|| format!("the peer's relay {}", path.remote)),
        },
        PathKind::Member => Connection::Relay {
            via: format!("member {}", path.via.as_deref().unwrap_or("of another name")),
        },
    }
}
