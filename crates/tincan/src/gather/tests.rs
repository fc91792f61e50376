//! The gatherer with addresses, servers and mappings as data.

use rand::SeedableRng;

use super::*;
use crate::ice::{CandidateKind, binding_answer};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const SERVER: &str = "198.51.100.1:3478";

fn address(ip: &str, default_route: bool) -> IfAddr {
    IfAddr {
        ip: ip.parse().unwrap(),
        default_route,
        deprecated: false,
    }
}

fn gatherer(now: Instant, addresses: &[IfAddr]) -> Gatherer {
    let mut gatherer = Gatherer::new(AddressPolicy::default(), ChaCha12Rng::seed_from_u64(1));
    gatherer.set_ports(now, Some(5000), Some(5001));
    gatherer.handle_addresses(now, addresses);
    gatherer
}

fn listed(gatherer: &Gatherer) -> Vec<String> {
    let line = |c: &Candidate| match c.kind {
        CandidateKind::ServerReflexive => format!("{} from {}", c.address, c.base),
        _ => c.address.to_string(),
    };
    gatherer.candidates().iter().map(line).collect()
}

fn events(gatherer: &mut Gatherer) -> Vec<GatherEvent> {
    std::iter::from_fn(|| gatherer.poll_event()).collect()
}

fn answer_all(gatherer: &mut Gatherer, now: Instant, local: &str, mapped: &str) -> usize {
    let asked: Vec<Transmit> = std::iter::from_fn(|| gatherer.poll_transmit()).collect();
    for transmit in &asked {
        let answer = binding_answer(&transmit.bytes, at(mapped), None);
        assert!(gatherer.handle_udp(now, at(local), transmit.remote, &answer));
    }
    asked.len()
}

#[test]
fn hosts_are_candidates_at_once_and_unusable_addresses_are_not() {
    let old = IfAddr {
        deprecated: true,
        ..address("2001:db8::dead", false)
    };
    let list = [
        address("127.0.0.1", false),
        address("::1", false),
        address("fe80::1", false),
        address("169.254.3.3", false),
        address("172.17.0.1", false),
        address("10.0.0.2", true),
        address("2001:db8::2", true),
        address("fd00::2", false),
        old,
    ];
    let gatherer = gatherer(Instant::now(), &list);
    assert_eq!(
        listed(&gatherer),
        [
            "10.0.0.2:5000",
            "[2001:db8::2]:5001",
            "172.17.0.1:5000",
            "[fd00::2]:5001"
        ]
    );
    let priorities: Vec<u32> = gatherer.candidates().iter().map(|c| c.priority).collect();
    assert!(priorities.is_sorted_by(|a, b| a > b));
}

#[test]
fn servers_are_asked_only_while_links_are_wanted() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(now, &[at(SERVER), at("[2001:db8::1]:3478")]);
    assert_eq!((gatherer.poll_transmit(), gatherer.poll_timeout()), (None, None));
    gatherer.set_active(now, true);
    assert_eq!(
        answer_all(&mut gatherer, now, "10.0.0.2:5000", "203.0.113.1:40000"),
        1,
        "no IPv6 address, no IPv6 server"
    );
    assert_eq!(
        listed(&gatherer),
        ["10.0.0.2:5000", "203.0.113.1:40000 from 10.0.0.2:5000"]
    );
    assert_eq!(gatherer.poll_timeout(), Some(now + REFRESH));
    gatherer.set_active(now, false);
    assert_eq!(gatherer.poll_timeout(), None);
    assert_eq!(gatherer.candidates().len(), 2);
}

#[test]
fn a_mapping_that_moved_replaces_the_old_one() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(now, &[at(SERVER)]);
    gatherer.set_active(now, true);
    answer_all(&mut gatherer, now, "10.0.0.2:5000", "203.0.113.1:40000");
    events(&mut gatherer);
    let later = now + REFRESH;
    gatherer.handle_timeout(later);
    answer_all(&mut gatherer, later, "10.0.0.2:5000", "203.0.113.1:50000");
    let changes = events(&mut gatherer);
    assert!(matches!(changes[0], GatherEvent::CandidateRemoved(c) if c.address == at("203.0.113.1:40000")));
    assert!(matches!(changes[1], GatherEvent::CandidateAdded(c) if c.address == at("203.0.113.1:50000")));
    assert_eq!(changes.len(), 2);
}

#[test]
fn without_a_nat_there_is_nothing_new_and_the_base_is_where_the_answer_came_in() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("203.0.113.1", true), address("10.0.0.2", false)]);
    gatherer.set_servers(now, &[at(SERVER)]);
    gatherer.set_active(now, true);
    answer_all(&mut gatherer, now, "203.0.113.1:5000", "203.0.113.1:5000");
    assert_eq!(listed(&gatherer), ["203.0.113.1:5000", "10.0.0.2:5000"]);
    gatherer.handle_timeout(now + REFRESH);
    answer_all(&mut gatherer, now + REFRESH, "10.0.0.2:5000", "203.0.113.77:9");
    assert_eq!(listed(&gatherer)[2], "203.0.113.77:9 from 10.0.0.2:5000");
    // A socket that does not tell where a datagram came in: the default route.
    gatherer.handle_timeout(now + 2 * REFRESH);
    answer_all(&mut gatherer, now + 2 * REFRESH, "0.0.0.0:5000", "203.0.113.78:9");
    assert_eq!(listed(&gatherer)[2], "203.0.113.78:9 from 203.0.113.1:5000");
}

