//! Mutations from a seed: bit flips, truncations, splices and the like, the same ones each time.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Numbers on which lengths and counts stumble.
const EDGES: [u8; 10] = [0, 1, 2, 0x1f, 0x20, 0x3f, 0x7f, 0x80, 0xfe, 0xff];
/// Longer inputs find nothing that shorter ones do not.
const BYTES_MAX: usize = 4096;

/// Draws mutations of a corpus.
pub struct Mutator {
    chance: ChaCha12Rng,
}

impl Mutator {
    /// The same seed gives the same mutations.
    pub fn new(seed: u64) -> Self {
        Self {
            chance: ChaCha12Rng::seed_from_u64(seed),
        }
    }

    /// One to four changes to one of `corpus`, which must not be empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).clone();
        for _ in 0..self.chance.random_range(1..=4) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.chance.random_range(0..=bytes.len());
        let inside = at.min(bytes.len().saturating_sub(1));
        match self.chance.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.chance.random()),
            2 => bytes.extend_from_within(at..),
            3 => self.splice(bytes, at, corpus),
            4 => drop(bytes.drain(at..bytes.len().min(at + 1 + usize::from(self.chance.random::<u8>() % 8)))),
            _ if bytes.is_empty() => {}
            5 => bytes[inside] ^= 1 << self.chance.random_range(0..8),
            6 => bytes[inside] = self.chance.random(),
            _ => bytes[inside] = EDGES[self.chance.random_range(0..EDGES.len())],
        }
    }

    /// The head of one and the tail of another.
    fn splice(&mut self, bytes: &mut Vec<u8>, at: usize, corpus: &[Vec<u8>]) {
        let other = self.pick(corpus);
        let from = self.chance.random_range(0..=other.len());
        bytes.truncate(at);
        bytes.extend_from_slice(&other[from..]);
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &corpus[self.chance.random_range(0..corpus.len())]
    }
}
