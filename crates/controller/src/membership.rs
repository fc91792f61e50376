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
use crate::entry::{Admission, Entry, EntryId, Genesis, Verified};
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
        self.v4.map(IpAddr::from).into_iter().chain([self.v6.into()]).collect()
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
    accepted: BTreeMap<NodeId, Vec<EntryId>>,
}

impl Roster {
    /// Works out who is in.
    pub fn evaluate(log: &Log) -> Self {
        let Some(genesis) = oldest_genesis(log) else {
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
            accepted: sets.by_joiner(&accepted),
        }
    }

    /// How many nodes used a grant, and whether this one did.
    pub fn uses_of(&self, grant: &[u8; 32], node: NodeId) -> (usize, bool) {
        let users = self.used.get(grant);
        (users.map_or(0, BTreeSet::len), users.is_some_and(|u| u.contains(&node)))
    }

    /// What proves a node's membership to who knows the root only: the admissions by which it came in with their grants, then
    /// its sponsors', up to the founder; nearest first. `log` is the one that this roster was worked out from.
    ///
    /// Admissions that were refused are left out: to who does not know what they were refused for, they would use up grants.
    pub fn chain_of<'a>(&self, log: &'a Log, node: NodeId) -> Vec<&'a Verified> {
        let mut chain: Vec<&Verified> = Vec::new();
        let mut wanted = vec![node];
        let mut seen = BTreeSet::new();
        let mut grants = BTreeSet::new();
        while let Some(node) = wanted.pop() {
            if !seen.insert(node) {
                continue;
            }
            chain.extend(log.geneses_of(node));
            let ids = self.accepted.get(&node).into_iter().flatten();
            for entry in ids.filter_map(|id| log.get(*id)) {
                if let Entry::Admission(admission) = entry.entry() {
                    let grant = log.grant_of(admission.request.grant);
                    chain.push(entry);
                    chain.extend(grant.filter(|g| grants.insert(g.id())));
                    wanted.push(admission.sponsor);
                }
            }
        }
        chain
    }

    /// Whether a node is in.
    pub fn has(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }
}

