//! The embedded rendezvous as a process: settings, address, life.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context;
use api::rendezvous::{Host, ServerAddress};
use os::local::{Signal, Signals};
use rendezvous::server::{Server, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::state::StateDir;

/// What `ipop server` is told, or what a node that hosts its own rendezvous remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Where to listen, TCP and UDP alike.
    pub(crate) listen: Vec<SocketAddr>,
    /// XMPP domain.
    pub(crate) domain: String,
    /// Host and port by which others reach it; this machine's addresses where empty.
    pub(crate) advertise: Vec<String>,
}

impl Settings {
    pub(super) fn store(&self, state: &StateDir) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self).context("settings have a JSON form")?;
        os::local::write_atomic(&state.server_settings(), &text, 0o600).context("cannot store the rendezvous' settings")
    }

    fn load(state: &StateDir) -> anyhow::Result<Self> {
        let path = state.server_settings();
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is corrupt: remove it to host no rendezvous", path.display()))
    }
}

/// The arguments with which a daemon starts the server that its state directory asks for.
pub(super) fn hosted_arguments(state: &StateDir) -> anyhow::Result<Vec<String>> {
    let settings = Settings::load(state)?;
    let listen = settings.listen.iter().flat_map(|address| ["--listen".to_owned(), address.to_string()]);
    let advertise = settings.advertise.iter().flat_map(|host| ["--advertise".to_owned(), host.clone()]);
    Ok(listen.chain(advertise).chain(["--domain".into(), settings.domain.clone()]).collect())
}
