//! IPOP as people run it: a rendezvous, a daemon at each end, a group and an invite.

use anyhow::Context;

use super::{Ends, Peer, Started};
use crate::node::{Pair, Wish};

pub(super) const PEER: Peer = Peer {
    name: super::IPOP,
    programs: &[],
    start,
};

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let pair = Pair::start(ends.ipop(), &ends.hosts[1], &ends.hosts, Wish::USUAL)?;
    Ok(Started {
        target: pair.targets()?.first().copied().context("the founder has no address")?,
        daemons: pair.daemons()?,
        processes: pair.into_processes(),
        litter: Vec::new(),
    })
}
