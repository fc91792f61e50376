//! `ipop controller`: the shell of crate `controller`; without privilege, without keys, without frames.
//!
//! Promises: what an answer promises is on disk before the answer leaves; tincan and the rendezvous may come and go at any time.
//! Refuses to know: what the machine decides, and why.

mod door;
mod rendezvous;
mod store;
mod tincan;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use api::NetworkId;
use api::control::ControlCall;
use api::rendezvous::{RendezvousCommand, RendezvousEvent};
use api::rpc::{ApiError, Message};
use controller::{Controller, ControllerConfig, Now, Output};
use serde_json::Value;
use tokio::sync::mpsc;

use self::door::{Caller, Door};
use crate::state::StateDir;

/// Wake-ups that may wait; a sender beyond that waits too.
const WAKES_WAITING: usize = 256;

/// Everything that the machine can hear of.
enum Wake {
    /// A person or program asks.
    Control(Caller, Result<(Value, ControlCall), (Value, ApiError)>),
    /// tincan was reached, answered, told something, or was lost.
    Tincan(tincan::FromTincan),
    /// A rendezvous told something.
    Rendezvous(NetworkId, RendezvousEvent),
    /// A signal asked us to end.
    Stop,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(state: &StateDir) -> anyhow::Result<ExitCode> {
    super::supervisor::follow_parent()?;
    state.prepare()?;
    super::give_up_privileges(state, &state.controller())?;
    let store = store::StoreFile::open(state)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(state, store))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(state: &StateDir, store: store::StoreFile) -> anyhow::Result<()> {
    let (wakes, mut waking) = mpsc::channel(WAKES_WAITING);
    let config = ControllerConfig {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        host_name: os::host_name(),
        seed: super::tincan::keys::random()?,
    };
    let machine = Controller::new(config, store.load()?, now())?;
    let mut shell = Shell {
        machine,
        store,
        door: Door::open(state, wakes.clone())?,
        tincan: tincan::Connection::start(state, wakes.clone()),
        rendezvous: BTreeMap::new(),
        wakes: wakes.clone(),
    };
    shell.machine.handle_host(now(), host_routes());
    shell.obey();
    tokio::task::spawn_local(async move {
        super::ended().await;
        let _ = wakes.send(Wake::Stop).await;
    });
    let mut thrift = super::Thrift::new();
    loop {
        let pause = shell
            .machine
            .poll_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let wake = match thrift.pause(pause) {
            Some(pause) => tokio::time::timeout(pause, waking.recv()).await.ok(),
            None => Some(waking.recv().await),
        };
        match wake {
            Some(Some(Wake::Stop) | None) => break,
            Some(Some(wake)) => {
                thrift.stir();
                shell.handle(wake);
            }
            None => shell.machine.handle_timeout(now()),
        }
        shell.obey();
    }
    shell.end().await;
    Ok(())
}

struct Shell {
    machine: Controller,
    store: store::StoreFile,
    door: Door,
    tincan: tincan::Connection,
    rendezvous: BTreeMap<NetworkId, mpsc::Sender<RendezvousCommand>>,
    wakes: mpsc::Sender<Wake>,
}

impl Shell {
    fn handle(&mut self, wake: Wake) {
        let now = now();
        match wake {
            Wake::Control(caller, Ok((id, call))) => {
                // Routes are looked at when they matter: before a subnet is chosen or judged.
                if matches!(call, ControlCall::CreateGroup(_) | ControlCall::JoinGroup(_)) {
                    self.machine.handle_host(now, host_routes());
                }
                if matches!(call, ControlCall::Status(_)) {
                    self.machine.handle_memory(os::memory_in_use().unwrap_or(0));
                }
                let request = self.door.remember(caller, id);
                self.machine.handle_control(now, request, call);
            }
            Wake::Control(caller, Err((id, error))) => self.door.answer_caller(caller, id, Err(error)),
            Wake::Tincan(tincan::FromTincan::Up(info)) => self.machine.handle_tincan_up(now, info),
            Wake::Tincan(tincan::FromTincan::Down(reason)) => self.machine.handle_tincan_down(now, reason),
            Wake::Tincan(tincan::FromTincan::Reply(id, result)) => self.machine.handle_reply(now, id, result),
            Wake::Tincan(tincan::FromTincan::Event(event)) => self.machine.handle_event(now, event),
            Wake::Rendezvous(network, event) => self.machine.handle_rendezvous(now, network, event),
            Wake::Stop => {}
        }
    }

    /// Carries out what the machine wants.
    fn obey(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Call(id, call) => self.tincan.call(id, &call),
                Output::Rendezvous(network, command) => self.command(network, command),
                Output::Reply(id, result) => self.door.answer(id, result),
                Output::Save(store) => self.save(&store),
            }
        }
    }

    fn save(&mut self, store: &controller::Store) {
        if let Err(error) = self.store.save(store) {
            tracing::error!(
                "cannot store the membership ({error:#}): it is kept in memory; make room or mend the rights"
            );
            self.machine.handle_save_failed(&format!("{error:#}"));
        } else {
            self.machine.handle_saved();
        }
    }

    fn command(&mut self, network: NetworkId, command: RendezvousCommand) {
        let stop = command == RendezvousCommand::Stop;
        let adapter = self
            .rendezvous
            .entry(network)
            .or_insert_with(|| rendezvous::start(network, self.wakes.clone()));
        if adapter.try_send(command).is_err() {
            tracing::warn!("a rendezvous adapter does not keep up: a command is lost");
        }
        if stop {
            self.rendezvous.remove(&network);
        }
    }

    /// Leaves the rooms politely; networks stay up in tincan.
    async fn end(self) {
        for adapter in self.rendezvous.values() {
            let _ = adapter.try_send(RendezvousCommand::Stop);
        }
        let closed = async {
            for adapter in self.rendezvous.values() {
                adapter.closed().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), closed).await;
    }
}

fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Now {
        mono: Instant::now(),
        unix,
    }
}

/// Routes of this host with the interface of each, for the choice of a subnet that is free here.
fn host_routes() -> Vec<(api::Cidr, String)> {
    let routes = os::routes().unwrap_or_default();
    let interfaces = os::interfaces().unwrap_or_default();
    let named = |route: os::Route| {
        let cidr = api::Cidr::new(route.destination.address(), route.destination.length())?;
        let interface = interfaces.iter().find(|interface| interface.index == route.interface)?;
        Some((cidr, interface.name.clone()))
    };
    routes.into_iter().filter_map(named).collect()
}

/// The line that answers a request.
fn answer_line(id: Value, result: Result<Value, ApiError>) -> Vec<u8> {
    Message::Answer { id, result }.to_line()
}
