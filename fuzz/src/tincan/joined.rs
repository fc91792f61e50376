//! Super-frames: what the NIC hands over joined and is cut, what peers send apart and is joined.

use tincan::fast::merge::{FRAMES, Merger, Takes};
use tincan::fast::segment::finish;
use tincan::fast::slice::{Kind, Partial, Shape, Slices};

const ALL: Takes = Takes {
    tcp: true,
    udp: true,
    unfinished: true,
};
/// Shapes are written in so many bytes before the frame: kind, segment, start and offset of the checksum.
const SHAPE: usize = 7;
/// A script longer than a batch tells nothing new.
const BATCH: usize = 256;

/// A frame with the shape that the kernel claims for it.
pub(crate) fn slice(bytes: &[u8]) {
    let Some((head, frame)) = bytes.split_at_checked(SHAPE) else {
        return;
    };
    let shape = shape_of(head);
    let Ok(slices) = Slices::new(&shape, frame) else { return };
    let (count, largest) = (slices.count(), slices.largest());
    let pieces = cut(slices);
    assert_eq!(pieces.len(), count);
    assert!(
        pieces
            .iter()
            .all(|piece| piece.len() <= largest && largest <= frame.len())
    );
    if shape.kind == Kind::Whole {
        assert_eq!(count, 1);
    }
}

/// Frames of one batch, each behind its length: none is lost, and cutting again gives what came.
pub(crate) fn merge(bytes: &[u8]) {
    let mut memory = bytes.to_vec();
    let frames = ranges(bytes);
    let came: Vec<Vec<u8>> = frames.iter().map(|range| comparable(&bytes[range.clone()])).collect();
    let mut merger = Merger::default();
    for range in frames {
        merger.push(&memory, range, 0, ALL);
    }
    let mut given = 0;
    merger.flush(&mut memory, |joined, pieces| {
        given += joined.frames();
        assert!(joined.frames() <= FRAMES);
        let whole = pieces.collect::<Vec<_>>().concat();
        let slices = Slices::new(&joined.shape(), &whole).expect("what we joined can be cut");
        assert_eq!(slices.count(), joined.frames());
        for piece in cut(slices) {
            assert!(came.contains(&comparable(&piece)), "a frame that nobody sent");
        }
    });
    assert_eq!(given, came.len());
    assert_eq!(merger.bytes(), 0);
}

fn cut(mut slices: Slices<'_>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while let Some(length) = slices.next_len() {
        let mut piece = vec![0; length];
        slices.write(&mut piece);
        pieces.push(piece);
    }
    pieces
}

fn shape_of(head: &[u8]) -> Shape {
    let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let kind = [Kind::Whole, Kind::Tcp, Kind::Udp][usize::from(head[0] % 3)];
    let (start, offset) = (number(3), number(5));
    let partial = (head[0] < 128).then_some(Partial { start, offset });
    let segment = number(1);
    Shape { kind, segment, partial }
}

fn ranges(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some([high, low]) = bytes.get(at..at + 2)
        && ranges.len() < BATCH
    {
        let start = at + 2;
        let end = (start + usize::from(u16::from_be_bytes([*high, *low]))).min(bytes.len());
        ranges.push(start..end);
        at = end;
    }
    ranges
}

/// IPv4 frames that may not be fragmented may come back with another identification (RFC 6864), and header checksum; unfinished
/// checksums are finished in frames that stay alone.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    finish(&mut frame);
    if frame.len() >= 20 && frame[0] >> 4 == 4 && frame[6] & 0x40 != 0 {
        frame[4..6].fill(0);
        frame[10..12].fill(0);
    }
    frame
}

/// Two TCP super-frames and a UDP one, as the kernel makes them.
pub(crate) fn super_frames() -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..100).collect();
    let tcp = [0, 9, 0, 80, 0, 0, 1, 0, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    let udp = [0, 9, 0, 53, 0, 108, 0, 0];
    let v4 = |protocol: u8, transport: &[u8]| {
        let length = (20 + transport.len() + payload.len()) as u16;
        let mut frame = vec![
            0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2,
        ];
        frame[2..4].copy_from_slice(&length.to_be_bytes());
        [frame, transport.to_vec(), payload.clone()].concat()
    };
    let v6 = |next: u8, transport: &[u8]| {
        let length = (transport.len() + payload.len()) as u16;
        let mut frame = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        frame[4..6].copy_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0xfd; 32]);
        [frame, transport.to_vec(), payload.clone()].concat()
    };
    vec![
        [vec![1, 0, 30, 0, 20, 0, 16], v4(6, &tcp)].concat(),
        [vec![1, 0, 30, 0, 40, 0, 16], v6(6, &tcp)].concat(),
        [vec![2, 0, 30, 0, 20, 0, 6], v4(17, &udp)].concat(),
        [vec![0, 0, 0, 0, 20, 0, 16], v4(6, &tcp)].concat(),
    ]
}

/// The same frames cut, one flow behind the other and both in turns.
pub(crate) fn batches() -> Vec<Vec<u8>> {
    let flows: Vec<Vec<Vec<u8>>> = super_frames()
        .iter()
        .map(|bytes| {
            let (head, frame) = bytes.split_at(SHAPE);
            cut(Slices::new(&shape_of(head), frame).expect("the kernel's"))
        })
        .collect();
    let written = |frames: &[&Vec<u8>]| {
        let each = frames
            .iter()
            .map(|frame| [&(frame.len() as u16).to_be_bytes()[..], frame].concat());
        each.collect::<Vec<_>>().concat()
    };
    let in_turns: Vec<&Vec<u8>> = (0..4)
        .flat_map(|at| flows[..3].iter().map(move |flow| &flow[at]))
        .collect();
    let mut batches: Vec<Vec<u8>> = flows
        .iter()
        .map(|flow| written(&flow.iter().collect::<Vec<_>>()))
        .collect();
    batches.push(written(&in_turns));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_really_join() {
        let bytes = &batches()[0];
        let mut merger = Merger::default();
        let mut memory = bytes.clone();
        for range in ranges(bytes) {
            merger.push(&memory, range, 0, ALL);
        }
        let mut frames = Vec::new();
        merger.flush(&mut memory, |joined, _| frames.push(joined.frames()));
        assert_eq!(frames, [4]);
    }
}
