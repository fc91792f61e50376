//! Links through another node: where nothing else joins two, until something better does, and when that node dies.

use super::*;

/// Two nodes that no punching joins, and others in public; no TURN server.
fn apart(seed: Seed, others: &[&str]) -> World {
    let mut rng = seed.generator(23);
    let mut world = world(seed).without_turn();
    for (name, kind) in [("ann", Kind::Symmetric), ("bob", Kind::PortRestricted)] {
        world = world.node(name).behind(kind).wire(clean(&mut rng));
    }
    for name in others {
        world = world.node(name).wire(clean(&mut rng));
    }
    world
}

#[test]
fn two_that_nothing_else_joins_meet_through_a_common_member() {
    for seed in seeds(100) {
        let mut world = apart(seed, &["carol"]).start();
        assert_eq!(world.oracle("ann", "bob"), Verdict::Member);
        // Frames before there is a link wait for it, and none of them is lost.
        let early = world.knock();
        world.settle();
        world.expect_flow(s(2));
        let mut sent = world.talk(s(3), ms(40));
        world.run(s(1));
        sent.extend(early);
        world.expect_arrived(&sent);
        let state = world.state("carol");
        let peers = state.networks.iter().flat_map(|network| &network.peers);
        assert!(
            peers.map(|peer| peer.traffic.relayed_frames).sum::<u64>() > 20,
            "{seed:?}"
        );
    }
}

#[test]
fn the_death_of_the_member_moves_the_link_to_another() {
    for seed in seeds(60) {
        let mut world = apart(seed, &["carol", "dave"]).start();
        world.settle();
        world.expect_flow(s(2));
        world.talk(s(2), ms(40));
        let used = world.via("ann", "bob").expect("a member's name");
        world.kill(&used);
        world.talk(ms(500), ms(40));
        world.expect_flow_between("ann", "bob", s(4));
        assert_eq!(world.path("ann", "bob"), Verdict::Member, "{seed:?}");
        assert_ne!(world.via("ann", "bob"), Some(used), "{seed:?}");
        let (_, downs, _) = world.changes("ann");
        assert!(downs <= 1, "{seed:?}: only the link with the dead may go down");
    }
}

#[test]
fn a_turn_server_comes_before_a_member_and_a_member_after_it() {
    for seed in seeds(40) {
        let mut rng = seed.generator(24);
        let mut world = pair_by(seed, Verdict::Relay)
            .node("carol")
            .wire(clean(&mut rng))
            .start();
        world.settle();
        assert_eq!(world.path("ann", "bob"), Verdict::Relay, "{seed:?}");
        world.expect_flow(s(2));
        world.talk(s(2), ms(40));
        world.kill_turn(0);
        world.talk(ms(500), ms(40));
        world.expect_flow_between("ann", "bob", s(5));
        assert_eq!(world.path("ann", "bob"), Verdict::Member, "{seed:?}");
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn a_direct_path_that_comes_back_is_taken() {
    for seed in seeds(30) {
        let mut rng = seed.generator(25);
        let world = pair_by(seed, Verdict::Direct).without_turn();
        let mut world = world.node("carol").wire(clean(&mut rng)).start();
        world.settle();
        world.expect_flow(s(2));
        world.cut("ann", "bob", true);
        world.talk(ms(500), ms(40));
        world.expect_flow_between("ann", "bob", s(8));
        assert_eq!(world.path("ann", "bob"), Verdict::Member, "{seed:?}");
        world.talk(s(5), ms(40));
        world.cut("ann", "bob", false);
        world.settle_within(s(150));
        assert_eq!(world.path("ann", "bob"), Verdict::Direct, "{seed:?}");
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

#[test]
fn a_member_that_restarts_is_used_again() {
    for seed in seeds(30) {
        let mut world = apart(seed, &["carol"]).start();
        world.settle();
        world.expect_flow(s(2));
        world.kill("carol");
        world.talk(s(5), ms(40));
        world.restart("carol");
        world.settle_within(s(45));
        world.expect_flow(s(5));
    }
}

#[test]
fn a_narrow_way_to_the_member_is_found_to_be() {
    for seed in seeds(20) {
        let mut world = apart(seed, &["carol"]).start();
        world.set_mtu("ann", 1280);
        world.settle();
        world.expect_flow(s(5));
        world.talk(s(8), ms(40));
        let found = ["ann", "bob"].map(|at| {
            let other = if at == "ann" { "bob" } else { "ann" };
            world.path_mtu(at, other).expect("a path")
        });
        // 1280 less IPv4, UDP, two records and the head between them.
        let fits = 1280 - 28 - 28 - 13 - 28;
        assert!(
            found.iter().all(|mtu| (fits - 20..=fits).contains(mtu)),
            "{seed:?}: {found:?}"
        );
    }
}
