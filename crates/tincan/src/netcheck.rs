//! What the network around this node lets through: UDP, address families, NAT mapping and filtering (RFC 5780).
//!
//! Promises: a report within about ten seconds whatever the network does; what was not found out is said with its
//! reason. Refuses to know: sockets (the shell chooses the shared one or another), TURN (its relays tell themselves).
//!
//! Order matters: whether strangers may answer is tested before anything is sent to the server's other address or port.
//! So of several servers at one address the lowest port is asked first, the one that [`crate::gather`] keeps asking.
//!
//! One address with two ports tells whether the NAT goes by ports; whether it goes by addresses only a second one can.

mod family;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::link::NatKind;
use rand::RngCore;
use rand_chacha::ChaCha12Rng;

use crate::ice::{
    BindingAnswer, BindingError, ChangeRequest, StunClass, TransactionId, binding_request, plain, stun_class,
    stun_transaction,
};
use crate::limits;
use family::Family;

/// First retransmission; doubles: 250, 500 and 1000 ms.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(250);
const TRANSMISSIONS: u32 = 3;

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetReport {
    /// Some server answered over UDP.
    pub udp: bool,
    /// IPv4, if a server has such an address.
    pub ipv4: Option<FamilyReport>,
    /// IPv6, if a server has such an address.
    pub ipv6: Option<FamilyReport>,
    /// Each server asked.
    pub servers: Vec<ServerReport>,
}

impl NetReport {
    /// The report as the link API has it. IPv4 speaks for the NAT where both families work.
    pub fn to_api(&self, ipv6_configured: bool, port_mapping: Option<Vec<String>>) -> api::link::NetReport {
        let working = |family: &Option<FamilyReport>| family.clone().filter(|family| family.works);
        let (ipv4, ipv6) = (working(&self.ipv4), working(&self.ipv6));
        let nat = ipv4.as_ref().or(ipv6.as_ref());
        let blocked = match self.servers.is_empty() {
            true => NatKind::Unknown,
            false => NatKind::Blocked,
        };
        api::link::NetReport {
            udp: self.udp,
            ipv4: ipv4.as_ref().and_then(|family| family.mapped),
            ipv6: ipv6.as_ref().and_then(|family| family.mapped),
            ipv6_configured,
            mapping: nat.map_or(blocked, |family| family.mapping.to_api()),
            filtering: nat.map_or(blocked, |family| family.filtering.to_api()),
            hairpin: nat.and_then(|family| family.hairpin),
            port_mapping,
            servers: self.servers.iter().map(ServerReport::to_api).collect(),
        }
    }
}

impl MappingKind {
    fn to_api(&self) -> NatKind {
        match self {
            MappingKind::NoNat => NatKind::None,
            MappingKind::EndpointIndependent => NatKind::EndpointIndependent,
            MappingKind::PortIndependent => NatKind::PortIndependent,
            MappingKind::AddressDependent => NatKind::AddressDependent,
            MappingKind::AddressAndPortDependent | MappingKind::Dependent => NatKind::AddressAndPortDependent,
            MappingKind::Unknown { .. } => NatKind::Unknown,
        }
    }
}

impl FilteringKind {
    fn to_api(&self) -> NatKind {
        match self {
            FilteringKind::EndpointIndependent => NatKind::EndpointIndependent,
            FilteringKind::PortIndependent => NatKind::PortIndependent,
            FilteringKind::AddressDependent => NatKind::AddressDependent,
            FilteringKind::AddressAndPortDependent => NatKind::AddressAndPortDependent,
            FilteringKind::Unknown { .. } => NatKind::Unknown,
        }
    }
}

impl ServerReport {
    fn to_api(&self) -> api::link::ServerReport {
        api::link::ServerReport {
            server: self.server,
            service: "stun".to_owned(),
            rtt_us: self.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            fault: self.problem.clone(),
        }
    }
}

/// One address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyReport {
    /// A server answered.
    pub works: bool,
    /// How the first server sees us.
    pub mapped: Option<SocketAddr>,
    /// How the NAT maps.
    pub mapping: MappingKind,
    /// Whom it lets in.
    pub filtering: FilteringKind,
    /// Whether a datagram to our own mapped address comes back to us.
    pub hairpin: Option<bool>,
}

