//! What a group is for: machines behind NATs that reach each other by address and by name.

use api::status::Connection;
use lab::{Failure, LINK_WITHIN, Node, Rendezvous, Rig, Site};

/// Three nodes with a daemon each, in one group.
fn three(rig: &mut Rig) -> Result<(Rendezvous, [Node; 3]), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
    let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
    let carol = Node::start(&rig.host("carol", Site::Public)?)?;
    let created = ann.create("home", rendezvous.address())?;
    for node in [&bob, &carol] {
        let joined = node.join(&created.invite)?;
        assert_eq!(joined.group.network, created.group.network);
    }
    Ok((rendezvous, [ann, bob, carol]))
}

#[test]
fn join_by_name() {
    lab::run(|rig| {
        let (_rendezvous, nodes) = three(rig)?;
        for node in &nodes {
            let others: Vec<&Node> = nodes.iter().filter(|n| n.host().name() != node.host().name()).collect();
            for other in others {
                let name = other.host().name();
                node.wait_linked(name, LINK_WITHIN)?;
                for address in other.addresses()? {
                    node.wait_ping(&address.to_string(), LINK_WITHIN)?;
                }
                node.wait_ping(&format!("{name}.home.ipop"), LINK_WITHIN)?;
                assert_eq!(node.ping(name)?.name, name);
            }
        }
        let [ann, bob, carol] = &nodes;
        ann.wait_direct("carol", LINK_WITHIN)?;
        bob.wait_direct("carol", LINK_WITHIN)?;
        let healthy = carol.status()?.health;
        assert!(healthy.is_empty(), "{healthy:?}");
        // No direct path is there: a fault of nobody's, but one to be told.
        let relayed = ann.wait_linked("bob", LINK_WITHIN)?.connection;
        assert!(matches!(relayed, Connection::Relay { .. }), "{relayed:?}");
        assert_eq!(
            ann.status()?.health.iter().map(|h| h.code.as_str()).collect::<Vec<_>>(),
            ["relayed"]
        );
        Ok(())
    });
}
