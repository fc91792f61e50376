//! The fast path's threads: one reads a NIC and seals, one reads the sockets and opens. Each runs a frame to its end.
//!
//! Promises: no lock, allocation or channel on the way of a frame; what the fast path cannot settle goes to the engine over a bounded
//! channel, and is dropped and counted when that is full.
//! Refuses to know: everything that `tincan::fast` knows.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use api::NetworkId;
use os::{Batch, Cut, Nic, PartialChecksum, Train, UdpSockets, VNET_HEADER, VnetHeader};
use tincan::fast::merge::{FRAMES, Joined, Merger, Takes};
use tincan::fast::slice::{Kind, Partial, Shape, Slices};
use tincan::fast::trains::Trains;
use tincan::fast::{self, Departed, FastPath, Inbound, Lanes, Snapshot};

use super::Wake;
use super::abilities::Without;

/// The largest frame that a NIC can hand over: IPv6 header and what its length field can say.
const FRAME_BYTES_MAX: usize = 40 + 65_535;
/// Records that wait: at least what the largest frame becomes when it is cut for a usual MTU.
const TRAINS_BYTES: usize = 128 << 10;
/// Records are sent when so many bytes wait, though the NIC may have more: no send takes many more.
const SEND_AT: usize = 56 << 10;
/// Frames are given to the NIC when so many bytes wait: none may become larger.
const MERGE_AT: usize = 64 << 10;
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
    pub(crate) without: Without,
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

    fn send(&self, trains: &mut Trains) {
        let all = trains.iter().filter_map(|(path, bytes, segment)| {
            let (source, remote) = match path {
                FastPath::Direct { source, remote } => (source, remote),
                FastPath::Channel { server, .. } => (None, server),
                FastPath::Engine => return None,
            };
            Some(Train {
                source,
                remote,
                bytes,
                segment,
            })
        });
        self.sockets.send_trains(all, |train, error| {
            if os::is_too_big(error) {
                let bytes = train.segment.min(train.bytes.len());
                self.tell_engine(Wake::TooBig(train.remote, bytes));
            }
        });
        trains.clear();
    }
}

/// Reads a NIC until its waker ends that; gives the lanes back, whose counters must never start anew under a living key.
pub(crate) fn start_sender(
    shared: &Shared,
    network: NetworkId,
    nic: Nic,
    lanes: Lanes,
) -> anyhow::Result<JoinHandle<Lanes>> {
    let mut trains = Trains::new(TRAINS_BYTES);
    trains.set_records_max(shared.records_max());
    let sender = Sender {
        view: View::new(shared.snapshot.clone()),
        shared: shared.clone(),
        network,
        nic,
        lanes,
        frame: vec![0; VNET_HEADER + FRAME_BYTES_MAX],
        trains,
    };
    std::thread::Builder::new()
        .name("nic".into())
        .stack_size(128 << 10)
        .spawn(move || sender.run())
        .context("cannot start a thread")
}

struct Sender {
    shared: Shared,
    view: View<Snapshot>,
    network: NetworkId,
    nic: Nic,
    lanes: Lanes,
    frame: Vec<u8>,
    trains: Trains,
}

impl Sender {
    fn run(mut self) -> Lanes {
        let waker = self.nic.waker();
        while !waker.is_set() {
            let outcome = match self.nic.try_recv(&mut self.frame) {
                Ok(Some(read)) => {
                    self.depart(read);
                    Ok(())
                }
                Ok(None) => {
                    self.send();
                    self.nic.wait()
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    self.shared.tell_engine(Wake::NicLost(self.network, error.to_string()));
                    break;
                }
                _ => {}
            }
        }
        self.lanes
    }

    /// Seals what was read; sends when much waits.
    fn depart(&mut self, read: usize) {
        let bytes = &self.frame[..read];
        let (shape, frame) = if self.nic.offload().header {
            match VnetHeader::parse(bytes) {
                Ok((header, frame)) => (shape(&header), frame),
                Err(error) => {
                    tracing::trace!(%error, "a frame is dropped");
                    return;
                }
            }
        } else {
            (Shape::default(), bytes)
        };
        let (shared, snapshot) = (&self.shared, self.view.look());
        let departed = fast::depart(
            snapshot,
            &mut self.lanes,
            self.network,
            (&shape, frame),
            &mut self.trains,
            |trains| shared.send(trains),
        );
        match departed {
            Departed::Sealed(Some(slot)) => shared.tell_engine(Wake::Traffic(slot)),
            Departed::Sealed(None) | Departed::Dropped(_) => {}
            Departed::FirstToEngine => shared.give_engine(self.network, &shape, frame, 1),
            Departed::ToEngine => shared.give_engine(self.network, &shape, frame, usize::MAX),
        }
        if self.trains.bytes() >= SEND_AT {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.trains.is_empty() {
            return;
        }
        self.shared.send(&mut self.trains);
        // What the device refused once it is not asked again.
        self.trains.set_records_max(self.shared.records_max());
    }
}

impl Shared {
    /// Gives the engine the pieces of a frame, at most `most`.
    fn give_engine(&self, network: NetworkId, shape: &Shape, frame: &[u8], most: usize) {
        let Ok(mut slices) = Slices::new(shape, frame) else {
            return;
        };
        for _ in 0..most {
            let Some(length) = slices.next_len() else { return };
            let mut piece = vec![0; length];
            slices.write(&mut piece);
            self.tell_engine(Wake::Frame(network, piece));
        }
    }

