//! `ipop server`: the embedded rendezvous alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use crate::process::server;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Prints the address to give to `ipop create --server`; it holds the server's key and the token that lets nodes register, so treat it as a password.\n\nExamples:\n  ipop server --listen 203.0.113.1:5222 --domain rdv.example.org\n  ipop server --listen 0.0.0.0:5222 --listen '[::]:5222' --advertise rdv.example.org:5222"
)]
pub(super) struct Server {
    /// Address and port for everything: XMPP, TURN over TCP and TLS (TCP), STUN and TURN (UDP). The next UDP port, if
    /// free, answers STUN too, so that `ipop netcheck` can test NATs: let it through firewalls. May be given again.
    #[arg(long, required = true, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// XMPP domain.
    #[arg(long, default_value = "rendezvous.ipop")]
    domain: String,
    /// Host and port by which others reach it, where that is not an address of --listen. May be given again.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
}

impl Server {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let settings = server::Settings {
            listen: self.listen,
            domain: self.domain,
            advertise: self.advertise,
        };
        server::run(state, settings)
    }
}
