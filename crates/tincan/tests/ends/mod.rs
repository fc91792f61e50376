//! Two nodes' tables back to back, with a link between them and idle links to others, for measuring the way of a frame.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use api::{Cidr, NetworkId, NodeId};
use tincan::fast::transit::{Name, Neighbour};
use tincan::fast::{
    FastLink, FastPath, FastReceiver, HEADROOM, Lanes, LinkShared, LinkSlot, NetTable, Outbound, Snapshot, TAILROOM,
    outbound,
};
use tincan::record::{Cipher, ReceiverIndex};
use tincan::session::{Role, Session, SessionKeys};
use tincan::transit::{PeerNumber, ShortId};

pub(crate) const NETWORK: NetworkId = NetworkId([9; 32]);

/// Both ends of a link, and a sender's lanes.
pub(crate) struct Ends {
    pub(crate) ann: Snapshot,
    pub(crate) bob: Snapshot,
    pub(crate) lanes: Lanes,
}

impl Ends {
    /// A link from ann to bob; each has links to `others` more nodes in its tables.
    pub(crate) fn new(cipher: Cipher, others: u16) -> Self {
        let [ann, bob] = [(Role::Client, 1, 2), (Role::Server, 2, 1)].map(|(role, own, peer)| {
            let links = (0..=others).map(|n| session(cipher, role, own, peer, n));
            snapshot(own, peer, links.collect())
        });
        let lanes = Lanes::new(1).expect("lane 1 exists");
        Self { ann, bob, lanes }
    }

    /// Seals ann's frame where it lies in `buffer`; returns where the datagram is.
    pub(crate) fn seal(&mut self, buffer: &mut [u8]) -> std::ops::Range<usize> {
        match outbound(&self.ann, &mut self.lanes, NETWORK, buffer) {
            Outbound::Sealed { range, .. } => range,
            other => panic!("{other:?}"),
        }
    }
}

/// What the peer of the n-th link is called, at either end.
pub(crate) fn name(n: usize) -> Name {
    let number = u32::try_from(n).expect("few enough");
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Name {
        short: ShortId::of(NodeId(id)),
        number: PeerNumber(number + 1),
    }
}

/// Address of an end as datagrams show it.
pub(crate) fn outside(end: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, end], 1000))
}

/// A buffer with an IPv4 frame of `length` bytes from ann to bob and room around it.
pub(crate) fn buffer(length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[0] = 0x45;
    frame[2..4].copy_from_slice(&u16::try_from(length).expect("a short frame").to_be_bytes());
    frame[12..16].copy_from_slice(&inner(1, 0).octets());
    frame[16..20].copy_from_slice(&inner(2, 0).octets());
    [&[0; HEADROOM][..], &frame, &[0; TAILROOM]].concat()
}

/// Inner address of an end (1 or 2), or of the n-th idle node that it knows.
fn inner(end: u8, n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    match n {
        0 => Ipv4Addr::new(10, 5, 0, end),
        _ => Ipv4Addr::new(10, 5, high + 1, low),
    }
}

fn session(cipher: Cipher, role: Role, own: u8, peer: u8, n: u16) -> Session {
    let [high, low] = n.to_be_bytes();
    let mut secret = [7; 32];
    secret[..2].copy_from_slice(&[high, low]);
    // Spread over the 24 bits as random indices are.
    let index = |end: u8| ReceiverIndex::from_bytes([low.reverse_bits(), high ^ 0x5A, end]);
    let keys = SessionKeys::new(&secret, &[1; 32], cipher, role);
    Session::new(keys, index(peer), index(own), Instant::now())
}

fn snapshot(own: u8, peer: u8, sessions: Vec<Session>) -> Snapshot {
    let slot = |n: usize| LinkSlot::new(n).expect("few enough");
    let address = |n: usize| IpAddr::from(inner(peer, u16::try_from(n).expect("few enough")));
    let mut routes: Vec<(IpAddr, LinkSlot)> = (0..sessions.len()).map(|n| (address(n), slot(n))).collect();
    routes.sort_unstable();
    let net = Arc::new(NetTable {
        network: NETWORK,
        own: vec![inner(own, 0).into()],
        subnets: vec![Cidr::new(inner(own, 0).into(), 16).expect("a subnet")],
        routes,
        neighbours: (0..sessions.len())
            .map(|n| Neighbour {
                name: name(n),
                slot: Some(slot(n)),
            })
            .collect(),
        drops: Arc::default(),
    });
    let (mut links, mut receivers) = (Vec::new(), Vec::new());
    for (n, session) in sessions.iter().enumerate() {
        let shared = Arc::new(LinkShared::default());
        let path = FastPath::Direct {
            source: None,
            remote: outside(peer),
        };
        links.push(Some(FastLink {
            sealer: session.sealer(),
            path,
            frame_max: 9000,
            payload_max: 9000,
            cuts: false,
            shared: shared.clone(),
        }));
        receivers.push(FastReceiver {
            index: session.own_index(),
            keys: session.opener(),
            expected: path,
            net: net.clone(),
            allowed: Arc::from([address(n)]),
            sender: name(n),
            shared,
        });
    }
    receivers.sort_unstable_by_key(|receiver| receiver.index);
    Snapshot {
        networks: vec![net],
        links,
        receivers,
        servers: Vec::new(),
        drops: Arc::default(),
    }
}
