//! OpenVPN in user space (without its kernel module): TLS between two self-signed certificates, each end told the other's fingerprint.

use super::{Ends, Peer, Started, inner, started};

pub(super) const PEER: Peer = Peer {
    name: "openvpn",
    programs: &["openvpn", "openssl"],
    start,
};

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let mut fingerprints = Vec::new();
    for end in 0..2 {
        let folder = ends.folder(end)?.to_string_lossy().into_owned();
        let (key, certificate) = (format!("{folder}/key"), format!("{folder}/certificate"));
        let config = ends.write(end, "openssl.cnf", "[req]\ndistinguished_name = name\n[name]\n")?;
        let kind = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:secp384r1",
            "-nodes",
            "-days",
            "30",
        ];
        let files = [
            "-config",
            &config,
            "-subj",
            "/CN=bench",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        ends.tool("openssl", &[&kind[..], &files[..]].concat(), "")?;
        let text = ends.tool(
            "openssl",
            &["x509", "-in", &certificate, "-noout", "-fingerprint", "-sha256"],
            "",
        )?;
        fingerprints.push(text.rsplit('=').next().unwrap_or_default().to_owned());
    }
    let mut processes = Vec::new();
    for end in 0..2 {
        let config = ends.write(end, "openvpn.conf", &config(ends, end, &fingerprints[1 - end])?)?;
        processes.push(ends.spawn(end, "openvpn", &["--config", &config])?);
    }
    started(processes)
}

fn config(ends: &Ends, end: usize, fingerprint: &str) -> anyhow::Result<String> {
    let folder = ends.folder(end)?;
    let role = if end == 0 { "tls-client" } else { "tls-server\ndh none" };
    Ok(format!(
        "dev tun0\ndev-type tun\ndisable-dco\nproto udp\nremote {}\nifconfig {} {}\n{role}\ncert {}\nkey {}\n\
         peer-fingerprint {fingerprint}\ndata-ciphers AES-256-GCM\ncipher AES-256-GCM\nverb 1\n",
        ends.outer(1 - end),
        inner(end),
        inner(1 - end),
        folder.join("certificate").display(),
        folder.join("key").display(),
    ))
}
