//! A node of IPOP on a host of the lab, used as a person uses it: by the command line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use api::control::{GroupInfo, Invite, Joined, PeerPong};
use api::link::NetReport;
use api::status::{Connection, GroupStatus, PeerStatus, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Host, Process, until};

/// How long a process may take to answer after its start, on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(15);
/// How long a link may take, the rendezvous included.
pub const LINK_WITHIN: Duration = Duration::from_secs(20);
/// What a failed test shows: everything of our own that is worth a line.
const LOG: &str = "warn,ipop=debug,tincan=debug,controller=debug,rendezvous=debug";
/// A daemon gives each child five seconds.
const END_WITHIN: Duration = Duration::from_secs(20);

/// One state directory on one host, with its daemon. Dropping kills the daemon.
pub struct Node {
    host: Host,
    state: PathBuf,
    environment: Vec<(String, String)>,
    daemon: Option<Process>,
    /// How much its processes tell, in the syntax of `IPOP_LOG`.
    log: &'static str,
}

/// What a process of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The data plane.
    Tincan,
    /// The control plane.
    Controller,
    /// The embedded rendezvous.
    Server,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Tincan => "tincan",
            Self::Controller => "controller",
            Self::Server => "server",
        }
    }
}

/// A group just made.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// The group.
    pub group: GroupInfo,
    /// Its first invite.
    pub invite: String,
}

/// A refusal: what a person reads, and what a script.
#[derive(Debug)]
pub struct Refusal {
    /// The exit code, which is not 0.
    pub code: i32,
    /// The sentence.
    pub sentence: String,
}

/// The binary to be tested: `IPOP_BIN`, or the one that cargo put beside this program.
pub fn binary() -> Result<PathBuf, Failure> {
    let named = std::env::var_os("IPOP_BIN").map(PathBuf::from);
    let beside = || {
        let own = std::env::current_exe().ok()?;
        let folder = own.parent()?;
        let folder = if folder.ends_with("deps") {
            folder.parent()?
        } else {
            folder
        };
        Some(folder.join("ipop"))
    };
    let path = named.or_else(beside).unwrap_or_default();
    if path.is_file() {
        Ok(path)
    } else {
        Err(Failure::NoBinary(path.display().to_string()))
    }
}

impl Node {
    /// A node that does not run yet.
    pub fn new(host: &Host) -> Self {
        let state = host.folder();
        Self {
            host: host.clone(),
            state,
            environment: Vec::new(),
            daemon: None,
            log: LOG,
        }
    }

    /// Starts a daemon that tells everything, and waits until it answers.
    pub fn start_talkative(host: &Host) -> Result<Self, Failure> {
        let mut node = Self::new(host);
        node.log = "trace";
        node.start_daemon()?;
        node.wait_running()?;
        Ok(node)
    }

    /// Starts a daemon and waits until it answers.
    pub fn start(host: &Host) -> Result<Self, Failure> {
        let mut node = Self::new(host);
        node.start_daemon()?;
        node.wait_running()?;
        Ok(node)
    }

    /// For daemons started from now on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts the daemon and does not wait.
    pub fn start_daemon(&mut self) -> Result<(), Failure> {
        let mut command = self.host.command(binary()?);
        command
            .args(["daemon", "--state"])
            .arg(&self.state)
            .env("IPOP_LOG", self.log);
        self.daemon = Some(self.host.spawn("daemon", &mut command)?);
        Ok(())
    }

    /// Waits until both processes answer.
    pub fn wait_running(&mut self) -> Result<Status, Failure> {
        let what = format!("both processes of {}", self.host.name());
        until(&what, START_WITHIN, || {
            let ended = self
                .daemon
                .as_mut()
                .and_then(|daemon| (!daemon.is_running()).then(|| daemon.said()));
            if let Some(said) = ended {
                return Err(format!("the daemon ended: {said}"));
            }
            match self.status() {
                Ok(status) if status.tincan => Ok(status),
                Ok(status) => Err(format!("{status:?}")),
                Err(failure) => Err(failure.to_string()),
            }
        })
    }

    /// Where it stands.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The socket of the link API.
    pub fn tincan_socket(&self) -> PathBuf {
        self.state.join("tincan.sock")
    }

    /// The socket of the control API.
    pub fn control_socket(&self) -> PathBuf {
        self.state.join("controller/control.sock")
    }

    /// Its daemon, where this handle started one.
    pub fn daemon(&mut self) -> Option<&mut Process> {
        self.daemon.as_mut()
    }

    /// What its daemon and the processes of that said so far.
    pub fn daemon_said(&self) -> String {
        self.daemon.as_ref().map(Process::said).unwrap_or_default()
    }

