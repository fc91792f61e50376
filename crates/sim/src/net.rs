//! The simulated internet: realms behind NATs and firewalls, hosts, wires, datagrams and TCP streams on their way.
//!
//! Promises: a datagram is looked at where and when it is, hop by hop; nothing is delivered that a NAT did not let
//! through. Refuses to know: what hosts do with what arrives.
//!
//! A *realm* is a place where addresses are reached without a gateway: the public internet, or the inside of a
//! gateway. Realms are a tree; every realm but the public one has one gateway, which stands in its parent.

mod sizes;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{ConnId, Side, StreamEvent};

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;

use crate::Seed;
use crate::clock::{Queue, origin};
use crate::nat::{Dependence, Nat, Table};
use crate::wire::{Direction, Wire, ip_size};
use stream::{Stream, StreamHop};

/// A realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(usize);

/// The public internet.
pub const PUBLIC: RealmId = RealmId(0);

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// What a gateway does with one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Does not carry it.
    Absent,
    /// Routes it as it is.
    Open,
    /// Routes it; comes in what the filter admits.
    Firewall(Dependence),
    /// Translates it.
    Nat(Nat),
}

/// Which TCP connections a gateway lets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOut {
    /// All.
    All,
    /// To port 443 only.
    Only443,
    /// None.
    None,
}

/// A gateway between a realm and its parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gateway {
    /// IPv4.
    pub v4: Family,
    /// IPv6: anything but NAT.
    pub v6: Family,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// TCP.
    pub tcp: TcpOut,
    /// First three bytes of inner IPv4 addresses, where it translates.
    pub prefix: [u8; 3],
    /// The wire to the parent realm.
    pub wire: Wire,
}

impl Gateway {
    /// A home router with one kind of NAT and no IPv6.
    pub const fn nat(nat: Nat) -> Gateway {
        Gateway {
            v4: Family::Nat(nat),
            v6: Family::Absent,
            udp: true,
            tcp: TcpOut::All,
            prefix: [192, 168, 1],
            wire: Wire::PERFECT,
        }
    }

    /// A firewall in front of public addresses.
    pub const fn firewall() -> Gateway {
        let wall = Family::Firewall(Dependence::AddressAndPort);
        Gateway {
            v4: wall,
            v6: wall,
            ..Gateway::nat(Nat::PORT_RESTRICTED)
        }
    }

    /// A NAT that lets no UDP pass, and TCP to port 443 only.
    pub const fn udp_blocked() -> Gateway {
        Gateway {
            udp: false,
            tcp: TcpOut::Only443,
            ..Gateway::nat(Nat::PORT_RESTRICTED)
        }
    }
}

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// From.
    pub source: SocketAddr,
    /// To.
    pub target: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// Something reached a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A datagram.
    Datagram(HostId, Datagram),
    /// News of a TCP stream.
    Stream(HostId, ConnId, StreamEvent),
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent by hosts.
    pub sent: u64,
    /// Bytes sent by hosts.
    pub sent_bytes: u64,
    /// Delivered to hosts.
    pub delivered: u64,
    /// Lost or too large on a wire.
    pub lost: u64,
    /// Not let through by a gateway, or to nowhere.
    pub refused: u64,
}

/// Who takes datagrams to an address in a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Host(HostId),
    Gateway(RealmId),
}

enum Gate {
    Absent,
    Open,
    Table(Table),
}

struct Line {
    wire: Wire,
    up: Direction,
    down: Direction,
}

struct Realm {
    parent: Option<RealmId>,
    gateway: Gateway,
    v4: Gate,
    v6: Gate,
    line: Line,
    attached: BTreeMap<IpAddr, Holder>,
    next_host: u8,
}

struct Host {
    realm: RealmId,
    addresses: Vec<IpAddr>,
    line: Line,
    up: bool,
    /// Larger IP datagrams are refused as they are sent.
    interface: usize,
}

enum Hop {
    /// Comes into a realm, from a host or a gateway.
    Enter(RealmId, Datagram),
    /// Stands before the outer side of a realm's gateway.
    Inbound(RealmId, Datagram),
    /// Stands before a host.
    Deliver(HostId, Datagram),
    Stream(StreamHop),
}

/// The whole network.
pub struct Net {
    now: Instant,
    queue: Queue<Hop>,
    realms: Vec<Realm>,
    hosts: Vec<Host>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    rng: ChaCha12Rng,
    next_public: u32,
    streams: BTreeMap<ConnId, Stream>,
    listening: BTreeSet<SocketAddr>,
    next_conn: u32,
    tally: Tally,
}

