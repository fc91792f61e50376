//! Impostors, strangers, replays, and a peer that holds the secret but breaks the rules.

use super::*;

#[test]
fn a_server_with_another_key_never_gets_a_session() {
    let (low, high) = two_keys();
    let expected = NodeId([0xFF; 32]);
    // The impostor knows secret and ids, yet has not the expected key: its gate and role are as the client expects.
    let mut world = World::new(&config(&low, high.id(), 1), &config(&high, low.id(), 2));
    let mut client = config(&low, expected, 1);
    client.seed = [1; 32];
    let now = world.now;
    world.ends[0] = End::new(&client, now);
    let identity = world.ends[0].handshake.identity;
    let server = &mut world.ends[1].handshake;
    server.gate = Identity {
        role: Role::Server,
        ..identity
    }
    .gate(&SECRET);
    world.run_until(|w| w.ends.iter().all(End::is_over));
    assert_eq!(world.ends[0].seen.failed, Some(SessionError::WrongKey(expected)));
    assert_eq!(world.ends[1].seen.failed, Some(SessionError::Refused));
    assert!(world.ends.iter().all(|e| e.seen.session.is_none() && !e.seen.ready));
}

#[test]
fn a_client_with_another_key_never_gets_a_session_at_the_server() {
    let (low, high) = two_keys();
    let expected = NodeId([0; 32]);
    let mut world = World::new(&config(&low, high.id(), 1), &config(&high, expected, 2));
    let identity = world.ends[1].handshake.identity;
    let (key, peer) = (&low, high.id());
    let now = world.now;
    // The client's gate and first connection id are made as the server expects them.
    let secret = SECRET;
    let mut impostor = End::new(&config(key, peer, 1), now);
    let gate = Identity {
        role: Role::Client,
        ..identity
    }
    .gate(&secret);
    let id = ConnectionId::new(&gate.first_flight);
    let only = tls::OnlyKey::new(peer, impostor.handshake.wrong_key.clone());
    let client = tls::client_config(key, only, Duration::from_millis(50), id).expect("a client");
    let endpoint_config = tls::endpoint_config(impostor.handshake.own_tag, &[1; 32]);
    let mut endpoint = Endpoint::new(Arc::new(endpoint_config), None, false, None);
    let connection = endpoint.connect(now, client, PEER_ADDRESS, tls::SERVER_NAME);
    impostor.handshake.connection = Some(connection.expect("a connection"));
    impostor.handshake.endpoint = endpoint;
    impostor.handshake.gate = gate;
    world.ends[0] = impostor;
    world.run_until(|w| w.ends.iter().all(End::is_over));
    assert_eq!(world.ends[1].seen.failed, Some(SessionError::WrongKey(expected)));
    assert!(world.ends[1].seen.session.is_none());
    assert_eq!(world.ends[0].seen.failed, Some(SessionError::Refused));
    assert!(!world.ends[0].seen.ready, "the client may never send");
}

#[test]
fn without_the_link_secret_nothing_is_even_parsed() {
    let (low, high) = two_keys();
    let mut stranger = config(&low, high.id(), 1);
    stranger.link_secret = &[6; 32];
    let mut world = World::new(&stranger, &config(&high, low.id(), 2));
    let begin = world.now;
    world.run_until(|w| w.ends.iter().all(End::is_over));
    assert!(world.ends[1].handshake.connection.is_none());
    assert!(world.tape.iter().all(|(to, _)| *to == 1), "no answer");
    for end in &world.ends {
        assert_eq!(end.seen.failed, Some(SessionError::Timeout));
        assert!(end.seen.session.is_none());
    }
    assert!(world.now - begin <= HANDSHAKE_TIME + Duration::from_secs(1));
}

#[test]
fn both_ends_must_mean_the_same_session_and_network() {
    let (low, high) = two_keys();
    let mut other_session = config(&low, high.id(), 1);
    other_session.session = SessionId(78);
    let mut other_network = config(&low, high.id(), 1);
    other_network.network = NetworkId([8; 32]);
    for client in [other_session, other_network] {
        let mut world = World::new(&client, &config(&high, low.id(), 2));
        world.run_until(|w| w.ends.iter().all(End::is_over));
        assert!(world.ends.iter().all(|e| e.seen.session.is_none()));
    }
}

