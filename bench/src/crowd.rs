//! A crowd of nodes in this process: real engines on real sockets, with a NIC that is only played.
//!
//! Promises: each has an address and a link of its own to one hub; one thread serves them all. Refuses to know: how signals get
//! to the hub, and what they are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::link::{Delivery, Event, LinkCall, NetworkConfig, NicKind, NodeRef, PeerConfig, default_mtu};
use api::{Cidr, NetworkId, NodeId};
use lab::Host;
use os::Waker;
use tincan::keys::{DeviceSecret, NodeKey};
use tincan::node::{CallId, IfAddr, NicEffect, Node, NodeConfig, Output};
use tincan::turn::TlsTrust;

use crate::datagrams::{Datagrams, Room};

/// Where its nodes live; their hub needs a route there.
pub(crate) const OUTSIDE: &str = "10.77.0.0/16";
/// How often each of those who talk says something.
const TALK_EVERY: Duration = Duration::from_millis(100);
/// What is due is looked for this often at least.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of a ping beside its headers, as ping(8) sends.
const PING_BYTES: usize = 56;

/// Members of the crowd, up as long as this lives.
pub(crate) struct Crowd {
    members: Vec<Place>,
    by_node: BTreeMap<NodeId, usize>,
    orders: Sender<Order>,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// Who and where a member is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its id.
    pub(crate) node: NodeId,
    /// Its address inside.
    pub(crate) inner: IpAddr,
    outer: Ipv4Addr,
}

/// The one node that all of them link to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hub {
    /// The network that all are in.
    pub(crate) network: NetworkId,
    /// Its id.
    pub(crate) node: NodeId,
    /// Its address inside.
    pub(crate) inner: Ipv4Addr,
}

enum Order {
    Open(usize),
    Deliver(usize, Delivery),
    /// So many of them ping the hub.
    Talk(usize),
}

/// What its thread tells.
#[derive(Default)]
struct Shared {
    linked: AtomicUsize,
    answers: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    /// So many nodes on a host. What they want carried to the hub goes to `signals`.
    pub(crate) fn start(host: &Host, count: usize, hub: Hub, signals: Sender<Delivery>) -> anyhow::Result<Self> {
        // Every address of the net is this host's own, without being set one by one.
        host.run("ip", &["route", "add", "local", OUTSIDE, "dev", "lo"])?;
        let socket = Datagrams::bind(host, (Ipv4Addr::UNSPECIFIED, 0).into())?;
        let members: Vec<Place> = (0..count).map(|number| Place::new(number, hub.network)).collect();
        let shared = Arc::new(Shared::default());
        let (orders, told) = channel();
        let waker = Waker::new().context("cannot make a waker")?;
        let mut thread = Thread {
            members: Vec::new(),
            by_outer: members
                .iter()
                .zip(0..)
                .map(|(place, at)| (place.outer.into(), at))
                .collect(),
            due: BTreeSet::new(),
            port: socket.port()?,
            socket,
            waker: waker.clone(),
            hub,
            signals,
            shared: shared.clone(),
            talking: 0,
            next_talk: Instant::now(),
        };
        thread.fill(&members)?;
        let thread = std::thread::Builder::new()
            .name("crowd".into())
            .spawn(move || thread.run(&told))
            .context("cannot start a thread")?;
        Ok(Self {
            by_node: members.iter().zip(0..).map(|(place, at)| (place.node, at)).collect(),
            members,
            orders,
            shared,
            waker,
            thread: Some(thread),
        })
    }

    pub(crate) fn members(&self) -> &[Place] {
        &self.members
    }

    /// Has a member make its link.
    pub(crate) fn open(&self, member: usize) {
        self.order(Order::Open(member));
    }

    /// Gives a member what came for it; `false` if it is nobody here.
    pub(crate) fn deliver(&self, to: NodeId, delivery: Delivery) -> bool {
        let member = self.by_node.get(&to);
        if let Some(member) = member {
            self.order(Order::Deliver(*member, delivery));
        }
        member.is_some()
    }

    /// From now on the first so many ping the hub ten times a second each.
    pub(crate) fn talk(&self, count: usize) {
        self.order(Order::Talk(count.min(self.members.len())));
    }

