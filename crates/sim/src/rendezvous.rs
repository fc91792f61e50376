//! A rendezvous that carries sealed signals: late, or not at all, or as an enemy would.
//!
//! Promises: an honest one keeps the order between two nodes.
//! Refuses to know: what is in a blob; that is the point.

use std::time::{Duration, Instant};

use api::NodeId;
use rand::Rng;
use rand_chacha::ChaCha12Rng;

use crate::Seed;
use crate::clock::Queue;

/// How it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// As it should.
    Honest,
    /// Drops, repeats, delays, swaps and changes blobs, a third of them.
    Evil,
    /// Not at all.
    Down,
}

/// A blob that reached a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// For whom.
    pub to: NodeId,
    /// As it arrived.
    pub blob: Vec<u8>,
}

/// Carries blobs.
pub struct Rendezvous {
    delay: Duration,
    service: Service,
    queue: Queue<Delivery>,
    rng: ChaCha12Rng,
    /// Blobs seen, for an enemy to use again.
    seen: Vec<Delivery>,
    carried: u64,
}

/// Blobs that an enemy remembers.
const MEMORY: usize = 64;

impl Rendezvous {
    /// An honest one with a delay.
    pub fn new(seed: Seed, delay: Duration) -> Self {
        Rendezvous {
            delay,
            service: Service::Honest,
            queue: Queue::default(),
            rng: seed.generator(2),
            seen: Vec::new(),
            carried: 0,
        }
    }

    /// Changes how it serves.
    pub fn set_service(&mut self, service: Service) {
        self.service = service;
    }

    /// Changes its delay.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Brings everything that it remembers once more, in any order, some of it to others too.
    pub fn replay_all(&mut self, now: Instant) {
        for old in self.seen.clone() {
            let other = self.seen[self.rng.random_range(0..self.seen.len())].to;
            for to in [old.to, old.to, other] {
                let late = Duration::from_millis(self.rng.random_range(0..20_000));
                let blob = old.blob.clone();
                self.queue.push(now + late, Delivery { to, blob });
            }
        }
    }

    /// How many blobs it was given.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Takes a blob.
    pub fn carry(&mut self, now: Instant, delivery: Delivery) {
        self.carried += 1;
        self.remember(&delivery);
        match self.service {
            Service::Honest => self.queue.push(now + self.delay, delivery),
            Service::Evil => self.abuse(now, delivery),
            Service::Down => {}
        }
    }

    /// When the next blob arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.next()
    }

    /// The next blob that arrived.
    pub fn poll(&mut self, now: Instant) -> Option<Delivery> {
        let delivery = self.queue.pop(now);
        delivery.filter(|_| self.service != Service::Down)
    }

    fn remember(&mut self, delivery: &Delivery) {
        if self.seen.len() == MEMORY {
            let forget = self.rng.random_range(0..MEMORY);
            self.seen.swap_remove(forget);
        }
        self.seen.push(delivery.clone());
    }

    fn abuse(&mut self, now: Instant, delivery: Delivery) {
        let late = self.delay + Duration::from_millis(self.rng.random_range(0..500));
        let old = self.seen[self.rng.random_range(0..self.seen.len())].clone();
        match self.rng.random_range(0..18) {
            0 => {}
            1 => {
                // Replays an old one beside it, and once more later.
                self.queue.push(now + self.delay, old.clone());
                self.queue.push(now + late * 4, old);
                self.queue.push(now + self.delay, delivery);
            }
            2 => self.queue.push(now + late, delivery),
            3 => {
                // Gives it to somebody else too.
                let to = old.to;
                self.queue.push(now + self.delay, Delivery { to, ..delivery.clone() });
                self.queue.push(now + self.delay, delivery);
            }
            4 => {
                let damaged = self.damaged(delivery);
                self.queue.push(now + self.delay, damaged);
            }
            5 => {
                // Swaps: the right receiver gets another's blob, or one of its own past.
                let blob = old.blob;
                self.queue.push(now + self.delay, Delivery { blob, ..delivery });
            }
            _ => self.queue.push(now + self.delay, delivery),
        }
    }

    fn damaged(&mut self, mut delivery: Delivery) -> Delivery {
        if delivery.blob.is_empty() {
            return delivery;
        }
        let at = self.rng.random_range(0..delivery.blob.len());
        match self.rng.random_range(0..3) {
            0 => delivery.blob[at] ^= 1 << self.rng.random_range(0..8),
            1 => delivery.blob.truncate(at),
            _ => delivery.blob.extend_from_slice(b"and more"),
        }
        delivery
    }
}
