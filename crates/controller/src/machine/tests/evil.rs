//! A rendezvous that reads, forges, swaps and replays gets nothing but a delay.

use std::time::Duration;

use api::rendezvous::Occupant;
use proptest::prelude::*;

use super::family;
use super::world::World;
use crate::card::CardDraft;
use crate::fixture;

fn drops(world: &mut World, machine: usize) -> u64 {
    world.status(machine).groups[0].drops.values().sum()
}

#[test]
fn forged_and_self_made_cards_make_nobody_a_member() {
    let (mut world, network) = family(2);
    let (room, bob) = world.occupant(1, network);
    let good = world.cards[&(room.clone(), bob)].clone();
    for bit in (0..good.len() * 8).step_by(97) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        world.show_as(network, &room, &Occupant(format!("room/evil-{bit}")), bad);
    }
    // Signed well, by a node that nobody let in, with a chain of its own making.
    let mallory = fixture::key(66);
    let proof = [fixture::admission(100, 66, 1, 1, 10, "mallory"), fixture::grant(100, 5)];
    let draft = CardDraft::new(
        network,
        api::NodeId(mallory.public()),
        0,
        0,
        &proof.iter().collect::<Vec<_>>(),
    );
    let signature = mallory.sign(api::link::Purpose::Presence, &draft.payload());
    world.show_as(
        network,
        &room,
        &Occupant("room/mallory".into()),
        draft.signed(&signature),
    );
    let draft = CardDraft::new(network, api::NodeId(mallory.public()), 0, 0, &[]);
    let signature = mallory.sign(api::link::Purpose::Presence, &draft.payload());
    world.show_as(
        network,
        &room,
        &Occupant("room/mallory2".into()),
        draft.signed(&signature),
    );
    world.settle();
    assert!(drops(&mut world, 0) > 10);
    assert_eq!(world.status(0).groups[0].peers.len(), 1);
    assert_eq!(world.linked(0), ["bob"]);
}

#[test]
fn swapped_and_copied_cards_do_not_hide_their_owners() {
    let (mut world, network) = family(3);
    let (room, bob) = world.occupant(1, network);
    let (_, carol) = world.occupant(2, network);
    let card = |world: &World, who: &Occupant| world.cards[&(room.clone(), who.clone())].clone();
    let (of_bob, of_carol) = (card(&world, &bob), card(&world, &carol));
    // Anybody in the room can copy a card.
    world.show_as(network, &room, &Occupant("room/a-copy".into()), of_bob.clone());
    world.settle();
    world.crash_tincan(0);
    assert_eq!(world.linked(0), ["bob", "carol"]);
    // Only the server can swap two; then it delivers nothing, and the true cards mend it.
    world.show_as(network, &room, &bob, of_carol.clone());
    world.show_as(network, &room, &carol, of_bob.clone());
    world.settle();
    world.crash_tincan(0);
    world.show_as(network, &room, &bob, of_bob);
    world.show_as(network, &room, &carol, of_carol);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.linked(0), ["bob", "carol"]);
}

#[test]
fn everything_replayed_to_everybody_changes_nothing() {
    let (mut world, network) = family(3);
    let before: Vec<_> = (0..3).map(|m| world.machines[m].stored.clone()).collect();
    let old = world.carried.clone();
    assert!(old.len() >= 8);
    for machine in 0..3 {
        let (_, to) = world.occupant(machine, network);
        for (from, _, bytes) in &old {
            world.hand_over(network, from, &to, bytes.clone());
            world.hand_over(network, &Occupant("room/nobody".into()), &to, bytes.clone());
        }
    }
    world.settle();
    world.pass(Duration::from_secs(30));
    for (machine, before) in before.into_iter().enumerate() {
        assert_eq!(world.linked(machine).len(), 2);
        assert_eq!(world.machines[machine].stored, before);
    }
}

#[test]
fn an_old_join_does_not_bring_back_who_left() {
    let (mut world, network) = family(2);
    let old = world.carried.clone();
    world.pass(Duration::from_secs(10));
    world.leave(1).expect("left");
    world.pass(Duration::from_secs(1));
    let (_, ann) = world.occupant(0, network);
    for (from, _, bytes) in &old {
        world.hand_over(network, from, &ann, bytes.clone());
    }
    world.settle();
    world.pass(Duration::from_secs(5));
    assert!(world.status(0).groups[0].peers.is_empty());
}

#[test]
fn unknown_envelopes_are_counted_and_dropped() {
    let (mut world, network) = family(2);
    let (_, ann) = world.occupant(0, network);
    for bytes in [
        vec![],
        vec![1],
        vec![1, 0],
        vec![1, 9, 9],
        vec![2, 0, 1],
        vec![0; 100_000],
    ] {
        world.hand_over(network, &Occupant("room/evil".into()), &ann, bytes);
    }
    world.settle();
    assert_eq!(
        world.status(0).groups[0].drops["unknown envelope from the rendezvous"],
        6
    );
    assert_eq!(world.linked(0), ["bob"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn noise_from_the_room_takes_nothing_down(noise in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200), any::<bool>()), 1..60)) {
        let (mut world, network) = family(2);
        let (room, ann) = world.occupant(0, network);
        for (who, bytes, card) in noise {
            let occupant = Occupant(format!("room/{who}"));
            if card {
                world.show_as(network, &room, &occupant, bytes);
            } else {
                world.hand_over(network, &occupant, &ann, [&[1, 0], &bytes[..]].concat());
            }
            world.settle();
        }
        world.pass(Duration::from_secs(20));
        prop_assert_eq!(world.linked(0), ["bob"]);
        prop_assert_eq!(world.status(0).groups[0].peers.len(), 1);
    }
}
