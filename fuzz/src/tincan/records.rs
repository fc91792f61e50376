//! Records, frames, and the fast path between them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use api::{NetworkId, NodeId};
use tincan::fast::transit::{Name, Neighbour};
use tincan::fast::{
    self, FastLink, FastPath, FastReceiver, HEADROOM, Inbound, Lanes, LinkShared, LinkSlot, NetTable, Outbound,
    Snapshot, TAILROOM,
};
use tincan::frame::{Frame, split, too_big, unreachable};
use tincan::limits;
use tincan::record::{Cipher, DropReason, HEADER, Header, LANES, Lane, OVERHEAD, ReceiverIndex};
use tincan::session::{Role, Session, SessionKeys};
use tincan::transit::{PeerNumber, ShortId, is_transit};

use crate::script::START;

const NETWORK: NetworkId = NetworkId([9; 32]);
const FRAME_MAX: usize = 1400;
/// Numbers by which the two ends know their session; seeds use them.
pub(crate) const ANN_INDEX: u32 = 7;
const BOB_INDEX: u32 = 8;

/// The clear part of a record.
pub(crate) fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    assert!(header.lane < LANES && header.counter < 1 << 48 && bytes.len() >= OVERHEAD);
    assert_eq!(header.encode()[..], bytes[..HEADER]);
}

static SEALED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(sealed);

/// Any bytes before a session's keys; then what its peer really sealed still opens, once.
pub(crate) fn open(bytes: &[u8]) {
    for cipher in Cipher::preferred(true) {
        let (ann, bob) = (session(Role::Client, cipher), session(Role::Server, cipher));
        let keys = ann.opener();
        let mut forged = bytes.to_vec();
        if keys.open(&mut forged).is_ok() {
            assert!(SEALED.iter().any(|record| record == bytes), "nobody sealed that");
            continue;
        }
        let mut record = vec![0x5a; bytes.len().min(limits::FRAME) + OVERHEAD];
        let mut lane = Lane::new(1).expect("a lane");
        bob.sealer().seal(&mut lane, &mut record).expect("a new key seals");
        let mut again = record.clone();
        let opened = keys.open(&mut record).map(|opened| opened.payload.len());
        assert_eq!(opened, Ok(again.len() - OVERHEAD));
        assert_eq!(keys.open(&mut again).map(|_| ()), Err(DropReason::Replay));
    }
}

/// An inner frame, and the ICMP errors about it.
pub(crate) fn frame(bytes: &[u8]) {
    let parsed = Frame::parse(bytes);
    for answer in [unreachable(bytes), too_big(bytes, 1300)].into_iter().flatten() {
        let frame = parsed.as_ref().expect("nothing is said about what is no frame");
        let about = Frame::parse(&answer).expect("an error is itself a frame");
        assert_eq!((about.source, about.destination), (frame.destination, frame.source));
        assert!(answer.len() <= usize::from(limits::MTU_MIN));
        assert_eq!(unreachable(&answer), None, "no error about an error");
    }
}

/// A datagram at the fast path: as it is, and as an inner frame that the peer sealed.
pub(crate) fn inbound(bytes: &[u8]) {
    let (ann, bob) = (end(Role::Client, None), end(Role::Server, None));
    let mut datagram = bytes.to_vec();
    let verdict = fast::inbound(&ann.snapshot, at(BOB), &mut datagram);
    assert!(!matches!(verdict, Inbound::Frames { .. }), "nobody sealed that");
    assert!(bytes.len() < OVERHEAD || datagram[..HEADER] == bytes[..HEADER]);

    let payload = &bytes[..bytes.len().min(limits::FRAME)];
    let mut buffer = with_room(payload);
    let mut lanes = Lanes::new(1).expect("a lane");
    let link = bob.snapshot.links[0].as_ref().expect("the only link");
    let sealed = fast::seal(link, &mut lanes, slot(), &mut buffer);
    let Outbound::Sealed { range, .. } = sealed else {
        panic!("a new key seals: {sealed:?}");
    };
    let mut datagram = buffer[range].to_vec();
    match fast::inbound(&ann.snapshot, at(BOB), &mut datagram) {
        Inbound::Frames { range, .. } => {
            assert!(!range.is_empty() && payload.starts_with(&datagram[range.clone()]));
            let mut end = range.start;
            for at in split(&datagram, range.clone()) {
                end = at.end;
                let frame = Frame::parse(&datagram[at]).expect("nothing else goes to the NIC");
                assert_eq!(frame.source, ip("10.1.0.2"), "only the sender's own addresses");
            }
            assert_eq!(end, range.end);
        }
        Inbound::Dropped(..) => {}
        Inbound::Inside { payload, .. } => assert!(is_transit(&datagram[payload])),
        Inbound::PassOn { .. } => panic!("there is nobody else"),
        Inbound::ToEngine => panic!("a record on a worker's lane is for the worker"),
    }
}

