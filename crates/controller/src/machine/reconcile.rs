//! What tincan should have, compared with what it has; only differences are sent.
//!
//! Promises: a controller that restarts disturbs nothing; a tincan that restarts is given everything again and links at once.

use std::time::{Duration, Instant};

use api::NodeId;
use api::link::{LinkCall, LinkPhase, NameRecord, NamesConfig, NetworkRef, NetworkState, NicInfo, NodeRef, PeerConfig};
use api::rpc::ApiError;
use rand::Rng;

use crate::limits::{FULL_MESH_MAX, LINKED_LATELY, OPEN_COURTESY, OPEN_PATIENCE, REOPEN_MS, RESYNC};
use crate::membership::Member;

use super::effects::{Cx, GroupCall, Pending};
use super::group::{Group, Link, Peer, Seen, Stage};

/// A link that lived for so long was a good one: the next opening starts without waiting.
const GOOD_LINK: Duration = Duration::from_secs(5);

impl Group {
    /// Tincan's state is known.
    pub(super) fn attach(&mut self, cx: &mut Cx<'_>, state: Option<&NetworkState>) {
        self.seen = Seen::default();
        // A tincan that does not know the network lost it: the others lost us, so we open at once.
        let restarted = state.is_none();
        if let Some(state) = state {
            // Without its NIC a network is set again.
            self.seen.config = Some(state.config.clone()).filter(|_| state.fault.is_none());
            self.seen.nic.clone_from(&state.nic);
            self.nic_fault.clone_from(&state.fault);
            let peers = state.peers.iter();
            self.seen.peers = peers.map(|p| (p.node, (p.addresses.clone(), p.name.clone()))).collect();
        }
        let phases = state
            .map(|s| s.peers.iter().map(|p| (p.node, p.phase)).collect())
            .unwrap_or_default();
        let phases: std::collections::BTreeMap<NodeId, LinkPhase> = phases;
        for (node, peer) in &mut self.peers {
            peer.eager = restarted;
            peer.attempts = 0;
            peer.link = match phases.get(node) {
                Some(LinkPhase::Up | LinkPhase::Lost) => Link::Up(cx.now.mono),
                Some(LinkPhase::Offered | LinkPhase::Checking | LinkPhase::Securing) => Link::Opening(cx.now.mono),
                Some(LinkPhase::Idle) | None => Link::Idle,
            };
        }
        self.reconcile(cx);
        let linked: Vec<NodeId> = self.peers.iter().filter(|(_, p)| p.is_up()).map(|(n, _)| *n).collect();
        for node in linked {
            if self.is_in() {
                self.send_digest(cx, node);
            }
        }
    }

    /// Sends what differs. Safe to call at any time.
    pub(super) fn reconcile(&mut self, cx: &mut Cx<'_>) {
        if !cx.attached || !cx.up || self.node.is_none() || matches!(self.stage, Stage::Leaving(_) | Stage::Gone) {
            return;
        }
        if matches!(self.stage, Stage::Member) && !self.is_in() {
            return self.take_down(cx);
        }
        self.reconcile_network(cx);
        self.reconcile_peers(cx);
        if self.is_in() {
            self.reconcile_names(cx);
            let first = !self.meeting.started && !self.meeting.signing;
            let ready = !matches!(self.stage, Stage::Creating(_)) || self.seen.nic.is_some();
            if first && ready {
                self.show_card(cx);
            }
        }
        self.reconcile_servers(cx);
        self.plan(cx);
    }

    fn reconcile_network(&mut self, cx: &mut Cx<'_>) {
        let config = self.config();
        let same = self.seen.config.as_ref().is_some_and(|seen| {
            seen.kind == config.kind && seen.mtu == config.mtu && seen.addresses == config.addresses
        });
        // What failed a moment ago is not tried with every message that comes.
        let later = self.nic_fault.is_some() && self.resync_at.is_some();
        if config.addresses.is_empty() || same || later {
            return;
        }
        self.seen.config = Some(config.clone());
        let call = cx.call(self.network, GroupCall::CreateNetwork, LinkCall::CreateNetwork(config));
        self.seen.call = Some(call);
    }

