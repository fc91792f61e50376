//! A world: nodes in their places, servers, a rendezvous, a clock, and the rules that hold at every step.
//!
//! Promises: nothing moves but by the seed; each step checks that no inner frame is seen outside and that none is
//! delivered wrong, twice or from a stranger's address. A broken rule panics with the seed and the trace's end.
//! Refuses to know: what the nodes think; it sees datagrams, streams, blobs, frames and the link API.

mod bounds;
mod build;
mod flow;

pub use build::Place;
pub use flow::Sent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::NetworkId;
use api::link::PathKind;
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use tincan::turn::{StreamId, StreamInput, StreamOutput};

use crate::Seed;
use crate::clock::origin;
use crate::frames::{self, StreamWatch};
use crate::member::{Effect, Identity, Member, PORT};
use crate::net::{Arrival, ConnId, Datagram, HostId, Net, Side, StreamEvent};
use crate::oracle::{self, Verdict};
use crate::rendezvous::{Delivery, Rendezvous, Service};
use crate::server::Servers;
use crate::trace::{Entry, Trace};
use crate::wire::Wire;

/// Datagrams on their way at once; more means that somebody floods.
const IN_FLIGHT: usize = 20_000;

/// The gauges of a node are read at every so manieth thing that it does.
const LOOK_EVERY: u64 = 16;

struct Node {
    name: String,
    host: HostId,
    identity: Identity,
    /// None while it is killed.
    member: Option<Member>,
    starts: u64,
    streams: BTreeMap<StreamId, ConnId>,
    conns: BTreeMap<ConnId, StreamId>,
    watch: BTreeMap<ConnId, StreamWatch>,
    /// Numbers of the frames that arrived, by sender.
    received: BTreeMap<usize, BTreeSet<u32>>,
    next_frame: u32,
    /// Peers about whose addresses this node was told a lie.
    misled: BTreeSet<usize>,
    /// MTUs that ICMP errors told its applications.
    told: Vec<u32>,
}

/// A world.
pub struct World {
    seed: Seed,
    net: Net,
    servers: Servers,
    has_turn: bool,
    rendezvous: Rendezvous,
    network: NetworkId,
    plans: Vec<build::Plan>,
    nodes: Vec<Node>,
    rng: ChaCha12Rng,
    trace: Trace,
    /// Highest level seen of each gauge, with its limit then.
    peaks: BTreeMap<&'static str, (usize, usize)>,
    obeyed: u64,
    is_strict: bool,
}

impl World {
    /// An empty world with a STUN server, a TURN server and a rendezvous.
    pub fn new(seed: Seed) -> Self {
        tincan::ice::seed_transactions(seed.0);
        let mut net = Net::new(seed);
        let servers = Servers::new(&mut net, Wire::PERFECT);
        let mut rng = seed.generator(3);
        let mut network = [0; 32];
        rng.fill_bytes(&mut network);
        World {
            seed,
            net,
            servers,
            has_turn: true,
            rendezvous: Rendezvous::new(seed, Duration::from_millis(50)),
            network: NetworkId(network),
            plans: Vec::new(),
            nodes: Vec::new(),
            rng,
            trace: Trace::default(),
            peaks: BTreeMap::new(),
            obeyed: 0,
            is_strict: false,
        }
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.net.now().saturating_duration_since(origin())
    }

    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The network under it.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The rendezvous brings every blob that it remembers once more.
    pub fn replay_signals(&mut self) {
        let now = self.net.now();
        self.rendezvous.replay_all(now);
    }

    /// How the rendezvous serves from now on.
    pub fn set_service(&mut self, service: Service) {
        self.rendezvous.set_service(service);
    }

    /// How two nodes should reach each other.
    pub fn oracle(&self, a: &str, b: &str) -> Verdict {
        self.verdict_of(self.index(a), self.index(b))
    }

