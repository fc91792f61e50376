//! Engines that are killed and start with nothing but their key.

use super::*;

/// What the issue promises, from the start of the new process.
const LINKED_AGAIN: Duration = s(3);

#[test]
fn both_ends_are_linked_again_three_seconds_after_a_restart() {
    for seed in seeds(80) {
        let mut world = linked_pair(seed);
        let mut rng = seed.generator(22);
        let name = if rng.random_bool(0.5) { "ann" } else { "bob" };
        world.kill(name);
        world.run(ms(rng.random_range(100..20_000)));
        world.restart(name);
        let again = |world: &World| {
            let ways = [world.path("ann", "bob"), world.path("bob", "ann")];
            ways.iter().all(|path| *path != Verdict::Impossible)
        };
        let restarted = world.elapsed();
        let talked = world.run_until(LINKED_AGAIN, again);
        if !talked {
            world.fail("not linked again");
        }
        let left = LINKED_AGAIN - (world.elapsed() - restarted);
        world.expect_flow(left);
        world.settle();
    }
}

#[test]
fn all_may_restart_at_once() {
    for seed in seeds(30) {
        let mut rng = seed.generator(22);
        let mut world = super::world(seed);
        for name in ["ann", "bob", "carol"] {
            world = world.node(name).behind(any_kind(&mut rng)).wire(clean(&mut rng));
        }
        let mut world = world.start();
        world.settle();
        for name in ["ann", "bob", "carol"] {
            world.kill(name);
        }
        world.run(ms(rng.random_range(0..2000)));
        for name in ["ann", "bob", "carol"] {
            world.restart(name);
            world.run(ms(rng.random_range(0..200)));
        }
        world.settle();
        world.expect_flow(s(2));
    }
}
