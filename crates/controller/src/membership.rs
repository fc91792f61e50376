//! Who is in: what the entries of a log amount to.
//!
//! Promises: the roster depends on the set of entries and on nothing else: no order, no clock, no chance. Only who chains to
//! the root by grant, admission and sponsor is in it.
//!
//! Rules, the same on every node:
//! - Admissions are looked at from the founder on, always the one with the lowest (use index, id) whose sponsor is admitted;
//!   what a grant has no uses left for is refused. One node uses a grant once, however often it was admitted by it.
//! - A leave undoes what its node joined at or before it; an ejection undoes its node for ever, and whom that node let in,
//!   but for the admissions that the ejection keeps.
//! - Names and IPv4 addresses go by time of admission, then id: who comes later gets the next free one, and who has one keeps
//!   it when others go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{Cidr, NetworkId, NodeId};

use crate::addressing::{free_name, ipv4_of, ipv6_of, ipv6_subnet};
use crate::entry::{Admission, Entry, EntryId, Genesis};
use crate::limits::CLOCK_TOLERANCE_S;
use crate::log::Log;

/// A member as all see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its name, unique in the group.
    pub name: String,
    /// Its IPv4 address; none where the subnet is full.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Who let it in; none for the founder.
    pub sponsor: Option<NodeId>,
    /// When it asked, by its own clock.
    pub joined_at: u64,
}

impl Member {
    /// IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4
            .map(IpAddr::from)
            .into_iter()
            .chain([self.v6.into()])
            .collect()
    }
}

/// What the root said of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The group's name.
    pub name: String,
    /// IPv4.
    pub subnet: Cidr,
    /// IPv6.
    pub subnet6: Cidr,
    /// The first member.
    pub founder: NodeId,
}

/// Why a node that once was admitted is not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The root revoked its key.
    Ejected,
    /// It left, at this time by its clock.
    Left(u64),
    /// Its invite was used up, or its sponsor is not (any more) one whose word counts.
    Refused,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// None until a genesis is in the log.
    pub facts: Option<Facts>,
    /// Who is in.
    pub members: BTreeMap<NodeId, Member>,
    /// Who is not (any more).
    pub gone: BTreeMap<NodeId, Gone>,
    used: BTreeMap<[u8; 32], BTreeSet<NodeId>>,
}

impl Roster {
    /// Works out who is in.
    pub fn evaluate(log: &Log) -> Self {
        let Some(genesis) = genesis(log) else {
            return Self::default();
        };
        let sets = Sets::of(log);
        let (accepted, used) = sets.accept(genesis.founder);
        let stays = sets.stays(genesis, &accepted);
        let members = place(log.network(), genesis, &stays);
        let gone = sets.gone(genesis, &members);
        Self {
            facts: Some(Facts {
                name: genesis.name.clone(),
                subnet: genesis.subnet,
                subnet6: ipv6_subnet(log.network()),
                founder: genesis.founder,
            }),
            members,
            gone,
            used,
        }
    }

    /// Nodes that used a grant.
    pub fn uses_of(&self, grant: &[u8; 32]) -> usize {
        self.used.get(grant).map_or(0, BTreeSet::len)
    }

    /// Whether a node is in.
    pub fn has(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }
}

/// The root signs one; if it signed more, the oldest counts.
fn genesis(log: &Log) -> Option<&Genesis> {
    log.entries()
        .filter_map(|e| match e.entry() {
            Entry::Genesis(genesis) => Some((genesis.created, e.id(), genesis)),
            _ => None,
        })
        .min_by_key(|(created, id, _)| (*created, *id))
        .map(|(_, _, genesis)| genesis)
}

/// The entries, by what they do.
#[derive(Default)]
struct Sets<'a> {
    grants: BTreeMap<[u8; 32], (EntryId, u16, u64)>,
    admissions: BTreeMap<EntryId, &'a Admission>,
    by_sponsor: BTreeMap<NodeId, Vec<EntryId>>,
    ejected: BTreeMap<NodeId, u64>,
    kept: BTreeSet<EntryId>,
    leaves: BTreeMap<NodeId, BTreeSet<u64>>,
}

impl<'a> Sets<'a> {
    fn of(log: &'a Log) -> Self {
        let mut sets = Self::default();
        for entry in log.entries() {
            match entry.entry() {
                Entry::Genesis(_) => {}
                // Entries come by id, so of two grants for one key the one with the lower id counts.
                Entry::Grant(g) => drop(sets.grants.entry(g.key).or_insert((entry.id(), g.uses, g.expires_at))),
                Entry::Admission(admission) => {
                    sets.admissions.insert(entry.id(), admission);
                    sets.by_sponsor.entry(admission.sponsor).or_default().push(entry.id());
                }
                Entry::Ejection(ejection) => {
                    let at = sets.ejected.entry(ejection.node).or_insert(ejection.at);
                    *at = ejection.at.min(*at);
                    sets.kept.extend(&ejection.keeps);
                }
                Entry::Leave(leave) => drop(sets.leaves.entry(leave.node).or_default().insert(leave.left_at)),
            }
        }
        sets
    }

