//! Datagrams that travel inside a member's link, and the addresses that stand for such ways.

use std::net::{Ipv6Addr, SocketAddr};

use api::NodeId;
use tincan::ice::AddressPolicy;
use tincan::transit::{HEAD, HOPS, ShortId, Transit, Way, arrived, is_reserved, is_transit, onward};

/// What a peer sealed for us, as a transit payload and as an address.
pub(crate) fn transit(bytes: &[u8]) {
    payload(bytes);
    if let Some((octets, rest)) = bytes.split_first_chunk::<16>() {
        let port = rest.first().map_or(1, |byte| u16::from(*byte));
        address(SocketAddr::new(Ipv6Addr::from(*octets).into(), port));
    }
}

fn payload(bytes: &[u8]) {
    let Ok(transit) = Transit::parse(bytes) else { return };
    assert!(is_transit(bytes));
    let (head, datagram) = match transit {
        Transit::Onward { hops, to, datagram } => {
            assert!(hops <= 15);
            (onward(to), datagram)
        }
        Transit::Arrived { from, datagram } => (arrived(from), datagram),
    };
    assert!(!datagram.is_empty());
    assert_eq!((&bytes[1..HEAD], &bytes[HEAD..]), (&head[1..], datagram));
    assert_eq!(bytes[0] >> 4, head[0] >> 4);
}

fn address(address: SocketAddr) {
    let way = Way::of(address);
    assert_eq!(way.is_some(), is_reserved(address.ip()));
    if let Some(way) = way {
        assert_eq!(way.address().ip(), address.ip());
        assert!(
            AddressPolicy::default().check(address).is_err(),
            "no signal names a way"
        );
    }
}

/// One on its way to a member, one from there, one that went too far, and an address.
pub(crate) fn some() -> Vec<Vec<u8>> {
    let id = ShortId::of(NodeId([7; 32]));
    let mut too_far = onward(id);
    too_far[0] -= HOPS;
    let mut way = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1];
    way.resize(32, 0);
    vec![
        [&onward(id)[..], b"sealed"].concat(),
        [&arrived(id)[..], b"sealed"].concat(),
        [&too_far[..], b"sealed"].concat(),
        way,
    ]
}
