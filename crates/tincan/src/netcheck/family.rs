//! The tests of one address family, in order, and what follows from them.

use std::net::SocketAddr;

use super::{FamilyReport, FilteringKind, MappingKind, Outcome, Probe, Purpose};

#[derive(Default)]
pub(super) struct Family {
    pub(super) probes: Vec<Probe>,
}

/// A server that can test NATs, and its other address.
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
        let (Some(first), false) = (self.first_answer(), self.is_open()) else {
            return Vec::new();
        };
        if self.asked(Purpose::Hairpin).is_none() {
            let mut questions = vec![(Purpose::Hairpin, first.1)];
            questions.extend(self.tester().map(|tester| (Purpose::FromElsewhere, tester.server)));
            return questions;
        }
        let Some(tester) = self.tester() else {
            return Vec::new();
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
        Vec::new()
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

    /// The server said it could and then refused, or answered from where it was asked.
    fn refuses_change(&self) -> bool {
        [Purpose::FromElsewhere, Purpose::FromOtherPort].iter().any(|purpose| {
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
            return MappingKind::Unknown {
                reason: "only one STUN server answered; two, or one with RFC 5780, are needed",
            };
        }
        match pairs().filter(other_address).all(|(a, b)| a.1 == b.1) {
            true => MappingKind::EndpointIndependent,
            false if ports_differ => MappingKind::AddressAndPortDependent,
            false if ports_agree => MappingKind::AddressDependent,
            false => MappingKind::Dependent,
        }
    }

    fn filtering(&self) -> FilteringKind {
        if self.first_answer().is_none() {
            return FilteringKind::Unknown {
                reason: "no STUN server answered",
            };
        }
        if self.tester().is_none() || self.refuses_change() {
            return FilteringKind::Unknown {
                reason: "no STUN server supports the test (RFC 5780)",
            };
        }
        if self.answered(Purpose::FromElsewhere).is_some() {
            FilteringKind::EndpointIndependent
        } else if self.answered(Purpose::FromOtherPort).is_some() {
            FilteringKind::AddressDependent
        } else {
            FilteringKind::AddressAndPortDependent
        }
    }
}

fn basic_answer(probe: &Probe) -> Option<(SocketAddr, SocketAddr)> {
    match (&probe.purpose, &probe.outcome) {
        (Purpose::Basic, Some(Outcome::Answered { mapped, .. })) => Some((probe.target, *mapped)),
        _ => None,
    }
}
