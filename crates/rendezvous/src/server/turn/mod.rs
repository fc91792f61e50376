//! STUN and TURN on real sockets: the driver of [`machine::Machine`].
//!
//! Each relay socket has one task, which carries peers' datagrams to the client and ends when the
//! allocation does. Everything else happens where a client's message arrives. A datagram that cannot be
//! passed on at once is lost, as datagrams may be; nothing waits for a slow client. Datagrams that come
//! together leave together ([`socket`], [`train`]).

mod binding;
pub(super) mod credentials;
mod fuzzing;
mod limits;
mod machine;
mod peers;
mod socket;
#[cfg(test)]
mod tests;
mod train;
mod udp;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use quinn_udp::EcnCodepoint;
use stun_proto::types::AddressFamily;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::link::Wire;
use super::session::unix_now;
use super::{ServerError, Shared, store};
use binding::{Answer, Ports};
#[doc(hidden)]
pub use fuzzing::fuzz_relay;
use machine::{Action, Client, Machine, Open, Quotas, RelayId, Transport};
use peers::Policy;
use socket::{Batch, Socket};
use train::Train;

pub use credentials::user_of as turn_user_of;
pub use socket::Fragments;
pub(super) use udp::UdpDoor;
pub use wire::{FrameError, channel_data, frame_length};

/// STUN and TURN, as configured.
#[derive(Clone)]
pub struct TurnConfig {
    /// UDP addresses; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Addresses of relay sockets; for a family without any, the address by which this host reaches the client, or the
    /// internet.
    pub relay: Vec<RelayAddress>,
    /// Ports of relay sockets; `0..=0` takes what the system gives.
    pub ports: RangeInclusive<u16>,
    /// Allocations of one account.
    pub allocations_per_user: usize,
    /// Allocations in all.
    pub allocations_max: usize,
    /// How long credentials that clients are given by XEP-0215 can start an allocation.
    pub credential_lifetime: Duration,
    /// Refuse peers at private addresses: for a server that strangers may have accounts on.
    pub deny_private_peers: bool,
    /// Allow peers on loopback: for tests.
    pub allow_loopback_peers: bool,
    /// Where it does nothing, what is too large for its way is lost instead of being cut.
    pub fragments: Fragments,
}

impl Default for TurnConfig {
    fn default() -> Self {
        TurnConfig {
            listen: Vec::new(),
            relay: Vec::new(),
            ports: 0..=0,
            allocations_per_user: 32,
            allocations_max: 512,
            credential_lifetime: Duration::from_secs(12 * 3600),
            deny_private_peers: false,
            allow_loopback_peers: false,
            fragments: |_, _| Ok(()),
        }
    }
}

/// Where relay sockets are bound, and what peers call that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// Address of this host.
    pub bind: IpAddr,
    /// The same, as others see it: differs behind a NAT that maps one to one.
    pub public: IpAddr,
}

/// The relay: the machine and its sockets.
pub(super) struct Relay {
    machine: Mutex<Machine>,
    sockets: Mutex<BTreeMap<RelayId, RelaySocket>>,
    room: Mutex<(Batch, Train)>,
    addresses: Vec<RelayAddress>,
    ports: RangeInclusive<u16>,
    fragments: Fragments,
}

struct RelaySocket {
    socket: Arc<Socket>,
    task: AbortHandle,
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The way back to a client.
#[derive(Clone)]
enum Back {
    Udp(Arc<Socket>, SocketAddr),
    Stream(StreamQueue),
}

impl Back {
    fn send(&self, bytes: &[u8]) {
        self.send_train(None, bytes, bytes.len());
    }

