//! WireGuard in user space, in Go and in Rust: programs of one manual, set up by `wg`.

use std::path::PathBuf;
use std::time::Duration;

use lab::{Process, until};

use super::{Ends, Peer, Started, inner, started};

pub(super) const GO: Peer = Peer {
    name: "wireguard-go",
    programs: &["wireguard-go", "wg"],
    start: |ends| start(ends, "wireguard-go", &["-f"]),
};

pub(super) const BORINGTUN: Peer = Peer {
    name: "boringtun",
    programs: &["boringtun-cli", "wg"],
    start: |ends| start(ends, "boringtun-cli", &["--foreground", "--disable-drop-privileges"]),
};

pub(super) const GOTATUN: Peer = Peer {
    name: "gotatun",
    programs: &["gotatun", "wg"],
    start: |ends| start(ends, "gotatun", &["--foreground", "--disable-drop-privileges"]),
};

const PORT: &str = "51820";
const READY_WITHIN: Duration = Duration::from_secs(10);

fn start(ends: &Ends, program: &str, arguments: &[&str]) -> anyhow::Result<Started> {
    let private = [ends.tool("wg", &["genkey"], "")?, ends.tool("wg", &["genkey"], "")?];
    let mut processes = Vec::new();
    for end in 0..2 {
        let public = ends.tool("wg", &["pubkey"], &private[1 - end])?;
        processes.push(start_end(ends, end, (program, arguments), &private[end], &public)?);
    }
    let mut started = started(processes)?;
    started.litter = [0, 1].map(|end| socket(&nic(program, end))).to_vec();
    Ok(started)
}

/// Control sockets of all namespaces lie in one folder, so that a name must be nobody else's.
fn nic(program: &str, end: usize) -> String {
    format!("{:.2}{end}-{}", program, std::process::id())
}

fn socket(nic: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{nic}.sock"))
}

fn start_end(
    ends: &Ends,
    end: usize,
    (program, arguments): (&str, &[&str]),
    private: &str,
    public: &str,
) -> anyhow::Result<Process> {
    let nic = nic(program, end);
    let host = &ends.hosts[end];
    let process = ends.spawn(end, program, &[arguments, &[nic.as_str()]].concat())?;
    until(&format!("{program} serves its interface"), READY_WITHIN, || {
        if socket(&nic).exists() {
            Ok(())
        } else {
            Err(process.said())
        }
    })?;
    let key = ends.write(end, "key", private)?;
    let (endpoint, allowed) = (
        format!("{}:{PORT}", ends.outer(1 - end)),
        format!("{}/32", inner(1 - end)),
    );
    let wg = ends.program("wg")?;
    let set = ["set", &nic, "private-key", &key, "listen-port", PORT];
    let peer = ["peer", public, "allowed-ips", &allowed, "endpoint", &endpoint];
    host.run(&wg.to_string_lossy(), &[&set[..], &peer[..]].concat())?;
    host.run("ip", &["addr", "add", &format!("{}/24", inner(end)), "dev", &nic])?;
    host.run("ip", &["link", "set", &nic, "up"])?;
    Ok(process)
}
