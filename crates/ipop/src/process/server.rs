//! The embedded rendezvous as a process: settings, address, life.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use api::rendezvous::{Host, ServerAddress};
use rendezvous::server::{Running, Server, ServerConfig};
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
        os::write_atomic(&state.server_settings(), &text, 0o600).context("cannot store the rendezvous' settings")
    }

    fn load(state: &StateDir) -> anyhow::Result<Self> {
        let path = state.server_settings();
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is corrupt: remove it to host no rendezvous", path.display()))
    }
}

/// The arguments with which a daemon starts the server that its state directory asks for.
pub(super) fn hosted_arguments(state: &StateDir) -> anyhow::Result<Vec<String>> {
    let settings = Settings::load(state)?;
    let listen = settings
        .listen
        .iter()
        .flat_map(|address| ["--listen".to_owned(), address.to_string()]);
    let advertise = settings
        .advertise
        .iter()
        .flat_map(|host| ["--advertise".to_owned(), host.clone()]);
    Ok(listen
        .chain(advertise)
        .chain(["--domain".into(), settings.domain.clone()])
        .collect())
}

/// Runs until SIGINT or SIGTERM; writes the address to give to `--server` into the state directory.
pub(crate) fn run(state: &StateDir, settings: Settings) -> anyhow::Result<ExitCode> {
    super::supervisor::follow_parent()?;
    state.prepare()?;
    if settings
        .listen
        .iter()
        .all(|address| address.port() == 0 || address.port() >= 1024)
    {
        super::give_up_privileges(state, &state.server())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(serve(state, settings))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(state: &StateDir, settings: Settings) -> anyhow::Result<()> {
    let mut config = ServerConfig::new(&settings.domain, usable(settings.listen.clone()), state.server());
    config.turn.fragments = |socket, are_allowed| os::allow_fragments(&**socket, are_allowed);
    config.public_host = settings
        .advertise
        .first()
        .map(|text| text.parse::<ServerAddress>())
        .transpose()?
        .map(|a| a.hosts[0].name.clone());
    let server = Server::bind(config).await?;
    let address = address(server.running(), &settings.advertise)?;
    os::write_atomic(&state.server_address(), format!("{address}\n").as_bytes(), 0o600)?;
    println!("{address}");
    server.run(super::ended()).await?;
    let _ = fs::remove_file(state.server_address());
    Ok(())
}

/// Without the addresses of a family that this host does not have, unless none would be left.
fn usable(listen: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let bindable = |address: &SocketAddr| std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok();
    let some: Vec<SocketAddr> = listen.iter().copied().filter(bindable).collect();
    if some.is_empty() { listen } else { some }
}

fn address(running: &Running, advertise: &[String]) -> anyhow::Result<ServerAddress> {
    let mut hosts = Vec::new();
    for text in advertise {
        let address: ServerAddress = text.parse().context("--advertise takes a host or host:port")?;
        hosts.extend(address.hosts);
    }
    if hosts.is_empty() {
        hosts = running.tcp.iter().flat_map(|bound| reachable(*bound)).collect();
        hosts.dedup();
    }
    if hosts.is_empty() {
        bail!("this machine has no address that others could reach: give one with --advertise");
    }
    hosts.truncate(8);
    Ok(ServerAddress {
        hosts,
        domain: running.domain.clone(),
        pin: Some(running.pin),
        token: Some(running.token.clone()),
    })
}

/// The addresses behind a bound one: all of this machine's where it is the wildcard; loopback only when asked for by name.
fn reachable(bound: SocketAddr) -> Vec<Host> {
    let host = |address: std::net::IpAddr| Host {
        name: address.to_string(),
        port: Some(bound.port()),
    };
    if !bound.ip().is_unspecified() {
        return vec![host(bound.ip())];
    }
    let interfaces = os::interfaces().unwrap_or_default();
    let addresses = interfaces
        .iter()
        .filter(|i| i.up && !i.loopback)
        .flat_map(|i| &i.addresses)
        .map(|a| a.prefix.address());
    let offered = addresses.filter(|a| a.is_ipv4() == bound.is_ipv4() && !link_local(*a));
    offered.map(host).collect()
}

fn link_local(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(a) => a.is_link_local(),
        std::net::IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