    /// Messages of `segment` bytes each, the last perhaps shorter. Lost if they do not fit: the promise of a datagram.
    fn send_train(&self, ecn: Option<EcnCodepoint>, bytes: &[u8], segment: usize) {
        match self {
            Back::Udp(socket, to) => socket.send(*to, ecn, bytes, segment),
            Back::Stream(queue) => queue.push(bytes),
        }
    }
}

/// What waits for a TCP or TLS client.
#[derive(Clone)]
struct StreamQueue {
    sender: mpsc::Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

impl StreamQueue {
    fn push(&self, bytes: &[u8]) {
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting + bytes.len() <= limits::STREAM_BYTES && self.sender.try_send(bytes.to_vec()).is_ok() {
            self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        }
    }
}

/// The addresses of a TCP connection.
#[derive(Clone, Copy)]
pub(super) struct StreamClient {
    pub(super) server: SocketAddr,
    peer: SocketAddr,
}

impl StreamClient {
    pub(super) fn of(socket: &TcpStream) -> Option<Self> {
        Some(StreamClient {
            server: socket.local_addr().ok()?,
            peer: socket.peer_addr().ok()?,
        })
    }
}

/// Serves one TCP or TLS client; `input` was read already.
pub(super) async fn serve_stream(
    mut wire: Box<dyn Wire>,
    mut input: Vec<u8>,
    addresses: StreamClient,
    shared: &Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let client = Client {
        transport: Transport::Stream,
        server: addresses.server,
        peer: addresses.peer,
    };
    let (sender, mut queue) = mpsc::channel(limits::STREAM_QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let back = Back::Stream(StreamQueue {
        sender,
        bytes: waiting.clone(),
    });
    let _end = OnEnd { shared, client };
    let mut idle_since = tokio::time::Instant::now();
    loop {
        if shared.turn.take_frames(shared, client, &mut input, &back).is_err() {
            return;
        }
        input.reserve(super::limits::READ_BYTES);
        tokio::select! {
            _ = stopped.changed() => return,
            Some(bytes) = queue.recv() => {
                waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                let written = timeout(super::limits::WRITE_TIME, async {
                    wire.write_all(&bytes).await?;
                    wire.flush().await
                });
                if !matches!(written.await, Ok(Ok(()))) {
                    return;
                }
            }
            read = wire.read_buf(&mut input) => if !matches!(read, Ok(1..)) {
                return;
            },
            () = tokio::time::sleep_until(idle_since + limits::STREAM_IDLE) => {
                if !shared.turn.machine().has_allocation(&client) {
                    return;
                }
                idle_since = tokio::time::Instant::now();
            }
        }
    }
}

/// A connection's allocation ends with it, however it ends.
struct OnEnd<'a> {
    shared: &'a Shared,
    client: Client,
}

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        let relay = self.shared.turn.machine().disconnected(&self.client);
        if let Some(relay) = relay {
            self.shared.turn.close(relay);
        }
    }
}

