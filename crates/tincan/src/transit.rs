//! Transit: datagrams of one link that travel inside the links of a member which both its ends have links with.
//!
//! What travels is sealed for the other end already; it is sealed once more for each hop. A payload, in a record of a
//! hop: kind and hops left (4 bits each) · the start of a node id (12 bytes) · the datagram. On its way to the member
//! the id says where it goes to, on its way from the member where it came from: so nobody can name a sender, and the
//! payload is as long before as after. A kind is neither a control kind of lane 0 nor how an IP frame begins.
//!
//! To the link that uses it, such a way is a path like any other, between two addresses that cannot be on a wire
//! (100::/64, which RFC 6666 has every router discard). They stay inside: no socket, signal or person sees one.
//!
//! Promises: a parser that takes any bytes; no address of an interface is ever taken for a way, nor the other way round.
//! Refuses to know: which members there are, sealing, what the datagram says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use api::NodeId;

use crate::record;

/// Bytes before the datagram.
pub const HEAD: usize = 1 + SHORT;
/// What a way through a member adds to a datagram, beside what the member's own path adds.
pub const OVERHEAD: usize = HEAD + record::OVERHEAD;
/// How often a datagram may be passed on: there is one member between, never two.
pub const HOPS: u8 = 1;

/// Bytes of an id that travel: nobody makes a second key with the same 96 bits.
const SHORT: usize = 12;
const ONWARD: u8 = 1;
const ARRIVED: u8 = 2;

/// The start of a node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId([u8; SHORT]);

impl ShortId {
    /// Of a node.
    pub const fn of(node: NodeId) -> Self {
        match node.0.first_chunk() {
            Some(short) => Self(*short),
            None => unreachable!(),
        }
    }

    /// The first of all ids that begin so.
    pub fn first(self) -> NodeId {
        let mut id = [0; 32];
        id[..SHORT].copy_from_slice(&self.0);
        NodeId(id)
    }
}

/// A transit payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transit<'a> {
    /// To be passed on.
    Onward {
        /// How often it may be.
        hops: u8,
        /// To whom.
        to: ShortId,
        /// What.
        datagram: &'a [u8],
    },
    /// Passed on by the member that sealed it.
    Arrived {
        /// Whose.
        from: ShortId,
        /// What.
        datagram: &'a [u8],
    },
}

/// Why bytes are no transit payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no transit payload: its kind is unknown, or nothing is in it")]
pub struct TransitError;

/// Whether a payload is for here: what begins otherwise is a control record or a frame.
pub fn is_transit(payload: &[u8]) -> bool {
    payload
        .first()
        .is_some_and(|first| matches!(first >> 4, ONWARD | ARRIVED))
}

impl<'a> Transit<'a> {
    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, TransitError> {
        let (&first, rest) = payload.split_first().ok_or(TransitError)?;
        let (short, datagram) = rest.split_first_chunk::<SHORT>().ok_or(TransitError)?;
        let id = ShortId(*short);
        let hops = first & 0x0F;
        match first >> 4 {
            _ if datagram.is_empty() => Err(TransitError),
            ONWARD => Ok(Self::Onward { hops, to: id, datagram }),
            ARRIVED => Ok(Self::Arrived { from: id, datagram }),
            _ => Err(TransitError),
        }
    }
}

/// What stands before a datagram on its way to the member.
pub fn onward(to: ShortId) -> [u8; HEAD] {
    head(ONWARD << 4 | HOPS, to)
}

/// What stands before it on its way from the member.
pub fn arrived(from: ShortId) -> [u8; HEAD] {
    head(ARRIVED << 4, from)
}

fn head(first: u8, id: ShortId) -> [u8; HEAD] {
    let mut bytes = [first; HEAD];
    bytes[1..].copy_from_slice(&id.0);
    bytes
}

/// A peer's number on this node, from 1 on; never given to another while the peer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNumber(pub u32);

