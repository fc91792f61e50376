//! What happens to nodes on purpose, over many seeds: moves, forgetful NATs, restarts, new keys, dead relays, liars.

mod moving;
mod mtu;
mod rekey;
mod relay;
mod rendezvous;
mod restart;
mod transit;

use std::time::Duration;

use rand::Rng;
use sim::Seed;
use sim::kind::Kind;
use sim::oracle::Verdict;
use sim::wire::Wire;
use sim::world::World;

/// So many seeds, or the one that `IPOP_SEED` in the environment names.
fn seeds(count: u64) -> impl Iterator<Item = Seed> {
    let one = std::env::var("IPOP_SEED").ok();
    let one = one.map(|text| text.parse().expect("IPOP_SEED is a number"));
    one.map_or(0..count, |seed: u64| seed..seed + 1).map(Seed)
}

/// An empty world; its trace is printed when one seed was asked for.
fn world(seed: Seed) -> World {
    let world = World::new(seed);
    if std::env::var_os("IPOP_SEED").is_some() {
        world.echo()
    } else {
        world
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A way to the internet that loses nothing, 1 to 60 ms.
fn clean(rng: &mut impl Rng) -> Wire {
    let micros = rng.random_range(1_000..60_000);
    Wire {
        jitter: Duration::from_micros(micros / 10),
        ..Wire::delay(micros / 1000)
    }
}

fn any_kind(rng: &mut impl Rng) -> Kind {
    Kind::ALL[rng.random_range(0..Kind::ALL.len())]
}

/// Two nodes in any of the usual places, linked, on clean wires.
fn linked_pair(seed: Seed) -> World {
    let mut rng = seed.generator(20);
    let mut world = world(seed);
    for name in ["ann", "bob"] {
        world = world.node(name).behind(any_kind(&mut rng)).wire(clean(&mut rng));
    }
    let mut world = world.start();
    world.settle();
    world.expect_flow(s(2));
    world
}

/// Two nodes of which one reaches the other in the wished way.
fn pair_by(seed: Seed, path: Verdict) -> World {
    let [ann, bob] = match path {
        Verdict::Direct => [Kind::PortRestricted, Kind::AddressRestricted],
        Verdict::Relay | Verdict::Member | Verdict::Impossible => [Kind::PortRestricted, Kind::Symmetric],
    };
    let mut rng = seed.generator(21);
    let world = world(seed).node("ann").behind(ann).wire(clean(&mut rng));
    world.node("bob").behind(bob).wire(clean(&mut rng))
}

/// Ann and bob, each behind such a wire, settled.
fn pair_over(seed: Seed, wire: Wire) -> World {
    let world = world(seed).node("ann").wire(wire).node("bob").wire(wire);
    let mut world = world.start();
    world.settle();
    world
}

/// Panics if a link of the node went down so far.
fn expect_no_link_down(world: &World, names: &[&str]) {
    for name in names {
        let (_, downs, _) = world.changes(name);
        if downs > 0 {
            world.fail(&format!("{downs} links of {name} went down"));
        }
    }
}
