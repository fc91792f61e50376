//! Paths that carry less or more than usual, and that change, with and without a word from the kernel.

use super::*;

/// What a path of so many bytes leaves of a frame: IP, UDP, channel data through a relay, record.
const fn frame_of(outer: u16, is_v6: bool, is_relayed: bool) -> u16 {
    let ip = if is_v6 { 40 } else { 20 };
    let channel = if is_relayed { 4 } else { 0 };
    outer - ip - 8 - channel - 28
}

/// Frames of `length` bytes both ways every 20 ms for a while; IPv4 and IPv6 in turn. When each way first got one of
/// each family through that was sent after `begin`.
fn stream(world: &mut World, length: usize, time: Duration) -> [Option<Duration>; 4] {
    let begin = world.elapsed();
    let mut first = [None; 4];
    let mut waiting: Vec<(usize, &str, &str, u32)> = Vec::new();
    while world.elapsed() < begin + time {
        for (way, (from, to)) in [("ann", "bob"), ("bob", "ann")].into_iter().enumerate() {
            let number = world.send(from, to, length);
            waiting.push((way * 2 + (number % 2) as usize, from, to, number));
        }
        world.run(ms(20));
        waiting.retain(|(way, from, to, number)| {
            let arrived = world.has_arrived(from, to, *number);
            if arrived {
                first[*way].get_or_insert(world.elapsed() - begin);
            }
            !arrived
        });
    }
    first
}

fn mtus(world: &mut World) -> [Option<u16>; 2] {
    [world.path_mtu("ann", "bob"), world.path_mtu("bob", "ann")]
}

/// Worlds of two nodes of which each reaches the other in the wished way, with full frames under way.
fn busy(path: Verdict, count: u64) -> impl Iterator<Item = (Seed, World)> {
    let all = seeds(count).map(move |seed| {
        let mut world = pair_by(seed, path).start();
        world.settle();
        world.expect_flow(s(2));
        stream(&mut world, 1400, s(3));
        (seed, world)
    });
    // Where a relay has no channel for a peer of the other family (see `turn`), a full frame is too much for 1500 bytes.
    let is_full = move |(seed, world): &mut (Seed, World)| match mtus(world) {
        [Some(1400), Some(1400)] => true,
        other if path == Verdict::Direct => panic!("{seed:?}: {other:?}"),
        other => {
            assert!(
                other.iter().all(|mtu| mtu.is_some_and(|mtu| mtu > 1300)),
                "{seed:?}: {other:?}"
            );
            false
        }
    };
    let mut full: Vec<_> = all.collect();
    full.retain_mut(is_full);
    assert!(
        full.len() as u64 * 4 >= count * 3 || count == 1,
        "{} of {count}",
        full.len()
    );
    full.into_iter()
}

/// Whether both ends found what fits a path of 1280 bytes: exactly where it is direct; a relay may be reached over IPv6.
fn is_narrow(mtus: [Option<u16>; 2], path: Verdict) -> bool {
    let fits = frame_of(1280, false, path == Verdict::Relay);
    let least = if path == Verdict::Relay { fits - 60 } else { fits };
    mtus.iter()
        .all(|mtu| mtu.is_some_and(|mtu| (least..=fits).contains(&mtu)))
}

#[test]
fn a_path_that_shrinks_without_a_word_stalls_nothing_for_more_than_a_second() {
    for path in [Verdict::Direct, Verdict::Relay] {
        for (seed, mut world) in busy(path, 40) {
            assert!(world.told("ann").is_empty() && world.told("bob").is_empty(), "{seed:?}");
            world.set_mtu("bob", 1280);
            // Whole, they do not pass any more; cut, they do until it is known what passes.
            let first = stream(&mut world, 1400, s(2));
            for way in first {
                assert!(way.is_some_and(|after| after <= s(1)), "{seed:?}: {first:?}");
            }
            stream(&mut world, 1400, s(2));
            let found = mtus(&mut world);
            assert!(is_narrow(found, path), "{seed:?}: {found:?}");
            for (name, found) in ["ann", "bob"].into_iter().zip(found.map(Option::unwrap_or_default)) {
                // IPv4 hosts are told what passes, IPv6 hosts the least that they may be told.
                let told = world.told(name);
                let known = [u32::from(found), 1280];
                assert!(known.iter().all(|mtu| told.contains(mtu)), "{seed:?}: {told:?}");
                assert!(told.iter().all(|mtu| known.contains(mtu)), "{seed:?}: {told:?}");
            }
            let before = world.arrived("ann", "bob");
            let [Some(fits), _] = found else {
                unreachable!("just unwrapped")
            };
            // What was told passes; the frames have IPv6 and IPv4 in turn, and IPv4 was told less than 1280.
            for length in [usize::from(fits), usize::from(fits), 1280, 1280] {
                world.send("ann", "bob", length);
            }
            world.run(ms(500));
            assert_eq!(world.arrived("ann", "bob"), before + 3, "{seed:?}");
            expect_no_link_down(&world, &["ann", "bob"]);
        }
    }
}

#[test]
fn a_path_over_ipv6_shrinks_too() {
    for seed in seeds(20) {
        let mut rng = seed.generator(22);
        let mut world = world(seed);
        for (name, kind) in [("ann", Kind::V6), ("bob", Kind::FirewalledV6)] {
            world = world.node(name).behind(kind).wire(clean(&mut rng));
        }
        let mut world = world.start();
        world.settle();
        stream(&mut world, 1400, s(2));
        assert_eq!(mtus(&mut world), [Some(1400); 2], "{seed:?}");
        world.set_mtu("bob", 1280);
        stream(&mut world, 1400, s(4));
        assert_eq!(mtus(&mut world), [Some(frame_of(1280, true, false)); 2], "{seed:?}");
    }
}

