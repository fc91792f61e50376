//! The engine of the tincan process: all networks, peers and links of this node as one machine.
//!
//! Promises: one owner, no thread; every effect is an `Output`; what workers need is in the published snapshot, and a
//! controller that goes away changes nothing; whatever arrives, bounds hold and the other links go on.
//! Refuses to know: sockets, NICs, files, who may be a peer and why.
//!
//! Chance: everything random (link secrets, ICE credentials, root keys) comes from a ChaCha12 generator whose 32-byte
//! seed the shell takes from the operating system at each start; QUIC's and HPKE's ephemeral keys come from aws-lc.

mod calls;
mod check;
mod datagrams;
mod frames;
mod gauges;
mod members;
mod peers;
mod pings;
mod signals;
mod state;
#[cfg(test)]
mod tests;
mod transit;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use api::link::{Event, NamesConfig, NetworkConfig, Port};
use api::rpc::ApiError;
use api::{NetworkId, NodeId};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::fast::transit::Name;
use crate::fast::{FastLink, FastPath, FastReceiver, Lanes, LinkSlot, NetTable, Snapshot};
use crate::forward::{Drops, Rate};
use crate::gather::Gatherer;
use crate::ice::{AddressPolicy, Transactions};
use crate::keys::{DeviceSecret, RootKey};
use crate::limits;
use crate::link::{Cx, Link, LinkId};
use crate::record::{Cipher, ReceiverIndex};
use crate::transit::{PeerNumber, is_reserved};
use crate::turn::{RelayId, Relays, StreamId, StreamOutput, TlsTrust};
use peers::Network;
use signals::Between;
use transit::name;

pub use crate::gather::IfAddr;

/// One request of a controller, to find its answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What a node is made of.
pub struct NodeConfig {
    /// The device's secret.
    pub device: DeviceSecret,
    /// From the operating system, another at each start.
    pub seed: [u8; 32],
    /// Random at each start; the controller sees by it that everything must be told again.
    pub instance: u64,
    /// Whether the CPU has AES instructions.
    pub aes: bool,
    /// Peers may be at loopback addresses: for tests on one machine.
    pub allow_loopback: bool,
    /// The seeds of the root keys kept here, as `RootEffect::Store` gave them out.
    pub roots: Vec<Zeroizing<[u8; 32]>>,
    /// What TURN servers over TLS are judged by.
    pub trust: TlsTrust,
}