    /// How `a` reaches `b` now.
    pub fn path(&self, a: &str, b: &str) -> Verdict {
        self.path_of(self.index(a), self.index(b))
    }

    /// The node that `a` reaches `b` through.
    pub fn via(&self, a: &str, b: &str) -> Option<String> {
        let (from, to) = (self.index(a), self.index(b));
        let path = self.nodes[from].member.as_ref()?.path(self.nodes[to].identity.id)?;
        let via = path.via.clone().filter(|_| path.kind == PathKind::Member)?;
        let named = |node: &&Node| node.identity.id.short() == via;
        self.nodes.iter().find(named).map(|node| node.name.clone())
    }

    /// Whether every pair, seen from both ends, is as the oracle says.
    pub fn is_settled(&self) -> bool {
        self.pairs().all(|(a, b)| {
            let said = self.verdict_of(a, b);
            self.path_of(a, b) == said && self.path_of(b, a) == said
        })
    }

    /// Whether every pair that can be linked is, from both ends.
    pub fn is_linked(&self) -> bool {
        let apart = |a, b| self.path_of(a, b) == Verdict::Impossible;
        let mut pairs = self.pairs();
        pairs.all(|(a, b)| self.verdict_of(a, b) == Verdict::Impossible || !(apart(a, b) || apart(b, a)))
    }

