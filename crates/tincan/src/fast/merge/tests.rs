//! Joining, and cutting again with `slice`.

use proptest::prelude::*;

use super::super::slice::Slices;
use super::super::testing::{Flow, flow, plain_flow, sliced, unfinished};
use super::*;

const ALL: Takes = Takes {
    tcp: true,
    udp: true,
    unfinished: true,
};
const NONE_JOINED: Takes = Takes {
    tcp: false,
    udp: false,
    unfinished: true,
};

/// What comes out for a batch: how many frames each is made of, and what the NIC's host would cut it into.
fn merged(frames: &[Vec<u8>], takes: Takes) -> Vec<(usize, Vec<Vec<u8>>)> {
    let cut = given(frames, takes)
        .into_iter()
        .map(|(shape, bytes)| sliced(&shape, &bytes));
    cut.map(|frames| (frames.len(), frames)).collect()
}

/// What the NIC is given for a batch.
fn given(frames: &[Vec<u8>], takes: Takes) -> Vec<(Shape, Vec<u8>)> {
    let mut memory = vec![0xee; 12];
    let mut merger = Merger::default();
    let mut ranges = Vec::new();
    for frame in frames {
        ranges.push(memory.len()..memory.len() + frame.len());
        memory.extend_from_slice(frame);
        memory.extend_from_slice(&[0xee; 28]);
    }
    for range in ranges {
        merger.push(&memory, range, 7, takes);
    }
    assert_eq!(merger.bytes(), frames.iter().map(Vec::len).sum::<usize>());
    let mut out = Vec::new();
    merger.flush(&mut memory, |joined, pieces| {
        assert_eq!(joined.nic, 7);
        let whole: Vec<u8> = pieces.flatten().copied().collect();
        let slices = Slices::new(&joined.shape(), &whole).expect("what was joined can be cut");
        assert_eq!(slices.count(), joined.frames());
        out.push((joined.shape(), whole));
    });
    assert_eq!(merger.bytes(), 0);
    out
}

fn all_frames(out: &[(usize, Vec<Vec<u8>>)]) -> Vec<Vec<u8>> {
    out.iter().flat_map(|(_, frames)| frames.clone()).collect()
}

/// Every flow has its own port here, so it tells them apart.
fn of_port(frames: &[Vec<u8>], port: u16) -> Vec<Vec<u8>> {
    let own = |frame: &&Vec<u8>| {
        let at = if frame[0] >> 4 == 6 { 40 } else { 20 };
        frame.get(at..at + 2) == Some(&port.to_be_bytes()[..])
    };
    frames.iter().filter(own).cloned().collect()
}

/// Frames of several flows, dealt as `order` says.
fn deal(mut queues: Vec<Vec<Vec<u8>>>, order: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut dealt = Vec::new();
    for turn in order {
        let mut left: Vec<&mut Vec<Vec<u8>>> = queues.iter_mut().filter(|q| !q.is_empty()).collect();
        if left.is_empty() {
            break;
        }
        let at = turn.index(left.len());
        dealt.push(left[at].remove(0));
    }
    dealt.extend(queues.into_iter().flatten());
    dealt
}

fn own_ports(mut flows: Vec<Flow>) -> Vec<Flow> {
    for (number, flow) in flows.iter_mut().enumerate() {
        flow.port = 1000 + number as u16;
    }
    flows
}