/// What the shell must do.
pub enum Output {
    /// Send a datagram from the UDP socket of the remote's family.
    Udp {
        /// The address to send from; the kernel picks where absent.
        source: Option<IpAddr>,
        /// Where to.
        remote: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Do something with a byte stream to a TURN server.
    Stream(StreamId, StreamOutput),
    /// Write a frame to a NIC.
    Frame {
        /// Whose NIC.
        network: NetworkId,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Answer a call.
    Reply(CallId, Result<Value, ApiError>),
    /// Tell every subscriber.
    Event(Event),
    /// Do something with a NIC; `handle_nic` takes what came of it.
    Nic(NicEffect),
    /// Do something with names.
    Names(NamesEffect),
    /// Do something with stored root keys.
    Root(RootEffect),
    /// Give this to the workers.
    Snapshot(Arc<Snapshot>),
}

/// What is to be done with a NIC.
#[derive(Clone, Debug, PartialEq)]
pub enum NicEffect {
    /// Make it, or change it to this; then `handle_nic`.
    Set(NetworkConfig),
    /// Take it away.
    Remove(NetworkId),
}

/// What is to be done with names.
#[derive(Clone, Debug, PartialEq)]
pub enum NamesEffect {
    /// Answer these, and no others of the network.
    Set(NamesConfig),
    /// Answer none of the network's.
    Remove(NetworkId),
}

/// What is to be done with stored root keys.
pub enum RootEffect {
    /// Store the seed where only this user reads it; then `handle_root_stored`.
    Store {
        /// The call that waits for it.
        call: CallId,
        /// Its public half.
        network: NetworkId,
        /// The seed.
        seed: Zeroizing<[u8; 32]>,
    },
    /// Erase it.
    Erase(NetworkId),
}

/// Receiver indices in use, and whose they are.
#[derive(Default)]
pub(crate) struct Indices(HashMap<ReceiverIndex, LinkId>);

impl Indices {
    /// A free index, random.
    pub(crate) fn take(&mut self, rng: &mut ChaCha12Rng, link: LinkId) -> ReceiverIndex {
        loop {
            let [_, a, b, c] = rng.next_u32().to_be_bytes();
            let index = ReceiverIndex::from_bytes([a, b, c]);
            // At most three for each of 2048 links out of 2^24: nearly always the first is free.
            if let std::collections::hash_map::Entry::Vacant(free) = self.0.entry(index) {
                free.insert(link);
                return index;
            }
        }
    }

    pub(crate) fn free(&mut self, index: ReceiverIndex) {
        self.0.remove(&index);
    }

    fn find(&self, index: ReceiverIndex) -> Option<LinkId> {
        self.0.get(&index).copied()
    }

    fn free_all(&mut self, link: LinkId) {
        self.0.retain(|_, owner| *owner != link);
    }
}

/// A link with what the node's tables know of it.
struct Entry {
    link: Link,
    due: Option<Instant>,
    ufrag: String,
    remotes: BTreeSet<SocketAddr>,
    /// When its channel was last said to be used.
    channel_kept: Option<Instant>,
}

/// The engine.
pub struct Node {
    device: DeviceSecret,
    instance: u64,
    ciphers: [Cipher; 2],
    allow_loopback: bool,
    rng: ChaCha12Rng,
    roots: BTreeMap<NetworkId, RootKey>,
    pending_roots: BTreeMap<CallId, RootKey>,
    networks: BTreeMap<NetworkId, Network>,
    /// Whose number is whose.
    numbers: BTreeMap<PeerNumber, Between>,
    last_number: u32,
    telling: members::Telling,
    links: BTreeMap<LinkId, Entry>,
    next_link: u64,
    slots: Vec<Option<LinkId>>,
    timers: BTreeSet<(Instant, LinkId)>,
    indices: Indices,
    ufrags: HashMap<String, LinkId>,
    by_remote: HashMap<SocketAddr, BTreeSet<LinkId>>,
    transactions: Transactions<LinkId>,
    lanes: Lanes,
    gatherer: Gatherer,
    relays: Relays,
    relay_labels: BTreeMap<RelayId, String>,
    relay_faults: BTreeMap<String, String>,
    ports: Vec<Port>,
    check: Option<check::Check>,
    filter: Option<check::Filter>,
    mapping_protocols: Option<Vec<String>>,
    pings: BTreeMap<u64, (CallId, Instant)>,
    next_ping: u64,
    staged_bytes: usize,
    cut_rate: Rate,
    snapshot: Arc<Snapshot>,
    is_dirty: bool,
    /// The snapshot goes out before all else: what is sent may be answered at once, by records that only the new tables know.
    is_unpublished: bool,
    drops: Arc<Drops>,
    out: VecDeque<Output>,
    last_now: Instant,
}

impl Node {
    /// A node without networks.
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let mut rng = ChaCha12Rng::from_seed(config.seed);
        let policy = AddressPolicy {
            allow_loopback: config.allow_loopback,
            own_tunnels: Vec::new(),
        };
        let gatherer = Gatherer::new(policy, ChaCha12Rng::from_rng(&mut rng));
        let roots = config.roots.iter().map(|seed| RootKey::from_seed(seed));
        let drops = Arc::new(Drops::default());
        let snapshot = Snapshot {
            drops: drops.clone(),
            ..Snapshot::default()
        };
        Self {
            device: config.device,
            instance: config.instance,
            ciphers: Cipher::preferred(config.aes),
            allow_loopback: config.allow_loopback,
            roots: roots.map(|root| (root.network_id(), root)).collect(),
            pending_roots: BTreeMap::new(),
            networks: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last_number: 0,
            telling: members::Telling::default(),
            links: BTreeMap::new(),
            next_link: 0,
            slots: vec![None; limits::LINKS],
            timers: BTreeSet::new(),
            indices: Indices::default(),
            ufrags: HashMap::new(),
            by_remote: HashMap::new(),
            transactions: Transactions::default(),
            lanes: Lanes::new(0).expect("lane 0 exists"),
            gatherer,
            relays: Relays::new(now, config.trust),
            relay_labels: BTreeMap::new(),
            relay_faults: BTreeMap::new(),
            ports: Vec::new(),
            check: None,
            filter: None,
            mapping_protocols: None,
            pings: BTreeMap::new(),
            next_ping: 0,
            staged_bytes: 0,
            cut_rate: Rate::new(limits::CUT_FRAMES_PER_SECOND, limits::CUT_FRAMES_BURST),
            snapshot: Arc::new(snapshot),
            is_dirty: false,
            is_unpublished: false,
            drops,
            out: VecDeque::new(),
            last_now: now,
            rng,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, id)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(entry) = self.links.get_mut(&id) {
                entry.due = None;
            }
            self.with_link(now, id, |link, cx| link.handle_timeout(cx));
            self.keep_used_channel(now, id);
        }
        self.gatherer.handle_timeout(now);
        self.relays.handle_timeout(now);
        self.check_timeout(now);
        self.expire_pings(now);
        self.settle(now);
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.out.is_empty() {
            return Some(self.last_now);
        }
        let links = self.timers.first().map(|(due, _)| *due);
        let pings = self.pings.values().map(|(_, sent)| *sent + limits::PING_TIMEOUT).min();
        let helpers = [
            self.gatherer.poll_timeout(),
            self.relays.poll_timeout(),
            self.check_due(),
            self.telling.due,
        ];
        helpers.into_iter().chain([links, pings]).flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if std::mem::take(&mut self.is_unpublished) {
            return Some(Output::Snapshot(self.snapshot.clone()));
        }
        self.out.pop_front()
    }

