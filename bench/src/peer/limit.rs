//! What the kernel allows: this program itself, which cuts and joins frames as IPOP does, and seals and checks none.

use anyhow::Context;

use super::{Ends, Peer, Started, inner, started};
use crate::limit;

pub(super) const PEER: Peer = Peer {
    name: "no cipher",
    programs: &[],
    start,
};

const PORT: u16 = 7000;

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let own = std::env::current_exe().context("where this program lies")?;
    let mut processes = Vec::new();
    for end in 0..2 {
        let mut command = ends.hosts[end].command(&own);
        let (address, remote) = (format!("{}/24", inner(end)), format!("{}:{PORT}", ends.outer(1 - end)));
        command.args([limit::COMMAND, &address, &remote]);
        processes.push(ends.hosts[end].spawn("limit", &mut command)?);
    }
    started(processes)
}
