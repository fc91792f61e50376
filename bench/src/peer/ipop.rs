//! IPOP as people run it: a rendezvous, a daemon at each end, a group and an invite.

use super::{Ends, Peer, Started};
use crate::node::{Node, Rendezvous};

pub(super) const PEER: Peer = Peer {
    name: super::IPOP,
    programs: &[],
    start,
};

fn start(ends: &Ends) -> anyhow::Result<Started> {
    let rendezvous = Rendezvous::start(ends.ipop(), &ends.hosts[1])?;
    let founder = Node::start(ends.ipop(), &ends.hosts[1])?;
    founder.create(&rendezvous)?;
    let joiner = Node::start(ends.ipop(), &ends.hosts[0])?;
    joiner.join(&founder.invite(1)?)?;
    let target = founder.address()?;
    let mut daemons = Vec::new();
    let mut processes = vec![rendezvous.process];
    for node in [founder, joiner] {
        daemons.extend(node.processes()?);
        processes.push(node.daemon);
    }
    Ok(Started {
        target,
        daemons,
        processes,
        litter: Vec::new(),
    })
}
