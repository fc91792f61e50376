//! `ipop daemon`: runs the processes of a node, restarts a dead one, ends all of them cleanly.
//!
//! Promises: one daemon a state directory; a child never outlives it; SIGHUP makes it look for a rendezvous to host.
//! Refuses to know: what the children do.

use std::collections::BTreeMap;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use os::{Signal, Signals, StateLock};

use crate::state::StateDir;

/// A child that lived this long is restarted at once; one that dies sooner waits, longer each time.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long children have to end before they are killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Set for children, which then end with their parent.
pub(crate) const SUPERVISED: &str = "IPOP_SUPERVISED";

/// What a node consists of, in the order in which it is started; it ends in the opposite order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Server,
    Tincan,
    Controller,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Tincan => "tincan",
            Self::Controller => "controller",
        }
    }
}

#[derive(Debug)]
struct Supervisor<'a> {
    state: &'a StateDir,
    verbose: u8,
    running: BTreeMap<Role, Running>,
    waiting: BTreeMap<Role, Waiting>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    since: Instant,
    early_deaths: u32,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    until: Instant,
    early_deaths: u32,
}

/// Runs until a signal ends it.
pub(crate) fn run(state: &StateDir, verbose: u8) -> anyhow::Result<ExitCode> {
    state.prepare()?;
    let _lock = StateLock::acquire(state.path())?;
    let signals = Signals::install()?;
    let mut supervisor = Supervisor {
        state,
        verbose,
        running: BTreeMap::new(),
        waiting: BTreeMap::new(),
    };
    supervisor.start_missing()?;
    os::release_code();
    loop {
        match signals.wait(supervisor.patience()).context("cannot wait for signals")? {
            Some(Signal::Terminate | Signal::Interrupt) => break,
            Some(Signal::Child | Signal::Hangup) | None => {}
        }
        supervisor.reap()?;
        supervisor.start_missing()?;
    }
    supervisor.end();
    Ok(ExitCode::SUCCESS)
}

impl Supervisor<'_> {
    fn wanted(&self) -> Vec<Role> {
        let hosts = self.state.server_settings().exists();
        hosts
            .then_some(Role::Server)
            .into_iter()
            .chain([Role::Tincan, Role::Controller])
            .collect()
    }

    fn start_missing(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for role in self.wanted() {
            let due = self.waiting.get(&role).is_none_or(|waiting| waiting.until <= now);
            if due && !self.running.contains_key(&role) {
                let early_deaths = self.waiting.remove(&role).map_or(0, |waiting| waiting.early_deaths);
                let child = self.spawn(role)?;
                self.running.insert(
                    role,
                    Running {
                        child,
                        since: now,
                        early_deaths,
                    },
                );
            }
        }
        Ok(())
    }

    fn spawn(&self, role: Role) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("cannot find my own program file")?;
        let mut command = Command::new(program);
        match role {
            Role::Server => command.arg("server").args(super::server::hosted_arguments(self.state)?),
            Role::Tincan | Role::Controller => command.arg(role.name()),
        };
        command
            .arg("--state")
            .arg(self.state.path())
            .args((0..self.verbose).map(|_| "-v"));
        command.env(SUPERVISED, std::process::id().to_string());
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        command.spawn().with_context(|| format!("cannot start {}", role.name()))
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut dead = Vec::new();
        for (role, running) in &mut self.running {
            if let Some(status) = running.child.try_wait().context("cannot wait for a child")? {
                dead.push((*role, status, running.since, running.early_deaths));
            }
        }
        for (role, status, since, deaths) in dead {
            self.running.remove(&role);
            let early_deaths = if now - since >= HEALTHY_AFTER { 0 } else { deaths + 1 };
            let wait = backoff(early_deaths);
            tracing::warn!(process = role.name(), %status, restart_ms = wait.as_millis(), "a process died");
            self.waiting.insert(
                role,
                Waiting {
                    until: now + wait,
                    early_deaths,
                },
            );
        }
        Ok(())
    }

    /// Until the next restart is due.
    fn patience(&self) -> Option<Duration> {
        let next = self.waiting.values().map(|waiting| waiting.until).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn end(mut self) {
        let roles: Vec<Role> = self.running.keys().rev().copied().collect();
        for role in roles {
            if let Some(running) = self.running.remove(&role) {
                end_child(running.child);
            }
        }
    }
}

/// The first early death restarts at once: a link must be back within three seconds of a kill.
fn backoff(early_deaths: u32) -> Duration {
    match early_deaths {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis(100).saturating_mul(1 << n.min(10)).min(WAIT_MAX),
    }
}

fn end_child(mut child: Child) {
    os::terminate(child.id());
    let deadline = Instant::now() + END_WITHIN;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Called first by every process that a daemon starts: it ends with the daemon, however that ends.
pub(crate) fn follow_parent() -> anyhow::Result<()> {
    let Some(parent) = std::env::var(SUPERVISED).ok().and_then(|pid| pid.parse().ok()) else {
        return Ok(());
    };
    os::die_with_parent(parent).context("cannot tie myself to the daemon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait() {
        let waits: Vec<u128> = (0..9).map(|n| backoff(n).as_millis()).collect();
        assert_eq!(waits, [0, 0, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }
}
