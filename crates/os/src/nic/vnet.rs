//! The header in front of frames of a NIC with offload (`struct virtio_net_hdr`).
//!
//! It tells how a super-frame is to be cut and which checksum is still missing. Cutting and joining
//! are not done here.

/// The length of the header in bytes.
pub const VNET_HEADER: usize = 10;

/// A super-frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// The checksum that is still missing, if one is.
    pub checksum: Option<PartialChecksum>,
    /// How to cut the frame.
    pub cut: Cut,
    /// Bytes of headers that every piece repeats (a hint; what the frame itself says counts).
    pub header_length: u16,
    /// Bytes of payload in every piece but the last.
    pub segment_size: u16,
    /// The kernel has verified the frame's checksums; nobody needs to look again.
    pub checksum_known_good: bool,
}

/// A checksum that whoever sends the frame on must finish: the field holds the sum of the pseudo-header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where summing begins, in bytes from the frame's start.
    pub start: u16,
    /// Where the field is, in bytes from `start`.
    pub offset: u16,
}

/// The kind of a super-frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cut {
    /// An ordinary frame.
    #[default]
    Whole,
    /// TCP over IPv4; `ecn`: only the first piece carries CWR.
    TcpV4 {
        /// The CWR rule applies.
        ecn: bool,
    },
    /// TCP over IPv6; `ecn` as above.
    TcpV6 {
        /// The CWR rule applies.
        ecn: bool,
    },
    /// UDP datagrams of one flow, either IP version.
    Udp,
}

/// The bytes are not such a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Fewer than [`VNET_HEADER`] bytes.
    #[error("a frame from the NIC is shorter than its header")]
    Short,
    /// A kind of super-frame that was never asked for.
    #[error("a frame from the NIC is of the unknown kind {0}")]
    UnknownKind(u8),
}

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHeader {
    /// Splits what `Nic::try_recv` gave into header and frame.
    pub fn parse(bytes: &[u8]) -> Result<(VnetHeader, &[u8]), VnetError> {
        let (head, frame) = bytes.split_first_chunk::<VNET_HEADER>().ok_or(VnetError::Short)?;
        let word = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let ecn = head[1] & GSO_ECN != 0;
        let cut = match head[1] & !GSO_ECN {
            GSO_NONE => Cut::Whole,
            GSO_TCPV4 => Cut::TcpV4 { ecn },
            GSO_TCPV6 => Cut::TcpV6 { ecn },
            GSO_UDP_L4 => Cut::Udp,
            other => return Err(VnetError::UnknownKind(other)),
        };
        let partial = PartialChecksum {
            start: word(6),
            offset: word(8),
        };
        let header = VnetHeader {
            checksum: (head[0] & NEEDS_CHECKSUM != 0).then_some(partial),
            cut,
            header_length: word(2),
            segment_size: word(4),
            checksum_known_good: head[0] & DATA_VALID != 0,
        };
        Ok((header, frame))
    }

    /// The header in the kernel's form.
    pub fn to_bytes(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        let ecn_bit = |ecn: bool| if ecn { GSO_ECN } else { 0 };
        bytes[1] = match self.cut {
            Cut::Whole => GSO_NONE,
            Cut::TcpV4 { ecn } => GSO_TCPV4 | ecn_bit(ecn),
            Cut::TcpV6 { ecn } => GSO_TCPV6 | ecn_bit(ecn),
            Cut::Udp => GSO_UDP_L4,
        };
        if self.checksum_known_good {
            bytes[0] |= DATA_VALID;
        }
        bytes[2..4].copy_from_slice(&self.header_length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        if let Some(partial) = self.checksum {
            bytes[0] |= NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&partial.start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&partial.offset.to_ne_bytes());
        }
        bytes
    }

    /// Writes the header to the start of a buffer that has room for it.
    pub fn write(&self, buffer: &mut [u8]) -> Result<(), VnetError> {
        let head = buffer.first_chunk_mut::<VNET_HEADER>().ok_or(VnetError::Short)?;
        *head = self.to_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back() {
        let cuts = [
            Cut::Whole,
            Cut::TcpV4 { ecn: true },
            Cut::TcpV4 { ecn: false },
            Cut::TcpV6 { ecn: true },
            Cut::Udp,
        ];
        for cut in cuts {
            for checksum in [None, Some(PartialChecksum { start: 20, offset: 16 })] {
                let header = VnetHeader {
                    checksum,
                    cut,
                    header_length: 40,
                    segment_size: 1360,
                    checksum_known_good: false,
                };
                let mut bytes = vec![0; VNET_HEADER];
                header.write(&mut bytes).unwrap();
                bytes.extend_from_slice(b"frame");
                assert_eq!(VnetHeader::parse(&bytes), Ok((header, &b"frame"[..])));
            }
        }
    }

    #[test]
    fn what_was_never_asked_for_is_refused() {
        let ipv4_fragmentation = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(VnetHeader::parse(&ipv4_fragmentation), Err(VnetError::UnknownKind(3)));
        assert_eq!(VnetHeader::parse(&[0; 9]), Err(VnetError::Short));
        assert_eq!(VnetHeader::default().write(&mut [0; 9]), Err(VnetError::Short));
    }
}
