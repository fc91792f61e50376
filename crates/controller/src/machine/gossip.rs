//! The log spreads: new entries at once to everybody who is linked, and logs are compared whenever a link comes up.

use api::NodeId;

use crate::entry::{Entry, Verified};
use crate::limits::{HAVE_IDS_MAX, RELAYS_PER_SIGNAL};
use crate::log::Source;
use crate::message::{Message, ShortId, parts};

use super::effects::{AfterSeal, Cx};
use super::group::{Group, Stage};
use super::inbox::Sender;

/// Members without a link that hear of new entries over the rendezvous: more would be a flood, and links are on their way.
const SEALED_COPIES_MAX: usize = 8;

impl Group {
    /// Tells everybody of entries, but for the one that told us.
    pub(super) fn spread(&mut self, cx: &mut Cx<'_>, added: &[Verified], from: Option<NodeId>) {
        if !matches!(self.stage, Stage::Member | Stage::Leaving(_)) {
            return;
        }
        let messages: Vec<Vec<u8>> = parts(added.iter().map(Verified::bytes))
            .into_iter()
            .map(|entries| Message::Entries(entries).to_bytes())
            .collect();
        let (linked, rest): (Vec<NodeId>, Vec<NodeId>) = self
            .peers
            .keys()
            .filter(|node| Some(**node) != from)
            .partition(|node| self.peers[*node].is_up());
        for node in linked {
            for message in &messages {
                cx.send(self.network, node, message.clone());
            }
        }
        // Sealed, only what we made: what came from others has reached them the same way.
        // Whom an entry lets in gets it with the welcome.
        let welcomed = |node: &NodeId| {
            let joins = |e: &Verified| matches!(e.entry(), Entry::Admission(a) if a.request.joiner == *node);
            added.iter().any(joins)
        };
        let unlinked = rest
            .into_iter()
            .filter(|node| from.is_none() && !welcomed(node))
            .take(SEALED_COPIES_MAX);
        for node in unlinked.collect::<Vec<_>>() {
            let occupants = self.meeting.seats_of(node);
            for message in messages.iter().filter(|_| !occupants.is_empty()) {
                self.seal_to(cx, node, occupants.clone(), message.clone(), AfterSeal::Nothing);
            }
        }
    }

    pub(super) fn send_digest(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let message = Message::Digest {
            digest: self.log.digest(),
            time: cx.now.unix,
        };
        cx.send(self.network, node, message.to_bytes());
    }

    /// A message of a linked node's controller.
    pub(super) fn peer_message(&mut self, cx: &mut Cx<'_>, from: NodeId, data: &[u8]) {
        if !self.roster.has(from) {
            return self.count("message of a node that is not a member");
        }
        let Ok(message) = Message::parse(data) else {
            return self.count("unknown message of a member");
        };
        match message {
            Message::Digest { digest, time } => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    let skew = i128::from(time) - i128::from(cx.now.unix);
                    peer.skew = Some(i64::try_from(skew).unwrap_or(i64::MAX));
                }
                if digest != self.log.digest() {
                    self.send_have(cx, from);
                }
            }
            Message::Have {
                from: low,
                to: high,
                ids,
            } => self.send_missing(cx, from, low, high, &ids),
            Message::Entries(entries) => self.entries_came(cx, from, &entries),
            Message::Relay { to, blob } => self.relay(cx, from, to, blob),
            Message::Relayed { from: origin, blob } => self.relayed(cx, from, origin, blob),
            Message::Join { .. } | Message::Welcome { .. } | Message::Refused { .. } => {
                self.count("message over a link that only comes sealed");
            }
        }
    }

    /// Entries of a member, over a link or sealed.
    pub(super) fn entries_came(&mut self, cx: &mut Cx<'_>, from: NodeId, entries: &[Vec<u8>]) {
        let entries = self.verify(entries);
        self.learn(cx, Source::Member, entries, Some(from));
    }

    /// Names what we have, so that the other sends the rest.
    fn send_have(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let ids: Vec<ShortId> = self.log.entries().map(short).collect();
        let mut chunks: Vec<Vec<ShortId>> = ids.chunks(HAVE_IDS_MAX).map(<[_]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let mut from = [0; 16];
        let last = chunks.len() - 1;
        for (number, ids) in chunks.into_iter().enumerate() {
            let to = match ids.last() {
                Some(id) if number < last => *id,
                _ => [0xff; 16],
            };
            cx.send(self.network, node, Message::Have { from, to, ids }.to_bytes());
            from = to;
        }
    }

    fn send_missing(&mut self, cx: &mut Cx<'_>, node: NodeId, low: ShortId, high: ShortId, ids: &[ShortId]) {
        let has: std::collections::BTreeSet<&ShortId> = ids.iter().collect();
        let missing = self
            .log
            .in_order()
            .into_iter()
            .filter(|e| (low..=high).contains(&short(e)) && !has.contains(&short(e)));
        for entries in parts(missing.map(Verified::bytes)) {
            cx.send(self.network, node, Message::Entries(entries).to_bytes());
        }
    }

    /// Passes a member's blob on, if it may still have us do so.
    fn relay(&mut self, cx: &mut Cx<'_>, from: NodeId, to: NodeId, blob: Vec<u8>) {
        let allowed = self.peers.get_mut(&from).is_some_and(|p| p.allowance.take(cx.now.mono));
        if !allowed {
            return self.count("signal to relay beyond the rate");
        }
        if self.peers.get(&to).is_some_and(super::group::Peer::is_up) && to != from {
            cx.send(self.network, to, Message::Relayed { from, blob }.to_bytes());
        } else {
            self.count("signal to relay to a node that is not linked");
        }
    }

    /// A member passed a blob on to us.
    fn relayed(&mut self, cx: &mut Cx<'_>, through: NodeId, origin: NodeId, blob: Vec<u8>) {
        if let Some(peer) = self.peers.get_mut(&origin) {
            peer.relay = Some(through);
        }
        self.receive(cx, Sender::Relayed(origin), blob);
    }

    /// Sends a signal through members that are linked; false where there is none.
    pub(super) fn relay_out(&mut self, cx: &mut Cx<'_>, to: NodeId, blob: &[u8]) -> bool {
        let hint = self.peers.get(&to).and_then(|p| p.relay);
        let mut through: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(node, peer)| **node != to && peer.is_up())
            .map(|(node, _)| *node)
            .collect();
        through.sort_by_key(|node| Some(*node) != hint);
        through.truncate(RELAYS_PER_SIGNAL);
        if blob.len() > crate::limits::RELAY_BLOB_MAX {
            return false;
        }
        for node in &through {
            let blob = blob.to_vec();
            cx.send(self.network, *node, Message::Relay { to, blob }.to_bytes());
        }
        !through.is_empty()
    }
}

fn short(entry: &Verified) -> ShortId {
    let mut id = [0; 16];
    id.copy_from_slice(&entry.id().0[..16]);
    id
}
