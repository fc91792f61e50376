//! A world of controllers: each with a tincan that really signs, links that come and go, one room, one clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use api::control::{
    ControlCall, CreateGroup, CreateInvite, GroupInfo, GroupRef, Invite as InviteAnswer, JoinGroup, Joined, PeerPong,
    PingPeer,
};
use api::link::*;
use api::rendezvous::{Login, Occupant, RendezvousCommand, RendezvousEvent, RendezvousFault};
use api::rpc::{ApiError, Empty, ErrorKind};
use api::status::Status;
use api::{Blob, Cidr, NetworkId, NodeId};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

use super::super::*;
use crate::InviteKey;
use crate::fixture::START;
use crate::store::Store;

pub(super) const SERVER: &str = "rdv.example:5222?token=abc";

/// One tincan: what the real one promises of keys, peers, links and blobs, without NIC, sockets and ciphers.
struct FakeTincan {
    instance: u64,
    roots: BTreeMap<NetworkId, InviteKey>,
    networks: BTreeMap<NetworkId, FakeNetwork>,
    no_nic: bool,
    seen_blobs: BTreeSet<Vec<u8>>,
}

struct FakeNetwork {
    fault: Option<String>,
    config: NetworkConfig,
    peers: BTreeMap<NodeId, PeerConfig>,
    links: BTreeMap<NodeId, LinkPhase>,
}

/// One machine.
pub(super) struct Machine {
    pub(super) controller: Controller,
    tincan: Option<FakeTincan>,
    inbox: VecDeque<Input>,
    pub(super) stored: Option<Store>,
    pub(super) replies: BTreeMap<u64, Result<Value, ApiError>>,
    /// Calls made to tincan since last cleared.
    pub(super) calls: Vec<LinkCall>,
    rooms: BTreeMap<NetworkId, (Login, String, Occupant)>,
    pub(super) rendezvous_fault: Option<RendezvousFault>,
    pub(super) save_fails: bool,
    number: u8,
    pub(super) routes: Vec<(Cidr, String)>,
    pub(super) clock_offset: u64,
}

enum Input {
    Reply(CallId, Result<Value, ApiError>),
    Event(Event),
    Rendezvous(NetworkId, RendezvousEvent),
}

pub(super) struct World {
    pub(super) machines: Vec<Machine>,
    start: Instant,
    now: Instant,
    next_request: u64,
    /// Who is in which room with what card.
    pub(super) cards: BTreeMap<(String, Occupant), Vec<u8>>,
    /// Everything that the room carried.
    pub(super) carried: Vec<(Occupant, Occupant, Vec<u8>)>,
    pub(super) room_down: bool,
    /// Pairs that no link can be made between.
    pub(super) walls: BTreeSet<(NodeId, NodeId)>,
    /// Pairs of machines that the room keeps apart: no cards, no bytes.
    pub(super) apart: BTreeSet<(usize, usize)>,
    rng: ChaCha12Rng,
}

fn node_key(seed: u8, network: NetworkId) -> InviteKey {
    InviteKey::from_seed(crate::crypto::hash("test node", &[&[seed], &network.0]))
}

fn config(number: u8, life: u8) -> ControllerConfig {
    ControllerConfig {
        version: "0.1.0".into(),
        pid: 7,
        host_name: ["ann", "bob", "carol", "dave", "eve", "frank"][usize::from(number)].into(),
        seed: [number * 16 + life; 32],
    }
}

fn some_path() -> PathState {
    let address = SocketAddr::from(([192, 0, 2, 1], 9));
    PathState {
        kind: PathKind::Direct,
        local: address,
        remote: address,
        via: None,
        rtt_us: Some(1000),
    }
}

impl World {
    pub(super) fn new(count: u8) -> Self {
        let now = Instant::now();
        let mut world = Self {
            machines: Vec::new(),
            start: now,
            now,
            next_request: 0,
            cards: BTreeMap::new(),
            carried: Vec::new(),
            room_down: false,
            walls: BTreeSet::new(),
            apart: BTreeSet::new(),
            rng: ChaCha12Rng::seed_from_u64(u64::from(count)),
        };
        for _ in 0..count {
            world.grow();
        }
        world
    }

