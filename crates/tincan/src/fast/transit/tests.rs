//! Ann, carol who passes on, and bob.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use api::{NetworkId, NodeId};

use super::*;
use crate::fast::slice::Shape;
use crate::fast::{Departed, depart, inbound};
use crate::frame::tests::frame;
use crate::record::{Cipher, ReceiverIndex};
use crate::session::{Role, Session, SessionKeys};

pub(in crate::fast) const NETWORK: NetworkId = NetworkId([9; 32]);
pub(in crate::fast) const ANN: usize = 0;
pub(in crate::fast) const BOB: usize = 1;
pub(in crate::fast) const CAROL: usize = 2;
/// The longest frame of the NIC, and the longest payload that a link carries.
pub(in crate::fast) const FRAME_MAX: usize = 1400;
const PAYLOAD_MAX: usize = FRAME_MAX + HEAD + OVERHEAD;

fn name(of: usize) -> Name {
    Name {
        short: ShortId::of(NodeId([of as u8; 32])),
        number: PeerNumber(of as u32 + 1),
    }
}

pub(in crate::fast) fn outside(of: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, of as u8 + 1], 1000))
}

pub(in crate::fast) fn inner(of: usize) -> String {
    format!("10.1.0.{}", of + 1)
}

/// The slot that a peer's link has everywhere.
fn slot(peer: usize) -> LinkSlot {
    LinkSlot::new(peer).expect("few")
}

fn index(own: usize, peer: usize) -> ReceiverIndex {
    ReceiverIndex::new((own * 3 + peer) as u32).expect("small")
}

fn session(own: usize, peer: usize) -> Session {
    let role = if own < peer { Role::Client } else { Role::Server };
    let secret = [(own + peer) as u8; 32];
    let keys = SessionKeys::new(&secret, &secret, Cipher::Aes256Gcm, role);
    Session::new(keys, index(peer, own), index(own, peer), Instant::now())
}

/// How one reaches another: ann and bob through carol, who is reached straight.
fn path(own: usize, peer: usize) -> FastPath {
    if own == CAROL || peer == CAROL {
        return FastPath::Direct {
            source: None,
            remote: outside(peer),
        };
    }
    FastPath::Member(Inside {
        outer: slot(CAROL),
        to: name(peer).short,
        way: Way {
            member: name(CAROL).number,
            peer: name(peer).number,
        },
    })
}

fn tables(own: usize) -> Snapshot {
    let peers: Vec<usize> = [ANN, BOB, CAROL].into_iter().filter(|peer| *peer != own).collect();
    let ip = |of: usize| inner(of).parse().expect("an address");
    let net = Arc::new(NetTable {
        network: NETWORK,
        own: vec![ip(own)],
        subnets: vec!["10.1.0.0/16".parse().expect("a subnet")],
        routes: peers.iter().map(|peer| (ip(*peer), slot(*peer))).collect(),
        neighbours: peers
            .iter()
            .map(|peer| Neighbour {
                name: name(*peer),
                slot: Some(slot(*peer)).filter(|_| !matches!(path(own, *peer), FastPath::Member(_))),
            })
            .collect(),
        drops: Arc::default(),
    });
    let mut snapshot = Snapshot {
        networks: vec![net.clone()],
        links: vec![None; 3],
        ..Snapshot::default()
    };
    for peer in peers {
        let (session, shared) = (session(own, peer), Arc::new(LinkShared::default()));
        snapshot.links[peer] = Some(FastLink {
            sealer: session.sealer(),
            path: path(own, peer),
            frame_max: FRAME_MAX,
            payload_max: PAYLOAD_MAX,
            cuts: false,
            shared: shared.clone(),
        });
        snapshot.receivers.push(FastReceiver {
            index: session.own_index(),
            keys: session.opener(),
            expected: path(own, peer),
            net: net.clone(),
            allowed: Arc::from([ip(peer)]),
            sender: name(peer),
            shared,
        });
    }
    snapshot.receivers.sort_by_key(|receiver| receiver.index);
    snapshot
}

pub(in crate::fast) struct World {
    pub(in crate::fast) tables: [Snapshot; 3],
    pub(in crate::fast) lanes: [Lanes; 3],
}

impl World {
    pub(in crate::fast) fn new() -> Self {
        Self {
            tables: [ANN, BOB, CAROL].map(tables),
            lanes: [1, 2, 3].map(|lane| Lanes::new(lane).expect("a lane")),
        }
    }