/// How a NAT gives out addresses (RFC 4787 section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// None: the server sees our own address.
    NoNat,
    /// One mapping for all destinations.
    EndpointIndependent,
    /// One for all ports of an address; no second address was there to ask.
    PortIndependent,
    /// One for each address.
    AddressDependent,
    /// One for each address and port ("symmetric").
    AddressAndPortDependent,
    /// One for each address at least; ports could not be told apart with these servers. Punches like the one before.
    Dependent,
    /// Not known.
    Unknown {
        /// Why.
        reason: &'static str,
    },
}

/// Whom a NAT or firewall lets in (RFC 4787 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilteringKind {
    /// Everybody.
    EndpointIndependent,
    /// All ports of an address that we sent to; other addresses were not there to try.
    PortIndependent,
    /// Addresses we sent to.
    AddressDependent,
    /// Addresses and ports we sent to.
    AddressAndPortDependent,
    /// Not known.
    Unknown {
        /// Why.
        reason: &'static str,
    },
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// Its address.
    pub server: SocketAddr,
    /// Round trip, if it answered.
    pub rtt: Option<Duration>,
    /// How it sees us.
    pub mapped: Option<SocketAddr>,
    /// Whether it can test NATs (RFC 5780).
    pub tests_nats: bool,
    /// A sentence, if it did not answer properly.
    pub problem: Option<String>,
}

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// How a server of the list sees us.
    Basic,
    /// Whether an answer from another address and port gets in.
    FromElsewhere,
    /// Whether an answer from another port gets in.
    FromOtherPort,
    /// Whether the server knows the question about ports.
    FromSamePort,
    /// Whether our own datagram to our mapped address gets in.
    Hairpin,
    /// How the server's other address sees us.
    OtherAddress,
    /// How the server's other address and port see us.
    OtherAddressAndPort,
}

#[derive(Clone, Debug)]
struct Probe {
    purpose: Purpose,
    target: SocketAddr,
    change: Option<ChangeRequest>,
    id: TransactionId,
    first_sent: Instant,
    sent: u32,
    again_at: Instant,
    outcome: Option<Outcome>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Answered {
        local: SocketAddr,
        from: SocketAddr,
        mapped: SocketAddr,
        other: Option<SocketAddr>,
        rtt: Duration,
    },
    Refused(BindingError),
    Silent,
}

/// The check: hand in datagrams and time, take datagrams, read the report when it is there.
pub struct NetCheck {
    rng: ChaCha12Rng,
    servers: Vec<SocketAddr>,
    own: Vec<SocketAddr>,
    families: [Family; 2],
    outbox: VecDeque<(SocketAddr, Vec<u8>)>,
    report: Option<NetReport>,
}

impl NetCheck {
    /// Starts: asks every server of a family in which the socket has an address (`own`). `rng` draws transaction ids.
    pub fn new(now: Instant, servers: &[SocketAddr], own: &[SocketAddr], rng: ChaCha12Rng) -> Self {
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for server in servers.iter().map(|server| plain(*server)) {
            if wanted.len() < limits::NETCHECK_SERVERS && !wanted.contains(&server) {
                wanted.push(server);
            }
        }
        let mut check = NetCheck {
            rng,
            servers: wanted.clone(),
            own: own.to_vec(),
            families: [Family::default(), Family::default()],
            outbox: VecDeque::new(),
            report: None,
        };
        for server in wanted.iter().copied().filter(|server| has_family(own, *server)) {
            let family = usize::from(server.is_ipv6());
            let has_lower = |other: &SocketAddr| other.ip() == server.ip() && other.port() < server.port();
            match wanted.iter().any(has_lower) {
                true => check.families[family].later.push(server),
                false => check.ask(now, family, Purpose::Basic, server),
            }
        }
        check.advance(now);
        check
    }

