//! One worker: waits for its queues and sockets, and gives each a turn.

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::NetworkId;
use os::{Family, Found, Nic, Poller, Thread};
use tincan::fast::{Lanes, Snapshot};

use super::arriving::Arriving;
use super::departing::Departing;
use super::order::Order;
use super::pace::{Pace, Turn};
use super::patience::Patience;
use super::{NicQueues, QUEUES, Shared, View, Wake};

/// Starts a worker. It ends with the process.
pub(crate) fn start(shared: &Shared, number: usize) -> anyhow::Result<Thread> {
    let worker = Worker::new(shared, number)?;
    let (says, hears) = sync_channel(1);
    std::thread::Builder::new()
        .name("fast".into())
        .stack_size(128 << 10)
        .spawn(move || {
            let _ = says.send(Thread::current());
            worker.run();
        })
        .context("cannot start a thread")?;
    hears.recv().context("a thread did not start")
}

/// What a worker waits for.
enum Source {
    /// Other NICs.
    Waker,
    /// One of the sockets.
    Socket(Family, usize),
    /// A queue of a network's NIC, and which of the worker's it is.
    Queue(NetworkId, Nic, usize),
}

struct Worker {
    shared: Shared,
    number: usize,
    snapshot: View<Snapshot>,
    nics: View<Vec<NicQueues>>,
    poller: Poller,
    /// By their numbers in the poller: the waker, sockets, then queues of NICs.
    sources: Vec<Source>,
    /// One for each queue.
    lanes: Vec<Lanes>,
    departing: Departing,
    arriving: Arriving,
    patience: Patience,
    pace: Pace,
    order: Order,
}

impl Worker {
    fn new(shared: &Shared, number: usize) -> anyhow::Result<Self> {
        let mut worker = Self {
            number,
            snapshot: View::new(shared.snapshot.clone()),
            nics: View::new(shared.nics.clone()),
            poller: Poller::new().context("cannot wait for sockets")?,
            sources: Vec::new(),
            lanes: lanes(number).context("too many workers")?,
            departing: Departing::new(shared),
            arriving: Arriving::new(number),
            patience: Patience::new(),
            pace: Pace::new(Instant::now()),
            order: Order::new(shared.full_sources.clone()),
            shared: shared.clone(),
        };
        worker.watch(Source::Waker).context("cannot wait for a waker")?;
        for (family, shard) in sockets(number) {
            worker
                .watch(Source::Socket(family, shard))
                .context("cannot wait for a socket")?;
        }
        Ok(worker)
    }

    fn run(mut self) {
        // What programs send and wait for is late if the programs that compete for cores with us come first.
        os::put_first();
        let mut found = Found::default();
        let mut timeout = None;
        loop {
            if let Err(error) = self.poller.wait(&mut found, timeout) {
                tracing::error!(%error, "a worker cannot wait for frames any more");
                self.order.rest();
                return;
            }
            if found.is_empty() {
                if !self.shared.load.is_little() && self.patience.looks_again(Instant::now()) {
                    std::thread::yield_now();
                } else {
                    timeout = None;
                }
                self.order.rest();
                continue;
            }
            self.patience.on_found();
            timeout = Some(Duration::ZERO);
            self.serve(&found);
            self.departing.send(&self.shared);
            if self.order.is_stint_over(Instant::now) {
                std::thread::yield_now();
            }
        }
    }

    /// Gives turns to those that have something.
    fn serve(&mut self, found: &Found) {
        let full = self.order.next_full(found.numbers());
        for number in found.numbers() {
            if self.order.is_sparse(number) {
                self.give_turn(number);
            }
        }
        if let Some(number) = full {
            self.give_turn(number);
        }
    }

    fn give_turn(&mut self, number: u64) {
        let turn = self.turn(number as usize);
        self.order.on_turn(number, turn);
        if self.pace.is_rush(turn, Instant::now) {
            self.shared.on_rush();
        }
    }

