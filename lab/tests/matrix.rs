//! Every pair of sites is linked, directly exactly where the table of the oracle says that it can be.

use api::status::Connection;
use lab::{Failure, LINK_WITHIN, Node, Rendezvous, Rig, Site, oracle};

use Site::{
    AddressRestricted, Cgnat, CgnatSymmetric, DualStack, Firewall, FullCone, Ipv6Firewall, Ipv6Only, PortRestricted,
    Public, Symmetric, UdpBlocked,
};

/// ann makes a group at one site, bob joins it at the other.
fn pair(here: Site, there: Site) {
    lab::run(|rig| linked(rig, here, there));
}

fn linked(rig: &mut Rig, here: Site, there: Site) -> Result<(), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    let ann = Node::start(&rig.host("ann", here)?)?;
    let bob = Node::start(&rig.host("bob", there)?)?;
    let created = ann.create("home", rendezvous.address())?;
    bob.join(&created.invite)?;
    for (node, other) in [(&ann, &bob), (&bob, &ann)] {
        node.wait_linked(other.host().name(), LINK_WITHIN)?;
        for address in other.addresses()? {
            node.wait_ping(&address.to_string(), LINK_WITHIN)?;
        }
    }
    let direct = oracle::direct(here, there);
    for (node, other) in [(&ann, "bob"), (&bob, "ann")] {
        let what = if direct { "directly" } else { "through a relay" };
        let peer = node.wait_peer(other, what, LINK_WITHIN, |peer| match peer.connection {
            Connection::Direct { .. } => direct,
            Connection::Relay { .. } => !direct,
            _ => false,
        })?;
        check_relay(node.host().site(), &peer.connection);
    }
    // Its exit code tells scripts what was found: 3 when only relayed answers came.
    let pings = ann.output(&["ping", "bob", "--until-direct", "-c", "2", "-i", "50"])?;
    let said = String::from_utf8_lossy(&pings.stdout);
    assert_eq!(pings.status.code(), Some(if direct { 0 } else { 3 }), "{said}");
    assert_eq!(said.contains("via direct"), direct, "{said}");
    Ok(())
}

/// A relay of one's own is named with its transport: where no UDP passes it is TCP or TLS.
fn check_relay(own: Site, way: &Connection) {
    if let Connection::Relay { via } = way {
        let over_tcp = via.ends_with(" over TCP") || via.ends_with(" over TLS");
        assert!(
            own != UdpBlocked || over_tcp,
            "no UDP passes here, but the relay is {via}"
        );
    }
}

macro_rules! pairs {
    ($($name:ident: $here:expr, $there:expr;)*) => {
        $(#[test]
        fn $name() {
            pair($here, $there);
        })*
    };
}

pairs! {
    public_and_public: Public, Public;
    public_and_full_cone: Public, FullCone;
    public_and_port_restricted: Public, PortRestricted;
    public_and_symmetric: Public, Symmetric;
    public_and_udp_blocked: Public, UdpBlocked;
    full_cone_and_full_cone: FullCone, FullCone;
    full_cone_and_port_restricted: FullCone, PortRestricted;
    full_cone_and_symmetric: FullCone, Symmetric;
    full_cone_and_udp_blocked: FullCone, UdpBlocked;
    port_restricted_and_port_restricted: PortRestricted, PortRestricted;
    port_restricted_and_symmetric: PortRestricted, Symmetric;
    port_restricted_and_udp_blocked: PortRestricted, UdpBlocked;
    symmetric_and_symmetric: Symmetric, Symmetric;
    symmetric_and_udp_blocked: Symmetric, UdpBlocked;
    udp_blocked_and_udp_blocked: UdpBlocked, UdpBlocked;
    ipv6_only_and_dual_stack: Ipv6Only, DualStack;
    ipv6_only_and_ipv6_only: Ipv6Only, Ipv6Only;
    ipv6_only_and_public: Ipv6Only, Public;
    ipv6_only_and_udp_blocked: Ipv6Only, UdpBlocked;
    ipv6_only_and_symmetric: Ipv6Only, Symmetric;
    ipv6_firewall_and_ipv6_firewall: Ipv6Firewall, Ipv6Firewall;
    ipv6_firewall_and_dual_stack: Ipv6Firewall, DualStack;
    dual_stack_and_dual_stack: DualStack, DualStack;
    dual_stack_and_symmetric: DualStack, Symmetric;
    firewall_and_firewall: Firewall, Firewall;
    firewall_and_port_restricted: Firewall, PortRestricted;
    firewall_and_symmetric: Firewall, Symmetric;
    address_restricted_and_symmetric: AddressRestricted, Symmetric;
    cgnat_and_cgnat: Cgnat, Cgnat;
    cgnat_and_port_restricted: Cgnat, PortRestricted;
    cgnat_symmetric_and_public: CgnatSymmetric, Public;
    cgnat_symmetric_and_port_restricted: CgnatSymmetric, PortRestricted;
}
