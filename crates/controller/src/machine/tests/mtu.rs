//! The MTU of the NIC, which each node chooses for itself.

use super::*;

#[test]
fn the_mtu_that_was_wished_for_outlives_restarts_and_concerns_one_node_only() {
    let mut world = World::new(2);
    world.create(0).expect("made");
    let invite = world.invite(0, 1);
    let call = api::control::JoinGroup {
        mtu: Some(8900),
        ..joining(&invite, None)
    };
    world.wait::<Joined>(1, ControlCall::JoinGroup(call)).expect("joined");
    world.crash_controller(1);
    world.crash_tincan(1);
    world.crash_tincan(0);
    let mtus = |world: &World, machine: usize| -> Vec<u16> {
        let calls = world.machines[machine].calls.iter();
        let made = calls.filter_map(|call| match call {
            LinkCall::CreateNetwork(config) => Some(config.mtu),
            _ => None,
        });
        made.collect()
    };
    assert_eq!(mtus(&world, 1), [8900], "since the restart");
    assert_eq!(mtus(&world, 0), [1400, 1400]);
}
