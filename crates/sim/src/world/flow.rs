//! Inner frames of a world: sent by tests, judged where they come out.
//!
//! Promises: a frame comes out once, where it was sent to, with a source of its sender; else the run ends there.
//! Refuses to know: which way it went.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;

use super::World;
use crate::frames::{self, Label};
use crate::oracle::Verdict;

/// As long as a frame may be to pass over every path: IPv6's smallest MTU. A full 1400 bytes do not fit a wire of 1500
/// where a TURN server takes them as Send indication, before a channel is bound.
const SURE: usize = 1280;

/// A frame that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    from: usize,
    to: usize,
    number: u32,
}

impl World {
    /// Sends a frame from one node to another, IPv6 for odd numbers; its number.
    pub fn send(&mut self, from: &str, to: &str, length: usize) -> u32 {
        self.send_frame(self.index(from), self.index(to), length)
    }

    /// Whether a frame arrived.
    pub fn has_arrived(&self, from: &str, to: &str, number: u32) -> bool {
        let (from, to) = (self.index(from), self.index(to));
        self.nodes[to]
            .received
            .get(&from)
            .is_some_and(|numbers| numbers.contains(&number))
    }

    /// The MTUs that ICMP errors told the applications of a node so far.
    pub fn told(&self, name: &str) -> &[u32] {
        &self.nodes[self.index(name)].told
    }

    /// The longest frame that a node says its path to another carries, if it has one.
    pub fn path_mtu(&mut self, from: &str, to: &str) -> Option<u16> {
        let id = self.nodes[self.index(to)].identity.id;
        let state = self.state(from);
        let mut peers = state.networks.into_iter().flat_map(|network| network.peers);
        peers.find(|peer| peer.node == id)?.path?.mtu
    }

    /// How many frames of one node arrived at another.
    pub fn arrived(&self, from: &str, to: &str) -> usize {
        let (from, to) = (self.index(from), self.index(to));
        self.nodes[to].received.get(&from).map_or(0, BTreeSet::len)
    }

    /// Sends frames both ways between every linked pair until one each has arrived; panics after `limit`.
    pub fn expect_flow(&mut self, limit: Duration) {
        let linked: Vec<_> = self
            .pairs()
            .filter(|(a, b)| self.path_of(*a, *b) != Verdict::Impossible)
            .collect();
        self.expect_flow_of(linked, limit);
    }

    /// The same for one pair, linked or not.
    pub fn expect_flow_between(&mut self, a: &str, b: &str, limit: Duration) {
        let pair = (self.index(a), self.index(b));
        self.expect_flow_of(vec![pair], limit);
    }

    fn expect_flow_of(&mut self, linked: Vec<(usize, usize)>, limit: Duration) {
        let end = self.net.now() + limit;
        let count =
            |world: &World, (from, to): (usize, usize)| world.nodes[to].received.get(&from).map_or(0, BTreeSet::len);
        let ways: Vec<_> = linked.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect();
        let before: Vec<_> = ways.iter().map(|way| count(self, *way)).collect();
        loop {
            let open = |world: &World| -> Vec<(usize, usize)> {
                let both = ways.iter().zip(&before);
                both.filter(|(way, before)| count(world, **way) == **before)
                    .map(|(way, _)| *way)
                    .collect()
            };
            let missing = open(self);
            if missing.is_empty() {
                return;
            }
            if self.net.now() >= end {
                self.fail(&format!("no frame arrives: {missing:?}"));
            }
            for (from, to) in missing {
                self.send_frame(from, to, 0);
            }
            self.run(Duration::from_millis(100));
        }
    }

    /// Sends frames for a while, one after a random pause of at most `pause`, between random linked nodes.
    pub fn talk(&mut self, time: Duration, pause: Duration) -> Vec<Sent> {
        let end = self.net.now() + time;
        let mut sent = Vec::new();
        while self.net.now() < end {
            if self.is_strict {
                self.expect_nothing_impossible();
            }
            let (from, to) = self.random_way();
            let length = self.rng.random_range(0..=SURE);
            if self.path_of(from, to) != Verdict::Impossible {
                let number = self.send_frame(from, to, length);
                sent.push(Sent { from, to, number });
            }
            let wait = self.rng.random_range(Duration::ZERO..pause);
            self.run(wait);
        }
        sent
    }

