//! Buffers for many received datagrams.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use quinn_udp::RecvMeta;

use super::{Datagram, Family, Part};

/// GRO joins datagrams to at most this many bytes.
const BUFFER: usize = 65_535;

/// Buffers of one receiving thread. Memory is touched only as far as datagrams fill it.
pub struct Batch {
    memory: Vec<u8>,
    meta: Vec<RecvMeta>,
    filled: usize,
    family: Family,
    port: u16,
}

impl Batch {
    /// With so many buffers (at least one, at most 32 of use) of 64 KB each.
    pub fn new(buffers: usize) -> Batch {
        let buffers = buffers.clamp(1, quinn_udp::BATCH_SIZE);
        Batch {
            memory: vec![0; buffers * BUFFER],
            meta: vec![RecvMeta::default(); buffers],
            filled: 0,
            family: Family::V4,
            port: 0,
        }
    }

    /// Whether it holds no datagram.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The datagrams, in the order of their arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let (family, port) = (self.family, self.port);
        let buffers = self.memory.chunks_mut(BUFFER).zip(&self.meta[..self.filled]);
        buffers.flat_map(move |(buffer, meta)| {
            let local = local_address(family, port, meta);
            let remote = meta.addr;
            let bytes = &mut buffer[..meta.len.min(BUFFER)];
            bytes
                .chunks_mut(meta.stride.max(1))
                .map(move |bytes| Datagram { local, remote, bytes })
        })
    }

    /// What the system call brought, one after the other; `None` behind the last.
    pub fn part(&self, number: usize) -> Option<Part> {
        let meta = self.meta[..self.filled].get(number)?;
        let start = number * BUFFER;
        Some(Part {
            local: local_address(self.family, self.port, meta),
            remote: meta.addr,
            bytes: start..start + meta.len.min(BUFFER),
            stride: meta.stride.max(1),
        })
    }

    /// Where the bytes of all parts lie.
    pub fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(super) fn fill(
        &mut self,
        family: Family,
        port: u16,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut slices = [const { None::<&mut [u8]> }; quinn_udp::BATCH_SIZE];
        for (slice, buffer) in slices.iter_mut().zip(self.memory.chunks_mut(BUFFER)) {
            *slice = Some(buffer);
        }
        let mut slices = slices.map(|slice| IoSliceMut::new(slice.unwrap_or_default()));
        let buffers = self.meta.len();
        self.filled = receive(&mut slices[..buffers], &mut self.meta)?;
        self.family = family;
        self.port = port;
        Ok(())
    }
}

fn local_address(family: Family, port: u16, meta: &RecvMeta) -> SocketAddr {
    match (meta.dst_ip, family) {
        // The same link-local address may be on every interface.
        (Some(IpAddr::V6(ip)), _) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, port, 0, meta.interface_index.unwrap_or(0)).into()
        }
        (Some(ip), _) => SocketAddr::new(ip, port),
        (None, Family::V4) => (Ipv4Addr::UNSPECIFIED, port).into(),
        (None, Family::V6) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}
