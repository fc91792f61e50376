//! A whole engine: strangers before it, and a peer inside a valid link that says whatever it likes.
//!
//! Ann is under test. Bob has a link to her and her trust, and is the fuzzer's. Carol has a link too and wants nothing
//! but to go on.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use api::link::{Delivery, Event, LinkCall, LinkPhase, NetworkConfig, NicKind, NodeRef, PeerConfig, State};
use api::rpc::Message;
use api::{Blob, Cidr, NetworkId, NodeId};
use serde_json::Value;
use tincan::fast::{self, HEADROOM, Lanes, LinkSlot, Outbound, TAILROOM};
use tincan::frame::{Frame, unreachable};
use tincan::ice::seed_transactions;
use tincan::keys::{DeviceSecret, NodeKey, open_from, seal_to};
use tincan::node::{CallId, IfAddr, NicEffect, Node, NodeConfig, Output, RootEffect};
use tincan::signal::Signal;
use tincan::turn::{StreamId, StreamInput, StreamOutput};

use super::records;
use super::servers::trust;
use super::signals::{ANN, BOB, CAROL, bodies_for};
use crate::script::{START, Script, Writer};
use crate::texts;

const NETWORK: NetworkId = NetworkId([9; 32]);
const STRANGER: &str = "203.0.113.1:9";
/// Outputs of one input: a frame to all peers, a round of checks, a window of the stream.
const OUTPUTS_MAX: usize = 512;
/// Turns in which everything comes to rest, or until the time asked for.
const TURNS_MAX: usize = 20_000;
/// Bob's datagrams that may come again.
const WIRE: usize = 256;

/// See the module.
pub(crate) fn node(bytes: &[u8]) {
    let mut world = World::linked();
    let mut script = Script(bytes);
    for _ in 0..Script::STEPS {
        let Some(step) = script.byte() else { break };
        if world.step(step, &mut script).is_none() {
            break;
        }
        world.settle();
    }
    if !world.was_called {
        world.carol_goes_on();
    }
}

struct Host {
    node: Node,
    id: NodeId,
    address: SocketAddr,
    frames: Vec<Vec<u8>>,
    state: Option<State>,
}

struct World {
    now: Instant,
    /// Ann, Bob, Carol.
    hosts: [Host; 3],
    arrivals: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    blobs: VecDeque<(NodeId, Vec<u8>)>,
    /// What Bob sent, the first of it.
    wire: Vec<Vec<u8>>,
    lanes: Lanes,
    /// The last signal of Bob's that Ann got.
    heard: Option<Signal>,
    stream: Option<StreamId>,
    /// The last frame from Ann's NIC.
    asked_for: Option<Vec<u8>>,
    calls: u64,
    was_called: bool,
}

impl World {
    fn linked() -> Self {
        seed_transactions(1);
        let keys: [&NodeKey; 3] = [&ANN, &BOB, &CAROL];
        let host = |number: u8| Host {
            node: fresh_node(number),
            id: keys[usize::from(number)].id(),
            address: SocketAddr::from(([192, 0, 2, number + 1], 1000)),
            frames: Vec::new(),
            state: None,
        };
        let mut world = World {
            now: *START,
            hosts: [host(0), host(1), host(2)],
            arrivals: VecDeque::new(),
            blobs: VecDeque::new(),
            wire: Vec::new(),
            lanes: Lanes::new(1).expect("a lane"),
            heard: None,
            stream: None,
            asked_for: None,
            calls: 0,
            was_called: false,
        };
        for (own, peers) in [(0, &[1, 2][..]), (1, &[0]), (2, &[0])] {
            world.set_up(own, peers);
        }
        world.call(1, LinkCall::OpenLink(world.peer(0)));
        world.call(2, LinkCall::OpenLink(world.peer(0)));
        world.pass(Duration::from_millis(1500));
        assert!(world.is_up(1) && world.is_up(2), "the links come up");
        world
    }

