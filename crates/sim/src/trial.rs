//! What one seed must go through: a random world from its first signal to its last frame.
//!
//! Promises: the run panics, with the seed and the end of the trace, when a path is not the oracle's, a frame is lost
//! where nothing loses, a queue passes its bound, or a link leaves something behind. What [`World`] holds at every
//! step (nothing unsealed, nothing twice, nothing from a stranger) holds here too.
//! Refuses to know: faults that a test makes on purpose; the scenarios do.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use crate::Seed;
use crate::world::World;

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Stands for the whole trace.
    pub hash: u64,
    /// Entries of the trace.
    pub entries: u64,
    /// How long it took in the world.
    pub time: Duration,
    /// When every pair first was as the oracle says.
    pub settled: Duration,
    /// Pairs that the oracle sees direct, relayed, through others, apart.
    pub pairs: [usize; 4],
    /// Frames sent, and of these lost.
    pub frames: (usize, usize),
    /// The highest level of each gauge, and its limit then.
    pub peaks: BTreeMap<&'static str, (usize, usize)>,
}

/// How long engines may take to find every path: ICE's retransmits under 10 % of loss, a first attempt that timed out.
const SETTLE: Duration = Duration::from_secs(45);
/// How long a frame and its retransmits may be on their way over TCP.
const FLIGHT: Duration = Duration::from_secs(2);

/// Puts a seed through it.
pub fn run(seed: Seed) -> Outcome {
    put(World::random(seed), seed)
}

/// The same, with the whole trace printed.
pub fn show(seed: Seed) -> Outcome {
    put(World::random(seed).echo(), seed)
}

fn put(world: World, seed: Seed) -> Outcome {
    let mut rng = seed.generator(5);
    let mut world = world.start();
    // In some worlds there are frames before there are links: those make the links, and wait for them.
    let early = if rng.random_bool(0.3) {
        world.knock()
    } else {
        Vec::new()
    };
    world.settle_within(SETTLE);
    let settled = world.elapsed();
    world.be_strict();
    world.expect_flow(Duration::from_secs(10));
    let time = Duration::from_millis(rng.random_range(3000..20_000));
    let mut sent = world.talk(time, Duration::from_millis(300));
    world.run(FLIGHT);
    world.settle_within(SETTLE);
    sent.extend(early);
    if world.is_lossless() {
        world.expect_arrived(&sent);
    }
    let frames = (sent.len(), world.lost(&sent));
    world.close_all();
    world.run(Duration::from_secs(5));
    world.expect_nothing_left();
    Outcome {
        hash: world.trace().hash(),
        entries: world.trace().count(),
        time: world.elapsed(),
        settled,
        pairs: world.verdicts(),
        frames,
        peaks: world.peaks().clone(),
    }
}
