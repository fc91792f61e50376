//! n2n: a supernode on the second host and an edge on each. The supernode carries nothing: neighbours talk directly.

use super::{Ends, Peer, Started, inner, started};

pub(super) const PEER: Peer = Peer {
    name: "n2n",
    programs: &["supernode", "edge"],
    start,
};

const PORT: &str = "7654";

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let supernode = ends.spawn(1, "supernode", &["-f", "-p", PORT, "-F", "bench"])?;
    let rendezvous = format!("{}:{PORT}", ends.outer(1));
    let mut processes = Vec::new();
    for end in 0..2 {
        let address = format!("{}/24", inner(end));
        // AES is what it names as the fastest of its secure ciphers; the key comes by the environment of a process in real life.
        let cipher = ["-A3", "-k", "a key for the benchmark"];
        let network = ["-f", "-c", "bench", "-d", "n2n0", "-a", &address, "-l", &rendezvous];
        processes.push(ends.spawn(end, "edge", &[&network[..], &cipher[..]].concat())?);
    }
    let mut started = started(processes)?;
    started.processes.push(supernode);
    Ok(started)
}
