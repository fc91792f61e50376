//! A NAT or stateful firewall for one address family, as RFC 4787 classifies them.
//!
//! Promises: mapping and filtering depend on exactly what the rules say; a mapping lives as long as one of its
//! conversations; what is not let in is dropped without a word and leaves no trace.
//! Refuses to know: where it stands. Rejecting routers, NAT64, NAT66 and fragments are not modelled.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// What a decision depends on besides the inner endpoint (RFC 4787 sections 4.1 and 5). Stricter is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    /// Endpoint-independent: nothing.
    Independent,
    /// Address-dependent: the address of the other side.
    Address,
    /// Address- and port-dependent.
    AddressAndPort,
}

/// How outer ports are chosen (RFC 4787 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner port where it is free.
    Preserve,
    /// Any.
    Random,
    /// One after the other.
    Sequential,
}

/// How long a silent conversation keeps its mapping (RFC 4787 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// While only one side has talked.
    pub first: Duration,
    /// Once both have.
    pub both: Duration,
}

/// The behaviour of a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// When two destinations see the same outer port.
    pub mapping: Dependence,
    /// Who may answer.
    pub filtering: Dependence,
    /// Choice of the outer port.
    pub ports: Ports,
    /// Whether two inner hosts reach each other by their outer addresses.
    pub hairpin: bool,
    /// Life of mappings.
    pub expiry: Expiry,
}

impl Nat {
    /// Linux conntrack: 30 s, 120 s once both sides talked.
    pub const EXPIRY: Expiry = Expiry {
        first: Duration::from_secs(30),
        both: Duration::from_secs(120),
    };

    const fn of(mapping: Dependence, filtering: Dependence, ports: Ports, hairpin: bool) -> Nat {
        Nat {
            mapping,
            filtering,
            ports,
            hairpin,
            expiry: Nat::EXPIRY,
        }
    }

    /// Full cone.
    pub const FULL_CONE: Nat = Nat::of(Dependence::Independent, Dependence::Independent, Ports::Preserve, true);
    /// Address-restricted cone.
    pub const ADDRESS_RESTRICTED: Nat = Nat::of(Dependence::Independent, Dependence::Address, Ports::Preserve, false);
    /// Port-restricted cone: the usual home router.
    pub const PORT_RESTRICTED: Nat = Nat::of(
        Dependence::Independent,
        Dependence::AddressAndPort,
        Ports::Preserve,
        false,
    );
    /// Symmetric with random ports.
    pub const SYMMETRIC: Nat = Nat::of(
        Dependence::AddressAndPort,
        Dependence::AddressAndPort,
        Ports::Random,
        false,
    );
}

/// What happened in one conversation.
#[derive(Clone, Copy, Debug)]
struct Session {
    last: Instant,
    from_inside: bool,
    from_outside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    inner: SocketAddr,
    address: Option<IpAddr>,
    port: Option<u16>,
}

#[derive(Debug)]
struct Mapping {
    outer: SocketAddr,
    sessions: BTreeMap<SocketAddr, Session>,
}

/// A NAT or firewall at work.
#[derive(Debug)]
pub struct Table {
    rules: Nat,
    /// The outer address; none: a firewall, which leaves addresses as they are.
    outer: Option<IpAddr>,
    mappings: BTreeMap<Key, Mapping>,
    by_outer: BTreeMap<SocketAddr, Key>,
    next_port: u16,
    /// After a reboot the old ports do not come again.
    scrambled: bool,
}

/// Expired mappings are swept when there are more than this.
const SWEEP_ABOVE: usize = 256;
/// First port handed out where it is not the inner one.
const FIRST_PORT: u16 = 1024;

impl Table {
    /// A NAT with an outer address.
    pub fn nat(rules: Nat, outer: IpAddr) -> Self {
        Table::new(rules, Some(outer))
    }

    /// A firewall that lets answers in, and who may answer is for `filtering` to say.
    pub fn firewall(filtering: Dependence, expiry: Expiry) -> Self {
        let rules = Nat {
            mapping: Dependence::Independent,
            filtering,
            ports: Ports::Preserve,
            hairpin: true,
            expiry,
        };
        Table::new(rules, None)
    }

    fn new(rules: Nat, outer: Option<IpAddr>) -> Self {
        Table {
            rules,
            outer,
            mappings: BTreeMap::new(),
            by_outer: BTreeMap::new(),
            next_port: 40_000,
            scrambled: false,
        }
    }

    /// Its behaviour.
    pub fn rules(&self) -> &Nat {
        &self.rules
    }

    /// Its outer address, where it translates.
    pub fn outer(&self) -> Option<IpAddr> {
        self.outer
    }