    /// The tables as published last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// Ends every link and tells the peers: the process is about to go.
    pub fn shutdown(&mut self, now: Instant) {
        let all: Vec<LinkId> = self.links.keys().copied().collect();
        for id in all {
            self.end_link(now, id, true);
        }
        // Gives back what was allocated.
        self.relays.set_servers(now, Vec::new());
        self.settle(now);
    }

    /// To be called at the end of everything that may have changed something.
    fn settle(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.gatherer.set_active(now, !self.links.is_empty());
        self.drain_gatherer(now);
        self.drain_relays(now);
        self.drain_check(now);
        self.tell_members(now);
        self.publish();
    }

    /// Lets a link do something, then does what it wants done.
    fn with_link<T>(&mut self, now: Instant, id: LinkId, act: impl FnOnce(&mut Link, &mut Cx<'_>) -> T) -> Option<T> {
        let entry = self.links.get_mut(&id)?;
        let network = self.networks.get(&entry.link.config.network)?;
        let relays = &self.relays;
        let mut cx = Cx {
            now,
            rng: &mut self.rng,
            key: &network.key,
            lane: self.lanes.lane(entry.link.config.slot),
            indices: &mut self.indices,
            ciphers: self.ciphers,
            candidates: self.gatherer.candidates(),
            relayed: &|local| relays.relay_of(local).is_some(),
        };
        let result = act(&mut entry.link, &mut cx);
        self.drain_link(now, id);
        Some(result)
    }

    /// Keeps the tables by which a link is found up to date.
    fn index_link(&mut self, id: LinkId) {
        let Some(entry) = self.links.get_mut(&id) else {
            return;
        };
        if entry.ufrag != entry.link.ufrag() {
            self.ufrags.remove(&entry.ufrag);
            entry.ufrag = entry.link.ufrag().to_owned();
            self.ufrags.insert(entry.ufrag.clone(), id);
        }
        let due = entry.link.poll_timeout();
        if due != entry.due {
            if let Some(old) = entry.due {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = due {
                self.timers.insert((new, id));
            }
            entry.due = due;
        }
    }

    /// Adds a link; its outputs are not drained yet.
    fn insert_link(&mut self, link: Link) {
        let (id, slot) = (link.config.id, link.config.slot);
        self.slots[slot.get()] = Some(id);
        let entry = Entry {
            link,
            due: None,
            ufrag: String::new(),
            remotes: BTreeSet::new(),
            channel_kept: None,
        };
        self.links.insert(id, entry);
    }

    fn free_slot(&self) -> Option<LinkSlot> {
        LinkSlot::new(self.slots.iter().position(Option::is_none)?)
    }

    /// Takes a link out of every table, telling its peer first where asked to.
    fn end_link(&mut self, now: Instant, id: LinkId, tell_peer: bool) {
        if tell_peer {
            self.with_link(now, id, |link, cx| link.close(cx));
        }
        let Some(entry) = self.links.remove(&id) else {
            return;
        };
        self.ufrags.remove(&entry.ufrag);
        if let Some(due) = entry.due {
            self.timers.remove(&(due, id));
        }
        for remote in &entry.remotes {
            if let Some(ids) = self.by_remote.get_mut(remote) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_remote.remove(remote);
                }
            }
        }
        self.indices.free_all(id);
        self.slots[entry.link.config.slot.get()] = None;
        if let Some(peer) = self.peer_mut(entry.link.config.network, entry.link.config.peer) {
            peer.current.take_if(|current| *current == id);
            peer.attempt.take_if(|attempt| *attempt == id);
        }
        self.is_dirty = true;
        self.note_members(now);
    }

