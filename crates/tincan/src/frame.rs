//! Inner frames: what the NIC gives and takes, as far as forwarding must read them.
//!
//! Promises: parsed once, and after that nothing checks a length again; ICMP errors are made only where RFC 1122
//! section 3.2.2 and RFC 4443 section 2.4 allow them.
//! Refuses to know: ports, flows, anything behind the IP header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::limits;

/// What forwarding knows of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Inner source.
    pub source: IpAddr,
    /// Inner destination.
    pub destination: IpAddr,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Neither IPv4 nor IPv6.
    #[error("the frame is neither IPv4 nor IPv6")]
    Version,
    /// The header or what it announces does not fit the bytes.
    #[error("the frame's length is not what its header says")]
    Length,
}

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

impl Frame {
    /// Reads the IP header; the frame must be exactly as long as it says.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        match Self::parse_first(bytes)? {
            (frame, length) if length == bytes.len() => Ok(frame),
            _ => Err(FrameError::Length),
        }
    }

    /// Reads the IP header of the first of several frames that lie one behind the other; gives its length too.
    pub fn parse_first(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        let (frame, length) = match bytes.first().ok_or(FrameError::Length)? >> 4 {
            4 => Self::parse_v4(bytes)?,
            6 => Self::parse_v6(bytes)?,
            _ => return Err(FrameError::Version),
        };
        if length > bytes.len() {
            return Err(FrameError::Length);
        }
        Ok((frame, length))
    }

    fn parse_v4(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        let header: &[u8; V4_HEADER] = bytes.first_chunk().ok_or(FrameError::Length)?;
        let header_bytes = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_bytes < V4_HEADER || total < header_bytes {
            return Err(FrameError::Length);
        }
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let frame = Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        };
        Ok((frame, total))
    }

    fn parse_v6(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        let header: &[u8; V6_HEADER] = bytes.first_chunk().ok_or(FrameError::Length)?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (addresses, _) = header[8..].as_chunks::<16>();
        let frame = Self {
            source: Ipv6Addr::from(addresses[0]).into(),
            destination: Ipv6Addr::from(addresses[1]).into(),
        };
        Ok((frame, V6_HEADER + payload))
    }
}

/// Where each of the frames in `bytes[range]` lies that are there one behind the other, up to the first bytes that are none.
pub fn split(bytes: &[u8], range: Range<usize>) -> Split<'_> {
    Split {
        bytes: &bytes[..range.end],
        start: range.start,
    }
}

/// See [`split`]. It holds nothing but the place between two looks at the bytes.
pub struct Split<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl Iterator for Split<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let (_, length) = Frame::parse_first(&self.bytes[self.start..]).ok()?;
        let start = self.start;
        self.start += length;
        Some(start..self.start)
    }
}

/// Whether frames of `longest` bytes with this header must pass every path, cut if need be: IPv4 frames that may be
/// fragmented (RFC 791 section 2.3), and IPv6 frames that no sender makes shorter (RFC 8200 section 5).
pub fn must_pass(header: &[u8], longest: usize) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    match header.first().map(|first| first >> 4) {
        Some(4) => header.get(6).is_some_and(|flags| flags & DONT_FRAGMENT == 0),
        Some(6) => longest <= usize::from(limits::MTU_MIN),
        _ => false,
    }
}

/// The ICMP or ICMPv6 error "host (address) unreachable" for `frame`; none where none may be sent.
pub fn unreachable(frame: &[u8]) -> Option<Vec<u8>> {
    match Frame::parse(frame).ok()?.source {
        // RFC 792: type 3 code 1, host unreachable.
        IpAddr::V4(_) => icmp_v4(frame, 3, 1, [0; 4]),
        // RFC 4443 section 3.1: type 1 code 3, address unreachable.
        IpAddr::V6(_) => icmp_v6(frame, 1, 3, [0; 4]),
    }
}

