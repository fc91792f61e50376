//! STUN and TURN servers as the engine uses them: one address for both, and the network check.

use std::net::SocketAddr;
use std::time::Instant;

use api::link::{LinkCall, NatKind, NetReport, ServersConfig, TurnServer, TurnTransport};
use api::rpc::ErrorKind;
use turn_client_proto::api::Transmit as Wire;
use turn_server_proto::api::{TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer as Server;
use turn_types::TransportType;

use super::ms;
use super::world::{NETWORK, World, at};
use crate::ice::{StunClass, binding_answer, is_stun, stun_class};
use crate::node::CallId;
use crate::turn::{StreamId, StreamInput, StreamOutput};

const SERVER: &str = "198.51.100.1:3478";
const OTHER: &str = "198.51.100.2:3479";
const HOST: &str = "192.0.2.1:1000";
const MAPPED: &str = "203.0.113.7:4000";

fn turn_server(transport: TurnTransport, password: &str) -> TurnServer {
    TurnServer {
        address: at(SERVER),
        transport,
        name: None,
        pin: None,
        username: "ann".into(),
        password: password.into(),
    }
}

fn servers(network: bool, turn: &[TurnTransport], password: &str) -> ServersConfig {
    ServersConfig {
        network: network.then_some(NETWORK),
        stun: vec![at(SERVER)],
        turn: turn.iter().map(|way| turn_server(*way, password)).collect(),
    }
}

/// STUN and TURN on one port, over UDP and TCP, with a NAT between it and host 0.
struct Outside {
    udp: Server,
    tcp: Server,
    start: Instant,
    next_port: u16,
    /// Answers from its other address pass the NAT's filter.
    is_open: bool,
    is_up: bool,
}

impl Outside {
    fn new(world: &mut World) -> Self {
        world.keep_sent = true;
        let listen = |kind| {
            let mut server = Server::new(kind, at(SERVER), "example".to_owned());
            server.add_user("ann".to_owned(), "secret".to_owned());
            server
        };
        Self {
            udp: listen(TransportType::Udp),
            tcp: listen(TransportType::Tcp),
            start: world.now,
            next_port: 50_000,
            is_open: false,
            is_up: true,
        }
    }

    /// Answers everything that was asked, in steps of a millisecond, for so long.
    fn run(&mut self, world: &mut World, steps: u32) {
        for _ in 0..steps {
            world.run(ms(1));
            for (_, to, bytes) in std::mem::take(&mut world.sent) {
                if self.is_up && [at(SERVER).ip(), at(OTHER).ip()].contains(&to.ip()) {
                    self.datagram(world, to, &bytes);
                }
            }
            for (_, stream, what) in std::mem::take(&mut world.streams) {
                self.stream(world, stream, what);
            }
        }
    }

    fn datagram(&mut self, world: &mut World, to: SocketAddr, bytes: &[u8]) {
        if stun_class(bytes) != Some(StunClass::Request) {
            return self.serve(world, None, bytes);
        }
        let from = match bytes.get(27) {
            None => to,
            Some(_) if !self.is_open => return,
            Some(2) => SocketAddr::new(to.ip(), at(OTHER).port()),
            Some(_) => at(OTHER),
        };
        let answer = binding_answer(bytes, at(MAPPED), Some(at(OTHER)));
        world.inject(from, at(HOST), &answer);
    }

    fn stream(&mut self, world: &mut World, stream: StreamId, what: StreamOutput) {
        match what {
            StreamOutput::Connect(_) => world.stream(0, stream, StreamInput::Connected),
            StreamOutput::Data(bytes) => self.serve(world, Some(stream), &bytes),
            StreamOutput::Close => {}
        }
    }

    fn serve(&mut self, world: &mut World, stream: Option<StreamId>, bytes: &[u8]) {
        let nanos = (world.now - self.start).as_nanos() as i64;
        let now = stun_proto::Instant::from_nanos(nanos);
        let (server, kind, from) = match stream {
            None => (&mut self.udp, TransportType::Udp, at(MAPPED)),
            Some(stream) => {
                let from = SocketAddr::new(at(MAPPED).ip(), 6000 + stream.0 as u16);
                (&mut self.tcp, TransportType::Tcp, from)
            }
        };
        let mut answers = Vec::new();
        let reply = server.recv(Wire::new(bytes.to_vec(), kind, from, at(SERVER)), now);
        answers.extend(reply.map(|reply| reply.build().data));
        for _ in 0..10 {
            if let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
            } = server.poll(now)
            {
                self.next_port += 1;
                let address = Ok(SocketAddr::new(at(SERVER).ip(), self.next_port));
                let kind = allocation_transport;
                server.allocated_socket(transport, listen_addr, client_addr, kind, family, address, now);
            }
            while let Some(transmit) = server.poll_transmit(now) {
                answers.push(transmit.data.to_vec());
            }
        }
        for answer in answers {
            match stream {
                None => world.inject(at(SERVER), at(HOST), &answer),
                Some(stream) => world.stream(0, stream, StreamInput::Data(&answer)),
            }
        }
    }
}

