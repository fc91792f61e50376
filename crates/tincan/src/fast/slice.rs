//! Cutting a super-frame of the NIC into frames of the NIC's MTU.
//!
//! Promises: the pieces are what the kernel itself would have made: lengths, IPv4 identification, sequence numbers,
//! flags and checksums are right in each, but that of TCP or UDP may be unfinished (`segment`); all but the last are of equal size;
//! no allocation; nothing panics, whatever the bytes are.
//! Refuses to know: where the pieces go.

use std::ops::Range;

use super::segment::{TCP, TCP_PROTOCOL, TCP_SUM, UDP, UDP_PROTOCOL, UDP_SUM, V4, V6, plain_transport};
use super::sum::{Sum, pseudo_header};

/// What the NIC tells about a frame that it hands over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// What to cut it into.
    pub kind: Kind,
    /// Bytes of payload in every piece but the last.
    pub segment: u16,
    /// The checksum that is still to be finished.
    pub partial: Option<Partial>,
}

/// The kind of a frame from the NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary frame.
    #[default]
    Whole,
    /// TCP segments of one flow, joined.
    Tcp,
    /// UDP datagrams of one flow and one size, joined.
    Udp,
}

/// An unfinished checksum: its field holds the sum of the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Where summing begins, bytes from the frame's start.
    pub start: u16,
    /// Where the field is, bytes from there.
    pub offset: u16,
}

/// Why a frame from the NIC cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// Lengths in the headers do not fit the bytes.
    #[error("the headers of a frame from the NIC do not fit its bytes")]
    Length,
    /// Not the protocol that the NIC announced.
    #[error("a frame from the NIC is not of the protocol it is announced as")]
    Protocol,
    /// A joined frame without segment size or place of its checksum.
    #[error("the NIC does not tell how to cut a joined frame")]
    Shape,
}

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The pieces of one frame, made one after the other.
pub struct Slices<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    kind: Kind,
    segment: usize,
    /// Where the transport header begins.
    transport: usize,
    /// Of a whole frame: where its checksum is summed from, and where it goes.
    partial: Option<(usize, usize)>,
    pseudo: Sum,
    /// Whether pieces are what `segment::finish` knows, and so need not be finished here.
    is_plain: bool,
    /// Of an IPv4 header without the fields that differ from piece to piece.
    network: Sum,
    next: usize,
}

impl<'a> Slices<'a> {
    /// Of a frame as the NIC gave it.
    pub fn new(shape: &Shape, frame: &'a [u8]) -> Result<Self, SliceError> {
        match shape.kind {
            Kind::Whole => Self::whole(shape, frame),
            Kind::Tcp => Self::joined(shape, frame, TCP_PROTOCOL, TCP_SUM),
            Kind::Udp => Self::joined(shape, frame, UDP_PROTOCOL, UDP_SUM),
        }
    }

    fn whole(shape: &Shape, frame: &'a [u8]) -> Result<Self, SliceError> {
        let partial = match shape.partial {
            None => None,
            Some(partial) => {
                let start = usize::from(partial.start);
                let field = start + usize::from(partial.offset);
                if field + 2 > frame.len() {
                    return Err(SliceError::Length);
                }
                Some((start, field))
            }
        };
        Ok(Self {
            headers: frame,
            payload: &[],
            kind: Kind::Whole,
            segment: 1,
            transport: 0,
            partial,
            pseudo: Sum::default(),
            is_plain: false,
            network: Sum::default(),
            next: 0,
        })
    }

    fn joined(shape: &Shape, frame: &'a [u8], protocol: u8, sum_at: u8) -> Result<Self, SliceError> {
        let partial = shape.partial.ok_or(SliceError::Shape)?;
        let transport = usize::from(partial.start);
        if shape.segment == 0 || partial.offset != u16::from(sum_at) {
            return Err(SliceError::Shape);
        }
        check_network(frame, transport, protocol)?;
        let own_bytes = match shape.kind {
            Kind::Tcp => usize::from(*frame.get(transport + 12).ok_or(SliceError::Length)? >> 4) * 4,
            Kind::Udp | Kind::Whole => UDP,
        };
        let shortest = if shape.kind == Kind::Tcp { TCP } else { UDP };
        if own_bytes < shortest {
            return Err(SliceError::Length);
        }
        let (headers, payload) = frame
            .split_at_checked(transport + own_bytes)
            .ok_or(SliceError::Length)?;
        // What a piece says of its length must fit 16 bits.
        if headers.len() + payload.len().min(usize::from(shape.segment)) > usize::from(u16::MAX) {
            return Err(SliceError::Length);
        }
        Ok(Self {
            headers,
            payload,
            kind: shape.kind,
            segment: usize::from(shape.segment),
            transport,
            partial: None,
            pseudo: pseudo_header(headers, protocol),
            is_plain: plain_transport(headers) == Some((transport, protocol)),
            network: constant_sum(&headers[..transport]),
            next: 0,
        })
    }

