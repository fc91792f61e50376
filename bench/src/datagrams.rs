//! A UDP socket as QUIC programs use it: many datagrams with one system call, and addresses of one's own told apart.
//!
//! Refuses to know: crate `os`, which is among what is measured.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use lab::Host;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

/// As large a buffer as a program can have without asking the administrator.
const BUFFER: usize = 4 << 20;
/// What one system call may bring: so many datagrams, or so many trains of them.
const AT_ONCE: usize = 8;
const TRAIN_BYTES: usize = 65_535;
/// How long a send waits for room, and how often it looks.
const SEND_WITHIN: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_micros(20);

/// The socket.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Where datagrams are received.
pub(crate) struct Room {
    memory: Vec<u8>,
    meta: [RecvMeta; AT_ONCE],
    filled: usize,
}

/// One of them.
pub(crate) struct Datagram<'a> {
    /// Our address that it came to.
    pub(crate) local: Option<IpAddr>,
    /// Whence.
    pub(crate) remote: SocketAddr,
    /// What.
    pub(crate) bytes: &'a mut [u8],
}

impl Datagrams {
    /// Opens it on a host.
    pub(crate) fn bind(host: &Host, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = host.inside(|| UdpSocket::bind(address))?.context("cannot bind")?;
        let state = UdpSocketState::new((&socket).into()).context("cannot set up a socket")?;
        for outcome in [
            state.set_recv_buffer_size((&socket).into(), BUFFER),
            state.set_send_buffer_size((&socket).into(), BUFFER),
        ] {
            outcome.context("cannot set a buffer's size")?;
        }
        Ok(Self { socket, state })
    }

    /// Its port.
    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        Ok(self.socket.local_addr().context("a socket has an address")?.port())
    }

    /// Sends `bytes` as datagrams of `each`, the last of which may be smaller, waiting a while for room.
    pub(crate) fn send(&self, source: Option<IpAddr>, remote: SocketAddr, bytes: &[u8], each: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: remote,
            ecn: None,
            contents: bytes,
            segment_size: (each < bytes.len()).then_some(each),
            src_ip: source,
        };
        let start = Instant::now();
        loop {
            match self.state.try_send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < SEND_WITHIN => {
                    sleep(LOOK_EVERY);
                }
                sent => return sent,
            }
        }
    }

    /// Takes what is there; `false` if there is nothing.
    pub(crate) fn try_receive(&self, room: &mut Room) -> io::Result<bool> {
        room.filled = 0;
        let mut parts = room.memory.chunks_mut(TRAIN_BYTES);
        let mut slices: [IoSliceMut<'_>; AT_ONCE] =
            std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        match self.state.recv((&self.socket).into(), &mut slices, &mut room.meta) {
            Ok(filled) => room.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(room.filled > 0)
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; AT_ONCE * TRAIN_BYTES],
            meta: [RecvMeta::default(); AT_ONCE],
            filled: 0,
        }
    }

    /// What came last.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let parts = self.memory.chunks_mut(TRAIN_BYTES).zip(&self.meta[..self.filled]);
        parts.flat_map(|(part, meta)| {
            let (local, remote) = (meta.dst_ip, meta.addr);
            part[..meta.len]
                .chunks_mut(meta.stride.max(1))
                .map(move |bytes| Datagram { local, remote, bytes })
        })
    }
}
