//! What waits until direct paths had their chance: relays, and ways through members.
//!
//! Promises: a way is paired with our own end of ways alone (in `is` they have a protocol to themselves), and one that the
//! link did not name is not spoken to.
//! Refuses to know: which members there are.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use is::Protocol;

use super::candidate::{WAY_PREFERENCE, WAY_PRIORITY};
use super::inner::{to_is_local, to_is_remote};
use super::{Agent, Candidate, CandidateKind, Rank};
use crate::limits;
use crate::transit::{HERE, Way, is_reserved};

/// Whether relays are tried already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Waiting,
    Until(Instant),
    Released,
}

/// The ways through members that there are.
#[derive(Default)]
pub(super) struct Ways {
    list: Vec<SocketAddr>,
    /// How many there ever were: `is` never forgets one.
    ever: usize,
    /// Whether `is` knows our own end.
    has_here: bool,
}

impl Ways {
    pub(super) fn contains(&self, remote: SocketAddr) -> bool {
        self.list.contains(&remote)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.list.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

/// In `is` candidates pair within a protocol. What goes through members is no TLS, but nothing else here is either.
pub(super) fn protocol(remote: SocketAddr) -> Protocol {
    if is_reserved(remote.ip()) {
        Protocol::Tls
    } else {
        Protocol::Udp
    }
}

impl Agent {
    /// The ways through members to this peer as they are now; the first few are taken.
    pub fn set_ways(&mut self, now: Instant, ways: &[Way]) {
        let wanted: Vec<SocketAddr> = ways.iter().take(limits::WAYS).map(|way| way.address()).collect();
        let gone: Vec<SocketAddr> = self.ways.iter().filter(|way| !wanted.contains(way)).collect();
        for way in gone {
            self.remove_way(way);
        }
        for way in wanted {
            let room = self.ways.ever < limits::WAYS_EVER;
            if room && !self.ways.contains(way) {
                self.ways.list.push(way);
                self.ways.ever += 1;
                self.give_way(way);
            }
        }
        self.drain(now);
    }

    fn remove_way(&mut self, way: SocketAddr) {
        self.ways.list.retain(|known| *known != way);
        self.inner.invalidate_candidate(&to_is_way(way));
        self.pairs.retain(|(_, remote), _| *remote != way);
        if self.nominated.is_some_and(|(_, remote)| remote == way) {
            self.nominated = None;
            self.release_relays();
        }
    }

    /// Who stands between two addresses.
    pub(crate) fn rank(&self, local: SocketAddr, remote: SocketAddr) -> Rank {
        let ours = self.locals.iter().filter(|c| c.address == local);
        rank_of(ours).max(self.rank_of_remote(remote))
    }

    /// The same, as far as the peer's address says it.
    pub(crate) fn rank_of_remote(&self, remote: SocketAddr) -> Rank {
        if is_reserved(remote.ip()) {
            return Rank::Member;
        }
        rank_of(self.remotes.iter().filter(|c| c.address == remote))
    }

    /// Whether we have this end for datagrams to leave from.
    pub(super) fn has_local(&self, local: SocketAddr) -> bool {
        let mut own = self.locals.iter().filter(|c| c.kind != CandidateKind::ServerReflexive);
        local == HERE || own.any(|c| c.address == local)
    }

    /// What is known of the peer, now that `is` can take it.
    pub(super) fn give_remotes(&mut self) {
        for candidate in self.remotes.clone() {
            self.give_remote(&candidate);
        }
        self.give_ways();
    }

    pub(super) fn give_local(&mut self, candidate: &Candidate) {
        if candidate.kind == CandidateKind::Relayed && self.relays != Hold::Released {
            return;
        }
        self.preference
            .store(u32::from(candidate.preference()), Ordering::Relaxed);
        if let Some(inner) = to_is_local(candidate) {
            self.inner.add_local_candidate(inner);
        }
    }

    pub(super) fn give_remote(&mut self, candidate: &Candidate) {
        let held = candidate.kind == CandidateKind::Relayed && self.relays != Hold::Released;
        if self.remote_credentials.is_some() && !held {
            self.inner.add_remote_candidate(to_is_remote(candidate));
        }
    }

    fn give_ways(&mut self) {
        for way in self.ways.list.clone() {
            self.give_way(way);
        }
    }

    fn give_way(&mut self, way: SocketAddr) {
        if self.remote_credentials.is_none() || self.relays != Hold::Released {
            return;
        }
        // Given again it would replace itself, and all its pairs be forgotten.
        if !std::mem::replace(&mut self.ways.has_here, true)
            && let Ok(here) = is::Candidate::relayed(HERE, HERE, protocol(HERE))
        {
            self.preference.store(WAY_PREFERENCE, Ordering::Relaxed);
            self.inner.add_local_candidate(here);
        }
        self.inner.add_remote_candidate(to_is_way(way));
    }

    pub(super) fn release_relays(&mut self) {
        if self.relays == Hold::Released {
            return;
        }
        self.relays = Hold::Released;
        let is_relayed = |candidate: &&Candidate| candidate.kind == CandidateKind::Relayed;
        for candidate in self.locals.clone().iter().filter(is_relayed) {
            self.give_local(candidate);
        }
        for candidate in self.remotes.clone().iter().filter(is_relayed) {
            self.give_remote(candidate);
        }
        self.give_ways();
    }
}

fn rank_of<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Rank {
    let relays = candidates.filter(|c| c.kind == CandidateKind::Relayed);
    let ranks = relays.map(|c| if c.is_over_stream() { Rank::Stream } else { Rank::Turn });
    ranks.max().unwrap_or(Rank::Direct)
}

fn to_is_way(way: SocketAddr) -> is::Candidate {
    let (kind, protocol) = (is::CandidateKind::Relayed, protocol(way));
    is::Candidate::from_parts("1".to_owned(), 1, protocol, WAY_PRIORITY, way, kind, None, None, None)
}