    /// Runs a command of `ipop` to its end, whatever that is.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = self.host.command(binary()?);
        command.arg("--state").arg(&self.state).args(arguments);
        command
            .output()
            .map_err(|e| Failure::system(format!("run ipop {}", arguments.join(" ")), e))
    }

    /// Runs a command of `ipop` to a good end; gives what it printed.
    pub fn ipop(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = self.output(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(Failure::Command {
            command: format!("{}: ipop {}", self.host.name(), arguments.join(" ")),
            status: output.status.to_string(),
            output: format!("{text}{}", String::from_utf8_lossy(&output.stderr))
                .trim()
                .to_owned(),
        })
    }

    /// Runs a command of `ipop` that must fail, and say why.
    pub fn refused(&self, arguments: &[&str]) -> Result<Refusal, Failure> {
        let output = self.output(arguments)?;
        let sentence = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(code) if code != 0 && !sentence.is_empty() => Ok(Refusal { code, sentence }),
            _ => Err(Failure::Unexpected(format!(
                "{}: ipop {} was to be refused with a sentence: {} {sentence}",
                self.host.name(),
                arguments.join(" "),
                output.status
            ))),
        }
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Failure> {
        let text = self.ipop(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .map_err(|e| Failure::Unexpected(format!("ipop {}: {e} in {text}", arguments.join(" "))))
    }

    /// `ipop status`. Its exit code tells whether the node runs.
    pub fn status(&self) -> Result<Status, Failure> {
        self.json(&["status"])
    }

    /// `ipop create` by a rendezvous.
    pub fn create(&self, group: &str, server: &str) -> Result<Created, Failure> {
        self.json(&["create", group, "--server", server, "--host", self.host.name()])
    }

    /// `ipop invite`.
    pub fn invite(&self, group: &str, uses: u32) -> Result<Invite, Failure> {
        self.json(&["invite", group, "--uses", &uses.to_string()])
    }

    /// `ipop join`, under the host's name.
    pub fn join(&self, invite: &str) -> Result<Joined, Failure> {
        self.json(&["join", invite, "--name", self.host.name()])
    }

    /// `ipop ping`, once.
    pub fn ping(&self, node: &str) -> Result<PeerPong, Failure> {
        self.json(&["ping", node, "-c", "1"])
    }

    /// `ipop netcheck`.
    pub fn netcheck(&self) -> Result<NetReport, Failure> {
        self.json(&["netcheck"])
    }

    /// Its only group.
    pub fn group(&self) -> Result<GroupStatus, Failure> {
        let name = self.host.name();
        let group = self.status()?.groups.into_iter().next();
        group.ok_or_else(|| Failure::Unexpected(format!("{name} is in no group")))
    }

    /// Its own inner addresses, IPv4 first.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        Ok(self.group()?.addresses)
    }

    /// Waits until the status of a peer is as wished.
    pub fn wait_peer(
        &self,
        peer: &str,
        what: &str,
        within: Duration,
        is_so: impl Fn(&PeerStatus) -> bool,
    ) -> Result<PeerStatus, Failure> {
        let what = format!("{} sees {peer} {what}", self.host.name());
        until(&what, within, || {
            let group = self.group().map_err(|failure| failure.to_string())?;
            let seen = group.peers.iter().find(|p| p.name == peer);
            match seen.filter(|peer| is_so(peer)) {
                Some(peer) => Ok(peer.clone()),
                None => Err(format!("{:?} {:?}", group.rendezvous, seen)),
            }
        })
    }

    /// Waits until frames can flow to a peer.
    pub fn wait_linked(&self, peer: &str, within: Duration) -> Result<PeerStatus, Failure> {
        self.wait_peer(peer, "linked", within, is_linked)
    }

    /// Waits until a peer is reached without a relay.
    pub fn wait_direct(&self, peer: &str, within: Duration) -> Result<PeerStatus, Failure> {
        self.wait_peer(peer, "directly", within, |peer| {
            matches!(peer.connection, Connection::Direct { .. })
        })
    }

    /// Pings through the NIC until an answer comes.
    pub fn wait_ping(&self, target: &str, within: Duration) -> Result<(), Failure> {
        let what = format!("{} pings {target}", self.host.name());
        until(&what, within, || {
            self.host
                .run("ping", &["-c", "1", "-W", "0.3", target])
                .map_err(|e| e.to_string())
        })
        .map(|_| ())
    }

    /// The process of a role; none where there is none or several.
    pub fn process(&self, role: Role) -> Option<u32> {
        let state = self.state.to_string_lossy().into_owned();
        let is_role = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&role.name().as_bytes()) && words.contains(&state.as_bytes())
        };
        let found: Vec<u32> = self.host.processes().into_iter().filter(is_role).collect();
        match found[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Kills a process as a crash does; gives its id.
    pub fn kill(&self, role: Role) -> Result<u32, Failure> {
        let name = self.host.name();
        let pid = self.process(role);
        let pid = pid.ok_or_else(|| Failure::Unexpected(format!("{name} has no {role:?} to kill")))?;
        crate::signal(pid, "KILL")?;
        Ok(pid)
    }

    /// Ends the daemon by a signal and waits; gives its exit code.
    pub fn end(&mut self, signal: &str) -> Result<Option<i32>, Failure> {
        let name = self.host.name();
        let missing = || Failure::Unexpected(format!("{name} has no daemon to end"));
        let mut daemon = self.daemon.take().ok_or_else(missing)?;
        daemon.signal(signal)?;
        daemon.wait(END_WITHIN)
    }
}

/// Whether frames can flow.
pub fn is_linked(peer: &PeerStatus) -> bool {
    matches!(peer.connection, Connection::Direct { .. } | Connection::Relay { .. })
}