    /// Sends one frame over each way that the oracle does not call impossible, linked or not.
    pub fn knock(&mut self) -> Vec<Sent> {
        let ways: Vec<_> = self.pairs().flat_map(|(a, b)| [(a, b), (b, a)]).collect();
        let mut sent = Vec::new();
        for (from, to) in ways {
            if self.verdict_of(from, to) != Verdict::Impossible {
                let number = self.send_frame(from, to, 100);
                sent.push(Sent { from, to, number });
            }
        }
        sent
    }

    /// Panics unless all of these arrived.
    pub fn expect_arrived(&self, sent: &[Sent]) {
        let lost: Vec<_> = sent.iter().filter(|frame| !self.is_in(frame)).collect();
        if let Some(first) = lost.first() {
            let Sent { from, to, number } = first;
            let (lost, all) = (lost.len(), sent.len());
            self.fail(&format!(
                "{lost} of {all} frames are lost, first number {number} of node {from} to node {to}"
            ));
        }
    }

    /// How many of these did not arrive.
    pub fn lost(&self, sent: &[Sent]) -> usize {
        sent.iter().filter(|frame| !self.is_in(frame)).count()
    }

    fn is_in(&self, frame: &Sent) -> bool {
        let numbers = self.nodes[frame.to].received.get(&frame.from);
        numbers.is_some_and(|numbers| numbers.contains(&frame.number))
    }

    fn random_way(&mut self) -> (usize, usize) {
        let count = self.nodes.len();
        let from = self.rng.random_range(0..count);
        let other = self.rng.random_range(1..count);
        (from, (from + other) % count)
    }

    fn send_frame(&mut self, from: usize, to: usize, length: usize) -> u32 {
        let node = &mut self.nodes[from];
        node.next_frame += 1;
        let number = node.next_frame;
        let family = (number % 2) as usize;
        let source = node.identity.inner[family];
        let target = self.nodes[to].identity.inner[family];
        let label = Label {
            from: from as u8,
            to: to as u8,
            number,
        };
        let frame = frames::build(source, target, label, length);
        self.note(Some(from), "frame out", frame.len());
        let now = self.net.now();
        if let Some(member) = &mut self.nodes[from].member {
            member.send_frame(now, &frame);
        }
        self.obey(from);
        number
    }

    /// A frame came out of a NIC: it must be what its sender meant for this node, and come once.
    pub(super) fn take_frame(&mut self, at: usize, frame: &[u8]) {
        self.note(Some(at), "frame in", frame.len());
        if let Some((to, mtu)) = frames::read_too_big(frame) {
            if !self.nodes[at].identity.inner.contains(&to) {
                self.fail(&format!("node {at} is told of an MTU that concerns {to}"));
            }
            return self.nodes[at].told.push(mtu);
        }
        let Some((source, target, label)) = frames::read(frame) else {
            self.fail(&format!("node {at} is given a frame that nobody sent"));
        };
        let from = label.from as usize;
        let owner = &self.nodes[from].identity;
        if !owner.inner.contains(&source) {
            self.fail(&format!(
                "node {at} is given a frame from {source}, which is not of node {from}, its sender"
            ));
        }
        if self.nodes[at].misled.contains(&from) && source == owner.inner[1] {
            self.fail(&format!(
                "node {at} is given a frame from {source}, which it was not told is of node {from}"
            ));
        }
        if label.to as usize != at || !self.nodes[at].identity.inner.contains(&target) {
            self.fail(&format!("node {at} is given a frame for node {}", label.to));
        }
        let numbers = self.nodes[at].received.entry(from).or_default();
        if !numbers.insert(label.number) {
            self.fail(&format!(
                "node {at} is given frame {} of node {from} twice",
                label.number
            ));
        }
    }
}
