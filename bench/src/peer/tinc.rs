//! tinc 1.0: keys, host files of both at both ends, and a script that gives the NIC its address.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Context;

use super::{Ends, Peer, Started, inner, started};

pub(super) const PEER: Peer = Peer {
    name: "tinc",
    programs: &["tincd"],
    start,
};

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let mut hosts = Vec::new();
    for end in 0..2 {
        ends.write(
            end,
            "tinc.conf",
            &format!("Name = host{end}\nConnectTo = host{}\n", 1 - end),
        )?;
        let own = format!("hosts/host{end}");
        ends.write(
            end,
            &own,
            &format!("Address = {}\nSubnet = {}/32\n", ends.outer(end), inner(end)),
        )?;
        let up = format!(
            "#!/bin/sh\nip addr add {}/24 dev $INTERFACE\nip link set $INTERFACE up\n",
            inner(end)
        );
        let script = ends.write(end, "tinc-up", &up)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).context("a script must be executable")?;
        let folder = ends.folder(end)?.to_string_lossy().into_owned();
        ends.tool("tincd", &["-c", &folder, "-K2048"], "")?;
        hosts.push(fs::read_to_string(ends.folder(end)?.join(own)).context("tincd adds its public key")?);
    }
    let mut processes = Vec::new();
    for end in 0..2 {
        ends.write(end, &format!("hosts/host{}", 1 - end), &hosts[1 - end])?;
        let folder = ends.folder(end)?.to_string_lossy().into_owned();
        processes.push(ends.spawn(
            end,
            "tincd",
            &["-D", "-c", &folder, "--pidfile", &format!("{folder}/pid")],
        )?);
    }
    started(processes)
}
