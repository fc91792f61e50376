//! The UDP sockets that all links share: one for each address family, on the same port.
//!
//! Many datagrams move with one system call (GSO, GRO, `recvmmsg`). Each datagram tells which of our
//! addresses it came to, and each send may choose its source. Nothing is fragmented: what is too
//! large for the way is an error (`EMSGSIZE`), which [`is_too_big`] recognises.

mod batch;
mod config;
mod shards;
mod trains;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use batch::Batch;
pub use config::{
    BufferSizes, Choice, Datagram, Family, Part, PerCore, SEND_WAIT, Steering, Train, UdpConfig, UdpCounts,
};

use crate::Error;
use crate::wake::wait_writable;

/// Both sockets, or the one that this host has.
pub struct UdpSockets {
    v4: Result<FamilySocket, io::Error>,
    v6: Result<FamilySocket, io::Error>,
    /// The second and further sockets of each family, on the same port.
    others: [Vec<FamilySocket>; 2],
    port: u16,
    counts: Counters,
}

struct FamilySocket {
    socket: Socket,
    state: UdpSocketState,
    /// Segments that one send may have; 1 after the device has refused GSO. quinn-udp's own figure is
    /// not used: it falls to 1 for good also when only the source address was wrong.
    max_segments: AtomicUsize,
    joins_received: bool,
    buffers: BufferSizes,
}

#[derive(Default)]
struct Counters {
    receive_errors: AtomicU64,
    send_errors: AtomicU64,
    gso_failures: AtomicU64,
    send_full: AtomicU64,
}

/// So many bytes fit one IPv4 UDP send, GSO or not: 65535 less IP and UDP header.
const MAX_SEND: usize = 65_507;
/// Tries to find one port that is free for both families.
const PORT_TRIES: usize = 16;

impl UdpSockets {
    /// Opens the sockets in the calling thread's network namespace. One family may be missing.
    pub fn bind(config: &UdpConfig) -> Result<UdpSockets, Error> {
        let (v4, v6, port) = bind_both(config)?;
        let prepare = |bound: io::Result<Socket>| bound.and_then(|socket| FamilySocket::new(socket, config));
        let (v4, v6) = match (prepare(v4), prepare(v6)) {
            (Err(ipv4), Err(ipv6)) => return Err(Error::NoAddressFamily { ipv4, ipv6 }),
            some => some,
        };
        let others = [(&v4, Ipv4Addr::UNSPECIFIED.into()), (&v6, Ipv6Addr::UNSPECIFIED.into())].map(|(first, any)| {
            first
                .as_ref()
                .map_or_else(|_| Ok(Vec::new()), |first| shards(first, any, port, config))
        });
        let [v4_others, v6_others] = others.map(|others| others.map_err(|e| Error::system("share a UDP port", e)));
        Ok(UdpSockets {
            v4,
            v6,
            others: [v4_others?, v6_others?],
            port,
            counts: Counters::default(),
        })
    }

    /// The port, the same for both families.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Why a family is missing; `None` when it is there.
    pub fn missing(&self, family: Family) -> Option<&io::Error> {
        self.socket(family).as_ref().err()
    }

    /// Buffer sizes in the kernel, of a family that is there.
    pub fn buffers(&self, family: Family) -> Option<BufferSizes> {
        self.socket(family).as_ref().ok().map(|s| s.buffers)
    }

    /// How many datagrams one `send_segments` hands to the kernel at once; 1 without GSO.
    pub fn max_segments(&self, family: Family) -> usize {
        self.socket(family)
            .as_ref()
            .map_or(1, |s| s.max_segments.load(Ordering::Relaxed))
    }

    /// Whether the kernel joins datagrams that come for us.
    pub fn joins_received(&self, family: Family) -> bool {
        self.socket(family).as_ref().is_ok_and(|s| s.joins_received)
    }

