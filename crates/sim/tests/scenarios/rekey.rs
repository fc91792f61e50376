//! New keys under traffic: by epoch every two minutes, by a fresh handshake every thirty.

use tincan::session::EPOCH_TIME;

use super::*;

fn session(world: &mut World, name: &str) -> api::link::SessionState {
    let state = world.state(name);
    let peer = &state.networks[0].peers[0];
    peer.session.clone().expect("the link is up")
}

#[test]
fn no_frame_is_lost_to_new_epochs_and_fresh_handshakes() {
    for seed in seeds(4) {
        let mut world = linked_pair(seed);
        expect_young_keys(&mut world, s(7 * 60));
        let sent = world.talk(s(28 * 60), ms(250));
        world.run(s(2));
        world.expect_arrived(&sent);
        for name in ["ann", "bob"] {
            let session = session(&mut world, name);
            assert!(session.handshakes >= 2, "{seed:?} {session:?}");
        }
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}

/// Talks, and looks every ten seconds whether no key was used for longer than an epoch lasts. A path that gets better
/// brings a fresh handshake, and its keys begin with epoch 0.
fn expect_young_keys(world: &mut World, time: Duration) {
    const LOOK: Duration = s(10);
    let mut sent = Vec::new();
    let mut key = (0, 0);
    let (mut age, mut changes) = (Duration::ZERO, 0);
    for _ in 0..time.as_secs() / LOOK.as_secs() {
        sent.extend(world.talk(LOOK, ms(250)));
        let now = session(world, "ann");
        let last = std::mem::replace(&mut key, (now.handshakes, now.send_epoch));
        if last == key {
            age += LOOK;
        } else {
            (age, changes) = (Duration::ZERO, changes + 1);
        }
        assert!(age <= EPOCH_TIME, "{now:?} is {age:?} old");
    }
    assert!(changes >= 4, "the first key and three more in {time:?}: {changes}");
    world.run(s(2));
    world.expect_arrived(&sent);
}

/// Wires that reorder: frames of the old keys come after frames of the new.
#[test]
fn frames_that_were_overtaken_by_a_change_of_keys_are_still_opened() {
    for seed in seeds(3) {
        let held = Wire {
            reorder: 0.3,
            held: ms(200),
            ..Wire::delay(20)
        };
        let mut world = pair_over(seed, held);
        let sent = world.talk(s(35 * 60), ms(250));
        world.run(s(2));
        world.expect_arrived(&sent);
        assert!(session(&mut world, "bob").handshakes >= 2);
    }
}

#[test]
fn keys_change_over_lossy_wires_too() {
    for seed in seeds(3) {
        let lossy = Wire::delay(20).losing(0.05);
        let mut world = super::world(seed)
            .node("ann")
            .wire(lossy)
            .node("bob")
            .wire(lossy)
            .start();
        world.settle();
        let sent = world.talk(s(35 * 60), ms(250));
        world.run(s(2));
        let (lost, all) = (world.lost(&sent), sent.len());
        // Two wires: 9.75 % are lost on the way.
        assert!(lost * 100 < all * 13, "{seed:?}: {lost} of {all}");
        assert!(session(&mut world, "bob").handshakes >= 2);
        expect_no_link_down(&world, &["ann", "bob"]);
    }
}
