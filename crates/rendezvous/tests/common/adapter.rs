//! One adapter under test.

use api::rendezvous::{Login, Occupant, RendezvousCommand, RendezvousEvent, RendezvousFault, ServerAddress, Service};
use rendezvous::client::{Options, connect};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;

/// An adapter and what it told.
pub struct Adapter {
    pub commands: mpsc::Sender<RendezvousCommand>,
    events: mpsc::Receiver<RendezvousEvent>,
    task: JoinHandle<()>,
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A login without registration.
pub fn login(server: ServerAddress, user: &str, password: &str) -> Login {
    Login {
        server,
        user: user.into(),
        password: password.into(),
        register: false,
    }
}

impl Adapter {
    pub fn idle(options: Options) -> Self {
        let (commands, commands_taken) = mpsc::channel(16);
        let (events_given, events) = mpsc::channel(16);
        let task = tokio::spawn(connect(events_given, commands_taken, options));
        Adapter { commands, events, task }
    }

    pub async fn start(login: Login, room: &str, card: &[u8], options: Options) -> Self {
        let adapter = Self::idle(options);
        adapter
            .command(RendezvousCommand::Start {
                login,
                room: room.into(),
                card: card.into(),
            })
            .await;
        adapter
    }

    pub async fn command(&self, command: RendezvousCommand) {
        self.commands.send(command).await.expect("the adapter takes commands");
    }

    pub async fn send(&self, to: &Occupant, bytes: Vec<u8>) {
        self.command(RendezvousCommand::Send { to: to.clone(), bytes }).await;
    }

    /// The next event.
    pub async fn event(&mut self) -> RendezvousEvent {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        event.expect("the adapter lives")
    }

    /// The first thing that `pick` likes; the rest is skipped.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&RendezvousEvent) -> Option<T>) -> T {
        let mut skipped = Vec::new();
        loop {
            let Ok(event) = timeout(PATIENCE, self.events.recv()).await else {
                panic!("no {what}; instead {skipped:?}");
            };
            let event = event.expect("the adapter lives");
            match pick(&event) {
                Some(picked) => return picked,
                None => skipped.push(event),
            }
        }
    }

    pub async fn online(&mut self) {
        self.until("online", |event| match event {
            RendezvousEvent::Online => Some(()),
            RendezvousEvent::Offline { reason, fault, .. } => panic!("{fault:?}: {reason}"),
            _ => None,
        })
        .await;
    }

    pub async fn online_again(&mut self) {
        self.until("online", |event| matches!(event, RendezvousEvent::Online).then_some(()))
            .await;
    }

    pub async fn offline(&mut self) -> (RendezvousFault, String, u64) {
        self.until("offline", |event| match event {
            RendezvousEvent::Offline {
                reason,
                fault,
                retry_ms,
            } => Some((*fault, reason.clone(), *retry_ms)),
            _ => None,
        })
        .await
    }

    /// Who shows this card.
    pub async fn present(&mut self, card: &[u8]) -> Occupant {
        self.until("occupant", |event| match event {
            RendezvousEvent::Present { occupant, card: shown } if shown == card => Some(occupant.clone()),
            _ => None,
        })
        .await
    }

    pub async fn absent(&mut self, who: &Occupant) {
        self.until("absence", |event| match event {
            RendezvousEvent::Absent { occupant } if occupant == who => Some(()),
            _ => None,
        })
        .await;
    }

    pub async fn received(&mut self) -> (Occupant, Vec<u8>) {
        self.until("bytes", |event| match event {
            RendezvousEvent::Received { from, bytes } => Some((from.clone(), bytes.clone())),
            _ => None,
        })
        .await
    }

    pub async fn services(&mut self) -> Vec<Service> {
        self.until("services", |event| match event {
            RendezvousEvent::Services(services) => Some(services.clone()),
            _ => None,
        })
        .await
    }
}