    /// The descriptor of one of a family's sockets, if there is one, to wait for.
    pub fn descriptor(&self, family: Family, shard: usize) -> Option<BorrowedFd<'_>> {
        self.shard(family, shard).map(|s| s.socket.as_fd())
    }

    /// What went wrong so far.
    pub fn counts(&self) -> UdpCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UdpCounts {
            receive_errors: get(&self.counts.receive_errors),
            send_errors: get(&self.counts.send_errors),
            gso_failures: get(&self.counts.gso_failures),
            send_full: get(&self.counts.send_full),
            kernel_drops: self.all().map(FamilySocket::drops).sum(),
        }
    }

    /// Fills `batch` with what waits at a family's socket of this number; `false`: nothing does.
    pub fn try_recv(&self, family: Family, shard: usize, batch: &mut Batch) -> io::Result<bool> {
        batch.clear();
        let Some(socket) = self.shard(family, shard) else {
            return Ok(false);
        };
        match batch.fill(family, self.port, |slices, meta| {
            socket.state.recv((&socket.socket).into(), slices, meta)
        }) {
            Ok(()) => Ok(!batch.is_empty()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) if is_passing(&e) => {
                count(&self.counts.receive_errors);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends one datagram, from `source` (one of our addresses) or from what routing picks.
    pub fn send(&self, source: Option<IpAddr>, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let socket = self.towards(remote)?;
        let sent = socket.send(source, remote, bytes, None);
        self.note_send(sent)
    }

    /// Sends `bytes` as datagrams of `segment_size` bytes each (the last may be shorter), with as few
    /// system calls as possible. On an error some of the first may have left.
    pub fn send_segments(
        &self,
        source: Option<IpAddr>,
        remote: SocketAddr,
        bytes: &[u8],
        segment_size: usize,
    ) -> io::Result<()> {
        if segment_size == 0 || segment_size > MAX_SEND {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a segment has 1 to 65507 bytes",
            ));
        }
        let socket = self.towards(remote)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let segments = socket.max_segments.load(Ordering::Relaxed).min(MAX_SEND / segment_size);
            let (now, later) = rest.split_at(rest.len().min(segments * segment_size));
            let sent = self.send_some(socket, source, remote, now, segment_size);
            self.note_send(sent)?;
            rest = later;
        }
        Ok(())
    }

    /// Sends what fits one call; one by one where GSO fails.
    fn send_some(
        &self,
        socket: &FamilySocket,
        source: Option<IpAddr>,
        remote: SocketAddr,
        bytes: &[u8],
        segment_size: usize,
    ) -> io::Result<()> {
        if bytes.len() <= segment_size {
            return socket.send(source, remote, bytes, None);
        }
        match socket.send(source, remote, bytes, Some(segment_size)) {
            Err(error) if may_be_gso(&error) => {}
            sent => return sent,
        }
        for (position, segment) in bytes.chunks(segment_size).enumerate() {
            socket.send(source, remote, segment, None)?;
            // The address was not at fault, so GSO was.
            if position == 0 {
                socket.max_segments.store(1, Ordering::Relaxed);
                count(&self.counts.gso_failures);
                tracing::warn!("the network device refuses UDP segmentation: sending datagrams one by one");
            }
        }
        Ok(())
    }

    fn note_send(&self, sent: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &sent {
            let full = error.kind() == io::ErrorKind::WouldBlock;
            count(if full {
                &self.counts.send_full
            } else {
                &self.counts.send_errors
            });
        }
        sent
    }

    fn towards(&self, remote: SocketAddr) -> io::Result<&FamilySocket> {
        let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
        self.socket(family).as_ref().map_err(|missing| {
            let sentence = format!("this host has no {family:?} socket: {missing}");
            io::Error::new(io::ErrorKind::Unsupported, sentence)
        })
    }

    /// From now on datagrams wait at other sockets; there must be as many as at the start.
    pub fn steer(&self, steering: &Steering) -> io::Result<()> {
        for family in [&self.v4, &self.v6].into_iter().flatten() {
            shards::attach(&family.socket, steering)?;
        }
        Ok(())
    }

    fn shard(&self, family: Family, shard: usize) -> Option<&FamilySocket> {
        let others = &self.others[usize::from(family == Family::V6)];
        match shard.checked_sub(1) {
            None => self.socket(family).as_ref().ok(),
            Some(at) => others.get(at),
        }
    }

    fn all(&self) -> impl Iterator<Item = &FamilySocket> {
        let first = [&self.v4, &self.v6].into_iter().flatten();
        first.chain(self.others.iter().flatten())
    }

    fn socket(&self, family: Family) -> &Result<FamilySocket, io::Error> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl FamilySocket {
    fn new(socket: Socket, config: &UdpConfig) -> io::Result<FamilySocket> {
        let state = UdpSocketState::new((&socket).into())?;
        // quinn-udp asks for a time stamp on each datagram; nobody here reads it. Failing is harmless.
        let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0);
        if let Some(mark) = config.mark {
            socket.set_mark(mark)?;
        }
        let buffers = set_buffers(&socket, config.buffer)?;
        let max_segments = AtomicUsize::new(if config.gso { state.max_gso_segments() } else { 1 });
        let joins_received = config.gro && state.gro_segments() > 1;
        if !config.gro {
            // quinn-udp has switched it on; a kernel that refuses has none.
            let _ = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 0);
        }
        Ok(FamilySocket {
            socket,
            state,
            max_segments,
            joins_received,
            buffers,
        })
    }

    /// What the kernel dropped for want of room (SK_MEMINFO_DROPS).
    fn drops(&self) -> u64 {
        const WORDS: usize = 9;
        const DROPS: usize = 8;
        let mut words = [0u32; WORDS];
        let mut length = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `words`, and then what it wrote to `length`.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let is_told = outcome == 0 && length as usize == size_of_val(&words);
        if is_told { u64::from(words[DROPS]) } else { 0 }
    }

    fn send(
        &self,
        source: Option<IpAddr>,
        remote: SocketAddr,
        bytes: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: remote,
            ecn: None,
            contents: bytes,
            segment_size,
            src_ip: source,
        };
        loop {
            match self.state.try_send((&self.socket).into(), &transmit) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !wait_writable(self.socket.as_fd(), SEND_WAIT)? {
                        return Err(e);
                    }
                }
                sent => return sent,
            }
        }
    }
}