/// The error "fragmentation needed" or "frame too big" that tells the sender of `frame` to send at most `mtu` bytes.
pub fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let rest = |mtu: u16| u32::from(mtu).to_be_bytes();
    match Frame::parse(frame).ok()?.source {
        // RFC 1191 section 4: type 3 code 4, next-hop MTU in the last 16 bits.
        IpAddr::V4(_) => icmp_v4(frame, 3, 4, rest(mtu)),
        // RFC 4443 section 3.2: type 2 code 0. Less than 1280 nobody obeys (RFC 8201 section 4): such frames are cut.
        IpAddr::V6(_) => icmp_v6(frame, 2, 0, rest(mtu.max(limits::MTU_MIN))),
    }
}

fn icmp_v4(frame: &[u8], kind: u8, code: u8, rest: [u8; 4]) -> Option<Vec<u8>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = ends(frame)? else {
        return None;
    };
    let header_bytes = usize::from(frame[0] & 0x0f) * 4;
    let later_fragment = u16::from_be_bytes([frame[6], frame[7]]) & 0x1fff != 0;
    let is_query = |t: u8| matches!(t, 0 | 8 | 13 | 14);
    let about_error = frame[9] == ICMP && !frame.get(header_bytes).is_some_and(|t| is_query(*t));
    if later_fragment || about_error || source.is_broadcast() || destination.is_broadcast() {
        return None;
    }
    // RFC 1812 section 4.3.2.3: as much of the frame as fits 576 bytes.
    let quoted = &frame[..frame.len().min(576 - V4_HEADER - 8)];
    let total = u16::try_from(V4_HEADER + 8 + quoted.len()).ok()?;
    let mut out = Vec::with_capacity(usize::from(total));
    out.extend_from_slice(&[0x45, 0xc0]);
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 64, ICMP, 0, 0]);
    // As if from the unreachable host: a source of ours would be a martian to the kernel that reads it.
    out.extend_from_slice(&destination.octets());
    out.extend_from_slice(&source.octets());
    let sum = checksum(0, &out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    push_icmp(&mut out, kind, code, rest, quoted, 0);
    Some(out)
}

fn icmp_v6(frame: &[u8], kind: u8, code: u8, rest: [u8; 4]) -> Option<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = ends(frame)? else {
        return None;
    };
    let about_error = frame[6] == ICMPV6 && frame.get(V6_HEADER).is_none_or(|t| *t < 128 || *t == 137);
    if about_error {
        return None;
    }
    // RFC 4443 section 3.1: as much of the frame as fits the minimum MTU.
    let quoted = &frame[..frame.len().min(1280 - V6_HEADER - 8)];
    let length = u16::try_from(8 + quoted.len()).ok()?;
    let mut out = Vec::with_capacity(V6_HEADER + usize::from(length));
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[ICMPV6, 64]);
    out.extend_from_slice(&destination.octets());
    out.extend_from_slice(&source.octets());
    let pseudo = sum_words(u32::from(length) + u32::from(ICMPV6), &out[8..]);
    push_icmp(&mut out, kind, code, rest, quoted, pseudo);
    Some(out)
}

/// Source and destination, where an ICMP error between them is allowed at all.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let Frame { source, destination } = Frame::parse(frame).ok()?;
    let one_host = |ip: IpAddr| !ip.is_multicast() && !ip.is_unspecified();
    (one_host(source) && one_host(destination)).then_some((source, destination))
}

