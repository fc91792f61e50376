//! A rendezvous that drops, delays, repeats, changes, misdirects and swaps what it carries.

use super::*;
use sim::rendezvous::Service;

/// What it may do is in the way. That no frame leaves unsealed, comes twice, or comes out at or from the wrong node
/// holds at every step of every world.
#[test]
fn an_evil_rendezvous_can_only_be_in_the_way() {
    for seed in seeds(60) {
        let mut rng = seed.generator(22);
        let mut world = super::world(seed);
        for name in ["ann", "bob", "carol"] {
            world = world.node(name).behind(any_kind(&mut rng)).wire(clean(&mut rng));
        }
        let mut world = world.start();
        world.set_service(Service::Evil);
        world.talk(s(40), ms(100));
        world.set_service(Service::Honest);
        // Direct or not is not compared here: who was never told that an address is a relay's takes it for the peer's.
        if !world.run_until(s(60), World::is_linked) {
            world.fail("not linked a minute after the rendezvous became honest");
        }
        world.expect_flow(s(2));
    }
}

#[test]
fn links_that_are_up_do_not_mind_it() {
    for seed in seeds(40) {
        let mut world = linked_pair(seed);
        world.set_service(Service::Evil);
        let sent = world.talk(s(60), ms(100));
        world.run(s(1));
        world.expect_arrived(&sent);
        world.set_service(Service::Down);
        let sent = world.talk(s(60), ms(100));
        world.run(s(1));
        world.expect_arrived(&sent);
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

/// Old offers and answers, of lives of nodes that are over, come again and again.
#[test]
fn replayed_signals_of_former_lives_change_nothing() {
    for seed in seeds(40) {
        let mut world = linked_pair(seed);
        for _ in 0..2 {
            world.kill("bob");
            world.run(ms(500));
            world.restart("bob");
            world.settle();
        }
        world.expect_flow(s(2));
        let before = world.changes("ann");
        world.replay_signals();
        let sent = world.talk(s(60), ms(100));
        world.run(s(1));
        world.expect_arrived(&sent);
        assert_eq!(world.changes("ann").0, before.0, "{seed:?}: no link came of it");
    }
}

#[test]
fn a_source_that_a_peer_was_not_said_to_own_is_dropped() {
    for seed in seeds(10) {
        let world = super::world(seed).node("ann").misled_about("bob");
        let mut world = world.node("bob").start();
        world.settle();
        let numbers: Vec<u32> = (0..10).map(|_| world.send("bob", "ann", 100)).collect();
        world.run(s(1));
        let arrived = numbers
            .iter()
            .filter(|number| world.has_arrived("bob", "ann", **number));
        // Every other frame is IPv6, of which ann was not told.
        assert_eq!(arrived.count(), 5);
    }
}
