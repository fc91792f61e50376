//! UDP sockets that take and give many datagrams with one system call, where the system can (GRO, GSO).
//!
//! Promises: a datagram arrives and leaves with its own borders, joined with others or not; whatever cannot leave at once is
//! lost, as datagrams may be. Refuses to know what is in them.
//!
//! RFC 8656 section 14: a relay sets the "don't fragment" bit as the datagram had it that it relays, or not at all. Systems
//! do not tell a program that bit. Always setting it, as quinn-udp does because QUIC must, loses what used to arrive in
//! fragments, for clients that do not look for the size of their path. Never setting it is as bad: nodes find the size of a
//! path by what does not arrive, and would take one that cuts each of their datagrams for a good one. So the bit is set, and
//! what this host itself knows to be too large is cut, as systems do it for single datagrams ([`Fragments`]).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::super::bound_socket;
use super::limits;

/// Whether the system cuts what a socket sends and is too large for its way, or refuses it; portable code cannot say so.
pub type Fragments = fn(&socket2::SockRef<'_>, bool) -> io::Result<()>;

/// A bound socket.
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    fragments: Fragments,
}

impl Socket {
    /// Binds one, with this much room in the kernel for what waits, as far as the system allows.
    pub(super) fn bind(address: SocketAddr, room: usize, fragments: Fragments) -> io::Result<Self> {
        let socket = bound_socket(address, socket2::Type::DGRAM)?;
        let state = UdpSocketState::new((&socket).into())?;
        if let Err(error) = fragments(&(&socket).into(), false) {
            tracing::warn!("datagrams that are too large for their way will be lost: {error}");
        }
        // Less room means more loss under load, nothing else.
        let _ = socket.set_recv_buffer_size(room);
        let _ = socket.set_send_buffer_size(room);
        Ok(Socket {
            socket: UdpSocket::from_std(socket.into())?,
            state,
            fragments,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns when something may wait.
    pub(super) async fn readable(&self) {
        // An error is found, and told from others, by who reads.
        let _ = self.socket.readable().await;
    }

    /// Fills the batch with what waits, or with nothing.
    pub(super) fn receive(&self, batch: &mut Batch) {
        batch.filled = 0;
        let read = || {
            let mut buffers = batch.memory.chunks_mut(limits::TRAIN_BYTES).map(IoSliceMut::new);
            let mut buffers = [(); limits::BATCH].map(|()| buffers.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            self.state.recv((&self.socket).into(), &mut buffers, &mut batch.meta)
        };
        // An error is an ICMP message for an earlier datagram, or nothing waits; the socket is fine.
        batch.filled = self.socket.try_io(Interest::READABLE, read).unwrap_or(0);
    }

    /// Sends datagrams of `segment` bytes each, the last perhaps shorter. What the system does not take at once is lost.
    pub(super) fn send(&self, to: SocketAddr, ecn: Option<EcnCodepoint>, bytes: &[u8], segment: usize) {
        let send = |contents, segment_size| {
            let transmit = Transmit {
                destination: to,
                ecn,
                contents,
                segment_size,
                src_ip: None,
            };
            self.state.try_send((&self.socket).into(), &transmit)
        };
        let are_many = bytes.len() > segment;
        match send(bytes, are_many.then_some(segment)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
            _sent_or_lost => return,
        }
        // The device cannot cut trains, or each datagram is too large for the way and has to be cut itself.
        let allow = |are_allowed| (self.fragments)(&(&self.socket).into(), are_allowed);
        let _ = allow(true);
        for datagram in bytes.chunks(segment.max(1)) {
            let _lost = send(datagram, None);
        }
        let _ = allow(false);
    }
}

/// Memory for what one system call brings.
pub(super) struct Batch {
    memory: Vec<u8>,
    meta: [RecvMeta; limits::BATCH],
    filled: usize,
}

/// Datagrams that came one behind the other from one sender.
pub(super) struct Arrived<'a> {
    pub(super) from: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    bytes: &'a [u8],
    stride: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Batch {
            memory: vec![0; limits::BATCH * limits::TRAIN_BYTES],
            meta: [RecvMeta::default(); limits::BATCH],
            filled: 0,
        }
    }

    /// What came, in order.
    pub(super) fn arrived(&self) -> impl Iterator<Item = Arrived<'_>> {
        let buffers = self.memory.chunks(limits::TRAIN_BYTES).zip(&self.meta[..self.filled]);
        buffers.map(|(buffer, meta)| Arrived {
            from: meta.addr,
            ecn: meta.ecn,
            bytes: buffer.get(..meta.len).unwrap_or_default(),
            stride: meta.stride.max(1),
        })
    }
}

impl<'a> Arrived<'a> {
    /// One by one; a single datagram may be empty.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.stride))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static ASKED: Mutex<Vec<bool>> = Mutex::new(Vec::new());

    #[tokio::test]
    async fn fragments_are_allowed_for_what_is_refused_and_for_nothing_else() {
        let fragments: Fragments = |_, are_allowed| {
            ASKED.lock().unwrap().push(are_allowed);
            Ok(())
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let socket = Socket::bind(any, 1 << 16, fragments).unwrap();
        let peer = UdpSocket::bind(any).await.unwrap();
        let to = peer.local_addr().unwrap();
        socket.send(to, None, &[7; 3000], 1000);
        assert_eq!(*ASKED.lock().unwrap(), [false]);
        // No IPv4 datagram is so large.
        socket.send(to, None, &[7; 70_000], 70_000);
        assert_eq!(*ASKED.lock().unwrap(), [false, true, false]);
    }
}
