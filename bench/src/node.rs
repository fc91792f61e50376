//! IPOP nodes by their command line, as people use it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use api::control::{GroupInfo, Invite, Joined};
use api::status::{Connection, GroupStatus, Status};
use lab::{Host, Process, until};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::peer::with_input;
use crate::process;

const READY_WITHIN: Duration = Duration::from_secs(20);
const LINKED_WITHIN: Duration = Duration::from_secs(40);
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

/// A group of two, or of three where one is between.
pub(crate) struct Pair {
    /// The joiner, then the founder.
    pub(crate) nodes: [Node; 2],
    member: Option<Node>,
    rendezvous: Rendezvous,
}

/// How the two of a pair reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Direct,
    Relay,
    Member,
}

/// What a pair is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) reach: Reach,
    /// What kernel and CPU have and the two do without (`IPOP_WITHOUT`).
    pub(crate) without: &'static str,
    /// MTU of the NICs, where it is not the usual one.
    pub(crate) mtu: Option<u16>,
}

impl Wish {
    pub(crate) const USUAL: Self = Self {
        reach: Reach::Direct,
        without: "",
        mtu: None,
    };
}

impl Pair {
    /// Both ends, with the rendezvous on a host, linked as wished.
    pub(crate) fn start(ipop: &Path, server: &Host, hosts: &[Host; 2], wish: Wish) -> anyhow::Result<Self> {
        Self::start_with(ipop, server, hosts, None, wish)
    }

    /// The same with a third member.
    pub(crate) fn start_with(
        ipop: &Path,
        server: &Host,
        hosts: &[Host; 2],
        third: Option<&Host>,
        wish: Wish,
    ) -> anyhow::Result<Self> {
        let rendezvous = Rendezvous::start(ipop, server)?;
        let mtu = wish.mtu.map(|mtu| ["--mtu".to_owned(), mtu.to_string()]);
        let mtu: Vec<&str> = mtu.iter().flatten().map(String::as_str).collect();
        let founder = Node::start_without(ipop, &hosts[1], wish.without)?;
        founder.create_with(&rendezvous, &mtu)?;
        let member = third.map(|host| Node::start_without(ipop, host, wish.without));
        let member = member.transpose()?;
        if let Some(member) = &member {
            member.join(&founder.invite(1)?)?;
        }
        // Last: the founder may be reached through the third only.
        let joiner = Node::start_without(ipop, &hosts[0], wish.without)?;
        join_with(ipop, &hosts[0], &founder.invite(1)?, &mtu)?;
        let pair = Self {
            nodes: [joiner, founder],
            member,
            rendezvous,
        };
        let far = hosts[1].name();
        until("the two are linked as they should be", LINKED_WITHIN, || {
            let group = pair.nodes[0].group().map_err(|error| format!("{error:#}"))?;
            let peer = group.peers.iter().find(|peer| peer.name == far);
            let connection = peer.map(|peer| peer.connection.clone());
            match (&connection, wish.reach) {
                (Some(Connection::Direct { .. }), Reach::Direct) => Ok(()),
                (Some(Connection::Relay { .. }), Reach::Relay) => Ok(()),
                (Some(Connection::Relay { via }), Reach::Member) if via.starts_with("member ") => Ok(()),
                _ => Err(format!("{connection:?}")),
            }
        })?;
        Ok(pair)
    }

    /// The founder's addresses, IPv4 first.
    pub(crate) fn targets(&self) -> anyhow::Result<Vec<IpAddr>> {
        Ok(self.nodes[1].group()?.addresses)
    }

    /// All processes that carry frames or manage those that do.
    pub(crate) fn daemons(&self) -> anyhow::Result<Vec<u32>> {
        let [joiner, founder] = &self.nodes;
        Ok([founder.processes()?, joiner.processes()?].concat())
    }

    /// What must live as long as the link is used.
    pub(crate) fn into_processes(self) -> Vec<Process> {
        let [joiner, founder] = self.nodes;
        let member = self.member.map(|member| member.daemon);
        let ends = [self.rendezvous.process, founder.daemon, joiner.daemon];
        ends.into_iter().chain(member).collect()
    }
}

#[derive(Deserialize)]
struct Created {
    group: GroupInfo,
}

impl Node {
    /// Starts a daemon in a fresh state.
    pub(crate) fn start(ipop: &Path, host: &Host) -> anyhow::Result<Self> {
        Self::start_without(ipop, host, "")
    }

    /// Starts a daemon that does without parts of what kernel and CPU have (`IPOP_WITHOUT`).
    fn start_without(ipop: &Path, host: &Host, parts: &str) -> anyhow::Result<Self> {
        make(&host.folder())?;
        let mut command = host.command(ipop);
        command.args(["daemon", "--state"]).arg(state(host));
        let daemon = host.spawn("daemon", command.env("IPOP_WITHOUT", parts))?;
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
        self.create_with(rendezvous, &[])
    }

    fn create_with(&self, rendezvous: &Rendezvous, more: &[&str]) -> anyhow::Result<GroupInfo> {
        let host = ["--host", self.host.name()];
        let usual = ["create", "bench", "--server", &rendezvous.address, host[0], host[1]];
        let created: Created = self.json(&[&usual, more].concat(), "")?;
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

    /// Its only group.
    pub(crate) fn group(&self) -> anyhow::Result<GroupStatus> {
        self.status()?.groups.into_iter().next().context("it is in no group")
    }

    /// Its first address in the group.
    pub(crate) fn address(&self) -> anyhow::Result<IpAddr> {
        self.group()?.addresses.first().copied().context("it has no address")
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
    join_with(ipop, host, invite, &[])
}

fn join_with(ipop: &Path, host: &Host, invite: &str, more: &[&str]) -> anyhow::Result<Joined> {
    make(&host.folder())?;
    json(
        ipop,
        host,
        &[&["join", "-", "--name", host.name()], more].concat(),
        invite,
    )
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
