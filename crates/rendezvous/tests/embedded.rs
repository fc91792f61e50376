//! The client against the embedded server.

mod common;

use api::rendezvous::{Login, RendezvousCommand, RendezvousFault, ServerAddress};
use rendezvous::client::Options;
use rendezvous::server::{Server, ServerConfig};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use common::adapter::Adapter;
use common::{DOMAIN, Scratch};

/// A running server; ends when dropped.
struct House {
    scratch: Scratch,
    address: ServerAddress,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl House {
    async fn open() -> Self {
        let scratch = Scratch::new("embedded");
        let (address, stop, task) = serve(&scratch, 0).await;
        House {
            scratch,
            address,
            stop: Some(stop),
            task: Some(task),
        }
    }

    async fn close(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            task.await.expect("the server ends well");
        }
    }

    async fn reopen(&mut self) {
        let port = self.address.hosts[0].port.expect("a port");
        let (_, stop, task) = serve(&self.scratch, port).await;
        (self.stop, self.task) = (Some(stop), Some(task));
    }

    async fn enter(&self, user: &str, card: &[u8]) -> Adapter {
        Adapter::start(self.login(user), "room1", card, Options::default()).await
    }

    fn login(&self, user: &str) -> Login {
        let password = format!("{user}-secret");
        Login {
            server: self.address.clone(),
            user: user.into(),
            password,
            register: true,
        }
    }
}

async fn serve(scratch: &Scratch, port: u16) -> (ServerAddress, oneshot::Sender<()>, JoinHandle<()>) {
    let config = ServerConfig::new(
        DOMAIN,
        vec![([127, 0, 0, 1], port).into()],
        scratch.path().join("state"),
    );
    let server = Server::bind(config).await.expect("the server starts");
    let running = server.running().clone();
    let mut address: ServerAddress = format!("{}?domain={DOMAIN}", running.tcp[0])
        .parse()
        .expect("an address");
    (address.pin, address.token) = (Some(running.pin), Some(running.token));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        server.run(shutdown).await.expect("the server serves");
    });
    (address, stop, task)
}

#[tokio::test]
async fn two_register_meet_and_talk() {
    let house = House::open().await;
    let (mut ann, mut bob) = (
        house.enter("ann", b"ann's card").await,
        house.enter("bob", b"bob's card").await,
    );
    ann.online().await;
    bob.online().await;
    let bob_seen = ann.present(b"bob's card").await;
    let ann_seen = bob.present(b"ann's card").await;
    for size in [0, 1, 9_000, 96 * 1024] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        ann.send(&bob_seen, bytes.clone()).await;
        bob.send(&ann_seen, bytes.clone()).await;
        assert!(bob.received().await == (ann_seen.clone(), bytes.clone()), "{size}");
        assert!(ann.received().await == (bob_seen.clone(), bytes), "{size}");
    }
    bob.command(RendezvousCommand::Card(b"new".into())).await;
    assert_eq!(ann.present(b"new").await, bob_seen);
    drop(bob);
    ann.absent(&bob_seen).await;
}

#[tokio::test]
async fn services_come_with_the_servers_pin() {
    let house = House::open().await;
    let mut ann = house.enter("ann", b"").await;
    let services = ann.services().await;
    let pinned = services.iter().any(|service| match service {
        api::rendezvous::Service::Turn { pin, .. } => pin.is_some() && *pin == house.address.pin,
        api::rendezvous::Service::Stun(_) => false,
    });
    assert!(pinned, "{services:?}");
}

#[tokio::test]
async fn a_restart_heals_by_itself() {
    let mut house = House::open().await;
    let (mut ann, mut bob) = (house.enter("ann", b"1").await, house.enter("bob", b"2").await);
    ann.present(b"2").await;
    bob.present(b"1").await;
    house.close().await;
    assert_eq!(ann.offline().await.0, RendezvousFault::Lost);
    house.reopen().await;
    ann.online_again().await;
    let bob_seen = ann.present(b"2").await;
    ann.send(&bob_seen, b"again".to_vec()).await;
    assert_eq!(bob.received().await.1, b"again");
}

#[tokio::test]
async fn wrong_passwords_tokens_and_pins_are_told_apart() {
    let house = House::open().await;
    house.enter("ann", b"").await.online().await;
    let mut wrong = house.login("ann");
    wrong.password = "guessed".into();
    let mut thief = Adapter::start(wrong, "room1", b"", Options::default()).await;
    assert_eq!(thief.offline().await.0, RendezvousFault::WrongPassword);
    let mut stranger = house.login("carla");
    stranger.server.token = Some("guessed".into());
    let mut stranger = Adapter::start(stranger, "room1", b"", Options::default()).await;
    assert_eq!(stranger.offline().await.0, RendezvousFault::RegistrationRefused);
    let mut astray = house.login("ann");
    astray.server.pin = Some([7; 32]);
    let mut astray = Adapter::start(astray, "room1", b"", Options::default()).await;
    assert_eq!(astray.offline().await.0, RendezvousFault::Impostor);
}