fn report(world: &mut World, call: CallId) -> NetReport {
    let answer = world.hosts[0].replies.remove(&call).expect("the check is over");
    serde_json::from_value(answer.unwrap()).unwrap()
}

#[test]
fn one_address_can_serve_stun_and_turn() {
    let mut world = World::new(2, false);
    let mut outside = Outside::new(&mut world);
    world
        .ask(0, LinkCall::SetServers(servers(true, &[TurnTransport::Udp], "secret")))
        .unwrap();
    world.open(0, 1);
    outside.run(&mut world, 100);
    let state = world.state(0);
    let seen = state.candidates.iter().find(|c| c.kind == "server_reflexive");
    assert_eq!(seen.map(|c| c.address), Some(at(MAPPED)), "{:?}", state.candidates);
    assert!(state.relays[0].relayed.is_some(), "{:?}", state.relays);
}

#[test]
fn a_check_tells_nat_and_servers_and_leaves_no_allocation() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    let ways = [TurnTransport::Udp, TurnTransport::Tcp];
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "secret")));
    outside.run(&mut world, 9000);
    let found = report(&mut world, call);
    assert!(found.udp && !found.ipv6_configured);
    assert_eq!((found.ipv4, found.ipv6), (Some(at(MAPPED)), None));
    assert_eq!(found.mapping, NatKind::EndpointIndependent);
    assert_eq!(found.filtering, NatKind::AddressAndPortDependent);
    assert_eq!((found.hairpin, found.port_mapping), (Some(false), None));
    let services: Vec<_> = found
        .servers
        .iter()
        .map(|s| (s.service.as_str(), s.fault.as_deref()))
        .collect();
    assert_eq!(services, [("stun", None), ("turn udp", None), ("turn tcp", None)]);
    assert!(found.servers.iter().all(|s| s.rtt_us.is_some()));
    assert_eq!(world.hosts[0].node.poll_timeout(), None, "nothing of the check is left");
    // A second allocation from the same address would collide with one that was left behind.
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "secret")));
    outside.run(&mut world, 9000);
    assert_eq!(report(&mut world, call).servers[1].fault, None);
}

#[test]
fn a_check_beside_a_live_allocation_leaves_it_alone() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    let ways = [TurnTransport::Udp];
    world
        .ask(0, LinkCall::SetServers(servers(true, &ways, "secret")))
        .unwrap();
    outside.run(&mut world, 100);
    let relayed = world.state(0).relays[0].relayed.expect("an allocation");
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "secret")));
    outside.run(&mut world, 9000);
    let found = report(&mut world, call);
    assert_eq!((found.servers.len(), &found.servers[1].fault), (2, &None));
    assert!(found.servers[1].rtt_us.is_some());
    assert_eq!(world.state(0).relays[0].relayed, Some(relayed));
}

