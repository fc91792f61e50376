//! Two that nothing else joins meet inside the links of a member that both reach, and outlive it.

use lab::{LINK_WITHIN, Node, Site, is_through, joined_by_a_member};

#[test]
fn a_common_member_joins_two_that_nothing_else_does() {
    lab::run(|rig| {
        let (_rendezvous, [ann, bob, mut carol]) = joined_by_a_member(rig)?;
        for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
            node.wait_ping(&format!("{peer}.home.ipop"), LINK_WITHIN)?;
            let said = node.ipop(&["ping", peer, "-c", "1"])?;
            assert!(
                said.contains(&format!("pong from {peer} via relay member carol")),
                "{said}"
            );
            let status = node.ipop(&["status"])?;
            assert!(status.contains("relay member carol"), "{status}");
        }
        // Another member comes, and takes over when the first is gone.
        let dave = Node::start(&rig.host("dave", Site::Public)?)?;
        dave.join(&ann.invite("home", 1)?.invite)?;
        for (node, peer) in [(&dave, "ann"), (&dave, "bob")] {
            node.wait_direct(peer, LINK_WITHIN)?;
        }
        carol.end("KILL")?;
        for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
            node.wait_ping(&format!("{peer}.home.ipop"), LINK_WITHIN)?;
            node.wait_peer(peer, "through dave", LINK_WITHIN, |peer| is_through(peer, "dave"))?;
        }
        Ok(())
    });
}