    fn set_up(&mut self, own: usize, peers: &[usize]) {
        let address = self.hosts[own].address;
        let interface = IfAddr {
            ip: address.ip(),
            default_route: true,
            deprecated: false,
        };
        self.hosts[own]
            .node
            .handle_addresses(self.now, Some(address.port()), None, &[interface]);
        let config = NetworkConfig {
            network: NETWORK,
            kind: NicKind::Ip,
            nic: None,
            mtu: 1400,
            addresses: vec![Cidr::new(inner(own), 16).expect("a subnet")],
        };
        self.call(own, LinkCall::CreateNetwork(config));
        for &peer in peers {
            let config = PeerConfig {
                network: NETWORK,
                node: self.hosts[peer].id,
                addresses: vec![inner(peer)],
                name: None,
            };
            self.call(own, LinkCall::SetPeer(config));
        }
    }

    fn peer(&self, host: usize) -> NodeRef {
        NodeRef {
            network: NETWORK,
            node: self.hosts[host].id,
        }
    }

    fn call(&mut self, host: usize, call: LinkCall) {
        self.calls += 1;
        self.hosts[host].node.handle_call(self.now, CallId(self.calls), call);
        self.settle();
    }

    /// Whether Ann has a link to a host.
    fn is_up(&mut self, host: usize) -> bool {
        self.call(0, LinkCall::State(api::rpc::Empty {}));
        let state = self.hosts[0].state.take().expect("the state is told at once");
        let id = self.hosts[host].id;
        let mut peers = state.networks.iter().flat_map(|network| &network.peers);
        peers.any(|peer| peer.node == id && peer.phase == LinkPhase::Up)
    }

    /// One thing that happens to Ann; none when the script is over.
    fn step(&mut self, step: u8, script: &mut Script<'_>) -> Option<()> {
        match step % 10 {
            0 => self.datagram(step & 0x80 == 0, script.chunk()?.to_vec()),
            1 => self.again(script.byte()?, script.word()?, script.byte()?),
            2 => self.sealed_frame(script.chunk()?),
            3 => self.inside(false, script.chunk()?),
            4 => self.inside(true, script.chunk()?),
            5 => self.signal(script.byte()?, script.chunk()?),
            6 => self.blob(script.chunk()?.to_vec()),
            7 => self.own_frame(script.chunk()?),
            8 => self.pass(script.wait()?),
            _ if step & 0x80 == 0 => self.line(script.chunk()?),
            _ => self.stream(step >> 4 & 3, script.chunk()?),
        }
        Some(())
    }

    fn datagram(&mut self, from_bob: bool, mut bytes: Vec<u8>) {
        let from = if from_bob { self.hosts[1].address } else { at(STRANGER) };
        let local = self.hosts[0].address;
        self.hosts[0].node.handle_udp(self.now, local, from, &mut bytes);
    }