proptest! {
    #[test]
    fn cutting_what_was_joined_gives_the_same_frames(
        flows in proptest::collection::vec((flow(), 1u16..200, any::<u8>(), 1usize..2000), 1..6),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..100),
        bytes in any::<u8>(),
    ) {
        let (flows, sizes): (Vec<Flow>, Vec<_>) = flows.into_iter().map(|(f, s, g, l)| (f, (s, g & 0xc9, l))).unzip();
        let flows = own_ports(flows);
        let queues = flows.iter().zip(&sizes).map(|(flow, (segment, flags, length))| {
            let payload: Vec<u8> = (0..*length).map(|n| bytes.wrapping_add((n * 7) as u8)).collect();
            flow.cut(*segment, *flags, &payload)
        });
        let frames = deal(queues.collect(), &order);
        let out = all_frames(&merged(&frames, ALL));
        prop_assert_eq!(out.len(), frames.len());
        for flow in &flows {
            prop_assert_eq!(of_port(&out, flow.port), of_port(&frames, flow.port));
        }
    }

    #[test]
    fn one_flow_becomes_as_few_frames_as_can_be(
        flow in flow(), segment in 1u16..1400, length in 1usize..40_000,
    ) {
        let payload = vec![0x5a; length];
        let frames = flow.cut(segment, 0x08, &payload);
        let out = merged(&frames, ALL);
        prop_assert!(out.len() <= frames.len().div_ceil(64), "{} of {}", out.len(), frames.len());
    }

    #[test]
    fn damaged_lost_and_doubled_frames_come_out_as_they_went_in(
        flow in flow(),
        segment in 1u16..60,
        length in 1usize..600,
        harm in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<prop::sample::Index>(), 1u8..=255), 0..6),
    ) {
        let flow = own_ports(vec![flow]).remove(0);
        let mut frames = flow.cut(segment, 0x08, &vec![0x5a; length]);
        for (which, what, at, byte) in harm {
            let which = which.index(frames.len());
            match what {
                0 if frames[which].len() > 1 => {
                    // Behind the first byte, which says what the rest is.
                    let at = 1 + at.index(frames[which].len() - 1);
                    frames[which][at] ^= byte;
                }
                1 => frames.swap(which, 0),
                2 => frames.push(frames[which].clone()),
                _ => {
                    let left = at.index(frames[which].len()).max(1);
                    frames[which].truncate(left);
                }
            }
        }
        let out = all_frames(&merged(&frames, ALL));
        // The one liberty: the identification of frames that are never fragmented may come to count on.
        let without_id = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            if frame.len() > 20 && frame[0] == 0x45 && frame[6] & 0x40 != 0 {
                frame[4..6].fill(0);
                frame[10..12].fill(0);
            }
            frame
        };
        // Between flows the order may change: damage can make a frame one of another flow.
        let by_flow = |frames: &[Vec<u8>]| {
            let mut frames: Vec<_> = frames.iter().map(without_id).collect();
            frames.sort_by_key(|frame| frame.get(if flow.v6 { 8..44 } else { 12..24 }).map(<[u8]>::to_vec));
            frames
        };
        prop_assert_eq!(by_flow(&out), by_flow(&frames));
    }

    #[test]
    fn any_bytes_come_out_as_they_went_in(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..90), 0..20),
        versions in any::<[bool; 4]>(),
    ) {
        let mut frames = frames;
        for (number, frame) in frames.iter_mut().enumerate() {
            frame[0] = if versions[number % 4] { 0x45 } else { 0x60 };
        }
        prop_assert_eq!(all_frames(&merged(&frames, ALL)), frames);
    }
}

fn counts(frames: &[Vec<u8>], takes: Takes) -> Vec<usize> {
    let out = merged(frames, takes);
    assert_eq!(all_frames(&out), frames);
    out.into_iter().map(|(count, _)| count).collect()
}

/// Pieces of 100 bytes as they come from a peer.
fn came(flow: &Flow, payload: &[u8]) -> Vec<Vec<u8>> {
    let (shape, frame) = flow.joined(100, 0, payload);
    unfinished(&shape, &frame)
}

#[test]
fn unfinished_frames_are_finished_by_the_nic_or_here() {
    let joined = [Kind::Tcp, Kind::Udp, Kind::Tcp, Kind::Udp];
    let alone = [Kind::Whole; 4];
    let ours = Takes {
        unfinished: false,
        ..NONE_JOINED
    };
    for (takes, kinds, is_ours) in [(ALL, joined, false), (NONE_JOINED, alone, false), (ours, alone, true)] {
        for (number, kind) in kinds.into_iter().enumerate() {
            let flow = Flow {
                udp: number % 2 == 1,
                v6: number > 1,
                ..plain_flow()
            };
            let came = came(&flow, &[7; 250]);
            let wanted = flow.cut(100, 0, &[7; 250]);
            assert_ne!(came, wanted);
            let out = given(&came, takes);
            assert_eq!(out.len(), if kind == Kind::Whole { 3 } else { 1 });
            for (shape, bytes) in &out {
                assert_eq!((shape.kind, shape.partial.is_none()), (kind, is_ours));
                assert!(!is_ours || wanted.contains(bytes), "as it lies there");
            }
            assert_eq!(all_frames(&merged(&came, takes)), wanted);
        }
    }
}

#[test]
fn unfinished_and_finished_frames_of_one_flow_are_joined() {
    let (flow, payload) = (plain_flow(), [7; 400]);
    let wanted = flow.cut(100, 0, &payload);
    let mut mixed = came(&flow, &payload);
    mixed[0] = wanted[0].clone();
    mixed[2] = wanted[2].clone();
    let out = merged(&mixed, ALL);
    assert_eq!((out.len(), all_frames(&out)), (1, wanted));
}

