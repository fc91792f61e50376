//! The machine: takes what people ask, what tincan and the rendezvous tell, and says what to do.
//!
//! Promises: no IO, clock or chance of its own; a client that asked gets exactly one answer; what a rendezvous says is believed
//! only where a signature proves it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use api::control::{ControlCall, ControllerInfo};
use api::link::{API_VERSION, Event, LinkCall, NetworkRef, State, TincanInfo};
use api::rendezvous::RendezvousEvent;
use api::rpc::{ApiError, Empty, ErrorKind};
use api::status::Health;
use api::{Cidr, NetworkId};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use crate::addressing::{Route, host_label};
use crate::limits::REQUESTS_MAX;
use crate::store::{STORE_VERSION, Store, StoreError};

mod create;
mod effects;
mod gossip;
mod group;
mod inbox;
mod join;
mod meeting;
mod reconcile;
mod sponsor;
mod status;
#[cfg(test)]
mod tests;

pub use effects::{CallId, Now, Output, RequestId};
use effects::{Cx, Effects, Pending, read};
use group::{Group, Stage};

/// What a controller is started with.
#[derive(Clone)]
pub struct ControllerConfig {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The machine's name: ours in groups where none is given.
    pub host_name: String,
    /// Entropy from the operating system: keys of invites and passwords come from it.
    pub seed: [u8; 32],
}

impl std::fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControllerConfig({} as {})", self.version, self.host_name)
    }
}

/// See the module.
pub struct Controller {
    version: String,
    pid: u32,
    host_name: String,
    up: bool,
    groups: BTreeMap<NetworkId, Group>,
    fx: Effects,
    tincan: Option<TincanInfo>,
    tincan_fault: Option<String>,
    attached: bool,
    routes: Vec<Route>,
    memory: u64,
    save_fault: Option<String>,
    /// Root keys of creations that failed while tincan was away.
    orphan_roots: Vec<NetworkId>,
    /// `network.up` and `network.down` that wait.
    switches: Vec<Switch>,
}

/// A request that waits for several calls.
struct Switch {
    request: RequestId,
    waiting: BTreeSet<CallId>,
    fault: Option<ApiError>,
    started: bool,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Controller({} groups)", self.groups.len())
    }
}

impl Controller {
    /// A controller with what was stored, which waits for tincan.
    pub fn new(config: ControllerConfig, stored: Option<Store>, _now: Now) -> Result<Self, StoreError> {
        let store = stored.unwrap_or_default();
        let mut groups = BTreeMap::new();
        for stored in &store.groups {
            let group = Group::restore(stored).map_err(|reason| StoreError::Corrupt {
                file: "the stored state".to_owned(),
                reason,
            })?;
            groups.insert(stored.network, group);
        }
        Ok(Self {
            version: config.version,
            pid: config.pid,
            host_name: host_label(&config.host_name),
            up: store.up,
            groups,
            fx: Effects::new(ChaCha12Rng::from_seed(config.seed)),
            tincan: None,
            tincan_fault: None,
            attached: false,
            routes: Vec::new(),
            memory: 0,
            save_fault: None,
            orphan_roots: Vec::new(),
            switches: Vec::new(),
        })
    }

    /// A client of the control API asks.
    pub fn handle_control(&mut self, now: Now, id: RequestId, call: ControlCall) {
        match call {
            ControlCall::Info(_) => self.info(id),
            ControlCall::Status(_) => self.status(now, id),
            ControlCall::Up(_) => self.switch(now, id, true),
            ControlCall::Down(_) => self.switch(now, id, false),
            ControlCall::CreateGroup(params) => self.create(now, id, params),
            ControlCall::JoinGroup(params) => self.join(now, id, params),
            ControlCall::LeaveGroup(params) => self.leave(now, id, &params.group),
            ControlCall::CreateInvite(params) => self.invite(now, id, &params),
            ControlCall::PingPeer(params) => self.ping(now, id, &params.node),
            ControlCall::CheckNetwork(_) => self.check_network(id),
        }
        self.sweep();
    }

