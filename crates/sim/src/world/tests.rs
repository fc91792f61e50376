use super::*;
use super::build::seeds;

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
fn grand() {
    let count = std::env::var("IPOP_SEEDS").ok().map_or(300, |n| n.parse().unwrap());
    let mut bad = vec![];
    for seed in seeds(0, count) {
        let r = std::panic::catch_unwind(|| { World::random(seed).start().settle(); });
        if r.is_err() { bad.push(seed.0); }
    }
    panic!("{} {bad:?}", bad.len());
}
