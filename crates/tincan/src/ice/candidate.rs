//! Candidates: addresses at which a node may be reached, and which of them we are willing to try.
//!
//! Promises: the parser takes any bytes; a remote can make us send only to addresses that the policy allows.
//! Refuses to know: where candidates come from and how they travel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::transit::is_reserved;

/// How a candidate was found (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the node's own interfaces.
    Host,
    /// The address a STUN server (or a port mapping) says we have outside our NAT.
    ServerReflexive,
    /// An address seen only in a connectivity check.
    PeerReflexive,
    /// An address that a TURN server lends us.
    Relayed,
}

impl CandidateKind {
    /// RFC 8445 section 5.1.2.2; relays get 2 as `is` computes it for UDP.
    fn type_preference(self) -> u32 {
        match self {
            CandidateKind::Host => 126,
            CandidateKind::PeerReflexive => 110,
            CandidateKind::ServerReflexive => 100,
            CandidateKind::Relayed => 2,
        }
    }

    fn code(self) -> u8 {
        match self {
            CandidateKind::Host => 0,
            CandidateKind::ServerReflexive => 1,
            CandidateKind::PeerReflexive => 2,
            CandidateKind::Relayed => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => CandidateKind::Host,
            1 => CandidateKind::ServerReflexive,
            2 => CandidateKind::PeerReflexive,
            3 => CandidateKind::Relayed,
            _ => return None,
        })
    }
}

/// One address of a node, local or remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// How it was found.
    pub kind: CandidateKind,
    /// The address the other side sends to.
    pub address: SocketAddr,
    /// The local address it is sent from (host address of a reflexive candidate; else `address`). Never signalled.
    pub base: SocketAddr,
    /// Priority as RFC 8445 section 5.1.2 computes it; fixed by the side that owns the candidate.
    pub priority: u32,
}

/// Why bytes are not a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CandidateError {
    /// The bytes end too early.
    #[error("a candidate is cut short")]
    Short,
    /// An unknown kind or address family.
    #[error("a candidate has the unknown type {0:#04x}; the peer may run a newer version")]
    Type(u8),
    /// A priority outside 1..2^31.
    #[error("a candidate has the impossible priority {0}")]
    Priority(u32),
}

/// Relays over streams have this preference at most, relays over UDP a higher one.
const STREAM_PREFERENCE: u16 = 0xFF;
/// The local preference that a way through a member has in `is`, where its type has none of its own (type 0): as a relay's
/// (type 2), between those over UDP and those over streams.
pub(super) const WAY_PREFERENCE: u32 = 2 << 16 | (STREAM_PREFERENCE as u32 + 1);
/// The priority that comes of it.
pub(super) const WAY_PRIORITY: u32 = WAY_PREFERENCE << 8 | 255;

/// Bit of the type byte that says IPv6.
const V6: u8 = 0x10;

impl Candidate {
    /// A host candidate. `preference` orders candidates of one kind, higher first.
    pub fn host(address: SocketAddr, preference: u16) -> Self {
        Candidate::new(CandidateKind::Host, address, address, preference)
    }

    /// A server-reflexive (or port-mapped) candidate that is sent from `base`.
    pub fn server_reflexive(address: SocketAddr, base: SocketAddr, preference: u16) -> Self {
        Candidate::new(CandidateKind::ServerReflexive, address, base, preference)
    }

    /// A relayed candidate.
    pub fn relayed(address: SocketAddr, preference: u16) -> Self {
        Candidate::new(CandidateKind::Relayed, address, address, preference)
    }

    /// A relayed candidate whose server is spoken to over a byte stream: what is lost there holds up all that follows, so
    /// it comes after everything else. The peer sees that by the preference.
    pub fn relayed_over_stream(address: SocketAddr, preference: u16) -> Self {
        let place = (u16::MAX - preference).min(STREAM_PREFERENCE);
        Candidate::relayed(address, STREAM_PREFERENCE - place)
    }

