//! Nebula: a certificate authority, two certificates, and each end in the other's map of static hosts.

use super::{Ends, Peer, Started, inner, started};

pub(super) const PEER: Peer = Peer {
    name: "nebula",
    programs: &["nebula", "nebula-cert"],
    start,
};

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let ca = ["ca.crt", "ca.key"].map(|name| ends.hosts[0].folder().join(name).to_string_lossy().into_owned());
    ends.folder(0)?;
    ends.tool(
        "nebula-cert",
        &["ca", "-name", "bench", "-out-crt", &ca[0], "-out-key", &ca[1]],
        "",
    )?;
    let mut processes = Vec::new();
    for end in 0..2 {
        let folder = ends.folder(end)?;
        let [certificate, key] = ["host.crt", "host.key"].map(|name| folder.join(name).to_string_lossy().into_owned());
        let (name, network) = (format!("host{end}"), format!("{}/24", inner(end)));
        let authority = ["sign", "-ca-crt", &ca[0], "-ca-key", &ca[1]];
        let host = [
            "-name",
            &name,
            "-networks",
            &network,
            "-out-crt",
            &certificate,
            "-out-key",
            &key,
        ];
        ends.tool("nebula-cert", &[&authority[..], &host[..]].concat(), "")?;
        let config = ends.write(end, "nebula.yml", &config(ends, end, [&ca[0], &certificate, &key]))?;
        processes.push(ends.spawn(end, "nebula", &["-config", &config])?);
    }
    started(processes)
}

fn config(ends: &Ends, end: usize, [ca, certificate, key]: [&str; 3]) -> String {
    let (other, outer) = (inner(1 - end), ends.outer(1 - end));
    format!(
        "pki: {{ca: {ca}, cert: {certificate}, key: {key}}}\n\
         static_host_map: {{\"{other}\": [\"{outer}:4242\"]}}\n\
         lighthouse: {{am_lighthouse: {}, hosts: [{}]}}\n\
         listen: {{host: 0.0.0.0, port: 4242}}\n\
         tun: {{dev: nebula0}}\n\
         logging: {{level: error}}\n\
         firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  inbound: [{{port: any, proto: any, host: any}}]\n",
        end == 1,
        if end == 0 { other.as_str() } else { "" }
    )
}
