//! The usual places where a node stands, by name: the rows of the table that lab and simulator share.
//!
//! Promises: each kind behaves as the same kind made of nftables rules was measured to behave.
//! Refuses to know: who stands there.

use crate::nat::{Dependence, Nat};
use crate::net::{Family, Gateway, HostId, Net, PUBLIC, RealmId};
use crate::wire::Wire;

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A public IPv4 address.
    Public,
    /// A public IPv4 address behind a firewall.
    Firewall,
    /// Behind a full cone NAT.
    FullCone,
    /// Behind an address-restricted NAT.
    AddressRestricted,
    /// Behind a port-restricted NAT: the usual home.
    PortRestricted,
    /// Behind a symmetric NAT.
    Symmetric,
    /// A home behind a carrier's port-restricted NAT.
    Cgnat,
    /// A home behind a carrier's symmetric NAT.
    CgnatSymmetric,
    /// Behind a NAT that lets no UDP out, and TCP to port 443 only.
    UdpBlocked,
    /// IPv6 only.
    V6,
    /// IPv6 only, behind a firewall.
    FirewalledV6,
    /// A home with a port-restricted NAT for IPv4 and a firewall for IPv6.
    DualHome,
}

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Kind; 12] = [
        Kind::Public,
        Kind::Firewall,
        Kind::FullCone,
        Kind::AddressRestricted,
        Kind::PortRestricted,
        Kind::Symmetric,
        Kind::Cgnat,
        Kind::CgnatSymmetric,
        Kind::UdpBlocked,
        Kind::V6,
        Kind::FirewalledV6,
        Kind::DualHome,
    ];

    /// Builds the place and puts one host there; the wire is that of the way to the internet.
    pub fn build(self, net: &mut Net, wire: Wire) -> HostId {
        match self {
            Kind::Public => net.add_host(PUBLIC, true, false, wire),
            Kind::V6 => net.add_host(PUBLIC, false, true, wire),
            _ => {
                let realm = self.realm(net, wire);
                net.add_host(realm, true, true, Wire::PERFECT)
            }
        }
    }

    /// Builds the place without a host; the public realm where there is no gateway.
    pub fn realm(self, net: &mut Net, wire: Wire) -> RealmId {
        let behind = |net: &mut Net, gateway: Gateway| net.add_realm(PUBLIC, Gateway { wire, ..gateway });
        let carrier = |net: &mut Net, nat| {
            let outer = Gateway {
                prefix: [100, 64, 7],
                ..Gateway::nat(nat)
            };
            let carrier = behind(net, outer);
            net.add_realm(carrier, Gateway::nat(Nat::PORT_RESTRICTED))
        };
        match self {
            Kind::Public | Kind::V6 => PUBLIC,
            Kind::Firewall => {
                let v6 = Family::Absent;
                behind(
                    net,
                    Gateway {
                        v6,
                        ..Gateway::firewall()
                    },
                )
            }
            Kind::FullCone => behind(net, Gateway::nat(Nat::FULL_CONE)),
            Kind::AddressRestricted => behind(net, Gateway::nat(Nat::ADDRESS_RESTRICTED)),
            Kind::PortRestricted => behind(net, Gateway::nat(Nat::PORT_RESTRICTED)),
            Kind::Symmetric => behind(net, Gateway::nat(Nat::SYMMETRIC)),
            Kind::Cgnat => carrier(net, Nat::PORT_RESTRICTED),
            Kind::CgnatSymmetric => carrier(net, Nat::SYMMETRIC),
            Kind::UdpBlocked => behind(net, Gateway::udp_blocked()),
            Kind::FirewalledV6 => {
                let v4 = Family::Absent;
                behind(
                    net,
                    Gateway {
                        v4,
                        ..Gateway::firewall()
                    },
                )
            }
            Kind::DualHome => {
                let v6 = Family::Firewall(Dependence::AddressAndPort);
                behind(
                    net,
                    Gateway {
                        v6,
                        ..Gateway::nat(Nat::PORT_RESTRICTED)
                    },
                )
            }
        }
    }
}
