//! One node of a world: the shipping engine and fast path, around them what a machine and a small controller do.
//!
//! Promises: frames and datagrams go through the same functions in the same order as in the shipping threads; the
//! controller knows only what the link API tells it.
//! Refuses to know: the network around it, other members' secrets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::link::{Event, LinkCall, NetworkConfig, NicKind, PathState, PeerConfig, ServersConfig, State};
use api::rpc::Empty;
use api::{Blob, Cidr, NetworkId, NodeId};
use rustls::RootCertStore;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use stun_types::message::Message;
use tincan::fast::slice::Shape;
use tincan::fast::trains::Trains;
use tincan::fast::transit::pass_on;
use tincan::fast::{self, Departed, FastPath, Inbound, Lanes, Snapshot};
use tincan::frame::split;
use tincan::gather::IfAddr;
use tincan::gauge::Gauge;
use tincan::keys::{DeviceSecret, NodeKey};
use tincan::node::{CallId, NicEffect, Node, NodeConfig, Output};
use tincan::turn::{StreamId, StreamInput, StreamOutput, TlsTrust};
use turn_types::attribute::XorPeerAddress;
use turn_types::message::{CHANNEL_BIND, CREATE_PERMISSION};

/// Something that a member wants done outside.
#[derive(Debug)]
pub enum Effect {
    /// Send a datagram.
    Datagram {
        /// From which own address, if it matters.
        source: Option<IpAddr>,
        /// To where.
        remote: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Do something with a TCP stream.
    Stream(StreamId, StreamOutput),
    /// Carry a blob.
    Signal {
        /// To whom.
        to: NodeId,
        /// What.
        blob: Vec<u8>,
    },
    /// A frame came out of the NIC.
    Frame(Vec<u8>),
    /// For the trace.
    Note(&'static str),
}

/// What is fixed about a member.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its place in the world.
    pub index: usize,
    /// Device secret, 32 bytes.
    pub device: [u8; 32],
    /// Its id in the world's network.
    pub id: NodeId,
    /// Its inner addresses, IPv4 and IPv6.
    pub inner: [IpAddr; 2],
}

impl Identity {
    /// The member at a place.
    pub fn new(index: usize, device: [u8; 32], network: NetworkId) -> Self {
        let last = index as u8 + 1;
        Identity {
            index,
            device,
            id: NodeKey::derive(&DeviceSecret::from_bytes(device), network).id(),
            inner: [
                IpAddr::from([10, 77, 0, last]),
                IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)]),
            ],
        }
    }
}

/// How long the controller waits before it opens a lost link again.
const REOPEN_AFTER: Duration = Duration::from_millis(500);
/// The UDP port of every member, as if it had been configured.
pub const PORT: u16 = 41_077;
/// Room for the records of one frame.
const TRAINS_BYTES: usize = 64 << 10;
/// More outputs of one input than this are a loop.
const OUTPUTS_OF_ONE_INPUT: usize = 5000;

/// The wall clock of a world, which nothing but certificates asks.
#[derive(Debug)]
struct Noon;