#[test]
fn push_and_fin_end_a_joined_frame() {
    let flow = plain_flow();
    let frames: Vec<Vec<u8>> = [(0, 0), (1, 0x08), (2, 0), (3, 0x01), (4, 0), (5, 0)]
        .map(|(number, flags)| flow.frame(number, usize::from(number) * 100, flags, &[7; 100]))
        .to_vec();
    assert_eq!(counts(&frames, ALL), [2, 2, 2]);
}

#[test]
fn acknowledgements_resets_and_congestion_notices_stand_alone_and_in_order() {
    let flow = plain_flow();
    for (flags, payload) in [(0, 0), (0x02, 100), (0x04, 100), (0x20, 100), (0x80, 100)] {
        let mut before = 0;
        let mut frames = Vec::new();
        for (number, (flags, payload)) in [(0, 100), (0, 100), (flags, payload), (0, 100), (0, 100)]
            .into_iter()
            .enumerate()
        {
            frames.push(flow.frame(number as u16, before, flags, &vec![7; payload]));
            before += payload;
        }
        assert_eq!(counts(&frames, ALL), [2, 1, 2], "{flags:x}");
    }
}

#[test]
fn what_differs_in_any_header_field_is_not_joined() {
    let base = plain_flow();
    let mut others = Vec::new();
    let mut change = |how: fn(&mut Flow)| {
        let mut other = base.clone();
        how(&mut other);
        others.push(other);
    };
    change(|f| f.class = 3);
    change(|f| f.hops = 63);
    change(|f| f.dont_fragment = false);
    change(|f| f.id = 5);
    change(|f| f.ends = [3, 2]);
    change(|f| f.port = 1001);
    change(|f| f.sequence = 0);
    change(|f| f.acknowledged = 2);
    change(|f| f.flags = 0x50);
    change(|f| f.window = 501);
    change(|f| f.options = vec![1; 4]);
    for other in others {
        let frames = [base.frame(0, 0, 0, &[7; 100]), other.frame(1, 100, 0, &[7; 100])];
        assert_eq!(counts(&frames, ALL), [1, 1], "{other:?}");
    }
}

#[test]
fn frames_that_are_never_fragmented_may_all_bear_one_identification() {
    let flow = plain_flow();
    let frames: Vec<_> = (0..4).map(|n| flow.frame(0, n * 100, 0, &[7; 100])).collect();
    assert_eq!(merged(&frames, ALL).len(), 1);
    let fragile = Flow {
        dont_fragment: false,
        ..flow
    };
    let frames: Vec<_> = (0..4).map(|n| fragile.frame(0, n * 100, 0, &[7; 100])).collect();
    assert_eq!(merged(&frames, ALL).len(), 4);
}

#[test]
fn datagrams_join_until_a_shorter_one_and_never_without_checksum() {
    let flow = Flow {
        udp: true,
        ..plain_flow()
    };
    let frames: Vec<_> = [100, 100, 60, 100, 120]
        .into_iter()
        .enumerate()
        .map(|(number, length)| flow.frame(number as u16, 0, 0, &vec![7; length]))
        .collect();
    assert_eq!(counts(&frames, ALL), [3, 1, 1]);
    let mut unsummed = vec![flow.frame(0, 0, 0, &[7; 100]), flow.frame(1, 0, 0, &[7; 100])];
    for frame in &mut unsummed {
        frame[26..28].fill(0);
    }
    assert_eq!(counts(&unsummed, ALL), [1, 1]);
}

#[test]
fn a_nic_gets_joined_only_what_it_takes() {
    let tcp = plain_flow();
    let udp = Flow {
        udp: true,
        ..plain_flow()
    };
    let frames = [&tcp, &tcp, &udp, &udp]
        .iter()
        .enumerate()
        .map(|(n, flow)| flow.frame(n as u16 % 2, n % 2 * 9, 0, &[7; 9]))
        .collect::<Vec<_>>();
    assert_eq!(counts(&frames, ALL), [2, 2]);
    assert_eq!(counts(&frames, Takes { udp: false, ..ALL }), [2, 1, 1]);
    assert_eq!(counts(&frames, Takes { tcp: false, ..ALL }), [1, 1, 2]);
    assert_eq!(counts(&frames, NONE_JOINED), [1, 1, 1, 1]);
}

#[test]
fn more_flows_than_fit_are_still_all_delivered_in_order() {
    let flows = own_ports((0..FLOWS + 4).map(|_| plain_flow()).collect());
    let frames: Vec<_> = (0..3)
        .flat_map(|n| {
            flows
                .iter()
                .map(move |flow| flow.frame(n, usize::from(n) * 9, 0, &[7; 9]))
        })
        .collect();
    let out = all_frames(&merged(&frames, ALL));
    for flow in &flows {
        assert_eq!(of_port(&out, flow.port), of_port(&frames, flow.port));
    }
}