    /// One more machine.
    pub(super) fn grow(&mut self) -> usize {
        let number = self.machines.len();
        let controller = Controller::new(config(number as u8, 0), None, self.at(0)).expect("nothing stored");
        self.machines.push(Machine {
            controller,
            tincan: None,
            inbox: VecDeque::new(),
            stored: None,
            replies: BTreeMap::new(),
            calls: Vec::new(),
            rooms: BTreeMap::new(),
            rendezvous_fault: None,
            save_fails: false,
            number: number as u8,
            routes: Vec::new(),
            clock_offset: 0,
        });
        self.start_tincan(number);
        number
    }

    fn at(&self, offset: u64) -> Now {
        Now {
            mono: self.now,
            unix: START + self.now.duration_since(self.start).as_secs() + offset,
        }
    }

    fn time(&self, machine: usize) -> Now {
        self.at(self.machines[machine].clock_offset)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn start_tincan(&mut self, machine: usize) {
        let instance = self.rng.next_u64();
        let old = self.machines[machine].tincan.take();
        let no_nic = old.as_ref().is_some_and(|t| t.no_nic);
        let roots = old.map(|t| t.roots).unwrap_or_default();
        self.machines[machine].tincan = Some(FakeTincan {
            instance,
            roots,
            networks: BTreeMap::new(),
            no_nic,
            seen_blobs: BTreeSet::new(),
        });
        self.connect(machine);
    }

    /// The link API of a running tincan is connected.
    pub(super) fn connect(&mut self, machine: usize) {
        let now = self.time(machine);
        let target = &mut self.machines[machine];
        let routes = target.routes.clone();
        let instance = target.tincan.as_ref().map_or(0, |t| t.instance);
        target.controller.handle_host(now, routes);
        target.controller.handle_tincan_up(now, info(instance));
        self.settle();
    }

    pub(super) fn deny_nic(&mut self, machine: usize, deny: bool) {
        self.machines[machine].tincan.as_mut().expect("runs").no_nic = deny;
    }

    /// `kill -9` of tincan and its restart: the other ends still believe in their links.
    pub(super) fn crash_tincan(&mut self, machine: usize) {
        let now = self.time(machine);
        self.machines[machine]
            .controller
            .handle_tincan_down(now, "killed".into());
        self.machines[machine]
            .inbox
            .retain(|i| matches!(i, Input::Rendezvous(..)));
        self.drain();
        self.start_tincan(machine);
    }

    /// `kill -9` of the controller and its restart from what was stored; the room sees it go and come.
    pub(super) fn crash_controller(&mut self, machine: usize) {
        let gone: Vec<NetworkId> = self.machines[machine].rooms.keys().copied().collect();
        for network in gone {
            self.leave_room(machine, network);
        }
        let number = self.machines[machine].number;
        let bytes = self.machines[machine].stored.as_ref().map(Store::to_bytes);
        let stored = bytes.map(|bytes| Store::parse("controller.json", &bytes).expect("our own"));
        let now = self.time(machine);
        self.machines[machine].inbox.clear();
        self.machines[machine].calls.clear();
        self.machines[machine].controller = Controller::new(config(number, 1), stored, now).expect("our own");
        self.connect(machine);
    }

    /// Asks, lets everything happen that happens at once, and gives the number of the request.
    pub(super) fn ask(&mut self, machine: usize, call: ControlCall) -> u64 {
        self.next_request += 1;
        let now = self.time(machine);
        self.machines[machine]
            .controller
            .handle_control(now, RequestId(self.next_request), call);
        self.settle();
        self.next_request
    }

    /// Asks and waits as long as it takes.
    pub(super) fn wait<T: serde::de::DeserializeOwned>(
        &mut self,
        machine: usize,
        call: ControlCall,
    ) -> Result<T, ApiError> {
        let request = self.ask(machine, call);
        for _ in 0..1000 {
            if let Some(answer) = self.machines[machine].replies.get(&request) {
                return answer.clone().map(|v| serde_json::from_value(v).expect("of its type"));
            }
            assert!(self.step(), "nothing will ever answer");
        }
        panic!("no answer after a thousand steps");
    }

    pub(super) fn create(&mut self, machine: usize) -> Result<GroupInfo, ApiError> {
        self.wait(machine, ControlCall::CreateGroup(creation("home", None)))
    }

    pub(super) fn invite(&mut self, machine: usize, uses: u32) -> String {
        let call = CreateInvite {
            group: None,
            uses,
            expires_s: 3600,
        };
        let answer: InviteAnswer = self.wait(machine, ControlCall::CreateInvite(call)).expect("a founder");
        answer.invite
    }

    pub(super) fn join(&mut self, machine: usize, invite: &str) -> Result<Joined, ApiError> {
        self.wait(machine, ControlCall::JoinGroup(joining(invite, None)))
    }

    pub(super) fn leave(&mut self, machine: usize) -> Result<Empty, ApiError> {
        let group = String::new();
        self.wait(machine, ControlCall::LeaveGroup(GroupRef { group }))
    }

    pub(super) fn status(&mut self, machine: usize) -> Status {
        self.wait(machine, ControlCall::Status(Empty {})).expect("always")
    }

    pub(super) fn ping(&mut self, machine: usize, node: &str) -> Result<PeerPong, ApiError> {
        let node = node.to_owned();
        self.wait(machine, ControlCall::PingPeer(PingPeer { node }))
    }

    /// Names of peers with a link, by name.
    pub(super) fn linked(&mut self, machine: usize) -> Vec<String> {
        let status = self.status(machine);
        let peers = status.groups.into_iter().flat_map(|g| g.peers);
        peers
            .filter(|p| matches!(p.connection, api::status::Connection::Direct { .. }))
            .map(|p| p.name)
            .collect()
    }

    /// Goes to the next timeout; false where there is none.
    pub(super) fn step(&mut self) -> bool {
        let next = self.machines.iter().filter_map(|m| m.controller.poll_timeout()).min();
        let Some(next) = next else {
            return false;
        };
        self.now = self.now.max(next);
        self.timeouts();
        let left = self.machines.iter().filter_map(|m| m.controller.poll_timeout()).min();
        assert!(
            left.is_none_or(|at| at > self.now),
            "a timeout that was handled is due again: a busy loop"
        );
        true
    }

    fn timeouts(&mut self) {
        for machine in 0..self.machines.len() {
            let now = self.time(machine);
            if self.machines[machine]
                .controller
                .poll_timeout()
                .is_some_and(|at| at <= self.now)
            {
                self.machines[machine].controller.handle_timeout(now);
            }
        }
        self.settle();
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.machines.iter().filter_map(|m| m.controller.poll_timeout()).min();
            match next.filter(|at| *at <= end) {
                Some(_) => drop(self.step()),
                None => break,
            }
        }
        self.now = end;
    }