/// Whether a send failed because the datagram is larger than the way allows.
pub fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// EMSGSIZE is not among them: with GSO it means that a single segment is too large.
fn may_be_gso(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP))
}

/// Errors that concern some earlier datagram, or a moment without network, and not the socket.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ENETDOWN,
        libc::EHOSTDOWN,
        libc::EACCES,
        libc::EPERM,
        libc::EMSGSIZE,
        libc::ENOBUFS,
        libc::EPROTO,
    ];
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

type Bound = (io::Result<Socket>, io::Result<Socket>, u16);

/// Binds IPv6 first (its port for both); with any port allowed, a port taken for IPv4 means another try.
fn bind_both(config: &UdpConfig) -> Result<Bound, Error> {
    for _ in 0..PORT_TRIES {
        let v6 = bind_one(Ipv6Addr::UNSPECIFIED.into(), config.port);
        let port = match v6.as_ref().map(port_of) {
            Ok(port) => port,
            Err(e) if is_refusal(e) => return Err(port_error(config.port, &v6)),
            Err(_) => config.port,
        };
        let v4 = bind_one(Ipv4Addr::UNSPECIFIED.into(), port);
        match v4.as_ref().map(port_of) {
            Ok(port) => return Ok((v4, v6, port)),
            Err(e) if is_refusal(e) && config.port != 0 => return Err(port_error(config.port, &v4)),
            Err(e) if is_refusal(e) => continue,
            Err(_) => return Ok((v4, v6, port)),
        }
    }
    Err(Error::PortInUse { port: config.port })
}

/// Opens the further sockets of a family and spreads what comes over all of them.
fn shards(first: &FamilySocket, any: IpAddr, port: u16, config: &UdpConfig) -> io::Result<Vec<FamilySocket>> {
    let Some(steering) = &config.steering else {
        return Ok(Vec::new());
    };
    let sockets = shards::open(&first.socket, SocketAddr::new(any, port), steering)?;
    sockets
        .into_iter()
        .map(|socket| FamilySocket::new(socket, config))
        .collect()
}

fn bind_one(address: IpAddr, port: u16) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket)
}

fn port_of(socket: &Socket) -> u16 {
    socket
        .local_addr()
        .ok()
        .and_then(|a| a.as_socket())
        .map_or(0, |a| a.port())
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

fn port_error(port: u16, refused: &io::Result<Socket>) -> Error {
    match refused {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Error::PortNotPermitted { port },
        _ => Error::PortInUse { port },
    }
}

/// Whether this host cuts datagrams that are too large for their way, as far as it knows that, or refuses them
/// ([`is_too_big`]). For a socket that quinn-udp has prepared, which otherwise believes in the interface alone. Trains bear
/// "don't fragment" only where they may not be cut; single datagrams also as long as they need not be.
pub fn allow_fragments(socket: impl AsFd, are_allowed: bool) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let [v4, v6] = match are_allowed {
        true => [libc::IP_PMTUDISC_WANT, libc::IPV6_PMTUDISC_WANT],
        false => [libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO],
    };
    set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)?;
    if socket.domain()? == Domain::IPV6 {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6)?;
        set_option(
            &socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_DONTFRAG,
            i32::from(!are_allowed),
        )?;
    }
    Ok(())
}

/// Past the system-wide limit where we may, else up to it.
fn set_buffers(socket: &Socket, bytes: usize) -> io::Result<BufferSizes> {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        socket.set_recv_buffer_size(bytes)?;
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
        socket.set_send_buffer_size(bytes)?;
    }
    // The kernel reports twice what was set: the second half is for its own bookkeeping (socket(7)).
    Ok(BufferSizes {
        receive: socket.recv_buffer_size()? / 2,
        send: socket.send_buffer_size()? / 2,
    })
}

fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