    pub(super) fn network_created(&mut self, cx: &mut Cx<'_>, result: Result<NicInfo, ApiError>) {
        self.seen.call = None;
        match result {
            Ok(made) => {
                self.seen.nic = Some(made.nic);
                self.nic_fault = None;
                self.reconcile(cx);
            }
            Err(error) => {
                self.seen.config = None;
                self.nic_fault = Some(error.message.clone());
                self.fail(cx, error);
                self.resync(cx);
            }
        }
    }

    fn reconcile_peers(&mut self, cx: &mut Cx<'_>) {
        let own = self.node;
        let asked = |node: NodeId| match &self.stage {
            Stage::Joining(joining) => joining.admitted || joining.asked.iter().any(|(n, _)| *n == node),
            _ => true,
        };
        let wanted: Vec<Member> = self
            .roster
            .members
            .values()
            .filter(|m| Some(m.node) != own && asked(m.node))
            .cloned()
            .collect();
        let network = self.network;
        let superfluous: Vec<NodeId> = self
            .seen
            .peers
            .keys()
            .filter(|node| !wanted.iter().any(|m| m.node == **node))
            .copied()
            .collect();
        for node in superfluous {
            self.seen.peers.remove(&node);
            cx.fx
                .call(Pending::Nothing, LinkCall::RemovePeer(NodeRef { network, node }));
        }
        for member in wanted {
            let as_set = (member.addresses(), Some(member.name.clone()));
            if self.seen.peers.get(&member.node) == Some(&as_set) {
                continue;
            }
            let config = PeerConfig {
                network,
                node: member.node,
                addresses: as_set.0.clone(),
                name: as_set.1.clone(),
            };
            self.seen.peers.insert(member.node, as_set);
            cx.call(network, GroupCall::SetPeer(member.node), LinkCall::SetPeer(config));
        }
    }

    fn reconcile_names(&mut self, cx: &mut Cx<'_>) {
        let records = self.roster.members.values().map(|member| NameRecord {
            name: member.name.clone(),
            addresses: member.addresses(),
        });
        let names = NamesConfig {
            network: self.network,
            zone: format!("{}.ipop", self.name()),
            records: records.collect(),
        };
        if self.seen.names.as_ref() != Some(&names) {
            self.seen.names = Some(names.clone());
            cx.call(self.network, GroupCall::Names, LinkCall::SetNames(names));
        }
    }

    fn reconcile_servers(&mut self, cx: &mut Cx<'_>) {
        let empty = self.servers.stun.is_empty() && self.servers.turn.is_empty();
        let known = self.seen.servers.as_ref() == Some(&self.servers) || (self.seen.servers.is_none() && empty);
        if !known {
            self.seen.servers = Some(self.servers.clone());
            cx.call(
                self.network,
                GroupCall::Servers,
                LinkCall::SetServers(self.servers.clone()),
            );
        }
    }