impl TimeProvider for Noon {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

/// A node at work.
pub struct Member {
    identity: Identity,
    network: NetworkId,
    node: Node,
    snapshot: Arc<Snapshot>,
    lanes: Lanes,
    trains: Trains,
    effects: VecDeque<Effect>,
    next_call: u64,
    replies: BTreeMap<CallId, Result<serde_json::Value, api::rpc::ApiError>>,
    peers: BTreeMap<NodeId, Option<PathState>>,
    wanted: BTreeMap<NodeId, Option<Instant>>,
    /// Links that came up and went down, and paths that changed.
    pub ups: u64,
    /// Links that went down.
    pub downs: u64,
    /// Paths that changed.
    pub moves: u64,
    due: Option<Instant>,
    idle_rounds: u32,
}

impl Member {
    /// Starts it with a network, before any server or peer is known.
    pub fn start(
        identity: Identity,
        network: NetworkId,
        seed: [u8; 32],
        instance: u64,
        mtu: u16,
        now: Instant,
    ) -> Self {
        let config = NodeConfig {
            device: DeviceSecret::from_bytes(identity.device),
            roots: Vec::new(),
            seed,
            instance,
            aes: true,
            allow_loopback: false,
            trust: TlsTrust {
                roots: Arc::new(RootCertStore::empty()),
                clock: Arc::new(Noon),
            },
        };
        let mut member = Member {
            node: Node::new(config, now),
            identity,
            network,
            snapshot: Arc::new(Snapshot::default()),
            lanes: Lanes::new(1).expect("lane 1 exists"),
            trains: Trains::new(TRAINS_BYTES),
            effects: VecDeque::new(),
            next_call: 0,
            replies: BTreeMap::new(),
            peers: BTreeMap::new(),
            wanted: BTreeMap::new(),
            ups: 0,
            downs: 0,
            moves: 0,
            due: None,
            idle_rounds: 0,
        };
        let [v4, v6] = member.identity.inner;
        let cidr = |address, prefix| Cidr { address, prefix };
        member.call(
            now,
            LinkCall::CreateNetwork(NetworkConfig {
                network,
                kind: NicKind::Ip,
                nic: None,
                mtu,
                addresses: vec![cidr(v4, 24), cidr(v6, 64)],
            }),
        );
        member
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tells it its addresses, as a start or a change of network does.
    pub fn set_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        let hosts = addresses.iter().map(|ip| IfAddr {
            ip: *ip,
            default_route: true,
            deprecated: false,
        });
        self.node
            .handle_addresses(now, Some(PORT), Some(PORT), &hosts.collect::<Vec<_>>());
        self.settle(now);
    }

    /// Tells it its servers.
    pub fn set_servers(&mut self, now: Instant, servers: ServersConfig) {
        let network = Some(self.network);
        self.call(now, LinkCall::SetServers(ServersConfig { network, ..servers }));
    }

    /// Tells it of a peer.
    pub fn set_peer(&mut self, now: Instant, peer: &Identity, addresses: Vec<IpAddr>) {
        self.peers.entry(peer.id).or_default();
        self.call(
            now,
            LinkCall::SetPeer(PeerConfig {
                network: self.network,
                node: peer.id,
                addresses,
                name: None,
            }),
        );
    }

    /// Wants a link to a peer from now on.
    pub fn open(&mut self, now: Instant, peer: NodeId) {
        self.wanted.insert(peer, None);
        self.open_again(now, peer);
    }

    /// A blob came over the rendezvous; what is wrong with it is not the controller's affair.
    pub fn deliver(&mut self, now: Instant, blob: Vec<u8>) {
        let network = self.network;
        let blob = Blob(blob);
        self.call(now, LinkCall::Deliver(api::link::Delivery { network, blob }));
    }

    /// A datagram reached the socket.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, mut bytes: Vec<u8>) {
        let tell = match fast::inbound(&self.snapshot, remote, &mut bytes) {
            Inbound::Frames { range, tell, .. } => {
                let frames = split(&bytes, range).map(|frame| Effect::Frame(bytes[frame].to_vec()));
                self.effects.extend(frames);
                tell
            }
            Inbound::PassOn {
                passing, payload, tell, ..
            } => {
                let wake = pass_on(
                    &self.snapshot,
                    &mut self.lanes,
                    passing,
                    &bytes[payload],
                    &mut self.trains,
                    |_| {},
                );
                self.send_trains();
                if let Some(slot) = wake {
                    self.node.handle_wake(now, slot);
                }
                tell
            }
            Inbound::Inside {
                receiver,
                payload,
                tell,
            } => {
                self.node.handle_inside(now, receiver, &bytes[payload]);
                tell
            }
            Inbound::ToEngine => {
                self.node.handle_udp(now, local, remote, &mut bytes);
                None
            }
            Inbound::Dropped(_, tell) => tell,
        };
        if let Some(tell) = tell {
            self.node.handle_opened(now, tell);
        }
        self.settle(now);
    }

