//! Two snapshots back to back.

use std::time::Instant;

use super::slice::Shape;
use super::testing::{Flow, plain_flow};
use super::trains::Trains;
use super::*;
use crate::frame::split;
use crate::frame::tests::frame;
use crate::record::Cipher;
use crate::session::{Role, Session, SessionKeys};
use crate::transit::{PeerNumber, ShortId};

const NETWORK: NetworkId = NetworkId([9; 32]);

/// What the peer is called, where nobody asks.
const NOBODY: Name = Name {
    short: ShortId::of(api::NodeId([0; 32])),
    number: PeerNumber(1),
};

struct End {
    snapshot: Snapshot,
    shared: Arc<LinkShared>,
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn end(own: &str, peer: &str, session: &Session, path: FastPath) -> End {
    let slot = LinkSlot::new(3).unwrap();
    let shared = Arc::new(LinkShared::default());
    let net = Arc::new(NetTable {
        network: NETWORK,
        own: vec![own.parse().unwrap()],
        subnets: vec!["10.1.0.0/16".parse().unwrap()],
        routes: vec![(peer.parse().unwrap(), slot)],
        neighbours: Vec::new(),
        drops: Arc::default(),
    });
    let mut links = vec![None; 3];
    links.push(Some(FastLink {
        sealer: session.sealer(),
        path,
        frame_max: 1400,
        payload_max: 1400,
        cuts: false,
        shared: shared.clone(),
    }));
    let servers = match path {
        FastPath::Channel { server, .. } => vec![server],
        _ => Vec::new(),
    };
    let snapshot = Snapshot {
        networks: vec![net.clone()],
        links,
        receivers: vec![FastReceiver {
            index: session.own_index(),
            keys: session.opener(),
            expected: path,
            net,
            allowed: Arc::from([peer.parse().unwrap()]),
            sender: NOBODY,
            shared: shared.clone(),
        }],
        servers,
        drops: Arc::default(),
    };
    End { snapshot, shared }
}

fn pair(ann_path: FastPath, bob_path: FastPath) -> (End, End) {
    let now = Instant::now();
    let session = |role, own, peer| {
        let keys = SessionKeys::new(&[1; 32], &[2; 32], Cipher::Aes256Gcm, role);
        let index = |n| ReceiverIndex::new(n).unwrap();
        Session::new(keys, index(peer), index(own), now)
    };
    let ann = end("10.1.0.1", "10.1.0.2", &session(Role::Client, 7, 8), ann_path);
    let bob = end("10.1.0.2", "10.1.0.1", &session(Role::Server, 8, 7), bob_path);
    (ann, bob)
}

fn direct(remote: &str) -> FastPath {
    FastPath::Direct {
        source: None,
        remote: at(remote),
    }
}

fn with_room(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM][..], frame, &[0; TAILROOM]].concat()
}

fn sealed(end: &End, lanes: &mut Lanes, frame: &[u8]) -> Vec<u8> {
    let mut buffer = with_room(frame);
    match outbound(&end.snapshot, lanes, NETWORK, &mut buffer) {
        Outbound::Sealed { range, .. } => buffer[range].to_vec(),
        other => panic!("{other:?}"),
    }
}

const ANN: &str = "192.0.2.1:1000";
const BOB: &str = "192.0.2.2:2000";

