//! Blobs that came for tincan, in order for each sender, one at a time.
//!
//! Promises: what follows a join request waits until it is answered, so that the offer behind it finds its sender allowed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use api::NodeId;
use api::rendezvous::Occupant;

use crate::limits::{INBOX_BLOBS_MAX, INBOX_SENDERS_MAX, STRANGER_BLOBS_MAX, STRANGER_KEPT};

/// Which way a blob came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    /// Over the rendezvous.
    Occupant(Occupant),
    /// Relayed for this node, as the relaying member says.
    Relayed(NodeId),
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Vec<u8>>,
    busy: Option<Busy>,
}

enum Busy {
    Delivering,
    /// A join request is being answered, at the latest until then.
    Sponsoring(Instant),
}

/// An offer of a node that tincan does not know yet.
struct Stranger {
    node: NodeId,
    sender: Sender,
    blob: Vec<u8>,
    until: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Inbox {
    lines: BTreeMap<Sender, Line>,
    strangers: VecDeque<Stranger>,
}

impl Inbox {
    /// False where there is no room.
    pub(super) fn push(&mut self, sender: &Sender, blob: Vec<u8>) -> bool {
        if !self.lines.contains_key(sender) && self.lines.len() >= INBOX_SENDERS_MAX {
            return false;
        }
        let line = self.lines.entry(sender.clone()).or_default();
        if line.waiting.len() >= INBOX_BLOBS_MAX {
            return false;
        }
        line.waiting.push_back(blob);
        true
    }

    /// The next blob of a sender, if its turn has come.
    pub(super) fn next(&mut self, sender: &Sender) -> Option<Vec<u8>> {
        let line = self.lines.get_mut(sender)?;
        if line.busy.is_some() {
            return None;
        }
        match line.waiting.pop_front() {
            Some(blob) => {
                line.busy = Some(Busy::Delivering);
                Some(blob)
            }
            None => {
                self.lines.remove(sender);
                None
            }
        }
    }

    /// The blob of a sender is done with.
    pub(super) fn release(&mut self, sender: &Sender) {
        if let Some(line) = self.lines.get_mut(sender) {
            line.busy = None;
        }
    }

    /// What follows waits for the answer to a join request.
    pub(super) fn hold(&mut self, sender: &Sender, until: Instant) {
        if let Some(line) = self.lines.get_mut(sender) {
            line.busy = Some(Busy::Sponsoring(until));
        }
    }

    /// Keeps an offer for when its sender is known.
    pub(super) fn keep_stranger(&mut self, node: NodeId, sender: Sender, blob: Vec<u8>, now: Instant) {
        if self.strangers.len() >= STRANGER_BLOBS_MAX {
            self.strangers.pop_front();
        }
        self.strangers.push_back(Stranger {
            node,
            sender,
            blob,
            until: now + STRANGER_KEPT,
        });
    }

    /// Puts the offers of nodes that became known back in line.
    pub(super) fn recognise(&mut self, known: impl Fn(NodeId) -> bool) -> Vec<Sender> {
        let (known, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.strangers)
            .into_iter()
            .partition(|s| known(s.node));
        self.strangers = rest;
        known
            .into_iter()
            .filter_map(|s| self.push(&s.sender, s.blob).then_some(s.sender))
            .collect()
    }

    /// Forgets what is too old; names senders that waited too long and may go on.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Sender> {
        self.strangers.retain(|s| s.until > now);
        let mut freed = Vec::new();
        for (sender, line) in &mut self.lines {
            if matches!(line.busy, Some(Busy::Sponsoring(until)) if until <= now) {
                line.busy = None;
                freed.push(sender.clone());
            }
        }
        freed
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let strangers = self.strangers.iter().map(|s| s.until);
        let lines = self.lines.values().filter_map(|line| match line.busy {
            Some(Busy::Sponsoring(until)) => Some(until),
            _ => None,
        });
        strangers.chain(lines).min()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
