//! A few nodes over wires without NATs, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::link::{Delivery, Event, LinkCall, LinkPhase, NetworkConfig, NicKind, NodeRef, PeerConfig, PeerState, State};
use api::rpc::{ApiError, Empty};
use api::{Blob, NetworkId, NodeId};
use rustls_pki_types::UnixTime;
use serde_json::Value;

use crate::frame::tests::frame;
use crate::keys::{DeviceSecret, NodeKey};
use crate::link::{Cx, Link};
use crate::node::{CallId, IfAddr, NicEffect, Node, NodeConfig, Output};
use crate::turn::{StreamId, StreamInput, StreamOutput, TlsTrust};

pub(super) const NETWORK: NetworkId = NetworkId([42; 32]);
pub(super) const DELAY: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Epoch;

impl rustls::time_provider::TimeProvider for Epoch {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

pub(super) fn trust() -> TlsTrust {
    TlsTrust {
        roots: Arc::new(rustls::RootCertStore::empty()),
        clock: Arc::new(Epoch),
    }
}

enum Arrival {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Signal {
        to: NodeId,
        blob: Vec<u8>,
    },
}

/// One machine.
pub(super) struct Host {
    pub(super) node: Node,
    pub(super) id: NodeId,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) events: Vec<Event>,
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) replies: BTreeMap<CallId, Result<Value, ApiError>>,
    device: [u8; 32],
    starts: u8,
}

/// Hosts and what is between them.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), Arrival>,
    serial: u64,
    /// Between these addresses nothing passes, in this direction.
    pub(super) cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// What a host sends from the first looks as if from the second, and back: a NAT that can be changed.
    pub(super) alias: BTreeMap<SocketAddr, SocketAddr>,
    /// Hosts whose machine sleeps: they hear nothing and do nothing.
    pub(super) asleep: BTreeSet<usize>,
    /// Longer datagrams are lost without a word.
    pub(super) carries: usize,
    /// Longer datagrams are refused by the sender's kernel.
    pub(super) interface: usize,
    /// Every n-th datagram is lost.
    pub(super) lose_every: Option<u64>,
    /// Signals are not carried but kept in `signals`.
    pub(super) hold_signals: bool,
    pub(super) signals: Vec<(NodeId, Vec<u8>)>,
    /// Every datagram that was sent: from, to, bytes.
    pub(super) sent: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// What was to be done with streams: host, stream, what.
    pub(super) streams: Vec<(usize, StreamId, StreamOutput)>,
    sent_count: u64,
    pub(super) keep_sent: bool,
    next_call: u64,
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn fresh_node(device: [u8; 32], starts: u8, now: Instant) -> Node {
    let mut seed = device;
    seed[31] ^= starts;
    let config = NodeConfig {
        device: DeviceSecret::from_bytes(device),
        seed,
        instance: u64::from(device[0]) << 8 | u64::from(starts),
        aes: true,
        allow_loopback: false,
        roots: Vec::new(),
        trust: trust(),
    };
    Node::new(config, now)
}

