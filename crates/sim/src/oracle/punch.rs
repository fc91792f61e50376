//! The game of punching holes, played with the rules of NATs and names for ports: no time, no numbers, no datagrams.
//!
//! Promises: finds what two sides find that check every address they learn of, both at once, as ICE does.
//! Refuses to know: which gateways stand where.

use std::collections::BTreeSet;

use crate::nat::Dependence;

/// One gateway on the way of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) mapping: Dependence,
    pub(super) filtering: Dependence,
}

/// Whose address can be sent to before anything came from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knows {
    Both,
    /// Only `a` has an address of `b` to send to.
    OnlyA,
}

/// After so many rounds of checks nothing new can be learnt that helps.
const ROUNDS: usize = 4;

/// Both sides, behind their gateways (innermost first), send to every address of the other that they know: the one
/// STUN saw, then every one that a check came from. True once a check is answered from where it went.
pub(super) fn punches(sides: [Vec<Rules>; 2], knows: Knows) -> bool {
    let mut game = Game {
        sides,
        ports: Vec::new(),
        known: [BTreeSet::new(), BTreeSet::new()],
    };
    for (side, peer) in [(A, B), (B, A)] {
        let seen = game.outbound(peer, Target::Stun);
        if side == A || knows == Knows::Both {
            game.known[side].insert(seen);
        }
    }
    (0..ROUNDS).any(|_| game.round())
}

const A: usize = 0;
const B: usize = 1;

/// A port of a host or of one of its gateways, as a name: its place among those told apart.
type Port = usize;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Stun,
    /// A port of the other side.
    Peer(Port),
}

/// What decides a gateway's port: who uses it, and the target as far as the mapping looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    side: usize,
    /// 0: the host itself, then its gateways outwards.
    level: usize,
    inner: Option<Port>,
    /// The target's address, where the mapping depends on it: whether that is the STUN server's.
    address: Option<bool>,
    target: Option<Target>,
}

struct Named {
    origin: Origin,
    /// What was sent to from it.
    sent: Vec<Target>,
}

struct Game {
    sides: [Vec<Rules>; 2],
    ports: Vec<Named>,
    /// Ports of the other side that each side knows.
    known: [BTreeSet<Port>; 2],
}

impl Game {
    /// Every known port is sent to; then it is seen what came through. True if a check was answered.
    fn round(&mut self) -> bool {
        let mut checks = Vec::new();
        for side in [A, B] {
            for to in self.known[side].clone() {
                let from = self.outbound(side, Target::Peer(to));
                checks.push((side, from, to));
            }
        }
        let answered = |(side, from, to): &(usize, Port, Port)| self.check(*side, *from, *to);
        let answers: Vec<bool> = checks.iter().map(answered).collect();
        answers.contains(&true)
    }

    fn check(&mut self, side: usize, from: Port, to: Port) -> bool {
        let peer = 1 - side;
        if !self.admits(peer, from, to) {
            return false;
        }
        self.known[peer].insert(from);
        self.outbound(peer, Target::Peer(from)) == to
    }

    /// Sends through all gateways of a side; the outermost port.
    fn outbound(&mut self, side: usize, target: Target) -> Port {
        let host = Origin {
            side,
            level: 0,
            inner: None,
            address: None,
            target: None,
        };
        let mut port = self.name(host, target);
        for (below, rules) in self.sides[side].clone().into_iter().enumerate() {
            let depends = rules.mapping;
            let origin = Origin {
                side,
                level: below + 1,
                inner: Some(port),
                address: (depends >= Dependence::Address).then_some(target == Target::Stun),
                target: (depends == Dependence::AddressAndPort).then_some(target),
            };
            port = self.name(origin, target);
        }
        port
    }

    /// Whether what comes from a port of the other side to a port of this one reaches the host.
    fn admits(&self, side: usize, from: Port, to: Port) -> bool {
        let mut at = to;
        loop {
            let Named { origin, sent } = &self.ports[at];
            let Some(inner) = origin.inner else {
                return true;
            };
            let passes = match self.sides[side][origin.level - 1].filtering {
                // It is there because something was sent from it.
                Dependence::Independent => true,
                Dependence::Address => sent.iter().any(|target| *target != Target::Stun),
                Dependence::AddressAndPort => sent.contains(&Target::Peer(from)),
            };
            if !passes {
                return false;
            }
            at = inner;
        }
    }

    fn name(&mut self, origin: Origin, target: Target) -> Port {
        let known = self.ports.iter().position(|port| port.origin == origin);
        let port = known.unwrap_or_else(|| {
            let sent = Vec::new();
            self.ports.push(Named { origin, sent });
            self.ports.len() - 1
        });
        if !self.ports[port].sent.contains(&target) {
            self.ports[port].sent.push(target);
        }
        port
    }
}
