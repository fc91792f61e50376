//! What must come out of a world, derived from the rules of its gateways without sending anything.
//!
//! Promises: says for two hosts whether UDP punching with host, reflexive and peer-reflexive addresses, both sides at
//! once, reaches across; else whether a relay does. Refuses to know: datagrams, time, ports as numbers.

mod punch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::nat::Dependence;
use crate::net::{Family, Gateway, Holder, HostId, Net, RealmId, TcpOut};
use punch::{Knows, Rules, punches};

/// How two hosts can reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Straight.
    Direct,
    /// Through the TURN server.
    Relay,
    /// Through another node only.
    Member,
    /// Not at all.
    Impossible,
}

/// The ways to a TURN server that relays to both address families it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its IPv4 side.
    pub v4: bool,
    /// Its IPv6 side.
    pub v6: bool,
    /// Ports on which it takes TCP.
    pub tcp: &'static [u16],
}

/// Who else there is.
pub struct Others<'a> {
    /// They run and are linked with everybody, and so may pass on datagrams.
    pub members: &'a [HostId],
    /// To them TURN over UDP is refused: the server still has what they allocated in a former life (RFC 8656 section
    /// 7.2, error 437).
    pub refused: &'a [HostId],
}

/// The verdict for two hosts among others.
pub fn verdict_among(net: &Net, a: HostId, b: HostId, turn: Option<Turn>, others: &Others<'_>) -> Verdict {
    let alone = verdict(net, a, b, turn);
    let over_udp = |host, other| {
        let lends = |host: &HostId| !others.refused.contains(host);
        let turn = turn.map(|turn| Turn { tcp: &[], ..turn });
        let direct = verdict(net, host, other, None) == Verdict::Direct;
        direct || turn.is_some_and(|turn| is_relayed(net, host, other, turn, lends))
    };
    // TURN over UDP comes before a member, and a member before TURN over TCP. Who reaches even the member only over
    // TCP does not go on from there.
    if alone == Verdict::Direct || over_udp(a, b) {
        return alone;
    }
    let through = |other: &HostId| over_udp(a, *other) && over_udp(*other, b);
    if others.members.iter().any(through) {
        return Verdict::Member;
    }
    alone
}

/// The verdict for two hosts alone, with STUN for both families somewhere in public.
pub fn verdict(net: &Net, a: HostId, b: HostId, turn: Option<Turn>) -> Verdict {
    if [true, false].into_iter().any(|v4| is_direct(net, a, b, v4)) {
        return Verdict::Direct;
    }
    match turn {
        Some(turn) if is_relayed(net, a, b, turn, |_| true) => Verdict::Relay,
        _ => Verdict::Impossible,
    }
}

fn is_direct(net: &Net, a: HostId, b: HostId, v4: bool) -> bool {
    let there = ways(net, a, b, v4);
    let back = ways(net, b, a, v4);
    let one_sided = |from, to, ways: &[Way]| {
        let mut each = ways.iter();
        each.any(|way| {
            let sides = [chain(net, v4, from, &way.up), chain(net, v4, to, &way.down)];
            punches(sides, Knows::OnlyA)
        })
    };
    let both = |there: &Way| {
        // Only where both meet in one place is what one opens what the other comes to.
        let mut same = back.iter().filter(|back| back.top == there.top);
        same.any(|back| {
            let side_a = chain(net, v4, a, there.up.iter().chain(&back.down));
            let side_b = chain(net, v4, b, back.up.iter().chain(&there.down));
            punches([side_a, side_b], Knows::Both)
        })
    };
    one_sided(a, b, &there) || one_sided(b, a, &back) || there.iter().any(both)
}

/// The ways of a host to the addresses that another signals: its own, and the one that STUN saw.
fn ways(net: &Net, from: HostId, to: HostId, v4: bool) -> Vec<Way> {
    if address(net, from, v4).is_none() {
        return Vec::new();
    }
    let signalled: BTreeSet<IpAddr> = [address(net, to, v4), reflexive(net, to, v4)]
        .into_iter()
        .flatten()
        .collect();
    let ways = signalled.into_iter().filter_map(|ip| way(net, from, to, ip));
    ways.collect()
}

/// The gateways that a datagram passes on its way up, and those on its way down.
struct Way {
    up: Vec<RealmId>,
    down: Vec<RealmId>,
    /// Where it turns.
    top: Top,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    Realm(RealmId),
    Hairpin(RealmId),
}