    /// An application sends a frame into the NIC.
    pub fn send_frame(&mut self, now: Instant, frame: &[u8]) {
        let whole = (&Shape::default(), frame);
        let departed = fast::depart(
            &self.snapshot,
            &mut self.lanes,
            self.network,
            whole,
            &mut self.trains,
            |_| {},
        );
        self.send_trains();
        match departed {
            Departed::Sealed(Some(slot)) => self.node.handle_wake(now, slot),
            Departed::ToEngine | Departed::FirstToEngine => self.node.handle_frame(now, self.network, frame),
            Departed::Sealed(None) | Departed::Dropped(_) => {}
        }
        self.settle(now);
    }

    /// What the fast path sealed leaves, as out of the shipping threads, before the engine hears of it.
    fn send_trains(&mut self) {
        for (path, bytes, record) in self.trains.iter() {
            let (source, remote) = match path {
                FastPath::Direct { source, remote } => (source, remote),
                FastPath::Channel { server, .. } => (None, server),
                FastPath::Member(_) | FastPath::Engine => continue,
            };
            for bytes in bytes.chunks(record) {
                let bytes = bytes.to_vec();
                self.effects.push_back(Effect::Datagram { source, remote, bytes });
            }
        }
        self.trains.clear();
    }

    /// The kernel refused to send a datagram, as it is too large.
    pub fn handle_too_big(&mut self, now: Instant, remote: SocketAddr, bytes: usize) {
        self.node.handle_too_big(now, remote, bytes);
        self.settle(now);
    }

    /// A TCP stream has news.
    pub fn handle_stream(&mut self, now: Instant, stream: StreamId, input: StreamInput<'_>) {
        self.node.handle_stream(now, stream, input);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        let again: Vec<NodeId> = self
            .wanted
            .iter()
            .filter(|(_, at)| due(at))
            .map(|(id, _)| *id)
            .collect();
        for peer in again {
            self.wanted.insert(peer, None);
            self.open_again(now, peer);
        }
        self.node.handle_timeout(now);
        self.settle(now);
        let stuck = self.due.is_some_and(|due| due <= now);
        self.idle_rounds = if stuck { self.idle_rounds + 1 } else { 0 };
        assert!(
            self.idle_rounds < 100,
            "node {} is due again and again at one time",
            self.identity.index
        );
    }

    /// When to call [`Member::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The path to a peer, as events told it.
    pub fn path(&self, peer: NodeId) -> Option<&PathState> {
        self.peers.get(&peer)?.as_ref()
    }

    /// Everything, as `state.get` tells it.
    pub fn state(&mut self, now: Instant) -> State {
        let id = self.call(now, LinkCall::State(Empty {}));
        let reply = self.replies.remove(&id).expect("state.get answers at once");
        serde_json::from_value(reply.expect("state.get never fails")).expect("a state")
    }

