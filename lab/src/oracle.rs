//! What each kind of site does to datagrams, and who can reach whom directly: the tables that the rig is checked against, and
//! IPOP with it.

use crate::Site;
use crate::Site::*;

/// RFC 4787, sections 4.1 and 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The same for all.
    EndpointIndependent,
    /// By address.
    AddressDependent,
    /// By address and port.
    AddressAndPortDependent,
}

use Kind::{AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei};

/// What a prober sees from a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// None: no UDP passes.
    pub udp: Option<Udp>,
    /// TCP to ports other than 443 passes.
    pub any_tcp: bool,
    /// TCP to port 443 passes.
    pub tcp_443: bool,
}

/// How UDP passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Whether addresses are translated.
    pub translated: bool,
    /// Which public address and port stands for a socket.
    pub mapping: Kind,
    /// Whose datagrams pass to it.
    pub filtering: Kind,
    /// Whether the port outside is the port inside.
    pub port_kept: bool,
    /// Whether another socket of the host reaches it by its public address.
    pub hairpin: bool,
}

/// What a prober must see.
pub fn behaviour(site: Site) -> Behaviour {
    let udp = |translated, mapping, filtering, port_kept, hairpin| {
        let udp = Udp {
            translated,
            mapping,
            filtering,
            port_kept,
            hairpin,
        };
        Behaviour {
            udp: Some(udp),
            any_tcp: true,
            tcp_443: true,
        }
    };
    match site {
        Public | Server | Ipv6Only => udp(false, Ei, Ei, true, true),
        Firewall | Ipv6Firewall => udp(false, Ei, Apd, true, true),
        FullCone => udp(true, Ei, Ei, true, true),
        AddressRestricted => udp(true, Ei, Ad, true, false),
        PortRestricted | Cgnat | DualStack => udp(true, Ei, Apd, true, false),
        Symmetric | CgnatSymmetric => udp(true, Apd, Apd, false, false),
        UdpBlocked => Behaviour {
            udp: None,
            any_tcp: false,
            tcp_443: true,
        },
    }
}

const ROWS: [&str; 12] = [
    // pub fw full addr port sym cgnat cgnat-sym noudp v6 fw6 port+6: D direct, r relay
    "DDDDDDDDrrrD", // Public
    "DDDDDrDrrrrD", // Firewall
    "DDDDDDDDrrrD", // FullCone
    "DDDDDDDDrrrD", // AddressRestricted
    "DDDDDrDrrrrD", // PortRestricted
    "DrDDrrrrrrrr", // Symmetric
    "DDDDDrDrrrrD", // Cgnat
    "DrDDrrrrrrrr", // CgnatSymmetric
    "rrrrrrrrrrrr", // UdpBlocked
    "rrrrrrrrrDDD", // Ipv6Only
    "rrrrrrrrrDDD", // Ipv6Firewall
    "DDDDDrDrrDDD", // DualStack
];

/// Whether hosts at these sites can reach each other without a relay.
pub fn direct(a: Site, b: Site) -> bool {
    // A server's place is a public address of both families.
    let stands_for = |site: Site, other: Site| match site {
        Server if other.ipv4() => Public,
        Server => Ipv6Only,
        site => site,
    };
    let (a, b) = (stands_for(a, b), stands_for(b, a));
    let place = |site| Site::ALL.iter().position(|s| *s == site).expect("every site has a row");
    ROWS[place(a)].as_bytes()[place(b)] == b'D'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_same_read_either_way() {
        for a in Site::ALL {
            for b in Site::ALL {
                assert_eq!(direct(a, b), direct(b, a), "{a:?} {b:?}");
            }
        }
    }
}