    /// The link API is connected. Say it again when tincan restarted, after `handle_tincan_down`.
    pub fn handle_tincan_up(&mut self, now: Now, info: TincanInfo) {
        if self.fx.connected {
            self.handle_tincan_down(now, "it was restarted".to_owned());
        }
        if info.api != API_VERSION {
            self.tincan_fault = Some(format!(
                "the data-plane process speaks version {} of the link API, this controller version {API_VERSION}: \
                 run both from the same program",
                info.api
            ));
            return;
        }
        self.tincan = Some(info);
        self.tincan_fault = None;
        self.fx.connected = true;
        self.fx.call(Pending::Nothing, LinkCall::Subscribe(Empty {}));
        self.fx.call(Pending::Attach, LinkCall::State(Empty {}));
    }

    /// The link API is gone.
    pub fn handle_tincan_down(&mut self, now: Now, reason: String) {
        self.fx.connected = false;
        self.attached = false;
        self.tincan = None;
        let text =
            format!("the data-plane process does not answer ({reason}): it is being restarted, try again in a moment");
        let error = ApiError::new(ErrorKind::State, text);
        self.tincan_fault = Some(error.message.clone());
        for pending in self.fx.lost() {
            self.abandoned(pending, &error);
        }
        for switch in std::mem::take(&mut self.switches) {
            self.fx.refuse(switch.request, error.clone());
        }
        self.each(now, |group, cx| group.tincan_down(cx, &error));
        self.sweep();
    }

    fn abandoned(&mut self, pending: Pending, error: &ApiError) {
        match pending {
            Pending::Root(request, _) | Pending::Ping(request, ..) | Pending::Pass(request) => {
                self.fx.refuse(request, error.clone());
            }
            Pending::StatusInfo(request) | Pending::StatusState(request, _) => {
                let status = self.compose_status(None, State::default());
                self.fx.reply(request, Ok(status));
            }
            Pending::Group(_, effects::GroupCall::SignGrant(inviting)) => {
                self.fx.refuse(inviting.request, error.clone())
            }
            Pending::Nothing | Pending::Attach | Pending::Group(..) => {}
        }
    }

    /// Tincan answers a call.
    pub fn handle_reply(&mut self, now: Now, id: CallId, result: Result<Value, ApiError>) {
        let Some(pending) = self.fx.answered(id) else {
            return;
        };
        let fault = result.as_ref().err().cloned();
        match pending {
            Pending::Nothing => {}
            Pending::Attach => self.attach(now, read(result)),
            Pending::Root(request, founding) => self.root_made(now, request, *founding, read(result)),
            Pending::StatusInfo(request) => self.status_info(request, read(result).ok()),
            Pending::StatusState(request, info) => self.status_state(request, info, read(result)),
            Pending::Ping(request, network, node) => self.pong(request, network, node, read(result)),
            Pending::Pass(request) => self.fx.reply(request, result),
            Pending::Group(network, call) => {
                self.with(now, network, |group, cx| group.reply(cx, call, result));
            }
        }
        self.switch_answered(id, fault);
        self.sweep();
    }

