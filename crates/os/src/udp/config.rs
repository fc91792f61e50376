//! How UDP sockets are opened, and what they tell.

use std::net::SocketAddr;
use std::time::Duration;

/// How to open the sockets.
#[derive(Debug, Clone)]
pub struct UdpConfig {
    /// The wanted port; 0 lets the kernel pick one.
    pub port: u16,
    /// A mark for policy routing (SO_MARK), by which a rule can keep our own datagrams out of our own NIC.
    pub mark: Option<u32>,
    /// The wanted size of each buffer in the kernel, in bytes.
    pub buffer: usize,
}

impl Default for UdpConfig {
    /// Any port, no mark, 7 MB (what one second at 56 Mbit/s, or 5 ms at 10 Gbit/s, brings).
    fn default() -> UdpConfig {
        UdpConfig {
            port: 0,
            mark: None,
            buffer: 7 << 20,
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the kernel granted, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams that wait to be received.
    pub receive: usize,
    /// For datagrams that wait to leave.
    pub send: usize,
}

/// What went wrong and was survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UdpCounts {
    /// Errors that the network reported while receiving (ICMP), which concern single datagrams.
    pub receive_errors: u64,
    /// Sends that failed; the caller got the error, too.
    pub send_errors: u64,
    /// Batches that were sent again one by one because GSO failed.
    pub gso_failures: u64,
    /// Sends given up because the kernel had no room for [`SEND_WAIT`].
    pub send_full: u64,
}

/// How long a send waits for room in the kernel. Long enough to be back pressure for a sender of
/// frames, short enough that a stalled device does not hold up a thread that does other things.
pub const SEND_WAIT: Duration = Duration::from_millis(100);

/// A received datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Our address that it came to; unspecified where the kernel did not tell.
    pub local: SocketAddr,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Its bytes.
    pub bytes: &'a mut [u8],
}
