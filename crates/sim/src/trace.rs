//! What happened, as times, kinds, places and sizes: what two runs of one seed must have in common.
//!
//! Promises: every entry goes into the hash, the last ones stay readable.
//! Refuses to know: bytes. Key material is not seeded, so no ciphertext may enter.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the world began.
    pub at: Duration,
    /// Which node; none: the world.
    pub who: Option<usize>,
    /// What.
    pub what: &'static str,
    /// Bytes, or another number that belongs to it.
    pub size: u64,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.who.map_or("-".to_owned(), |who| who.to_string());
        let ms = self.at.as_micros() as f64 / 1000.0;
        write!(f, "{ms:>12.3} ms  {who:>2}  {:<20} {}", self.what, self.size)
    }
}

/// The record of a world.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    count: u64,
    echo: bool,
    tail: VecDeque<Entry>,
}

/// Entries kept for reading.
const TAIL: usize = 300;

impl Default for Trace {
    fn default() -> Self {
        Trace {
            // FNV-1a, 64 bit: offset basis.
            hash: 0xcbf2_9ce4_8422_2325,
            count: 0,
            echo: false,
            tail: VecDeque::new(),
        }
    }
}

impl Trace {
    /// Prints each entry as it comes.
    pub fn echo(&mut self) {
        self.echo = true;
    }

    /// Adds an entry.
    pub fn add(&mut self, entry: Entry) {
        let who = entry.who.map_or(u64::MAX, |who| who as u64);
        let numbers = [entry.at.as_nanos() as u64, who, entry.size];
        let bytes = numbers.into_iter().flat_map(u64::to_be_bytes);
        for byte in bytes.chain(entry.what.bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.echo {
            println!("{entry}");
        }
        if self.tail.len() >= TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(entry);
    }

    /// Stands for everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many entries there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last entries, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Entry> {
        self.tail.iter()
    }
}
