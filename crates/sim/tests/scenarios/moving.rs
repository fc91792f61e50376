//! Roaming with and without notice, and NATs that forget.

use super::*;
use sim::nat::{Expiry, Nat};

#[test]
fn a_node_that_moves_in_mid_traffic_keeps_its_links() {
    for seed in seeds(60) {
        let mut world = linked_pair(seed);
        world.talk(s(1), ms(40));
        let there = any_kind(&mut seed.generator(22));
        world.roam("ann", there);
        world.talk(s(1), ms(40));
        world.expect_flow(s(5));
        world.settle_within(s(30));
        let sent = world.talk(s(1), ms(40));
        world.run(s(1));
        world.expect_arrived(&sent);
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn both_may_move_at_once() {
    for seed in seeds(40) {
        let mut world = linked_pair(seed);
        let mut rng = seed.generator(22);
        world.roam("ann", any_kind(&mut rng));
        world.roam("bob", any_kind(&mut rng));
        world.talk(s(1), ms(40));
        world.expect_flow(s(8));
        world.settle_within(s(60));
    }
}

/// The node cannot see it: only its frames are not answered any more. Where UDP is blocked a dead TCP stream to the
/// relay must be given up first, and UDP is tried before another.
#[test]
fn a_gateway_that_forgets_everything_costs_seconds_of_traffic_at_most() {
    for seed in seeds(60) {
        let mut world = linked_pair(seed);
        world.talk(s(1), ms(40));
        world.reboot_gateway("ann");
        world.talk(ms(100), ms(40));
        world.expect_flow(s(12));
        world.talk(s(2), ms(40));
        world.settle_within(s(30));
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn an_idle_link_is_kept_open_in_a_nat_that_forgets_after_half_a_minute() {
    let forgetful = Nat {
        expiry: Expiry {
            first: s(30),
            both: s(30),
        },
        ..Nat::PORT_RESTRICTED
    };
    for seed in seeds(20) {
        let mut rng = seed.generator(22);
        let world = super::world(seed).node("ann").behind(forgetful).wire(clean(&mut rng));
        let mut world = world
            .node("bob")
            .behind(any_kind(&mut rng))
            .wire(clean(&mut rng))
            .start();
        world.settle();
        world.run(s(600));
        let sent = world.knock();
        world.run(s(1));
        world.expect_arrived(&sent);
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn a_mapping_that_is_gone_before_the_keepalive_is_made_again() {
    let hasty = Nat {
        expiry: Expiry {
            first: s(5),
            both: s(8),
        },
        ..Nat::PORT_RESTRICTED
    };
    for seed in seeds(20) {
        let mut rng = seed.generator(22);
        let world = super::world(seed).node("ann").behind(hasty).wire(clean(&mut rng));
        let mut world = world
            .node("bob")
            .behind(any_kind(&mut rng))
            .wire(clean(&mut rng))
            .start();
        world.settle();
        world.run(s(120));
        world.expect_flow(s(5));
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}