/// A way: through which member to which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// The member.
    pub member: PeerNumber,
    /// The other end.
    pub peer: PeerNumber,
}

/// Ports mean nothing here, but an address without one is no address.
const PORT: u16 = 1;

/// Our own end of every way.
pub const HERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)), PORT);

impl Way {
    /// What stands for the other end.
    pub fn address(self) -> SocketAddr {
        let number = u64::from(self.member.0) << 32 | u64::from(self.peer.0);
        let ip = Ipv6Addr::from(PREFIX | u128::from(number));
        SocketAddr::new(ip.into(), PORT)
    }

    /// The way that an address stands for.
    pub fn of(address: SocketAddr) -> Option<Self> {
        let IpAddr::V6(ip) = address.ip() else {
            return None;
        };
        if !is_reserved(address.ip()) {
            return None;
        }
        let [.., m0, m1, m2, m3, p0, p1, p2, p3] = ip.octets();
        Some(Self {
            member: PeerNumber(u32::from_be_bytes([m0, m1, m2, m3])),
            peer: PeerNumber(u32::from_be_bytes([p0, p1, p2, p3])),
        })
    }
}

const PREFIX: u128 = 0x0100 << 112;

/// Whether an address stands for something that is on no wire.
pub fn is_reserved(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_bits() >> 64 == PREFIX >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeId = NodeId([7; 32]);

    #[test]
    fn heads_read_back_and_are_alike_in_length() {
        let to = ShortId::of(NODE);
        let there = [&onward(to)[..], b"sealed"].concat();
        let datagram = &b"sealed"[..];
        assert_eq!(
            Transit::parse(&there),
            Ok(Transit::Onward {
                hops: HOPS,
                to,
                datagram
            })
        );
        let back = [&arrived(to)[..], b"sealed"].concat();
        assert_eq!(Transit::parse(&back), Ok(Transit::Arrived { from: to, datagram }));
        assert!(is_transit(&there) && is_transit(&back) && there.len() == back.len());
    }

    #[test]
    fn control_records_and_frames_are_not_transit() {
        for first in (0..8).chain([0x45, 0x4F, 0x60, 0x6F]) {
            let payload = [first; 100];
            assert!(!is_transit(&payload));
            assert_eq!(Transit::parse(&payload), Err(TransitError));
        }
        assert!(!is_transit(&[]));
    }

    #[test]
    fn a_head_without_a_datagram_is_refused() {
        let head = onward(ShortId::of(NODE));
        for end in 0..=head.len() {
            assert_eq!(Transit::parse(&head[..end]), Err(TransitError), "{end}");
        }
    }

    #[test]
    fn a_short_id_finds_its_node_among_others() {
        let short = ShortId::of(NODE);
        assert!(short.first() < NODE);
        assert_eq!(ShortId::of(short.first()), short);
    }

    #[test]
    fn ways_have_addresses_of_their_own() {
        let way = Way {
            member: PeerNumber(1),
            peer: PeerNumber(u32::MAX),
        };
        let back = Way {
            member: way.peer,
            peer: way.member,
        };
        assert_eq!(Way::of(way.address()), Some(way));
        assert_ne!(way.address(), back.address());
        assert!(is_reserved(way.address().ip()) && is_reserved(HERE.ip()) && HERE != way.address());
        for real in ["2001:db8::1", "100:0:0:1::1", "::1", "192.0.2.1", "1.0.0.0"] {
            let ip: IpAddr = real.parse().unwrap();
            assert!(!is_reserved(ip) && Way::of(SocketAddr::new(ip, 1)).is_none(), "{real}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(transit) = Transit::parse(&bytes) {
                prop_assert!(is_transit(&bytes));
                let (Transit::Onward { datagram, .. } | Transit::Arrived { datagram, .. }) = transit;
                prop_assert_eq!(&bytes[HEAD..], datagram);
            }
        }
    }
}
