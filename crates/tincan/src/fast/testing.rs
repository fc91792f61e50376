//! Random flows and what the kernel would make of them, written slowly and plainly: the measure for `slice` and `merge`.

use proptest::prelude::*;

use super::segment::finish;
use super::slice::{Kind, Partial, Shape, Slices};

/// One flow's headers.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) v6: bool,
    pub(super) udp: bool,
    pub(super) class: u8,
    pub(super) label: u16,
    pub(super) hops: u8,
    pub(super) dont_fragment: bool,
    pub(super) id: u16,
    pub(super) ends: [u8; 2],
    pub(super) port: u16,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
}

prop_compose! {
    pub(super) fn flow()(
        kinds in any::<(bool, bool)>(),
        class in any::<u8>(),
        label in any::<u16>(),
        hops in any::<u8>(),
        dont_fragment in any::<bool>(),
        id in any::<u16>(),
        ends in any::<[u8; 2]>(),
        port in any::<u16>(),
        sequence in any::<u32>(),
        acknowledged in any::<u32>(),
        echo in any::<bool>(),
        window in any::<u16>(),
        options in proptest::collection::vec(any::<[u8; 4]>(), 0..=10),
    ) -> Flow {
        Flow {
            v6: kinds.0, udp: kinds.1, class, label, hops, dont_fragment, id, ends, port, sequence, acknowledged,
            flags: if echo { 0x50 } else { 0x10 }, window, options: options.concat(),
        }
    }
}

/// From 10.1.2.1 to 10.1.2.2; its numbers are about to turn over.
pub(super) fn plain_flow() -> Flow {
    Flow {
        v6: false,
        udp: false,
        class: 0,
        label: 0,
        hops: 64,
        dont_fragment: true,
        id: 0xfffe,
        ends: [1, 2],
        port: 1000,
        sequence: u32::MAX - 50,
        acknowledged: 1,
        flags: 0x10,
        window: 500,
        options: Vec::new(),
    }
}

impl Flow {
    /// The frame number `number`, whose payload begins `before` bytes into the flow.
    pub(super) fn frame(&self, number: u16, before: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend_from_slice(&self.port.to_be_bytes());
        transport.extend_from_slice(&443u16.to_be_bytes());
        let sum_at = if self.udp {
            transport.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            transport.extend_from_slice(&[0, 0]);
            6
        } else {
            transport.extend_from_slice(&self.sequence.wrapping_add(before as u32).to_be_bytes());
            transport.extend_from_slice(&self.acknowledged.to_be_bytes());
            transport.extend_from_slice(&[(5 + self.options.len() as u8 / 4) << 4, self.flags | flags]);
            transport.extend_from_slice(&self.window.to_be_bytes());
            transport.extend_from_slice(&[0; 4]);
            transport.extend_from_slice(&self.options);
            16
        };
        transport.extend_from_slice(payload);
        let mut frame = self.network(number, transport.len());
        let mut pseudo = self.pseudo(&frame, transport.len());
        pseudo.extend_from_slice(&transport);
        let sum = match rfc_1071(&pseudo) {
            0 => 0xffff,
            sum => sum,
        };
        transport[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        frame.extend_from_slice(&transport);
        frame
    }

    /// The same payload as the kernel hands it over when it leaves the cutting to the NIC.
    pub(super) fn joined(&self, segment: u16, flags: u8, payload: &[u8]) -> (Shape, Vec<u8>) {
        let mut frame = self.frame(0, 0, flags, payload);
        let start = if self.v6 { 40 } else { 20 };
        let at = start + usize::from(self.sum_at());
        let transport_bytes = frame.len() - start;
        let partial = !rfc_1071(&self.pseudo(&frame[..start], transport_bytes));
        frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let shape = Shape {
            kind: if self.udp { Kind::Udp } else { Kind::Tcp },
            segment,
            partial: Some(Partial {
                start: start as u16,
                offset: self.sum_at(),
            }),
        };
        (shape, frame)
    }

    /// What `joined` is to be cut into.
    pub(super) fn cut(&self, segment: u16, flags: u8, payload: &[u8]) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = payload.chunks(usize::from(segment)).collect();
        let last = chunks.len() - 1;
        let mut before = 0;
        let mut frames = Vec::new();
        for (number, chunk) in chunks.into_iter().enumerate() {
            let mut own = flags;
            if number < last {
                own &= !0x09;
            }
            if number > 0 {
                own &= !0x80;
            }
            frames.push(self.frame(number as u16, before, own, chunk));
            before += chunk.len();
        }
        frames
    }

    fn sum_at(&self) -> u16 {
        if self.udp { 6 } else { 16 }
    }

    fn network(&self, number: u16, transport_bytes: usize) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            let [label_high, label_low] = self.label.to_be_bytes();
            let mut out = vec![0x60 | self.class >> 4, self.class << 4, label_high, label_low];
            out.extend_from_slice(&(transport_bytes as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, self.hops]);
            for end in self.ends {
                out.extend_from_slice(&[0xfd, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
            }
            return out;
        }
        let mut out = vec![0x45, self.class];
        out.extend_from_slice(&(20 + transport_bytes as u16).to_be_bytes());
        out.extend_from_slice(&self.id.wrapping_add(number).to_be_bytes());
        let fragment = if self.dont_fragment { 0x40 } else { 0 };
        out.extend_from_slice(&[fragment, 0, self.hops, protocol, 0, 0]);
        for end in self.ends {
            out.extend_from_slice(&[10, 1, 2, end]);
        }
        let sum = rfc_1071(&out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn pseudo(&self, network: &[u8], transport_bytes: usize) -> Vec<u8> {
        let mut out = network[if self.v6 { 8..40 } else { 12..20 }].to_vec();
        out.extend_from_slice(&(transport_bytes as u32).to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, if self.udp { 17 } else { 6 }]);
        out
    }
}

/// The pieces that `Slices` makes, finished.
pub(super) fn sliced(shape: &Shape, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = unfinished(shape, frame);
    pieces.iter_mut().for_each(|piece| finish(piece));
    pieces
}

/// The same as they travel.
pub(super) fn unfinished(shape: &Shape, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut slices = Slices::new(shape, frame).unwrap();
    let mut pieces = Vec::new();
    while let Some(length) = slices.next_len() {
        let mut piece = vec![0xaa; length];
        slices.write(&mut piece);
        pieces.push(piece);
    }
    assert_eq!(pieces.len(), slices.count());
    pieces
}

fn rfc_1071(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}