#[test]
fn keys_are_bound_to_all_that_both_ends_must_agree_on() {
    let (low, high) = two_keys();
    let identity = Identity::new(&config(&low, high.id(), 1));
    let other = NodeId([1; 32]);
    let variants = [
        Identity {
            network: NetworkId([8; 32]),
            ..identity
        },
        Identity {
            session: SessionId(78),
            ..identity
        },
        Identity {
            lower: other,
            ..identity
        },
        Identity {
            higher: other,
            ..identity
        },
    ];
    let context = identity.exporter_context([1, 1]);
    for variant in variants {
        assert_ne!(variant.exporter_context([1, 1]), context);
        assert_ne!(variant.gate(&SECRET).first_flight, identity.gate(&SECRET).first_flight);
    }
    assert_ne!(identity.exporter_context([1, 2]), context);
    assert_ne!(identity.exporter_context([2, 1]), context);
    let mirrored = Identity::new(&config(&high, low.id(), 2));
    assert_eq!(mirrored.exporter_context([1, 1]), context);
}

#[test]
fn replays_and_forgeries_are_nothing_to_a_live_stream() {
    let mut world = World::fair();
    world.run_to_ready();
    world.run_until(|_| false);
    let tape = world.tape.clone();
    let now = world.now;
    for (to, datagram) in &tape {
        // Both ends get everything: what was theirs, what they sent themselves, and each of it damaged.
        for end in [*to, 1 - *to] {
            let handshake = &mut world.ends[end].handshake;
            handshake.handle_datagram(now, datagram);
            let mut damaged = datagram.clone();
            for at in (0..damaged.len()).step_by(7) {
                damaged[at] ^= 0x10;
                handshake.handle_datagram(now, &damaged);
                damaged[at] ^= 0x10;
            }
            for length in 0..datagram.len().min(96) {
                handshake.handle_datagram(now, &datagram[..length]);
            }
        }
    }
    world.collect();
    assert!(world.ends.iter().all(|e| e.seen.ready && !e.is_over()));
    for end in 0..2 {
        let _ = world.ends[end].handshake.send_message(b"still here");
    }
    world.run_until(|w| w.ends.iter().all(|e| !e.seen.messages.is_empty()));
    assert!(world.ends.iter().all(|e| e.seen.messages == [b"still here"]));
}

#[test]
fn a_hostile_peer_behind_the_gate_does_no_harm() {
    let mut recorded = World::fair();
    recorded.run_to_ready();
    for seed in 0..60 {
        let mut world = World::stormy(seed, Weather::default());
        let steps = world.chance.random_range(0..8);
        for _ in 0..steps {
            world.step();
        }
        for _ in 0..40 {
            let pick = world.chance.random_range(0..recorded.tape.len());
            let (to, datagram) = &recorded.tape[pick];
            let mut inner = datagram[..datagram.len() - GATE_TAG].to_vec();
            for _ in 0..world.chance.random_range(1..6) {
                let at = world.chance.random_range(0..inner.len());
                inner[at] = world.chance.random();
            }
            let length = world.chance.random_range(0..=inner.len());
            if world.chance.random() {
                inner.truncate(length);
            }
            world.ends[1 - to].handshake.gate.close(&mut inner);
            let now = world.now;
            world.ends[*to].handshake.handle_datagram(now, &inner);
        }
        world.run_until(|w| w.ends.iter().all(|e| e.seen.ready || e.is_over()));
    }
}

#[test]
fn a_replayed_first_flight_makes_no_second_connection() {
    let mut world = World::fair();
    world.run_to_ready();
    let now = world.now;
    world.ends[1].handshake.close(now);
    world.run_until(|w| w.ends.iter().all(End::is_over));
    assert!(world.ends.iter().all(|e| e.seen.closed));
    world.run_until(|_| false);
    let first = world.tape[0].1.clone();
    world.ends[1].handshake.handle_datagram(world.now, &first);
    let mut out = Vec::new();
    assert!(!world.ends[1].handshake.poll_transmit(world.now, &mut out));
    assert!(world.ends[1].handshake.is_spent());
    let taken = world.ends[0].handshake.send_message(b"late");
    assert_eq!(taken, Err(MessageError::Closed));
}

#[test]
fn a_peer_that_breaks_the_stream_is_named() {
    let bad: &[&[u8]] = &[
        &[0, 0, 0, 0, 0],             // a kind that no version has
        &[1, 0, 0, 0, 0],             // a second Hello
        &[2, 0, 0, 0, 0],             // Ready from the client
        &[3, 0xFF, 0xFF, 0xFF, 0xFF], // a message of 4 GiB
    ];
    for bytes in bad {
        let mut world = World::fair();
        world.run_to_ready();
        let client = &mut world.ends[0].handshake;
        client.outgoing.messages.extend(bytes.iter());
        client.write();
        world.run_until(|w| w.ends.iter().all(End::is_over));
        for end in &world.ends {
            let error = end.seen.failed.as_ref().expect("failed");
            assert!(matches!(error, SessionError::PeerMisbehaved(_)), "{error}");
        }
    }
}
