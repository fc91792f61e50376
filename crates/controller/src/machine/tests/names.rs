//! Names of machines in a group.

use super::*;

#[test]
fn a_taken_name_is_said_and_another_works() {
    let mut world = World::new(2);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    let taken = world.wait::<Joined>(1, ControlCall::JoinGroup(joining(&invite, Some("Ann.example.org"))));
    let (kind, text) = kind_of(taken);
    assert_eq!(
        (kind, text.as_str()),
        (
            ErrorKind::Taken,
            "the name \"ann\" is taken in home: choose another with --name"
        )
    );
    assert!(world.nothing_left(1));
    world.join(1, &invite).expect("the use was not spent");
}

#[test]
fn machines_of_one_name_are_numbered() {
    let mut world = World::new(8);
    world.create(0).expect("made");
    let invite = world.invite(0, 2);
    let names = [6, 7].map(|namesake| world.join(namesake, &invite).expect("joined").group.host_name);
    assert_eq!(names, ["ann-2", "ann-3"]);
}
