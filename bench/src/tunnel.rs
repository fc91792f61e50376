//! Two hosts on one veth and the ways between them that are compared.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use api::Cidr;
use lab::{Host, Rig};

use crate::switchboard::Switchboard;
use crate::wireguard::WireGuard;

/// A way from the first host to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The veth itself.
    Bare,
    /// wireguard-go over the veth.
    WireGuard,
    /// IPOP over the veth.
    Ipop,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::WireGuard, Self::Ipop];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare veth",
            Self::WireGuard => "wireguard-go",
            Self::Ipop => "ipop",
        }
    }
}

/// All ways at once, so that they can be measured in turns.
pub(crate) struct Ways {
    // Dropped in this order: processes before the namespaces that they run in.
    switchboard: Switchboard,
    ends: [usize; 2],
    wireguard: WireGuard,
    pub(crate) hosts: [Host; 2],
    _rig: Rig,
}

impl Ways {
    pub(crate) fn new(binary: &Path) -> anyhow::Result<Self> {
        let rig = Rig::new()?;
        let hosts = rig.neighbours(["ann", "bob"])?;
        let wireguard = WireGuard::start(&hosts)?;
        let mut switchboard = Switchboard::new(binary, Duration::ZERO);
        let ends = start(&mut switchboard, &hosts)?;
        switchboard.open(ends[0], ends[1])?;
        for target in [Way::WireGuard, Way::Ipop].map(|way| target_of(&hosts, way)) {
            hosts[0].ping(&target.to_string())?;
        }
        Ok(Self { switchboard, ends, wireguard, hosts, _rig: rig })
    }

    /// The second host's address by this way.
    pub(crate) fn target(&self, way: Way) -> IpAddr {
        target_of(&self.hosts, way)
    }

    /// The processes that carry frames, of both ends.
    pub(crate) fn daemons(&self, way: Way) -> Vec<u32> {
        match way {
            Way::Bare => Vec::new(),
            Way::WireGuard => self.wireguard.daemons(),
            Way::Ipop => self.ends.iter().map(|end| self.switchboard.pid(*end)).collect(),
        }
    }
}

fn target_of(hosts: &[Host; 2], way: Way) -> IpAddr {
    match way {
        Way::Bare => hosts[1].addresses()[0],
        Way::WireGuard => WireGuard::ADDRESSES[1].into(),
        Way::Ipop => inner(1).address,
    }
}

/// Address and subnet of the NIC with this number.
pub(crate) fn inner(number: u8) -> Cidr {
    Cidr { address: Ipv4Addr::new(10, 99, 0, 1 + number).into(), prefix: 24 }
}

/// Starts tincan on two hosts and tells each of the other.
pub(crate) fn start(switchboard: &mut Switchboard, hosts: &[Host; 2]) -> anyhow::Result<[usize; 2]> {
    let a = switchboard.start(&hosts[0], inner(0))?;
    let b = switchboard.start(&hosts[1], inner(1))?;
    switchboard.introduce(a, b)?;
    Ok([a, b])
}