impl Net {
    /// An empty public internet.
    pub fn new(seed: Seed) -> Self {
        let public = Realm {
            parent: None,
            gateway: Gateway::firewall(),
            v4: Gate::Absent,
            v6: Gate::Absent,
            line: line(Wire::PERFECT),
            attached: BTreeMap::new(),
            next_host: 2,
        };
        Net {
            now: origin(),
            queue: Queue::default(),
            realms: vec![public],
            hosts: Vec::new(),
            cuts: BTreeSet::new(),
            rng: seed.generator(1),
            next_public: 0,
            streams: BTreeMap::new(),
            listening: BTreeSet::new(),
            next_conn: 0,
            tally: Tally::default(),
        }
    }

    /// Puts a gateway into a realm and returns the realm behind it.
    pub fn add_realm(&mut self, parent: RealmId, gateway: Gateway) -> RealmId {
        let id = RealmId(self.realms.len());
        let v4 = match gateway.v4 {
            Family::Nat(rules) => {
                let outer = self.new_v4(parent);
                self.announce(parent, outer, Holder::Gateway(id));
                Gate::Table(Table::nat(rules, outer))
            }
            other => plain_gate(other),
        };
        let v6 = plain_gate(gateway.v6);
        self.realms.push(Realm {
            parent: Some(parent),
            gateway,
            v4,
            v6,
            line: line(gateway.wire),
            attached: BTreeMap::new(),
            next_host: 2,
        });
        id
    }

