//! The tests of one address family, in order, and what follows from them.

use std::net::SocketAddr;

use super::{FamilyReport, FilteringKind, MappingKind, Outcome, Probe, Purpose};

#[derive(Default)]
pub(super) struct Family {
    pub(super) probes: Vec<Probe>,
    /// Other ports of servers: to be asked when the filter has been tested.
    pub(super) later: Vec<SocketAddr>,
}

/// A server that can test NATs, and its other address, or its other port.
#[derive(Clone, Copy)]
struct Tester {
    server: SocketAddr,
    other: SocketAddr,
}

impl Family {
    pub(super) fn is_open(&self) -> bool {
        self.probes.iter().any(|probe| probe.outcome.is_none())
    }

    pub(super) fn basic(&self, server: SocketAddr) -> Option<&Outcome> {
        let mut basics = self.probes.iter().filter(|probe| probe.purpose == Purpose::Basic);
        basics.find(|probe| probe.target == server)?.outcome.as_ref()
    }

    /// What to ask now: one stage after the other, each when the one before is over.
    pub(super) fn next_questions(&self) -> Vec<(Purpose, SocketAddr)> {
        if self.is_open() {
            return Vec::new();
        }
        let Some(first) = self.first_answer() else {
            return self.later_questions();
        };
        if self.asked(Purpose::Hairpin).is_none() {
            let mut questions = vec![(Purpose::Hairpin, first.1)];
            match (self.tester(), self.two_ports()) {
                (Some(tester), _) => questions.push((Purpose::FromElsewhere, tester.server)),
                (None, Some(pair)) => {
                    questions.push((Purpose::FromOtherPort, pair.server));
                    questions.push((Purpose::FromSamePort, pair.server));
                }
                (None, None) => {}
            }
            return questions;
        }
        let Some(tester) = self.tester() else {
            return self.later_questions();
        };
        let strangers_answer = self.answered(Purpose::FromElsewhere).is_some();
        if !strangers_answer && !self.refuses_change() && self.asked(Purpose::FromOtherPort).is_none() {
            return vec![(Purpose::FromOtherPort, tester.server)];
        }
        if self.asked(Purpose::OtherAddress).is_none() {
            let same_port = SocketAddr::new(tester.other.ip(), tester.server.port());
            return vec![(Purpose::OtherAddress, same_port)];
        }
        if self.asked(Purpose::OtherAddressAndPort).is_none() {
            return vec![(Purpose::OtherAddressAndPort, tester.other)];
        }
        self.later_questions()
    }

    fn later_questions(&self) -> Vec<(Purpose, SocketAddr)> {
        let open = self.later.iter().filter(|server| !self.has_asked(**server));
        open.map(|server| (Purpose::Basic, *server)).collect()
    }

    fn has_asked(&self, server: SocketAddr) -> bool {
        let mut basics = self.probes.iter().filter(|probe| probe.purpose == Purpose::Basic);
        basics.any(|probe| probe.target == server)
    }

    pub(super) fn report(&self) -> Option<FamilyReport> {
        if self.probes.is_empty() {
            return None;
        }
        let first = self.first_answer();
        Some(FamilyReport {
            works: first.is_some(),
            mapped: first.map(|(_, mapped)| mapped),
            mapping: self.mapping(),
            filtering: self.filtering(),
            hairpin: first.map(|_| self.answered(Purpose::Hairpin).is_some()),
        })
    }