#[test]
fn a_silent_server_is_asked_four_times_and_told_once() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(now, &[at(SERVER)]);
    gatherer.set_active(now, true);
    events(&mut gatherer);
    let mut sent_at = Vec::new();
    while let Some(due) = gatherer.poll_timeout().filter(|due| *due < now + secs(200)) {
        gatherer.handle_timeout(due);
        sent_at.extend(std::iter::from_fn(|| gatherer.poll_transmit()).map(|_| (due - now).as_millis()));
    }
    assert_eq!(sent_at[..4], [250, 250, 750, 1750], "the first left at once");
    assert_eq!(sent_at.len(), 4 * 4 - 1 + 1);
    let told = events(&mut gatherer);
    assert_eq!(told.len(), 1);
    assert!(matches!(&told[0], GatherEvent::ServerFailed { server, reason }
        if *server == at(SERVER) && reason.contains("does not answer")));
}

#[test]
fn of_several_ports_at_one_address_the_lowest_is_asked() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(
        now,
        &["198.51.100.1:3479", "198.51.100.1:3478", "198.51.100.2:9"].map(at),
    );
    gatherer.set_active(now, true);
    let asked: Vec<SocketAddr> = std::iter::from_fn(|| gatherer.poll_transmit())
        .map(|t| t.remote)
        .collect();
    assert_eq!(asked, ["198.51.100.1:3478", "198.51.100.2:9"].map(at));
}

#[test]
fn another_network_drops_what_was_seen_from_the_old_one_and_asks_anew() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(now, &[at(SERVER)]);
    gatherer.set_active(now, true);
    answer_all(&mut gatherer, now, "10.0.0.2:5000", "203.0.113.1:40000");
    gatherer.handle_addresses(now, &[address("192.168.7.7", true)]);
    assert_eq!(listed(&gatherer), ["192.168.7.7:5000"]);
    assert_eq!(answer_all(&mut gatherer, now, "192.168.7.7:5000", "203.0.113.2:1"), 1);
    assert_eq!(gatherer.candidates().len(), 2);
    gatherer.handle_addresses(now, &[]);
    assert!(gatherer.candidates().is_empty());
}

#[test]
fn a_relay_of_a_family_that_the_host_lacks_comes_last() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    for relayed in ["[2001:db8::9]:50000", "198.51.100.9:50000"] {
        gatherer.add_relayed(at(relayed), false);
    }
    let mut relayed: Vec<_> = gatherer
        .candidates()
        .iter()
        .filter(|c| c.kind == CandidateKind::Relayed)
        .collect();
    relayed.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
    let relayed: Vec<_> = relayed.iter().map(|candidate| candidate.address).collect();
    assert_eq!(relayed, [at("198.51.100.9:50000"), at("[2001:db8::9]:50000")]);
}

#[test]
fn port_mappings_and_relays_come_and_go() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.add_mapped(now, at("203.0.113.1:5000"), at("10.0.0.2:5000"), secs(60));
    gatherer.add_relayed(at("198.51.100.9:50000"), false);
    assert_eq!(
        listed(&gatherer),
        [
            "10.0.0.2:5000",
            "203.0.113.1:5000 from 10.0.0.2:5000",
            "198.51.100.9:50000"
        ]
    );
    gatherer.add_mapped(now + secs(30), at("203.0.113.1:5000"), at("10.0.0.2:5000"), secs(60));
    gatherer.handle_timeout(now + secs(61));
    assert_eq!(gatherer.candidates().len(), 3, "it was renewed");
    assert_eq!(gatherer.poll_timeout(), Some(now + secs(90)));
    gatherer.handle_timeout(now + secs(90));
    gatherer.remove_relayed(at("198.51.100.9:50000"));
    assert_eq!(listed(&gatherer), ["10.0.0.2:5000"]);
}

#[test]
fn forged_and_foreign_answers_change_nothing() {
    let now = Instant::now();
    let mut gatherer = gatherer(now, &[address("10.0.0.2", true)]);
    gatherer.set_servers(now, &[at(SERVER)]);
    gatherer.set_active(now, true);
    let question = gatherer.poll_transmit().unwrap();
    events(&mut gatherer);
    let right = binding_answer(&question.bytes, at("203.0.113.1:40000"), None);
    let other = binding_answer(&binding_request([1; 12], None), at("203.0.113.1:40000"), None);
    assert!(!gatherer.handle_udp(now, at("10.0.0.2:5000"), at("192.0.2.66:3478"), &right));
    assert!(!gatherer.handle_udp(now, at("10.0.0.2:5000"), at(SERVER), &other));
    assert!(!gatherer.handle_udp(now, at("10.0.0.2:5000"), at(SERVER), &question.bytes));
    for cut in 0..right.len() {
        assert!(!gatherer.handle_udp(now, at("10.0.0.2:5000"), at(SERVER), &right[..cut]));
    }
    assert!(events(&mut gatherer).is_empty());
    // A server may not name us as somebody whom peers must not be sent to.
    let loopback = binding_answer(&question.bytes, at("127.0.0.1:22"), None);
    assert!(gatherer.handle_udp(now, at("10.0.0.2:5000"), at(SERVER), &loopback));
    assert_eq!(listed(&gatherer), ["10.0.0.2:5000"]);
}
