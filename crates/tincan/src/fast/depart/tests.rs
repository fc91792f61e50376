//! What ann sends carol, and bob through carol.

use proptest::prelude::*;

use super::*;
use crate::fast::transit::tests::{ANN, BOB, CAROL, FRAME_MAX, NETWORK, World, inner, outside};
use crate::fast::{Inbound, inbound};
use crate::frame::split;
use crate::frame::tests::frame;

/// To whom, and how long.
type Sent = (usize, usize);

const HEADER_BYTES: usize = 20;

fn frames(sent: &[Sent]) -> Vec<Vec<u8>> {
    let bytes = |number: usize, length: usize| vec![number as u8; length - HEADER_BYTES];
    sent.iter()
        .enumerate()
        .map(|(number, (to, length))| frame(&inner(ANN), &inner(*to), &bytes(number, *length)))
        .collect()
}

/// What leaves when ann's NIC hands over these in one turn, with room for so many bytes at a time.
fn leave(world: &mut World, sent: &[Sent], room: usize) -> Vec<Vec<u8>> {
    let mut trains = Trains::new(room);
    trains.set_records_max(64);
    let mut datagrams = Vec::new();
    let mut send = |trains: &mut Trains| {
        for (path, bytes, record) in trains.iter() {
            assert!(matches!(path, FastPath::Direct { remote, .. } if remote == outside(CAROL)));
            datagrams.extend(bytes.chunks(record).map(<[u8]>::to_vec));
        }
        trains.clear();
    };
    let mut departure = Departure::new(
        &world.tables[ANN],
        &mut world.lanes[ANN],
        NETWORK,
        &mut trains,
        &mut send,
    );
    for frame in frames(sent) {
        let departed = departure.take(&Shape::default(), &frame);
        assert!(matches!(departed, Departed::Sealed(_)), "{departed:?}");
    }
    departure.send();
    drop(departure);
    datagrams
}

/// What comes out of them at carol's and, passed on by her, at bob's.
fn arrive(world: &mut World, datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut arrived = Vec::new();
    for mut datagram in datagrams {
        let verdict = match world.pass_on(&mut datagram) {
            Ok(onward) => {
                datagram = onward;
                inbound(&world.tables[BOB], outside(CAROL), &mut datagram)
            }
            Err(verdict) => verdict,
        };
        let Inbound::Frames { range, .. } = verdict else {
            panic!("{verdict:?}");
        };
        arrived.extend(split(&datagram, range).map(|frame| datagram[frame].to_vec()));
    }
    arrived
}

#[test]
fn short_frames_for_one_link_share_a_record() {
    let cases: [(&[Sent], usize); 9] = [
        (&[(CAROL, 92)], 1),
        (&[(CAROL, 92); 12], 1),
        (&[(CAROL, 92); 13], 2),
        (&[(BOB, 92); 12], 1),
        (&[(CAROL, 92), (BOB, 92), (CAROL, 92)], 3),
        (&[(CAROL, FRAME_MAX), (CAROL, 92), (CAROL, 92)], 2),
        (&[(CAROL, 92), (CAROL, limits::FRAME_SURE - 92)], 1),
        (&[(CAROL, 92), (CAROL, limits::FRAME_SURE - 91)], 2),
        (&[(CAROL, FRAME_MAX); 3], 3),
    ];
    for (sent, datagrams) in cases {
        assert_eq!(leave(&mut World::new(), sent, 1 << 16).len(), datagrams, "{sent:?}");
    }
}

#[test]
fn counters_tell_frames_and_not_records() {
    use std::sync::atomic::Ordering::Relaxed;
    let mut world = World::new();
    let datagrams = leave(&mut world, &[(BOB, 92); 12], 1 << 16);
    arrive(&mut world, datagrams);
    let ann = |peer: usize| world.tables[ANN].links[peer].as_ref().expect("a link").shared.clone();
    let bob = &world.tables[BOB].receivers[0].shared;
    assert_eq!(
        (ann(BOB).sent_frames.load(Relaxed), ann(CAROL).carried.load(Relaxed)),
        (12, 1)
    );
    assert_eq!(
        (bob.received_frames.load(Relaxed), bob.received_bytes.load(Relaxed)),
        (12, 12 * 92)
    );
}

proptest! {
    #[test]
    fn whatever_leaves_together_arrives_in_its_order(
        sent in proptest::collection::vec((prop_oneof![Just(BOB), Just(CAROL)], HEADER_BYTES..=FRAME_MAX), 1..80),
        short in any::<bool>(),
        room in 3000usize..40_000,
    ) {
        let sent: Vec<Sent> = sent.into_iter().map(|(to, length)| (to, if short { length % 80 + 20 } else { length })).collect();
        let mut world = World::new();
        let datagrams = leave(&mut world, &sent, room);
        prop_assert!(datagrams.len() <= sent.len());
        prop_assert_eq!(arrive(&mut world, datagrams), frames(&sent));
    }
}
