//! One group on this node: its log, where its members are, and how far we are with it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::control::GroupInfo;
use api::link::{LinkCall, NetworkConfig, NetworkRef, NicKind, ServersConfig, default_mtu};
use api::rendezvous::{Login, RendezvousCommand};
use api::rpc::{ApiError, Empty, ErrorKind};
use api::{Blob, Cidr, NetworkId, NodeId};
use serde_json::Value;

use crate::addressing::{ipv4_of, ipv6_of};
use crate::entry::{EntryError, Verified};
use crate::limits::{RELAY_BURST, RELAY_RATE};
use crate::log::{Log, Source};
use crate::membership::{Facts, Roster};
use crate::store::StoredGroup;

use super::create::{Creating, Leaving};
use super::effects::{CallId, Cx, GroupCall, RequestId, read, signature};
use super::inbox::Inbox;
use super::join::Joining;
use super::meeting::Meeting;
use super::sponsor::Sponsoring;

/// How far we are with a group.
pub(super) enum Stage {
    /// Being made here; nothing is stored yet.
    Creating(Box<Creating>),
    /// Being joined; stored once admitted.
    Joining(Box<Joining>),
    /// In, or thrown out.
    Member,
    /// On the way out; not stored any more.
    Leaving(Box<Leaving>),
    /// To be forgotten.
    Gone,
}

/// How far a link is, as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Idle,
    Opening(Instant),
    Up(Instant),
}

/// A member that is not us.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: Link,
    /// When to open the link.
    pub(super) open_at: Option<Instant>,
    /// Not to be opened before: the other side is about to.
    pub(super) courtesy_until: Option<Instant>,
    /// Openings that led nowhere since the last good link.
    pub(super) attempts: usize,
    /// Open without courtesy: everybody else lost us.
    pub(super) eager: bool,
    /// A frame waits.
    pub(super) wanted: bool,
    pub(super) last_up: Option<Instant>,
    pub(super) last_fault: Option<String>,
    /// The member that last relayed something of this peer.
    pub(super) relay: Option<NodeId>,
    /// Its clock minus ours, seconds.
    pub(super) skew: Option<i64>,
    /// What it may still have relayed.
    pub(super) allowance: Allowance,
    /// Pings that wait for the link.
    pub(super) pings: Vec<(RequestId, Instant)>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            link: Link::Idle,
            open_at: None,
            courtesy_until: None,
            attempts: 0,
            eager: false,
            wanted: false,
            last_up: None,
            last_fault: None,
            relay: None,
            skew: None,
            allowance: Allowance::default(),
            pings: Vec::new(),
        }
    }
}

impl Peer {
    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }
}

/// A token bucket.
#[derive(Debug)]
pub(super) struct Allowance {
    tokens: f64,
    at: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            tokens: RELAY_BURST,
            at: None,
        }
    }
}

impl Allowance {
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * RELAY_RATE).min(RELAY_BURST);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// What tincan has of a network, as far as we know: what we told it and it did not refuse.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) config: Option<NetworkConfig>,
    pub(super) nic: Option<String>,
    pub(super) peers: BTreeMap<NodeId, (Vec<IpAddr>, Option<String>)>,
    pub(super) names: Option<api::link::NamesConfig>,
    pub(super) servers: Option<ServersConfig>,
    /// The `network.create` or `network.remove` under way.
    pub(super) call: Option<CallId>,
}

/// See the module.
pub(super) struct Group {
    pub(super) network: NetworkId,
    pub(super) node: Option<NodeId>,
    pub(super) founder: bool,
    pub(super) login: Login,
    /// Of our NIC.
    pub(super) mtu: u16,
    pub(super) log: Log,
    pub(super) roster: Roster,
    pub(super) stage: Stage,
    pub(super) meeting: Meeting,
    pub(super) inbox: Inbox,
    pub(super) sponsoring: Sponsoring,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) seen: Seen,
    pub(super) servers: ServersConfig,
    pub(super) nic_fault: Option<String>,
    pub(super) resync_at: Option<Instant>,
    /// What was ignored and why, for `status.get`.
    pub(super) counters: BTreeMap<String, u64>,
}

impl Group {
    pub(super) fn new(network: NetworkId, login: Login, stage: Stage) -> Self {
        Self {
            network,
            node: None,
            founder: false,
            login,
            mtu: default_mtu(),
            log: Log::new(network),
            roster: Roster::default(),
            stage,
            meeting: Meeting::default(),
            inbox: Inbox::default(),
            sponsoring: Sponsoring::default(),
            peers: BTreeMap::new(),
            seen: Seen::default(),
            servers: ServersConfig {
                network: Some(network),
                ..ServersConfig::default()
            },
            nic_fault: None,
            resync_at: None,
            counters: BTreeMap::new(),
        }
    }