    /// Forgets everything and from now on maps to other ports, as after a reboot.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.by_outer.clear();
        self.scrambled = true;
        self.next_port = self.next_port.wrapping_add(5000).max(FIRST_PORT);
    }

    /// A datagram goes out: the source that the world sees. `None`: every port is taken.
    pub fn outbound(
        &mut self,
        now: Instant,
        inner: SocketAddr,
        remote: SocketAddr,
        rng: &mut ChaCha12Rng,
    ) -> Option<SocketAddr> {
        if self.mappings.len() > SWEEP_ABOVE {
            self.sweep(now);
        }
        let key = self.key(inner, remote);
        self.forget_if_dead(now, key);
        if !self.mappings.contains_key(&key) {
            let outer = self.choose(now, inner, rng)?;
            self.by_outer.insert(outer, key);
            let sessions = BTreeMap::new();
            self.mappings.insert(key, Mapping { outer, sessions });
        }
        let expiry = self.rules.expiry;
        let mapping = self.mappings.get_mut(&key)?;
        let session = touch(mapping, now, remote, expiry);
        session.from_inside = true;
        Some(mapping.outer)
    }

    /// A datagram comes in: the inner endpoint it is for. `None`: dropped.
    pub fn inbound(&mut self, now: Instant, remote: SocketAddr, outer: SocketAddr) -> Option<SocketAddr> {
        let key = *self.by_outer.get(&outer)?;
        let expiry = self.rules.expiry;
        let mapping = self.mappings.get_mut(&key)?;
        let alive = |session: &Session| is_alive(session, now, expiry);
        let admitted = mapping.sessions.iter().any(|(known, session)| {
            alive(session)
                && match self.rules.filtering {
                    Dependence::Independent => true,
                    Dependence::Address => known.ip() == remote.ip(),
                    Dependence::AddressAndPort => *known == remote,
                }
        });
        if !admitted {
            return None;
        }
        touch(mapping, now, remote, expiry).from_outside = true;
        Some(key.inner)
    }

    fn key(&self, inner: SocketAddr, remote: SocketAddr) -> Key {
        let by = self.rules.mapping;
        Key {
            inner,
            address: (by >= Dependence::Address).then(|| remote.ip()),
            port: (by >= Dependence::AddressAndPort).then(|| remote.port()),
        }
    }

    fn choose(&mut self, now: Instant, inner: SocketAddr, rng: &mut ChaCha12Rng) -> Option<SocketAddr> {
        let Some(ip) = self.outer else {
            return Some(inner);
        };
        let wish = SocketAddr::new(ip, inner.port());
        if self.rules.ports == Ports::Preserve && !self.scrambled && self.is_free(now, wish) {
            return Some(wish);
        }
        for _ in 0..1000 {
            let port = match self.rules.ports {
                Ports::Sequential => {
                    self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                    self.next_port
                }
                Ports::Preserve | Ports::Random => rng.random_range(FIRST_PORT..=u16::MAX),
            };
            let outer = SocketAddr::new(ip, port);
            if self.is_free(now, outer) {
                return Some(outer);
            }
        }
        None
    }

    fn is_free(&mut self, now: Instant, outer: SocketAddr) -> bool {
        if let Some(key) = self.by_outer.get(&outer).copied() {
            self.forget_if_dead(now, key);
        }
        !self.by_outer.contains_key(&outer)
    }

    fn forget_if_dead(&mut self, now: Instant, key: Key) {
        let expiry = self.rules.expiry;
        let Some(mapping) = self.mappings.get_mut(&key) else {
            return;
        };
        mapping.sessions.retain(|_, session| is_alive(session, now, expiry));
        if mapping.sessions.is_empty() {
            let outer = mapping.outer;
            self.mappings.remove(&key);
            self.by_outer.remove(&outer);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let keys: Vec<Key> = self.mappings.keys().copied().collect();
        for key in keys {
            self.forget_if_dead(now, key);
        }
    }
}

fn is_alive(session: &Session, now: Instant, expiry: Expiry) -> bool {
    let life = if session.from_inside && session.from_outside {
        expiry.both
    } else {
        expiry.first
    };
    now < session.last + life
}

