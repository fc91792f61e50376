//! The check through every kind of NAT of the lab's table, with servers of several abilities.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;

use super::*;
use crate::ice::{binding_answer, is_stun};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
enum Kind {
    None,
    Endpoint,
    Address,
    AddressAndPort,
}

const HOST: &str = "10.0.0.2:5000";
const HOST6: &str = "[fd00::2]:5000";

struct Net {
    mapping: Kind,
    filtering: Kind,
    hairpin: bool,
    blocked: bool,
    /// Servers that can test, with their other address; and those that cannot.
    testers: Vec<(SocketAddr, SocketAddr)>,
    plain: Vec<SocketAddr>,
    ignores_change: bool,
    /// Behind a firewall of the server's.
    closed: Option<SocketAddr>,
    outside: BTreeMap<(Option<std::net::IpAddr>, Option<u16>), SocketAddr>,
    seen: BTreeSet<SocketAddr>,
}

impl Net {
    fn new(mapping: Kind, filtering: Kind) -> Self {
        Net {
            mapping,
            filtering,
            hairpin: false,
            blocked: false,
            testers: vec![(at("198.51.100.1:3478"), at("198.51.100.2:3479"))],
            plain: Vec::new(),
            ignores_change: false,
            closed: None,
            outside: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    fn translate(&mut self, remote: SocketAddr) -> SocketAddr {
        self.seen.insert(remote);
        let key = match self.mapping {
            Kind::None => return at(HOST),
            Kind::Endpoint => (None, None),
            Kind::Address => (Some(remote.ip()), None),
            Kind::AddressAndPort => (Some(remote.ip()), Some(remote.port())),
        };
        let port = 40_000 + self.outside.len() as u16;
        *self
            .outside
            .entry(key)
            .or_insert(SocketAddr::new("203.0.113.1".parse().unwrap(), port))
    }

    fn admits(&self, source: SocketAddr) -> bool {
        match self.filtering {
            Kind::None | Kind::Endpoint => true,
            Kind::Address => self.seen.iter().any(|seen| seen.ip() == source.ip()),
            Kind::AddressAndPort => self.seen.contains(&source),
        }
    }

    /// What comes back for a datagram, and from where.
    fn answer(&mut self, target: SocketAddr, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        assert!(is_stun(bytes));
        if self.blocked {
            return None;
        }
        let source = self.translate(target);
        if self.outside.values().any(|own| *own == target) {
            return self.hairpin.then(|| (source, bytes.to_vec()));
        }
        if self.closed == Some(target) {
            return None;
        }
        let flags = bytes.get(27).copied().filter(|_| !self.ignores_change).unwrap_or(0);
        for (first, second) in self.testers.clone() {
            let ips = [first.ip(), second.ip()];
            let ports = [first.port(), second.port()];
            if !ips.contains(&target.ip()) || !ports.contains(&target.port()) {
                continue;
            }
            let swap = |change: bool, own: bool| usize::from(own != change);
            let ip = ips[swap(flags & 4 != 0, target.ip() == ips[1])];
            let port = ports[swap(flags & 2 != 0, target.port() == ports[1])];
            let from = SocketAddr::new(ip, port);
            let other = (ips[0] != ips[1]).then_some(second);
            let passes = self.admits(from) && self.closed != Some(from);
            return passes.then(|| (from, binding_answer(bytes, source, other)));
        }
        let known = self.plain.contains(&target);
        known.then(|| (target, binding_answer(bytes, source, None)))
    }

    fn check(&mut self, servers: &[SocketAddr]) -> (NetReport, Duration) {
        let start = Instant::now();
        let mut now = start;
        let mut check = NetCheck::new(now, servers, &[at(HOST), at(HOST6)], ChaCha12Rng::seed_from_u64(1));
        loop {
            while let Some((target, bytes)) = check.poll_transmit() {
                now += Duration::from_millis(1);
                if let Some((from, answer)) = self.answer(target, &bytes) {
                    now += Duration::from_millis(30);
                    check.handle_udp(now, at(HOST), from, &answer);
                }
            }
            if let Some(report) = check.report() {
                return (report.clone(), now - start);
            }
            now = now.max(check.poll_timeout().unwrap());
            check.handle_timeout(now);
        }
    }
}

#[test]
fn every_kind_of_nat_is_told_by_one_testing_server() {
    let kinds = [Kind::None, Kind::Endpoint, Kind::Address, Kind::AddressAndPort];
    for mapping in kinds {
        for filtering in &kinds[1..] {
            let mut net = Net::new(mapping, *filtering);
            let server = net.testers[0].0;
            let (report, took) = net.check(&[server]);
            assert!(took < Duration::from_secs(8), "{took:?}");
            let v4 = report.ipv4.clone().unwrap();
            let expected = match mapping {
                Kind::None => MappingKind::NoNat,
                Kind::Endpoint => MappingKind::EndpointIndependent,
                Kind::Address => MappingKind::AddressDependent,
                Kind::AddressAndPort => MappingKind::AddressAndPortDependent,
            };
            assert_eq!(v4.mapping, expected);
            let expected = match filtering {
                Kind::None | Kind::Endpoint => FilteringKind::EndpointIndependent,
                Kind::Address => FilteringKind::AddressDependent,
                Kind::AddressAndPort => FilteringKind::AddressAndPortDependent,
            };
            assert_eq!(v4.filtering, expected, "behind mapping {mapping:?}");
            assert!(report.udp && v4.works && report.servers[0].tests_nats);
            assert_eq!(report.ipv6, None);
            assert_eq!(
                report.to_api(false, None).mapping == NatKind::None,
                mapping == Kind::None
            );
        }
    }
}

#[test]
fn one_address_with_two_ports_tells_whether_a_nat_goes_by_ports() {
    let kinds = [Kind::None, Kind::Endpoint, Kind::Address, Kind::AddressAndPort];
    let (first, second) = (at("198.51.100.1:3478"), at("198.51.100.1:3479"));
    for mapping in kinds {
        for filtering in &kinds[1..] {
            let mut net = Net::new(mapping, *filtering);
            net.testers = vec![(first, second)];
            let (report, took) = net.check(&[second, first]);
            assert!(took < Duration::from_secs(8), "{took:?}");
            let v4 = report.ipv4.unwrap();
            let expected = match mapping {
                Kind::None => MappingKind::NoNat,
                Kind::Endpoint | Kind::Address => MappingKind::PortIndependent,
                Kind::AddressAndPort => MappingKind::AddressAndPortDependent,
            };
            assert_eq!(v4.mapping, expected);
            let expected = match filtering {
                Kind::None | Kind::Endpoint | Kind::Address => FilteringKind::PortIndependent,
                Kind::AddressAndPort => FilteringKind::AddressAndPortDependent,
            };
            assert_eq!(v4.filtering, expected, "behind mapping {mapping:?}");
            assert!(report.servers.iter().all(|server| server.rtt.is_some()));
        }
    }
}

#[test]
fn a_second_address_with_two_ports_proves_the_mapping() {
    let servers = [
        "198.51.100.1:3478",
        "198.51.100.1:3479",
        "192.0.2.7:3478",
        "192.0.2.7:3479",
    ]
    .map(at);
    for (mapping, expected) in [
        (Kind::Endpoint, MappingKind::EndpointIndependent),
        (Kind::Address, MappingKind::AddressDependent),
        (Kind::AddressAndPort, MappingKind::AddressAndPortDependent),
    ] {
        let mut net = Net::new(mapping, Kind::AddressAndPort);
        net.testers = vec![(servers[0], servers[1]), (servers[2], servers[3])];
        let v4 = net.check(&servers).0.ipv4.unwrap();
        assert_eq!(v4.mapping, expected);
        assert_eq!(v4.filtering, FilteringKind::AddressAndPortDependent);
    }
}

#[test]
fn a_closed_port_of_a_server_is_not_taken_for_a_filter() {
    let (first, second) = (at("198.51.100.1:3478"), at("198.51.100.1:3479"));
    for closed in [first, second] {
        let mut net = Net::new(Kind::Endpoint, Kind::Endpoint);
        net.testers = vec![(first, second)];
        net.closed = Some(closed);
        let (report, took) = net.check(&[first, second]);
        assert!(took < Duration::from_secs(8), "{took:?}");
        let v4 = report.ipv4.unwrap();
        assert!(v4.works && matches!(v4.mapping, MappingKind::Unknown { .. }));
        assert!(
            matches!(v4.filtering, FilteringKind::Unknown { .. }),
            "{:?}",
            v4.filtering
        );
        let silent: Vec<bool> = report.servers.iter().map(|server| server.problem.is_some()).collect();
        assert_eq!(silent, [closed == first, closed == second]);
    }
}

#[test]
fn plain_servers_tell_the_mapping_if_there_are_two() {
    let servers = [at("192.0.2.1:3478"), at("192.0.2.2:3478"), at("192.0.2.1:3479")];
    let table = [
        (Kind::Endpoint, 2, MappingKind::EndpointIndependent),
        (Kind::AddressAndPort, 2, MappingKind::Dependent),
        (Kind::AddressAndPort, 3, MappingKind::AddressAndPortDependent),
        (Kind::Address, 3, MappingKind::AddressDependent),
    ];
    for (mapping, count, expected) in table {
        let mut net = Net::new(mapping, Kind::AddressAndPort);
        net.plain = servers.to_vec();
        let (report, _) = net.check(&servers[..count]);
        let v4 = report.ipv4.unwrap();
        assert_eq!(v4.mapping, expected);
        assert!(matches!(v4.filtering, FilteringKind::Unknown { .. }));
        assert!(report.servers.iter().all(|server| server.rtt.is_some()));
    }
    let mut net = Net::new(Kind::Endpoint, Kind::Endpoint);
    net.plain = servers.to_vec();
    let (report, _) = net.check(&servers[..1]);
    assert!(matches!(report.ipv4.unwrap().mapping, MappingKind::Unknown { .. }));
}

#[test]
fn a_server_that_only_claims_to_test_is_seen_through() {
    let mut net = Net::new(Kind::Endpoint, Kind::AddressAndPort);
    net.ignores_change = true;
    let server = net.testers[0].0;
    let (report, _) = net.check(&[server]);
    assert!(matches!(report.ipv4.unwrap().filtering, FilteringKind::Unknown { .. }));
}

#[test]
fn hairpin_is_told() {
    for hairpin in [true, false] {
        let mut net = Net::new(Kind::Endpoint, Kind::Endpoint);
        net.hairpin = hairpin;
        let server = net.testers[0].0;
        let (report, _) = net.check(&[server]);
        assert_eq!(report.ipv4.unwrap().hairpin, Some(hairpin));
    }
}

#[test]
fn blocked_udp_is_told_within_seconds_and_names_the_server() {
    let mut net = Net::new(Kind::Endpoint, Kind::Endpoint);
    net.blocked = true;
    let (report, took) = net.check(&[at("198.51.100.1:3478"), at("[2001:db8::1]:3478")]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(!report.udp);
    let told = report.to_api(true, None);
    assert_eq!(
        (told.mapping, told.servers.len(), told.ipv4),
        (NatKind::Blocked, 2, None)
    );
    assert!(!report.ipv4.unwrap().works && !report.ipv6.unwrap().works);
    assert!(
        report.servers[1]
            .problem
            .as_ref()
            .unwrap()
            .contains("[2001:db8::1]:3478")
    );
}

#[test]
fn no_server_gives_a_report_at_once() {
    let check = NetCheck::new(Instant::now(), &[], &[at(HOST)], ChaCha12Rng::seed_from_u64(1));
    assert!(!check.report().unwrap().udp);
    assert_eq!(check.poll_timeout(), None);
}

#[test]
fn answers_to_nobodys_question_change_nothing() {
    let now = Instant::now();
    let mut check = NetCheck::new(
        now,
        &[at("198.51.100.1:3478")],
        &[at(HOST)],
        ChaCha12Rng::seed_from_u64(1),
    );
    let before = check.poll_timeout();
    let foreign = binding_answer(&crate::ice::binding_request([1; 12], None), at("192.0.2.9:9"), None);
    assert!(!check.handle_udp(now, at(HOST), at("198.51.100.1:3478"), &foreign));
    let (_, own) = check.poll_transmit().unwrap();
    assert!(!check.handle_udp(now, at(HOST), at("198.51.100.1:3478"), &own));
    assert_eq!(check.poll_timeout(), before);
}

#[test]
fn a_server_whose_other_address_was_asked_too_does_not_test_filtering() {
    let mut net = Net::new(Kind::Endpoint, Kind::Address);
    let (first, second) = net.testers[0];
    let same_host = SocketAddr::new(second.ip(), first.port());
    let (report, _) = net.check(&[first, same_host]);
    let v4 = report.ipv4.unwrap();
    assert!(
        matches!(v4.filtering, FilteringKind::Unknown { .. }),
        "{:?}",
        v4.filtering
    );
    assert_eq!(v4.mapping, MappingKind::EndpointIndependent);
}

#[test]
fn a_family_without_an_address_is_named_and_not_asked() {
    let servers = [at("[2001:db8::1]:3478")];
    let mut check = NetCheck::new(Instant::now(), &servers, &[at(HOST)], ChaCha12Rng::seed_from_u64(1));
    assert_eq!(check.poll_transmit(), None);
    let report = check.report().unwrap();
    assert_eq!(report.ipv6, None);
    let problem = report.servers[0].problem.as_ref().unwrap();
    assert!(problem.contains("no IPv6 address"), "{problem}");
}

#[test]
fn without_a_nat_an_unspecified_local_address_is_no_nat_either() {
    let now = Instant::now();
    let server = at("198.51.100.1:3478");
    let mut check = NetCheck::new(now, &[server], &[at(HOST)], ChaCha12Rng::seed_from_u64(1));
    while let Some((_, question)) = check.poll_transmit() {
        check.handle_udp(
            now,
            at("0.0.0.0:5000"),
            server,
            &binding_answer(&question, at(HOST), None),
        );
    }
    while let Some(due) = check.poll_timeout() {
        check.handle_timeout(due);
    }
    assert_eq!(
        check.report().unwrap().ipv4.as_ref().unwrap().mapping,
        MappingKind::NoNat
    );
}