    fn asked(&self, purpose: Purpose) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.purpose == purpose)
    }

    /// From where an answer came and what it said.
    fn answered(&self, purpose: Purpose) -> Option<(SocketAddr, SocketAddr)> {
        match self.asked(purpose)?.outcome.as_ref()? {
            Outcome::Answered { from, mapped, .. } => Some((*from, *mapped)),
            Outcome::Refused(_) | Outcome::Silent => None,
        }
    }

    /// Local and mapped address of the first server that answered.
    fn first_answer(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.probes
            .iter()
            .find_map(|probe| match (&probe.purpose, &probe.outcome) {
                (Purpose::Basic, Some(Outcome::Answered { local, mapped, .. })) => Some((*local, *mapped)),
                _ => None,
            })
    }

    /// A server whose other address we have not talked to: where we have, its answers prove nothing about strangers.
    fn tester(&self) -> Option<Tester> {
        let is_known = |ip| {
            let mut basics = self.probes.iter().filter(|probe| probe.purpose == Purpose::Basic);
            basics.any(|probe| probe.target.ip() == ip)
        };
        self.probes
            .iter()
            .find_map(|probe| match (&probe.purpose, &probe.outcome) {
                (Purpose::Basic, Some(Outcome::Answered { other: Some(other), .. })) => {
                    let usable = !is_known(other.ip()) && other.is_ipv4() == probe.target.is_ipv4();
                    usable.then_some(Tester {
                        server: probe.target,
                        other: *other,
                    })
                }
                _ => None,
            })
    }

    /// A server that answered, and its other port, which was not asked before the filter was tested.
    fn two_ports(&self) -> Option<Tester> {
        let first = self.probes.iter().filter_map(basic_answer);
        let mut first = first.filter(|(server, _)| !self.later.contains(server));
        first.find_map(|(server, _)| {
            let mut others = self.later.iter().filter(|other| other.ip() == server.ip());
            others.next().map(|other| Tester { server, other: *other })
        })
    }

    /// The server said it could and then refused, or answered from where it was asked.
    fn refuses_change(&self) -> bool {
        let changes = [Purpose::FromElsewhere, Purpose::FromOtherPort];
        changes.iter().any(|purpose| {
            self.asked(*purpose).is_some_and(|probe| match &probe.outcome {
                Some(Outcome::Refused(_)) => true,
                Some(Outcome::Answered { from, .. }) => *from == probe.target,
                _ => false,
            })
        })
    }

    fn mapping(&self) -> MappingKind {
        let Some((local, mapped)) = self.first_answer() else {
            return MappingKind::Unknown {
                reason: "no STUN server answered",
            };
        };
        if local == mapped {
            return MappingKind::NoNat;
        }
        if let Some(tester) = self.tester()
            && let Some(Outcome::Answered { mapped: first, .. }) = self.basic(tester.server)
            && let Some((_, second)) = self.answered(Purpose::OtherAddress)
        {
            return match self.answered(Purpose::OtherAddressAndPort) {
                _ if *first == second => MappingKind::EndpointIndependent,
                Some((_, third)) if third == second => MappingKind::AddressDependent,
                Some(_) => MappingKind::AddressAndPortDependent,
                None => MappingKind::Dependent,
            };
        }
        self.mapping_by_two_servers()
    }

    fn mapping_by_two_servers(&self) -> MappingKind {
        let seen: Vec<(SocketAddr, SocketAddr)> = self.probes.iter().filter_map(basic_answer).collect();
        let pairs = || seen.iter().flat_map(|a| seen.iter().map(move |b| (a, b)));
        let other_address = |(a, b): &(&(SocketAddr, SocketAddr), &(SocketAddr, SocketAddr))| a.0.ip() != b.0.ip();
        let ports_differ = pairs().any(|(a, b)| a.0.ip() == b.0.ip() && a.1 != b.1);
        let ports_agree = pairs().any(|(a, b)| a.0.ip() == b.0.ip() && a.0 != b.0 && a.1 == b.1);
        if !pairs().any(|pair| other_address(&pair)) {
            return match (ports_differ, ports_agree) {
                (true, _) => MappingKind::AddressAndPortDependent,
                (false, true) => MappingKind::PortIndependent,
                (false, false) => MappingKind::Unknown {
                    reason: "only one STUN server answered; two, or one with RFC 5780, are needed",
                },
            };
        }
        match pairs().filter(other_address).all(|(a, b)| a.1 == b.1) {
            true if !ports_differ => MappingKind::EndpointIndependent,
            _ if ports_differ => MappingKind::AddressAndPortDependent,
            _ if ports_agree => MappingKind::AddressDependent,
            _ => MappingKind::Dependent,
        }
    }

    fn filtering(&self) -> FilteringKind {
        if self.first_answer().is_none() {
            return FilteringKind::Unknown {
                reason: "no STUN server answered",
            };
        }
        let unsupported = FilteringKind::Unknown {
            reason: "no STUN server supports the test (RFC 5780)",
        };
        if self.refuses_change() {
            return unsupported;
        }
        if self.tester().is_none() {
            return self
                .two_ports()
                .map_or(unsupported, |pair| self.filtering_by_ports(pair));
        }
        if self.answered(Purpose::FromElsewhere).is_some() {
            FilteringKind::EndpointIndependent
        } else if self.answered(Purpose::FromOtherPort).is_some() {
            FilteringKind::AddressDependent
        } else {
            FilteringKind::AddressAndPortDependent
        }
    }

    /// Silence tells of the NAT only if the server knows the question, and its other port works.
    fn filtering_by_ports(&self, pair: Tester) -> FilteringKind {
        let knows = self.answered(Purpose::FromSamePort).is_some();
        let works = matches!(self.basic(pair.other), Some(Outcome::Answered { .. }));
        match self.answered(Purpose::FromOtherPort) {
            Some(_) => FilteringKind::PortIndependent,
            None if knows && works => FilteringKind::AddressAndPortDependent,
            None => FilteringKind::Unknown {
                reason: "the STUN server's other port cannot be used for the test",
            },
        }
    }
}

fn basic_answer(probe: &Probe) -> Option<(SocketAddr, SocketAddr)> {
    match (&probe.purpose, &probe.outcome) {
        (Purpose::Basic, Some(Outcome::Answered { mapped, .. })) => Some((probe.target, *mapped)),
        _ => None,
    }
}