    pub(super) fn restore(stored: &StoredGroup) -> Result<Self, String> {
        let mut group = Self::new(stored.network, stored.login.clone(), Stage::Member);
        group.node = Some(stored.node);
        group.founder = stored.founder;
        group.mtu = stored.mtu;
        group.log = stored.read_log()?;
        group.roster = Roster::evaluate(&group.log);
        group.sync_peers();
        Ok(group)
    }

    /// What is to be kept; nothing before we are in, nothing once we leave.
    pub(super) fn stored(&self) -> Option<StoredGroup> {
        let kept = match &self.stage {
            Stage::Member => true,
            Stage::Joining(joining) => joining.admitted,
            Stage::Creating(_) | Stage::Leaving(_) | Stage::Gone => false,
        };
        let node = self.node.filter(|_| kept)?;
        Some(StoredGroup {
            network: self.network,
            node,
            founder: self.founder,
            login: self.login.clone(),
            mtu: self.mtu,
            log: self.log.in_order().iter().map(|e| Blob(e.bytes().to_vec())).collect(),
        })
    }

    pub(super) fn name(&self) -> &str {
        match (&self.roster.facts, &self.stage) {
            (Some(facts), _) => &facts.name,
            (None, Stage::Creating(creating)) => &creating.founding.name,
            (None, _) => "",
        }
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        self.roster.facts.as_ref()
    }

    /// Whether the roster has us.
    pub(super) fn is_in(&self) -> bool {
        self.node.is_some_and(|node| self.roster.has(node))
    }

