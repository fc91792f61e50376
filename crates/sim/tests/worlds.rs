//! Random worlds, each held against the oracle, the bounds and its own second run.

use sim::Seed;
use sim::trial;

/// `IPOP_SEEDS` in the environment asks for more.
fn seeds(usual: u64) -> impl Iterator<Item = Seed> {
    let count = std::env::var("IPOP_SEEDS").map_or(usual, |text| text.parse().expect("IPOP_SEEDS is a number"));
    (0..count).map(Seed)
}

#[test]
fn engines_find_the_paths_that_the_oracle_names_and_nothing_leaves_unsealed() {
    let mut pairs = [0; 4];
    for seed in seeds(300) {
        let outcome = trial::run(seed);
        (0..4).for_each(|at| pairs[at] += outcome.pairs[at]);
    }
    assert!(pairs.iter().all(|count| *count > 0), "worlds of every kind: {pairs:?}");
}

#[test]
fn a_seed_replays_the_same_events_sizes_and_times() {
    for seed in seeds(40) {
        assert_eq!(trial::run(seed), trial::run(seed), "{seed:?}");
    }
}
