//! How full the engine's tables and queues are.

use super::Node;
use crate::gauge::{Gauge, Gauges};
use crate::limits;

impl Node {
    /// How full everything is that has a bound; a level above its limit is a fault. What is taken away at the end of
    /// each call has the limit 0.
    pub fn gauges(&self) -> Vec<Gauge> {
        let mut all = Gauges::default();
        let remotes: usize = self.by_remote.values().map(std::collections::BTreeSet::len).sum();
        all.add("links", self.links.len(), limits::LINKS);
        // A session, the one before it and a fresh handshake.
        all.add("receiver indices", self.indices.0.len(), 3 * self.links.len());
        all.add("ICE names", self.ufrags.len(), self.links.len());
        all.add("timers", self.timers.len(), self.links.len());
        all.add(
            "addresses of links",
            remotes,
            self.links.len() * 3 * limits::ICE_REMOTE_CANDIDATES,
        );
        all.add("STUN transactions", self.transactions.len(), limits::STUN_TRANSACTIONS);
        all.add("staged bytes", self.staged_bytes, limits::STAGED_BYTES);
        all.add("pings", self.pings.len(), limits::PINGS * self.links.len());
        for peer in self.networks.values().flat_map(|net| net.peers.values()) {
            all.add("staged frames of a peer", peer.staged.len(), limits::STAGED_FRAMES);
        }
        for entry in self.links.values() {
            entry.link.gauges(&mut all);
        }
        self.relays.gauges(&mut all);
        all.0
    }
}
