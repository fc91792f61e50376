//! Against the plain reference of `testing`.

use proptest::prelude::*;

use super::super::testing::{flow, sliced};
use super::*;

proptest! {
    #[test]
    fn pieces_are_what_the_kernel_would_have_made(
        flow in flow(),
        segment in 1u16..1500,
        flags in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 1..6000),
    ) {
        // SYN, RST and URG are never joined; with or without the others.
        let flags = flags & 0xd9;
        let (shape, frame) = flow.joined(segment, flags, &payload);
        let pieces = sliced(&shape, &frame);
        prop_assert_eq!(&pieces, &flow.cut(segment, flags, &payload));
        let largest = Slices::new(&shape, &frame).unwrap().largest();
        let (last, others) = pieces.split_last().unwrap();
        prop_assert!(others.iter().all(|piece| piece.len() == largest) && last.len() <= largest);
    }

    #[test]
    fn unfinished_checksums_of_whole_frames_are_finished(
        flow in flow(),
        payload in proptest::collection::vec(any::<u8>(), 1..1400),
    ) {
        let (shape, frame) = flow.joined(1, 0x08, &payload);
        let whole = Shape { kind: Kind::Whole, segment: 0, ..shape };
        prop_assert_eq!(sliced(&whole, &frame), vec![flow.frame(0, 0, 0x08, &payload)]);
    }

    #[test]
    fn headers_that_lie_are_refused_or_cut_but_never_panic(
        flow in flow(),
        segment in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 1..100),
        wrong in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        start in prop_oneof![Just(20u16), Just(40), any::<u16>()],
        offset in prop_oneof![Just(6u16), Just(16), any::<u16>()],
        kind in prop_oneof![Just(Kind::Whole), Just(Kind::Tcp), Just(Kind::Udp)],
        cut in 0usize..200,
    ) {
        let (_, mut frame) = flow.joined(segment.max(1), 0, &payload);
        for (at, byte) in wrong {
            if let Some(slot) = frame.get_mut(at) {
                *slot = byte;
            }
        }
        frame.truncate(cut);
        let shape = Shape { kind, segment, partial: Some(Partial { start, offset }) };
        if Slices::new(&shape, &frame).is_ok() {
            let pieces = sliced(&shape, &frame);
            prop_assert!(pieces.len() <= frame.len().max(1));
        }
    }
}

#[test]
fn a_joined_frame_that_does_not_say_how_is_refused() {
    let frame = [0x45; 60];
    let shape = Shape {
        kind: Kind::Tcp,
        ..Shape::default()
    };
    assert_eq!(Slices::new(&shape, &frame).err(), Some(SliceError::Shape));
    let partial = Some(Partial { start: 20, offset: 16 });
    let unsized_ = Shape { partial, ..shape };
    assert_eq!(Slices::new(&unsized_, &frame).err(), Some(SliceError::Shape));
    let announced = Shape {
        segment: 10,
        ..unsized_
    };
    assert_eq!(Slices::new(&announced, &frame).err(), Some(SliceError::Protocol));
}

#[test]
fn a_buffer_of_another_length_is_left_alone() {
    let mut slices = Slices::new(&Shape::default(), &[1, 2, 3]).unwrap();
    let mut out = [0; 4];
    slices.write(&mut out);
    assert_eq!((out, slices.next_len()), ([0; 4], Some(3)));
    slices.write(&mut out[..3]);
    assert_eq!((out, slices.next_len()), ([1, 2, 3, 0], None));
}
