//! What one address may do: connections at a time, wrong passwords and tokens in a while.
//!
//! Pure: time is an argument. Memory is bounded whatever addresses come.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::limits;

/// An IPv4 address, or the /64 of an IPv6 one: what one household has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(IpAddr);

impl Origin {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => {
                let s = v6.segments();
                Origin(IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0)))
            }
            v4 => Origin(v4),
        }
    }
}

/// Connections and failures by origin.
#[derive(Default)]
pub(super) struct Guard {
    connections: BTreeMap<Origin, usize>,
    total: usize,
    failures: BTreeMap<Origin, Failures>,
}

struct Failures {
    since: Instant,
    count: u32,
}

impl Guard {
    /// A connection came in; false: refuse it.
    pub(super) fn connected(&mut self, origin: Origin) -> bool {
        let here = self.connections.get(&origin).copied().unwrap_or(0);
        if self.total >= limits::CONNECTIONS_MAX || here >= limits::CONNECTIONS_PER_ADDRESS {
            return false;
        }
        self.connections.insert(origin, here + 1);
        self.total += 1;
        true
    }

    /// A connection that [`Guard::connected`] let in has ended.
    pub(super) fn disconnected(&mut self, origin: Origin) {
        self.total = self.total.saturating_sub(1);
        match self.connections.get_mut(&origin) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.connections.remove(&origin);
            }
        }
    }

    /// A wrong password or token came from there.
    pub(super) fn failed(&mut self, origin: Origin, now: Instant) {
        self.failures
            .retain(|_, f| now.saturating_duration_since(f.since) < limits::FAILURE_WINDOW);
        if self.failures.len() >= limits::FAILURE_ADDRESSES && !self.failures.contains_key(&origin) {
            let oldest = self
                .failures
                .iter()
                .min_by_key(|(_, f)| f.since)
                .map(|(origin, _)| *origin);
            oldest.and_then(|origin| self.failures.remove(&origin));
        }
        self.failures
            .entry(origin)
            .or_insert(Failures { since: now, count: 0 })
            .count += 1;
    }

    /// Whether another try from there is looked at.
    pub(super) fn may_try(&self, origin: Origin, now: Instant) -> bool {
        self.failures.get(&origin).is_none_or(|f| {
            f.count < limits::FAILURES_MAX || now.saturating_duration_since(f.since) >= limits::FAILURE_WINDOW
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    #[test]
    fn an_origin_is_what_one_household_has() {
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }

    #[test]
    fn guessing_is_stopped_and_forgiven() {
        let mut guard = Guard::default();
        let start = Instant::now();
        for _ in 0..limits::FAILURES_MAX {
            assert!(guard.may_try(origin("192.0.2.1"), start));
            guard.failed(origin("192.0.2.1"), start);
        }
        assert!(!guard.may_try(origin("192.0.2.1"), start));
        assert!(guard.may_try(origin("192.0.2.2"), start));
        assert!(guard.may_try(origin("192.0.2.1"), start + limits::FAILURE_WINDOW));
    }

    #[test]
    fn a_million_addresses_cost_bounded_memory() {
        let mut guard = Guard::default();
        let start = Instant::now();
        for n in 0..10_000u32 {
            guard.failed(Origin::of(IpAddr::V4(n.into())), start);
        }
        assert_eq!(guard.failures.len(), limits::FAILURE_ADDRESSES);
    }

    #[test]
    fn connections_are_counted_by_origin() {
        let mut guard = Guard::default();
        for _ in 0..limits::CONNECTIONS_PER_ADDRESS {
            assert!(guard.connected(origin("192.0.2.1")));
        }
        assert!(!guard.connected(origin("192.0.2.1")));
        assert!(guard.connected(origin("192.0.2.2")));
        guard.disconnected(origin("192.0.2.1"));
        assert!(guard.connected(origin("192.0.2.1")));
    }
}