    /// Whether its relay is reached over a byte stream.
    pub(super) fn is_over_stream(&self) -> bool {
        self.kind == CandidateKind::Relayed && self.preference() <= STREAM_PREFERENCE
    }

    fn new(kind: CandidateKind, address: SocketAddr, base: SocketAddr, preference: u16) -> Self {
        let (address, base) = (plain(address), plain(base));
        let priority = kind.type_preference() << 24 | u32::from(preference) << 8 | 255;
        Candidate {
            kind,
            address,
            base,
            priority,
        }
    }

    /// The local preference inside the priority.
    pub fn preference(&self) -> u16 {
        (self.priority >> 8) as u16
    }

    /// Appends the signalled form: type, port, address, priority; 11 bytes for IPv4, 23 for IPv6. The base stays here.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let family = if self.address.is_ipv6() { V6 } else { 0 };
        out.push(self.kind.code() | family);
        out.extend_from_slice(&self.address.port().to_be_bytes());
        match self.address.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
        out.extend_from_slice(&self.priority.to_be_bytes());
    }

    /// Reads one candidate and returns what follows it.
    pub fn parse(bytes: &[u8]) -> Result<(Candidate, &[u8]), CandidateError> {
        let (&kind_byte, rest) = bytes.split_first().ok_or(CandidateError::Short)?;
        let kind = CandidateKind::from_code(kind_byte & !V6);
        let kind = kind.ok_or(CandidateError::Type(kind_byte))?;
        let (port, rest) = take::<2>(rest)?;
        let (ip, rest) = if kind_byte & V6 == 0 {
            let (octets, rest) = take::<4>(rest)?;
            (IpAddr::from(octets), rest)
        } else {
            let (octets, rest) = take::<16>(rest)?;
            (IpAddr::from(octets), rest)
        };
        let (priority, rest) = take::<4>(rest)?;
        let priority = u32::from_be_bytes(priority);
        if priority == 0 || priority > i32::MAX as u32 {
            return Err(CandidateError::Priority(priority));
        }
        let address = SocketAddr::new(ip, u16::from_be_bytes(port));
        let candidate = Candidate {
            kind,
            address,
            base: address,
            priority,
        };
        Ok((candidate, rest))
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), CandidateError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(CandidateError::Short)?;
    Ok((*head, rest))
}

/// The address without IPv6 scope and flow label and with mapped IPv4 written as IPv4, so that equal means equal.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Why an address is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// No check may go there (loopback, multicast, unspecified, link-local, reserved, port 0).
    #[error("{0} is not an address a peer may have us send to")]
    Address(SocketAddr),
    /// The address lies in a tunnel of this node: a link inside a link.
    #[error("{0} lies inside a virtual network of this node")]
    OwnTunnel(SocketAddr),
    /// Too many candidates.
    #[error("the peer named more than {0} addresses; the rest is ignored")]
    TooMany(usize),
    /// The agent's tables are used up; a restart clears them.
    #[error("addresses of this node changed {0} times in one ICE session; restart ICE")]
    Exhausted(usize),
}

/// Which addresses connectivity checks may go to.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Loopback is allowed; only for tests on one machine.
    pub allow_loopback: bool,
    /// Prefixes of this node's own virtual networks.
    pub own_tunnels: Vec<(IpAddr, u8)>,
}

