//! Whom the relay may talk to for its users.
//!
//! A relay is a way into the network of the host that it runs on, so addresses that only mean something
//! there are refused in every spelling (CVE-2020-26262, CVE-2026-27624: coturn let `0.0.0.0`, `::1` and
//! `::ffff:127.0.0.1` pass).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ports below are services of the host or the LAN (DNS, NTP, SNMP), never a peer.
const PORT_MIN: u16 = 1024;

/// Which peers are refused beyond those that always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Tests run on loopback only.
    pub(super) allow_loopback: bool,
    /// Private addresses too (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7).
    pub(super) deny_private: bool,
}

impl Policy {
    /// Whether a permission for this address is given.
    pub(super) fn allows_ip(self, ip: IpAddr) -> bool {
        match embedded(ip) {
            IpAddr::V4(v4) => self.allows_v4(v4),
            IpAddr::V6(v6) => self.allows_v6(v6),
        }
    }

    /// Whether data may go there.
    pub(super) fn allows(self, peer: SocketAddr) -> bool {
        peer.port() >= PORT_MIN && self.allows_ip(peer.ip())
    }

    fn allows_v4(self, ip: Ipv4Addr) -> bool {
        let [a, b, ..] = ip.octets();
        let shared = a == 100 && (b & 0b1100_0000) == 64;
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        // 0/8 is this host to many systems; 240/4 and broadcast reach everybody or nobody; 169.254/16
        // holds the metadata services of clouds.
        let never = a == 0 || a >= 224 || ip.is_link_local() || (a == 192 && b == 0 && ip.octets()[2] == 0);
        !never && !(self.deny_private && (ip.is_private() || shared))
    }

    fn allows_v6(self, ip: Ipv6Addr) -> bool {
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        let first = ip.segments()[0];
        let unique_local = first & 0xfe00 == 0xfc00;
        if unique_local {
            return !self.deny_private;
        }
        // Global unicast is 2000::/3; the rest is unspecified, link-local, site-local, multicast, discard.
        first & 0xe000 == 0x2000
    }
}

/// The IPv4 address inside an IPv6 one, wherever a router on the way would unpack it.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // NAT64, well-known and local prefixes (RFC 6052, RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo (RFC 4380): the client's address is stored inverted.
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        // IPv4-compatible, long deprecated; `::` and `::1` stay what they are.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => IpAddr::V6(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Policy = Policy {
        allow_loopback: false,
        deny_private: false,
    };

    #[test]
    fn every_spelling_of_a_forbidden_address_is_refused() {
        let forbidden = "0.0.0.0 0.1.2.3 127.0.0.1 127.1.2.3 127.255.255.254 169.254.0.1 169.254.169.254 192.0.0.1 \
            224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:0.0.0.0 \
            ::ffff:169.254.169.254 ::ffff:224.0.0.1 ::ffff:255.255.255.255 0:0:0:0:0:ffff:7f00:0001 ::127.0.0.1 \
            ::10.0.0.1:0 64:ff9b::127.0.0.1 64:ff9b::0.0.0.0 64:ff9b:1::127.0.0.1 64:ff9b::169.254.169.254 \
            2002:7f00:1:: 2002:7f00:1::5 2002:a9fe:a9fe:: 2001:0:0:0:0:0:80ff:fffe 2001:0:1:2:3:4:5601:5601 fe80::1 \
            febf::1 fec0::1 ff02::1 ff05::2 ff0e::1 100::1 4000::1 ::2 1::1 e000::1";
        let list: Vec<_> = forbidden.split_whitespace().collect();
        assert!(list.len() >= 40, "{}", list.len());
        for text in list {
            let ip = text.parse().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            assert!(!USUAL.allows_ip(ip), "{text}");
        }
    }

    #[test]
    fn peers_of_the_world_and_of_the_lan_are_allowed() {
        for text in [
            "192.0.2.1",
            "10.1.2.3",
            "192.168.1.9",
            "100.64.0.1",
            "2001:db8::1",
            "2a00::1",
            "fd00::1",
            "64:ff9b::c000:201",
        ] {
            assert!(USUAL.allows_ip(text.parse().unwrap()), "{text}");
        }
        assert!(USUAL.allows("192.0.2.1:1024".parse().unwrap()));
        assert!(!USUAL.allows("192.0.2.1:53".parse().unwrap()));
    }

    #[test]
    fn private_peers_can_be_refused() {
        let strict = Policy {
            deny_private: true,
            ..USUAL
        };
        for text in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.9",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(!strict.allows_ip(text.parse().unwrap()), "{text}");
        }
        assert!(strict.allows_ip("192.0.2.1".parse().unwrap()));
    }
}
