//! Worlds of nodes on a simulated internet: virtual clock, wires, NATs (RFC 4787), servers, an oracle; replay by seed.
//!
//! Promises: the nodes run exactly the code that ships; the same seed gives the same trace of events, sizes and times;
//! a failure names its seed. Refuses to know: real sockets, real time, what is inside a sealed record.
//!
//! # Replaying a seed
//!
//! A failing world prints its seed and the end of its trace. To see it again, alone and with the whole trace:
//!
//! ```text
//! cargo run -p sim --example worlds -- --seed 4711
//! ```
//!
//! Many seeds at once, with a summary: `cargo run --release -p sim --example worlds -- 10000`.
#![forbid(unsafe_code)]

pub mod clock;
pub mod frames;
pub mod kind;
pub mod member;
pub mod nat;
pub mod net;
pub mod oracle;
pub mod rendezvous;
pub mod server;
pub mod trace;
pub mod trial;
pub mod wire;
pub mod world;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// What a whole world follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator for one purpose; purposes do not disturb each other's draws.
    pub fn generator(self, purpose: u64) -> ChaCha12Rng {
        let mut generator = ChaCha12Rng::seed_from_u64(self.0);
        generator.set_stream(purpose);
        generator
    }
}