/// The root signs one; if it signed more, the oldest counts.
fn oldest_genesis(log: &Log) -> Option<&Genesis> {
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

    fn by_joiner(&self, accepted: &[EntryId]) -> BTreeMap<NodeId, Vec<EntryId>> {
        let mut by_joiner: BTreeMap<NodeId, Vec<EntryId>> = BTreeMap::new();
        for id in accepted {
            by_joiner
                .entry(self.admissions[id].request.joiner)
                .or_default()
                .push(*id);
        }
        by_joiner
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
        let mut order: Vec<(u64, EntryId)> = accepted
            .iter()
            .map(|id| (self.admissions[id].admitted_at, *id))
            .collect();
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
        let left = self
            .leaves
            .get(&node)
            .and_then(|all| all.range(joined_at..).next())
            .copied();
        let ejected = self.ejected.get(&node).copied();
        let end = [left, ejected].into_iter().flatten().min()?;
        Some(end.max(from))
    }

    fn gone(&self, genesis: &Genesis, members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, Gone> {
        let ever = self
            .admissions
            .values()
            .map(|a| a.request.joiner)
            .chain([genesis.founder]);
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
    let mut members: BTreeMap<NodeId, Member> = BTreeMap::new();
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut ends: BTreeMap<(u64, NodeId), (String, Option<Ipv4Addr>)> = BTreeMap::new();
    for stay in stays {
        // Admitted by two sponsors at once: the first place counts.
        if members.contains_key(&stay.node) {
            continue;
        }
        while let Some(end) = ends.first_entry().filter(|end| end.key().0 <= stay.from) {
            let (name, v4) = end.remove();
            names.remove(&name);
            v4.map(|v4| addresses.remove(&v4));
        }
        let member = Member {
            node: stay.node,
            name: free_name(&stay.name, &names),
            v4: ipv4_of(genesis.subnet, stay.node, &addresses),
            v6: ipv6_of(network, stay.node),
            sponsor: stay.sponsor,
            joined_at: stay.joined_at,
        };
        if let Some(until) = stay.until {
            if until <= stay.from || ends.contains_key(&(until, stay.node)) {
                continue;
            }
            ends.insert((until, stay.node), (member.name.clone(), member.v4));
        }
        names.insert(member.name.clone());
        addresses.extend(member.v4);
        if stay.until.is_none() && !clashes(&members, &member) {
            members.insert(stay.node, member);
        }
    }
    members
}

/// 64 bits of a hash are the same for two nodes only if somebody worked hard for it: the later one is not let in.
fn clashes(members: &BTreeMap<NodeId, Member>, new: &Member) -> bool {
    members.values().any(|m| m.v6 == new.v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::log::Source;
    use proptest::prelude::*;

    fn log(entries: &[Verified]) -> Log {
        let mut log = Log::new(network());
        log.insert(Source::Member, entries.iter().cloned());
        log
    }

    fn names(entries: &[Verified]) -> Vec<String> {
        let mut names: Vec<String> = Roster::evaluate(&log(entries))
            .members
            .into_values()
            .map(|m| m.name)
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_member_chains_to_the_root_through_its_sponsors() {
        let all = [
            genesis(),
            grant(100, 5),
            admission(100, 2, 1, 1, 10, "bob"),
            admission(100, 3, 2, 2, 20, "carol"),
        ];
        assert_eq!(names(&all), ["ann", "bob", "carol"]);
        // Without bob nobody vouches for carol; without the grant nobody may.
        assert_eq!(names(&[all[0].clone(), all[1].clone(), all[3].clone()]), ["ann"]);
        assert_eq!(names(&[all[0].clone(), all[2].clone(), all[3].clone()]), ["ann"]);
    }

    #[test]
    fn a_sponsor_that_is_no_member_admits_nobody() {
        assert_eq!(
            names(&[genesis(), grant(100, 5), admission(100, 3, 9, 1, 10, "mallory")]),
            ["ann"]
        );
        let ring = [admission(100, 3, 9, 1, 10, "x"), admission(100, 9, 3, 1, 10, "y")];
        assert_eq!(
            names(&[genesis(), grant(100, 5), ring[0].clone(), ring[1].clone()]),
            ["ann"]
        );
    }

    #[test]
    fn uses_are_a_limit_and_one_node_uses_once() {
        let mut all = vec![genesis(), grant(100, 2)];
        all.extend((2..8).map(|n| admission(100, n, 1, u16::from(n) - 1, 10, "guest")));
        all.push(admission(100, 2, 1, 9, 11, "guest"));
        let roster = Roster::evaluate(&log(&all));
        assert_eq!(
            roster.members.keys().copied().collect::<BTreeSet<_>>(),
            BTreeSet::from([node(1), node(2), node(3)])
        );
        assert_eq!(roster.gone[&node(7)], Gone::Refused);
    }

    #[test]
    fn an_admission_after_the_grant_ended_does_not_count() {
        let late = admission(100, 2, 1, 1, 86_400 + CLOCK_TOLERANCE_S + 1, "bob");
        let in_time = admission(100, 3, 1, 1, 86_400 + CLOCK_TOLERANCE_S, "carol");
        assert_eq!(names(&[genesis(), grant(100, 5), late, in_time]), ["ann", "carol"]);
    }

    #[test]
    fn names_and_addresses_stay_when_others_leave_and_are_free_again() {
        let mut all = vec![
            genesis_in("10.9.9.0/29"),
            grant(100, 50),
            admission(100, 2, 1, 1, 10, "bob"),
            admission(100, 3, 1, 2, 20, "bob"),
        ];
        let before = Roster::evaluate(&log(&all));
        assert_eq!(before.members[&node(3)].name, "bob-2");
        all.push(leave(2, 30));
        let after = Roster::evaluate(&log(&all));
        assert_eq!(after.members[&node(3)], before.members[&node(3)]);
        assert_eq!(after.gone[&node(2)], Gone::Left(START + 30));
        all.push(admission(100, 4, 1, 3, 40, "bob"));
        assert_eq!(Roster::evaluate(&log(&all)).members[&node(4)].name, "bob");
        // Six hosts for ever, as long as people leave.
        for n in 5..40 {
            all.push(admission(100, n, 1, u16::from(n), 40 + u64::from(n) * 2, "guest"));
            all.push(leave(n, 41 + u64::from(n) * 2));
        }
        all.push(admission(100, 50, 1, 49, 500, "last"));
        assert!(Roster::evaluate(&log(&all)).members[&node(50)].v4.is_some());
    }

    #[test]
    fn who_left_comes_back_by_a_later_join_only() {
        let mut all = vec![
            genesis(),
            grant(100, 5),
            admission(100, 2, 1, 1, 10, "bob"),
            leave(2, 30),
        ];
        all.push(admission(100, 2, 1, 1, 30, "bob"));
        assert_eq!(names(&all), ["ann"]);
        all.push(admission(100, 2, 1, 1, 31, "bob"));
        assert_eq!(names(&all), ["ann", "bob"]);
    }

    #[test]
    fn an_ejected_key_never_comes_back_and_takes_its_guests_along_but_for_those_kept() {
        let kept = admission(100, 3, 2, 2, 20, "carol");
        let mut all = vec![
            genesis(),
            grant(100, 9),
            admission(100, 2, 1, 1, 10, "mallory"),
            kept.clone(),
            admission(100, 4, 2, 3, 20, "sybil"),
            ejection(2, 25, vec![kept.id()]),
        ];
        assert_eq!(names(&all), ["ann", "carol"]);
        all.push(admission(100, 2, 1, 4, 40, "mallory"));
        all.push(leave(2, 41));
        all.push(admission(100, 2, 1, 5, 50, "mallory"));
        assert_eq!(names(&all), ["ann", "carol"]);
        assert_eq!(Roster::evaluate(&log(&all)).gone[&node(2)], Gone::Ejected);
    }

    #[test]
    fn the_founder_can_leave_and_its_guests_stay() {
        let all = [
            genesis(),
            grant(100, 9),
            admission(100, 2, 1, 1, 10, "bob"),
            leave(1, 20),
            admission(100, 3, 2, 2, 30, "carol"),
        ];
        assert_eq!(names(&all), ["bob", "carol"]);
    }

    fn chain_proves(whole: &Log, roster: &Roster, node: NodeId) -> bool {
        let chain: Vec<Verified> = roster.chain_of(whole, node).into_iter().cloned().collect();
        let mut alone = Log::new(network());
        alone.insert(Source::Anybody, chain);
        Roster::evaluate(&alone).has(node)
    }

    #[test]
    fn a_chain_proves_though_who_reads_it_does_not_know_the_ejection_that_left_a_use_of_the_invite() {
        let whole = log(&[
            genesis(),
            grant(100, 1),
            grant(101, 9),
            admission(101, 2, 1, 1, 10, "mallory"),
            admission(100, 3, 2, 1, 20, "sybil"),
            ejection(2, 55, Vec::new()),
            admission(100, 4, 1, 2, 60, "bob"),
            admission(100, 4, 3, 3, 60, "bob"),
        ]);
        let roster = Roster::evaluate(&whole);
        assert!(roster.has(node(4)));
        assert!(chain_proves(&whole, &roster, node(4)));
    }

    /// A busy history: nodes 1 to 12, three grants, clashes of names and uses, leaves, an ejection.
    fn history() -> impl Strategy<Value = Vec<Verified>> {
        let step = (2u8..12, 1u8..12, 0u8..3, 1u16..4, 1u64..60, 0u8..8);
        proptest::collection::vec(step, 1..24).prop_map(|steps| {
            let mut all = vec![genesis_in("10.9.9.0/28"), grant(100, 1), grant(101, 3), grant(102, 20)];
            for (joiner, sponsor, invite, index, at, kind) in steps {
                all.push(match kind {
                    0 => leave(joiner, at),
                    1 if at > 50 => ejection(joiner, at, Vec::new()),
                    _ if joiner == sponsor => leave(joiner, at),
                    _ => admission(
                        100 + invite,
                        joiner,
                        sponsor,
                        index,
                        at,
                        ["bob", "guest"][usize::from(joiner % 2)],
                    ),
                });
            }
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn order_repetition_and_parts_do_not_matter(all in history(), seed in any::<u64>(), cut in 0usize..30) {
            use rand::{SeedableRng, seq::SliceRandom};
            let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
            let straight = log(&all);
            let mut shuffled = all.clone();
            shuffled.extend(all.iter().take(cut).cloned());
            shuffled.shuffle(&mut rng);
            let mut other = Log::new(network());
            for part in shuffled.chunks(1 + cut) {
                other.insert(Source::Member, part.iter().cloned());
            }
            prop_assert_eq!(other.digest(), straight.digest());
            prop_assert_eq!(Roster::evaluate(&other), Roster::evaluate(&straight));
        }

        #[test]
        fn an_older_log_takes_nothing_back(all in history(), cut in 1usize..20) {
            let mut whole = log(&all);
            let before = Roster::evaluate(&whole);
            whole.insert(Source::Member, all[..cut.min(all.len())].iter().cloned());
            prop_assert_eq!(Roster::evaluate(&whole), before);
        }

        #[test]
        fn names_and_addresses_are_unique(all in history()) {
            let roster = Roster::evaluate(&log(&all));
            let names: BTreeSet<_> = roster.members.values().map(|m| m.name.clone()).collect();
            let v4: BTreeSet<_> = roster.members.values().filter_map(|m| m.v4).collect();
            prop_assert_eq!(names.len(), roster.members.len());
            prop_assert_eq!(v4.len(), roster.members.values().filter(|m| m.v4.is_some()).count());
            for used in roster.used.values() {
                prop_assert!(used.len() <= 20);
            }
        }

        #[test]
        fn in_order_and_chain_rebuild_what_they_show(all in history()) {
            let whole = log(&all);
            let order: Vec<Verified> = whole.in_order().into_iter().cloned().collect();
            prop_assert_eq!(log(&order).digest(), whole.digest());
            let roster = Roster::evaluate(&whole);
            for node in roster.members.keys() {
                prop_assert!(chain_proves(&whole, &roster, *node));
            }
        }
    }
}
