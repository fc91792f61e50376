//! The client against Prosody.

mod common;

use std::collections::BTreeSet;

use api::link::TurnTransport;
use api::rendezvous::{RendezvousCommand, RendezvousFault, Service};
use rendezvous::client::{Options, Roots};

use common::adapter::{Adapter, login};
use common::prosody::{Prosody, Setup};

async fn ann(server: &Prosody) -> Adapter {
    Adapter::start(
        login(server.pinned(), "ann", "ann-secret"),
        "room1",
        b"ann's card",
        Options::default(),
    )
    .await
}

async fn bob(server: &Prosody) -> Adapter {
    Adapter::start(
        login(server.pinned(), "bob", "bob-secret"),
        "room1",
        b"bob's card",
        Options::default(),
    )
    .await
}

#[tokio::test]
async fn two_meet_and_see_cards_updates_and_absence() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let (mut ann, mut bob) = (ann(&server).await, bob(&server).await);
    ann.online().await;
    bob.online().await;
    let bob_seen = ann.present(b"bob's card").await;
    bob.present(b"ann's card").await;
    bob.command(RendezvousCommand::Card(b"bob's new card".into())).await;
    assert_eq!(ann.present(b"bob's new card").await, bob_seen);
    bob.command(RendezvousCommand::Stop).await;
    ann.absent(&bob_seen).await;
}

#[tokio::test]
async fn bytes_of_every_size_go_both_ways() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let (mut ann, mut bob) = (ann(&server).await, bob(&server).await);
    let bob_seen = ann.present(b"bob's card").await;
    let ann_seen = bob.present(b"ann's card").await;
    for size in [0, 1, 2, 1_000, 9_000, 40_000, 96 * 1024] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        ann.send(&bob_seen, bytes.clone()).await;
        bob.send(&ann_seen, bytes.clone()).await;
        assert!(bob.received().await == (ann_seen.clone(), bytes.clone()), "{size}");
        assert!(ann.received().await == (bob_seen.clone(), bytes), "{size}");
    }
}

#[tokio::test]
async fn a_cut_connection_is_an_absence() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let (mut ann, bob) = (ann(&server).await, bob(&server).await);
    let bob_seen = ann.present(b"bob's card").await;
    drop(bob);
    ann.absent(&bob_seen).await;
}

#[tokio::test]
async fn starttls_and_certificates_do_as_well() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let room = "room1";
    let options = Options {
        roots: Roots::File(server.ca_file()),
    };
    let mut certified = Adapter::start(
        login(server.certified(), "ann", "ann-secret"),
        room,
        b"1",
        options.clone(),
    )
    .await;
    let mut pinned = Adapter::start(
        login(server.pinned_starttls(), "bob", "bob-secret"),
        room,
        b"2",
        Options::default(),
    )
    .await;
    certified.present(b"2").await;
    pinned.present(b"1").await;
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let mut ann = Adapter::start(login(server.pinned(), "ann", "wrong"), "room1", b"", Options::default()).await;
    let (fault, reason, retry_ms) = ann.offline().await;
    assert_eq!(fault, RendezvousFault::WrongPassword);
    assert!(
        reason.contains("ann@rdv.test") && reason.contains("127.0.0.1"),
        "{reason}"
    );
    assert!(retry_ms > 1_000 && !reason.contains("wrong\""), "{reason}");
}