fn push_icmp(out: &mut Vec<u8>, kind: u8, code: u8, rest: [u8; 4], quoted: &[u8], pseudo: u32) {
    let start = out.len();
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&rest);
    out.extend_from_slice(quoted);
    let sum = checksum(pseudo, &out[start..]);
    out[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071, over `sum` so far and `bytes`.
fn checksum(sum: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum_words(sum, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded just above")
}

fn sum_words(sum: u32, bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let tail = odd.first().map_or(0, |b| u32::from(*b) << 8);
    // At most 1280 bytes: 640 words of 16 bits cannot overflow 32.
    sum + words.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum::<u32>() + tail
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A UDP frame without a valid UDP checksum, of `payload` behind the IP header.
    pub(crate) fn frame(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        match ends {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let mut out = vec![0x45, 0];
                out.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
                out.extend_from_slice(&s.octets());
                out.extend_from_slice(&d.octets());
                out.extend_from_slice(payload);
                out
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let mut out = vec![0x60, 0, 0, 0];
                out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
                out.extend_from_slice(&[17, 64]);
                out.extend_from_slice(&s.octets());
                out.extend_from_slice(&d.octets());
                out.extend_from_slice(payload);
                out
            }
            _ => panic!("one family"),
        }
    }

    #[test]
    fn both_families_are_read() {
        for (source, destination) in [("10.1.0.1", "10.1.0.2"), ("fd00::1", "fd00::2")] {
            let parsed = Frame::parse(&frame(source, destination, b"hello")).unwrap();
            assert_eq!(parsed.source, source.parse::<IpAddr>().unwrap());
            assert_eq!(parsed.destination, destination.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for good in [frame("10.1.0.1", "10.1.0.2", b"x"), frame("fd00::1", "fd00::2", b"x")] {
            for cut in 0..good.len() {
                assert!(Frame::parse(&good[..cut]).is_err(), "{cut}");
            }
            assert_eq!(Frame::parse(&[&good[..], b"y"].concat()), Err(FrameError::Length));
        }
        let mut short_header = frame("10.1.0.1", "10.1.0.2", b"x");
        short_header[0] = 0x44;
        assert_eq!(Frame::parse(&short_header), Err(FrameError::Length));
        assert_eq!(Frame::parse(&[0x50; 40]), Err(FrameError::Version));
    }

    #[test]
    fn unreachable_answers_the_sender_with_right_checksums() {
        let answer = unreachable(&frame("10.1.0.1", "10.1.0.9", b"hello")).unwrap();
        let parsed = Frame::parse(&answer).unwrap();
        assert_eq!(parsed.destination, "10.1.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((answer[20], answer[21]), (3, 1));
        assert_eq!(checksum(0, &answer[..20]), 0);
        assert_eq!(checksum(0, &answer[20..]), 0);

        let answer = unreachable(&frame("fd00::1", "fd00::9", b"hello")).unwrap();
        assert_eq!((answer[40], answer[41]), (1, 3));
        let pseudo = sum_words((answer.len() - 40) as u32 + 58, &answer[8..40]);
        assert_eq!(checksum(pseudo, &answer[40..]), 0);
    }

    #[test]
    fn too_big_names_the_size_and_quotes_a_bounded_part() {
        let answer = too_big(&frame("10.1.0.1", "10.1.0.9", &[7; 1380]), 1300).unwrap();
        assert_eq!(answer.len(), 576);
        assert_eq!(answer[20..28][6..], 1300u16.to_be_bytes());
        let answer = too_big(&frame("fd00::1", "fd00::9", &[7; 1360]), 1300).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!(answer[44..48], 1300u32.to_be_bytes());
    }

    #[test]
    fn errors_about_errors_groups_and_fragments_are_never_made() {
        let mut icmp_error = unreachable(&frame("10.1.0.1", "10.1.0.9", b"x")).unwrap();
        assert_eq!(unreachable(&icmp_error), None);
        icmp_error[20] = 8; // an echo request may be answered
        assert!(unreachable(&icmp_error).is_some());
        assert_eq!(
            unreachable(&unreachable(&frame("fd00::1", "fd00::9", b"x")).unwrap()),
            None
        );
        let mut fragment = frame("10.1.0.1", "10.1.0.9", b"x");
        fragment[7] = 1;
        assert_eq!(unreachable(&fragment), None);
        for (source, destination) in [
            ("10.1.0.1", "224.0.0.251"),
            ("10.1.0.1", "255.255.255.255"),
            ("0.0.0.0", "10.1.0.2"),
            ("fd00::1", "ff02::fb"),
            ("::", "fd00::2"),
        ] {
            assert_eq!(
                unreachable(&frame(source, destination, b"x")),
                None,
                "{source} {destination}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
            if let (Some(first), 1..) = (bytes.first_mut(), version) {
                *first = if version == 1 { 0x45 } else { 0x60 };
            }
            if bytes.len() >= 40 {
                let length = if version == 1 { bytes.len() } else { bytes.len() - 40 } as u16;
                let at = if version == 1 { 2 } else { 4 };
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
            }
            for answer in [unreachable(&bytes), too_big(&bytes, 1300)].into_iter().flatten() {
                prop_assert!(Frame::parse(&answer).is_ok());
            }
        }
    }
}
