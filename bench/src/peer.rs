//! What is compared: programs that join two neighbours. Each is one [`Peer`]: what it needs, and how a pair of it is started.

mod ipop;
mod limit;
mod n2n;
mod nebula;
mod openvpn;
mod tinc;
mod wireguard;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::{Host, Process, Rig, until};

use crate::settings::Settings;

/// Longer than any peer takes to join two neighbours.
const JOINED_WITHIN: Duration = Duration::from_secs(40);

/// The name of what is measured against the others.
pub(crate) const IPOP: &str = "ipop";
/// The name of the path below all of them.
pub(crate) const BARE: &str = "bare veth";

/// What the same threads and system calls carry when nothing is sealed or checked: always measured, no peer.
pub(crate) const NO_CIPHER: Peer = limit::PEER;

/// Every peer, in the order of the tables. Each runs with its defaults but for what a pair needs.
pub(crate) const ALL: &[Peer] = &[
    ipop::PEER,
    wireguard::GO,
    wireguard::BORINGTUN,
    wireguard::GOTATUN,
    nebula::PEER,
    tinc::PEER,
    n2n::PEER,
    openvpn::PEER,
];

/// Whether a way of this name is by a program of others, whose faults are not ours.
pub(crate) fn is_foreign(name: &str) -> bool {
    name != IPOP && ALL.iter().any(|peer| peer.name == name)
}

/// A program that makes a network of two neighbours.
pub(crate) struct Peer {
    /// Its name in `ONLY` and in tables.
    pub(crate) name: &'static str,
    /// Programs without which it cannot be measured.
    pub(crate) programs: &'static [&'static str],
    /// Starts both ends.
    pub(crate) start: fn(&Ends) -> anyhow::Result<Started>,
}

/// Two neighbours on one veth, in namespaces of their own.
pub(crate) struct Ends<'a> {
    /// Both.
    pub(crate) hosts: [Host; 2],
    settings: &'a Settings,
}

/// What a peer has started.
pub(crate) struct Started {
    /// Address of the second host inside the network.
    pub(crate) target: IpAddr,
    /// All processes of both ends that carry frames or manage those that do.
    pub(crate) daemons: Vec<u32>,
    /// Killed when dropped.
    pub(crate) processes: Vec<Process>,
    /// Files outside of its own folder that it leaves when killed.
    pub(crate) litter: Vec<PathBuf>,
}

/// A way from one host to its neighbour, up as long as this lives.
pub(crate) struct Way {
    /// Its name in tables.
    pub(crate) name: String,
    /// Address of the second host by it.
    pub(crate) target: IpAddr,
    /// The processes of both ends.
    pub(crate) daemons: Vec<u32>,
    /// The neighbours.
    pub(crate) hosts: [Host; 2],
    _processes: Vec<Process>,
    litter: Vec<PathBuf>,
}

impl Way {
    /// A wire between two hosts and nothing on it.
    pub(crate) fn wire(name: impl Into<String>, hosts: &[Host; 2]) -> Self {
        Self::over(name, hosts, hosts[1].addresses()[0], &[])
    }

    /// Something that others keep up.
    pub(crate) fn over(name: impl Into<String>, hosts: &[Host; 2], target: IpAddr, daemons: &[u32]) -> Self {
        Self {
            name: name.into(),
            target,
            daemons: daemons.to_vec(),
            hosts: hosts.clone(),
            _processes: Vec::new(),
            litter: Vec::new(),
        }
    }

    /// The veth and nothing on it.
    pub(crate) fn bare(rig: &Rig) -> anyhow::Result<Self> {
        Ok(Self::wire(BARE, &rig.neighbours(["bare-0", "bare-1"])?))
    }

    /// A peer on a veth of its own: on a shared one a peer could go through another.
    pub(crate) fn of(peer: &Peer, rig: &Rig, settings: &Settings) -> anyhow::Result<Self> {
        if let Some(missing) = peer.programs.iter().find(|name| settings.program(name).is_none()) {
            bail!("{missing} is missing");
        }
        // A space would end a name where `ip` reads it.
        let names = [0, 1].map(|number| format!("{}-{number}", peer.name.replace(' ', "-")));
        let hosts = rig.neighbours([&names[0], &names[1]])?;
        let ends = Ends { hosts, settings };
        let Started {
            target,
            daemons,
            processes,
            litter,
        } = (peer.start)(&ends)?;
        let hosts = ends.hosts;
        let answers = || {
            hosts[0]
                .ping(&target.to_string())
                .map_err(|failure| failure.to_string())
        };
        until(&format!("{} answers", peer.name), JOINED_WITHIN, answers).map_err(|failure| {
            let said: Vec<String> = processes.iter().map(|process| last_lines(&process.said())).collect();
            anyhow::anyhow!("{failure}\n{}", said.join("\n"))
        })?;
        Ok(Self {
            name: peer.name.to_owned(),
            target,
            daemons,
            hosts,
            _processes: processes,
            litter,
        })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        for file in &self.litter {
            let _ = fs::remove_file(file);
        }
    }
}

impl Ends<'_> {
    /// The program of this name, for [`Host::command`].
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.settings
            .program(name)
            .with_context(|| format!("{name} is missing"))
    }

    /// The IPOP that is measured.
    pub(crate) fn ipop(&self) -> &std::path::Path {
        &self.settings.ipop
    }

    /// An end's address on the veth.
    pub(crate) fn outer(&self, end: usize) -> IpAddr {
        self.hosts[end].addresses()[0]
    }

    /// A folder of the end's own.
    pub(crate) fn folder(&self, end: usize) -> anyhow::Result<PathBuf> {
        let folder = self.hosts[end].folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Writes a file into the end's folder; gives its path.
    pub(crate) fn write(&self, end: usize, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.folder(end)?.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Starts a daemon at an end. What it says goes to a log.
    pub(crate) fn spawn(&self, end: usize, program: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let host = &self.hosts[end];
        let mut command = host.command(self.program(program)?);
        Ok(host.spawn(program, command.args(arguments))?)
    }

    /// Runs a tool, outside of any namespace; gives what it prints.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(self.program(program)?);
        command.args(arguments);
        with_input(&mut command, input).with_context(|| format!("{program} {}", arguments.join(" ")))
    }
}

/// Runs a command to a good end with this standard input; gives what it prints.
pub(crate) fn with_input(command: &mut Command, input: &str) -> anyhow::Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start it")?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    std::io::Write::write_all(&mut stdin, input.as_bytes()).context("it takes no input")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for its end")?;
    if !output.status.success() {
        bail!("it failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Inner address of an end, for peers that take what they are given.
pub(crate) fn inner(end: usize) -> String {
    format!("10.98.0.{}", end + 1)
}

/// What peers with nothing but two daemons have started.
pub(crate) fn started(processes: Vec<Process>) -> anyhow::Result<Started> {
    let target = inner(1).parse().context("an inner address is one")?;
    Ok(Started {
        target,
        daemons: processes.iter().map(Process::id).collect(),
        processes,
        litter: Vec::new(),
    })
}
