//! The same interface on systems without an implementation: every way in returns
//! [`Error::NotSupported`], so the types behind it have no values.

use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{Error, Owner, Prefix};

#[path = "net/changes.rs"]
mod changes;
#[path = "nic/config.rs"]
mod nic_config;
#[path = "net/types.rs"]
mod types;
#[path = "udp/config.rs"]
mod udp_config;
#[path = "nic/vnet.rs"]
mod vnet;

pub use changes::Changes;
pub use nic_config::{NicConfig, NicKind, Offload};
pub use types::{Interface, InterfaceAddress, Route};
pub use udp_config::{
    BufferSizes, Choice, Datagram, Family, Part, PerCore, SEND_WAIT, Steering, Train, UdpConfig, UdpCounts,
};
pub use vnet::{Cut, PartialChecksum, VNET_HEADER, VnetError, VnetHeader};

#[derive(Debug, Clone, Copy)]
enum Never {}

fn missing<T>(what: &'static str) -> Result<T, Error> {
    Err(Error::NotSupported { what })
}

/// Ends waits of the object it came from.
#[derive(Debug, Clone)]
pub struct Waker(Arc<AtomicBool>);

impl Waker {
    /// A waker that nothing waits for yet.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(AtomicBool::new(false))))
    }

    /// Wakes.
    pub fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lets waits wait again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether a wait would end at once.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Which descriptors have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(u64);

impl Ready {
    /// Whether the descriptor at this position can be read.
    pub fn has(&self, position: usize) -> bool {
        position < MAX_WAIT && self.0 >> position & 1 == 1
    }