    /// Admissions that chain to the founder and for which their grants had uses left.
    fn accept(&self, founder: NodeId) -> (Vec<EntryId>, BTreeMap<[u8; 32], BTreeSet<NodeId>>) {
        let mut used: BTreeMap<[u8; 32], BTreeSet<NodeId>> = BTreeMap::new();
        let mut accepted = Vec::new();
        let mut admitted = BTreeSet::new();
        let mut ready = BTreeSet::new();
        self.enter(founder, &mut admitted, &mut ready);
        while let Some((_, id)) = ready.pop_first() {
            let admission = self.admissions[&id];
            let request = &admission.request;
            let Some((_, uses, expires_at)) = self.grants.get(&request.grant) else {
                continue;
            };
            let by_ejected = self.ejected.contains_key(&admission.sponsor) && !self.kept.contains(&id);
            let late = admission.admitted_at > expires_at.saturating_add(CLOCK_TOLERANCE_S);
            let users = used.entry(request.grant).or_default();
            let spent = users.len() >= usize::from(*uses) && !users.contains(&request.joiner);
            if by_ejected || late || spent {
                continue;
            }
            users.insert(request.joiner);
            accepted.push(id);
            self.enter(request.joiner, &mut admitted, &mut ready);
        }
        (accepted, used)
    }

    fn enter(&self, node: NodeId, admitted: &mut BTreeSet<NodeId>, ready: &mut BTreeSet<(u16, EntryId)>) {
        if admitted.insert(node) {
            let ids = self.by_sponsor.get(&node).into_iter().flatten();
            ready.extend(ids.map(|id| (self.admissions[id].index, *id)));
        }
    }

    /// From when to when each accepted admission held its place, in the order of places.
    fn stays(&self, genesis: &Genesis, accepted: &[EntryId]) -> Vec<Stay> {
        let founder = Stay {
            node: genesis.founder,
            name: genesis.founder_name.clone(),
            sponsor: None,
            joined_at: genesis.created,
            from: 0,
            until: self.end(genesis.founder, genesis.created, 0),
        };
        let mut order: Vec<(u64, EntryId)> = accepted.iter().map(|id| (self.admissions[id].admitted_at, *id)).collect();
        order.sort_unstable();
        let others = order.into_iter().map(|(from, id)| {
            let admission = self.admissions[&id];
            let request = &admission.request;
            Stay {
                node: request.joiner,
                name: request.name.clone(),
                sponsor: Some(admission.sponsor),
                joined_at: request.joined_at,
                from,
                until: self.end(request.joiner, request.joined_at, from),
            }
        });
        std::iter::once(founder).chain(others).collect()
    }

    fn end(&self, node: NodeId, joined_at: u64, from: u64) -> Option<u64> {
        let left = self.leaves.get(&node).and_then(|all| all.range(joined_at..).next()).copied();
        let ejected = self.ejected.get(&node).copied();
        let end = [left, ejected].into_iter().flatten().min()?;
        Some(end.max(from))
    }

    fn gone(&self, genesis: &Genesis, members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, Gone> {
        let ever = self.admissions.values().map(|a| a.request.joiner).chain([genesis.founder]);
        ever.filter(|node| !members.contains_key(node))
            .map(|node| {
                let left = self.leaves.get(&node).and_then(|all| all.last());
                let why = match (self.ejected.contains_key(&node), left) {
                    (true, _) => Gone::Ejected,
                    (false, Some(at)) => Gone::Left(*at),
                    (false, None) => Gone::Refused,
                };
                (node, why)
            })
            .chain(self.ejected.keys().map(|node| (*node, Gone::Ejected)))
            .collect()
    }
}

/// One accepted admission and how long it lasted.
struct Stay {
    node: NodeId,
    name: String,
    sponsor: Option<NodeId>,
    joined_at: u64,
    from: u64,
    until: Option<u64>,
}

/// Gives names and addresses in the order of stays.
fn place(network: NetworkId, genesis: &Genesis, stays: &[Stay]) -> BTreeMap<NodeId, Member> {
    let mut placed: Vec<(Option<u64>, Member)> = Vec::new();
    let mut members: BTreeMap<NodeId, Member> = BTreeMap::new();
    for stay in stays {
        // Admitted by two sponsors at once: the first place counts.
        if stay.until.is_none() && members.contains_key(&stay.node) {
            continue;
        }
        let there = || {
            placed
                .iter()
                .filter(|(until, _)| until.is_none_or(|until| until > stay.from))
                .map(|(_, member)| member)
        };
        let names = there().map(|m| m.name.clone()).collect();
        let addresses = there().filter_map(|m| m.v4).collect();
        let v6 = ipv6_of(network, stay.node);
        if there().any(|m| m.v6 == v6 && m.node != stay.node) {
            continue;
        }
        let member = Member {
            node: stay.node,
            name: free_name(&stay.name, &names),
            v4: ipv4_of(genesis.subnet, stay.node, &addresses),
            v6,
            sponsor: stay.sponsor,
            joined_at: stay.joined_at,
        };
        if stay.until.is_none() {
            members.insert(stay.node, member.clone());
        }
        placed.push((stay.until, member));
    }
    members
}
