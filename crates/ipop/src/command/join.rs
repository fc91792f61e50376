//! `ipop join`: joins a group by an invite.

use std::process::ExitCode;

use api::control::{ControlCall, JoinGroup, Joined};
use api::link::default_mtu;
use clap::Args;

use super::create::AccountArguments;
use super::{MTUS, PATIENCE_NETWORK, text};
use crate::client::Client;
use crate::process::background;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Ready when the first member answers.\n\nExamples:\n  ipop join ipop://...\n  ipop join - --name bob < invite.txt    (keeps the invite out of the process list)"
)]
pub(super) struct Join {
    /// The `ipop://` link (- reads it from standard input).
    invite: String,
    /// Name of this machine in the group; its host name where left out.
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// MTU of this machine's network card, 1280 to 9000: more pays where the ways to others carry jumbo frames.
    #[arg(long, value_name = "BYTES", default_value_t = default_mtu(), value_parser = clap::value_parser!(u16).range(MTUS))]
    mtu: u16,
    #[command(flatten)]
    account: AccountArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Join {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let account = self.account.read()?;
        let invite = if self.invite == "-" {
            std::io::read_to_string(std::io::stdin())?
        } else {
            self.invite
        };
        background::ensure_up(state)?;
        let call = JoinGroup {
            invite: invite.trim().to_owned(),
            host_name: self.name,
            account,
            mtu: Some(self.mtu),
        };
        let joined: Joined = Client::connect(state)?.call(&ControlCall::JoinGroup(call), PATIENCE_NETWORK)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&joined)?);
            return Ok(ExitCode::SUCCESS);
        }
        let group = &joined.group;
        let own = text::own_addresses(group);
        println!("joined {} as {} at {own}", group.name, group.host_name);
        println!(
            "{} answers after {:.1} s; `ipop status` shows everybody",
            joined.member,
            joined.elapsed_ms as f64 / 1000.0
        );
        Ok(ExitCode::SUCCESS)
    }
}