#[test]
fn a_frame_crosses_on_a_workers_lane() {
    let (ann, bob) = pair(direct(BOB), direct(ANN));
    let sent = frame("10.1.0.1", "10.1.0.2", b"hello");
    let mut datagram = sealed(&ann, &mut Lanes::new(5).unwrap(), &sent);
    assert_eq!(datagram[0], 0x85);
    assert_eq!(datagram.len(), sent.len() + HEADER + TAG);
    match inbound(&bob.snapshot, at(ANN), &mut datagram) {
        Inbound::Frames { network, range, tell } => {
            assert_eq!((network, &datagram[range]), (NETWORK, &sent[..]));
            assert!(tell.is_some(), "the first record of an epoch is told");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ann.shared.sent_bytes.load(Ordering::Relaxed), sent.len() as u64);
    assert_eq!(bob.shared.received_bytes.load(Ordering::Relaxed), sent.len() as u64);
}

#[test]
fn traffic_wakes_the_engine_once() {
    let (ann, bob) = pair(direct(BOB), direct(ANN));
    let mut lanes = Lanes::new(1).unwrap();
    let sent = frame("10.1.0.1", "10.1.0.2", b"hello");
    let mut wakes = Vec::new();
    for _ in 0..3 {
        let mut buffer = with_room(&sent);
        let Outbound::Sealed { wake, range, .. } = outbound(&ann.snapshot, &mut lanes, NETWORK, &mut buffer) else {
            panic!("not sealed");
        };
        let Inbound::Frames { tell, .. } = inbound(&bob.snapshot, at(ANN), &mut buffer[range]) else {
            panic!("not opened");
        };
        wakes.push((wake, tell.is_some()));
    }
    assert_eq!(wakes, [(true, true), (false, false), (false, false)]);
}

#[test]
fn channel_data_is_written_and_read_in_place() {
    let server = at("198.51.100.1:3478");
    let channel = FastPath::Channel {
        server,
        channel: 0x4001,
    };
    let (ann, bob) = pair(channel, channel);
    let sent = frame("10.1.0.1", "10.1.0.2", b"hello");
    for lane in [0, 1] {
        let datagram = sealed(&ann, &mut Lanes::new(lane).unwrap(), &sent);
        assert_eq!(datagram[..2], [0x40, 0x01]);
        assert_eq!(usize::from(datagram[3]) + CHANNEL, datagram.len());
        let mut arriving = datagram.clone();
        match inbound(&bob.snapshot, server, &mut arriving) {
            Inbound::Frames { range, .. } if lane == 1 => assert_eq!(arriving[range], sent),
            Inbound::ToEngine if lane == 0 => assert_eq!(arriving, datagram),
            other => panic!("lane {lane}: {other:?}"),
        }
    }
}

#[test]
fn frames_with_a_foreign_source_or_destination_are_dropped_and_counted() {
    for (source, destination, reason) in [
        ("10.1.0.3", "10.1.0.2", DropReason::Source),
        ("10.1.0.2", "10.1.0.2", DropReason::Source),
        ("10.1.0.1", "10.1.0.9", DropReason::Destination),
        ("10.1.0.1", "8.8.8.8", DropReason::Destination),
    ] {
        let (ann, bob) = pair(direct(BOB), direct(ANN));
        // A hostile sender seals what its own checks would have dropped.
        let link = ann.snapshot.links[3].as_ref().unwrap();
        let mut buffer = with_room(&frame(source, destination, b"x"));
        let slot = LinkSlot::new(3).unwrap();
        let Outbound::Sealed { range, .. } = seal(link, &mut Lanes::new(1).unwrap(), slot, &mut buffer) else {
            panic!("not sealed");
        };
        let got = inbound(&bob.snapshot, at(ANN), &mut buffer[range]);
        assert!(
            matches!(got, Inbound::Dropped(r, _) if r == reason),
            "{source} {destination}: {got:?}"
        );
        assert_eq!(bob.shared.drops.get(reason), 1);
        assert_eq!(bob.shared.received_frames.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn what_stands_behind_a_refused_frame_is_dropped_with_it() {
    let good = frame("10.1.0.1", "10.1.0.2", b"good");
    let foreign = frame("10.1.0.3", "10.1.0.2", b"x");
    let most = limits::RECORD_FRAMES;
    let cases = [
        (vec![&good[..], &good, &good], 3, None),
        (vec![&good; most], most, None),
        (vec![&good; most + 1], most, Some(DropReason::Malformed)),
        (vec![&good, &foreign, &good], 1, Some(DropReason::Source)),
        (vec![&good, &good, b"E"], 2, Some(DropReason::Malformed)),
        (vec![&good, &good[..good.len() - 1]], 1, Some(DropReason::Malformed)),
        (vec![&good, &[0; 40]], 1, Some(DropReason::Malformed)),
    ];
    for (parts, frames, reason) in cases {
        let (ann, bob) = pair(direct(BOB), direct(ANN));
        let link = ann.snapshot.links[3].as_ref().unwrap();
        let mut buffer = with_room(&parts.concat());
        let slot = LinkSlot::new(3).unwrap();
        let Outbound::Sealed { range, .. } = seal(link, &mut Lanes::new(1).unwrap(), slot, &mut buffer) else {
            panic!("not sealed");
        };
        let datagram = &mut buffer[range];
        let Inbound::Frames { range, .. } = inbound(&bob.snapshot, at(ANN), datagram) else {
            panic!("{parts:?}");
        };
        let accepted: Vec<_> = split(datagram, range).map(|frame| &datagram[frame]).collect();
        assert_eq!(accepted, vec![&good[..]; frames]);
        assert_eq!(bob.shared.received_frames.load(Ordering::Relaxed), frames as u64);
        let dropped = reason.map_or(0, |reason| bob.shared.drops.get(reason));
        assert_eq!(dropped, u64::from(reason.is_some()));
    }
}

#[test]
fn our_own_frames_need_an_own_source() {
    let (ann, _) = pair(direct(BOB), direct(ANN));
    let mut lanes = Lanes::new(1).unwrap();
    let mut verdict = |frame: &[u8]| outbound(&ann.snapshot, &mut lanes, NETWORK, &mut with_room(frame));
    let foreign = frame("10.1.0.7", "10.1.0.2", b"x");
    assert_eq!(verdict(&foreign), Outbound::Dropped(DropReason::OwnSource));
    assert_eq!(verdict(b"nonsense"), Outbound::Dropped(DropReason::Malformed));
    assert_eq!(verdict(&frame("10.1.0.1", "10.1.0.9", b"x")), Outbound::ToEngine);
    assert_eq!(verdict(&frame("10.1.0.1", "10.1.255.255", b"x")), Outbound::ToEngine);
    assert_eq!(verdict(&frame("10.1.0.1", "10.1.0.2", &[0; 1381])), Outbound::ToEngine);
}

#[test]
fn what_is_not_a_record_from_the_expected_address_is_left_as_it_is() {
    let (ann, bob) = pair(direct(BOB), direct(ANN));
    let sent = frame("10.1.0.1", "10.1.0.2", b"hello");
    let record = sealed(&ann, &mut Lanes::new(1).unwrap(), &sent);
    for (remote, datagram) in [
        ("192.0.2.9:1", record.clone()),
        (ANN, vec![0, 1, 0, 0]),
        (ANN, vec![0xC0; 1200]),
        (ANN, vec![]),
        (ANN, sealed(&ann, &mut Lanes::new(0).unwrap(), &sent)),
    ] {
        let mut arriving = datagram.clone();
        assert_eq!(inbound(&bob.snapshot, at(remote), &mut arriving), Inbound::ToEngine);
        assert_eq!(arriving, datagram);
    }
    let mut again = record.clone();
    assert!(matches!(
        inbound(&bob.snapshot, at(ANN), &mut again),
        Inbound::Frames { .. }
    ));
    let got = inbound(&bob.snapshot, at(ANN), &mut record.clone());
    assert_eq!(got, Inbound::Dropped(DropReason::Replay, None));
}

fn flow_pair(path: fn(&str) -> FastPath) -> (End, End) {
    let now = Instant::now();
    let session = |role, own, peer| {
        let keys = SessionKeys::new(&[1; 32], &[2; 32], Cipher::Aes256Gcm, role);
        let index = |n| ReceiverIndex::new(n).unwrap();
        Session::new(keys, index(peer), index(own), now)
    };
    let ann = end("10.1.2.1", "10.1.2.2", &session(Role::Client, 7, 8), path(BOB));
    let bob = end("10.1.2.2", "10.1.2.1", &session(Role::Server, 8, 7), path(ANN));
    (ann, bob)
}

/// Departs one joined frame; gives the verdict, the records and how often there was no room.
fn departed(end: &End, lane: u8, shape: &Shape, frame: &[u8], room: usize) -> (Departed, Vec<Vec<u8>>, usize) {
    let mut trains = Trains::new(room);
    trains.set_records_max(64);
    let (mut records, mut fulls) = (Vec::new(), 0);
    let mut lanes = Lanes::new(lane).unwrap();
    let mut send = |trains: &mut Trains| {
        for (_, bytes, record) in trains.iter() {
            records.extend(bytes.chunks(record).map(<[u8]>::to_vec));
        }
        trains.clear();
    };
    let verdict = depart(
        &end.snapshot,
        &mut lanes,
        NETWORK,
        (shape, frame),
        &mut trains,
        |trains| {
            fulls += 1;
            send(trains);
        },
    );
    send(&mut trains);
    (verdict, records, fulls)
}

#[test]
fn a_joined_frame_departs_as_one_record_for_each_piece() {
    const SERVER: &str = "198.51.100.1:3478";
    let channel = |_: &str| FastPath::Channel {
        server: at(SERVER),
        channel: 0x4001,
    };
    for (path, from) in [(direct as fn(&str) -> FastPath, ANN), (channel, SERVER)] {
        let (ann, bob) = flow_pair(path);
        let flow = plain_flow();
        let payload: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
        let (shape, frame) = flow.joined(1340, 0x08, &payload);
        let (verdict, records, fulls) = departed(&ann, 1, &shape, &frame, 15_000);
        assert_eq!(verdict, Departed::Sealed(LinkSlot::new(3)));
        assert_eq!(fulls, 2, "30 records of 1.4 kB in 15 kB of room");
        let frames: Vec<Vec<u8>> = records
            .into_iter()
            .map(|mut record| match inbound(&bob.snapshot, at(from), &mut record) {
                Inbound::Frames { range, .. } => {
                    segment::finish(&mut record[range.clone()]);
                    record[range].to_vec()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(frames, flow.cut(1340, 0x08, &payload));
        assert_eq!(ann.shared.sent_frames.load(Ordering::Relaxed), 30);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        assert_eq!(ann.shared.sent_bytes.load(Ordering::Relaxed), bytes as u64);
    }
}

#[test]
fn what_cannot_depart_goes_to_the_engine_or_is_counted() {
    let (mut ann, _) = flow_pair(direct);
    let flow = plain_flow();
    let (shape, frame) = flow.joined(1340, 0x08, &[7; 5000]);
    let verdict = |end: &End, lane, shape: &Shape, frame: &[u8]| departed(end, lane, shape, frame, 1 << 16).0;
    let large = Shape { segment: 1400, ..shape };
    assert_eq!(verdict(&ann, 1, &large, &frame), Departed::FirstToEngine);
    assert_eq!(
        verdict(&ann, 0, &shape, &frame),
        Departed::ToEngine,
        "lane 0 is the engine's"
    );
    let nowhere = plain_flow_to(9).joined(1340, 0, &[7; 5000]).1;
    assert_eq!(verdict(&ann, 1, &shape, &nowhere), Departed::ToEngine);
    let foreign = Flow {
        ends: [5, 2],
        ..plain_flow()
    };
    let foreign = foreign.joined(1340, 0, &[7; 5000]).1;
    let own_source = Departed::Dropped(DropReason::OwnSource);
    assert_eq!(verdict(&ann, 1, &shape, &foreign), own_source);
    let shapeless = Shape { partial: None, ..shape };
    let malformed = Departed::Dropped(DropReason::Malformed);
    assert_eq!(verdict(&ann, 1, &shapeless, &frame), malformed);
    assert_eq!(verdict(&ann, 1, &shape, &frame[..30]), malformed);
    let link = ann.snapshot.links[3].as_mut().unwrap();
    link.path = FastPath::Engine;
    assert_eq!(verdict(&ann, 1, &shape, &frame), Departed::ToEngine);
}

fn plain_flow_to(end: u8) -> Flow {
    Flow {
        ends: [1, end],
        ..plain_flow()
    }
}