impl World {
    /// `count` hosts; each is at 192.0.2.N:1000, and at 2001:db8::N:1000 where `v6`.
    pub(super) fn new(count: u8, v6: bool) -> Self {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut world = Self {
            start,
            now: start,
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            serial: 0,
            cut: BTreeSet::new(),
            alias: BTreeMap::new(),
            asleep: BTreeSet::new(),
            carries: usize::MAX,
            interface: usize::MAX,
            lose_every: None,
            hold_signals: false,
            signals: Vec::new(),
            sent: Vec::new(),
            streams: Vec::new(),
            sent_count: 0,
            keep_sent: false,
            next_call: 0,
        };
        crate::ice::seed_transactions(7);
        for n in 1..=count {
            let device = [n; 32];
            let mut addresses = vec![SocketAddr::from(([192, 0, 2, n], 1000))];
            if v6 {
                addresses.push(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)], 1000)));
            }
            world.hosts.push(Host {
                node: fresh_node(device, 0, start),
                id: NodeKey::derive(&DeviceSecret::from_bytes(device), NETWORK).id(),
                addresses,
                events: Vec::new(),
                frames: Vec::new(),
                replies: BTreeMap::new(),
                device,
                starts: 0,
            });
        }
        for host in 0..world.hosts.len() {
            world.set_up(host);
        }
        world
    }

    /// What a controller tells a new tincan: the network, and every other node as a peer.
    fn set_up(&mut self, host: usize) {
        self.tell_addresses(host);
        let n = host as u8 + 1;
        let addresses = inner(n).map(|ip| {
            let prefix = if ip.is_ipv4() { 16 } else { 64 };
            api::Cidr::new(ip, prefix).unwrap()
        });
        let config = NetworkConfig {
            network: NETWORK,
            kind: NicKind::Ip,
            nic: None,
            mtu: 1400,
            addresses: addresses.to_vec(),
        };
        self.call(host, LinkCall::CreateNetwork(config));
        for other in 0..self.hosts.len() {
            if other != host {
                self.set_peer(host, other);
            }
        }
    }

    pub(super) fn set_peer(&mut self, host: usize, peer: usize) {
        let config = PeerConfig {
            network: NETWORK,
            node: self.hosts[peer].id,
            addresses: inner(peer as u8 + 1).to_vec(),
            name: None,
        };
        self.call(host, LinkCall::SetPeer(config));
    }

    pub(super) fn tell_addresses(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        let list: Vec<IfAddr> = host
            .addresses
            .iter()
            .map(|address| IfAddr {
                ip: address.ip(),
                default_route: true,
                deprecated: false,
            })
            .collect();
        let port = |v4: bool| host.addresses.iter().find(|a| a.is_ipv4() == v4).map(|a| a.port());
        let (v4, v6) = (port(true), port(false));
        host.node.handle_addresses(self.now, v4, v6, &list);
        self.drain();
    }

    /// `kill -9` and a new start: nothing is said to anybody, and the controller sets everything up again.
    pub(super) fn restart(&mut self, host: usize) {
        self.hosts[host].starts += 1;
        let (device, starts) = (self.hosts[host].device, self.hosts[host].starts);
        self.hosts[host].node = fresh_node(device, starts, self.now);
        self.set_up(host);
    }

    pub(super) fn call(&mut self, host: usize, call: LinkCall) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.hosts[host].node.handle_call(self.now, id, call);
        self.drain();
        id
    }

    /// The answer to a call that is answered at once.
    pub(super) fn ask(&mut self, host: usize, call: LinkCall) -> Result<Value, ApiError> {
        let id = self.call(host, call);
        self.hosts[host].replies.remove(&id).expect("an answer")
    }

    pub(super) fn peer_ref(&self, peer: usize) -> NodeRef {
        NodeRef {
            network: NETWORK,
            node: self.hosts[peer].id,
        }
    }

    pub(super) fn open(&mut self, host: usize, peer: usize) {
        let node = self.peer_ref(peer);
        self.ask(host, LinkCall::OpenLink(node)).unwrap();
    }

    /// Two hosts with a link that is up.
    pub(super) fn linked() -> Self {
        let mut world = Self::new(2, false);
        world.open(0, 1);
        world.run(Duration::from_secs(1));
        assert!(world.is_up(0, 1) && world.is_up(1, 0), "{:?}", world.hosts[0].events);
        world
    }

    pub(super) fn deliver(&mut self, host: usize, blob: Vec<u8>) -> Result<Value, ApiError> {
        let delivery = Delivery {
            network: NETWORK,
            blob: Blob(blob),
        };
        self.ask(host, LinkCall::Deliver(delivery))
    }

    pub(super) fn state(&mut self, host: usize) -> State {
        let value = self.ask(host, LinkCall::State(Empty {})).unwrap();
        serde_json::from_value(value).unwrap()
    }

    pub(super) fn peer(&mut self, host: usize, peer: usize) -> PeerState {
        let id = self.hosts[peer].id;
        let state = self.state(host);
        let mut peers = state.networks.into_iter().flat_map(|net| net.peers);
        peers.find(|p| p.node == id).unwrap()
    }

    pub(super) fn is_up(&mut self, host: usize, peer: usize) -> bool {
        self.peer(host, peer).phase == LinkPhase::Up
    }

    /// Sends a frame with this payload from one host's first inner address to another's.
    pub(super) fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        let frame = inner_frame(from, to, payload);
        self.send_frame(from, &frame);
    }

    pub(super) fn send_frame(&mut self, from: usize, frame: &[u8]) {
        self.hosts[from].node.handle_frame(self.now, NETWORK, frame);
        self.drain();
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    pub(super) fn run_until(&mut self, end: Instant) {
        let mut turns = 0;
        while let Some(next) = self.next_time().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let arrival = entry.remove();
                self.arrive(arrival);
            }
            for host in self.awake() {
                if self.hosts[host].node.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.hosts[host].node.handle_timeout(self.now);
                }
            }
            self.drain();
            turns += 1;
            assert!(
                turns < 200_000,
                "something is due again and again at {:?}",
                self.now - self.start
            );
        }
        self.now = end;
    }

    fn next_time(&self) -> Option<Instant> {
        let timers = self
            .awake()
            .into_iter()
            .filter_map(|host| self.hosts[host].node.poll_timeout());
        let arrivals = self.queue.keys().next().map(|(at, _)| *at);
        timers.chain(arrivals).min()
    }

    fn awake(&self) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|host| !self.asleep.contains(host))
            .collect()
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Datagram { from, to, mut bytes } => {
                let found = self.hosts.iter().position(|host| host.addresses.contains(&to));
                if let Some(at) = found.filter(|at| !self.asleep.contains(at)) {
                    self.hosts[at].node.handle_udp(self.now, to, from, &mut bytes);
                }
            }
            Arrival::Signal { to, blob } => {
                let found = self.hosts.iter().position(|host| host.id == to);
                if let Some(host) = found.filter(|host| !self.asleep.contains(host)) {
                    let _ = self.deliver(host, blob);
                }
            }
        }
        self.drain();
    }

    pub(super) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.arrive(Arrival::Datagram { from, to, bytes });
    }

    pub(super) fn stream(&mut self, host: usize, stream: StreamId, input: StreamInput<'_>) {
        self.hosts[host].node.handle_stream(self.now, stream, input);
        self.drain();
    }

    fn later(&mut self, arrival: Arrival) {
        self.serial += 1;
        self.queue.insert((self.now + DELAY, self.serial), arrival);
    }

    /// Lets a host's link do what an honest one would not.
    pub(super) fn meddle<T>(&mut self, host: usize, act: impl FnOnce(&mut Link, &mut Cx<'_>) -> T) -> T {
        let (node, now) = (&mut self.hosts[host].node, self.now);
        let id = *node.links.keys().next().expect("a link");
        let result = node.with_link(now, id, act).expect("a network");
        node.settle(now);
        self.drain();
        result
    }

    /// The same for the link with a certain peer.
    pub(super) fn meddle_with<T>(
        &mut self,
        (host, peer): (usize, usize),
        act: impl FnOnce(&mut Link, &mut Cx<'_>) -> T,
    ) -> T {
        let (id, now) = (self.hosts[peer].id, self.now);
        let node = &mut self.hosts[host].node;
        let link = node
            .peer_mut(NETWORK, id)
            .and_then(|peer| peer.current)
            .expect("a link");
        let result = node.with_link(now, link, act).expect("a network");
        node.settle(now);
        self.drain();
        result
    }

    fn drain(&mut self) {
        for at in 0..self.hosts.len() {
            let mut has_acted = false;
            while let Some(output) = self.hosts[at].node.poll_output() {
                let is_snapshot = matches!(output, Output::Snapshot(_));
                assert!(
                    !(is_snapshot && has_acted),
                    "what was sent may be answered before the tables know of it"
                );
                // Where a kernel refuses what is sent, its node hears of that in between.
                has_acted |= !is_snapshot && self.interface == usize::MAX;
                self.act(at, output);
            }
        }
    }

    fn act(&mut self, at: usize, output: Output) {
        match output {
            Output::Udp { source, remote, bytes } => self.send_datagram(at, source, remote, bytes),
            Output::Frame { bytes, .. } => self.hosts[at].frames.push(bytes),
            Output::Reply(id, answer) => {
                self.hosts[at].replies.insert(id, answer);
            }
            Output::Event(event) => {
                if let Event::SignalOut { to, blob, .. } = &event {
                    self.signals.push((*to, blob.0.clone()));
                    if !self.hold_signals {
                        self.later(Arrival::Signal {
                            to: *to,
                            blob: blob.0.clone(),
                        });
                    }
                } else {
                    self.hosts[at].events.push(event);
                }
            }
            Output::Nic(NicEffect::Set(config)) => {
                self.hosts[at]
                    .node
                    .handle_nic(self.now, config.network, Ok("ipop0".into()));
            }
            Output::Stream(stream, output) => self.streams.push((at, stream, output)),
            Output::Nic(_) | Output::Names(_) | Output::Root(_) | Output::Snapshot(_) => {}
        }
    }

    fn send_datagram(&mut self, at: usize, source: Option<IpAddr>, remote: SocketAddr, bytes: Vec<u8>) {
        let host = &self.hosts[at];
        let fits = |a: &&SocketAddr| a.is_ipv4() == remote.is_ipv4() && source.is_none_or(|ip| a.ip() == ip);
        let Some(real) = host.addresses.iter().find(fits).copied() else {
            return;
        };
        let from = self.alias.get(&real).copied().unwrap_or(real);
        let aliased = self.alias.iter().find(|(_, public)| **public == remote);
        let to = aliased.map_or(remote, |(real, _)| *real);
        if bytes.len() > self.interface {
            return self.hosts[at].node.handle_too_big(self.now, remote, bytes.len());
        }
        self.sent_count += 1;
        if self.keep_sent {
            self.sent.push((from, to, bytes.clone()));
        }
        let lost = bytes.len() > self.carries || self.lose_every.is_some_and(|n| self.sent_count.is_multiple_of(n));
        // Behind an alias the host itself cannot be reached by its own address.
        let hidden = aliased.is_none() && self.alias.contains_key(&to);
        if !lost && !hidden && !self.cut.contains(&(from, to)) && !self.cut.contains(&(real, remote)) {
            self.later(Arrival::Datagram { from, to, bytes });
        }
    }

    pub(super) fn cut_both(&mut self, a: SocketAddr, b: SocketAddr) {
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }
}

/// Inner addresses of host number `n`, from 1.
pub(super) fn inner(n: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 5, 0, n]),
        IpAddr::from([0xfd00, 5, 0, 0, 0, 0, 0, u16::from(n)]),
    ]
}

pub(super) fn inner_frame(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    frame(
        &inner(from as u8 + 1)[0].to_string(),
        &inner(to as u8 + 1)[0].to_string(),
        payload,
    )
}
