//! Two nodes that nothing but a third joins.

use api::status::{Connection, PeerStatus};

use crate::{Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Site};

/// ann and bob, whose NATs no punching joins, and carol in public; the server's TURN relays nothing.
pub fn joined_by_a_member(rig: &mut Rig) -> Result<(Rendezvous, [Node; 3]), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    relay_nothing(&server)?;
    let ann = Node::start(&rig.host("ann", Site::Symmetric)?)?;
    let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
    let carol = Node::start(&rig.host("carol", Site::Public)?)?;
    let created = ann.create("home", rendezvous.address())?;
    carol.join(&created.invite)?;
    bob.join(&created.invite)?;
    for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
        node.wait_peer(peer, "through carol", LINK_WITHIN, |peer| is_through(peer, "carol"))?;
    }
    Ok((rendezvous, [ann, bob, carol]))
}

/// Whether a peer is reached through a member of this name.
pub fn is_through(peer: &PeerStatus, member: &str) -> bool {
    let name = format!("member {member}");
    matches!(&peer.connection, Connection::Relay { via } if *via == name)
}

/// The server's host drops what comes to the ports that TURN lends.
pub fn relay_nothing(server: &Host) -> Result<(), Failure> {
    let rules = "add table inet relay; \
                 add chain inet relay in { type filter hook input priority 0; }; \
                 add rule inet relay in udp dport >= 10000 drop";
    server.run("nft", &[rules]).map(|_| ())
}
