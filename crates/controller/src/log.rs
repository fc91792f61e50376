//! The membership log: a set of verified entries that only grows.
//!
//! Promises: whatever the order, repetition or breaks in which entries come, the same entries make the same log; nothing is
//! kept that does not chain to the root; nothing is ever taken out. Refuses to know: what the entries amount to.

use std::collections::{BTreeMap, BTreeSet};

use api::{NetworkId, NodeId};

use crate::crypto::hash;
use crate::entry::{Entry, EntryId, Verified};
use crate::limits::{LOG_BYTES_MAX, LOG_ENTRIES_MAX, LOG_ROOT_RESERVE, ORPHANS_MAX};

/// What two logs compare first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many entries.
    pub count: u32,
    /// Hash over the sorted ids.
    pub hash: [u8; 32],
}

/// Whether entries that chain to nothing known yet are worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A member sent them: what they build on will follow.
    Member,
    /// Anybody could have sent them.
    Anybody,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    network: NetworkId,
    entries: BTreeMap<EntryId, Verified>,
    bytes: usize,
    grants: BTreeSet<[u8; 32]>,
    nodes: BTreeSet<NodeId>,
    orphans: BTreeMap<EntryId, Verified>,
}

impl Log {
    /// An empty one.
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            entries: BTreeMap::new(),
            bytes: 0,
            grants: BTreeSet::new(),
            nodes: BTreeSet::new(),
            orphans: BTreeMap::new(),
        }
    }

    /// Whose log this is.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry, by id.
    pub fn entries(&self) -> impl Iterator<Item = &Verified> {
        self.entries.values()
    }

    /// Whether an entry is in, or waits.
    pub fn contains(&self, id: EntryId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Takes entries in; answers with those that are new, in the order in which they chain.
    pub fn insert(&mut self, source: Source, entries: impl IntoIterator<Item = Verified>) -> Vec<Verified> {
        let mut waiting: BTreeMap<EntryId, Verified> = std::mem::take(&mut self.orphans);
        waiting.extend(
            entries
                .into_iter()
                .filter(|e| !self.contains(e.id()))
                .map(|e| (e.id(), e)),
        );
        let mut added = Vec::new();
        loop {
            let ready: Vec<EntryId> = waiting.values().filter(|e| self.chains(e)).map(Verified::id).collect();
            if ready.is_empty() {
                break;
            }
            for id in ready {
                let entry = waiting.remove(&id).expect("just listed");
                if self.admit(&entry) {
                    added.push(entry);
                }
            }
        }
        if source == Source::Member {
            self.orphans = waiting.into_iter().take(ORPHANS_MAX).collect();
        }
        added
    }

    fn chains(&self, entry: &Verified) -> bool {
        match entry.entry() {
            Entry::Genesis(_) | Entry::Grant(_) | Entry::Ejection(_) => true,
            Entry::Admission(a) => self.grants.contains(&a.request.grant) && self.nodes.contains(&a.sponsor),
            Entry::Leave(leave) => self.nodes.contains(&leave.node),
        }
    }

    fn admit(&mut self, entry: &Verified) -> bool {
        let reserve = if entry.by_root() { 0 } else { LOG_ROOT_RESERVE };
        let full = self.entries.len() + reserve >= LOG_ENTRIES_MAX || self.bytes + entry.bytes().len() > LOG_BYTES_MAX;
        if full || self.contains(entry.id()) {
            return false;
        }
        match entry.entry() {
            Entry::Genesis(genesis) => drop(self.nodes.insert(genesis.founder)),
            Entry::Grant(grant) => drop(self.grants.insert(grant.key)),
            Entry::Admission(admission) => drop(self.nodes.insert(admission.request.joiner)),
            Entry::Ejection(_) | Entry::Leave(_) => {}
        }
        self.bytes += entry.bytes().len();
        self.entries.insert(entry.id(), entry.clone());
        true
    }

    /// What to compare with another log.
    pub fn digest(&self) -> Digest {
        let ids: Vec<u8> = self.entries.keys().flat_map(|id| id.0).collect();
        Digest {
            count: self.entries.len() as u32,
            hash: hash("ipop log digest v1", &[&ids]),
        }
    }

    /// Every entry, each after what it builds on.
    pub fn in_order(&self) -> Vec<&Verified> {
        let mut order: Vec<&Verified> = self
            .entries()
            .filter(|e| matches!(e.entry(), Entry::Genesis(_)))
            .collect();
        order.extend(
            self.entries()
                .filter(|e| e.by_root() && !matches!(e.entry(), Entry::Genesis(_))),
        );
        let mut known: BTreeSet<NodeId> = self.founders().collect();
        let mut admissions: Vec<&Verified> = self
            .entries()
            .filter(|e| matches!(e.entry(), Entry::Admission(_)))
            .collect();
        loop {
            let (ready, rest): (Vec<_>, Vec<_>) = admissions.into_iter().partition(|e| match e.entry() {
                Entry::Admission(a) => known.contains(&a.sponsor),
                _ => false,
            });
            admissions = rest;
            if ready.is_empty() {
                break;
            }
            for entry in ready {
                if let Entry::Admission(admission) = entry.entry() {
                    known.insert(admission.request.joiner);
                }
                order.push(entry);
            }
        }
        order.extend(self.entries().filter(|e| matches!(e.entry(), Entry::Leave(_))));
        order
    }

    fn founders(&self) -> impl Iterator<Item = NodeId> {
        self.entries().filter_map(|e| match e.entry() {
            Entry::Genesis(genesis) => Some(genesis.founder),
            _ => None,
        })
    }

    /// An entry, by its id.
    pub fn get(&self, id: EntryId) -> Option<&Verified> {
        self.entries.get(&id)
    }

    /// What every chain ends with: what the root said of this founder, which should be once.
    pub fn geneses_of(&self, founder: NodeId) -> impl Iterator<Item = &Verified> {
        self.entries()
            .filter(move |e| matches!(e.entry(), Entry::Genesis(genesis) if genesis.founder == founder))
    }

    /// The grant of an invite key.
    pub fn grant_of(&self, key: [u8; 32]) -> Option<&Verified> {
        self.entries()
            .find(|e| matches!(e.entry(), Entry::Grant(grant) if grant.key == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    #[test]
    fn what_chains_to_nothing_is_not_kept_from_anybody_and_waits_from_members() {
        let (first, second) = (admission(100, 2, 1, 1, 10, "bob"), admission(100, 3, 2, 2, 20, "carol"));
        let mut log = Log::new(network());
        log.insert(Source::Anybody, [genesis(), grant(100, 5)]);
        assert!(log.insert(Source::Anybody, [second.clone()]).is_empty());
        assert_eq!(log.insert(Source::Anybody, [first.clone()]).len(), 1);

        let mut log = Log::new(network());
        assert!(log.insert(Source::Member, [second.clone(), first.clone()]).is_empty());
        let added = log.insert(Source::Member, [genesis(), grant(100, 5)]);
        assert_eq!(added.len(), 4);
        assert_eq!(added[3].id(), second.id());
    }

    #[test]
    fn orphans_are_bounded() {
        let mut log = Log::new(network());
        let strangers = (0..300u64).map(|n| leave(9, n));
        assert!(log.insert(Source::Member, strangers).is_empty());
        assert_eq!(log.orphans.len(), ORPHANS_MAX);
    }

    #[test]
    fn a_flood_of_members_entries_leaves_room_for_the_root() {
        let mut log = Log::new(network());
        log.insert(
            Source::Member,
            [genesis(), grant(100, 5), admission(100, 2, 1, 1, 10, "mallory")],
        );
        log.insert(Source::Member, (0..LOG_ENTRIES_MAX as u64).map(|n| leave(2, n)));
        assert_eq!(log.len(), LOG_ENTRIES_MAX - LOG_ROOT_RESERVE);
        assert_eq!(log.insert(Source::Member, [ejection(2, 99, Vec::new())]).len(), 1);
    }
}
