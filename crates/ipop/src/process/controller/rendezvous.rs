//! Starts the adapter of one network's rendezvous and passes on what it tells.

use api::NetworkId;
use api::rendezvous::{RendezvousCommand, RendezvousEvent};
use tokio::sync::mpsc;

use super::Wake;

const EVENTS_WAITING: usize = 64;
const COMMANDS_WAITING: usize = 256;

/// One adapter; it ends with the command `Stop` or when the sender is dropped.
pub(super) fn start(network: NetworkId, wakes: mpsc::Sender<Wake>) -> mpsc::Sender<RendezvousCommand> {
    let (commands, asked) = mpsc::channel(COMMANDS_WAITING);
    let (events, mut told) = mpsc::channel::<RendezvousEvent>(EVENTS_WAITING);
    tokio::task::spawn_local(rendezvous::client::connect(
        events,
        asked,
        rendezvous::client::Options::default(),
    ));
    tokio::task::spawn_local(async move {
        while let Some(event) = told.recv().await {
            if wakes.send(Wake::Rendezvous(network, event)).await.is_err() {
                return;
            }
        }
    });
    commands
}
