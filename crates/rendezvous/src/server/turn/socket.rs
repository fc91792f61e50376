//! UDP sockets that take and give many datagrams with one system call, where the system can (GRO, GSO).
//!
//! Promises: a datagram arrives and leaves with its own borders, joined with others or not; whatever cannot leave at once is
//! lost, as datagrams may be. Refuses to know what is in them.
//!
//! RFC 8656 section 14: a relay sets the "don't fragment" bit as the datagram had it that it relays, or, where it cannot
//! know, not at all, and what is too large for the way is cut. Systems do not tell a program that bit, and quinn-udp sets it
//! always, as QUIC must. So [`Socket::bind`] has it taken back by who knows the system ([`Prepare`]); otherwise a client that
//! does not look for the size of its path would lose what used to arrive in fragments.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::super::bound_socket;
use super::limits;

/// Lets a socket fragment what is too large for the way; portable code cannot.
pub type Prepare = fn(&socket2::Socket) -> io::Result<()>;

/// A bound socket.
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Binds one, with this much room in the kernel for what waits, as far as the system allows.
    pub(super) fn bind(address: SocketAddr, room: usize, prepare: Prepare) -> io::Result<Self> {
        let socket = bound_socket(address, socket2::Type::DGRAM)?;
        let state = UdpSocketState::new((&socket).into())?;
        if let Err(error) = prepare(&socket) {
            tracing::warn!("datagrams that are too large for their way will be lost: {error}");
        }
        // Less room means more loss under load, nothing else.
        let _ = socket.set_recv_buffer_size(room);
        let _ = socket.set_send_buffer_size(room);
        Ok(Socket {
            socket: UdpSocket::from_std(socket.into())?,
            state,
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
        if bytes.len() <= segment {
            let _lost = send(bytes, None);
            return;
        }
        match send(bytes, Some(segment)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                // The device cannot cut, or each is too large for the way and has to be cut itself.
                for datagram in bytes.chunks(segment) {
                    let _lost = send(datagram, None);
                }
            }
            _sent_or_lost => {}
        }
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