    /// Everything that happens without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.drain();
            let Some(machine) = self.machines.iter().position(|m| !m.inbox.is_empty()) else {
                return;
            };
            let now = self.time(machine);
            let target = &mut self.machines[machine];
            match target.inbox.pop_front().expect("not empty") {
                Input::Reply(id, result) => target.controller.handle_reply(now, id, result),
                Input::Event(event) => target.controller.handle_event(now, event),
                Input::Rendezvous(network, event) => target.controller.handle_rendezvous(now, network, event),
            }
        }
        panic!("it never settles");
    }

    fn drain(&mut self) {
        for machine in 0..self.machines.len() {
            while let Some(output) = self.machines[machine].controller.poll_output() {
                match output {
                    Output::Call(id, call) => {
                        self.machines[machine].calls.push(call.clone());
                        let result = self.tincan(machine, call);
                        self.machines[machine].inbox.push_back(Input::Reply(id, result));
                    }
                    Output::Rendezvous(network, command) => self.rendezvous(machine, network, command),
                    Output::Reply(id, result) => {
                        let before = self.machines[machine].replies.insert(id.0, result);
                        assert!(before.is_none(), "request {} is answered twice", id.0);
                    }
                    Output::Save(store) if self.machines[machine].save_fails => {
                        drop(store);
                        self.machines[machine]
                            .controller
                            .handle_save_failed("read-only file system");
                    }
                    Output::Save(store) => self.machines[machine].stored = Some(store),
                }
            }
        }
    }

    fn event(&mut self, machine: usize, event: Event) {
        self.machines[machine].inbox.push_back(Input::Event(event));
    }

    fn machine_of(&self, network: NetworkId, node: NodeId) -> Option<usize> {
        self.machines
            .iter()
            .position(|m| NodeId(node_key(m.number, network).public()) == node)
    }

    pub(super) fn node(&self, machine: usize, network: NetworkId) -> NodeId {
        NodeId(node_key(self.machines[machine].number, network).public())
    }

    fn state(&self, machine: usize) -> State {
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        let networks = tincan.networks.values().map(|network| NetworkState {
            config: network.config.clone(),
            node: self.node(machine, network.config.network),
            nic: network.fault.is_none().then(|| "ipop0".into()),
            fault: network.fault.clone(),
            peers: network
                .peers
                .values()
                .map(|peer| {
                    let phase = network.links.get(&peer.node).copied().unwrap_or(LinkPhase::Idle);
                    PeerState {
                        node: peer.node,
                        addresses: peer.addresses.clone(),
                        name: peer.name.clone(),
                        phase,
                        path: (phase == LinkPhase::Up).then(some_path),
                        traffic: Traffic::default(),
                        drops: BTreeMap::new(),
                        up_ms: None,
                        last_received_ms: None,
                        session: None,
                    }
                })
                .collect(),
            drops: BTreeMap::new(),
        });
        State {
            instance: tincan.instance,
            networks: networks.collect(),
            ..State::default()
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each call")]
    fn tincan(&mut self, machine: usize, call: LinkCall) -> Result<Value, ApiError> {
        let not_found = || ApiError::new(ErrorKind::NotFound, "no such network or peer");
        let number = self.machines[machine].number;
        let signs = |network: NetworkId| node_key(number, network);
        match call {
            LinkCall::State(_) => return Ok(serde_json::to_value(self.state(machine)).expect("JSON")),
            LinkCall::Info(_) => return Ok(serde_json::to_value(info(0)).expect("JSON")),
            LinkCall::Deliver(delivery) => return self.deliver(machine, &delivery),
            LinkCall::OpenLink(link) => return self.open(machine, link),
            LinkCall::RemovePeer(peer) => self.cut(machine, peer.network, peer.node, true),
            LinkCall::RemoveNetwork(NetworkRef { network }) => {
                let tincan = self.machines[machine].tincan.as_ref().expect("runs");
                let links = tincan
                    .networks
                    .get(&network)
                    .map(|n| n.links.keys().copied().collect::<Vec<_>>());
                for node in links.unwrap_or_default() {
                    self.cut(machine, network, node, true);
                }
            }
            LinkCall::SendMessage(ref message) => return self.send(machine, message),
            _ => {}
        }
        let random = self.rng.next_u64();
        let me = |network| self.node(machine, network);
        let own = |call: &LinkCall| match call {
            LinkCall::SealMessage(m) => Some(me(m.network)),
            LinkCall::Identity(n) => Some(me(n.network)),
            LinkCall::CreateNetwork(c) => Some(me(c.network)),
            _ => None,
        };
        let own = own(&call);
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        let no_nic = tincan.no_nic.then_some("no permission for TUN: run as root");
        match call {
            LinkCall::CreateRoot(_) => {
                let root = InviteKey::from_seed(crate::crypto::hash("test root", &[&random.to_be_bytes()]));
                let network = NetworkId(root.public());
                tincan.roots.insert(network, root);
                Ok(json!({ "network": network }))
            }
            LinkCall::RemoveRoot(root) => {
                tincan.roots.remove(&root.network);
                Ok(json!({}))
            }
            LinkCall::Identity(NetworkRef { network }) => Ok(json!({ "network": network, "node": own })),
            LinkCall::Sign(request) => {
                let key = match request.signer {
                    Signer::Node => signs(request.network),
                    Signer::Root => tincan.roots.get(&request.network).cloned().ok_or_else(not_found)?,
                };
                let signature = key.sign(request.purpose, &request.payload.0).to_vec();
                Ok(json!({ "signature": Blob(signature) }))
            }
            LinkCall::CreateNetwork(config) => {
                let network = tincan.networks.entry(config.network).or_insert_with(|| FakeNetwork {
                    config: config.clone(),
                    peers: BTreeMap::new(),
                    links: BTreeMap::new(),
                    fault: None,
                });
                network.config = config;
                network.fault = no_nic.map(str::to_owned);
                match no_nic {
                    Some(sentence) => Err(ApiError::new(ErrorKind::Permission, sentence)),
                    None => Ok(json!({ "nic": "ipop0", "node": own })),
                }
            }
            LinkCall::RemoveNetwork(NetworkRef { network }) => {
                tincan.networks.remove(&network);
                Ok(json!({}))
            }
            LinkCall::SetPeer(peer) => {
                let network = tincan.networks.get_mut(&peer.network).ok_or_else(not_found)?;
                network.peers.insert(peer.node, peer);
                Ok(json!({}))
            }
            LinkCall::RemovePeer(peer) => {
                let network = tincan.networks.get_mut(&peer.network).ok_or_else(not_found)?;
                network.peers.remove(&peer.node);
                Ok(json!({}))
            }
            LinkCall::Ping(NodeRef { network, node }) => {
                let links = &tincan.networks.get(&network).ok_or_else(not_found)?.links;
                match links.get(&node) {
                    Some(LinkPhase::Up) => Ok(json!({ "rtt_us": 7, "path": some_path() })),
                    _ => Err(ApiError::new(ErrorKind::State, "no link")),
                }
            }
            LinkCall::SealMessage(message) => {
                let from = own.expect("a network");
                let body = [
                    &from.0[..],
                    &message.node.0,
                    &random.to_be_bytes(),
                    b"m",
                    &message.data.0,
                ]
                .concat();
                let signature = signs(message.network).sign(Purpose::Presence, &body);
                Ok(json!({ "blob": Blob([&signature[..], &body].concat()) }))
            }
            LinkCall::Subscribe(_) | LinkCall::SetNames(_) | LinkCall::SetServers(_) => Ok(json!({})),
            _ => Err(ApiError::new(ErrorKind::NotSupported, "not in this test")),
        }
    }

    /// An offer or answer: like a sealed message, of another kind.
    fn signal(&mut self, machine: usize, network: NetworkId, to: NodeId, kind: &[u8; 1]) {
        let from = self.node(machine, network);
        let random = self.rng.next_u64().to_be_bytes();
        let body = [&from.0[..], &to.0, &random, kind].concat();
        let number = self.machines[machine].number;
        let signature = node_key(number, network).sign(Purpose::Presence, &body);
        let blob = Blob([&signature[..], &body].concat());
        self.event(machine, Event::SignalOut { network, to, blob });
    }

    fn open(&mut self, machine: usize, link: NodeRef) -> Result<Value, ApiError> {
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        let network = tincan.networks.get_mut(&link.network);
        let network = network.filter(|n| n.peers.contains_key(&link.node));
        let Some(network) = network else {
            return Err(ApiError::new(ErrorKind::NotFound, "no such peer"));
        };
        if network
            .links
            .get(&link.node)
            .is_none_or(|phase| *phase != LinkPhase::Up)
        {
            network.links.insert(link.node, LinkPhase::Offered);
            self.signal(machine, link.network, link.node, b"o");
        }
        Ok(json!({}))
    }

    fn send(&mut self, machine: usize, message: &PeerMessage) -> Result<Value, ApiError> {
        let network = message.network;
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        let up = tincan.networks.get(&network).and_then(|n| n.links.get(&message.node)) == Some(&LinkPhase::Up);
        let other = self.machine_of(network, message.node).filter(|_| up);
        let Some(other) = other else {
            return Err(ApiError::new(ErrorKind::State, "no link"));
        };
        assert!(message.data.0.len() <= 32 * 1024);
        let message = PeerMessage {
            network,
            node: self.node(machine, network),
            data: message.data.clone(),
        };
        self.event(other, Event::PeerMessage(message));
        Ok(json!({}))
    }

    /// Ends a link at both ends.
    pub(super) fn cut(&mut self, machine: usize, network: NetworkId, node: NodeId, quiet: bool) {
        let me = self.node(machine, network);
        let mut ends = vec![(machine, node)];
        ends.extend(self.machine_of(network, node).map(|other| (other, me)));
        for (end, far) in ends {
            let tincan = self.machines[end].tincan.as_mut().expect("runs");
            let link = tincan.networks.get_mut(&network).and_then(|n| n.links.remove(&far));
            if link == Some(LinkPhase::Up) && !(quiet && end == machine) {
                let reason = "the other side closed it".to_owned();
                self.event(
                    end,
                    Event::LinkDown {
                        network,
                        node: far,
                        reason,
                    },
                );
            }
        }
    }

    fn deliver(&mut self, machine: usize, delivery: &Delivery) -> Result<Value, ApiError> {
        let bad = |text: &str| Err(ApiError::new(ErrorKind::InvalidParams, text));
        let network = delivery.network;
        let me = self.node(machine, network);
        let blob = &delivery.blob.0;
        if blob.len() < 64 + 73 {
            return bad("too short");
        }
        let (signature, body) = blob.split_at(64);
        let from: [u8; 32] = body[..32].try_into().expect("32 bytes");
        if !crate::crypto::verify(&from, Purpose::Presence, body, signature) {
            return bad("not sealed");
        }
        if body[32..64] != me.0 {
            return bad("not for us");
        }
        let from = NodeId(from);
        let data = body[73..].to_vec();
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        if body[72] == b'm' {
            return Ok(json!({ "kind": "message", "from": from, "data": Blob(data) }));
        }
        let known = tincan
            .networks
            .get_mut(&network)
            .filter(|n| n.peers.contains_key(&from));
        let Some(known) = known else {
            return Ok(json!({ "kind": "stranger", "from": from }));
        };
        if !tincan.seen_blobs.insert(blob.clone()) {
            return bad("seen before");
        }
        if body[72] == b'o' {
            known.links.insert(from, LinkPhase::Checking);
            self.signal(machine, network, from, b"a");
        } else if !self.walls.contains(&(me, from)) && !self.walls.contains(&(from, me)) {
            self.bring_up(machine, network, from);
        }
        Ok(json!({ "kind": "link", "from": from }))
    }

    fn bring_up(&mut self, machine: usize, network: NetworkId, node: NodeId) {
        let me = self.node(machine, network);
        let other = self.machine_of(network, node).expect("signed by a machine");
        for (end, far) in [(machine, node), (other, me)] {
            let tincan = self.machines[end].tincan.as_mut().expect("runs");
            if let Some(network) = tincan.networks.get_mut(&network) {
                network.links.insert(far, LinkPhase::Up);
            }
            let path = some_path();
            self.event(
                end,
                Event::LinkUp {
                    network,
                    node: far,
                    path,
                },
            );
        }
    }

    fn rendezvous(&mut self, machine: usize, network: NetworkId, command: RendezvousCommand) {
        match command {
            RendezvousCommand::Start { login, room, card } => {
                let occupant = Occupant(format!("room/{}-{}", login.user, self.rng.next_u32()));
                self.machines[machine].rooms.insert(network, (login, room, occupant));
                self.enter_room(machine, network, card);
            }
            RendezvousCommand::Card(card) => self.show(machine, network, card),
            RendezvousCommand::Send { to, bytes } => {
                let Some((_, room, from)) = self.machines[machine].rooms.get(&network).cloned() else {
                    return;
                };
                let apart = self
                    .sitting_at(network, &to)
                    .is_some_and(|other| self.are_apart(machine, other));
                if !self.room_down && !apart && self.cards.contains_key(&(room, to.clone())) {
                    self.carried.push((from.clone(), to.clone(), bytes.clone()));
                    self.hand_over(network, &from, &to, bytes);
                }
            }
            RendezvousCommand::Stop => self.leave_room(machine, network),
        }
    }

    fn are_apart(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&(one, other)) || self.apart.contains(&(other, one))
    }

    fn sitting_at(&self, network: NetworkId, occupant: &Occupant) -> Option<usize> {
        let sits = |m: &Machine| m.rooms.get(&network).is_some_and(|(_, _, o)| o == occupant);
        self.machines.iter().position(sits)
    }

    /// Everybody sees everybody again.
    pub(super) fn reunite(&mut self, network: NetworkId) {
        self.apart.clear();
        self.walls.clear();
        for ((room, occupant), card) in self.cards.clone() {
            self.show_as(network, &room, &occupant, card);
        }
        self.settle();
    }

    /// Gives bytes to an occupant, as the server says from whom.
    pub(super) fn hand_over(&mut self, network: NetworkId, from: &Occupant, to: &Occupant, bytes: Vec<u8>) {
        let target = self
            .machines
            .iter()
            .position(|m| m.rooms.get(&network).is_some_and(|(_, _, o)| o == to));
        if let Some(machine) = target {
            let event = RendezvousEvent::Received {
                from: from.clone(),
                bytes,
            };
            self.machines[machine]
                .inbox
                .push_back(Input::Rendezvous(network, event));
        }
    }

    fn enter_room(&mut self, machine: usize, network: NetworkId, card: Vec<u8>) {
        let fault = self.machines[machine].rendezvous_fault;
        let fault = fault.or(self.room_down.then_some(RendezvousFault::Unreachable));
        if let Some(fault) = fault {
            let event = RendezvousEvent::Offline {
                reason: format!("rdv.example:5222 does not let us in ({fault:?})"),
                fault,
                retry_ms: 1000,
            };
            return self.machines[machine]
                .inbox
                .push_back(Input::Rendezvous(network, event));
        }
        self.machines[machine]
            .inbox
            .push_back(Input::Rendezvous(network, RendezvousEvent::Online));
        let room = self.machines[machine].rooms[&network].1.clone();
        for ((r, occupant), card) in &self.cards {
            let apart = self
                .sitting_at(network, occupant)
                .is_some_and(|other| self.are_apart(machine, other));
            if *r == room && !apart {
                let event = RendezvousEvent::Present {
                    occupant: occupant.clone(),
                    card: card.clone(),
                };
                self.machines[machine]
                    .inbox
                    .push_back(Input::Rendezvous(network, event));
            }
        }
        self.show(machine, network, card);
    }

    fn show(&mut self, machine: usize, network: NetworkId, card: Vec<u8>) {
        let Some((_, room, occupant)) = self.machines[machine].rooms.get(&network).cloned() else {
            return;
        };
        if !self.room_down {
            self.show_as(network, &room, &occupant, card);
        }
    }

    /// Shows a card as any occupant: what an evil server can do.
    pub(super) fn show_as(&mut self, network: NetworkId, room: &str, occupant: &Occupant, card: Vec<u8>) {
        self.cards.insert((room.to_owned(), occupant.clone()), card.clone());
        let shown_by = self.sitting_at(network, occupant);
        for number in 0..self.machines.len() {
            let apart = shown_by.is_some_and(|other| self.are_apart(number, other));
            let machine = &mut self.machines[number];
            let there = |(_, r, o): &(Login, String, Occupant)| r == room && o != occupant;
            if !apart && machine.rooms.get(&network).is_some_and(there) {
                let event = RendezvousEvent::Present {
                    occupant: occupant.clone(),
                    card: card.clone(),
                };
                machine.inbox.push_back(Input::Rendezvous(network, event));
            }
        }
    }

    pub(super) fn occupant(&self, machine: usize, network: NetworkId) -> (String, Occupant) {
        let (_, room, occupant) = &self.machines[machine].rooms[&network];
        (room.clone(), occupant.clone())
    }

    pub(super) fn is_in_a_room(&self, machine: usize) -> bool {
        !self.machines[machine].rooms.is_empty()
    }

    fn leave_room(&mut self, machine: usize, network: NetworkId) {
        let Some((_, room, occupant)) = self.machines[machine].rooms.remove(&network) else {
            return;
        };
        self.cards.remove(&(room, occupant.clone()));
        for other in &mut self.machines {
            let event = RendezvousEvent::Absent {
                occupant: occupant.clone(),
            };
            if other.rooms.contains_key(&network) {
                other.inbox.push_back(Input::Rendezvous(network, event));
            }
        }
    }

    /// The server dies: everybody is offline until it comes back, which nobody here does by itself.
    pub(super) fn kill_room(&mut self) {
        self.room_down = true;
        self.cards.clear();
        for machine in &mut self.machines {
            for network in machine.rooms.keys() {
                let event = RendezvousEvent::Offline {
                    reason: "rdv.example:5222 closed the connection".into(),
                    fault: RendezvousFault::Lost,
                    retry_ms: 1000,
                };
                machine.inbox.push_back(Input::Rendezvous(*network, event));
            }
        }
        self.settle();
    }

    /// A machine is gone from the room and from its links, as when the power fails.
    pub(super) fn power_off(&mut self, machine: usize, network: NetworkId) {
        let links: Vec<NodeId> = {
            let tincan = self.machines[machine].tincan.as_ref().expect("runs");
            tincan
                .networks
                .get(&network)
                .map(|n| n.links.keys().copied().collect())
                .unwrap_or_default()
        };
        self.leave_room(machine, network);
        for node in links {
            self.cut(machine, network, node, true);
        }
        let number = self.machines[machine].number;
        let now = self.time(machine);
        self.machines[machine].controller = Controller::new(config(number, 2), None, now).expect("nothing");
        self.machines[machine].tincan = None;
        self.settle();
    }

    pub(super) fn nothing_left(&self, machine: usize) -> bool {
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        let stored = self.machines[machine]
            .stored
            .as_ref()
            .is_none_or(|s| s.groups.is_empty());
        tincan.roots.is_empty() && tincan.networks.is_empty() && stored && !self.is_in_a_room(machine)
    }

    pub(super) fn addresses(&self, machine: usize, network: NetworkId) -> Vec<IpAddr> {
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        tincan.networks[&network]
            .config
            .addresses
            .iter()
            .map(|c| c.address)
            .collect()
    }
}

pub(super) fn creation(name: &str, subnet: Option<&str>) -> CreateGroup {
    CreateGroup {
        name: name.into(),
        subnet: subnet.map(|s| s.parse().expect(s)),
        server: SERVER.into(),
        host_name: None,
        account: None,
    }
}

pub(super) fn joining(invite: &str, host_name: Option<&str>) -> JoinGroup {
    JoinGroup {
        invite: invite.into(),
        host_name: host_name.map(str::to_owned),
        account: None,
    }
}

fn info(instance: u64) -> TincanInfo {
    TincanInfo {
        version: "0.1.0".into(),
        api: API_VERSION,
        pid: 8,
        instance,
        memory_bytes: 1000,
        ports: Vec::new(),
        notes: Vec::new(),
    }
}
