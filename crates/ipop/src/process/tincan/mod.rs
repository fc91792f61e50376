//! `ipop tincan`: the shell of crate `tincan`; sockets, NICs, keys on disk, and the link API's door.
//!
//! Promises: one thread owns the machine and is its only clock; frames that need no decision never meet it; at its end, and at
//! SIGINT and SIGTERM, NICs, routes and names are gone.
//! Refuses to know: what the machine decides.

mod abilities;
mod api;
mod engine;
pub(crate) mod keys;
mod mapping;
mod names;
mod nics;
mod placement;
mod resolver;
mod streams;
mod trust;
mod workers;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use ::api::NetworkId;
use anyhow::Context;
use os::{Signal, Signals, UdpSockets, Watcher};
use tincan::fast::{LinkSlot, Tell};
use tincan::record::ReceiverIndex;
use tincan::turn::StreamId;

use self::abilities::Without;
use self::api::{ClientId, FromClient};
use self::engine::Engine;
use self::placement::Placement;
use self::streams::FromStream;
use self::workers::{Published, Shared};
use crate::state::StateDir;

/// Wake-ups that may wait for the engine: at 1500 bytes each 3 MB.
const WAKES_WAITING: usize = 2048;
/// Address changes come in bursts; one look at the end of a burst is enough.
const SETTLE: Duration = Duration::from_millis(50);

/// Everything that the engine can hear of.
pub(crate) enum Wake {
    /// A datagram that the fast path does not settle.
    Udp {
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A transit payload that a worker opened and the fast path does not settle.
    Inside(ReceiverIndex, Vec<u8>),
    /// A frame that the fast path does not settle.
    Frame(NetworkId, Vec<u8>),
    /// Traffic began on a link that the engine does not watch.
    Traffic(LinkSlot),
    /// A worker opened a record that the engine should know of.
    Opened(Tell),
    /// The way to an address does not carry datagrams of so many bytes.
    TooBig(SocketAddr, usize),
    /// A TCP stream to a TURN server.
    Stream(StreamId, FromStream),
    /// A client of the link API.
    Client(ClientId, FromClient),
    /// Addresses or routes of this machine changed.
    Addresses,
    /// What the router says to a port mapping.
    Mapping(mapping::Outcome),
    /// A NIC cannot be read any more.
    NicLost(NetworkId, String),
    /// A worker has much to do.
    Rush,
    /// A signal asked us to end.
    Stop,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(state: &StateDir, port: u16) -> anyhow::Result<ExitCode> {
    super::supervisor::follow_parent()?;
    state.prepare()?;
    let (wakes, waking) = sync_channel(WAKES_WAITING);
    let without = Without::from_env()?;
    let workers = without.workers();
    let wakers: Result<Vec<_>, _> = (0..workers).map(|_| os::Waker::new()).collect();
    let wakers = wakers.context("cannot make a waker")?;
    let shared = Shared {
        snapshot: Arc::new(Published::default()),
        nics: Arc::new(Published::default()),
        sockets: Arc::new(UdpSockets::bind(&without.udp(port, workers))?),
        without,
        wakers: wakers.into(),
        wakes: wakes.clone(),
        overflow: Arc::new(AtomicU64::new(0)),
        load: Arc::default(),
        full_sources: Arc::default(),
    };
    let threads = (0..workers).map(|number| workers::start(&shared, number));
    let threads = threads.collect::<anyhow::Result<_>>()?;
    let placement = Placement::new(shared.clone(), threads);
    let mut engine = Engine::new(shared, placement, keys::KeyFiles::open(state)?)?;
    watch_signals(wakes.clone())?;
    watch_addresses(wakes.clone())?;
    api::listen(&state.tincan_socket(), state.controller_owner(), wakes)?;
    engine_loop(&mut engine, &waking);
    engine.end();
    let _ = std::fs::remove_file(state.tincan_socket());
    Ok(ExitCode::SUCCESS)
}

fn engine_loop(engine: &mut Engine, waking: &Receiver<Wake>) {
    let mut thrift = super::Thrift::new();
    loop {
        engine.obey();
        let wake = match thrift.pause(engine.pause()) {
            Some(pause) => match waking.recv_timeout(pause) {
                Ok(wake) => wake,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    engine.handle_timeout();
                    continue;
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            },
            None => match waking.recv() {
                Ok(wake) => wake,
                Err(_) => return,
            },
        };
        match wake {
            Wake::Stop => return,
            Wake::Client(..) | Wake::Stream(..) => thrift.stir(),
            _ => {}
        }
        engine.handle(wake);
    }
}

fn watch_signals(wakes: SyncSender<Wake>) -> anyhow::Result<()> {
    let signals = Signals::install()?;
    let watch = move || {
        while let Ok(signal) = signals.wait(None) {
            match signal {
                Some(Signal::Terminate | Signal::Interrupt) => drop(wakes.send(Wake::Stop)),
                Some(Signal::Child | Signal::Hangup) | None => {}
            }
        }
    };
    spawn("signals", watch)
}

fn watch_addresses(wakes: SyncSender<Wake>) -> anyhow::Result<()> {
    let watcher = Watcher::new()?;
    let watch = move || {
        while let Ok(changes) = watcher.wait(None) {
            if changes.is_some_and(|changes| changes.addresses || changes.links || changes.routes) {
                while let Ok(Some(_)) = watcher.wait(Some(SETTLE)) {}
                if wakes.send(Wake::Addresses).is_err() {
                    return;
                }
            }
        }
    };
    spawn("addresses", watch)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(work)
        .context("cannot start a thread")?;
    Ok(())
}
