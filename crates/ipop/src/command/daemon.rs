//! `ipop daemon`, `ipop tincan`, `ipop controller`: the processes.

use std::process::ExitCode;

use clap::Args;

use crate::process::{controller, supervisor, tincan};
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Ends cleanly at SIGINT and SIGTERM: NICs, routes, names and child processes are gone.\n\nExample:\n  ipop daemon --state /var/lib/ipop"
)]
pub(super) struct Daemon {}

impl Daemon {
    pub(super) fn run(self, state: &StateDir, verbose: u8) -> anyhow::Result<ExitCode> {
        supervisor::run(state, verbose)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Serves the link API (docs/contract.json) on STATE/tincan.sock.\n\nExample:\n  ipop tincan --state /tmp/ann"
)]
pub(super) struct Tincan {
    /// UDP port for both families; any free one where left out.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl Tincan {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        tincan::run(state, self.port)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Serves the control API (docs/contract.json) on STATE/control.sock and drives the tincan of the same state directory.\n\nExample:\n  ipop controller --state /tmp/ann"
)]
pub(super) struct Controller {}

impl Controller {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        controller::run(state)
    }
}