impl Relay {
    pub(super) fn new(config: TurnConfig, realm: String, secret: Vec<u8>) -> Result<Self, ServerError> {
        let policy = Policy {
            allow_loopback: config.allow_loopback_peers,
            deny_private: config.deny_private_peers,
        };
        let quotas = Quotas {
            per_user: config.allocations_per_user,
            total: config.allocations_max,
        };
        let nonce_secret = store::random::<32>()?;
        let machine = Machine::new(realm, secret, &nonce_secret, policy, quotas, Instant::now());
        Ok(Relay {
            machine: Mutex::new(machine),
            sockets: Mutex::new(BTreeMap::new()),
            room: Mutex::new((Batch::new(), Train::default())),
            addresses: config.relay,
            ports: config.ports,
            fragments: config.fragments,
        })
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> MutexGuard<'_, BTreeMap<RelayId, RelaySocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends the memory through which everything passes: one for all, so that no allocation costs any. Never across a wait.
    fn with_room(&self, work: impl FnOnce(&mut Batch, &mut Train)) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, train) = &mut *room;
        work(batch, train);
    }

    /// The socket and the peer that a client's channel leads to.
    fn channel(&self, client: &Client, number: u16, now: Instant) -> Option<(Arc<Socket>, SocketAddr)> {
        let (relay, peer) = self.machine().channel(client, number, now)?;
        Some((self.sockets().get(&relay)?.socket.clone(), peer))
    }

    /// Handles every whole message in `input` and removes it.
    fn take_frames(
        &self,
        shared: &Arc<Shared>,
        client: Client,
        input: &mut Vec<u8>,
        back: &Back,
    ) -> Result<(), FrameError> {
        let mut used = 0;
        while let Some(length) = frame_length(&input[used..])? {
            if length > limits::STRANGER_BYTES && !self.machine().has_allocation(&client) {
                return Err(FrameError::TooLong);
            }
            let Some(message) = input.get(used..used + length) else {
                break;
            };
            self.handle(shared, client, message, back);
            used += length;
        }
        input.drain(..used);
        Ok(())
    }

    fn handle(&self, shared: &Arc<Shared>, client: Client, message: &[u8], back: &Back) {
        let action = self
            .machine()
            .handle_client(client, message, Instant::now(), unix_now());
        match action {
            Action::Nothing => {}
            Action::Reply(bytes) => back.send(&bytes),
            Action::Send { relay, to, data } => {
                if let (Some(socket), Some(data)) = (self.sockets().get(&relay), message.get(data)) {
                    socket.socket.send(to, None, data, data.len());
                }
            }
            Action::Open(open) => self.open(shared, *open, back),
            Action::Close { relay, reply } => {
                self.close(relay);
                reply.iter().for_each(|bytes| back.send(bytes));
            }
        }
    }

    /// Gives the client what its peers sent to a relay socket, in trains where that is by channel.
    fn hand_on(&self, relay: RelayId, batch: &Batch, train: &mut Train, back: &Back) {
        let now = Instant::now();
        let mut ecn = None;
        for arrived in batch.arrived() {
            let Some(wrapping) = self.machine().wrapping(relay, arrived.from, now) else {
                continue;
            };
            for data in arrived.datagrams().filter(|data| data.len() <= wire::WRAPPED_BYTES_MAX) {
                let length = wrapping.length(data.len());
                if ecn != arrived.ecn || !train.takes(length) {
                    train.leave(|bytes, segment| back.send_train(ecn, bytes, segment));
                    ecn = arrived.ecn;
                }
                train.push(|out| wrapping.write(data, out));
            }
        }
        train.leave(|bytes, segment| back.send_train(ecn, bytes, segment));
    }

    fn open(&self, shared: &Arc<Shared>, open: Open, back: &Back) {
        let opened = self.relay_socket(&open.client, open.family);
        let relayed = opened.as_ref().ok().map(|(_, relayed)| *relayed);
        let (relay, reply) = self.machine().opened(open, relayed, Instant::now());
        if let (Some(relay), Ok((socket, _))) = (relay, opened) {
            let socket = Arc::new(socket);
            let task = tokio::spawn(carry(shared.clone(), relay, socket.clone(), back.clone())).abort_handle();
            self.sockets().insert(relay, RelaySocket { socket, task });
        }
        reply.iter().for_each(|bytes| back.send(bytes));
    }

    fn close(&self, relay: RelayId) {
        self.sockets().remove(&relay);
    }

    /// A socket for peers, and its address as they see it.
    fn relay_socket(&self, client: &Client, family: AddressFamily) -> io::Result<(Socket, SocketAddr)> {
        let v4 = family == AddressFamily::IPV4;
        let configured = self.addresses.iter().find(|a| a.bind.is_ipv4() == v4).copied();
        let address = match configured {
            Some(address) => address,
            None => own_address(client, v4).map(|ip| RelayAddress { bind: ip, public: ip })?,
        };
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..limits::PORT_TRIES {
            match Socket::bind(
                SocketAddr::new(address.bind, self.port()?),
                limits::PEER_ROOM,
                self.fragments,
            ) {
                Ok(socket) => {
                    let port = socket.local_addr()?.port();
                    return Ok((socket, SocketAddr::new(address.public, port)));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Chosen at random, so that a stranger cannot guess where relays are.
    fn port(&self) -> io::Result<u16> {
        let (low, high) = (*self.ports.start(), *self.ports.end());
        if low == 0 || high < low {
            return Ok(0);
        }
        let mut random = [0u8; 4];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| io::Error::other("no random bytes"))?;
        let offset = u32::from_be_bytes(random) % (u32::from(high - low) + 1);
        Ok(u16::try_from(u32::from(low) + offset).unwrap_or(low))
    }
}

/// What a stranger's UDP datagram gets as an answer: the body of a fuzz target.
pub fn answer_stranger(bytes: &[u8]) -> Option<Vec<u8>> {
    let policy = Policy {
        allow_loopback: false,
        deny_private: false,
    };
    let quotas = Quotas { per_user: 1, total: 1 };
    let now = Instant::now();
    let mut machine = Machine::new("test".into(), vec![1], &[1; 32], policy, quotas, now);
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    if let Some(Answer::FromHere(answer) | Answer::FromOtherPort(answer)) =
        binding::answer_datagram(address, bytes, Ports::Two)
    {
        return Some(answer);
    }
    let client = Client {
        transport: Transport::Udp,
        server: address,
        peer: address,
    };
    match machine.handle_client(client, bytes, now, unix_now()) {
        Action::Reply(bytes) => Some(bytes),
        _ => None,
    }
}

/// Addresses of documentation (RFC 5737, RFC 3849), which nothing is sent to: the way there is the way to the internet.
const ELSEWHERE: (SocketAddr, SocketAddr) = (
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
);

/// The address by which this host reaches the client: where the client came to, or where a datagram to it would leave. For
/// the client's other family, by which it reaches peers that the client alone cannot reach: where one to anybody would.
fn own_address(client: &Client, v4: bool) -> io::Result<IpAddr> {
    let server = client.server.ip().to_canonical();
    if server.is_ipv4() == v4 && !server.is_unspecified() {
        return Ok(server);
    }
    let peer = SocketAddr::new(client.peer.ip().to_canonical(), client.peer.port());
    let target = match v4 {
        _ if peer.is_ipv4() == v4 => peer,
        true => ELSEWHERE.0,
        false => ELSEWHERE.1,
    };
    let any = if v4 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let probe = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    probe.connect(target)?;
    Ok(probe.local_addr()?.ip())
}

/// Carries what peers send to the client, until the allocation ends. A batch at a time, as at the other side.
async fn carry(shared: Arc<Shared>, relay: RelayId, socket: Arc<Socket>, back: Back) {
    loop {
        let Some(expires) = shared.turn.machine().expiry(relay) else {
            return;
        };
        tokio::select! {
            () = socket.readable() => {
                shared.turn.with_room(|batch, train| {
                    socket.receive(batch);
                    shared.turn.hand_on(relay, batch, train, &back);
                });
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep_until(expires.into()) => {
                if shared.turn.machine().expired(relay, Instant::now()) {
                    return shared.turn.close(relay);
                }
            }
        }
    }
}
