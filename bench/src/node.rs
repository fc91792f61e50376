//! IPOP nodes by their command line, as people use it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use api::control::{GroupInfo, Invite, Joined};
use api::status::Status;
use lab::{Host, Process, until};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::peer::with_input;
use crate::process;

const READY_WITHIN: Duration = Duration::from_secs(20);
const PORT: u16 = 5222;

/// The embedded rendezvous on a host of its own or a node's.
pub(crate) struct Rendezvous {
    /// Where it runs.
    pub(crate) process: Process,
    address: String,
}

impl Rendezvous {
    pub(crate) fn start(ipop: &Path, host: &Host) -> anyhow::Result<Self> {
        make(&host.folder())?;
        let mut command = host.command(ipop);
        command
            .arg("server")
            .arg("--state")
            .arg(host.folder().join("rendezvous"));
        for address in host.addresses() {
            command
                .arg("--listen")
                .arg(std::net::SocketAddr::new(*address, PORT).to_string());
        }
        let process = host.spawn("server", &mut command)?;
        let address = until("the rendezvous says its address", READY_WITHIN, || {
            let said = process.said();
            said.lines()
                .find(|line| line.starts_with("xmpp://"))
                .map(str::to_owned)
                .ok_or(said.clone())
        })?;
        Ok(Self { process, address })
    }
}

/// A node.
pub(crate) struct Node {
    /// The supervisor of its processes.
    pub(crate) daemon: Process,
    ipop: PathBuf,
    host: Host,
}

#[derive(Deserialize)]
struct Created {
    group: GroupInfo,
}

impl Node {
    /// Starts a daemon in a fresh state.
    pub(crate) fn start(ipop: &Path, host: &Host) -> anyhow::Result<Self> {
        make(&host.folder())?;
        let mut command = host.command(ipop);
        let daemon = host.spawn("daemon", command.args(["daemon", "--state"]).arg(state(host)))?;
        let node = Self {
            daemon,
            ipop: ipop.to_owned(),
            host: host.clone(),
        };
        until("the daemon answers", READY_WITHIN, || match node.status() {
            Ok(status) if status.tincan => Ok(()),
            Ok(_) => Err("its tincan does not answer".into()),
            Err(error) => Err(format!("{error:#}; {}", node.daemon.said())),
        })?;
        Ok(node)
    }

    /// Makes the group of the benchmark.
    pub(crate) fn create(&self, rendezvous: &Rendezvous) -> anyhow::Result<GroupInfo> {
        let host = ["--host", self.host.name()];
        let created: Created = self.json(
            &["create", "bench", "--server", &rendezvous.address, host[0], host[1]],
            "",
        )?;
        Ok(created.group)
    }

    /// An invite for as many nodes.
    pub(crate) fn invite(&self, uses: usize) -> anyhow::Result<String> {
        let invite: Invite = self.json(&["invite", "--uses", &uses.to_string()], "")?;
        Ok(invite.invite)
    }

    /// Joins by an invite; done when the first member answers.
    pub(crate) fn join(&self, invite: &str) -> anyhow::Result<Joined> {
        join(&self.ipop, &self.host, invite)
    }

    pub(crate) fn status(&self) -> anyhow::Result<Status> {
        self.json(&["status"], "")
    }

    /// Its first address in the group.
    pub(crate) fn address(&self) -> anyhow::Result<IpAddr> {
        let group = self.status()?.groups.into_iter().next().context("it is in no group")?;
        group.addresses.first().copied().context("it has no address")
    }

    /// Tincan, controller and their supervisor.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let children = process::children(self.daemon.id())?;
        Ok(std::iter::once(self.daemon.id())
            .chain(children.into_iter().map(|(id, _)| id))
            .collect())
    }

    /// One of its processes, by its command.
    pub(crate) fn process(&self, command: &str) -> anyhow::Result<u32> {
        let children = process::children(self.daemon.id())?;
        let found = children.into_iter().find(|(_, name)| name == command);
        found
            .map(|(id, _)| id)
            .with_context(|| format!("the daemon on {} runs no {command}", self.host.name()))
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str], input: &str) -> anyhow::Result<T> {
        json(&self.ipop, &self.host, arguments, input)
    }
}

/// Joins by an invite, starting a daemon if none runs; done when the first member answers.
pub(crate) fn join(ipop: &Path, host: &Host, invite: &str) -> anyhow::Result<Joined> {
    make(&host.folder())?;
    json(ipop, host, &["join", "-", "--name", host.name()], invite)
}

fn json<T: DeserializeOwned>(ipop: &Path, host: &Host, arguments: &[&str], input: &str) -> anyhow::Result<T> {
    let doing = || format!("ipop {} on {}", arguments[0], host.name());
    let mut command = host.command(ipop);
    command.args(arguments).arg("--json").arg("--state").arg(state(host));
    let text = with_input(&mut command, input).with_context(doing)?;
    serde_json::from_str(&text).with_context(doing)
}

fn state(host: &Host) -> PathBuf {
    host.folder().join("state")
}

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