impl AddressPolicy {
    /// Whether a check may be sent to `address`. IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4) is judged as IPv4 too.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refused> {
        let address = plain(address);
        let embedded = match address.ip() {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => embedded_v4(v6),
        };
        let bad_embedded = embedded.is_some_and(|v4| !self.allows_v4(v4));
        let allowed = match address.ip() {
            IpAddr::V4(v4) => self.allows_v4(v4),
            IpAddr::V6(v6) => self.allows_v6(v6),
        };
        if address.port() == 0 || !allowed || bad_embedded {
            return Err(Refused::Address(address));
        }
        let inside = |&(prefix, length): &(IpAddr, u8)| contains(prefix, length, address.ip());
        if self.own_tunnels.iter().any(inside) {
            return Err(Refused::OwnTunnel(address));
        }
        Ok(())
    }

    fn allows_v4(&self, ip: Ipv4Addr) -> bool {
        let reserved = ip.octets()[0] == 0 || ip.octets()[0] >= 240;
        let loopback = ip.is_loopback() && !self.allow_loopback;
        !(reserved || loopback || ip.is_multicast() || ip.is_link_local())
    }

    fn allows_v6(&self, ip: Ipv6Addr) -> bool {
        if is_reserved(ip.into()) {
            return false;
        }
        let loopback = ip == Ipv6Addr::LOCALHOST && !self.allow_loopback;
        // ::/96 (IPv4-compatible) is refused as a whole, but for the loopback just judged.
        let compatible = ip.segments()[..6] == [0; 6] && ip != Ipv6Addr::LOCALHOST;
        !(loopback || compatible || ip.is_multicast() || ip.is_unicast_link_local())
    }
}

/// The IPv4 address that a translator would take out of an IPv6 address: NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

fn contains(prefix: IpAddr, length: u8, ip: IpAddr) -> bool {
    match (prefix, ip) {
        (IpAddr::V4(p), IpAddr::V4(ip)) => {
            let shift = 32u32.saturating_sub(u32::from(length));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            (u32::from(p) ^ u32::from(ip)) & mask == 0
        }
        (IpAddr::V6(p), IpAddr::V6(ip)) => {
            let shift = 128u32.saturating_sub(u32::from(length));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            (u128::from(p) ^ u128::from(ip)) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn candidates_survive_the_signalled_form_without_their_base() {
        let srflx = Candidate::server_reflexive(at("203.0.113.7:40000"), at("10.0.0.2:7"), 9);
        let mut bytes = Vec::new();
        srflx.encode(&mut bytes);
        Candidate::host(at("[2001:db8::7]:5"), 65535).encode(&mut bytes);
        let (first, rest) = Candidate::parse(&bytes).unwrap();
        assert_eq!(first.base, first.address);
        assert_eq!((first.kind, first.priority), (srflx.kind, srflx.priority));
        let (second, rest) = Candidate::parse(rest).unwrap();
        assert_eq!(second.address, at("[2001:db8::7]:5"));
        assert!(rest.is_empty());
        assert!(!bytes.windows(4).any(|w| w == [10, 0, 0, 2]));
    }

    #[test]
    fn forbidden_addresses_are_refused_in_every_spelling() {
        let policy = AddressPolicy {
            own_tunnels: vec![("10.9.0.0".parse().unwrap(), 16), ("fd12::".parse().unwrap(), 48)],
            ..AddressPolicy::default()
        };
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "224.0.0.1",
            "239.9.9.9",
            "240.0.0.1",
            "255.255.255.255",
            "169.254.1.1",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "::ffff:7f00:1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::e000:1",
            "2002:7f00:1::1",
            "2002:0:1::",
            "::ffff:0:7f00:1",
            "ff02::1",
            "ff0e::1",
            "fe80::1",
            "febf::1",
            "100::",
            "100::1:0:2",
            "10.9.0.1",
            "10.9.255.255",
            "::ffff:10.9.0.1",
            "fd12::1",
            "fd12:0:0:1::9",
        ];
        for ip in refused {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(policy.check(SocketAddr::new(ip, 9)).is_err(), "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "10.8.0.1",
            "100.64.0.1",
            "192.168.1.1",
            "2001:db8::1",
            "fd13::1",
            "64:ff9b::8.8.8.8",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(policy.check(SocketAddr::new(ip, 9)), Ok(()), "{ip}");
            assert!(policy.check(SocketAddr::new(ip, 0)).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((candidate, rest)) = Candidate::parse(&bytes) {
                let mut again = Vec::new();
                candidate.encode(&mut again);
                prop_assert_eq!(&bytes[..bytes.len() - rest.len()], &again[..]);
            }
        }
    }
}
