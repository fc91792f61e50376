//! `ipop netcheck`: what this network allows, with a verdict.

use std::process::ExitCode;

use api::control::ControlCall;
use api::link::{NatKind, NetReport};
use api::rpc::Empty;
use clap::Args;

use super::{PATIENCE_NETWORK, text};
use crate::client::Client;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Asks the STUN and TURN servers of all groups of this node.\n\nExamples:\n  ipop netcheck\n  ipop netcheck --json"
)]
pub(super) struct Netcheck {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Netcheck {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let report: NetReport = Client::connect(state)?.call(&ControlCall::CheckNetwork(Empty {}), PATIENCE_NETWORK)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", render(&report));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(report: &NetReport) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let public = |address: Option<std::net::SocketAddr>| address.map_or("no".to_owned(), |a| format!("yes, {a}"));
    let ipv6 = match (report.ipv6, report.ipv6_configured) {
        (None, true) => "configured, but no server answered over it".to_owned(),
        (address, _) => public(address),
    };
    let hairpin = report.hairpin.map_or("unknown", yes_no);
    let mapping = match &report.port_mapping {
        None => "not tried".to_owned(),
        Some(protocols) if protocols.is_empty() => "no".to_owned(),
        Some(protocols) => protocols.join(", "),
    };
    if report.servers.is_empty() {
        return format!("=> {}\n", verdict(report));
    }
    let mut out = String::new();
    for (name, value) in [
        ("UDP", yes_no(report.udp).to_owned()),
        ("IPv4", public(report.ipv4)),
        ("IPv6", ipv6),
        ("NAT mapping", kind(report.mapping).to_owned()),
        ("NAT filtering", kind(report.filtering).to_owned()),
        ("Hairpin", hairpin.to_owned()),
        ("Port mapping", mapping),
    ] {
        out += &format!("  * {name}: {value}\n");
    }
    for server in &report.servers {
        let outcome = match (&server.fault, server.rtt_us) {
            (Some(fault), _) => fault.clone(),
            (None, Some(rtt)) => text::rtt(rtt),
            (None, None) => "no answer".to_owned(),
        };
        out += &format!("  * {} {}: {outcome}\n", server.service, server.server);
    }
    out + &format!("=> {}\n", verdict(report))
}

fn kind(kind: NatKind) -> &'static str {
    match kind {
        NatKind::Unknown => "unknown (the servers cannot tell)",
        NatKind::None => "none",
        NatKind::EndpointIndependent => "endpoint-independent",
        NatKind::PortIndependent => "not by port (a second server would tell whether by address)",
        NatKind::AddressDependent => "address-dependent",
        NatKind::AddressAndPortDependent => "address-and-port-dependent",
        NatKind::Blocked => "blocked",
    }
}

/// What it means for links (the table of RFC 5128 section 3 in one sentence).
fn verdict(report: &NetReport) -> &'static str {
    match report.mapping {
        _ if report.servers.is_empty() => "no STUN or TURN server is known yet: join a group or create one first",
        _ if !report.udp => "UDP does not pass: links go through a relay over TCP or TLS",
        NatKind::None => "a public address: direct links with almost everybody",
        NatKind::EndpointIndependent => "a friendly NAT: direct links but with symmetric NATs and where UDP is blocked",
        // NATs that map by address alone hardly exist.
        NatKind::PortIndependent => {
            "most likely a friendly NAT: direct links but with symmetric NATs and where UDP is blocked"
        }
        NatKind::AddressDependent | NatKind::AddressAndPortDependent => {
            "a symmetric NAT: direct links only with public addresses and open NATs, else through a relay"
        }
        NatKind::Unknown | NatKind::Blocked => "UDP passes; which links can be direct shows when they are made",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_with_a_verdict() {
        let server = api::link::ServerReport {
            server: "203.0.113.1:3478".parse().expect("an address"),
            service: "stun".into(),
            rtt_us: Some(40_000),
            fault: None,
        };
        let report = NetReport {
            servers: vec![server],
            ..NetReport::default()
        };
        let text = render(&report);
        assert!(
            text.contains("  * UDP: no\n") && text.contains("stun 203.0.113.1:3478: 40 ms"),
            "{text}"
        );
        assert!(
            text.ends_with("=> UDP does not pass: links go through a relay over TCP or TLS\n"),
            "{text}"
        );
    }
}