    /// Something that Bob once sent, with a byte changed.
    fn again(&mut self, which: u8, place: u16, value: u8) {
        let count = self.wire.len().max(1);
        if let Some(mut bytes) = self.wire.get(usize::from(which) % count).cloned() {
            let place = usize::from(place) % bytes.len().max(1);
            bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = value);
            self.datagram(true, bytes);
        }
    }

    /// Anything, as an inner frame on a worker's lane.
    fn sealed_frame(&mut self, frame: &[u8]) {
        let snapshot = self.hosts[1].node.snapshot();
        let Some(link) = snapshot.links.first().and_then(Option::as_ref) else {
            return;
        };
        let mut buffer = [&[0; HEADROOM][..], frame, &[0; TAILROOM]].concat();
        let slot = LinkSlot::new(0).expect("the first place");
        if let Outbound::Sealed { range, .. } = fast::seal(link, &mut self.lanes, slot, &mut buffer) {
            self.datagram(true, buffer[range].to_vec());
        }
    }

    /// Ann's NIC gives one.
    fn own_frame(&mut self, frame: &[u8]) {
        self.asked_for = Some(frame.to_vec());
        self.hosts[0].node.handle_frame(self.now, NETWORK, frame);
    }

    fn inside(&mut self, on_stream: bool, bytes: &[u8]) {
        let ann = self.hosts[0].id;
        let bytes = &bytes[..bytes.len().min(1200)];
        self.hosts[1].node.fuzz_inside(self.now, NETWORK, ann, on_stream, bytes);
    }

    /// A body of Bob's with a stamp that is newer than all before; the low bit of `how` puts the session there.
    fn signal(&mut self, how: u8, body: &[u8]) {
        let Some(heard) = &mut self.heard else { return };
        heard.stamp.number += 1;
        let mut plaintext = heard.encode().to_vec();
        let session = plaintext[HEAD..HEAD + 8].to_vec();
        plaintext.truncate(HEAD);
        plaintext[1] = how >> 1;
        plaintext.extend_from_slice(body);
        if how & 1 == 1 && body.len() >= 8 {
            plaintext[HEAD..HEAD + 8].copy_from_slice(&session);
        }
        if let Ok(blob) = seal_to(&BOB, self.hosts[0].id, &plaintext) {
            self.blob(blob);
        }
    }

    fn blob(&mut self, blob: Vec<u8>) {
        let (network, blob) = (NETWORK, Blob(blob));
        self.call(0, LinkCall::Deliver(Delivery { network, blob }));
    }

    /// What a controller asks, or whoever may open its socket.
    fn line(&mut self, line: &[u8]) {
        if let Ok(Message::Request { method, params, .. }) = Message::parse(line)
            && let Ok(call) = LinkCall::parse(&method, params)
        {
            self.was_called = true;
            self.call(0, call);
        }
    }

    fn stream(&mut self, how: u8, bytes: &[u8]) {
        let Some(stream) = self.stream else { return };
        let input = match how {
            0 => StreamInput::Connected,
            1 => StreamInput::Closed,
            _ => StreamInput::Data(bytes),
        };
        self.hosts[0].node.handle_stream(self.now, stream, input);
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        for _ in 0..TURNS_MAX {
            let due = self.hosts.iter().filter_map(|host| host.node.poll_timeout()).min();
            let Some(due) = due.filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            for host in &mut self.hosts {
                host.node.handle_timeout(self.now);
            }
            self.settle();
        }
        panic!("something is due again and again");
    }

    /// Carries everything until nothing is on the way.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            for host in 0..self.hosts.len() {
                self.collect(host);
            }
            if let Some((from, to, mut bytes)) = self.arrivals.pop_front() {
                if let Some(host) = self.hosts.iter_mut().find(|host| host.address == to) {
                    host.node.handle_udp(self.now, to, from, &mut bytes);
                }
            } else if let Some((to, blob)) = self.blobs.pop_front() {
                self.carry(to, blob);
            } else {
                return;
            }
        }
        panic!("nodes answer one another for ever");
    }

    fn carry(&mut self, to: NodeId, blob: Vec<u8>) {
        if to == self.hosts[0].id
            && let Ok((from, plaintext)) = open_from(&ANN, &blob)
            && from == self.hosts[1].id
        {
            let signal = Signal::parse(&plaintext).expect("Bob's own node made it");
            self.heard = Some(signal);
        }
        if let Some(host) = self.hosts.iter_mut().find(|host| host.id == to) {
            let (network, blob) = (NETWORK, Blob(blob));
            self.calls += 1;
            let call = LinkCall::Deliver(Delivery { network, blob });
            host.node.handle_call(self.now, CallId(self.calls), call);
        }
    }

    fn collect(&mut self, own: usize) {
        let mut outputs = 0;
        while let Some(output) = self.hosts[own].node.poll_output() {
            outputs += 1;
            assert!(outputs <= OUTPUTS_MAX, "one input is answered within bounds");
            self.act(own, output);
        }
    }

    fn act(&mut self, own: usize, output: Output) {
        let host = &mut self.hosts[own];
        match output {
            Output::Udp { remote, bytes, .. } => {
                if own == 1 && self.wire.len() < WIRE {
                    self.wire.push(bytes.clone());
                }
                self.arrivals.push_back((host.address, remote, bytes));
            }
            Output::Frame { bytes, .. } => {
                let frame = Frame::parse(&bytes).expect("nothing else goes to the NIC");
                let is_peers = (1..3).any(|peer| frame.source == inner(peer));
                // An ICMP error of our own comes from whom our frame was for.
                let is_own_error = self
                    .asked_for
                    .as_deref()
                    .and_then(unreachable)
                    .is_some_and(|error| error == bytes);
                assert!(
                    own != 0 || self.was_called || is_peers || is_own_error,
                    "only a peer's own addresses: {frame:?}"
                );
                host.frames.push(bytes);
                host.frames.truncate(WIRE);
            }
            Output::Reply(_, answer) => {
                let state = answer
                    .ok()
                    .filter(|value| value.get("networks").is_some_and(Value::is_array));
                host.state = state
                    .and_then(|value| serde_json::from_value(value).ok())
                    .or(host.state.take());
            }
            Output::Event(Event::SignalOut { to, blob, .. }) => self.blobs.push_back((to, blob.0)),
            Output::Nic(NicEffect::Set(config)) => host.node.handle_nic(self.now, config.network, Ok("ipop0".into())),
            Output::Root(RootEffect::Store { call, .. }) => host.node.handle_root_stored(self.now, call, Ok(())),
            Output::Stream(stream, StreamOutput::Connect(_)) if own == 0 => self.stream = Some(stream),
            _ => {}
        }
    }

    /// Whatever Bob did, the link to Carol carries her frame.
    fn carol_goes_on(&mut self) {
        self.pass(Duration::from_millis(100));
        assert!(self.is_up(2), "Bob cannot break the link to Carol");
        self.hosts[0].frames.clear();
        let frame = udp_frame(2, 0, b"still here");
        self.hosts[2].node.handle_frame(self.now, NETWORK, &frame);
        self.settle();
        assert!(self.hosts[0].frames.contains(&frame), "Carol's frames arrive");
    }
}

