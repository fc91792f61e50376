//! How to make a NIC.

/// What a NIC carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicKind {
    /// IP frames.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// How to make a NIC.
#[derive(Debug, Clone)]
pub struct NicConfig {
    /// Its name; without one the kernel picks `ipop0`, `ipop1`, ...
    pub name: Option<String>,
    /// What it carries.
    pub kind: NicKind,
    /// The largest IP frame in bytes (an Ethernet header comes on top).
    pub mtu: u16,
    /// Exchange super-frames of up to 64 KB with the kernel, a `VnetHeader` before each.
    pub offload: bool,
    /// With `offload`: UDP datagrams joined, too, where the kernel can.
    pub joined_udp: bool,
    /// Allow `Nic::another_queue`.
    pub queues: bool,
}

impl NicConfig {
    /// An unnamed NIC with MTU 1400, one queue, no offload.
    pub fn new(kind: NicKind) -> NicConfig {
        NicConfig {
            name: None,
            kind,
            mtu: 1400,
            offload: false,
            joined_udp: true,
            queues: false,
        }
    }
}

/// What the kernel leaves to us (and takes from us) on a NIC with offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Frames carry a `VnetHeader`.
    pub header: bool,
    /// Checksums may be unfinished, and TCP segments come joined.
    pub tcp: bool,
    /// UDP datagrams come joined, too (Linux 6.2).
    pub udp: bool,
}