    /// What ann's worker makes of frames for bob.
    fn depart(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut trains = Trains::new(1 << 20);
        trains.set_records_max(64);
        for bytes in frames {
            let whole = (&Shape::default(), &bytes[..]);
            let departed = depart(
                &self.tables[ANN],
                &mut self.lanes[ANN],
                NETWORK,
                whole,
                &mut trains,
                |_| panic!("there is room"),
            );
            assert!(matches!(departed, Departed::Sealed(_)), "{departed:?}");
        }
        cut(&trains, outside(CAROL))
    }

    /// What carol's worker makes of a datagram of ann's.
    pub(in crate::fast) fn pass_on(&mut self, datagram: &mut [u8]) -> Result<Vec<u8>, Inbound> {
        match inbound(&self.tables[CAROL], outside(ANN), datagram) {
            Inbound::PassOn { passing, payload, .. } => {
                assert_eq!((passing.to, passing.from), (slot(BOB), name(ANN).short));
                let mut trains = Trains::new(1 << 16);
                let (tables, lanes) = (&self.tables[CAROL], &mut self.lanes[CAROL]);
                pass_on(tables, lanes, passing, &datagram[payload], &mut trains, |_| {});
                Ok(cut(&trains, outside(BOB)).remove(0))
            }
            other => Err(other),
        }
    }

    /// A payload that ann seals for carol.
    fn say(&mut self, payload: &[u8]) -> Vec<u8> {
        self.seal(ANN, CAROL, payload)
    }

    fn seal(&mut self, from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
        let mut record = [&[0; HEADER][..], payload, &[0; TAG]].concat();
        let link = self.tables[from].links[to].as_ref().expect("a link");
        link.sealer
            .seal(self.lanes[from].lane(slot(to)), &mut record)
            .expect("sealed");
        record
    }
}

pub(in crate::fast) fn cut(trains: &Trains, to: SocketAddr) -> Vec<Vec<u8>> {
    let records = trains.iter().flat_map(|(path, bytes, record)| {
        assert!(matches!(path, FastPath::Direct { remote, .. } if remote == to));
        bytes.chunks(record)
    });
    records.map(<[u8]>::to_vec).collect()
}

fn drops(world: &World, at: usize, of: usize, reason: DropReason) -> u64 {
    let link = world.tables[at].links[of].as_ref().expect("a link");
    link.shared.drops.get(reason)
}

#[test]
fn frames_cross_a_member_in_trains_and_are_no_longer_behind_it() {
    let mut world = World::new();
    let frames: Vec<Vec<u8>> = (0..10u8).map(|n| frame(&inner(ANN), &inner(BOB), &[n; 1300])).collect();
    let sent = world.depart(&frames);
    assert_eq!(sent.len(), frames.len());
    for (mut datagram, frame) in sent.into_iter().zip(&frames) {
        assert_eq!(datagram.len(), frame.len() + 2 * OVERHEAD + HEAD);
        assert!(!datagram.windows(100).any(|part| part == [frame[40]; 100]));
        let mut onward = world.pass_on(&mut datagram).expect("passed on");
        assert_eq!(onward.len(), datagram.len());
        match inbound(&world.tables[BOB], outside(CAROL), &mut onward) {
            Inbound::Frames { network, range, .. } => assert_eq!((network, &onward[range]), (NETWORK, &frame[..])),
            other => panic!("{other:?}"),
        }
    }
    let shared = |at: usize, of: usize| world.tables[at].links[of].as_ref().expect("a link").shared.clone();
    let relayed = shared(CAROL, BOB).relayed_frames.load(Ordering::Relaxed);
    assert_eq!((relayed, shared(ANN, CAROL).carried.load(Ordering::Relaxed)), (10, 10));
    assert_eq!(shared(BOB, ANN).received_frames.load(Ordering::Relaxed), 10);
}

