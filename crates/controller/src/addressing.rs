//! Addresses and names: which subnet a group gets, which address a node has in it, what a host may be called.
//!
//! Promises: the same inputs give the same addresses on every node. Refuses to know: who is a member.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{Cidr, NetworkId, NodeId};
use rand::Rng;

use crate::crypto::hash;
use crate::limits::{GROUP_NAME_MAX, HOST_NAME_MAX};

/// Prefixes that a group's IPv4 subnet may have: /29 still has six hosts.
pub const SUBNET_PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;

/// Routes this short stand for "everything else" (a default route, or the halves that VPNs use): no collision.
const DEFAULT_ROUTE_PREFIX: u8 = 1;

/// A route of this host and the interface that it leads to.
pub type Route = (Cidr, String);

/// A host name made fit for a DNS label: lower case, `a-z0-9-`, the first label only; `node` where nothing is left.
pub fn host_label(text: &str) -> String {
    let first = text.split('.').next().unwrap_or_default();
    let mut label = String::new();
    for c in first.chars().flat_map(char::to_lowercase) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if !(c == '-' && (label.is_empty() || label.ends_with('-'))) && label.len() < HOST_NAME_MAX {
            label.push(c);
        }
    }
    let label = label.trim_end_matches('-');
    if label.is_empty() {
        "node".to_owned()
    } else {
        label.to_owned()
    }
}

/// Whether a text is a label as entries carry it: `a-z0-9-`, no hyphen at the ends.
pub fn is_label(text: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= max && text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text can name a group.
pub fn is_group_name(text: &str) -> bool {
    is_label(text, GROUP_NAME_MAX)
}

/// Whether a group may have this IPv4 subnet: unicast, of a fitting size, host part zero.
pub fn is_group_subnet(subnet: Cidr) -> bool {
    let IpAddr::V4(address) = subnet.address else {
        return false;
    };
    let first = address.octets()[0];
    SUBNET_PREFIXES.contains(&subnet.prefix) && subnet.network() == subnet && first != 0 && first != 127 && first < 224
}

/// The first route of this host that shares addresses with a subnet.
pub fn collision<'a>(subnet: Cidr, routes: &'a [Route], own_nic: Option<&str>) -> Option<&'a Route> {
    routes.iter().find(|(route, nic)| {
        route.prefix > DEFAULT_ROUTE_PREFIX && Some(nic.as_str()) != own_nic && route.overlaps(subnet)
    })
}

/// A random /16 of 10.0.0.0/8 that no route shares; none where all are taken.
pub fn pick_subnet(rng: &mut impl Rng, routes: &[Route]) -> Option<Cidr> {
    let start: u8 = rng.random();
    (0..=255u8)
        .map(|step| Ipv4Addr::new(10, start.wrapping_add(step), 0, 0))
        .filter_map(|address| Cidr::new(address.into(), 16))
        .find(|subnet| collision(*subnet, routes, None).is_none())
}

/// The IPv6 ULA /48 of a group (RFC 4193: fd and 40 bits, here of the hash of its id).
pub fn ipv6_subnet(network: NetworkId) -> Cidr {
    let digest = hash("ipop ula v1", &[&network.0]);
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[..5]);
    Cidr {
        address: Ipv6Addr::from(octets).into(),
        prefix: 48,
    }
}

/// A node's IPv6 address in a group: the group's prefix and 64 bits of the hash of its id.
pub fn ipv6_of(network: NetworkId, node: NodeId) -> Ipv6Addr {
    let mut octets = match ipv6_subnet(network).address {
        IpAddr::V6(prefix) => prefix.octets(),
        IpAddr::V4(_) => [0; 16],
    };
    octets[8..].copy_from_slice(&hash("ipop ipv6 host v1", &[&network.0, &node.0])[..8]);
    octets.into()
}

/// A node's IPv4 address in a subnet: where its id hashes to, else the next free one; none where the subnet is full.
pub fn ipv4_of(subnet: Cidr, node: NodeId, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let IpAddr::V4(base) = subnet.network().address else {
        return None;
    };
    let hosts = 1u32.checked_shl(32 - u32::from(subnet.prefix))?.checked_sub(2)?;
    let digest = hash("ipop ipv4 host v1", &[&node.0]);
    let start = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes of 32"));
    (0..u64::from(hosts))
        .take(taken.len() + 1)
        .map(|step| (start % u64::from(hosts) + step) % u64::from(hosts))
        .map(|host| Ipv4Addr::from_bits(base.to_bits() + 1 + host as u32))
        .find(|address| !taken.contains(address))
}

/// The name wished for, or with the lowest suffix `-2`, `-3` .. that is free.
pub fn free_name(wanted: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2u64..).map(|n| format!("{wanted}-{n}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .expect("numbers do not end before names do")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn host_names_become_labels() {
        for (text, label) in [
            ("Ann's MacBook", "ann-s-macbook"),
            ("bob.example.org", "bob"),
            ("--x--", "x"),
            ("", "node"),
            ("日本", "node"),
            ("a_b", "a-b"),
        ] {
            assert_eq!(host_label(text), label, "{text}");
            assert!(is_label(label, HOST_NAME_MAX));
        }
        assert!(is_label(&host_label(&"x-".repeat(100)), HOST_NAME_MAX));
    }

    #[test]
    fn a_picked_subnet_avoids_every_route() {
        let routes: Vec<Route> = (0..=255u8)
            .filter(|n| *n != 77)
            .map(|n| (cidr(&format!("10.{n}.3.0/24")), "eth0".to_owned()))
            .chain([(cidr("0.0.0.0/0"), "eth0".to_owned())])
            .collect();
        for seed in 0..8 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            assert_eq!(pick_subnet(&mut rng, &routes), Some(cidr("10.77.0.0/16")));
        }
        let all = [(cidr("10.0.0.0/8"), "tun0".to_owned())];
        assert_eq!(pick_subnet(&mut ChaCha12Rng::seed_from_u64(1), &all), None);
    }

    #[test]
    fn a_full_subnet_gives_no_address_and_a_clash_the_next() {
        let subnet = cidr("10.9.9.0/29");
        let mut taken = BTreeSet::new();
        for n in 0..6 {
            let address = ipv4_of(subnet, NodeId([n; 32]), &taken).expect("six hosts");
            assert!(subnet.contains(address.into()) && !matches!(address.octets()[3], 0 | 7));
            assert!(taken.insert(address));
        }
        assert_eq!(ipv4_of(subnet, NodeId([9; 32]), &taken), None);
    }

    #[test]
    fn only_unicast_ipv4_of_fitting_size_is_a_group_subnet() {
        for (text, fits) in [
            ("10.0.0.0/8", true),
            ("192.168.7.0/29", true),
            ("10.0.0.1/16", false),
            ("10.0.0.0/30", false),
            ("127.0.0.0/8", false),
            ("224.0.0.0/8", false),
            ("fd00::/48", false),
        ] {
            assert_eq!(is_group_subnet(cidr(text)), fits, "{text}");
        }
    }
}
