//! What the NIC's header says, in the words of the functions that cut and join frames, and back. The benchmark has this file
//! too, so it names nothing of this crate's.

use os::{Cut, PartialChecksum, VnetHeader};
use tincan::fast::merge::Joined;
use tincan::fast::slice::{Kind, Partial, Shape};

/// Of a frame that the NIC gave.
pub(crate) fn shape(header: &VnetHeader) -> Shape {
    Shape {
        kind: match header.cut {
            Cut::Whole => Kind::Whole,
            Cut::TcpV4 { .. } | Cut::TcpV6 { .. } => Kind::Tcp,
            Cut::Udp => Kind::Udp,
        },
        segment: header.segment_size,
        partial: header.checksum.map(|partial| Partial {
            start: partial.start,
            offset: partial.offset,
        }),
    }
}

/// Of a frame for the NIC.
pub(crate) fn header(joined: &Joined) -> VnetHeader {
    let shape = joined.shape();
    let is_v6 = shape.partial.is_some_and(|partial| partial.start == 40);
    VnetHeader {
        checksum: shape.partial.map(|partial| PartialChecksum {
            start: partial.start,
            offset: partial.offset,
        }),
        cut: match shape.kind {
            Kind::Whole => Cut::Whole,
            Kind::Tcp if is_v6 => Cut::TcpV6 { ecn: false },
            Kind::Tcp => Cut::TcpV4 { ecn: false },
            Kind::Udp => Cut::Udp,
        },
        header_length: joined.header_bytes,
        segment_size: shape.segment,
        checksum_known_good: false,
    }
}
