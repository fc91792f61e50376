//! A wire with length: what one end sends the other gets later. In user space, as not every kernel has netem.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use os::{Nic, NicConfig, NicKind, Waker, wait_readable};

use crate::Failure;
use crate::namespace::Namespace;

const MTU: u16 = 1500;
/// An MTU and an Ethernet header with a VLAN tag.
const FRAME_MAX: usize = 1518;
/// More than 20 ms of 1 Gbit/s; what comes on top is lost, as in any router.
const QUEUE_MAX: usize = 4096;

/// How long a wire is.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// Each way.
    pub one_way: Duration,
    /// Up to this much more, evenly spread: frames overtake each other.
    pub jitter: Duration,
}

/// A wire between two namespaces. Dropping cuts it.
pub(crate) struct Wire {
    lanes: Vec<Arc<Lane>>,
    waker: Waker,
    threads: Vec<JoinHandle<()>>,
}

/// One direction.
#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By due time, then by order of arrival.
    frames: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
    cut: bool,
}

impl Wire {
    /// Makes an interface of the given name at both ends. They are down and have no addresses.
    pub(crate) fn start(a: (&Namespace, &str), b: (&Namespace, &str), delay: Delay) -> Result<Self, Failure> {
        let ends = [interface(a)?, interface(b)?];
        let mut wire = Self {
            lanes: Vec::new(),
            waker: Waker::new().map_err(|e| Failure::system("make a waker", e))?,
            threads: Vec::new(),
        };
        for (from, to) in [(0, 1), (1, 0)] {
            let lane = Arc::new(Lane::default());
            let (source, sink) = (ends[from].clone(), ends[to].clone());
            let waker = wire.waker.clone();
            wire.lanes.push(Arc::clone(&lane));
            let filling = Arc::clone(&lane);
            wire.threads
                .push(std::thread::spawn(move || filling.fill(&source, &waker, delay)));
            wire.threads.push(std::thread::spawn(move || lane.empty(&sink)));
        }
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.lock().cut = true;
            lane.changed.notify_all();
        }
        self.waker.wake();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn interface((namespace, name): (&Namespace, &str)) -> Result<Nic, Failure> {
    let config = NicConfig {
        name: Some(name.to_owned()),
        mtu: MTU,
        ..NicConfig::new(NicKind::Tap)
    };
    let made = namespace.inside(|| Nic::create(&config))?;
    made.map_err(|e| Failure::system(format!("make the wire's end {name}"), e))
}

impl Lane {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, source: &Nic, waker: &Waker, delay: Delay) {
        // Its own small generator: which frame overtakes which is no matter of secrets, and each lane repeats itself.
        let mut chance: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut buffer = [0; FRAME_MAX];
        loop {
            let length = match source.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => {
                    let _ = wait_readable(&[source.as_fd(), waker.as_fd()], None);
                    if waker.is_set() {
                        return;
                    }
                    continue;
                }
                // The interface is gone: while it is only down there is nothing to read.
                Err(_) => return,
            };
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            let due = Instant::now() + delay.one_way + delay.jitter.mul_f64((chance % 1024) as f64 / 1024.0);
            let mut queue = self.lock();
            if queue.frames.len() < QUEUE_MAX {
                queue.count += 1;
                let order = queue.count;
                queue.frames.push(Reverse((due, order, buffer[..length].to_vec())));
                self.changed.notify_one();
            }
        }
    }

    fn empty(&self, sink: &Nic) {
        let mut queue = self.lock();
        loop {
            if queue.cut {
                return;
            }
            let now = Instant::now();
            let due = queue.frames.peek().map(|Reverse((due, _, _))| *due);
            queue = match due {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => {
                    self.changed
                        .wait_timeout(queue, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                Some(_) => {
                    let frame = queue.frames.pop();
                    drop(queue);
                    if let Some(Reverse((_, _, frame))) = frame {
                        // An end that is down takes nothing: lost, as on any unplugged wire.
                        let _ = sink.send(&frame);
                    }
                    self.lock()
                }
            };
        }
    }
}
