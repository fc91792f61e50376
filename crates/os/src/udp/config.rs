//! How UDP sockets are opened, and what they tell.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
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
    /// Let the kernel cut joined datagrams that we send (GSO), where it can.
    pub gso: bool,
    /// Let the kernel join datagrams that we receive (GRO), where it can.
    pub gro: bool,
    /// Several sockets of each family, and what waits at which.
    pub steering: Option<Steering>,
}

/// Which of several sockets a datagram waits at: one whose first byte, masked, has the value at the one that is chosen, any other
/// at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    /// Bits of the first byte that are compared.
    pub mask: u8,
    /// What they must be.
    pub value: u8,
    /// Sockets of each family, at least one.
    pub shards: usize,
    /// How one of them is chosen.
    pub choice: Choice,
}

/// How one of several sockets is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The number in these bits of the first byte names it, modulo their number.
    Number(u8),
    /// The core on which the kernel handles the datagram.
    Core(PerCore),
}

/// `first` is for core 0, `first + step` for core 1, and so on; it begins anew after `cores` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerCore {
    /// Of core 0.
    pub first: u16,
    /// From one core to the next.
    pub step: u16,
    /// At least one.
    pub cores: u16,
}

impl Default for UdpConfig {
    /// Any port, no mark, 7 MB (what one second at 56 Mbit/s, or 5 ms at 10 Gbit/s, brings).
    fn default() -> UdpConfig {
        UdpConfig {
            port: 0,
            mark: None,
            buffer: 7 << 20,
            gso: true,
            gro: true,
            steering: None,
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
    /// Datagrams that the kernel dropped because our receive buffer was full, as far as it tells.
    pub kernel_drops: u64,
    /// Sends given up because the kernel had no room for [`SEND_WAIT`].
    pub send_full: u64,
}

/// How long a send waits for room in the kernel. Long enough to be back pressure for a sender of
/// frames, short enough that a stalled device does not hold up a thread that does other things.
pub const SEND_WAIT: Duration = Duration::from_millis(100);

/// Datagrams of one sender that lie side by side in a batch's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// See [`Datagram`].
    pub local: SocketAddr,
    /// See [`Datagram`].
    pub remote: SocketAddr,
    /// Where.
    pub bytes: Range<usize>,
    /// Bytes of each but the last, which may be smaller.
    pub stride: usize,
}

/// Datagrams to be sent, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train<'a> {
    /// One of our addresses; without one routing picks.
    pub source: Option<IpAddr>,
    /// Where they go.
    pub remote: SocketAddr,
    /// Their bytes.
    pub bytes: &'a [u8],
    /// Bytes of each but the last, which may be smaller.
    pub segment: usize,
}

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