    /// How many have a link.
    pub(crate) fn linked(&self) -> usize {
        self.shared.linked.load(Relaxed)
    }

    /// How many pings were answered so far.
    pub(crate) fn answers(&self) -> usize {
        self.shared.answers.load(Relaxed)
    }

    fn order(&self, order: Order) {
        // A crowd whose thread is gone shows by having no links.
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Place {
    fn new(number: usize, network: NetworkId) -> Self {
        let [.., high, low] = (number + 256).to_be_bytes();
        Self {
            node: NodeKey::derive(&device(number), network).id(),
            inner: Ipv4Addr::new(10, 99, high, low).into(),
            outer: Ipv4Addr::new(10, 77, high, low),
        }
    }
}

fn device(number: usize) -> DeviceSecret {
    let mut bytes = [0xc0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    DeviceSecret::from_bytes(bytes)
}

struct Member {
    node: Node,
    place: Place,
    due: Option<Instant>,
    is_linked: bool,
}

/// All that the crowd's thread has.
struct Thread {
    members: Vec<Member>,
    by_outer: BTreeMap<IpAddr, usize>,
    due: BTreeSet<(Instant, usize)>,
    socket: Datagrams,
    port: u16,
    waker: Waker,
    hub: Hub,
    signals: Sender<Delivery>,
    shared: Arc<Shared>,
    talking: usize,
    next_talk: Instant,
}

impl Thread {
    fn fill(&mut self, places: &[Place]) -> anyhow::Result<()> {
        let now = Instant::now();
        for (number, place) in places.iter().enumerate() {
            let mut seed = [0x5e; 32];
            seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let config = NodeConfig {
                device: device(number),
                seed,
                instance: number as u64 + 1,
                aes: true,
                allow_loopback: false,
                roots: Vec::new(),
                trust: TlsTrust {
                    roots: Arc::new(rustls::RootCertStore::empty()),
                    clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
                },
            };
            let mut node = Node::new(config, now);
            let own = IfAddr {
                ip: place.outer.into(),
                default_route: true,
                deprecated: false,
            };
            node.handle_addresses(now, Some(self.port), None, &[own]);
            let network = self.hub.network;
            let address = Cidr::new(place.inner, 16).context("an inner address with its subnet")?;
            let create = NetworkConfig {
                network,
                kind: NicKind::Ip,
                nic: None,
                mtu: default_mtu(),
                addresses: vec![address],
            };
            let peer = PeerConfig {
                network,
                node: self.hub.node,
                addresses: vec![self.hub.inner.into()],
                name: None,
            };
            node.handle_call(now, CallId(1), LinkCall::CreateNetwork(create));
            node.handle_call(now, CallId(2), LinkCall::SetPeer(peer));
            self.members.push(Member {
                node,
                place: *place,
                due: None,
                is_linked: false,
            });
            self.obey(number);
        }
        Ok(())
    }

    fn run(mut self, orders: &Receiver<Order>) {
        let mut room = Room::new();
        while !self.shared.over.load(Relaxed) {
            let now = Instant::now();
            self.handle_due(now);
            self.talk(now);
            while let Ok(order) = orders.try_recv() {
                self.follow(order);
            }
            if let Err(error) = self.hear(&mut room) {
                eprintln!("  the socket of the crowd fails: {error}");
                return;
            }
        }
    }

    /// Takes all datagrams that are there, or waits until something is due.
    fn hear(&mut self, room: &mut Room) -> io::Result<()> {
        if !self.socket.try_receive(room)? {
            let due = self
                .due
                .first()
                .map(|(due, _)| due.saturating_duration_since(Instant::now()));
            let pause = due.map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY));
            if os::wait_readable(&[self.socket.as_fd(), self.waker.as_fd()], Some(pause))?.has(1) {
                self.waker.clear();
            }
            return Ok(());
        }
        let now = Instant::now();
        for datagram in room.datagrams() {
            let Some(local) = datagram.local else { continue };
            let Some(at) = self.by_outer.get(&local).copied() else {
                continue;
            };
            let local = SocketAddr::new(local, self.port);
            self.members[at]
                .node
                .handle_udp(now, local, datagram.remote, datagram.bytes);
            self.obey(at);
        }
        Ok(())
    }

    fn follow(&mut self, order: Order) {
        let now = Instant::now();
        let at = match order {
            Order::Talk(count) => {
                self.talking = count;
                return;
            }
            Order::Open(at) => {
                let hub = NodeRef {
                    network: self.hub.network,
                    node: self.hub.node,
                };
                self.members[at]
                    .node
                    .handle_call(now, CallId(3), LinkCall::OpenLink(hub));
                at
            }
            Order::Deliver(at, delivery) => {
                self.members[at]
                    .node
                    .handle_call(now, CallId(4), LinkCall::Deliver(delivery));
                at
            }
        };
        self.obey(at);
    }

    fn handle_due(&mut self, now: Instant) {
        while let Some((due, at)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            self.members[at].due = None;
            self.members[at].node.handle_timeout(now);
            self.obey(at);
        }
    }

    fn talk(&mut self, now: Instant) {
        if now < self.next_talk {
            return;
        }
        self.next_talk = now + TALK_EVERY;
        for at in 0..self.talking {
            let IpAddr::V4(inner) = self.members[at].place.inner else {
                continue;
            };
            let frame = ping(inner, self.hub.inner);
            self.members[at].node.handle_frame(now, self.hub.network, &frame);
            self.obey(at);
        }
    }

    /// Carries out what a member wants.
    fn obey(&mut self, at: usize) {
        let member = &mut self.members[at];
        while let Some(output) = member.node.poll_output() {
            match output {
                Output::Udp { remote, bytes, .. } => {
                    // What the network does not take is lost, as on any wire.
                    let source = member.place.outer.into();
                    let _ = self.socket.send(Some(source), remote, &bytes, bytes.len());
                }
                Output::Frame { .. } => _ = self.shared.answers.fetch_add(1, Relaxed),
                Output::Nic(NicEffect::Set(config)) => {
                    member
                        .node
                        .handle_nic(Instant::now(), config.network, Ok("played".into()));
                }
                Output::Event(Event::SignalOut { network, blob, .. }) => {
                    let _ = self.signals.send(Delivery { network, blob });
                }
                Output::Event(Event::LinkUp { .. }) => self.shared.links(&mut member.is_linked, true),
                Output::Event(Event::LinkDown { .. }) => self.shared.links(&mut member.is_linked, false),
                Output::Reply(call, Err(error)) => eprintln!("  a call of the crowd ({}): {error}", call.0),
                _ => {}
            }
        }
        let due = member.node.poll_timeout();
        if due != member.due {
            if let Some(old) = member.due {
                self.due.remove(&(old, at));
            }
            self.due.extend(due.map(|due| (due, at)));
            member.due = due;
        }
    }
}

impl Shared {
    fn links(&self, was: &mut bool, is: bool) {
        match (std::mem::replace(was, is), is) {
            (false, true) => _ = self.linked.fetch_add(1, Relaxed),
            (true, false) => _ = self.linked.fetch_sub(1, Relaxed),
            _ => {}
        }
    }
}

/// An echo request (RFC 792) in an IPv4 frame.
fn ping(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 28 + PING_BYTES];
    let length = frame.len() as u16;
    frame[0] = 0x45;
    frame[2..4].copy_from_slice(&length.to_be_bytes());
    frame[8] = 64;
    frame[9] = 1;
    frame[12..16].copy_from_slice(&from.octets());
    frame[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&frame[..20]);
    frame[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[20] = 8;
    let sum = checksum(&frame[20..]);
    frame[22..24].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_has_right_checksums() {
        let frame = ping(Ipv4Addr::new(10, 99, 1, 0), Ipv4Addr::new(10, 99, 0, 1));
        assert_eq!((checksum(&frame[..20]), checksum(&frame[20..])), (0, 0));
        assert_ne!(checksum(&frame[..18]), 0);
    }

    #[test]
    fn members_differ_in_all_that_names_them() {
        let places: Vec<Place> = (0..600).map(|number| Place::new(number, NetworkId([1; 32]))).collect();
        let distinct = |key: fn(&Place) -> String| places.iter().map(key).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|place| place.node.to_string()), 600);
        assert_eq!(distinct(|place| place.inner.to_string()), 600);
        assert_eq!(distinct(|place| place.outer.to_string()), 600);
    }
}
