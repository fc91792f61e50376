//! What commands do so that one command is enough: start a daemon in the background, host a rendezvous, end the daemon again.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::control::ControlCall;
use api::rendezvous::ServerAddress;
use api::rpc::Empty;
use api::status::Status;

use super::server::Settings;
use crate::client::{Client, NotRunning};
use crate::state::StateDir;

/// How long a daemon has to answer after its start.
const READY_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The XMPP client port (RFC 6120 section 14.7), which the embedded server uses for TURN too.
const PORT: u16 = 5222;

/// Starts a daemon in the background unless one runs already; returns when both its processes answer.
pub(crate) fn ensure_running(state: &StateDir) -> anyhow::Result<()> {
    let mut started = match is_ready(state) {
        Ok(true) => return Ok(()),
        Ok(false) => None,
        Err(error) if error.is::<NotRunning>() && os::StateLock::holder(state.path()).is_none() => {
            state.prepare()?;
            Some(spawn(state)?)
        }
        Err(error) if error.is::<NotRunning>() => None,
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if let Ok(true) = is_ready(state) {
            return Ok(());
        }
        if let Some(daemon) = &mut started
            && let Ok(Some(_)) = daemon.try_wait()
        {
            bail!("the daemon ended at once: {}", last_words(state));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if let Some(daemon) = started {
        os::terminate(daemon.id());
    }
    bail!("the daemon was started but does not answer: {}", last_words(state))
}

/// The same, and networks are wanted up, even if they were taken down before: who makes or joins one wants it.
pub(crate) fn ensure_up(state: &StateDir) -> anyhow::Result<()> {
    ensure_running(state)?;
    if !status(state)?.up {
        let _: Empty = Client::connect(state)?.call(&ControlCall::Up(Empty {}), READY_WITHIN)?;
    }
    Ok(())
}

/// Whether both processes answer; an error where nobody does.
fn is_ready(state: &StateDir) -> anyhow::Result<bool> {
    Ok(status(state)?.tincan)
}

fn status(state: &StateDir) -> anyhow::Result<Status> {
    Client::connect(state)?.call(&ControlCall::Status(Empty {}), READY_WITHIN)
}

fn spawn(state: &StateDir) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(state.log());
    let log = log.with_context(|| format!("cannot write {}", state.log().display()))?;
    let program = std::env::current_exe().context("cannot find my own program file")?;
    let mut command = Command::new(program);
    command.arg("daemon").arg("--state").arg(state.path());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .current_dir("/");
    let daemon = command.spawn().context("cannot start the daemon")?;
    os::write_atomic(&pid_file(state), daemon.id().to_string().as_bytes(), 0o600)
        .context("cannot note the daemon's process id")?;
    Ok(daemon)
}

fn last_words(state: &StateDir) -> String {
    let text = fs::read_to_string(state.log()).unwrap_or_default();
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    line.trim_start_matches("ipop: ").to_owned()
}

fn pid_file(state: &StateDir) -> PathBuf {
    state.path().join("background.pid")
}

/// Ends a daemon that [`ensure_running`] started; one that somebody else runs goes on.
pub(crate) fn end(state: &StateDir) -> anyhow::Result<()> {
    let ours = fs::read_to_string(pid_file(state))
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    let holder = os::StateLock::holder(state.path());
    if let (Some(pid), Some(holder)) = (ours, holder)
        && pid == holder
    {
        os::terminate(pid);
        let deadline = Instant::now() + READY_WITHIN;
        while os::StateLock::holder(state.path()) == Some(pid) {
            if Instant::now() >= deadline {
                bail!("the daemon (process {pid}) does not end: see {}", state.log().display());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    let _ = fs::remove_file(pid_file(state));
    Ok(())
}

/// Makes this node host a rendezvous: the daemon runs it from now on.
pub(crate) fn host_rendezvous(state: &StateDir) -> anyhow::Result<()> {
    if state.server_settings().exists() {
        return Ok(());
    }
    state.prepare()?;
    let listen = vec![
        SocketAddr::from(([0, 0, 0, 0], PORT)),
        SocketAddr::from(([0u16; 8], PORT)),
    ];
    let settings = Settings {
        listen,
        domain: "rendezvous.ipop".into(),
        advertise: Vec::new(),
    };
    settings.store(state)?;
    if let Some(daemon) = os::StateLock::holder(state.path()) {
        os::hang_up(daemon);
    }
    Ok(())
}

/// The address of the rendezvous that this node hosts, once it runs.
pub(crate) fn own_rendezvous(state: &StateDir) -> anyhow::Result<ServerAddress> {
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if let Ok(text) = fs::read_to_string(state.server_address()) {
            return text
                .trim()
                .parse()
                .context("the embedded rendezvous wrote a broken address: restart the daemon");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let _ = fs::remove_file(state.server_settings());
    bail!(
        "the embedded rendezvous did not start: {}; or use another one with --server",
        last_words(state)
    )
}