    fn peer_mut(&mut self, network: NetworkId, node: NodeId) -> Option<&mut peers::Peer> {
        self.networks.get_mut(&network)?.peers.get_mut(&node)
    }

    fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    /// Publishes new tables if anything in them changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let mut snapshot = Snapshot {
            networks: Vec::new(),
            links: Vec::new(),
            receivers: Vec::new(),
            servers: self.turn_servers_over_udp(),
            drops: self.drops.clone(),
        };
        for (id, network) in &self.networks {
            let table = Arc::new(self.table(*id, network));
            for (node, peer) in &network.peers {
                let ids = [peer.current, peer.attempt];
                let entries = ids.into_iter().flatten().filter_map(|id| self.links.get(&id));
                let sender = name(*node, peer);
                for entry in entries {
                    self.publish_receivers(&mut snapshot, &entry.link, &table, (&peer.allowed, sender));
                }
            }
            snapshot.networks.push(table);
        }
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        snapshot.links = self.slots[..used].iter().map(|id| self.fast_link((*id)?)).collect();
        while snapshot.links.last().is_some_and(Option::is_none) {
            snapshot.links.pop();
        }
        snapshot.receivers.sort_by_key(|receiver| receiver.index);
        self.snapshot = Arc::new(snapshot);
        self.is_unpublished = true;
    }

    fn table(&self, id: NetworkId, network: &Network) -> NetTable {
        let mut routes = Vec::new();
        for peer in network.peers.values() {
            let up = peer.current.and_then(|id| self.links.get(&id));
            if let Some(entry) = up.filter(|entry| entry.link.paths().current().is_some()) {
                routes.extend(peer.allowed.iter().map(|ip| (*ip, entry.link.config.slot)));
            }
        }
        routes.sort();
        NetTable {
            network: id,
            own: network.own(),
            subnets: network.config.addresses.clone(),
            routes,
            neighbours: self.neighbours(network),
            drops: network.drops.clone(),
        }
    }

    fn publish_receivers(
        &self,
        snapshot: &mut Snapshot,
        link: &Link,
        net: &Arc<NetTable>,
        (allowed, sender): (&Arc<[IpAddr]>, Name),
    ) {
        let expected = self.fast_path(link).unwrap_or(FastPath::Engine);
        for (index, keys) in link.receivers() {
            snapshot.receivers.push(FastReceiver {
                index,
                keys,
                expected,
                net: net.clone(),
                allowed: allowed.clone(),
                sender,
                shared: link.shared.clone(),
            });
        }
    }

    fn fast_link(&self, id: LinkId) -> Option<FastLink> {
        let link = &self.links.get(&id)?.link;
        Some(FastLink {
            sealer: link.up()?.session().sealer(),
            path: self.fast_path(link)?,
            frame_max: link.frame_max(),
            payload_max: link.payload_max(),
            cuts: link.cuts(),
            shared: link.shared.clone(),
        })
    }

    /// How the path in use looks to workers.
    fn fast_path(&self, link: &Link) -> Option<FastPath> {
        let ends = link.paths().current()?;
        if is_reserved(ends.remote.ip()) {
            let inside = link.way().and_then(|way| self.inside(way));
            return Some(inside.map_or(FastPath::Engine, FastPath::Member));
        }
        let Some(relay) = self.relays.relay_of(ends.local) else {
            let source = Some(ends.local.ip()).filter(|ip| !ip.is_unspecified());
            return Some(FastPath::Direct {
                source,
                remote: ends.remote,
            });
        };
        let channel = self.relays.channel(relay, ends.remote);
        Some(channel.map_or(FastPath::Engine, |(server, channel)| FastPath::Channel {
            server,
            channel,
        }))
    }
}