#[test]
fn a_member_passes_a_record_on_once_and_bob_opens_it_once() {
    let mut world = World::new();
    let mut datagram = world.depart(&[frame(&inner(ANN), &inner(BOB), b"once")]).remove(0);
    let again = datagram.clone();
    let onward = world.pass_on(&mut datagram).expect("passed on");
    let replayed = world.pass_on(&mut again.clone());
    assert_eq!(replayed, Err(Inbound::Dropped(DropReason::Replay, None)));
    // Carol herself seals anew what she has.
    let mut opened = onward.clone();
    let keys = &world.tables[BOB].receiver(index(BOB, CAROL)).expect("a session").keys;
    let payload = keys.open(&mut opened).expect("carol's").payload.to_vec();
    for (nth, expected) in [(0, None), (1, Some(DropReason::Replay))] {
        let mut copy = world.seal(CAROL, BOB, &payload);
        let verdict = match inbound(&world.tables[BOB], outside(CAROL), &mut copy) {
            Inbound::Frames { .. } => None,
            Inbound::Dropped(reason, _) => Some(reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(verdict, expected, "{nth}");
    }
}

#[test]
fn a_member_changes_nothing_unseen() {
    let mut world = World::new();
    let mut datagram = world.depart(&[frame(&inner(ANN), &inner(BOB), b"mine")]).remove(0);
    let mut onward = world.pass_on(&mut datagram).expect("passed on");
    let keys = &world.tables[BOB].receiver(index(BOB, CAROL)).expect("a session").keys;
    let payload = keys.open(&mut onward).expect("carol's").payload.to_vec();
    for at in HEAD + HEADER..payload.len() {
        let mut changed = payload.clone();
        changed[at] ^= 1;
        let mut datagram = world.seal(CAROL, BOB, &changed);
        let verdict = inbound(&world.tables[BOB], outside(CAROL), &mut datagram);
        assert!(
            matches!(verdict, Inbound::Dropped(DropReason::Forged, _)),
            "{at}: {verdict:?}"
        );
    }
}

#[test]
fn what_may_not_be_passed_on_is_dropped_and_counted() {
    let mut world = World::new();
    let stranger = ShortId::of(NodeId([0xEE; 32]));
    let mut too_far = onward(name(BOB).short);
    too_far[0] &= 0xF0;
    let record = [0x81; 60];
    let cases = [
        (onward(name(ANN).short), &record[..], DropReason::TransitLink),
        (onward(stranger), &record, DropReason::TransitLink),
        (arrived(stranger), &record, DropReason::TransitLink),
        (too_far, &record, DropReason::TransitHops),
        (onward(name(BOB).short), &[], DropReason::TransitForm),
        (onward(name(BOB).short), &[0x81; PAYLOAD_MAX], DropReason::TooBig),
    ];
    for (head, datagram, reason) in cases {
        let before = drops(&world, CAROL, ANN, reason);
        let mut said = world.say(&[&head[..], datagram].concat());
        let verdict = world.pass_on(&mut said);
        assert!(
            matches!(verdict, Err(Inbound::Dropped(r, _)) if r == reason),
            "{verdict:?} {reason:?}"
        );
        assert_eq!(drops(&world, CAROL, ANN, reason), before + 1);
    }
}

#[test]
fn nothing_is_wrapped_twice() {
    let mut world = World::new();
    // Ann asks bob, whom she reaches through carol, to pass something on.
    let inside = [&onward(name(CAROL).short)[..], &[0x81; 60]].concat();
    let record = world.seal(ANN, BOB, &inside);
    let mut datagram = world.say(&[&onward(name(BOB).short)[..], &record].concat());
    let mut onward = world.pass_on(&mut datagram).expect("passed on");
    let verdict = inbound(&world.tables[BOB], outside(CAROL), &mut onward);
    assert!(
        matches!(verdict, Inbound::Dropped(DropReason::TransitNested, _)),
        "{verdict:?}"
    );
    assert_eq!(drops(&world, BOB, ANN, DropReason::TransitNested), 1);
}

#[test]
fn what_is_no_record_is_left_to_the_engine() {
    let mut world = World::new();
    for first in [0x00, 0x40, 0x80, 0xC0] {
        let payload = [&arrived(name(BOB).short)[..], &[first; 60]].concat();
        let mut datagram = world.seal(CAROL, ANN, &payload);
        match inbound(&world.tables[ANN], outside(CAROL), &mut datagram) {
            Inbound::Inside {
                receiver, payload: at, ..
            } => assert_eq!((receiver, &datagram[at]), (index(ANN, CAROL), &payload[..])),
            other => panic!("{first:#x}: {other:?}"),
        }
    }
}

#[test]
fn a_record_of_a_way_is_taken_from_that_way_only() {
    let mut world = World::new();
    let sent = frame(&inner(ANN), &inner(BOB), b"straight");
    let mut record = world.seal(ANN, BOB, &sent);
    let before = record.clone();
    assert_eq!(
        inbound(&world.tables[BOB], outside(ANN), &mut record),
        Inbound::ToEngine
    );
    assert_eq!(record, before);
}

#[test]
fn what_is_too_long_for_the_hop_is_left_to_the_engine() {
    let mut world = World::new();
    let link = world.tables[ANN].links[CAROL].as_mut().expect("a link");
    link.payload_max = 500;
    let long = frame(&inner(ANN), &inner(BOB), &[1; 500]);
    let mut trains = Trains::new(1 << 16);
    let whole = (&Shape::default(), &long[..]);
    let departed = depart(
        &world.tables[ANN],
        &mut world.lanes[ANN],
        NETWORK,
        whole,
        &mut trains,
        |_| {},
    );
    assert_eq!((departed, trains.is_empty()), (Departed::ToEngine, true));
}
