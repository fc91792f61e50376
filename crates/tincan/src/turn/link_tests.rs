//! Two agents that can only meet through a real TURN server (`turn-server-proto`), in virtual time; then the direct
//! path opens.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::time_provider::DefaultTimeProvider;
use turn_client_proto::api::Transmit as Wire;
use turn_server_proto::api::{TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer as Server;
use turn_types::{AddressFamily, TransportType};

use super::*;
use crate::ice::{AddressPolicy, Agent, Candidate, Credentials, Pair, seed_transactions};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const SERVER: &str = "198.51.100.9:3478";
const ONE_WAY: Duration = Duration::from_millis(20);

struct Node {
    address: SocketAddr,
    agent: Agent,
    relays: Relays,
    relay: Option<(RelayId, SocketAddr)>,
}

struct World {
    start: Instant,
    now: Instant,
    server: Server,
    next_port: u16,
    nodes: Vec<Node>,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    serial: u64,
    direct_open: bool,
}

impl World {
    fn new() -> Self {
        seed_transactions(3);
        let now = Instant::now();
        let mut server = Server::new(TransportType::Udp, at(SERVER), "example".to_owned());
        server.add_user("ann".to_owned(), "secret".to_owned());
        let node = |n: u8| Node {
            address: SocketAddr::new(IpAddr::from([203, 0, 113, n]), 5000),
            agent: Agent::new(
                Credentials::from_entropy([n; 32]),
                n == 1,
                u64::from(n),
                AddressPolicy::default(),
                now,
            ),
            relays: Relays::new(
                now,
                TlsTrust {
                    roots: Arc::new(RootCertStore::empty()),
                    clock: Arc::new(DefaultTimeProvider),
                },
            ),
            relay: None,
        };
        World {
            start: now,
            now,
            server,
            next_port: 50_000,
            nodes: vec![node(1), node(2)],
            wire: BTreeMap::new(),
            serial: 0,
            direct_open: false,
        }
    }

    fn put(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.serial += 1;
        self.wire.insert((self.now + ONE_WAY, self.serial), (from, to, bytes));
    }

    fn take_outputs(&mut self) {
        for n in 0..self.nodes.len() {
            while let Some(transmit) = self.nodes[n].agent.poll_transmit() {
                let node = &mut self.nodes[n];
                match node.relay.filter(|(_, address)| *address == transmit.local) {
                    Some((relay, _)) => node.relays.send(self.now, relay, transmit.remote, &transmit.bytes),
                    None => self.put(transmit.local, transmit.remote, transmit.bytes),
                }
            }
            while let Some(output) = self.nodes[n].relays.poll_output() {
                match output {
                    RelayOutput::Udp { remote, bytes } => self.put(self.nodes[n].address, remote, bytes),
                    RelayOutput::Allocated { relay, address, .. } if address.is_ipv4() => {
                        self.nodes[n].relay = Some((relay, address));
                    }
                    _ => {}
                }
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if to.ip() == at(SERVER).ip() {
            let now = self.server_now();
            let wire = Wire::new(bytes.to_vec(), TransportType::Udp, from, to);
            if let Some(out) = self.server.recv(wire, now).map(|out| out.build()) {
                self.put(out.from, out.to, out.data);
            }
            return;
        }
        let Some(node) = self.nodes.iter_mut().find(|node| node.address == to) else {
            return;
        };
        if from == at(SERVER) {
            if let Handled::Data { relay, peer, range } = node.relays.handle_udp(self.now, from, bytes) {
                let local = node.relays.address_of(relay).unwrap();
                node.agent.handle_stun(self.now, local, peer, &bytes[range]);
            }
        } else if self.direct_open {
            node.agent.handle_stun(self.now, to, from, bytes);
        }
    }

    fn server_now(&self) -> stun_proto::Instant {
        stun_proto::Instant::from_nanos((self.now - self.start).as_nanos() as i64)
    }

    fn work_server(&mut self) {
        let now = self.server_now();
        for _ in 0..10 {
            if let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport: kind,
                family,
            } = self.server.poll(now)
            {
                self.next_port += 1;
                let ip = match family {
                    AddressFamily::IPV4 => "198.51.100.9",
                    AddressFamily::IPV6 => "2001:db8::9",
                };
                let address = Ok(SocketAddr::new(ip.parse().unwrap(), self.next_port));
                self.server
                    .allocated_socket(transport, listen_addr, client_addr, kind, family, address, now);
            }
            while let Some(transmit) = self.server.poll_transmit(now) {
                self.put(transmit.from, transmit.to, transmit.data);
            }
        }
    }

    fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + limit);
        loop {
            self.take_outputs();
            self.work_server();
            if done(self) {
                return Some(self.now - begin);
            }
            let timers = |node: &mut Node| [node.agent.poll_timeout(), node.relays.poll_timeout()];
            let timer = self.nodes.iter_mut().flat_map(timers).flatten().min();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = [timer, arrival].into_iter().flatten().min()?;
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (from, to, bytes) = entry.remove();
                self.deliver(from, to, &bytes);
            }
            let now = self.now;
            for node in &mut self.nodes {
                node.relays.handle_timeout(now);
                if node.agent.poll_timeout().is_some_and(|due| due <= now) {
                    node.agent.handle_timeout(now);
                }
            }
        }
    }

    fn both(&self, wanted: impl Fn(&Pair) -> bool) -> bool {
        self.nodes
            .iter()
            .all(|node| node.agent.best().is_some_and(|pair| wanted(&pair)))
    }
}

#[test]
fn a_link_is_made_through_a_turn_server_and_leaves_it_when_it_can() {
    let mut world = World::new();
    let server = TurnServer {
        address: at(SERVER),
        label: "relay".to_owned(),
        transport: TurnTransport::Udp,
        username: "ann".to_owned(),
        password: Password::new("secret"),
    };
    let now = world.now;
    world
        .nodes
        .iter_mut()
        .for_each(|node| node.relays.set_servers(now, vec![server.clone()]));
    let took = world.run(Duration::from_secs(2), |w| {
        w.nodes.iter().all(|node| node.relay.is_some())
    });
    assert!(took.unwrap() <= Duration::from_millis(250), "{took:?}");
    let now = world.now;
    for n in [0, 1] {
        let peer = world.nodes[1 - n].agent.credentials().clone();
        let far = [world.nodes[1 - n].address, world.nodes[1 - n].relay.unwrap().1];
        let node = &mut world.nodes[n];
        node.agent
            .add_local(now, Candidate::host(node.address, 65_534))
            .unwrap();
        node.agent
            .add_local(now, Candidate::relayed(node.relay.unwrap().1, 65_534))
            .unwrap();
        node.agent.set_remote(now, peer);
        node.agent.add_remote(now, Candidate::host(far[0], 65_534)).unwrap();
        node.agent.add_remote(now, Candidate::relayed(far[1], 65_534)).unwrap();
    }
    let took = world.run(Duration::from_secs(5), |w| w.both(Pair::is_relayed)).unwrap();
    assert!(took <= Duration::from_millis(900), "{took:?}");
    world.direct_open = true;
    let took = world
        .run(Duration::from_secs(5), |w| w.both(|pair| !pair.is_relayed()))
        .unwrap();
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert!(world.nodes.iter().all(|node| node.relays.dropped() == 0));
}