    /// How many records one train may have, over either address family.
    fn records_max(&self) -> usize {
        let families = [os::Family::V4, os::Family::V6].into_iter();
        let there = families.filter(|family| self.sockets.missing(*family).is_none());
        there.map(|family| self.sockets.max_segments(family)).min().unwrap_or(1)
    }
}

fn shape(header: &VnetHeader) -> Shape {
    Shape {
        kind: match header.cut {
            Cut::Whole => Kind::Whole,
            Cut::TcpV4 { .. } | Cut::TcpV6 { .. } => Kind::Tcp,
            Cut::Udp => Kind::Udp,
        },
        segment: header.segment_size,
        partial: header.checksum.map(|partial| Partial {
            start: partial.start,
            offset: partial.offset,
        }),
    }
}

fn header(joined: &Joined) -> VnetHeader {
    let shape = joined.shape();
    let is_v6 = shape.partial.is_some_and(|partial| partial.start == 40);
    VnetHeader {
        checksum: shape.partial.map(|partial| PartialChecksum {
            start: partial.start,
            offset: partial.offset,
        }),
        cut: match shape.kind {
            Kind::Whole => Cut::Whole,
            Kind::Tcp if is_v6 => Cut::TcpV6 { ecn: false },
            Kind::Tcp => Cut::TcpV4 { ecn: false },
            Kind::Udp => Cut::Udp,
        },
        header_length: joined.header_bytes,
        segment_size: shape.segment,
        checksum_known_good: false,
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
    let mut merger = Merger::default();
    loop {
        match shared.sockets.recv_batch(&mut batch, None) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return,
            Err(error) => {
                tracing::error!(%error, "the UDP sockets fail");
                return;
            }
        }
        let mut arriving = Arriving {
            shared,
            snapshot: view.look(),
            nics: nics.look(),
            merger: &mut merger,
        };
        for number in 0.. {
            let Some(part) = batch.part(number) else { break };
            for start in part.bytes.clone().step_by(part.stride) {
                let end = part.bytes.end.min(start + part.stride);
                arriving.take(part.local, part.remote, batch.memory(), start..end);
            }
        }
        arriving.give_nics(batch.memory());
    }
}

/// One batch of datagrams on its way to the NICs.
struct Arriving<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    nics: &'a [(NetworkId, Nic)],
    merger: &'a mut Merger,
}

impl Arriving<'_> {
    fn take(&mut self, local: SocketAddr, remote: SocketAddr, memory: &mut [u8], datagram: Range<usize>) {
        let start = datagram.start;
        let tell = match fast::inbound(self.snapshot, remote, &mut memory[datagram.clone()]) {
            Inbound::Frame { network, range, tell } => {
                self.hold(memory, network, start + range.start..start + range.end);
                tell
            }
            Inbound::ToEngine => {
                let bytes = memory[datagram].to_vec();
                self.shared.tell_engine(Wake::Udp { local, remote, bytes });
                None
            }
            Inbound::Dropped(_, tell) => tell,
        };
        if let Some(tell) = tell {
            self.shared.tell_engine(Wake::Opened(tell));
        }
    }

    fn hold(&mut self, memory: &mut [u8], network: NetworkId, frame: Range<usize>) {
        let Some(at) = self.nics.iter().position(|(id, _)| *id == network) else {
            return;
        };
        let offload = self.nics[at].1.offload();
        let takes = Takes {
            tcp: offload.tcp,
            udp: offload.udp,
        };
        self.merger.push(memory, frame, at as u32, takes);
        if self.merger.bytes() >= MERGE_AT {
            self.give_nics(memory);
        }
    }

    fn give_nics(&mut self, memory: &mut [u8]) {
        self.merger.flush(memory, |joined, pieces| {
            if let Some((_, nic)) = self.nics.get(joined.nic as usize) {
                // A NIC that is down or full drops, as a wire does.
                let _ = nic.send_pieces(&header(joined), pieces);
            }
        });
    }
}

const _: () = assert!(FRAMES <= os::PIECES && TRAINS_BYTES > 2 * SEND_AT);