    /// Puts a host into a realm with the families it wishes for and its surroundings allow.
    pub fn add_host(&mut self, realm: RealmId, v4: bool, v6: bool, wire: Wire) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host {
            realm,
            addresses: Vec::new(),
            line: line(wire),
            up: true,
            interface: usize::MAX,
        });
        self.plug(id, realm, v4, v6);
        id
    }

    /// Gives a host one more IPv4 address.
    pub fn add_address(&mut self, host: HostId) -> IpAddr {
        let realm = self.hosts[host.0].realm;
        let ip = self.new_v4(realm);
        self.attach(host, realm, ip);
        ip
    }

    /// Moves a host to another realm: its addresses are new, its streams are dead.
    pub fn move_host(&mut self, host: HostId, realm: RealmId, v4: bool, v6: bool) {
        for ip in std::mem::take(&mut self.hosts[host.0].addresses) {
            for place in self.where_known(self.hosts[host.0].realm, ip) {
                self.realms[place.0].attached.remove(&ip);
            }
        }
        self.hosts[host.0].realm = realm;
        self.plug(host, realm, v4, v6);
        self.orphan_streams(|stream| stream.host(Side::Client) == host);
    }

    /// Takes a host off its wire, or puts it back; its streams are reset when it goes.
    pub fn set_up(&mut self, host: HostId, up: bool) {
        self.hosts[host.0].up = up;
        if !up {
            self.reset_streams(host);
        }
    }

    /// Makes the gateway of a realm forget its mappings; ports change, streams through it are dead.
    pub fn reboot_gateway(&mut self, realm: RealmId) {
        let here = &mut self.realms[realm.0];
        for gate in [&mut here.v4, &mut here.v6] {
            if let Gate::Table(table) = gate {
                table.reboot();
            }
        }
        let inside: BTreeSet<HostId> = (0..self.hosts.len())
            .map(HostId)
            .filter(|host| self.realms_above(self.hosts[host.0].realm).contains(&realm))
            .collect();
        self.orphan_streams(|stream| inside.contains(&stream.host(Side::Client)));
    }

    /// Drops datagrams between two hosts that go straight (what a relay carries goes on), or lets them pass again.
    pub fn cut(&mut self, a: HostId, b: HostId, cut: bool) {
        for from in self.faces(a) {
            for to in self.faces(b) {
                for pair in [(from, to), (to, from)] {
                    if cut {
                        self.cuts.insert(pair);
                    } else {
                        self.cuts.remove(&pair);
                    }
                }
            }
        }
    }

    /// The addresses of a host.
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.0].addresses
    }

    /// The realm that a host is in.
    pub fn realm(&self, host: HostId) -> RealmId {
        self.hosts[host.0].realm
    }

    /// The realm above, and the gateway to it; none for the public realm.
    pub fn parent(&self, realm: RealmId) -> Option<(RealmId, &Gateway)> {
        let realm = &self.realms[realm.0];
        realm.parent.map(|parent| (parent, &realm.gateway))
    }

    /// The outer IPv4 address of the gateway of a realm, where it translates.
    pub fn outer(&self, realm: RealmId) -> Option<IpAddr> {
        match &self.realms[realm.0].v4 {
            Gate::Table(table) => table.outer(),
            _ => None,
        }
    }

    /// What became of datagrams so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How many datagrams and stream segments are on their way.
    pub fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// The present.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When something arrives somewhere next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.next()
    }

    /// Goes on to a time, and stops early at the first thing that reaches a host.
    pub fn advance(&mut self, to: Instant) -> Option<Arrival> {
        while let Some(due) = self.queue.next().filter(|due| *due <= to) {
            self.now = self.now.max(due);
            let hop = self.queue.pop(due)?;
            if let Some(arrival) = self.hop(hop) {
                return Some(arrival);
            }
        }
        self.now = self.now.max(to);
        None
    }

    /// Sends a datagram; the source address must be the host's own.
    pub fn send(&mut self, host: HostId, datagram: Datagram) {
        self.tally.sent += 1;
        self.tally.sent_bytes += datagram.bytes.len() as u64;
        let here = &self.hosts[host.0];
        let own = here.addresses.contains(&datagram.source.ip());
        if !here.up || !own || datagram.source.is_ipv4() != datagram.target.is_ipv4() {
            self.tally.refused += 1;
            return;
        }
        if here.addresses.contains(&datagram.target.ip()) {
            self.queue.push(self.now, Hop::Deliver(host, datagram));
            return;
        }
        let realm = here.realm;
        let size = ip_size(datagram.target.ip(), datagram.bytes.len());
        let line = &mut self.hosts[host.0].line;
        let fate = line.up.pass(&line.wire, &mut self.rng, size);
        self.travel(fate.copies, datagram, |datagram| Hop::Enter(realm, datagram));
    }

    fn hop(&mut self, hop: Hop) -> Option<Arrival> {
        match hop {
            Hop::Enter(realm, datagram) => self.enter(realm, datagram),
            Hop::Inbound(realm, datagram) => self.inbound(realm, datagram),
            Hop::Deliver(host, datagram) => return self.deliver(host, datagram),
            Hop::Stream(hop) => return self.stream_hop(hop),
        }
        None
    }

    fn enter(&mut self, realm: RealmId, datagram: Datagram) {
        if self.cuts.contains(&(datagram.source.ip(), datagram.target.ip())) {
            self.tally.lost += 1;
            return;
        }
        let size = ip_size(datagram.target.ip(), datagram.bytes.len());
        match self.realms[realm.0].attached.get(&datagram.target.ip()) {
            Some(&Holder::Host(host)) => {
                let line = &mut self.hosts[host.0].line;
                let fate = line.down.pass(&line.wire, &mut self.rng, size);
                self.travel(fate.copies, datagram, |datagram| Hop::Deliver(host, datagram));
            }
            Some(&Holder::Gateway(below)) => {
                let line = &mut self.realms[below.0].line;
                let fate = line.down.pass(&line.wire, &mut self.rng, size);
                self.travel(fate.copies, datagram, |datagram| Hop::Inbound(below, datagram));
            }
            None => self.outbound(realm, datagram),
        }
    }

    /// Leaves a realm by its gateway.
    fn outbound(&mut self, realm: RealmId, mut datagram: Datagram) {
        let (now, rng) = (self.now, &mut self.rng);
        let here = &mut self.realms[realm.0];
        let Some(parent) = here.parent.filter(|_| here.gateway.udp) else {
            self.tally.refused += 1;
            return;
        };
        let gate = if datagram.target.is_ipv4() {
            &mut here.v4
        } else {
            &mut here.v6
        };
        let source = match gate {
            Gate::Absent => None,
            Gate::Open => Some(datagram.source),
            Gate::Table(table) => table.outbound(now, datagram.source, datagram.target, rng),
        };
        let Some(source) = source else {
            self.tally.refused += 1;
            return;
        };
        datagram.source = source;
        if let Gate::Table(table) = gate
            && table.outer() == Some(datagram.target.ip())
        {
            let hairpin = table.rules().hairpin;
            if hairpin {
                self.inbound(realm, datagram);
            } else {
                self.tally.refused += 1;
            }
            return;
        }
        let size = ip_size(datagram.target.ip(), datagram.bytes.len());
        let fate = here.line.up.pass(&here.line.wire, rng, size);
        self.travel(fate.copies, datagram, |datagram| Hop::Enter(parent, datagram));
    }

    /// Comes from outside to the gateway of a realm.
    fn inbound(&mut self, realm: RealmId, mut datagram: Datagram) {
        let here = &mut self.realms[realm.0];
        let gate = if datagram.target.is_ipv4() {
            &mut here.v4
        } else {
            &mut here.v6
        };
        let target = match gate {
            Gate::Absent => None,
            Gate::Open => Some(datagram.target),
            Gate::Table(table) => table.inbound(self.now, datagram.source, datagram.target),
        };
        match target.filter(|_| here.gateway.udp) {
            Some(target) => {
                datagram.target = target;
                self.enter(realm, datagram);
            }
            None => self.tally.refused += 1,
        }
    }

    fn deliver(&mut self, host: HostId, datagram: Datagram) -> Option<Arrival> {
        let here = &self.hosts[host.0];
        if !here.up || !here.addresses.contains(&datagram.target.ip()) {
            self.tally.refused += 1;
            return None;
        }
        self.tally.delivered += 1;
        Some(Arrival::Datagram(host, datagram))
    }

    fn travel(&mut self, copies: [Option<Duration>; 2], datagram: Datagram, hop: impl Fn(Datagram) -> Hop) {
        let [first, second] = copies;
        let Some(first) = first else {
            self.tally.lost += 1;
            return;
        };
        if let Some(second) = second {
            self.queue.push(self.now + second, hop(datagram.clone()));
        }
        self.queue.push(self.now + first, hop(datagram));
    }

    fn plug(&mut self, host: HostId, realm: RealmId, v4: bool, v6: bool) {
        if v4 && self.carries(realm, true) {
            let ip = self.new_v4(realm);
            self.attach(host, realm, ip);
        }
        if v6 && self.carries(realm, false) {
            self.next_public += 1;
            let ip = Ipv6Addr::new(0x2a00, 0, 0, realm.0 as u16, 0, 0, 0, self.next_public as u16);
            self.attach(host, realm, ip.into());
        }
    }

    fn attach(&mut self, host: HostId, realm: RealmId, ip: IpAddr) {
        self.hosts[host.0].addresses.push(ip);
        self.announce(realm, ip, Holder::Host(host));
    }

    /// Makes an address known in its realm, and above as far as it is not translated.
    fn announce(&mut self, realm: RealmId, ip: IpAddr, owner: Holder) {
        let known = self.where_known(realm, ip);
        for pair in known.windows(2) {
            let below = Holder::Gateway(pair[0]);
            self.realms[pair[1].0].attached.insert(ip, below);
        }
        self.realms[realm.0].attached.insert(ip, owner);
    }

    fn where_known(&self, realm: RealmId, ip: IpAddr) -> Vec<RealmId> {
        let mut known = vec![realm];
        let mut below = realm;
        while let Some((parent, gateway)) = self.parent(below) {
            if ip.is_ipv4() && matches!(gateway.v4, Family::Nat(_)) {
                break;
            }
            known.push(parent);
            below = parent;
        }
        known
    }

    /// Whether a family is carried from a realm to the internet.
    fn carries(&self, realm: RealmId, v4: bool) -> bool {
        self.realms_above(realm).iter().all(|realm| {
            let gateway = &self.realms[realm.0].gateway;
            realm == &PUBLIC || (if v4 { gateway.v4 } else { gateway.v6 }) != Family::Absent
        })
    }

    /// The realm and all above it, the public one last.
    pub(crate) fn realms_above(&self, realm: RealmId) -> Vec<RealmId> {
        let next = |realm: &RealmId| self.realms[realm.0].parent;
        std::iter::successors(Some(realm), next).collect()
    }

    /// Who takes datagrams to an address in a realm; none: they leave by its gateway.
    pub(crate) fn holder(&self, realm: RealmId, address: IpAddr) -> Option<Holder> {
        self.realms[realm.0].attached.get(&address).copied()
    }

    /// The addresses by which others may see a host.
    fn faces(&self, host: HostId) -> Vec<IpAddr> {
        let outer = self.realms_above(self.hosts[host.0].realm);
        let outer = outer.into_iter().filter_map(|realm| self.outer(realm));
        self.hosts[host.0].addresses.iter().copied().chain(outer).collect()
    }

    fn new_v4(&mut self, realm: RealmId) -> IpAddr {
        let translating = self
            .realms_above(realm)
            .into_iter()
            .find(|realm| matches!(self.realms[realm.0].gateway.v4, Family::Nat(_)) && *realm != PUBLIC);
        let Some(inner) = translating else {
            self.next_public += 1;
            let [_, _, high, low] = self.next_public.to_be_bytes();
            return Ipv4Addr::new(81, 2, high, low).into();
        };
        let inner = &mut self.realms[inner.0];
        let [a, b, c] = inner.gateway.prefix;
        inner.next_host += 1;
        Ipv4Addr::new(a, b, c, inner.next_host).into()
    }
}

fn line(wire: Wire) -> Line {
    Line {
        wire,
        up: Direction::default(),
        down: Direction::default(),
    }
}

fn plain_gate(family: Family) -> Gate {
    match family {
        Family::Absent | Family::Nat(_) => Gate::Absent,
        Family::Open => Gate::Open,
        Family::Firewall(filtering) => Gate::Table(Table::firewall(filtering, Nat::EXPIRY)),
    }
}
