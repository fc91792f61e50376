//! wireguard-go between two hosts, as its manual sets it up.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::{Host, Process, until};

const PORT: u16 = 51820;
const START_WITHIN: Duration = Duration::from_secs(10);

/// A running pair.
pub(crate) struct WireGuard {
    ends: Vec<End>,
}

struct End {
    process: Process,
    interface: String,
}

impl WireGuard {
    pub(crate) const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];

    pub(crate) fn start(hosts: &[Host; 2]) -> anyhow::Result<Self> {
        let keys = [key_pair()?, key_pair()?];
        let mut ends = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            // Control sockets of all namespaces lie in one folder.
            let interface = format!("wg{number}-{}", std::process::id());
            let mut command = host.command("wireguard-go");
            let process = host.spawn("wireguard-go", command.args(["-f", &interface]).env("LOG_LEVEL", "error"))?;
            ends.push(End { process, interface });
            configure(host, &ends[number], &keys[number].0, &keys[1 - number].1, (number, &hosts[1 - number]))?;
        }
        Ok(Self { ends })
    }

    pub(crate) fn daemons(&self) -> Vec<u32> {
        self.ends.iter().map(|end| end.process.id()).collect()
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = std::fs::remove_file(socket(&end.interface));
        }
    }
}

fn socket(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

fn configure(host: &Host, end: &End, private: &str, public: &str, (number, other): (usize, &Host)) -> anyhow::Result<()> {
    let interface = &end.interface;
    until("wireguard-go serves its interface", START_WITHIN, || {
        if socket(interface).exists() { Ok(()) } else { Err(format!("it said: {}", end.process.said())) }
    })?;
    let file = host.resolver_file().with_extension("wireguard-key");
    std::fs::write(&file, private).context("cannot write a key")?;
    let (port, endpoint) = (PORT.to_string(), format!("{}:{PORT}", other.addresses()[0]));
    let theirs = format!("{}/32", WireGuard::ADDRESSES[1 - number]);
    let file = file.to_string_lossy();
    let set = ["set", interface, "private-key", &file, "listen-port", &port];
    let peer = ["peer", public, "allowed-ips", &theirs, "endpoint", &endpoint];
    host.run("wg", &[&set[..], &peer[..]].concat())?;
    host.run("ip", &["addr", "add", &format!("{}/24", WireGuard::ADDRESSES[number]), "dev", interface])?;
    host.run("ip", &["link", "set", interface, "up"])?;
    Ok(())
}

/// Private and public key.
fn key_pair() -> anyhow::Result<(String, String)> {
    let private = wg("genkey", "")?;
    let public = wg("pubkey", &private)?;
    Ok((private, public))
}

fn wg(what: &str, input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("wg");
    command.arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("wg (package wireguard-tools) is missing: ./bench/run installs it")?;
    let mut stdin = child.stdin.take().context("wg takes input")?;
    std::io::Write::write_all(&mut stdin, input.as_bytes()).context("cannot talk to wg")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for wg")?;
    if !output.status.success() {
        bail!("wg {what} failed");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
