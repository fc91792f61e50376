//! What must hold in a world at any time: queues within their bounds, no path that cannot be, nothing left at the end.
//!
//! Promises: a broken bound ends the run with the seed. Refuses to know: what lies in the queues.

use std::collections::BTreeMap;

use super::World;
use crate::oracle::{Others, Verdict, verdict_among};

impl World {
    /// The highest level that each gauge of any node has shown, and its limit then.
    pub fn peaks(&self) -> &BTreeMap<&'static str, (usize, usize)> {
        &self.peaks
    }

    /// Panics if a pair is linked in a way that the oracle says is not possible.
    pub fn expect_nothing_impossible(&self) {
        for (a, b) in self.pairs().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let (said, path) = (self.verdict_of(a, b), self.path_of(a, b));
            if path < said {
                let [from, to] = [a, b].map(|at| &self.nodes[at].name);
                self.fail(&format!(
                    "{from} reaches {to} by {path:?} where the oracle says {said:?}"
                ));
            }
        }
    }

    /// From now on no pair may be linked in a way that the oracle says is not possible. A world whose addresses change
    /// cannot promise that: what was found before is right until it is found silent.
    pub fn be_strict(&mut self) {
        self.is_strict = true;
    }

    /// Closes every link from both ends; nobody wants one any more.
    pub fn close_all(&mut self) {
        self.note(None, "all close", 0);
        let now = self.net.now();
        for at in 0..self.nodes.len() {
            if let Some(member) = &mut self.nodes[at].member {
                member.close_all(now);
            }
            self.obey(at);
        }
    }

    /// Panics if a node still keeps anything of a link.
    pub fn expect_nothing_left(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let gauges = node.member.iter().flat_map(|member| member.gauges());
            // STUN transactions are forgotten when the next is noted.
            let mut left = gauges.filter(|gauge| OF_LINKS.contains(&gauge.name) && gauge.level > 0);
            if let Some(gauge) = left.next() {
                self.fail(&format!(
                    "node {at} keeps {} {} after its last link",
                    gauge.level, gauge.name
                ));
            }
        }
    }

    /// How many pairs the oracle sees direct, relayed, through others and apart.
    pub fn verdicts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for (a, b) in self.pairs() {
            counts[self.verdict_of(a, b) as usize] += 1;
        }
        counts
    }

    pub(super) fn check_bounds(&mut self, at: usize) {
        let gauges = self.nodes[at].member.iter().flat_map(|member| member.gauges());
        for gauge in gauges.collect::<Vec<_>>() {
            if gauge.level > gauge.limit {
                let (name, level, limit) = (gauge.name, gauge.level, gauge.limit);
                self.fail(&format!("node {at}: {level} {name}, at most {limit} are allowed"));
            }
            let peak = self.peaks.entry(gauge.name).or_insert((0, gauge.limit));
            if gauge.level >= peak.0 {
                *peak = (gauge.level, gauge.limit);
            }
        }
    }

    pub(super) fn verdict_of(&self, a: usize, b: usize) -> Verdict {
        let turn = self.turn();
        let others = self.nodes.iter().enumerate().filter(|(at, node)| {
            let is_between = *at != a && *at != b;
            is_between && node.member.is_some()
        });
        let others = Others {
            members: &others.map(|(_, node)| node.host).collect::<Vec<_>>(),
            refused: &self
                .nodes
                .iter()
                .filter(|node| node.starts > 1)
                .map(|node| node.host)
                .collect::<Vec<_>>(),
        };
        verdict_among(&self.net, self.nodes[a].host, self.nodes[b].host, turn, &others)
    }
}

/// What belongs to links alone.
const OF_LINKS: [&str; 7] = [
    "links",
    "receiver indices",
    "ICE names",
    "timers",
    "addresses of links",
    "staged bytes",
    "pings",
];