    /// Goes on for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.net.now() + time;
        while self.step(end) {}
    }

    /// Goes on until something holds, at the longest for `limit`; whether it does.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&World) -> bool) -> bool {
        let end = self.net.now() + limit;
        while !holds(self) {
            // What is asked is not asked after each datagram: a hundredth of a second is near enough.
            let pause = (self.net.now() + Duration::from_millis(10)).min(end);
            while self.step(pause) {}
            if self.net.now() >= end {
                return holds(self);
            }
        }
        true
    }

    /// Goes on until every pair is as the oracle says; panics with the trace's end if that takes more than `limit`.
    pub fn settle_within(&mut self, limit: Duration) {
        if !self.run_until(limit, World::is_settled) {
            let pairs: Vec<String> = self
                .pairs()
                .map(|(a, b)| {
                    let [one, two] = [a, b].map(|at| &self.nodes[at]);
                    let said = self.verdict_of(a, b);
                    let (there, back) = (self.path_of(a, b), self.path_of(b, a));
                    format!(
                        "{}-{}: oracle {said:?}, there {there:?}, back {back:?}",
                        one.name, two.name
                    )
                })
                .collect();
            self.fail(&format!(
                "paths differ from the oracle's after {limit:?}: {}",
                pairs.join("; ")
            ));
        }
    }

    /// As [`World::settle_within`], thirty seconds.
    pub fn settle(&mut self) -> &mut Self {
        self.settle_within(Duration::from_secs(30));
        self
    }

    /// Drops everything that goes straight between two nodes, or lets it pass again.
    pub fn cut(&mut self, a: &str, b: &str, cut: bool) {
        let (a, b) = (self.nodes[self.index(a)].host, self.nodes[self.index(b)].host);
        self.note(None, if cut { "cut" } else { "mend" }, 0);
        self.net.cut(a, b, cut);
    }

    /// From now on the way from a node to the internet and back loses larger IP datagrams without a word.
    pub fn set_mtu(&mut self, name: &str, mtu: usize) {
        let at = self.index(name);
        self.note(Some(at), "path MTU", mtu);
        self.net.set_mtu(self.nodes[at].host, mtu);
    }

    /// From now on the kernel of a node refuses to send larger IP datagrams.
    pub fn set_interface(&mut self, name: &str, mtu: usize) {
        let at = self.index(name);
        self.note(Some(at), "interface MTU", mtu);
        self.net.set_interface(self.nodes[at].host, mtu);
    }

    /// Reboots the gateway next to a node.
    pub fn reboot_gateway(&mut self, name: &str) {
        let realm = self.net.realm(self.nodes[self.index(name)].host);
        self.note(None, "gateway reboots", 0);
        self.net.reboot_gateway(realm);
    }

    /// Moves a node to another realm and tells it its new addresses, or lets it find out by itself.
    pub fn roam(&mut self, name: &str, place: impl Into<Place>) {
        let at = self.index(name);
        self.note(Some(at), "roams", 0);
        let realm = self.place(&place.into(), Wire::PERFECT);
        let host = self.nodes[at].host;
        self.net.move_host(host, realm, true, true);
        self.tell_addresses(at);
    }

    /// Kills a TURN server, counted from 0.
    pub fn kill_turn(&mut self, which: usize) {
        self.note(None, "TURN dies", which);
        self.servers.kill_turn(&mut self.net, which);
    }

    /// Starts it again, with nothing of what it knew.
    pub fn restart_turn(&mut self, which: usize) {
        self.note(None, "TURN starts", which);
        self.servers.restart_turn(&mut self.net, which);
    }

    /// Kills a node.
    pub fn kill(&mut self, name: &str) {
        let at = self.index(name);
        self.note(Some(at), "killed", 0);
        self.nodes[at].member = None;
        self.nodes[at].streams.clear();
        for conn in std::mem::take(&mut self.nodes[at].conns).into_keys() {
            self.net.close(conn, Side::Client);
        }
    }

    /// Starts a node that was killed, with the same key and nothing else.
    pub fn restart(&mut self, name: &str) {
        let at = self.index(name);
        self.note(Some(at), "starts", 0);
        self.boot(at);
    }

    /// A node as `state.get` shows it.
    pub fn state(&mut self, name: &str) -> api::link::State {
        let (at, now) = (self.index(name), self.net.now());
        let member = self.nodes[at].member.as_mut().expect("the node runs");
        let state = member.state(now);
        self.obey(at);
        state
    }

    /// Links that came up, links that went down, and changes of path of a node so far.
    pub fn changes(&self, name: &str) -> (u64, u64, u64) {
        let member = self.nodes[self.index(name)].member.as_ref();
        member.map_or((0, 0, 0), |member| (member.ups, member.downs, member.moves))
    }

    /// Ends the run of a test, with the seed and the end of the trace.
    pub fn fail(&self, reason: &str) -> ! {
        let tail: Vec<String> = self.trace.tail().map(ToString::to_string).collect();
        let places: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{}: {}", node.name, self.describe(node.host)))
            .collect();
        panic!(
            "{reason}\nplaces:\n  {}\npaths:\n  {}\ntrace ({} entries, the last {}):\n{}\nseed {}",
            places.join("\n  "),
            self.describe_paths().join("\n  "),
            self.trace.count(),
            tail.len(),
            tail.join("\n"),
            self.seed.0,
        )
    }

    fn describe_paths(&self) -> Vec<String> {
        let ways = self.pairs().flat_map(|(a, b)| [(a, b), (b, a)]);
        let describe = |(a, b): (usize, usize)| {
            let [from, to] = [a, b].map(|at| &self.nodes[at]);
            let path = from.member.as_ref().and_then(|member| member.path(to.identity.id));
            let path = path.map_or("none".to_owned(), |p| format!("{:?} {} {}", p.kind, p.local, p.remote));
            format!("{} to {}: {path}", from.name, to.name)
        };
        ways.map(describe).collect()
    }

    fn describe(&self, host: HostId) -> String {
        let realms = self.net.realms_above(self.net.realm(host));
        let gateways: Vec<_> = realms.iter().filter_map(|realm| self.net.parent(*realm)).collect();
        let gateways: Vec<String> = gateways
            .iter()
            .map(|(_, g)| {
                format!(
                    "[v4 {:?} v6 {:?} udp {} tcp {:?} {:?}]",
                    g.v4, g.v6, g.udp, g.tcp, g.wire
                )
            })
            .collect();
        format!("{:?} behind {}", self.net.addresses(host), gateways.join(" behind "))
    }

    /// What the oracle may count on.
    fn turn(&self) -> Option<oracle::Turn> {
        self.has_turn.then_some(Servers::TURN)
    }

    fn index(&self, name: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.name == name);
        found.unwrap_or_else(|| panic!("this world has no node {name}, or was not started"))
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.nodes.len();
        (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
    }

    fn path_of(&self, a: usize, b: usize) -> Verdict {
        let member = self.nodes[a].member.as_ref();
        match member.and_then(|member| member.path(self.nodes[b].identity.id)) {
            None => Verdict::Impossible,
            Some(path) => match path.kind {
                PathKind::Direct => Verdict::Direct,
                PathKind::Turn => Verdict::Relay,
                PathKind::Member => Verdict::Member,
            },
        }
    }

    fn note(&mut self, who: Option<usize>, what: &'static str, size: usize) {
        let at = self.elapsed();
        let size = size as u64;
        self.trace.add(Entry { at, who, what, size });
    }

    /// The next thing that happens, if it does before `end`; else time is `end`.
    fn step(&mut self, end: Instant) -> bool {
        let members = self
            .nodes
            .iter()
            .filter_map(|node| node.member.as_ref()?.poll_timeout());
        let others = [
            self.servers.poll_timeout(),
            self.rendezvous.poll_timeout(),
            self.net.poll_timeout(),
        ];
        let next = members.chain(others.into_iter().flatten()).min();
        let next = next.filter(|next| *next <= end);
        if let Some(arrival) = self.net.advance(next.unwrap_or(end)) {
            self.arrive(arrival);
            return true;
        }
        if next.is_none() {
            return false;
        }
        let now = self.net.now();
        self.servers.handle_timeout(&mut self.net);
        while let Some(delivery) = self.rendezvous.poll(now) {
            self.deliver(delivery);
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if let Some(member) = node
                .member
                .as_mut()
                .filter(|m| m.poll_timeout().is_some_and(|due| due <= now))
            {
                member.handle_timeout(now);
                self.note(Some(at), "timeout", 0);
                self.obey(at);
            }
        }
        if self.net.in_flight() > IN_FLIGHT {
            self.fail("somebody floods the network");
        }
        true
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now = self.net.now();
        let Some(at) = self.nodes.iter().position(|node| node.identity.id == delivery.to) else {
            return;
        };
        self.note(Some(at), "signal in", delivery.blob.len());
        if let Some(member) = &mut self.nodes[at].member {
            member.deliver(now, delivery.blob);
        }
        self.obey(at);
    }

    fn arrive(&mut self, arrival: Arrival) {
        let (Arrival::Datagram(host, _) | Arrival::Stream(host, ..)) = &arrival;
        if self.servers.owns(*host) {
            self.servers.handle(&mut self.net, arrival);
            return;
        }
        let Some(at) = self.nodes.iter().position(|node| node.host == *host) else {
            return;
        };
        let now = self.net.now();
        match arrival {
            Arrival::Datagram(_, datagram) => {
                self.note(Some(at), "datagram in", datagram.bytes.len());
                let Datagram { source, target, bytes } = datagram;
                // Nothing else listens on the machine.
                if let Some(member) = self.nodes[at].member.as_mut().filter(|_| target.port() == PORT) {
                    member.handle_datagram(now, target, source, bytes);
                }
            }
            Arrival::Stream(_, conn, event) => self.stream_news(at, conn, event),
        }
        self.obey(at);
    }

    fn stream_news(&mut self, at: usize, conn: ConnId, event: StreamEvent) {
        let now = self.net.now();
        let node = &mut self.nodes[at];
        let (Some(&id), Some(member)) = (node.conns.get(&conn), node.member.as_mut()) else {
            return;
        };
        let (what, size) = match &event {
            StreamEvent::Open { .. } => {
                member.handle_stream(now, id, StreamInput::Connected);
                ("stream open", 0)
            }
            StreamEvent::Data(bytes) => {
                member.handle_stream(now, id, StreamInput::Data(bytes));
                ("stream in", bytes.len())
            }
            StreamEvent::Closed => {
                node.conns.remove(&conn);
                node.streams.remove(&id);
                node.watch.remove(&conn);
                member.handle_stream(now, id, StreamInput::Closed);
                ("stream closed", 0)
            }
        };
        self.note(Some(at), what, size);
    }

    /// Does what a member wants.
    fn obey(&mut self, at: usize) {
        while let Some(effect) = self.nodes[at].member.as_mut().and_then(Member::poll_effect) {
            match effect {
                Effect::Datagram { source, remote, bytes } => self.send_datagram(at, source, remote, bytes),
                Effect::Stream(id, output) => self.use_stream(at, id, output),
                Effect::Signal { to, blob } => {
                    self.note(Some(at), "signal out", blob.len());
                    if frames::leaks(&blob) {
                        self.fail(&format!("an inner frame of node {at} leaves unsealed in a signal"));
                    }
                    let now = self.net.now();
                    self.rendezvous.carry(now, Delivery { to, blob });
                }
                Effect::Frame(bytes) => self.take_frame(at, &bytes),
                Effect::Note(what) => self.note(Some(at), what, 0),
            }
        }
        self.obeyed += 1;
        if self.obeyed.is_multiple_of(LOOK_EVERY) {
            self.check_bounds(at);
        }
    }

    fn send_datagram(&mut self, at: usize, source: Option<std::net::IpAddr>, remote: SocketAddr, bytes: Vec<u8>) {
        self.note(Some(at), "datagram out", bytes.len());
        if frames::leaks(&bytes) {
            self.fail(&format!("an inner frame of node {at} leaves unsealed to {remote}"));
        }
        let host = self.nodes[at].host;
        let mut own = self
            .net
            .addresses(host)
            .iter()
            .filter(|ip| ip.is_ipv4() == remote.is_ipv4());
        let ip = match source {
            Some(ip) => own.find(|own| **own == ip).copied(),
            None => own.next().copied(),
        };
        // No address of that family, or one that is gone: the kernel refuses.
        if let Some(ip) = ip {
            let source = SocketAddr::new(ip, PORT);
            if !self.net.takes(host, ip, bytes.len()) {
                let now = self.net.now();
                if let Some(member) = &mut self.nodes[at].member {
                    member.handle_too_big(now, remote, bytes.len());
                }
                return;
            }
            self.net.send(
                host,
                Datagram {
                    source,
                    target: remote,
                    bytes,
                },
            );
        }
    }

    fn use_stream(&mut self, at: usize, id: StreamId, output: StreamOutput) {
        match output {
            StreamOutput::Connect(remote) => {
                self.note(Some(at), "stream connect", 0);
                let conn = self.net.connect(self.nodes[at].host, remote);
                self.nodes[at].streams.insert(id, conn);
                self.nodes[at].conns.insert(conn, id);
            }
            StreamOutput::Data(bytes) => {
                self.note(Some(at), "stream out", bytes.len());
                let Some(&conn) = self.nodes[at].streams.get(&id) else {
                    return;
                };
                if self.nodes[at].watch.entry(conn).or_default().leaks(&bytes) {
                    self.fail(&format!("an inner frame of node {at} leaves unsealed over TCP"));
                }
                self.net.write(conn, Side::Client, bytes);
            }
            StreamOutput::Close => {
                self.note(Some(at), "stream close", 0);
                if let Some(conn) = self.nodes[at].streams.remove(&id) {
                    self.nodes[at].conns.remove(&conn);
                    self.nodes[at].watch.remove(&conn);
                    self.net.close(conn, Side::Client);
                }
            }
        }
    }
}

/// Kept beside the world so that its parts stay private to it.
pub(crate) fn generator_bytes(rng: &mut ChaCha12Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}
