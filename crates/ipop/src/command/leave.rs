//! `ipop leave`: leaves a group; nothing of it stays.

use std::process::ExitCode;

use api::control::{ControlCall, GroupRef};
use api::rpc::Empty;
use clap::Args;

use super::PATIENCE;
use crate::client::Client;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipop leave home")]
pub(super) struct Leave {
    /// Name or id of the group.
    group: String,
}

impl Leave {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let call = ControlCall::LeaveGroup(GroupRef {
            group: self.group.clone(),
        });
        let _: Empty = Client::connect(state)?.call(&call, PATIENCE)?;
        println!("left {}", self.group);
        Ok(ExitCode::SUCCESS)
    }
}