    /// Wants no link any more, and closes those there are.
    pub fn close_all(&mut self, now: Instant) {
        self.wanted.clear();
        let network = self.network;
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.call(now, LinkCall::CloseLink(api::link::NodeRef { network, node }));
            self.peers.insert(node, None);
        }
    }

    /// How full the engine is.
    pub fn gauges(&self) -> Vec<Gauge> {
        self.node.gauges()
    }

    fn open_again(&mut self, now: Instant, node: NodeId) {
        let network = self.network;
        self.call(now, LinkCall::OpenLink(api::link::NodeRef { network, node }));
    }

    fn call(&mut self, now: Instant, call: LinkCall) -> CallId {
        self.next_call += 1;
        let id = CallId(self.next_call);
        self.node.handle_call(now, id, call);
        self.settle(now);
        id
    }

    /// Takes everything that the engine puts out.
    fn settle(&mut self, now: Instant) {
        let mut outputs = 0;
        while let Some(output) = self.node.poll_output() {
            outputs += 1;
            assert!(
                outputs < OUTPUTS_OF_ONE_INPUT,
                "node {} does not stop talking",
                self.identity.index
            );
            self.take(now, output);
        }
        in_order(self.effects.make_contiguous());
        let reopen = self.wanted.values().flatten().min().copied();
        self.due = self.node.poll_timeout().into_iter().chain(reopen).min();
    }

    fn take(&mut self, now: Instant, output: Output) {
        match output {
            Output::Udp { source, remote, bytes } => {
                self.effects.push_back(Effect::Datagram { source, remote, bytes });
            }
            Output::Frame { bytes, .. } => self.effects.push_back(Effect::Frame(bytes)),
            Output::Stream(id, output) => self.effects.push_back(Effect::Stream(id, output)),
            Output::Reply(id, result) => {
                // Only what is asked for is kept: the rest says "done".
                self.replies.clear();
                self.replies.insert(id, result);
            }
            Output::Event(event) => self.learn(now, event),
            Output::Nic(NicEffect::Set(config)) => {
                let made = Ok(format!("ipop{}", self.identity.index));
                self.node.handle_nic(now, config.network, made);
            }
            Output::Snapshot(snapshot) => self.snapshot = snapshot,
            Output::Nic(NicEffect::Remove(_)) | Output::Names(_) | Output::Root(_) => {}
        }
    }

    fn learn(&mut self, now: Instant, event: Event) {
        let note = match event {
            Event::SignalOut { to, blob, .. } => {
                self.effects.push_back(Effect::Signal { to, blob: blob.0 });
                return;
            }
            Event::LinkUp { node, path, .. } => {
                self.ups += 1;
                self.peers.insert(node, Some(path));
                "link up"
            }
            Event::PathChanged { node, path, .. } => {
                self.moves += 1;
                self.peers.insert(node, path);
                "path changed"
            }
            Event::LinkDown { node, .. } => {
                self.downs += 1;
                self.peers.insert(node, None);
                if let Some(again) = self.wanted.get_mut(&node) {
                    *again = Some(now + REOPEN_AFTER);
                }
                "link down"
            }
            Event::LinkWanted { node, .. } => {
                self.wanted.insert(node, Some(now));
                "link wanted"
            }
            Event::ServerFailed { .. } => "server failed",
            Event::PeerMessage(_) => "peer message",
            Event::AddressesChanged {} => "addresses changed",
            Event::NicLost { .. } => "NIC lost",
        };
        self.effects.push_back(Effect::Note(note));
    }
}

/// TURN requests to one server that leave together, by the peer they are about: crate `stun-proto` repeats what is
/// unanswered in the order of transaction ids, and draws those where no seed reaches.
fn in_order(effects: &mut [Effect]) {
    for run in effects.chunk_by_mut(|a, b| server_of(a).is_some() && server_of(a) == server_of(b)) {
        run.sort_by_key(|effect| match effect {
            Effect::Datagram { bytes, .. } => turn_peer(bytes),
            _ => None,
        });
    }
}

fn server_of(effect: &Effect) -> Option<SocketAddr> {
    match effect {
        Effect::Datagram { remote, bytes, .. } => turn_peer(bytes).and(Some(*remote)),
        _ => None,
    }
}

/// The peer that a request for a permission or a channel names.
fn turn_peer(bytes: &[u8]) -> Option<SocketAddr> {
    let message = Message::from_bytes(bytes).ok()?;
    let wanted = message.has_method(CREATE_PERMISSION) || message.has_method(CHANNEL_BIND);
    let peer = message.attribute::<XorPeerAddress>().ok().filter(|_| wanted)?;
    Some(peer.addr(message.transaction_id()))
}
