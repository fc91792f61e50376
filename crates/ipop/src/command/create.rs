//! `ipop create`: makes a group whose root key this node holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use api::Cidr;
use api::control::{Account, ControlCall, CreateGroup, GroupInfo};
use api::link::default_mtu;
use api::rendezvous::ServerAddress;
use clap::Args;

use super::{MTUS, PATIENCE_NETWORK, invite, text};
use crate::client::Client;
use crate::process::background;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Without --server this machine is the rendezvous as well: the others must be able to reach it.\n\nExamples:\n  ipop create home\n  ipop create lab --server 'xmpp://rdv.example.org:5222?pin=...&token=...'   (as `ipop server` prints it)\n  ipop create lab --server jabber.example.org --account ann@jabber.example.org --password-file secret"
)]
pub(super) struct Create {
    /// Name of the group: letters a-z, digits, hyphens.
    name: String,
    /// IPv4 subnet; a free one in 10.0.0.0/8 where left out.
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Cidr>,
    /// The rendezvous: a host, host:port, or what `ipop server` prints.
    #[arg(long, value_name = "ADDR")]
    server: Option<ServerAddress>,
    /// Name of this machine in the group; its host name where left out.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// MTU of this machine's network card, 1280 to 9000: more pays where the ways to others carry jumbo frames.
    #[arg(long, value_name = "BYTES", default_value_t = default_mtu(), value_parser = clap::value_parser!(u16).range(MTUS))]
    mtu: u16,
    #[command(flatten)]
    account: AccountArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// An account of the user's on the rendezvous; without one a fresh one is registered.
#[derive(Debug, Args)]
pub(super) struct AccountArguments {
    /// An account that exists already: user@domain.
    #[arg(long, value_name = "JID", requires = "password_file")]
    account: Option<String>,
    /// File with its password on the first line (- for standard input).
    #[arg(long, value_name = "FILE", requires = "account")]
    password_file: Option<PathBuf>,
}

impl AccountArguments {
    pub(super) fn read(self) -> anyhow::Result<Option<Account>> {
        let (Some(jid), Some(file)) = (self.account, self.password_file) else {
            return Ok(None);
        };
        let text = if file == Path::new("-") {
            std::io::read_to_string(std::io::stdin()).context("cannot read the password from standard input")?
        } else {
            std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read the password from {}", file.display()))?
        };
        let password = text.lines().next().unwrap_or_default().to_owned();
        if password.is_empty() {
            bail!("{} holds no password on its first line", file.display());
        }
        Ok(Some(Account { jid, password }))
    }
}

impl Create {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let account = self.account.read()?;
        if self.server.is_none() {
            background::host_rendezvous(state)?;
        }
        background::ensure_up(state)?;
        let server = match self.server {
            Some(server) => server,
            None => background::own_rendezvous(state)?,
        };
        let call = CreateGroup {
            name: self.name,
            subnet: self.subnet,
            server: server.to_string(),
            host_name: self.host,
            account,
            mtu: Some(self.mtu),
        };
        let (group, link) = create(state, call)?;
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&serde_json::json!({ "group": group, "invite": link }))?
            );
        } else {
            show(&group, &link);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the group and a first invite.
pub(super) fn create(state: &StateDir, call: CreateGroup) -> anyhow::Result<(GroupInfo, String)> {
    let mut client = Client::connect(state)?;
    let group: GroupInfo = client.call(&ControlCall::CreateGroup(call), PATIENCE_NETWORK)?;
    let link = invite::first(&mut client, &group.network.to_string())?;
    Ok((group, link))
}

/// What a founder needs to know.
pub(super) fn show(group: &GroupInfo, link: &str) {
    let own = text::own_addresses(group);
    println!(
        "group {} is up: this machine is {} at {own}",
        group.name, group.host_name
    );
    println!("up to ten machines can join within 24 hours by:\n\n  ipop join {link}\n");
    println!("whoever has this link can join; `ipop invite` makes others");
}