/// A frame from the NIC.
pub(crate) fn outbound(bytes: &[u8]) {
    let channel = FastPath::Channel {
        server: at(BOB),
        channel: 0x4001,
    };
    for path in [None, Some(channel)] {
        let (ann, bob) = (end(Role::Client, path), end(Role::Server, path));
        let mut lanes = Lanes::new(1).expect("a lane");
        let mut buffer = with_room(bytes);
        let verdict = fast::outbound(&ann.snapshot, &mut lanes, NETWORK, &mut buffer);
        let Outbound::Sealed { range, .. } = verdict else {
            continue;
        };
        let frame = Frame::parse(bytes).expect("nothing else is sealed");
        assert!(frame.source == ip("10.1.0.1") && frame.destination == ip("10.1.0.2"));
        assert!(bytes.len() <= FRAME_MAX);
        let mut datagram = buffer[range].to_vec();
        let from = if path.is_some() { BOB } else { ANN };
        match fast::inbound(&bob.snapshot, at(from), &mut datagram) {
            Inbound::Frames { range, .. } => assert_eq!(&datagram[range], bytes),
            other => panic!("what was sealed is opened: {other:?}"),
        }
    }
    let mut no_room = bytes.to_vec();
    let mut lanes = Lanes::new(0).expect("a lane");
    let end = end(Role::Client, None);
    fast::outbound(&end.snapshot, &mut lanes, NETWORK, &mut no_room);
}

/// What the only peer is called.
const SENDER: Name = Name {
    short: ShortId::of(NodeId([1; 32])),
    number: PeerNumber(1),
};

const ANN: &str = "192.0.2.1:1000";
const BOB: &str = "192.0.2.2:2000";

struct End {
    snapshot: Snapshot,
}

/// One end of a link with its tables; the client is Ann.
fn end(role: Role, path: Option<FastPath>) -> End {
    let session = session(role, Cipher::Aes256Gcm);
    let (own, peer, remote) = match role {
        Role::Client => (ip("10.1.0.1"), ip("10.1.0.2"), at(BOB)),
        Role::Server => (ip("10.1.0.2"), ip("10.1.0.1"), at(ANN)),
    };
    let path = path.unwrap_or(FastPath::Direct { source: None, remote });
    let shared = Arc::new(LinkShared::default());
    let net = Arc::new(NetTable {
        network: NETWORK,
        own: vec![own],
        subnets: vec!["10.1.0.0/16".parse().expect("a subnet")],
        routes: vec![(peer, slot())],
        neighbours: vec![Neighbour {
            name: SENDER,
            slot: Some(slot()),
        }],
        drops: Arc::default(),
    });
    let link = FastLink {
        sealer: session.sealer(),
        path,
        frame_max: FRAME_MAX,
        payload_max: FRAME_MAX,
        cuts: false,
        shared: shared.clone(),
    };
    let servers = match path {
        FastPath::Channel { server, .. } => vec![server],
        FastPath::Direct { .. } | FastPath::Member(_) | FastPath::Engine => Vec::new(),
    };
    let receiver = FastReceiver {
        index: session.own_index(),
        keys: session.opener(),
        expected: path,
        net: net.clone(),
        allowed: Arc::from([peer]),
        sender: SENDER,
        shared,
    };
    let snapshot = Snapshot {
        networks: vec![net],
        links: vec![Some(link)],
        receivers: vec![receiver],
        servers,
        drops: Arc::default(),
    };
    End { snapshot }
}

pub(crate) fn session(role: Role, cipher: Cipher) -> Session {
    let keys = SessionKeys::new(&[1; 32], &[2; 32], cipher, role);
    let index = |number| ReceiverIndex::new(number).expect("24 bits");
    let (own, peer) = match role {
        Role::Client => (ANN_INDEX, BOB_INDEX),
        Role::Server => (BOB_INDEX, ANN_INDEX),
    };
    Session::new(keys, index(peer), index(own), *START)
}

fn slot() -> LinkSlot {
    LinkSlot::new(0).expect("the first place")
}

fn with_room(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM][..], frame, &[0; TAILROOM]].concat()
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// UDP over IPv4, TCP over IPv6, ARP, an ICMP error: from Bob and from Ann.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let v4 = |source: u8, destination: [u8; 4], protocol: u8| {
        let mut frame = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 0, source];
        frame.extend_from_slice(&destination);
        frame.extend_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame
    };
    let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 6, 64];
    v6.extend_from_slice(&[0xfd; 32]);
    v6.extend_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0]);
    vec![
        v4(1, [10, 1, 0, 2], 17),
        v4(2, [10, 1, 0, 1], 17),
        v4(2, [224, 0, 0, 251], 17),
        v4(2, [10, 1, 0, 1], 1),
        v6,
    ]
}

/// Records that the two ends of the target really seal.
pub(crate) fn sealed() -> Vec<Vec<u8>> {
    let bob = session(Role::Server, Cipher::Aes256Gcm);
    let seal = |(number, frame): (usize, Vec<u8>)| {
        let mut lane = Lane::new(u8::try_from(number).expect("a few")).expect("a lane");
        let mut record = [&[0; HEADER][..], &frame, &[0; OVERHEAD - HEADER]].concat();
        bob.sealer().seal(&mut lane, &mut record).expect("a new key seals");
        record
    };
    frames().into_iter().enumerate().map(seal).collect()
}
