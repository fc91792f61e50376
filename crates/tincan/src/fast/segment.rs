//! A TCP segment or UDP datagram in a plain IP frame: what joining reads of it, and its checksum.
//!
//! Between our own ends the pieces of a joined frame travel with unfinished checksums, as within one machine: the field holds the
//! sum of the pseudo-header, which the kernel wrote there. A record's tag proves more than a checksum could, and the receiving
//! kernel is told to finish it where that still matters. (A finished checksum that has that very value by chance stays the same.)
//!
//! Promises: `finish` makes every frame that `slice` left unfinished one that any host takes, and changes no right one.
//! Refuses to know: where frames come from.

use super::slice::{Kind, Partial};
use super::sum::{Sum, pseudo_header};

pub(super) const V4: usize = 20;
pub(super) const V6: usize = 40;
pub(super) const TCP: usize = 20;
pub(super) const UDP: usize = 8;
pub(super) const TCP_PROTOCOL: u8 = 6;
pub(super) const UDP_PROTOCOL: u8 = 17;
/// Where the checksum is in a TCP and in a UDP header.
pub(super) const TCP_SUM: u8 = 16;
pub(super) const UDP_SUM: u8 = 6;

const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// What joining reads of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) kind: Kind,
    pub(super) transport: usize,
    pub(super) headers: usize,
    pub(super) payload: usize,
    pub(super) sequence: u32,
    pub(super) flags: u8,
    pub(super) flow: u32,
}

/// Finishes the checksum of a frame that came unfinished.
pub fn finish(frame: &mut [u8]) {
    let Some(segment) = Segment::parse(frame).filter(|segment| segment.is_unfinished(frame)) else {
        return;
    };
    let transport = &mut frame[segment.transport..];
    let checksum = Sum::default().bytes(transport).checksum();
    let at = usize::from(segment.sum_at());
    transport[at..at + 2].copy_from_slice(&checksum);
}

/// Where the transport header of a frame begins that has neither IP options nor extension headers and is no fragment, and of which
/// protocol it is.
pub(super) fn plain_transport(frame: &[u8]) -> Option<(usize, u8)> {
    match frame.first()? >> 4 {
        4 => {
            let header: &[u8; V4] = frame.first_chunk()?;
            // All but "don't fragment" would be a fragment.
            let is_whole = header[6] & 0xbf == 0 && header[7] == 0;
            (header[0] == 0x45 && is_whole).then_some((V4, header[9]))
        }
        6 => {
            let header: &[u8; V6] = frame.first_chunk()?;
            Some((V6, header[6]))
        }
        _ => None,
    }
}

impl Segment {
    /// Reads a frame; none for everything else, fragments and IP options included.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let (transport, protocol) = plain_transport(frame)?;
        let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let announced = if transport == V4 { length(2) } else { V6 + length(4) };
        match protocol {
            _ if announced != frame.len() => None,
            TCP_PROTOCOL => Self::parse_tcp(frame, transport),
            UDP_PROTOCOL => Self::parse_udp(frame, transport),
            _ => None,
        }
    }

    fn parse_tcp(frame: &[u8], transport: usize) -> Option<Self> {
        let tcp: &[u8; TCP] = frame.get(transport..)?.first_chunk()?;
        let own_bytes = usize::from(tcp[12] >> 4) * 4;
        let headers = transport + own_bytes;
        (own_bytes >= TCP && headers <= frame.len()).then(|| Self {
            kind: Kind::Tcp,
            transport,
            headers,
            payload: frame.len() - headers,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            flags: tcp[13],
            flow: flow(frame, transport),
        })
    }

    fn parse_udp(frame: &[u8], transport: usize) -> Option<Self> {
        let udp: &[u8; UDP] = frame.get(transport..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        (transport + length == frame.len()).then(|| Self {
            kind: Kind::Udp,
            transport,
            headers: transport + UDP,
            payload: length - UDP,
            sequence: 0,
            flags: 0,
            flow: flow(frame, transport),
        })
    }

    /// Whether another may follow it.
    pub(super) fn may_lead(&self, frame: &[u8]) -> bool {
        let at = self.transport;
        self.payload > 0
            && match self.kind {
                // CWR is once for a whole window, and so for no joined frame (RFC 3168 section 6.1.2).
                Kind::Tcp => self.flags & !ECE == ACK,
                // Without a checksum, cutting would invent one.
                Kind::Udp => frame[at + 6..at + 8] != [0, 0],
                Kind::Whole => false,
            }
    }

    /// Where its checksum is summed from, and where it goes.
    pub(super) fn partial(&self) -> Partial {
        Partial {
            start: self.transport as u16,
            offset: u16::from(self.sum_at()),
        }
    }

    /// Whether the sum of the pseudo-header stands in place of its checksum.
    pub(super) fn is_unfinished(&self, frame: &[u8]) -> bool {
        let (network, transport) = frame.split_at(self.transport);
        self.holds(transport, self.pseudo(network, transport).partial())
    }

    /// Whether its checksums are right, that of TCP or UDP perhaps unfinished: the kernel will not look at them again.
    pub(super) fn is_right(&self, frame: &[u8]) -> bool {
        let (network, transport) = frame.split_at(self.transport);
        let network_right = self.transport == V6 || Sum::default().bytes(network).is_right();
        let pseudo = self.pseudo(network, transport);
        network_right && (self.holds(transport, pseudo.partial()) || pseudo.bytes(transport).is_right())
    }

    fn holds(&self, transport: &[u8], sum: [u8; 2]) -> bool {
        let at = usize::from(self.sum_at());
        transport[at..at + 2] == sum
    }

    fn pseudo(&self, network: &[u8], transport: &[u8]) -> Sum {
        pseudo_header(network, self.protocol()).word(transport.len() as u16)
    }

    fn protocol(&self) -> u8 {
        if self.kind == Kind::Tcp {
            TCP_PROTOCOL
        } else {
            UDP_PROTOCOL
        }
    }

    fn sum_at(&self) -> u8 {
        if self.kind == Kind::Tcp { TCP_SUM } else { UDP_SUM }
    }
}