/// Version, kind, instance, number.
const HEAD: usize = 18;

fn fresh_node(number: u8) -> Node {
    let config = NodeConfig {
        device: DeviceSecret::from_bytes([number + 1; 32]),
        seed: [number; 32],
        instance: u64::from(number),
        aes: true,
        allow_loopback: false,
        roots: Vec::new(),
        trust: trust(),
    };
    Node::new(config, *START)
}

fn inner(host: usize) -> IpAddr {
    IpAddr::from([10, 1, 0, if host == 2 { 9 } else { 1 + u8::from(host == 1) }])
}

fn udp_frame(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).expect("it is short");
    let mut frame = vec![0x45, 0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    for ip in [inner(from), inner(to)] {
        if let IpAddr::V4(ip) = ip {
            frame.extend_from_slice(&ip.octets());
        }
    }
    frame.extend_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0]);
    frame.extend_from_slice(payload);
    frame
}

/// A peer that uses what it may, one that damages and repeats, one that signals, and a controller.
pub(crate) fn scripts() -> Vec<Vec<u8>> {
    let mut frames = Writer::default();
    for frame in records::frames() {
        frames = frames.bytes(&[2]).chunk(&frame).bytes(&[7]).chunk(&frame);
    }
    let mut control = Writer::default();
    for kind in 0..6 {
        control = control
            .bytes(&[3])
            .chunk(&[kind, 1, 2, 3, 4, 5, 6, 7, 8])
            .bytes(&[4])
            .chunk(&[kind, 9, 9]);
        control = control.bytes(&[8]).word(700);
    }
    let mut replayed = Writer::default();
    for which in 0..12 {
        replayed = replayed
            .bytes(&[1, which])
            .word(0)
            .bytes(&[0x80, 1, which])
            .word(30)
            .bytes(&[0]);
    }
    let replayed = replayed
        .bytes(&[0])
        .chunk(&[0x40; 60])
        .bytes(&[0x80])
        .chunk(&[0; 28])
        .bytes(&[8])
        .word(60_000);
    let mut signals = Writer::default();
    for (kind, body) in (1..).zip(bodies_for()) {
        signals = signals
            .bytes(&[5, kind << 1 | 1])
            .chunk(&body)
            .bytes(&[5, kind << 1])
            .chunk(&body);
        signals = signals.bytes(&[8]).word(2000);
    }
    let mut calls = Writer::default();
    for line in texts::link_lines() {
        calls = calls.bytes(&[9]).chunk(&line);
    }
    let calls = calls
        .bytes(&[8])
        .word(500)
        .bytes(&[0x89])
        .chunk(b"")
        .bytes(&[0xa9])
        .chunk(&[1, 1, 0, 0]);
    vec![frames.0, control.0, replayed.0, signals.0, calls.0]
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}
