//! Inner frames of a world: they say who sent them, and carry a pattern that must never be seen outside.
//!
//! Promises: a frame that arrives is judged by what its sender wrote into it; a byte string that holds the pattern is
//! found, also where it is cut in two.
//! Refuses to know: how frames travel.

use std::net::IpAddr;

/// Never to be seen on a wire.
pub const CANARY: [u8; 16] = *b"CANARY*ipop*2026";

/// What a test frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// Sender, as an index into the world.
    pub from: u8,
    /// Receiver.
    pub to: u8,
    /// Number of the frame from this sender.
    pub number: u32,
}

/// An IP frame with a label and the pattern; at least as long as it must be, `length` bytes if that is more.
pub fn build(source: IpAddr, target: IpAddr, label: Label, length: usize) -> Vec<u8> {
    let mut body = CANARY.to_vec();
    body.extend_from_slice(&[label.from, label.to]);
    body.extend_from_slice(&label.number.to_be_bytes());
    let header = if source.is_ipv4() { 20 } else { 40 };
    body.resize(body.len().max(length.saturating_sub(header)), 0xEE);
    let mut frame = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let total = (20 + body.len()) as u16;
            // May not be fragmented, as nearly every host sends.
            let mut head = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 253, 0, 0];
            head[2..4].copy_from_slice(&total.to_be_bytes());
            head.extend_from_slice(&source.octets());
            head.extend_from_slice(&target.octets());
            let sum = checksum(&head);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            head
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut head = vec![0x60, 0, 0, 0, 0, 0, 253, 64];
            head[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
            head.extend_from_slice(&source.octets());
            head.extend_from_slice(&target.octets());
            head
        }
        _ => Vec::new(),
    };
    frame.extend_from_slice(&body);
    frame
}

/// Source, destination and label of a frame made by [`build`].
pub fn read(frame: &[u8]) -> Option<(IpAddr, IpAddr, Label)> {
    let at = find(frame)?;
    let rest = frame.get(at + CANARY.len()..)?;
    let (&[from, to], rest) = rest.split_first_chunk::<2>()?;
    let (number, _) = rest.split_first_chunk::<4>()?;
    let label = Label {
        from,
        to,
        number: u32::from_be_bytes(*number),
    };
    let ip4 = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b));
    let ip6 = |at: usize| {
        frame
            .get(at..at + 16)?
            .try_into()
            .ok()
            .map(|b: [u8; 16]| IpAddr::from(b))
    };
    match frame.first()? >> 4 {
        4 => Some((ip4(12)?, ip4(16)?, label)),
        6 => Some((ip6(8)?, ip6(24)?, label)),
        _ => None,
    }
}

/// The MTU that an ICMP error "too big" tells, and to whom; the frame that it quotes is not looked at.
pub fn read_too_big(frame: &[u8]) -> Option<(IpAddr, u32)> {
    let ip6 = |at: usize| {
        frame
            .get(at..at + 16)?
            .try_into()
            .ok()
            .map(|b: [u8; 16]| IpAddr::from(b))
    };
    let ip4 = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b));
    let (&version, is_v4) = (frame.first()?, frame.first()? >> 4 == 4);
    // RFC 792 and RFC 1191: protocol 1, type 3, code 4. RFC 4443 section 3.2: next header 58, type 2, code 0.
    let (protocol, head, kind) = if is_v4 { (9, 20, [3, 4]) } else { (6, 40, [2, 0]) };
    let is_icmp = frame.get(protocol) == Some(if is_v4 { &1 } else { &58 });
    let is_ours = matches!(version >> 4, 4 | 6) && is_icmp && frame.get(head..head + 2)? == kind;
    let mtu: [u8; 4] = frame.get(head + 4..head + 8)?.try_into().ok()?;
    let to = if is_v4 { ip4(16) } else { ip6(24) };
    is_ours.then_some((to?, u32::from_be_bytes(mtu)))
}

/// Whether the pattern is in the bytes.
pub fn leaks(bytes: &[u8]) -> bool {
    find(bytes).is_some()
}

/// Looks for the pattern in a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct StreamWatch {
    tail: Vec<u8>,
}

impl StreamWatch {
    /// Takes the next piece; true if the pattern is there now.
    pub fn leaks(&mut self, piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        let found = leaks(&self.tail);
        let keep = self.tail.len().min(CANARY.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        found
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    let first = CANARY[0];
    let windows = bytes.windows(CANARY.len());
    windows
        .enumerate()
        .find(|(_, w)| w[0] == first && *w == CANARY)
        .map(|(at, _)| at)
}

fn checksum(head: &[u8]) -> u16 {
    let sum: u32 = head
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_was_written_into_it() {
        let label = Label {
            from: 1,
            to: 2,
            number: 77,
        };
        for (a, b) in [("10.7.0.1", "10.7.0.2"), ("fd07::1", "fd07::2")] {
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let frame = build(a, b, label, 1400);
            assert_eq!(frame.len(), 1400);
            assert_eq!(read(&frame), Some((a, b, label)));
        }
    }

    #[test]
    fn the_pattern_is_found_whole_and_cut() {
        let mut wire = vec![7; 100];
        assert!(!leaks(&wire));
        wire[40..56].copy_from_slice(&CANARY);
        assert!(leaks(&wire));
        let mut watch = StreamWatch::default();
        assert!(!watch.leaks(&wire[..50]));
        assert!(watch.leaks(&wire[50..]));
        assert!(!watch.leaks(&wire[60..]));
    }
}
