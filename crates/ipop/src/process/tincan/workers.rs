//! The fast path's threads, and what they share. Each has a queue of every NIC and a socket of each family, and runs what it reads
//! to its end, both ways: an answer that the host gives at once finds its thread awake.
//!
//! Promises: no lock, allocation or channel on the way of a frame; what the fast path cannot settle goes to the engine over a bounded
//! channel, and is dropped and counted when that is full.
//! Refuses to know: everything that `tincan::fast` knows.

mod arriving;
mod departing;
mod order;
mod pace;
mod patience;
mod vnet;
mod worker;

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};

use api::NetworkId;
use os::{Choice, Nic, Steering, Train, UdpSockets, Waker};
use tincan::fast::slice::{Shape, Slices};
use tincan::fast::trains::Trains;
use tincan::fast::{FastPath, Snapshot};

use super::Wake;
use super::abilities::Without;
use super::placement::Load;
use order::FullSources;

pub(crate) use worker::start;

/// Queues that a worker has of each NIC, each with a lane and a socket of its own, so that what waits anywhere on the way waits
/// beside the other flows and not behind them. The first is for what is neither TCP nor UDP, the others share the flows.
pub(crate) const QUEUES: usize = 8;

/// Worker threads of a process at most: each has buffers of 0.8 MB, and what four carry fills most networks.
const WORKERS_MAX: usize = 4;

/// How many workers there should be: one for each core.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(WORKERS_MAX)
}

/// Which socket datagrams wait at while there is much traffic: the record's lane says (a lane for each queue of each worker, from
/// 1 on), all else waits at the first, which is for nothing else.
pub(crate) fn steering(workers: usize) -> Steering {
    Steering {
        mask: 0xc0,
        value: 0x80,
        shards: 1 + workers * QUEUES,
        choice: Choice::Number(0x3f),
    }
}

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

/// A network's NIC as workers see it.
#[derive(Clone)]
pub(crate) struct NicQueues {
    pub(crate) network: NetworkId,
    /// `QUEUES` for each worker.
    pub(crate) queues: Vec<Nic>,
}

impl NicQueues {
    /// Where a worker writes the frames of a flow. The kernel hands over the frames that answer them on the same queue
    /// (its flow table learns from what is written), so flows that wait on different queues do not wait for each other.
    fn of_flow(&self, worker: usize, flow: u32) -> Option<&Nic> {
        let (first, others) = self.queues.chunks_exact(QUEUES).nth(worker)?.split_first()?;
        if flow == 0 || others.is_empty() {
            return Some(first);
        }
        let spread = u64::from(flow.wrapping_mul(0x9e37_79b1));
        others.get(((spread * others.len() as u64) >> 32) as usize)
    }
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) snapshot: Arc<Published<Snapshot>>,
    pub(crate) nics: Arc<Published<Vec<NicQueues>>>,
    pub(crate) sockets: Arc<UdpSockets>,
    pub(crate) without: Without,
    /// Tell the workers, each its own, that there are other NICs.
    pub(crate) wakers: Arc<[Waker]>,
    pub(crate) wakes: SyncSender<Wake>,
    /// Frames and datagrams for the engine that found its channel full.
    pub(crate) overflow: Arc<AtomicU64>,
    pub(crate) load: Arc<Load>,
    pub(crate) full_sources: Arc<FullSources>,
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

    fn on_rush(&self) {
        if self.load.on_rush() && self.wakes.try_send(Wake::Rush).is_err() {
            self.load.set_little();
        }
    }

    fn send(&self, trains: &mut Trains) {
        let all = trains.iter().filter_map(|(path, bytes, segment)| {
            let (source, remote) = match path {
                FastPath::Direct { source, remote } => (source, remote),
                FastPath::Channel { server, .. } => (None, server),
                FastPath::Member(_) | FastPath::Engine => return None,
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