/// The conversation with `remote`, begun anew where the old one has expired.
fn touch(mapping: &mut Mapping, now: Instant, remote: SocketAddr, expiry: Expiry) -> &mut Session {
    let fresh = Session {
        last: now,
        from_inside: false,
        from_outside: false,
    };
    let session = mapping.sessions.entry(remote).or_insert(fresh);
    if !is_alive(session, now, expiry) {
        *session = fresh;
    }
    session.last = now;
    session
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::clock::origin;
    use Dependence::{Address, AddressAndPort, Independent};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const OUTER: &str = "81.0.0.9";

    /// Whether B (same address, another port) and C (another address) see the port that A saw, and may come in to it.
    fn behaviour(mapping: Dependence, filtering: Dependence) -> (bool, bool, bool, bool) {
        let rules = Nat {
            mapping,
            filtering,
            ..Nat::SYMMETRIC
        };
        let mut rng = Seed(3).generator(0);
        let inner = at("192.168.1.2:5000");
        let (a, b, c) = (at("8.8.8.8:1"), at("8.8.8.8:2"), at("9.9.9.9:1"));
        let mut first = Table::nat(rules, OUTER.parse().unwrap());
        let seen = first.outbound(origin(), inner, a, &mut rng).unwrap();
        let comes_in = |remote| {
            let mut table = Table::nat(rules, OUTER.parse().unwrap());
            let outer = table.outbound(origin(), inner, a, &mut Seed(3).generator(0)).unwrap();
            assert_eq!(table.inbound(origin(), a, outer), Some(inner));
            table.inbound(origin(), remote, outer) == Some(inner)
        };
        let same_b = first.outbound(origin(), inner, b, &mut rng).unwrap() == seen;
        let same_c = first.outbound(origin(), inner, c, &mut rng).unwrap() == seen;
        (same_b, same_c, comes_in(b), comes_in(c))
    }

    #[test]
    fn mapping_and_filtering_depend_on_what_rfc_4787_says() {
        let table = [
            (Independent, Independent, (true, true, true, true)),
            (Independent, Address, (true, true, true, false)),
            (Independent, AddressAndPort, (true, true, false, false)),
            (Address, Independent, (true, false, true, true)),
            (Address, Address, (true, false, true, false)),
            (Address, AddressAndPort, (true, false, false, false)),
            (AddressAndPort, Independent, (false, false, true, true)),
            (AddressAndPort, Address, (false, false, true, false)),
            (AddressAndPort, AddressAndPort, (false, false, false, false)),
        ];
        for (mapping, filtering, expected) in table {
            assert_eq!(behaviour(mapping, filtering), expected, "{mapping:?} {filtering:?}");
        }
    }

    #[test]
    fn ports_are_kept_counted_or_drawn() {
        let draw = |ports, inner: &str, table: &mut Table, rng: &mut ChaCha12Rng| {
            table.rules.ports = ports;
            let outer = table.outbound(origin(), at(inner), at("8.8.8.8:1"), rng);
            outer.unwrap().port()
        };
        let mut rng = Seed(1).generator(0);
        let mut table = Table::nat(Nat::PORT_RESTRICTED, OUTER.parse().unwrap());
        assert_eq!(draw(Ports::Preserve, "192.168.1.2:5000", &mut table, &mut rng), 5000);
        let clash = draw(Ports::Preserve, "192.168.1.3:5000", &mut table, &mut rng);
        assert_ne!(clash, 5000);
        let one = draw(Ports::Sequential, "192.168.1.4:5000", &mut table, &mut rng);
        let two = draw(Ports::Sequential, "192.168.1.5:5000", &mut table, &mut rng);
        assert_eq!(two, one + 1);
        table.reboot();
        let after = draw(Ports::Preserve, "192.168.1.2:5000", &mut table, &mut rng);
        assert_ne!(after, 5000);
    }

    #[test]
    fn a_mapping_lives_30_seconds_and_120_once_both_sides_talked() {
        let (inner, remote) = (at("192.168.1.2:5000"), at("8.8.8.8:1"));
        let after = |seconds| origin() + Duration::from_secs(seconds);
        for (answered, silence, alive) in [
            (false, 29, true),
            (false, 30, false),
            (true, 119, true),
            (true, 120, false),
        ] {
            let mut rng = Seed(1).generator(0);
            let mut table = Table::nat(Nat::FULL_CONE, OUTER.parse().unwrap());
            let outer = table.outbound(after(0), inner, remote, &mut rng).unwrap();
            if answered {
                assert_eq!(table.inbound(after(0), remote, outer), Some(inner));
            }
            let late = table.inbound(after(silence), at("9.9.9.9:9"), outer);
            assert_eq!(late.is_some(), alive, "{answered} {silence}");
        }
    }

    #[test]
    fn what_is_refused_leaves_no_trace() {
        let (inner, remote) = (at("192.168.1.2:5000"), at("8.8.8.8:1"));
        let mut rng = Seed(1).generator(0);
        let mut table = Table::nat(Nat::PORT_RESTRICTED, OUTER.parse().unwrap());
        assert_eq!(table.inbound(origin(), remote, at("81.0.0.9:5000")), None);
        let outer = table.outbound(origin(), inner, at("7.7.7.7:7"), &mut rng).unwrap();
        assert_eq!(outer, at("81.0.0.9:5000"));
        assert_eq!(table.inbound(origin(), remote, outer), None);
        assert_eq!(table.outbound(origin(), inner, remote, &mut rng), Some(outer));
        assert_eq!(table.inbound(origin(), remote, outer), Some(inner));
    }

    #[test]
    fn a_firewall_keeps_addresses_and_lets_answers_in() {
        let mut rng = Seed(1).generator(0);
        let mut wall = Table::firewall(AddressAndPort, Nat::EXPIRY);
        let (inner, remote) = (at("[2a00::2]:5000"), at("[2a00:1::2]:1"));
        assert_eq!(wall.inbound(origin(), remote, inner), None);
        assert_eq!(wall.outbound(origin(), inner, remote, &mut rng), Some(inner));
        assert_eq!(wall.inbound(origin(), remote, inner), Some(inner));
        assert_eq!(wall.inbound(origin(), at("[2a00:1::2]:2"), inner), None);
    }
}