/// Tells most flows apart; equal ones are compared in full.
fn flow(frame: &[u8], transport: usize) -> u32 {
    let tail = |end: usize| frame[..end].last_chunk::<4>().map_or(0, |b| u32::from_ne_bytes(*b));
    let (source, destination, ports) = (tail(transport - 4), tail(transport), tail(transport + 4));
    let source = if transport == V6 { tail(V6 - 16) } else { source };
    source.rotate_left(11) ^ destination.rotate_left(22) ^ ports.wrapping_mul(0x9e37_79b1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::flow;
    use super::*;

    /// The sum of big-endian words, carries added in.
    fn sum(words: impl IntoIterator<Item = u16>) -> u16 {
        words.into_iter().fold(0, |sum, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
        bytes
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    }

    proptest! {
        #[test]
        fn finished_frames_stay_as_they_are(
            flow in flow(),
            payload in proptest::collection::vec(any::<u8>(), 2..200),
            looks_unfinished in any::<bool>(),
        ) {
            let mut payload = payload;
            let plain = flow.frame(0, 0, 0x08, &payload);
            if looks_unfinished {
                // The payload's first word is chosen so that the right checksum is the sum of the pseudo-header.
                let segment = Segment::parse(&plain).unwrap();
                let (network, transport) = plain.split_at(segment.transport);
                let pseudo = u16::from_be_bytes(segment.pseudo(network, transport).partial());
                let at = usize::from(segment.sum_at());
                let mut rest = transport.to_vec();
                rest[at..at + 2].fill(0);
                let first = segment.headers - segment.transport;
                rest[first..first + 2].fill(0);
                let word = sum([!sum([pseudo, pseudo]), !sum(words(&rest))]);
                payload[..2].copy_from_slice(&word.to_be_bytes());
            }
            let frame = flow.frame(0, 0, 0x08, &payload);
            prop_assert!(!looks_unfinished || Segment::parse(&frame).unwrap().is_unfinished(&frame));
            let mut finished = frame.clone();
            finish(&mut finished);
            prop_assert_eq!(finished, frame);
        }

        #[test]
        fn any_bytes_can_be_finished(frame in proptest::collection::vec(any::<u8>(), 0..100), version in any::<bool>()) {
            let mut frame = frame;
            if let Some(first) = frame.first_mut() {
                *first = if version { 0x45 } else { 0x60 };
            }
            let length = frame.len();
            finish(&mut frame);
            prop_assert_eq!(frame.len(), length);
        }
    }

    #[test]
    fn only_plain_frames_have_a_transport_that_is_found() {
        let mut v4 = [0; 40];
        (v4[0], v4[9]) = (0x45, 17);
        assert_eq!(plain_transport(&v4), Some((V4, 17)));
        for (at, byte) in [(0, 0x46), (6, 0x20), (6, 0x01), (7, 1), (0, 0x55)] {
            let mut other = v4;
            other[at] = byte;
            assert_eq!(plain_transport(&other), None, "{at}: {byte:x}");
        }
        let mut v6 = [0; 40];
        (v6[0], v6[6]) = (0x60, 6);
        assert_eq!(plain_transport(&v6), Some((V6, 6)));
        assert_eq!(plain_transport(&v6[..39]), None);
        assert_eq!(plain_transport(&[]), None);
    }
}
