//! New keys under traffic: by epoch every two minutes, by a fresh handshake every thirty.

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
        let sent = world.talk(s(7 * 60), ms(250));
        world.run(s(2));
        world.expect_arrived(&sent);
        let epochs = session(&mut world, "ann");
        // Where the path changed there was a fresh handshake, and its keys begin with epoch 0.
        assert!(epochs.send_epoch >= 3 || epochs.handshakes >= 2, "{seed:?} {epochs:?}");
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

/// Wires that reorder: frames of the old keys come after frames of the new.
#[test]
fn frames_that_were_overtaken_by_a_change_of_keys_are_still_opened() {
    for seed in seeds(3) {
        let held = Wire {
            reorder: 0.3,
            held: ms(200),
            ..Wire::delay(20)
        };
        let mut world = super::world(seed).node("ann").wire(held).node("bob").wire(held).start();
        world.settle();
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