    /// Whether the time ran out.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// Pieces of one frame that `Nic::send_pieces` takes.
pub const PIECES: usize = 64;

/// As many descriptors as one wait takes.
pub const MAX_WAIT: usize = 16;

/// Not supported.
#[cfg(unix)]
pub fn wait_readable(_: &[BorrowedFd<'_>], _: Option<Duration>) -> io::Result<Ready> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not possible here.
pub fn put_first() -> bool {
    false
}

/// A thread of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(());

#[expect(missing_docs, reason = "documented where they exist: cores.rs")]
impl Thread {
    pub fn current() -> Thread {
        Thread(())
    }
    pub fn keep_to(self, _: &[usize]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Not supported.
pub fn cores() -> io::Result<Vec<usize>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Descriptors that are waited for together; not here.
pub struct Poller(Never);

/// What a look at a poller found; nothing.
#[derive(Default)]
pub struct Found(());

#[expect(missing_docs, reason = "documented where they exist: poller.rs")]
#[cfg(unix)]
impl Poller {
    pub fn new() -> io::Result<Poller> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub fn add(&self, _: impl AsFd, _: u64) -> io::Result<()> {
        match self.0 {}
    }
    pub fn remove(&self, _: impl AsFd) -> io::Result<()> {
        match self.0 {}
    }
    pub fn wait(&self, _: &mut Found, _: Option<Duration>) -> io::Result<()> {
        match self.0 {}
    }
}

#[expect(missing_docs, reason = "documented where they exist: poller.rs")]
impl Found {
    pub const MOST: usize = 0;
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// A network interface; there is none here.
#[derive(Clone)]
pub struct Nic(Never);

#[expect(missing_docs, reason = "documented where they exist: nic.rs")]
impl Nic {
    pub fn create(_: &NicConfig) -> Result<Nic, Error> {
        missing("making a network interface")
    }
    pub fn another_queue(&self) -> Result<Nic, Error> {
        match self.0 {}
    }
    pub fn wait_by_core(&self, _: PerCore) -> io::Result<()> {
        match self.0 {}
    }
    pub fn wait_by_flow(&self) -> io::Result<()> {
        match self.0 {}
    }
    pub fn remove_stale(_: &str) -> Result<bool, Error> {
        missing("removing a network interface")
    }
    pub fn name(&self) -> &str {
        match self.0 {}
    }
    pub fn index(&self) -> u32 {
        match self.0 {}
    }
    pub fn kind(&self) -> NicKind {
        match self.0 {}
    }
    pub fn offload(&self) -> Offload {
        match self.0 {}
    }
    pub fn send(&self, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }
    pub fn try_recv(&self, _: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0 {}
    }
    pub fn send_pieces<'a>(&self, _: &VnetHeader, _: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        match self.0 {}
    }
    pub fn set_up(&self, _: u16) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn set_mtu(&self, _: u16) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn remove(&self) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn set_ethernet_address(&self, _: [u8; 6]) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn add_address(&self, _: Prefix) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn remove_address(&self, _: Prefix) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn add_route(&self, _: Prefix) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn remove_route(&self, _: Prefix) -> Result<(), Error> {
        match self.0 {}
    }
}

/// The UDP sockets of all links; there are none here.
pub struct UdpSockets(Never);

/// Buffers for received datagrams.
pub struct Batch(());

#[expect(missing_docs, reason = "documented where they exist: udp/batch.rs")]
impl Batch {
    pub fn new(_: usize) -> Batch {
        Batch(())
    }
    pub fn is_empty(&self) -> bool {
        true
    }
    pub fn part(&self, _: usize) -> Option<Part> {
        None
    }
    pub fn memory(&mut self) -> &mut [u8] {
        &mut []
    }
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        std::iter::empty()
    }
}

#[expect(missing_docs, reason = "documented where they exist: udp.rs")]
impl UdpSockets {
    pub fn bind(_: &UdpConfig) -> Result<UdpSockets, Error> {
        missing("opening shared UDP sockets")
    }
    pub fn port(&self) -> u16 {
        match self.0 {}
    }
    pub fn missing(&self, _: Family) -> Option<&io::Error> {
        match self.0 {}
    }
    pub fn buffers(&self, _: Family) -> Option<BufferSizes> {
        match self.0 {}
    }
    pub fn max_segments(&self, _: Family) -> usize {
        match self.0 {}
    }
    pub fn joins_received(&self, _: Family) -> bool {
        match self.0 {}
    }
    pub fn steer(&self, _: &Steering) -> io::Result<()> {
        match self.0 {}
    }
    #[cfg(unix)]
    pub fn descriptor(&self, _: Family, _: usize) -> Option<BorrowedFd<'_>> {
        match self.0 {}
    }
    pub fn counts(&self) -> UdpCounts {
        match self.0 {}
    }
    pub fn try_recv(&self, _: Family, _: usize, _: &mut Batch) -> io::Result<bool> {
        match self.0 {}
    }
    pub fn send(&self, _: Option<IpAddr>, _: SocketAddr, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }
    pub fn send_trains<'a>(&self, _: impl Iterator<Item = Train<'a>>, _: impl FnMut(&Train<'a>, &io::Error)) {
        match self.0 {}
    }
    pub fn send_segments(&self, _: Option<IpAddr>, _: SocketAddr, _: &[u8], _: usize) -> io::Result<()> {
        match self.0 {}
    }
}

/// Whether a send failed because the datagram is too large; not told here.
pub fn is_too_big(_: &io::Error) -> bool {
    false
}

/// Not supported.
pub fn allow_fragments(_: impl AsFd, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn interfaces() -> Result<Vec<Interface>, Error> {
    missing("listing network interfaces")
}

/// Not supported.
pub fn routes() -> Result<Vec<Route>, Error> {
    missing("listing routes")
}

/// Not supported.
pub fn default_gateways() -> Result<Vec<(IpAddr, u32)>, Error> {
    missing("finding default gateways")
}

/// Not told here.
pub fn source_towards(_: IpAddr) -> Option<IpAddr> {
    None
}

/// Not told here.
pub fn default_sources() -> (Option<IpAddr>, Option<IpAddr>) {
    (None, None)
}

/// Watches the host's network; not here.
pub struct Watcher(Never);

#[expect(missing_docs, reason = "documented where they exist: watch.rs")]
impl Watcher {
    pub fn new() -> Result<Watcher, Error> {
        missing("watching network interfaces")
    }
    pub fn waker(&self) -> Waker {
        match self.0 {}
    }
    pub fn wait(&self, _: Option<Duration>) -> io::Result<Option<Changes>> {
        match self.0 {}
    }
}

/// Names in the system's resolver; not here.
pub struct DnsWiring(Never);

#[expect(missing_docs, reason = "documented where they exist: dns.rs")]
impl DnsWiring {
    pub fn install(_: &str, _: IpAddr, _: &[String]) -> Result<DnsWiring, Error> {
        missing("wiring names into the resolver")
    }
    pub fn install_file(_: &Path, _: &str, _: IpAddr, _: &[String]) -> Result<DnsWiring, Error> {
        missing("wiring names into the resolver")
    }
    pub fn upstream(&self) -> &[IpAddr] {
        match self.0 {}
    }
    pub fn remove(self) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn remove_stale(_: &str) -> Result<bool, Error> {
        missing("wiring names into the resolver")
    }
    pub fn sweep() -> Result<bool, Error> {
        missing("names")
    }
    pub fn remove_stale_file(_: &Path, _: &str) -> Result<bool, Error> {
        missing("wiring names into the resolver")
    }
}

/// A private listening socket; not here.
#[derive(Debug)]
pub struct PrivateListener(Never);

#[expect(missing_docs, reason = "documented where they exist: listen.rs")]
impl PrivateListener {
    pub fn bind(_: &Path, _: Option<Owner>) -> Result<PrivateListener, Error> {
        missing("a private local socket")
    }
    #[cfg(unix)]
    pub fn accept(&self) -> io::Result<(UnixStream, crate::PeerCredentials)> {
        match self.0 {}
    }
    pub fn waker(&self) -> Waker {
        match self.0 {}
    }
    #[cfg(unix)]
    pub fn to_std(&self) -> io::Result<UnixListener> {
        match self.0 {}
    }
}

/// Not supported.
#[cfg(unix)]
pub fn peer_credentials(_: &impl AsFd) -> io::Result<crate::PeerCredentials> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
#[cfg(unix)]
pub fn send_now(_: &impl AsFd, _: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nobody: equal to no user that could be at the other end of a socket.
pub fn own_identity() -> Owner {
    Owner {
        uid: u32::MAX,
        gid: u32::MAX,
    }
}

/// Holds a state directory; not here.
#[derive(Debug)]
pub struct StateLock(Never);

impl StateLock {
    /// Nobody.
    pub fn holder(_: &Path) -> Option<u32> {
        None
    }

    /// Not supported.
    pub fn acquire(_: &Path) -> Result<StateLock, Error> {
        missing("locking a state directory")
    }
}

/// Not supported.
pub fn create_private_dir(_: &Path) -> Result<(), Error> {
    missing("a private directory")
}

/// Not supported.
pub fn write_atomic(_: &Path, _: &[u8], _: u32) -> Result<(), Error> {
    missing("writing private files")
}

/// Not supported.
pub fn read_private(_: &Path, _: usize) -> Result<Vec<u8>, Error> {
    missing("reading private files")
}

/// What this program reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The user pressed control-C.
    Interrupt,
    /// Somebody asks us to end.
    Terminate,
    /// A child has ended.
    Child,
    /// SIGHUP.
    Hangup,
}

/// Receives signals; not here.
#[derive(Debug, Clone, Copy)]
pub struct Signals(Never);

impl Signals {
    /// Not supported.
    pub fn install() -> Result<Signals, Error> {
        missing("receiving signals")
    }

    /// Waits for a signal.
    pub fn wait(&self, _: Option<Duration>) -> io::Result<Option<Signal>> {
        match self.0 {}
    }
}

/// Not supported.
pub fn die_with_parent(_: u32) -> Result<(), Error> {
    missing("ending with the parent process")
}

/// Not supported.
pub fn run_as_unprivileged(_: Owner) -> Result<(), Error> {
    missing("giving up privileges")
}

/// Does nothing here.
pub fn release_code() {}

/// Not supported.
pub fn give_up_capabilities() -> Result<(), Error> {
    missing("giving up privileges")
}

/// Not told here: no.
pub fn is_user_known(_: u32) -> bool {
    false
}

/// Not told here: no.
pub fn has_net_admin() -> bool {
    false
}

/// Not told here.
pub fn parent_process() -> Option<u32> {
    None
}

/// Not supported.
pub fn memory_in_use() -> Result<u64, Error> {
    missing("telling the memory in use")
}

/// Not done here; the caller sees that the process stays.
pub fn terminate(_: u32) {}

/// Not done here.
pub fn kill_all(_: &[u32], _: Duration) {}

/// Not done here.
pub fn hang_up(_: u32) {}

/// Not told here.
pub fn host_name() -> String {
    "node".into()
}

/// Network namespaces; not here.
pub mod netns {
    use super::{Error, Path, missing};

    const WHAT: &str = "network namespaces";

    /// Not supported.
    pub fn enter_new() -> Result<(), Error> {
        missing(WHAT)
    }

    /// Not supported.
    pub fn enter(_: &Path) -> Result<(), Error> {
        missing(WHAT)
    }

    /// Not supported.
    pub fn run_in_new<T: Send>(_: impl FnOnce() -> T + Send) -> Result<T, Error> {
        missing(WHAT)
    }
}