    /// Takes the network away from tincan and leaves the room; membership stays.
    pub(super) fn take_down(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, Stage::Creating(_) | Stage::Joining(_)) {
            let text = "networks were taken down meanwhile: `ipop up`, then try again";
            self.fail(cx, ApiError::new(api::rpc::ErrorKind::State, text));
        }
        if matches!(self.stage, Stage::Gone) {
            return;
        }
        if self.seen.config.is_some() || self.nic_fault.take().is_some() {
            let call = LinkCall::RemoveNetwork(NetworkRef { network: self.network });
            let call = cx.call(self.network, GroupCall::RemoveNetwork, call);
            self.seen = Seen::default();
            self.seen.call = Some(call);
        }
        self.stop_meeting(cx);
        self.inbox.clear();
        self.fail_pings(cx, |_| true, "networks are down");
        for peer in self.peers.values_mut() {
            peer.link = Link::Idle;
            peer.open_at = None;
        }
    }

    pub(super) fn resync(&mut self, cx: &mut Cx<'_>) {
        self.resync_at = Some(self.resync_at.unwrap_or(cx.now.mono + RESYNC));
    }

    /// Decides when which link is to be opened.
    fn plan(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        let Some(own) = self.node.filter(|_| self.is_in()) else {
            return;
        };
        let mesh = self.roster.members.len() <= FULL_MESH_MAX;
        let reachable: Vec<NodeId> = self
            .peers
            .keys()
            .filter(|n| self.reachable(**n, now))
            .copied()
            .collect();
        for node in reachable {
            let Some(peer) = self.peers.get_mut(&node) else {
                continue;
            };
            if peer.link != Link::Idle || peer.open_at.is_some() || !(mesh || peer.wanted || !peer.pings.is_empty()) {
                continue;
            }
            let courtesy = if own > node && !peer.eager {
                OPEN_COURTESY
            } else {
                Duration::ZERO
            };
            peer.open_at = Some((now + courtesy).max(peer.courtesy_until.unwrap_or(now)));
        }
        self.open_due(cx);
    }

    /// Whether a signal to a node has any way.
    fn reachable(&self, node: NodeId, now: Instant) -> bool {
        if self.meeting.is_there(node) {
            return true;
        }
        let Some(peer) = self.peers.get(&node) else {
            return false;
        };
        let lately = peer
            .last_up
            .is_some_and(|at| now.saturating_duration_since(at) < LINKED_LATELY);
        let relayed = self.peers.iter().any(|(n, p)| *n != node && p.is_up());
        relayed && (lately || peer.eager || peer.wanted || !self.meeting.online)
    }

    /// Opens what is due.
    pub(super) fn open_due(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        let may = cx.attached && cx.up && self.is_in() && !matches!(self.stage, Stage::Leaving(_));
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, p)| opens(p).is_some_and(|at| at <= now))
            .map(|(n, _)| *n)
            .collect();
        for node in due {
            if may && self.reachable(node, now) {
                self.open(cx, node);
            } else if let Some(peer) = self.peers.get_mut(&node) {
                peer.open_at = None;
                peer.link = Link::Idle;
            }
        }
    }

    pub(super) fn next_open(&self) -> Option<Instant> {
        self.peers.values().filter_map(opens).min()
    }

    /// A member showed itself at the rendezvous.
    pub(super) fn appeared(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.link == Link::Idle
        {
            peer.attempts = 0;
            peer.open_at = None;
        }
        self.plan_if_up(cx);
    }

    fn plan_if_up(&mut self, cx: &mut Cx<'_>) {
        if cx.attached && cx.up && !matches!(self.stage, Stage::Leaving(_) | Stage::Gone) {
            self.plan(cx);
        }
    }

    pub(super) fn link_up(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.link = Link::Up(cx.now.mono);
        peer.open_at = None;
        peer.eager = false;
        peer.wanted = false;
        peer.last_up = Some(cx.now.mono);
        peer.last_fault = None;
        for (request, _) in std::mem::take(&mut peer.pings) {
            self.send_ping(cx, request, node);
        }
        if self.is_in() {
            self.send_digest(cx, node);
        }
        self.joined(cx);
        // Whom only a member can reach may be reachable now.
        self.plan_if_up(cx);
    }

    pub(super) fn link_down(&mut self, cx: &mut Cx<'_>, node: NodeId, reason: String) {
        let own = self.node;
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if let Link::Up(since) = peer.link {
            peer.last_up = Some(cx.now.mono);
            if cx.now.mono.saturating_duration_since(since) >= GOOD_LINK {
                peer.attempts = 0;
            }
        }
        let wait = Duration::from_millis(REOPEN_MS[peer.attempts.min(REOPEN_MS.len() - 1)]);
        let jitter = cx.fx.rng.random_range(0.75..1.25);
        let courtesy = if own > Some(node) {
            OPEN_COURTESY
        } else {
            Duration::ZERO
        };
        peer.attempts += 1;
        peer.link = Link::Idle;
        peer.last_fault = Some(reason);
        peer.open_at = Some(cx.now.mono + wait.mul_f64(jitter) + courtesy);
        self.leaving_step(cx);
    }

    /// A frame waits for a peer without a link.
    pub(super) fn link_wanted(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.link == Link::Idle
        {
            peer.wanted = true;
            peer.open_at = Some(cx.now.mono);
            self.plan_if_up(cx);
        }
    }

    /// This machine moved: what failed before may work now.
    pub(super) fn addresses_changed(&mut self, cx: &mut Cx<'_>) {
        for peer in self.peers.values_mut().filter(|p| p.link == Link::Idle) {
            peer.attempts = 0;
            peer.open_at = None;
        }
        self.plan_if_up(cx);
    }
}

/// When a peer's link is to be opened, or asked for again because nothing came of it.
fn opens(peer: &Peer) -> Option<Instant> {
    match peer.link {
        Link::Idle => peer.open_at,
        Link::Opening(since) => Some(since + OPEN_PATIENCE),
        Link::Up(_) => None,
    }
}
