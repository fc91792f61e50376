//! `ipop up`: starts what is not running, brings networks up; on a new machine makes a group.

use std::process::ExitCode;

use api::control::{ControlCall, CreateGroup};
use api::rpc::Empty;
use clap::Args;

use super::{PATIENCE, create, status};
use crate::client::Client;
use crate::process::background;
use crate::state::StateDir;

/// Name of the group that a new machine makes for itself.
const FIRST_GROUP: &str = "home";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipop up && ipop status")]
pub(super) struct Up {}

impl Up {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        background::ensure_running(state)?;
        let now = status::fetch(state)?;
        if now.groups.is_empty() {
            return first_group(state);
        }
        let _: Empty = Client::connect(state)?.call(&ControlCall::Up(Empty {}), PATIENCE)?;
        print!("{}", status::render(&status::fetch(state)?));
        Ok(ExitCode::SUCCESS)
    }
}

fn first_group(state: &StateDir) -> anyhow::Result<ExitCode> {
    background::host_rendezvous(state)?;
    let server = background::own_rendezvous(state)?;
    let call = CreateGroup {
        name: FIRST_GROUP.into(),
        subnet: None,
        server: server.to_string(),
        host_name: None,
        account: None,
        mtu: None,
    };
    let (group, link) = create::create(state, call)?;
    create::show(&group, &link);
    println!(
        "this machine is the group's rendezvous too ({}): the others must be able to reach it",
        server.label()
    );
    Ok(ExitCode::SUCCESS)
}