    /// Tincan tells of something.
    pub fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::SignalOut { network, to, blob } => {
                self.with(now, network, |group, cx| group.signal_out(cx, to, &blob.0));
            }
            Event::LinkUp { network, node, .. } => {
                self.with(now, network, |group, cx| group.link_up(cx, node));
            }
            Event::LinkDown { network, node, reason } => {
                self.with(now, network, |group, cx| group.link_down(cx, node, reason));
            }
            Event::LinkWanted { network, node } => {
                self.with(now, network, |group, cx| group.link_wanted(cx, node));
            }
            Event::PeerMessage(message) => {
                self.with(now, message.network, |group, cx| {
                    group.peer_message(cx, message.node, &message.data.0);
                });
            }
            Event::AddressesChanged {} => self.each(now, Group::addresses_changed),
            Event::NicLost { network, reason } => {
                self.with(now, network, |group, cx| group.nic_lost(cx, reason));
            }
            Event::PathChanged { .. } | Event::ServerFailed { .. } => {}
        }
        self.sweep();
    }

    /// The rendezvous adapter of a network tells of something.
    pub fn handle_rendezvous(&mut self, now: Now, network: NetworkId, event: RendezvousEvent) {
        self.with(now, network, |group, cx| group.rendezvous_event(cx, event));
        self.sweep();
    }

    /// The routes of this host, whenever they change.
    pub fn handle_host(&mut self, _now: Now, routes: Vec<(Cidr, String)>) {
        self.routes = routes;
    }

    /// Resident memory of this process, for `status.get`.
    pub fn handle_memory(&mut self, bytes: u64) {
        self.memory = bytes;
    }

    /// What [`Output::Save`] asked for could not be done; answers that promise it become errors.
    pub fn handle_save_failed(&mut self, reason: &str) {
        let text = format!("the state could not be written ({reason}): what was done is lost when IPOP stops");
        self.fx.break_promises(&text);
        self.save_fault = Some(text);
    }

    /// What [`Output::Save`] asked for was done.
    pub fn handle_saved(&mut self) {
        self.save_fault = None;
    }

    /// Time went by.
    pub fn handle_timeout(&mut self, now: Now) {
        self.each(now, Group::timeout);
        self.sweep();
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.groups.values().filter_map(Group::poll_timeout).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let (up, groups) = (self.up, &self.groups);
        self.fx.poll(|| Store {
            version: STORE_VERSION,
            up,
            groups: groups.values().filter_map(Group::stored).collect(),
        })
    }

    fn with<R>(&mut self, now: Now, network: NetworkId, f: impl FnOnce(&mut Group, &mut Cx<'_>) -> R) -> Option<R> {
        let group = self.groups.get_mut(&network)?;
        let mut cx = Cx {
            fx: &mut self.fx,
            now,
            up: self.up,
            attached: self.attached,
        };
        Some(f(group, &mut cx))
    }

    fn each(&mut self, now: Now, mut f: impl FnMut(&mut Group, &mut Cx<'_>)) {
        let networks: Vec<NetworkId> = self.groups.keys().copied().collect();
        for network in networks {
            self.with(now, network, &mut f);
        }
    }

    /// Forgets groups that ended.
    fn sweep(&mut self) {
        let connected = self.fx.connected;
        let orphans = &mut self.orphan_roots;
        self.groups.retain(|network, group| {
            let gone = matches!(group.stage, Stage::Gone);
            if gone && group.founder && !connected {
                orphans.push(*network);
            }
            !gone
        });
    }

    /// Tincan's state is here: what differs from what should be is mended, the rest is left alone.
    fn attach(&mut self, now: Now, state: Result<State, ApiError>) {
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                self.tincan_fault = Some(error.message);
                return;
            }
        };
        self.attached = true;
        for network in std::mem::take(&mut self.orphan_roots) {
            self.fx
                .call(Pending::Nothing, LinkCall::RemoveRoot(NetworkRef { network }));
        }
        for seen in &state.networks {
            let network = seen.config.network;
            if !self.up || !self.groups.contains_key(&network) {
                self.fx
                    .call(Pending::Nothing, LinkCall::RemoveNetwork(NetworkRef { network }));
            }
        }
        let up = self.up;
        self.each(now, |group, cx| {
            let seen = state.networks.iter().find(|n| up && n.config.network == group.network);
            group.attach(cx, seen);
        });
        self.start_switches();
    }

    fn switch(&mut self, now: Now, request: RequestId, up: bool) {
        self.up = up;
        self.fx.save();
        self.switches.push(Switch {
            request,
            waiting: BTreeSet::new(),
            fault: None,
            started: false,
        });
        self.each(now, |group, cx| {
            group.resync_at = None;
            if up { group.reconcile(cx) } else { group.take_down(cx) }
        });
        if self.fx.connected {
            self.start_switches();
        } else {
            let switch = self.switches.pop().expect("pushed above");
            let text = "this is noted, but the data-plane process does not answer: see `ipop status`";
            self.fx.refuse(switch.request, ApiError::new(ErrorKind::State, text));
        }
    }

    fn start_switches(&mut self) {
        if !self.attached {
            return;
        }
        let waiting: BTreeSet<CallId> = self.groups.values().filter_map(|g| g.seen.call).collect();
        for switch in self.switches.iter_mut().filter(|s| !s.started) {
            switch.started = true;
            switch.waiting.clone_from(&waiting);
        }
        self.finish_switches();
    }

    fn switch_answered(&mut self, id: CallId, fault: Option<ApiError>) {
        for switch in &mut self.switches {
            if switch.waiting.remove(&id) {
                switch.fault = switch.fault.take().or_else(|| fault.clone());
            }
        }
        self.finish_switches();
    }

    fn finish_switches(&mut self) {
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.switches)
            .into_iter()
            .partition(|s| s.started && s.waiting.is_empty());
        self.switches = rest;
        for switch in done {
            match switch.fault {
                Some(error) => self.fx.refuse(switch.request, error),
                None => self.fx.reply(switch.request, Ok(Empty {})),
            }
        }
    }

    fn info(&mut self, request: RequestId) {
        let info = ControllerInfo {
            version: self.version.clone(),
            pid: self.pid,
            groups: self.groups.len() as u32,
        };
        self.fx.reply(request, Ok(info));
    }

    /// The group that a client names; the only one where it names none.
    fn group_named(&self, text: &str) -> Result<&Group, ApiError> {
        let members = || self.groups.values().filter(|g| matches!(g.stage, Stage::Member));
        let names = || members().map(Group::name).collect::<Vec<_>>().join(", ");
        if text.is_empty() {
            let mut all = members();
            return match (all.next(), all.next()) {
                (Some(group), None) => Ok(group),
                (None, _) => Err(ApiError::new(
                    ErrorKind::NotFound,
                    "there is no group here: make one with `ipop create NAME`, or `ipop join INVITE`",
                )),
                _ => Err(
                    ApiError::new(ErrorKind::InvalidParams, format!("name one of the groups: {}", names()))
                        .field("group"),
                ),
            };
        }
        let id: Option<NetworkId> = text.parse().ok();
        let found = members().find(|g| Some(g.network) == id || g.name() == text);
        found.ok_or_else(|| {
            let text: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
            let known = if self.groups.is_empty() {
                "none".to_owned()
            } else {
                names()
            };
            let sentence = format!("there is no group \"{text}\" here; the groups are: {known}");
            ApiError::new(ErrorKind::NotFound, sentence).field("group")
        })
    }

    /// Whether tincan can be asked now.
    fn require_tincan(&self) -> Result<(), ApiError> {
        if self.attached {
            return Ok(());
        }
        let text = self
            .tincan_fault
            .clone()
            .unwrap_or_else(|| "the data-plane process is not there yet: try again in a moment".to_owned());
        Err(ApiError::new(ErrorKind::State, text))
    }

    /// What is wrong beyond single groups.
    fn health(&self) -> Vec<Health> {
        let health = |code: &str, message: &String| Health {
            code: code.to_owned(),
            message: message.clone(),
        };
        let notes = self
            .tincan
            .iter()
            .flat_map(|t| &t.notes)
            .map(|note| health("kernel", note));
        let faults = self.tincan_fault.iter().map(|text| health("tincan", text));
        let saves = self.save_fault.iter().map(|text| health("state", text));
        faults.chain(saves).chain(notes).collect()
    }

    fn too_many_requests(&self) -> bool {
        let waiting: usize = self.groups.values().map(Group::waiting_requests).sum();
        waiting >= REQUESTS_MAX
    }
}
