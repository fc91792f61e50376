//! A world of controllers: each with a tincan that really signs, links that come and go, one room, one clock.

mod room;
mod tincan;

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
        host_name: ["ann", "bob", "carol", "dave", "eve", "frank", "ann", "ann"][usize::from(number)].into(),
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
        mtu: Some(1400),
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
        mtu: None,
    }
}

pub(super) fn joining(invite: &str, host_name: Option<&str>) -> JoinGroup {
    JoinGroup {
        invite: invite.into(),
        host_name: host_name.map(str::to_owned),
        account: None,
        mtu: None,
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