    /// How many pieces there are in all.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment).max(1)
    }

    /// Bytes of the largest piece: every one but the last has as many.
    pub fn largest(&self) -> usize {
        self.headers.len() + self.payload.len().min(self.segment)
    }

    /// Bytes of the next piece; none after the last.
    pub fn next_len(&self) -> Option<usize> {
        (self.next < self.count()).then(|| self.headers.len() + self.next_payload().len())
    }

    /// Writes the next piece to `out`, which has exactly `next_len` bytes, else nothing is written.
    pub fn write(&mut self, out: &mut [u8]) {
        let payload = &self.payload[self.next_payload()];
        if self.next >= self.count() || out.len() != self.headers.len() + payload.len() {
            return;
        }
        let (headers, body) = out.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        body.copy_from_slice(payload);
        match self.kind {
            Kind::Whole => self.finish(out),
            Kind::Tcp => {
                self.write_lengths(out);
                self.write_tcp(out);
            }
            Kind::Udp => {
                self.write_lengths(out);
                self.write_udp(out);
            }
        }
        self.next += 1;
    }

    fn next_payload(&self) -> Range<usize> {
        let start = (self.next * self.segment).min(self.payload.len());
        start..(start + self.segment).min(self.payload.len())
    }

    fn finish(&self, out: &mut [u8]) {
        if let Some((start, field)) = self.partial {
            let checksum = Sum::default().bytes(&out[start..]).checksum();
            out[field..field + 2].copy_from_slice(&checksum);
        }
    }

    /// The IP header's part that differs from piece to piece.
    fn write_lengths(&self, out: &mut [u8]) {
        if out[0] >> 4 == 6 {
            let length = short(out.len() - V6);
            out[4..6].copy_from_slice(&length.to_be_bytes());
            return;
        }
        let identification = u16::from_be_bytes([out[4], out[5]]).wrapping_add(short(self.next));
        let total = short(out.len());
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[4..6].copy_from_slice(&identification.to_be_bytes());
        let checksum = self.network.word(total).word(identification).header_checksum();
        out[10..12].copy_from_slice(&checksum);
    }

    fn write_tcp(&self, out: &mut [u8]) {
        let tcp = &mut out[self.transport..];
        let before = u32::try_from(self.next * self.segment).unwrap_or(u32::MAX);
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(before);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if self.next + 1 < self.count() {
            tcp[13] &= !(FIN | PSH);
        }
        // RFC 3168 section 6.1.2: one CWR for one window's reduction.
        if self.next > 0 {
            tcp[13] &= !CWR;
        }
        self.write_sum(tcp, TCP_SUM);
    }

    fn write_udp(&self, out: &mut [u8]) {
        let udp = &mut out[self.transport..];
        let length = short(udp.len());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        self.write_sum(udp, UDP_SUM);
    }

    fn write_sum(&self, transport: &mut [u8], at: u8) {
        let pseudo = self.pseudo.word(short(transport.len()));
        let field = usize::from(at)..usize::from(at) + 2;
        if self.is_plain {
            transport[field].copy_from_slice(&pseudo.partial());
            return;
        }
        transport[field.clone()].fill(0);
        let checksum = pseudo.bytes(transport).checksum();
        transport[field].copy_from_slice(&checksum);
    }
}

/// Of an IP header but length, identification and checksum of IPv4, where IPv6 has nothing that is summed.
fn constant_sum(header: &[u8]) -> Sum {
    match header {
        [first, class, _, _, _, _, middle @ ..] if first >> 4 == 4 && middle.len() >= V4 - 6 => Sum::default()
            .bytes(&[*first, *class])
            .bytes(&middle[..4])
            .bytes(&middle[6..]),
        _ => Sum::default(),
    }
}

/// Whether an IP header stands before `transport`, and announces `protocol` where that is its matter.
fn check_network(frame: &[u8], transport: usize, protocol: u8) -> Result<(), SliceError> {
    let first = *frame.first().ok_or(SliceError::Length)?;
    if transport > frame.len() {
        return Err(SliceError::Length);
    }
    match first >> 4 {
        4 if transport < V4 || transport != usize::from(first & 0x0f) * 4 => Err(SliceError::Length),
        4 if frame[9] != protocol => Err(SliceError::Protocol),
        6 if transport < V6 => Err(SliceError::Length),
        // With extension headers between, the NIC's word on where the transport header begins counts.
        6 if transport == V6 && frame[6] != protocol => Err(SliceError::Protocol),
        4 | 6 => Ok(()),
        _ => Err(SliceError::Protocol),
    }
}

/// `new` has made sure that every length fits; what is counted modulo 2^16 wraps.
fn short(number: usize) -> u16 {
    (number & 0xffff) as u16
}

#[cfg(test)]
mod tests;
