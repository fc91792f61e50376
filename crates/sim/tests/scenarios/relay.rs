//! Relays that die, direct paths that die and come back.

use super::*;

#[test]
fn a_dead_relay_is_left_for_another() {
    for seed in seeds(30) {
        let mut world = pair_by(seed, Verdict::Relay).with_second_turn().start();
        world.settle();
        world.expect_flow(s(2));
        world.talk(s(2), ms(40));
        world.kill_turn(0);
        world.talk(ms(500), ms(40));
        world.expect_flow(s(6));
        // The other one dies in turn, after the first came back.
        world.restart_turn(0);
        world.talk(s(60), ms(400));
        world.kill_turn(1);
        world.talk(ms(500), ms(40));
        world.expect_flow(s(6));
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn the_only_relay_may_restart() {
    for seed in seeds(30) {
        let mut world = pair_by(seed, Verdict::Relay).start();
        world.settle();
        world.kill_turn(0);
        world.run(s(5));
        world.restart_turn(0);
        world.expect_flow(s(30));
        world.settle();
    }
}

#[test]
fn a_cut_direct_path_is_left_for_a_relay_and_taken_again() {
    for seed in seeds(30) {
        let mut world = pair_by(seed, Verdict::Direct).start();
        world.settle();
        world.expect_flow(s(2));
        world.cut("ann", "bob", true);
        world.talk(ms(500), ms(40));
        world.expect_flow(s(5));
        assert_eq!(world.path("ann", "bob"), Verdict::Relay, "{seed:?}");
        world.talk(s(5), ms(40));
        world.cut("ann", "bob", false);
        world.settle_within(s(150));
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}