#[test]
fn a_path_that_was_narrow_from_the_start_is_found_to_be() {
    for (path, count) in [(Verdict::Direct, 20), (Verdict::Relay, 40)] {
        for seed in seeds(count) {
            for narrow in [&["ann"][..], &["bob"], &["ann", "bob"]] {
                let mut world = pair_by(seed, path).start();
                narrow.iter().for_each(|name| world.set_mtu(name, 1280));
                world.settle();
                world.expect_flow(s(2));
                world.run(s(4));
                let found = mtus(&mut world);
                assert!(is_narrow(found, path), "{seed:?}: {narrow:?}: {found:?}");
                assert!(world.told("ann").is_empty() && world.told("bob").is_empty());
            }
        }
    }
}

#[test]
fn a_wide_path_carries_large_frames_where_the_nic_has_them() {
    for seed in seeds(20) {
        let mut rng = seed.generator(22);
        let mut world = world(seed);
        for (name, kind) in [("ann", Kind::Public), ("bob", Kind::PortRestricted)] {
            let wire = Wire {
                mtu: 9000,
                ..clean(&mut rng)
            };
            world = world.node(name).behind(kind).wire(wire).nic_mtu(8900);
        }
        let mut world = world.start();
        world.set_mtu("ann", 9000);
        world.set_mtu("bob", 9000);
        world.settle();
        let first = stream(&mut world, 8900, s(2));
        assert!(first.iter().all(Option::is_some), "{seed:?}: {first:?}");
        assert_eq!(mtus(&mut world), [Some(8900); 2], "{seed:?}");
        // A host remembers for minutes what it is told: nothing must be told before it is known.
        assert!(world.told("ann").is_empty() && world.told("bob").is_empty());
        // From large to small in one step.
        world.set_mtu("ann", 1280);
        let first = stream(&mut world, 1400, s(2));
        assert!(
            first.iter().all(|way| way.is_some_and(|after| after <= s(1))),
            "{seed:?}: {first:?}"
        );
        stream(&mut world, 8900, s(2));
        assert_eq!(mtus(&mut world), [Some(frame_of(1280, false, false)); 2], "{seed:?}");
    }
}

#[test]
fn a_usual_path_takes_what_it_carries_of_a_large_nic() {
    for seed in seeds(20) {
        let mut rng = seed.generator(22);
        let mut world = world(seed);
        for (name, kind) in [("ann", Kind::Public), ("bob", Kind::PortRestricted)] {
            world = world.node(name).behind(kind).wire(clean(&mut rng)).nic_mtu(9000);
        }
        let mut world = world.start();
        for name in ["ann", "bob"] {
            world.set_interface(name, 1500);
        }
        world.settle();
        world.run(s(4));
        assert_eq!(mtus(&mut world), [Some(frame_of(1500, false, false)); 2], "{seed:?}");
    }
}

#[test]
fn what_the_kernel_refuses_is_taken_at_once_on_direct_and_relayed_paths() {
    for path in [Verdict::Direct, Verdict::Relay] {
        for (seed, mut world) in busy(path, 20) {
            world.set_interface("ann", 1280);
            let first = stream(&mut world, 1400, s(3));
            // The first one is refused and lost, the next is cut; no probe was waited for.
            for way in &first[..2] {
                assert!(way.is_some_and(|after| after <= ms(350)), "{seed:?}: {first:?}");
            }
            let [ann, bob] = mtus(&mut world);
            assert!(
                is_narrow([ann; 2], path) && bob == Some(1400),
                "{seed:?}: {ann:?} {bob:?}"
            );
        }
    }
}

#[test]
fn losses_leave_the_size_as_it_is() {
    for seed in seeds(10) {
        let mut world = pair_over(seed, Wire::delay(15).losing(0.01));
        stream(&mut world, 1400, s(120));
        assert_eq!(mtus(&mut world), [Some(1400); 2], "{seed:?}");
        assert!(world.told("ann").is_empty() && world.told("bob").is_empty(), "{seed:?}");
    }
}

#[test]
fn a_path_that_dies_and_comes_back_has_its_size() {
    for seed in seeds(10) {
        let mut world = pair_by(seed, Verdict::Direct).without_turn().start();
        world.settle();
        stream(&mut world, 1400, s(3));
        world.cut("ann", "bob", true);
        stream(&mut world, 1400, s(5));
        world.cut("ann", "bob", false);
        world.settle();
        let first = stream(&mut world, 1400, s(3));
        assert!(first.iter().all(Option::is_some), "{seed:?}: {first:?}");
        assert_eq!(mtus(&mut world), [Some(1400); 2], "{seed:?}");
        assert!(world.told("ann").is_empty() && world.told("bob").is_empty(), "{seed:?}");
    }
}

#[test]
fn a_path_that_widens_again_is_used_in_full_after_a_while() {
    for (seed, mut world) in busy(Verdict::Direct, 5) {
        world.set_mtu("bob", 1280);
        stream(&mut world, 1400, s(4));
        assert_eq!(mtus(&mut world), [Some(frame_of(1280, false, false)); 2], "{seed:?}");
        world.set_mtu("bob", 1500);
        world.talk(s(330), ms(250));
        assert_eq!(mtus(&mut world), [Some(1400); 2], "{seed:?}");
    }
}
