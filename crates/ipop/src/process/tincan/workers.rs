//! The fast path's threads: one reads a NIC and seals, one reads the sockets and opens. Each runs a frame to its end.
//!
//! Promises: no lock, allocation or channel on the way of a frame; what the fast path cannot settle goes to the engine over a bounded
//! channel, and is dropped and counted when that is full.
//! Refuses to know: everything that `tincan::fast` knows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use api::NetworkId;
use os::{Batch, Nic, UdpSockets};
use tincan::fast::{self, FastPath, HEADROOM, Inbound, Lanes, Outbound, Snapshot, TAILROOM};

use super::Wake;

/// The largest frame that a NIC without offload can hand over, bytes.
const FRAME_BYTES_MAX: usize = 9000;
/// Receive buffers of 64 KiB each: what one system call may bring.
const RECEIVE_BUFFERS: usize = 8;

/// A value that one thread replaces and others look at: a look costs one atomic load unless it was replaced.
#[derive(Debug, Default)]
pub(crate) struct Published<T> {
    generation: AtomicU64,
    value: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    /// Replaces the value.
    pub(crate) fn set(&self, value: Arc<T>) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> Arc<T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A thread's view of a published value.
struct View<T> {
    published: Arc<Published<T>>,
    generation: u64,
    value: Arc<T>,
}

impl<T> View<T> {
    fn new(published: Arc<Published<T>>) -> Self {
        let generation = published.generation.load(Ordering::Acquire);
        let value = published.get();
        Self {
            published,
            generation,
            value,
        }
    }

    fn look(&mut self) -> &T {
        let generation = self.published.generation.load(Ordering::Acquire);
        if generation != self.generation {
            // Read before the value: a replacement in between shows at the next look.
            self.generation = generation;
            self.value = self.published.get();
        }
        &self.value
    }
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) snapshot: Arc<Published<Snapshot>>,
    pub(crate) nics: Arc<Published<Vec<(NetworkId, Nic)>>>,
    pub(crate) sockets: Arc<UdpSockets>,
    pub(crate) wakes: SyncSender<Wake>,
    /// Frames and datagrams for the engine that found its channel full.
    pub(crate) overflow: Arc<AtomicU64>,
}

impl Shared {
    fn tell_engine(&self, wake: Wake) {
        match self.wakes.try_send(wake) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.overflow.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn send(&self, path: FastPath, datagram: &[u8]) {
        let (source, remote) = match path {
            FastPath::Direct { source, remote } => (source, remote),
            FastPath::Channel { server, .. } => (None, server),
            FastPath::Engine => return,
        };
        if let Err(error) = self.sockets.send(source, remote, datagram)
            && os::is_too_big(&error)
        {
            self.tell_engine(Wake::TooBig(remote, datagram.len()));
        }
    }
}

/// Reads a NIC until its waker ends that; gives the lanes back, whose counters must never start anew under a living key.
pub(crate) fn start_sender(
    shared: &Shared,
    network: NetworkId,
    nic: Nic,
    lanes: Lanes,
) -> anyhow::Result<JoinHandle<Lanes>> {
    let shared = shared.clone();
    let work = move || send_frames(&shared, network, &nic, lanes);
    std::thread::Builder::new()
        .name("nic".into())
        .stack_size(128 << 10)
        .spawn(work)
        .context("cannot start a thread")
}

fn send_frames(shared: &Shared, network: NetworkId, nic: &Nic, mut lanes: Lanes) -> Lanes {
    let mut view = View::new(shared.snapshot.clone());
    let mut buffer = vec![0; HEADROOM + FRAME_BYTES_MAX + TAILROOM];
    loop {
        let read = match nic.recv(&mut buffer[HEADROOM..HEADROOM + FRAME_BYTES_MAX]) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return lanes,
            Err(error) => {
                shared.tell_engine(Wake::NicLost(network, error.to_string()));
                return lanes;
            }
        };
        let frame = &mut buffer[..HEADROOM + read + TAILROOM];
        match fast::outbound(view.look(), &mut lanes, network, frame) {
            Outbound::Sealed {
                range,
                path,
                slot,
                wake,
            } => {
                shared.send(path, &frame[range]);
                if wake {
                    shared.tell_engine(Wake::Traffic(slot));
                }
            }
            Outbound::ToEngine => shared.tell_engine(Wake::Frame(network, frame[HEADROOM..HEADROOM + read].to_vec())),
            Outbound::Dropped(_) => {}
        }
    }
}

/// Reads the sockets until their waker ends that.
pub(crate) fn start_receiver(shared: &Shared) -> anyhow::Result<JoinHandle<()>> {
    let shared = shared.clone();
    let work = move || receive_datagrams(&shared);
    std::thread::Builder::new()
        .name("udp".into())
        .stack_size(128 << 10)
        .spawn(work)
        .context("cannot start a thread")
}

fn receive_datagrams(shared: &Shared) {
    let mut view = View::new(shared.snapshot.clone());
    let mut nics = View::new(shared.nics.clone());
    let mut batch = Batch::new(RECEIVE_BUFFERS);
    loop {
        match shared.sockets.recv_batch(&mut batch, None) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return,
            Err(error) => {
                tracing::error!(%error, "the UDP sockets fail");
                return;
            }
        }
        let (snapshot, nics) = (view.look(), nics.look());
        for datagram in batch.datagrams() {
            let tell = match fast::inbound(snapshot, datagram.remote, datagram.bytes) {
                Inbound::Frame { network, range, tell } => {
                    if let Some((_, nic)) = nics.iter().find(|(id, _)| *id == network) {
                        // A NIC that is down or full drops, as a wire does.
                        let _ = nic.send(&datagram.bytes[range]);
                    }
                    tell
                }
                Inbound::ToEngine => {
                    shared.tell_engine(Wake::Udp {
                        local: datagram.local,
                        remote: datagram.remote,
                        bytes: datagram.bytes.to_vec(),
                    });
                    None
                }
                Inbound::Dropped(_, tell) => tell,
            };
            if let Some(tell) = tell {
                shared.tell_engine(Wake::Opened(tell));
            }
        }
    }
}
