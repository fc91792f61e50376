//! `ipop status`: one line a peer, a health block only if something is wrong.

use std::process::ExitCode;

use api::control::ControlCall;
use api::rpc::Empty;
use api::status::{Connection, GroupStatus, PeerStatus};
use clap::Args;

use super::{PATIENCE, text};
use crate::client::{Client, NotRunning};
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipop status\n  ipop status --json | jq '.groups[].peers[].connection'")]
pub(super) struct Status {
    /// Print JSON: a contract, unlike the text.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let status = match fetch(state) {
            Err(error) if self.json && error.is::<NotRunning>() => {
                println!("{}", serde_json::json!({ "running": false }));
                return Ok(ExitCode::FAILURE);
            }
            other => other?,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print!("{}", render(&status));
        }
        Ok(if status.tincan {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

pub(super) fn fetch(state: &StateDir) -> anyhow::Result<api::status::Status> {
    Client::connect(state)?.call(&ControlCall::Status(Empty {}), PATIENCE)
}

pub(super) fn render(status: &api::status::Status) -> String {
    let mut out = String::new();
    if status.groups.is_empty() {
        out += "no networks: `ipop create NAME` makes one, `ipop join INVITE` joins one\n";
    } else if !status.up {
        out += "networks are down: `ipop up` brings them up\n";
    }
    for group in &status.groups {
        out += &render_group(group);
    }
    if !status.health.is_empty() {
        out += "\n# Health\n";
        for health in &status.health {
            out += &format!("#   {}\n", health.message);
        }
    }
    out
}

fn render_group(group: &GroupStatus) -> String {
    let own = group
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    let nic = group.nic.as_ref().map(|nic| format!("  on {nic}")).unwrap_or_default();
    let mut out = format!("{}: {} {own}{nic}\n", group.name, group.host_name);
    if group.peers.is_empty() {
        out += "  nobody else yet: `ipop invite` prints an invite\n";
    }
    let rows: Vec<Vec<String>> = group.peers.iter().map(row).collect();
    for line in text::columns(&rows).lines() {
        out += &format!("  {line}\n");
    }
    out
}

fn row(peer: &PeerStatus) -> Vec<String> {
    let address = peer.addresses.first().map(ToString::to_string).unwrap_or_default();
    vec![address, peer.name.clone(), connection(peer)]
}

fn connection(peer: &PeerStatus) -> String {
    let seen = match peer.last_seen_s {
        Some(seconds) => format!("last seen {} ago", text::ago(seconds)),
        None => "not seen yet".to_owned(),
    };
    let way = match &peer.connection {
        Connection::Direct { remote } => format!("direct {remote}"),
        Connection::Relay { via } => format!("relay {via}"),
        Connection::Connecting => return format!("connecting, {seen}"),
        Connection::Idle => return format!("idle, {seen}"),
        Connection::Offline => return format!("offline, {seen}"),
    };
    let rtt = peer
        .rtt_us
        .map(|rtt| format!(", {}", text::rtt(rtt)))
        .unwrap_or_default();
    let (sent, received) = (text::bytes(peer.sent_bytes), text::bytes(peer.received_bytes));
    let relayed = match peer.relayed_bytes {
        0 => String::new(),
        bytes => format!(", for others {}", text::bytes(bytes)),
    };
    format!("{way}{rtt}, tx {sent} rx {received}{relayed}, {seen}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::status::{Health, Status};
    use api::{NetworkId, NodeId};

    use super::*;

    fn peer(name: &str, connection: Connection) -> PeerStatus {
        PeerStatus {
            name: name.into(),
            node: NodeId([1; 32]),
            addresses: vec!["10.5.0.2".parse().expect("an address")],
            connection,
            rtt_us: Some(12_300),
            path_mtu: Some(1400),
            sent_bytes: 1200,
            received_bytes: 0,
            relayed_bytes: 0,
            last_seen_s: Some(4000),
            drops: BTreeMap::new(),
        }
    }

    #[test]
    fn one_line_a_peer_and_health_only_when_wrong() {
        let group = GroupStatus {
            name: "home".into(),
            network: NetworkId([2; 32]),
            node: NodeId([3; 32]),
            host_name: "ann".into(),
            addresses: vec!["10.5.0.1".parse().expect("an address")],
            subnets: vec![],
            nic: Some("ipop0".into()),
            founder: true,
            rendezvous: vec![],
            peers: vec![
                peer(
                    "bob",
                    Connection::Direct {
                        remote: "1.2.3.4:5".into(),
                    },
                ),
                peer("carol", Connection::Offline),
            ],
            drops: BTreeMap::new(),
        };
        let mut status = Status {
            up: true,
            tincan: true,
            groups: vec![group],
            ..Status::default()
        };
        assert_eq!(
            render(&status),
            "home: ann 10.5.0.1  on ipop0\n\
             \x20 10.5.0.2  bob    direct 1.2.3.4:5, 12 ms, tx 1.2 kB rx 0 B, last seen 1h ago\n\
             \x20 10.5.0.2  carol  offline, last seen 1h ago\n"
        );
        status.health.push(Health {
            code: "x".into(),
            message: "the rendezvous is away".into(),
        });
        assert!(render(&status).ends_with("\n# Health\n#   the rendezvous is away\n"));
    }
}
