//! The processes of a node and how they start and end.

pub(crate) mod background;
pub(crate) mod controller;
pub(crate) mod server;
pub(crate) mod supervisor;
pub(crate) mod tincan;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

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