#[tokio::test]
async fn an_impostor_is_named() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    for (port, pin) in [
        (server.direct_port, Some([7; 32])),
        (server.port, Some([7; 32])),
        (server.port, None),
    ] {
        let address = server.address(port, pin);
        let mut ann = Adapter::start(login(address, "ann", "ann-secret"), "room1", b"", Options::default()).await;
        let (fault, reason, _) = ann.offline().await;
        assert_eq!(fault, RendezvousFault::Impostor, "{reason}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_domain_is_refused() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let mut address = server.certified();
    address.domain = "other.test".into();
    let options = Options {
        roots: Roots::File(server.ca_file()),
    };
    let mut ann = Adapter::start(login(address, "ann", "ann-secret"), "room1", b"", options).await;
    let (fault, reason, _) = ann.offline().await;
    // Prosody itself may refuse a domain that it does not serve.
    assert!(
        matches!(fault, RendezvousFault::Impostor | RendezvousFault::Unsuitable),
        "{reason}"
    );
    assert!(reason.contains("domain") || reason.contains("other.test"), "{reason}");
}

#[tokio::test]
async fn nobody_at_home_is_unreachable() {
    let Some(mut server) = Prosody::start(&Setup::default()) else {
        return;
    };
    server.kill();
    let mut ann = ann(&server).await;
    assert_eq!(ann.offline().await.0, RendezvousFault::Unreachable);
    server.revive();
    ann.online_again().await;
}

#[tokio::test]
async fn a_restart_of_the_server_heals_by_itself() {
    let Some(mut server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let (mut ann, mut bob) = (ann(&server).await, bob(&server).await);
    ann.present(b"bob's card").await;
    bob.present(b"ann's card").await;
    server.kill();
    assert_eq!(ann.offline().await.0, RendezvousFault::Lost);
    assert_eq!(bob.offline().await.0, RendezvousFault::Lost);
    server.revive();
    ann.online_again().await;
    bob.online_again().await;
    let bob_seen = ann.present(b"bob's card").await;
    ann.send(&bob_seen, b"hello again".to_vec()).await;
    assert_eq!(bob.received().await.1, b"hello again");
}

#[tokio::test]
async fn accounts_are_registered_where_the_server_allows() {
    let Some(server) = Prosody::start(&Setup {
        registration: true,
        ..Setup::default()
    }) else {
        return;
    };
    let mut carla = login(server.pinned(), "carla", "carla-secret");
    carla.register = true;
    // The second time the account is there.
    for card in [b"1", b"2"] {
        let mut adapter = Adapter::start(carla.clone(), "room1", card, Options::default()).await;
        adapter.online().await;
    }
    // Somebody else's account stays theirs.
    carla.password = "guessed".into();
    let mut thief = Adapter::start(carla, "room1", b"", Options::default()).await;
    assert_eq!(thief.offline().await.0, RendezvousFault::WrongPassword);
}

#[tokio::test]
async fn refused_registration_is_named() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let mut carla = login(server.pinned(), "carla", "carla-secret");
    carla.register = true;
    let mut carla = Adapter::start(carla, "room1", b"", Options::default()).await;
    assert_eq!(carla.offline().await.0, RendezvousFault::RegistrationRefused);
    let setup = Setup {
        modules: &["smacks", "invites_register"],
        ..Setup::default()
    };
    let Some(server) = Prosody::start(&setup) else { return };
    let mut dora = login(server.pinned(), "dora", "dora-secret");
    dora.register = true;
    dora.server.token = Some("no-such-token".into());
    let mut dora = Adapter::start(dora, "room1", b"", Options::default()).await;
    let (fault, reason, _) = dora.offline().await;
    assert_eq!(fault, RendezvousFault::RegistrationRefused);
    assert!(
        reason.contains("token") && !reason.contains("no-such-token"),
        "{reason}"
    );
}

#[tokio::test]
async fn rooms_elsewhere_are_found_and_their_lack_is_named() {
    let Some(server) = Prosody::start(&Setup {
        rooms: Some("salon"),
        ..Setup::default()
    }) else {
        return;
    };
    let (mut one, mut two) = (ann(&server).await, bob(&server).await);
    let bob_seen = one.present(b"bob's card").await;
    assert!(bob_seen.0.contains("@salon."), "{bob_seen:?}");
    two.present(b"ann's card").await;
    let Some(server) = Prosody::start(&Setup {
        rooms: None,
        ..Setup::default()
    }) else {
        return;
    };
    let mut three = ann(&server).await;
    let (fault, reason, _) = three.offline().await;
    assert_eq!(fault, RendezvousFault::Unsuitable, "{reason}");
}

#[tokio::test]
async fn a_server_without_stream_management_does() {
    let Some(server) = Prosody::start(&Setup {
        modules: &[],
        ..Setup::default()
    }) else {
        return;
    };
    let (mut ann, mut bob) = (ann(&server).await, bob(&server).await);
    let bob_seen = ann.present(b"bob's card").await;
    ann.send(&bob_seen, b"x".to_vec()).await;
    assert_eq!(bob.received().await.1, b"x");
}

#[tokio::test]
async fn services_are_found_and_the_own_hosts_pin_goes_with_them() {
    let services = r#"
        { type = "stun", transport = "udp", host = "127.0.0.1", port = 3478 },
        { type = "turn", transport = "udp", host = "127.0.0.1", port = 3478, secret = "s", ttl = 3600 },
        { type = "turns", transport = "tcp", host = "127.0.0.1", port = 5349, secret = "s", ttl = 3600, algorithm = "turn" },
        { type = "ftp", transport = "tcp", host = "127.0.0.1", port = 21 },
    "#;
    let Some(server) = Prosody::start(&Setup {
        services,
        ..Setup::default()
    }) else {
        return;
    };
    let mut ann = ann(&server).await;
    let found = ann.services().await;
    assert!(
        found.contains(&Service::Stun(([127, 0, 0, 1], 3478).into())),
        "{found:?}"
    );
    let turns: BTreeSet<_> = found
        .iter()
        .filter_map(|service| match service {
            Service::Turn {
                address,
                transport,
                pin,
                username,
                password,
                expires_s,
                ..
            } => {
                assert!(!username.is_empty() && !password.is_empty());
                assert!(expires_s.is_some_and(|s| s > 3_000 && s <= 3_600), "{expires_s:?}");
                Some((
                    address.port(),
                    *transport == TurnTransport::Tls,
                    *pin == Some(server.certificate.pin),
                ))
            }
            Service::Stun(_) => None,
        })
        .collect();
    assert_eq!(turns, BTreeSet::from([(3478, false, false), (5349, true, true)]));
}

#[tokio::test]
async fn stop_leaves_and_start_returns() {
    let Some(server) = Prosody::start(&Setup::default()) else {
        return;
    };
    let (mut ann, mut bob) = (ann(&server).await, bob(&server).await);
    let bob_seen = ann.present(b"bob's card").await;
    bob.online().await;
    bob.command(RendezvousCommand::Stop).await;
    ann.absent(&bob_seen).await;
    let start = RendezvousCommand::Start {
        login: login(server.pinned(), "bob", "bob-secret"),
        room: "room1".into(),
        card: b"back".into(),
    };
    bob.command(start).await;
    bob.online().await;
    assert_ne!(ann.present(b"back").await, bob_seen);
}
