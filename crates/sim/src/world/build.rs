//! How worlds are made: by a test that says what it wants, or wholly by a seed.
//!
//! Promises: what is not said is as in an ordinary home; a random world has two to five nodes in any places.
//! Refuses to know: what then happens.

use std::collections::BTreeSet;
use std::time::Duration;

use api::link::{ServersConfig, TurnServer, TurnTransport, default_mtu};
use rand::Rng;
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use stun_types::TransportType;

use super::{Node, World, generator_bytes};
use crate::Seed;
use crate::kind::Kind;
use crate::member::{Identity, Member};
use crate::nat::{Dependence, Expiry, Nat, Ports};
use crate::net::{Family, Gateway, PUBLIC, RealmId, TcpOut};
use crate::server::{PASSWORD, USER};
use crate::wire::Wire;

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// One of the usual places.
    Kind(Kind),
    /// Behind these gateways, the outermost first; with both families as far as they carry them.
    Behind(Vec<Gateway>),
    /// In the same realm as another node.
    With(String),
    /// Behind a gateway of its own that stands in the realm above another node's.
    BesideHomeOf(String, Gateway),
}

impl From<Kind> for Place {
    fn from(kind: Kind) -> Self {
        Place::Kind(kind)
    }
}

impl From<Nat> for Place {
    fn from(nat: Nat) -> Self {
        Place::Behind(vec![Gateway::nat(nat)])
    }
}

impl From<Gateway> for Place {
    fn from(gateway: Gateway) -> Self {
        Place::Behind(vec![gateway])
    }
}

/// A node that is not built yet.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    name: String,
    place: Place,
    wire: Wire,
    /// Peers that it opens links to at the start; none given: to all that come after it.
    opens: Option<Vec<String>>,
    misled: BTreeSet<String>,
    /// The NIC's MTU.
    mtu: u16,
}

impl World {
    /// Adds a node with a public IPv4 address.
    pub fn node(mut self, name: &str) -> World {
        self.plans.push(Plan {
            name: name.to_owned(),
            place: Kind::Public.into(),
            wire: Wire::delay(10),
            opens: None,
            misled: BTreeSet::new(),
            mtu: default_mtu(),
        });
        self
    }

    /// Puts the node last added somewhere else.
    pub fn behind(mut self, place: impl Into<Place>) -> World {
        self.plan().place = place.into();
        self
    }

    /// Changes the wire to the internet of the node last added.
    pub fn wire(mut self, wire: Wire) -> World {
        self.plan().wire = wire;
        self
    }

    /// Changes the MTU of the NIC of the node last added.
    pub fn nic_mtu(mut self, mtu: u16) -> World {
        self.plan().mtu = mtu;
        self
    }

