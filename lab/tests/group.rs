//! What a group is for: machines behind NATs that reach each other by address and by name.

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
        assert_eq!(joined.member, "ann");
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
            assert!(node.status()?.health.is_empty(), "{:?}", node.status()?);
        }
        let [ann, bob, _] = &nodes;
        ann.wait_direct("carol", LINK_WITHIN)?;
        bob.wait_direct("carol", LINK_WITHIN)?;
        Ok(())
    });
}
