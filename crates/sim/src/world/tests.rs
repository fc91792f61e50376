use super::build::seeds;
use super::*;

#[test]
fn replay() {
    let Some(seed) = std::env::var("IPOP_SEED").ok() else {
        return;
    };
    let seed = Seed(seed.parse().expect("IPOP_SEED is a number"));
    let mut world = World::random(seed).keep_trace().start();
    world.settle();
    for entry in world.trace().tail() {
        println!("{entry}");
    }
}

#[test]
fn engines_choose_the_path_that_the_oracle_names() {
    let count = std::env::var("IPOP_SEEDS").map_or(300, |n| n.parse().expect("IPOP_SEEDS is a number"));
    for seed in seeds(0, count) {
        World::random(seed).start().settle();
    }
}