    /// The node last added opens links to these only.
    pub fn opens(mut self, peers: &[&str]) -> World {
        self.plan().opens = Some(peers.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// The node last added is not told of a peer's IPv6 address.
    pub fn misled_about(mut self, peer: &str) -> World {
        self.plan().misled.insert(peer.to_owned());
        self
    }

    /// There are two TURN servers.
    pub fn with_second_turn(mut self) -> World {
        self.servers.add_turn(&mut self.net, Wire::PERFECT);
        self
    }

    /// There is no TURN server.
    pub fn without_turn(mut self) -> World {
        self.has_turn = false;
        self
    }

    /// Prints the trace as it grows.
    pub fn echo(mut self) -> World {
        self.trace.echo();
        self
    }

    /// Builds everything and starts every node.
    pub fn start(mut self) -> World {
        for plan in self.plans.clone() {
            self.build(&plan);
        }
        for at in 0..self.nodes.len() {
            let misled = self.plans[at].misled.clone();
            self.nodes[at].misled = misled.iter().map(|name| self.index(name)).collect();
        }
        for at in 0..self.nodes.len() {
            self.start_member(at);
        }
        for at in 0..self.nodes.len() {
            let peers = self.opened_by(at);
            self.open_links(at, &peers);
        }
        self
    }

    /// A world that follows from its seed alone: two to five nodes, places, wires, who begins.
    pub fn random(seed: Seed) -> World {
        let mut world = World::new(seed);
        let mut rng = seed.generator(4);
        let count = match rng.random_range(0..100) {
            0..55 => 2,
            55..80 => 3,
            80..93 => 4,
            _ => 5,
        };
        world.has_turn = rng.random_bool(0.8);
        let delay = Duration::from_millis(rng.random_range(5..200));
        world.rendezvous.set_delay(delay);
        let far = Wire::delay(rng.random_range(0..40));
        world.servers.set_wire(&mut world.net, far);
        for at in 0..count {
            let place = random_place(&mut rng, at);
            let wire = random_wire(&mut rng);
            world = world.node(&name(at)).behind(place).wire(wire);
        }
        for at in 0..count {
            // Mostly the first one opens; sometimes both do, or only the second.
            let others: Vec<String> = (0..count).filter(|other| *other != at).map(name).collect();
            let opens = match rng.random_range(0..4) {
                0 => others,
                _ => others.into_iter().filter(|other| *other > name(at)).collect(),
            };
            world.plans[at].opens = Some(opens);
        }
        world
    }

    /// Whether no wire of a node loses, holds back or doubles anything.
    pub fn is_lossless(&self) -> bool {
        let rough = |wire: &Wire| wire.loss + wire.burst + wire.reorder + wire.duplicate > 0.0;
        !self.plans.iter().any(|plan| rough(&plan.wire))
    }

    /// A realm behind the gateways of a place, for a node that comes there.
    pub(super) fn place(&mut self, place: &Place, wire: Wire) -> RealmId {
        match place {
            Place::Kind(kind) => kind.realm(&mut self.net, wire),
            Place::With(name) => self.net.realm(self.nodes[self.index(name)].host),
            Place::BesideHomeOf(name, gateway) => {
                let home = self.net.realm(self.nodes[self.index(name)].host);
                let above = self.net.parent(home).map_or(PUBLIC, |(above, _)| above);
                self.net.add_realm(above, Gateway { wire, ..*gateway })
            }
            Place::Behind(gateways) => {
                let mut realm = PUBLIC;
                for (depth, gateway) in gateways.iter().enumerate() {
                    // The way to the internet has the wire; what is inside is short.
                    let wire = if depth == 0 { wire } else { gateway.wire };
                    realm = self.net.add_realm(realm, Gateway { wire, ..*gateway });
                }
                realm
            }
        }
    }

    /// Starts a member and tells it everything that its controller would know from its state file.
    pub(super) fn boot(&mut self, at: usize) {
        self.start_member(at);
        let peers: Vec<usize> = (0..self.nodes.len()).filter(|peer| *peer != at).collect();
        self.open_links(at, &peers);
    }

    pub(super) fn tell_addresses(&mut self, at: usize) {
        let now = self.net.now();
        let addresses = self.net.addresses(self.nodes[at].host).to_vec();
        if let Some(member) = &mut self.nodes[at].member {
            member.set_addresses(now, &addresses);
        }
        self.obey(at);
    }

    fn plan(&mut self) -> &mut Plan {
        self.plans.last_mut().expect("a node was added before")
    }

    fn build(&mut self, plan: &Plan) {
        let public = match plan.place {
            Place::Kind(kind @ (Kind::Public | Kind::V6)) => Some(kind),
            _ => None,
        };
        let host = match public {
            Some(kind) => kind.build(&mut self.net, plan.wire),
            None => {
                let realm = self.place(&plan.place, plan.wire);
                self.net.add_host(realm, true, true, Wire::PERFECT)
            }
        };
        let device = generator_bytes(&mut self.rng);
        self.nodes.push(Node {
            name: plan.name.clone(),
            host,
            identity: Identity::new(self.nodes.len(), device, self.network),
            member: None,
            starts: 0,
            streams: Default::default(),
            conns: Default::default(),
            watch: Default::default(),
            received: Default::default(),
            next_frame: 0,
            misled: BTreeSet::new(),
            told: Vec::new(),
        });
    }

    fn start_member(&mut self, at: usize) {
        let now = self.net.now();
        let seed = generator_bytes(&mut self.rng);
        let instance = self.rng.next_u64() >> 12;
        let servers = self.servers_config();
        let peers: Vec<_> = (0..self.nodes.len()).filter(|peer| *peer != at).collect();
        let peers: Vec<_> = peers
            .into_iter()
            .map(|peer| {
                let identity = self.nodes[peer].identity.clone();
                let told = if self.nodes[at].misled.contains(&peer) { 1 } else { 2 };
                let addresses = identity.inner[..told].to_vec();
                (identity, addresses)
            })
            .collect();
        let node = &mut self.nodes[at];
        node.starts += 1;
        let mut member = Member::start(
            node.identity.clone(),
            self.network,
            seed,
            instance,
            self.plans[at].mtu,
            now,
        );
        member.set_addresses(now, self.net.addresses(node.host));
        member.set_servers(now, servers);
        for (peer, addresses) in peers {
            member.set_peer(now, &peer, addresses);
        }
        node.member = Some(member);
        self.obey(at);
    }

    fn open_links(&mut self, at: usize, peers: &[usize]) {
        let now = self.net.now();
        for peer in peers {
            let id = self.nodes[*peer].identity.id;
            if let Some(member) = &mut self.nodes[at].member {
                member.open(now, id);
            }
            self.obey(at);
        }
    }

    fn opened_by(&self, at: usize) -> Vec<usize> {
        match &self.plans[at].opens {
            Some(names) => names.iter().map(|name| self.index(name)).collect(),
            None => (at + 1..self.nodes.len()).collect(),
        }
    }

    fn servers_config(&self) -> ServersConfig {
        let ways = [
            (TransportType::Udp, TurnTransport::Udp),
            (TransportType::Tcp, TurnTransport::Tcp),
        ];
        let all = ways.into_iter().flat_map(|(transport, spoken)| {
            let addresses = self.servers.turn(&self.net, transport).into_iter().flatten();
            addresses.map(move |address| TurnServer {
                address,
                transport: spoken,
                name: None,
                pin: None,
                username: USER.to_owned(),
                password: PASSWORD.to_owned(),
            })
        });
        ServersConfig {
            network: Some(self.network),
            stun: self.servers.stun(&self.net).to_vec(),
            turn: all.filter(|_| self.has_turn).collect(),
        }
    }
}

/// The names of random nodes, in order.
fn name(at: usize) -> String {
    ["ann", "bob", "carol", "dave", "eve"][at].to_owned()
}

fn random_place(rng: &mut ChaCha12Rng, at: usize) -> Place {
    let earlier = |rng: &mut ChaCha12Rng| name(rng.random_range(0..at));
    match rng.random_range(0..20) {
        0..11 => Place::Kind(Kind::ALL[rng.random_range(0..Kind::ALL.len())]),
        11 if at > 0 => Place::With(earlier(rng)),
        12 if at > 0 => {
            let other = earlier(rng);
            Place::BesideHomeOf(other, random_gateway(rng, [192, 168, 1]))
        }
        13..15 => {
            let outer = random_gateway(rng, [100, 64, 7]);
            Place::Behind(vec![outer, random_gateway(rng, [192, 168, 1])])
        }
        _ => Place::Behind(vec![random_gateway(rng, [192, 168, 1])]),
    }
}

fn random_gateway(rng: &mut ChaCha12Rng, prefix: [u8; 3]) -> Gateway {
    let blocked = rng.random_bool(0.07);
    let v6 = match rng.random_range(0..10) {
        0 => Family::Open,
        1 | 2 => Family::Firewall(random_dependence(rng)),
        _ => Family::Absent,
    };
    let v4 = match rng.random_range(0..12) {
        0 => Family::Firewall(random_dependence(rng)),
        1 if v6 != Family::Absent => Family::Absent,
        _ => Family::Nat(random_nat(rng)),
    };
    Gateway {
        v4,
        v6,
        udp: !blocked,
        tcp: if blocked { TcpOut::Only443 } else { TcpOut::All },
        prefix,
        wire: Wire::PERFECT,
    }
}

fn random_nat(rng: &mut ChaCha12Rng) -> Nat {
    Nat {
        mapping: random_dependence(rng),
        filtering: random_dependence(rng),
        ports: [Ports::Preserve, Ports::Random, Ports::Sequential][rng.random_range(0..3)],
        hairpin: rng.random_bool(0.4),
        expiry: Expiry {
            both: Duration::from_secs(rng.random_range(30..=120)),
            ..Nat::EXPIRY
        },
    }
}

fn random_dependence(rng: &mut ChaCha12Rng) -> Dependence {
    [Dependence::Independent, Dependence::Address, Dependence::AddressAndPort][rng.random_range(0..3)]
}

/// Half of a way: 0.5 to 75 ms, loss to 5 %; both ends together 1 to 150 ms and to 10 %.
fn random_wire(rng: &mut ChaCha12Rng) -> Wire {
    let micros = rng.random_range(500..75_000);
    let rough = rng.random_bool(0.5);
    let mut up_to = |most: f64| if rough { rng.random_range(0.0..most) } else { 0.0 };
    let (loss, reorder, duplicate) = (up_to(0.05), up_to(0.05), up_to(0.03));
    Wire {
        delay: Duration::from_micros(micros),
        jitter: Duration::from_micros(micros / 10),
        loss,
        reorder,
        held: Duration::from_millis(30),
        duplicate,
        ..Wire::PERFECT
    }
}
