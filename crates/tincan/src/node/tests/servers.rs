//! STUN and TURN servers as the engine uses them: one address for both, and the network check.

use api::link::{LinkCall, ServersConfig, TurnServer, TurnTransport};

use super::ms;
use super::world::{NETWORK, World, at};
use crate::ice::{StunClass, binding_answer, stun_class};

const SERVER: &str = "198.51.100.1:3478";

fn turn_server() -> TurnServer {
    TurnServer {
        address: at(SERVER),
        transport: TurnTransport::Udp,
        name: None,
        pin: None,
        username: "ann".into(),
        password: "secret".into(),
    }
}

/// The Binding requests that went to a server and were not looked at yet.
fn asked(world: &mut World, server: &str) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
    let (to, rest) = std::mem::take(&mut world.sent)
        .into_iter()
        .partition(|(_, to, bytes)| *to == at(server) && stun_class(bytes) == Some(StunClass::Request));
    world.sent = rest;
    let to: Vec<(_, _, Vec<u8>)> = to;
    to.into_iter().map(|(from, _, bytes)| (from, bytes)).collect()
}

#[test]
fn one_address_can_serve_stun_and_turn() {
    let mut world = World::new(2, false);
    world.keep_sent = true;
    let servers = ServersConfig {
        network: Some(NETWORK),
        stun: vec![at(SERVER)],
        turn: vec![turn_server()],
    };
    world.ask(0, LinkCall::SetServers(servers)).unwrap();
    world.open(0, 1);
    world.run(ms(20));
    let (from, request) = asked(&mut world, SERVER).remove(0);
    let answer = binding_answer(&request, at("203.0.113.7:4000"), None);
    world.inject(at(SERVER), from, &answer);
    let candidates = world.state(0).candidates;
    let seen = candidates.iter().find(|c| c.kind == "server_reflexive");
    assert_eq!(seen.map(|c| c.address), Some(at("203.0.113.7:4000")), "{candidates:?}");
}
