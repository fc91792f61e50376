//! Where a host stands: kinds of networks as people have them.

/// A kind of network with one host in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// A public IPv4 address, nothing in between.
    Public,
    /// Public addresses of both families, two of each: where servers stand.
    Server,
    /// A public IPv4 address behind a firewall that lets answers in only.
    Firewall,
    /// NAT that lets everybody in on a mapped port, and turns back inner datagrams to its own address.
    FullCone,
    /// NAT that lets in whom its host sent something.
    AddressRestricted,
    /// NAT that lets in the addresses and ports that its host sent something: the usual home router.
    PortRestricted,
    /// NAT with a fresh port for each destination.
    Symmetric,
    /// A home router behind a carrier's NAT that keeps ports.
    Cgnat,
    /// A home router behind a carrier's NAT with a fresh port for each destination.
    CgnatSymmetric,
    /// A NAT through which no UDP goes, and TCP to port 443 only.
    UdpBlocked,
    /// Public IPv6, no IPv4.
    Ipv6Only,
    /// Public IPv6 behind a firewall, no IPv4.
    Ipv6Firewall,
    /// A home router: port-restricted NAT for IPv4, a firewall for IPv6.
    DualStack,
}

impl Site {
    /// Every kind whose behaviour the table of the oracle tells.
    pub const ALL: [Self; 12] = [
        Self::Public,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Cgnat,
        Self::CgnatSymmetric,
        Self::UdpBlocked,
        Self::Ipv6Only,
        Self::Ipv6Firewall,
        Self::DualStack,
    ];

    /// Whether it has IPv4.
    pub fn ipv4(self) -> bool {
        !matches!(self, Self::Ipv6Only | Self::Ipv6Firewall)
    }

    /// Whether it has IPv6.
    pub fn ipv6(self) -> bool {
        matches!(
            self,
            Self::Server | Self::Ipv6Only | Self::Ipv6Firewall | Self::DualStack
        )
    }

    /// Whether a router stands before the host.
    pub(crate) fn has_router(self) -> bool {
        !matches!(
            self,
            Self::Public | Self::Server | Self::Firewall | Self::Ipv6Only | Self::Ipv6Firewall
        )
    }

    /// Whether a second router stands before that one.
    pub(crate) fn has_carrier(self) -> bool {
        matches!(self, Self::Cgnat | Self::CgnatSymmetric)
    }
}
