//! `ipop down`: takes NICs, routes and names away again.

use std::process::ExitCode;

use api::control::ControlCall;
use api::rpc::Empty;
use clap::Args;

use super::PATIENCE;
use crate::client::Client;
use crate::process::background;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "A daemon that `ipop up` started in the background ends too; one started by hand or by systemd goes on.\n\nExample:\n  ipop down"
)]
pub(super) struct Down {}

impl Down {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let _: Empty = Client::connect(state)?.call(&ControlCall::Down(Empty {}), PATIENCE)?;
        background::end(state)?;
        Ok(ExitCode::SUCCESS)
    }
}