/// The way of a datagram to an address of another host, as far as addresses alone decide it. `None`: it ends at a
/// gateway, or at somebody else who has the same private address.
fn way(net: &Net, from: HostId, to: HostId, address: IpAddr) -> Option<Way> {
    let mut up = Vec::new();
    let mut realm = net.realm(from);
    loop {
        match net.holder(realm, address) {
            Some(Holder::Host(host)) => {
                let (down, top) = (Vec::new(), Top::Realm(realm));
                return (host == to).then_some(Way { up, down, top });
            }
            Some(Holder::Gateway(gateway)) => return descend(net, gateway, to, up, Top::Realm(realm)),
            None => {}
        }
        let (parent, gateway) = net.parent(realm)?;
        if !gateway.udp || family(gateway, address.is_ipv4()) == Family::Absent {
            return None;
        }
        up.push(realm);
        if net.outer(realm) == Some(address) {
            let hairpin = matches!(gateway.v4, Family::Nat(rules) if rules.hairpin);
            return hairpin.then(|| descend(net, realm, to, up, Top::Hairpin(realm)))?;
        }
        realm = parent;
    }
}

/// Down through a gateway and all below it to a host.
fn descend(net: &Net, gateway: RealmId, to: HostId, up: Vec<RealmId>, top: Top) -> Option<Way> {
    let above = net.realms_above(net.realm(to));
    let end = above.iter().position(|realm| *realm == gateway)?;
    let down = above[..=end].to_vec();
    let passes = down.iter().all(|realm| passes_udp(net, *realm));
    passes.then_some(Way { up, down, top })
}

fn passes_udp(net: &Net, realm: RealmId) -> bool {
    net.parent(realm).is_none_or(|(_, gateway)| gateway.udp)
}

/// The address that a public STUN server sees; `None`: it sees nothing.
fn reflexive(net: &Net, host: HostId, v4: bool) -> Option<IpAddr> {
    let above = net.realms_above(net.realm(host));
    let gateways = above.iter().filter_map(|realm| net.parent(*realm));
    let passes = gateways
        .into_iter()
        .all(|(_, gateway)| gateway.udp && family(gateway, v4) != Family::Absent);
    if !passes {
        return None;
    }
    let outer = above.iter().rev().find_map(|realm| net.outer(*realm));
    outer.filter(|_| v4).or(address(net, host, v4))
}

/// The rules of some gateways above a host, the innermost first.
fn chain<'a>(net: &Net, v4: bool, host: HostId, some: impl IntoIterator<Item = &'a RealmId>) -> Vec<Rules> {
    let some: BTreeSet<RealmId> = some.into_iter().copied().collect();
    let above = net.realms_above(net.realm(host)).into_iter();
    let gateways = above.filter(|realm| some.contains(realm));
    let rules = gateways.filter_map(|realm| {
        let (_, gateway) = net.parent(realm)?;
        match family(gateway, v4) {
            Family::Absent | Family::Open => None,
            Family::Firewall(filtering) => Some(Rules {
                mapping: Dependence::Independent,
                filtering,
            }),
            Family::Nat(nat) => Some(Rules {
                mapping: nat.mapping,
                filtering: nat.filtering,
            }),
        }
    });
    rules.collect()
}

/// `allows`: to whom the server lends anything.
fn is_relayed(net: &Net, a: HostId, b: HostId, turn: Turn, allows: impl Fn(&HostId) -> bool) -> bool {
    let lends = |host| -> BTreeSet<bool> {
        if !allows(&host) {
            return BTreeSet::new();
        }
        let reached = [(true, turn.v4), (false, turn.v6)];
        let reached = reached
            .into_iter()
            .any(|(v4, there)| there && reaches(net, host, v4, turn.tcp));
        let families = [(true, turn.v4), (false, turn.v6)].into_iter();
        families
            .filter(|(_, there)| reached && *there)
            .map(|(v4, _)| v4)
            .collect()
    };
    let takes = |host, v4| lends(host).contains(&v4) || reflexive(net, host, v4).is_some();
    let through = |host, peer| lends(host).into_iter().any(|v4| takes(peer, v4));
    through(a, b) || through(b, a)
}

/// Whether a host reaches a public server over UDP, or over TCP at one of the ports.
fn reaches(net: &Net, host: HostId, v4: bool, tcp: &[u16]) -> bool {
    if address(net, host, v4).is_none() {
        return false;
    }
    let above = net.realms_above(net.realm(host));
    let allows = |port: u16| {
        let mut gateways = above.iter().filter_map(|realm| net.parent(*realm));
        gateways.all(|(_, gateway)| match gateway.tcp {
            TcpOut::All => true,
            TcpOut::Only443 => port == 443,
            TcpOut::None => false,
        })
    };
    reflexive(net, host, v4).is_some() || tcp.iter().any(|port| allows(*port))
}

fn address(net: &Net, host: HostId, v4: bool) -> Option<IpAddr> {
    let of = |ip: &&IpAddr| ip.is_ipv4() == v4;
    net.addresses(host).iter().find(of).copied()
}

fn family(gateway: &Gateway, v4: bool) -> Family {
    if v4 { gateway.v4 } else { gateway.v6 }
}