#[test]
fn a_check_names_a_wrong_password_and_a_silent_server() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    let ways = [TurnTransport::Udp, TurnTransport::Tcp];
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "wrong")));
    outside.run(&mut world, 9000);
    for server in &report(&mut world, call).servers[1..] {
        let fault = server.fault.as_ref().unwrap();
        assert!(fault.contains("password") && fault.contains("198.51.100.1"), "{fault}");
    }
    outside.is_up = false;
    let call = world.call(
        0,
        LinkCall::CheckNetwork(servers(false, &[TurnTransport::Udp], "secret")),
    );
    outside.run(&mut world, 6000);
    let found = report(&mut world, call);
    assert_eq!((found.udp, found.mapping), (false, NatKind::Blocked));
    for server in &found.servers {
        assert!(server.fault.as_ref().unwrap().contains("does not answer"), "{server:?}");
    }
}

#[test]
fn a_filter_that_an_earlier_check_opened_is_still_told_as_strict() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    for (is_open, wait, expected) in [
        (false, 0, NatKind::AddressAndPortDependent),
        (true, 60, NatKind::AddressAndPortDependent),
        (true, 660, NatKind::EndpointIndependent),
    ] {
        outside.is_open = is_open;
        world.run(std::time::Duration::from_secs(wait));
        let call = world.call(0, LinkCall::CheckNetwork(servers(false, &[], "")));
        outside.run(&mut world, 9000);
        assert_eq!(report(&mut world, call).filtering, expected, "after {wait} s");
    }
}

#[test]
fn there_is_one_check_at_a_time_and_it_ends() {
    let mut world = World::new(1, false);
    let call = world.call(
        0,
        LinkCall::CheckNetwork(servers(false, &[TurnTransport::Tcp], "secret")),
    );
    let second = world
        .ask(0, LinkCall::CheckNetwork(ServersConfig::default()))
        .unwrap_err();
    assert_eq!(second.kind, ErrorKind::State);
    // The machine slept: everything is overdue at once.
    world.now += ms(60_000);
    world.hosts[0].node.handle_timeout(world.now);
    world.run(ms(1));
    let error = world.hosts[0].replies.remove(&call).unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(matches!(world.streams.last(), Some((0, _, StreamOutput::Close))));
    let call = world.call(0, LinkCall::CheckNetwork(ServersConfig::default()));
    let found = report(&mut world, call);
    assert!(!found.udp && found.servers.is_empty());
}

#[test]
fn servers_that_change_during_a_check_are_served_first() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    outside.is_up = false;
    let ways = [TurnTransport::Udp];
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "secret")));
    outside.run(&mut world, 10);
    outside.is_up = true;
    world
        .ask(0, LinkCall::SetServers(servers(true, &ways, "secret")))
        .unwrap();
    outside.run(&mut world, 9000);
    assert!(world.state(0).relays[0].relayed.is_some());
    let fault = report(&mut world, call).servers[1].fault.clone().unwrap();
    assert!(fault.contains("check again"), "{fault}");
}

#[test]
fn garbage_from_a_servers_address_does_not_disturb_a_check() {
    let mut world = World::new(1, false);
    let mut outside = Outside::new(&mut world);
    let ways = [TurnTransport::Udp, TurnTransport::Tcp];
    let call = world.call(0, LinkCall::CheckNetwork(servers(false, &ways, "secret")));
    let question = world
        .sent
        .iter()
        .find(|(_, _, bytes)| is_stun(bytes))
        .unwrap()
        .2
        .clone();
    for length in 0..question.len() {
        world.inject(at(SERVER), at(HOST), &question[..length]);
        world.inject(at(SERVER), at(HOST), &vec![length as u8; length]);
    }
    outside.run(&mut world, 9000);
    assert!(report(&mut world, call).servers.iter().all(|s| s.fault.is_none()));
}