    /// Whether our word counts: in, and neither half made nor on the way out.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.stage, Stage::Member) && self.is_in()
    }

    pub(super) fn count(&mut self, what: &str) {
        *self.counters.entry(what.to_owned()).or_default() += 1;
    }

    /// Our addresses with their subnets: as the roster has them, or as they will most likely be once it has us.
    pub(super) fn own_addresses(&self) -> Vec<Cidr> {
        let (Some(node), Some(facts)) = (self.node, self.facts()) else {
            return Vec::new();
        };
        let (v4, v6) = match self.roster.members.get(&node) {
            Some(member) => (member.v4, member.v6),
            None => {
                let taken = self.roster.members.values().filter_map(|m| m.v4).collect();
                (ipv4_of(facts.subnet, node, &taken), ipv6_of(self.network, node))
            }
        };
        let v4 = v4.and_then(|a| Cidr::new(a.into(), facts.subnet.prefix));
        let v6 = Cidr::new(v6.into(), facts.subnet6.prefix);
        v4.into_iter().chain(v6).collect()
    }

    pub(super) fn own_name(&self) -> String {
        let member = self.node.and_then(|node| self.roster.members.get(&node));
        member.map(|m| m.name.clone()).unwrap_or_default()
    }

    pub(super) fn config(&self) -> NetworkConfig {
        NetworkConfig {
            network: self.network,
            kind: NicKind::Ip,
            nic: None,
            mtu: self.mtu,
            addresses: self.own_addresses(),
        }
    }

    pub(super) fn info(&self) -> Option<GroupInfo> {
        Some(GroupInfo {
            name: self.name().to_owned(),
            network: self.network,
            node: self.node?,
            addresses: self.own_addresses(),
            host_name: self.own_name(),
        })
    }

    pub(super) fn waiting_requests(&self) -> usize {
        self.peers.values().map(|p| p.pings.len()).sum()
    }

    /// An answer of tincan.
    pub(super) fn reply(&mut self, cx: &mut Cx<'_>, call: GroupCall, result: Result<Value, ApiError>) {
        match call {
            GroupCall::Identity => self.identity(cx, read(result)),
            GroupCall::SignGenesis(draft) => self.genesis_signed(cx, draft, signature(result)),
            GroupCall::SignGrant(inviting) => self.grant_signed(cx, *inviting, signature(result)),
            GroupCall::SignCard(draft) => self.card_signed(cx, draft, signature(result)),
            GroupCall::SignRequest(draft) => self.request_signed(cx, draft, signature(result)),
            GroupCall::SignAdmission(work, draft) => self.admission_signed(cx, *work, draft, signature(result)),
            GroupCall::SignLeave(draft) => self.leave_signed(cx, draft, signature(result)),
            GroupCall::CreateNetwork => self.network_created(cx, read(result)),
            GroupCall::SetPeer(node) => {
                if result.is_err() {
                    self.seen.peers.remove(&node);
                    self.resync(cx);
                }
            }
            GroupCall::OpenLink(node) => {
                if let Err(error) = result {
                    self.link_down(cx, node, error.message);
                }
            }
            GroupCall::Names => {
                if result.is_err() {
                    self.seen.names = None;
                    self.resync(cx);
                }
            }
            GroupCall::Servers => {
                if result.is_err() {
                    self.seen.servers = None;
                    self.resync(cx);
                }
            }
            GroupCall::Seal(occupants, after) => self.sealed(cx, occupants, after, read(result)),
            GroupCall::Deliver(sender, blob) => self.delivered(cx, &sender, blob, read(result)),
            GroupCall::Send => {
                if result.is_err() {
                    self.count("message to a peer that is not linked");
                }
            }
            GroupCall::RemoveNetwork => self.seen.call = None,
        }
    }

    /// Our id is known.
    fn identity(&mut self, cx: &mut Cx<'_>, result: Result<api::link::NodeRef, ApiError>) {
        match result {
            Ok(found) => {
                self.node = Some(found.node);
                match self.stage {
                    Stage::Creating(_) => self.found(cx),
                    Stage::Joining(_) => self.request(cx),
                    Stage::Member | Stage::Leaving(_) | Stage::Gone => {}
                }
            }
            Err(error) => self.abort(cx, error),
        }
    }

    /// A creation or a join goes no further: nothing of it is left, but for a membership that is real already.
    pub(super) fn fail(&mut self, cx: &mut Cx<'_>, error: ApiError) {
        match &self.stage {
            Stage::Joining(joining) if joining.admitted => {
                let text = format!("{} let this node in, but then: {}", self.name(), error.message);
                cx.fx.refuse(joining.request, ApiError::new(error.kind, text));
                self.stage = Stage::Member;
            }
            _ => self.abort(cx, error),
        }
    }

    /// A creation or a join ends with an error, and nothing of it is left.
    pub(super) fn abort(&mut self, cx: &mut Cx<'_>, error: ApiError) {
        let request = match &self.stage {
            Stage::Creating(creating) => creating.request,
            Stage::Joining(joining) => joining.request,
            Stage::Member | Stage::Leaving(_) | Stage::Gone => return,
        };
        let stored = self.stored().is_some();
        self.forget(cx);
        if stored {
            cx.fx.save();
        }
        cx.fx.refuse(request, error);
    }

    /// Takes everything of the group away from tincan, rendezvous and memory.
    pub(super) fn forget(&mut self, cx: &mut Cx<'_>) {
        let network = NetworkRef { network: self.network };
        // Always: tincan keeps a network whose NIC could not be made, too.
        cx.fx
            .call(super::effects::Pending::Nothing, LinkCall::RemoveNetwork(network));
        if self.founder {
            cx.fx
                .call(super::effects::Pending::Nothing, LinkCall::RemoveRoot(network));
        }
        if self.meeting.started {
            cx.fx.rendezvous(self.network, RendezvousCommand::Stop);
        }
        self.fail_pings(cx, |_| true, "the group was left");
        self.stage = Stage::Gone;
    }

    /// Entries become part of the log, and everything that follows from them happens.
    pub(super) fn learn(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        entries: Vec<Verified>,
        from: Option<NodeId>,
    ) -> bool {
        let added = self.log.insert(source, entries);
        if added.is_empty() {
            return false;
        }
        let before = std::mem::take(&mut self.roster);
        self.roster = Roster::evaluate(&self.log);
        self.sync_peers();
        for (node, peer) in &mut self.peers {
            if !before.has(*node) {
                peer.courtesy_until = Some(cx.now.mono + crate::limits::OPEN_COURTESY);
            }
        }
        if self.stored().is_some() {
            cx.fx.save();
        }
        self.spread(cx, &added, from);
        self.recognise(cx);
        self.after_roster(cx, &before);
        self.reconcile(cx);
        true
    }

    fn after_roster(&mut self, cx: &mut Cx<'_>, before: &Roster) {
        let own = self.node.is_some_and(|node| before.has(node));
        if matches!(self.stage, Stage::Joining(_)) && self.is_in() {
            self.admitted(cx);
        } else if own && !self.is_in() {
            self.displaced(cx);
        }
    }

    /// Members and their offers that the log did not tell of before.
    fn recognise(&mut self, cx: &mut Cx<'_>) {
        for (occupant, card) in std::mem::take(&mut self.meeting.unknown) {
            self.seat(cx, occupant, card);
        }
        // Their `peer.set` must go out before their offers are delivered again.
        self.reconcile(cx);
        let roster = &self.roster;
        for sender in self.inbox.recognise(|node| roster.has(node)) {
            self.pump(cx, &sender);
        }
    }

    /// Reads entries from outside; what is not one is counted.
    pub(super) fn verify(&mut self, entries: &[Vec<u8>]) -> Vec<Verified> {
        let mut good = Vec::new();
        for bytes in entries {
            match Verified::parse(self.network, bytes) {
                Ok(entry) => good.push(entry),
                Err(EntryError::Newer) => self.count("membership entry of a newer version"),
                Err(EntryError::Malformed | EntryError::Signature) => self.count("forged membership entry"),
            }
        }
        good
    }

    /// One peer for every member but us.
    fn sync_peers(&mut self) {
        let own = self.node;
        let roster = &self.roster;
        self.peers
            .retain(|node, peer| roster.has(*node) || !peer.pings.is_empty());
        for node in roster.members.keys().filter(|node| Some(**node) != own) {
            self.peers.entry(*node).or_default();
        }
    }

    /// Tincan is gone: what it had is unknown, what was half done cannot go on.
    pub(super) fn tincan_down(&mut self, cx: &mut Cx<'_>, error: &ApiError) {
        self.seen = Seen::default();
        self.inbox.clear();
        self.sponsoring = Sponsoring::default();
        self.meeting.signing = false;
        for peer in self.peers.values_mut() {
            peer.link = Link::Idle;
            peer.open_at = None;
        }
        self.fail_pings(cx, |_| true, &error.message);
        match &self.stage {
            // Members have been told: there is no way back.
            Stage::Leaving(leaving) if leaving.until.is_some() => {
                let request = leaving.request;
                self.forget(cx);
                cx.fx.reply_saved(request, Empty {});
            }
            Stage::Leaving(leaving) => {
                cx.fx.refuse(leaving.request, error.clone());
                self.stage = Stage::Member;
            }
            Stage::Creating(_) | Stage::Joining(_) => self.fail(cx, error.clone()),
            Stage::Member | Stage::Gone => {}
        }
    }

    /// Answers pings that cannot be done.
    pub(super) fn fail_pings(&mut self, cx: &mut Cx<'_>, which: impl Fn(Instant) -> bool, reason: &str) {
        for (node, peer) in &mut self.peers {
            let name = self.roster.members.get(node).map_or("the peer", |m| m.name.as_str());
            peer.pings.retain(|(request, until)| {
                let failed = which(*until);
                if failed {
                    let text = format!("{name} is not linked: {reason}");
                    cx.fx.refuse(*request, ApiError::new(ErrorKind::Unreachable, text));
                }
                !failed
            });
        }
    }

    /// Tincan asks for a blob to be carried.
    pub(super) fn signal_out(&mut self, cx: &mut Cx<'_>, to: NodeId, blob: &[u8]) {
        let occupants = self.meeting.seats_of(to);
        if !occupants.is_empty() {
            let bytes = crate::message::seal_envelope(blob);
            for occupant in occupants {
                let command = RendezvousCommand::Send {
                    to: occupant,
                    bytes: bytes.clone(),
                };
                cx.fx.rendezvous(self.network, command);
            }
        } else if !self.relay_out(cx, to, blob) {
            self.count("signal without a way");
        }
    }

    pub(super) fn nic_lost(&mut self, cx: &mut Cx<'_>, reason: String) {
        self.nic_fault = Some(reason);
        self.seen.config = None;
        self.resync(cx);
    }

    /// Time went by.
    pub(super) fn timeout(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        for sender in self.inbox.expire(now) {
            self.pump(cx, &sender);
        }
        let fault = self.unreachable_because();
        self.fail_pings(cx, |until| until <= now, &fault);
        self.unreachable_timeout(cx);
        match &self.stage {
            Stage::Creating(_) => self.creating_timeout(cx),
            Stage::Joining(_) => self.joining_timeout(cx),
            Stage::Leaving(_) => self.leaving_timeout(cx),
            Stage::Member | Stage::Gone => {}
        }
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = None;
            self.reconcile(cx);
        }
        self.open_due(cx);
    }

    fn unreachable_because(&self) -> String {
        match &self.meeting.fault {
            Some((_, reason)) => format!("{reason}; and no other way to it is known"),
            None => "it did not answer in time".to_owned(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let stage = match &self.stage {
            Stage::Creating(creating) => Some(creating.timeout()),
            Stage::Joining(joining) => Some(joining.timeout()),
            Stage::Leaving(leaving) => leaving.until,
            Stage::Member | Stage::Gone => None,
        };
        let peers = self
            .peers
            .values()
            .flat_map(|p| p.pings.iter().map(|(_, until)| *until));
        [
            stage,
            self.unreachable_at(),
            self.resync_at,
            self.inbox.timeout(),
            self.next_open(),
        ]
        .into_iter()
        .flatten()
        .chain(peers)
        .min()
    }
}
