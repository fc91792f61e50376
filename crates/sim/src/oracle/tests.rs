use super::*;
use crate::Seed;
use crate::kind::Kind;
use crate::nat::Nat;
use crate::net::PUBLIC;
use crate::server::Servers;
use crate::wire::Wire;

/// Who reaches whom directly; measured with nftables, rows and columns in the order of [`Kind::ALL`].
pub(crate) const MATRIX: [&str; 12] = [
    "D D D D D D D D r r r D",
    "D D D D D r D r r r r D",
    "D D D D D D D D r r r D",
    "D D D D D D D D r r r D",
    "D D D D D r D r r r r D",
    "D r D D r r r r r r r r",
    "D D D D D r D r r r r D",
    "D r D D r r r r r r r r",
    "r r r r r r r r r r r r",
    "r r r r r r r r r D D D",
    "r r r r r r r r r D D D",
    "D D D D D r D r r D D D",
];

#[test]
fn verdicts_equal_the_measured_matrix() {
    for (row, a) in MATRIX.into_iter().zip(Kind::ALL) {
        for (expected, b) in row.split(' ').zip(Kind::ALL) {
            let mut net = Net::new(Seed(0));
            let (one, two) = (a.build(&mut net, Wire::PERFECT), b.build(&mut net, Wire::PERFECT));
            let expected = if expected == "D" {
                Verdict::Direct
            } else {
                Verdict::Relay
            };
            let said = verdict(&net, one, two, Some(Servers::TURN));
            assert_eq!(said, expected, "{a:?} {b:?}");
        }
    }
}

#[test]
fn without_turn_the_rest_is_impossible() {
    let mut net = Net::new(Seed(0));
    let one = Kind::Symmetric.build(&mut net, Wire::PERFECT);
    let two = Kind::Symmetric.build(&mut net, Wire::PERFECT);
    assert_eq!(verdict(&net, one, two, None), Verdict::Impossible);
}

#[test]
fn one_lan_is_direct_whatever_stands_before_it() {
    for kind in Kind::ALL {
        let mut net = Net::new(Seed(0));
        let realm = kind.realm(&mut net, Wire::PERFECT);
        let one = net.add_host(realm, true, true, Wire::PERFECT);
        let two = net.add_host(realm, true, true, Wire::PERFECT);
        assert_eq!(verdict(&net, one, two, None), Verdict::Direct, "{kind:?}");
    }
}

/// Two homes behind one carrier NAT reach each other where it turns datagrams back, and a host between them always.
#[test]
fn two_homes_of_one_carrier_need_its_hairpin() {
    for (hairpin, expected) in [(true, Verdict::Direct), (false, Verdict::Relay)] {
        let mut net = Net::new(Seed(0));
        let carrier = Nat {
            hairpin,
            ..Nat::PORT_RESTRICTED
        };
        let carrier = net.add_realm(
            PUBLIC,
            Gateway {
                prefix: [100, 64, 7],
                ..Gateway::nat(carrier)
            },
        );
        let home = |net: &mut Net| {
            let realm = net.add_realm(carrier, Gateway::nat(Nat::PORT_RESTRICTED));
            net.add_host(realm, true, false, Wire::PERFECT)
        };
        let (one, two) = (home(&mut net), home(&mut net));
        let between = net.add_host(carrier, true, false, Wire::PERFECT);
        let turn = Some(Servers::TURN);
        assert_eq!(verdict(&net, one, two, turn), expected);
        assert_eq!(verdict(&net, one, between, turn), Verdict::Direct);
    }
}

/// The same private address in two homes is not a way from one to the other.
#[test]
fn equal_private_addresses_do_not_meet() {
    let mut net = Net::new(Seed(0));
    let one = Kind::Symmetric.build(&mut net, Wire::PERFECT);
    let two = Kind::PortRestricted.build(&mut net, Wire::PERFECT);
    assert_eq!(net.addresses(one), net.addresses(two));
    assert_eq!(verdict(&net, one, two, Some(Servers::TURN)), Verdict::Relay);
}

/// A host of a carrier's realm is reached from a home beside it without the carrier's hairpin, if its firewall lets
/// strangers in, and not if it must have sent something first: it has no address of the other to send to.
#[test]
fn a_firewalled_neighbour_is_reached_only_through_an_open_wall() {
    for (filtering, expected) in [
        (Dependence::Independent, Verdict::Direct),
        (Dependence::Address, Verdict::Relay),
    ] {
        let mut net = Net::new(Seed(0));
        let carrier = net.add_realm(
            PUBLIC,
            Gateway {
                prefix: [100, 64, 7],
                ..Gateway::nat(Nat::PORT_RESTRICTED)
            },
        );
        let wall = Family::Firewall(filtering);
        let walled = net.add_realm(
            carrier,
            Gateway {
                v4: wall,
                ..Gateway::firewall()
            },
        );
        let home = net.add_realm(carrier, Gateway::nat(Nat::SYMMETRIC));
        let one = net.add_host(walled, true, false, Wire::PERFECT);
        let two = net.add_host(home, true, false, Wire::PERFECT);
        assert_eq!(verdict(&net, one, two, Some(Servers::TURN)), expected);
    }
}