    fn turn(&mut self, number: usize) -> Turn {
        let outcome = match self.sources.get(number) {
            Some(Source::Queue(network, nic, queue)) => {
                let outcome = self.departing.take_turn(
                    &self.shared,
                    self.snapshot.look(),
                    &mut self.lanes[*queue],
                    (*network, nic),
                );
                outcome.or_else(|error| self.lose_queue(number, &error).map(|()| Turn::Some))
            }
            Some(Source::Socket(family, shard)) => {
                let socket = (*family, *shard);
                let tables = (self.snapshot.look(), self.nics.look().as_slice());
                let onward = (&mut self.departing, &mut self.lanes[queue_of(*shard)]);
                self.arriving.take_turn(&self.shared, tables, socket, onward)
            }
            Some(Source::Waker) => {
                self.watch_nics();
                Ok(Turn::Some)
            }
            None => Ok(Turn::Some),
        };
        outcome.unwrap_or_else(|error| {
            tracing::error!(%error, "datagrams cannot be received any more: start IPOP again");
            self.leave_socket(number);
            Turn::Some
        })
    }

    fn leave_socket(&self, number: usize) {
        if let Some(Source::Socket(family, shard)) = self.sources.get(number)
            && let Some(descriptor) = self.shared.sockets.descriptor(*family, *shard)
        {
            let _ = self.poller.remove(descriptor);
        }
    }

    fn watch(&mut self, source: Source) -> std::io::Result<()> {
        let number = self.sources.len() as u64;
        match &source {
            Source::Waker => self.poller.add(&self.shared.wakers[self.number], number)?,
            Source::Queue(_, nic, _) => self.poller.add(nic, number)?,
            Source::Socket(family, shard) => match self.shared.sockets.descriptor(*family, *shard) {
                Some(descriptor) => self.poller.add(descriptor, number)?,
                None => return Ok(()),
            },
        }
        self.sources.push(source);
        Ok(())
    }

    /// Waits for the NICs that there are now.
    fn watch_nics(&mut self) {
        self.shared.wakers[self.number].clear();
        self.order.forget();
        let is_queue = |source: &Source| matches!(source, Source::Queue(..));
        let first = self.sources.iter().position(is_queue).unwrap_or(self.sources.len());
        for source in self.sources.drain(first..) {
            if let Source::Queue(_, nic, _) = source {
                // One that failed is not waited for any more.
                let _ = self.poller.remove(&nic);
            }
        }
        let all = self.nics.look().clone();
        for NicQueues { network, queues } in &all {
            let own = queues.chunks_exact(QUEUES).nth(self.number).unwrap_or_default();
            for (at, queue) in own.iter().enumerate() {
                if let Err(error) = self.watch(Source::Queue(*network, queue.clone(), at)) {
                    self.shared.tell_engine(Wake::NicLost(*network, error.to_string()));
                }
            }
        }
    }

    fn lose_queue(&mut self, number: usize, error: &std::io::Error) -> std::io::Result<()> {
        let Some(Source::Queue(network, nic, _)) = self.sources.get(number) else {
            return Ok(());
        };
        // One that was taken away fails too, a moment before we hear of it.
        self.poller.remove(nic)?;
        if self.nics.look().iter().any(|nic| nic.network == *network) {
            self.shared.tell_engine(Wake::NicLost(*network, error.to_string()));
        }
        Ok(())
    }
}

/// The lanes of a worker's queues: they follow those of the worker before, and 0 is the engine's.
fn lanes(worker: usize) -> Option<Vec<Lanes>> {
    let first = 1 + worker * QUEUES;
    (first..first + QUEUES)
        .map(|lane| Lanes::new(u8::try_from(lane).ok()?))
        .collect()
}

/// Which of its worker's queues a socket goes with, and so whose lane seals what came there and is passed on. To the one for
/// all that is no record nothing comes that could be.
fn queue_of(shard: usize) -> usize {
    shard.saturating_sub(1) % QUEUES
}

/// The sockets of a worker: the first has the one for all that is no record.
fn sockets(worker: usize) -> impl Iterator<Item = (Family, usize)> {
    let first = 1 + worker * QUEUES;
    let shards = (worker == 0).then_some(0).into_iter().chain(first..first + QUEUES);
    shards.flat_map(|shard| [Family::V4, Family::V6].map(|family| (family, shard)))
}
