//! The processes of a node and how they start and end.

pub(crate) mod background;
pub(crate) mod controller;
pub(crate) mod server;
pub(crate) mod supervisor;
pub(crate) mod tincan;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::state::StateDir;

/// Before any thread starts: who parses what strangers send must be worth nothing to them. The process keeps one folder of its own.
fn give_up_privileges(state: &StateDir, folder: &Path) -> anyhow::Result<()> {
    let owner = state.controller_owner();
    if !folder.exists() {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    if os::own_identity().uid == 0 {
        std::os::unix::fs::chown(folder, Some(owner.uid), Some(owner.gid))
            .with_context(|| format!("cannot hand over {}", folder.display()))?;
    }
    if owner == os::own_identity() {
        os::give_up_capabilities()?;
    } else {
        os::run_as_unprivileged(owner)?;
    }
    Ok(())
}

/// Lets go of code that a process no longer needs, when it comes to rest after something out of the ordinary.
#[derive(Debug)]
struct Thrift {
    last: Instant,
    is_due: bool,
}

impl Thrift {
    /// Quiet for so long is rest.
    const REST: Duration = Duration::from_secs(1);
    /// Not more often than that: what comes back costs a page fault a block.
    const INTERVAL: Duration = Duration::from_secs(10);

    /// The start was out of the ordinary; what follows it soon is part of it.
    fn new() -> Self {
        Self {
            last: Instant::now(),
            is_due: true,
        }
    }

    /// Something out of the ordinary happens.
    fn stir(&mut self) {
        self.is_due = true;
    }

    /// Nothing is to be done for so long (none: until something is heard); gives how long to wait, to look again.
    fn pause(&mut self, pause: Option<Duration>) -> Option<Duration> {
        if !self.is_due || pause.is_some_and(|pause| pause < Self::REST) {
            return pause;
        }
        let now = Instant::now();
        let wait = (self.last + Self::INTERVAL).saturating_duration_since(now);
        if wait > Duration::ZERO {
            return Some(pause.map_or(wait, |pause| pause.min(wait)));
        }
        os::release_code();
        *self = Self {
            last: now,
            is_due: false,
        };
        pause
    }
}

/// Ready when SIGINT or SIGTERM came.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