    /// Takes a datagram from the socket under test. `false`: not ours, nothing changed.
    pub fn handle_udp(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let Some(id) = stun_transaction(bytes) else {
            return false;
        };
        let mut probes = self.families.iter_mut().flat_map(|family| &mut family.probes);
        let Some(probe) = probes.find(|probe| probe.id == id && probe.outcome.is_none()) else {
            return false;
        };
        let (local, from) = (plain(local), plain(remote));
        let rtt = now.saturating_duration_since(probe.first_sent);
        let hairpin = probe.purpose == Purpose::Hairpin && stun_class(bytes) == Some(StunClass::Request);
        let outcome = match BindingAnswer::parse(bytes) {
            _ if hairpin => Outcome::Answered {
                local,
                from,
                mapped: from,
                other: None,
                rtt,
            },
            Ok(answer) => Outcome::Answered {
                // Where the kernel did not say which of our addresses it came to.
                local: match local.ip().is_unspecified() && self.own.contains(&answer.mapped) {
                    true => answer.mapped,
                    false => local,
                },
                from,
                mapped: answer.mapped,
                other: answer.other,
                rtt,
            },
            Err(BindingError::NotAnAnswer) => return false,
            Err(error) => Outcome::Refused(error),
        };
        probe.outcome = Some(outcome);
        self.advance(now);
        true
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for probe in self.families.iter_mut().flat_map(|family| &mut family.probes) {
            if probe.outcome.is_some() || now < probe.again_at {
                continue;
            }
            if probe.sent >= TRANSMISSIONS {
                probe.outcome = Some(Outcome::Silent);
                continue;
            }
            probe.again_at = now + FIRST_RETRANSMIT * 2u32.pow(probe.sent);
            probe.sent += 1;
            self.outbox
                .push_back((probe.target, binding_request(probe.id, probe.change)));
        }
        self.advance(now);
    }

    /// When to call [`NetCheck::handle_timeout`] next; `None` when done.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probes = self.families.iter().flat_map(|family| &family.probes);
        probes
            .filter(|probe| probe.outcome.is_none())
            .map(|probe| probe.again_at)
            .min()
    }

    /// The next datagram to send from the socket under test.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.outbox.pop_front()
    }

    /// The report, once everything is answered or given up.
    pub fn report(&self) -> Option<&NetReport> {
        self.report.as_ref()
    }

    /// `family` is the one that wants to know: behind NAT64 an IPv6 server names an IPv4 address, to be asked for IPv6.
    fn ask(&mut self, now: Instant, family: usize, purpose: Purpose, target: SocketAddr) {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        let change = match purpose {
            Purpose::FromElsewhere => Some(ChangeRequest::AddressAndPort),
            Purpose::FromOtherPort => Some(ChangeRequest::Port),
            Purpose::FromSamePort => Some(ChangeRequest::Nothing),
            _ => None,
        };
        self.families[family].probes.push(Probe {
            purpose,
            target,
            change,
            id,
            first_sent: now,
            sent: 1,
            again_at: now + FIRST_RETRANSMIT,
            outcome: None,
        });
        self.outbox.push_back((target, binding_request(id, change)));
    }

    /// Asks what can be asked next, until nothing is open.
    fn advance(&mut self, now: Instant) {
        for family in 0..self.families.len() {
            for (purpose, target) in self.families[family].next_questions() {
                self.ask(now, family, purpose, target);
            }
        }
        let open = self.families.iter().any(|family| family.is_open());
        if !open && self.report.is_none() {
            self.report = Some(self.conclude());
        }
    }

    fn conclude(&self) -> NetReport {
        let reports = [0, 1].map(|family| self.families[family].report());
        let [ipv4, ipv6] = reports;
        let works = |report: &Option<FamilyReport>| report.as_ref().is_some_and(|report| report.works);
        NetReport {
            udp: works(&ipv4) || works(&ipv6),
            ipv4,
            ipv6,
            servers: self.servers.iter().map(|server| self.server_report(*server)).collect(),
        }
    }

    fn server_report(&self, server: SocketAddr) -> ServerReport {
        let outcome = self.families[usize::from(server.is_ipv6())].basic(server);
        let mut report = ServerReport {
            server,
            rtt: None,
            mapped: None,
            tests_nats: false,
            problem: None,
        };
        match outcome {
            Some(Outcome::Answered { rtt, mapped, other, .. }) => {
                report.rtt = Some(*rtt);
                report.mapped = Some(*mapped);
                report.tests_nats = other.is_some();
            }
            Some(Outcome::Refused(error)) => report.problem = Some(format!("STUN server {server}: {error}")),
            _ if !has_family(&self.own, server) => report.problem = Some(no_family("STUN server", server)),
            _ => {
                let silent = "does not answer; UDP to it may be blocked";
                report.problem = Some(format!("STUN server {server} {silent}"));
            }
        }
        report
    }
}

pub(crate) fn has_family(own: &[SocketAddr], server: SocketAddr) -> bool {
    own.iter().any(|own| own.is_ipv4() == server.is_ipv4())
}

/// The sentence for a server that this machine cannot ask.
fn no_family(what: &str, server: SocketAddr) -> String {
    let family = if server.is_ipv4() { 4 } else { 6 };
    format!("{what} {server} cannot be asked: this machine has no IPv{family} address")
}
