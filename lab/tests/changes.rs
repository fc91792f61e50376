//! Networks as they are: they lose, delay, reboot and change under a link, and the link goes on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use api::link::{NatKind, NetReport};
use api::status::Connection;
use lab::{Delay, LINK_WITHIN, Node, Rendezvous, Site, oracle, until};

#[test]
fn a_group_forms_over_a_long_wire_that_loses() {
    lab::run(|rig| {
        let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
        let far = Delay {
            one_way: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
        };
        let ann = rig.distant_host("ann", Site::PortRestricted, far)?;
        let bob = rig.distant_host("bob", Site::PortRestricted, far)?;
        rig.loss(&ann, 50)?;
        rig.loss(&bob, 50)?;
        let (ann, bob) = (Node::start(&ann)?, Node::start(&bob)?);
        let invite = ann.create("home", rendezvous.address())?.invite;
        bob.join(&invite)?;
        ann.wait_direct("bob", LINK_WITHIN)?;
        bob.wait_direct("ann", LINK_WITHIN)?;
        ann.wait_ping("bob.home.ipop", LINK_WITHIN)
    });
}

#[test]
fn a_router_that_reboots_costs_no_link() {
    lab::run(|rig| {
        let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
        // Behind a symmetric NAT the new mapping is another port: the peer must follow.
        let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
        let carol = Node::start(&rig.host("carol", Site::Public)?)?;
        let invite = carol.create("home", rendezvous.address())?.invite;
        bob.join(&invite)?;
        bob.wait_direct("carol", LINK_WITHIN)?;
        let before = carol.wait_direct("bob", LINK_WITHIN)?;
        let target = carol.addresses()?[0].to_string();
        bob.wait_ping(&target, LINK_WITHIN)?;
        rig.forget_mappings(bob.host())?;
        bob.wait_ping(&target, LINK_WITHIN)?;
        let elsewhere = |peer: &api::status::PeerStatus| {
            matches!(peer.connection, Connection::Direct { .. }) && peer.connection != before.connection
        };
        carol.wait_peer("bob", "directly at another port", LINK_WITHIN, elsewhere)?;
        bob.wait_ping(&target, LINK_WITHIN)?;
        carol.wait_ping(&bob.addresses()?[0].to_string(), LINK_WITHIN)
    });
}

#[test]
fn a_relay_that_dies_and_returns_is_used_again() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let mut rendezvous = Rendezvous::embedded(&server)?;
        let ann = Node::start(&rig.host("ann", Site::Symmetric)?)?;
        let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
        let invite = ann.create("home", rendezvous.address())?.invite;
        bob.join(&invite)?;
        let target = bob.addresses()?[0].to_string();
        ann.wait_ping(&target, LINK_WITHIN)?;
        rendezvous.processes()[0].signal("KILL")?;
        drop(rendezvous);
        let _again = Rendezvous::embedded(&server)?;
        // No way was there for a while: how long is a matter of backoffs, not of a promise.
        ann.wait_ping(&target, 3 * LINK_WITHIN)?;
        bob.wait_ping(&ann.addresses()?[0].to_string(), LINK_WITHIN)
    });
}

#[test]
fn netcheck_tells_what_the_table_says() {
    lab::run(|rig| {
        // One in each of two groups, as only two show whether a NAT maps by destination.
        let rendezvous = [
            Rendezvous::embedded(&rig.host("server", Site::Server)?)?,
            Rendezvous::embedded(&rig.host("other", Site::Server)?)?,
        ];
        for site in [
            Site::Public,
            Site::PortRestricted,
            Site::FullCone,
            Site::Symmetric,
            Site::UdpBlocked,
            Site::Ipv6Only,
        ] {
            let node = Node::start(&rig.host(&format!("{site:?}").to_lowercase(), site)?)?;
            for (group, server) in ["home", "work"].into_iter().zip(&rendezvous) {
                node.create(group, server.address())?;
            }
            let report = until("the servers of both groups", LINK_WITHIN, || {
                let report = node.netcheck().map_err(|failure| failure.to_string())?;
                let hosts: BTreeSet<IpAddr> = report.servers.iter().map(|server| server.server.ip()).collect();
                if hosts.len() < 2 {
                    Err(format!("{report:?}"))
                } else {
                    Ok(report)
                }
            })?;
            check_report(site, &report);
        }
        Ok(())
    });
}

#[test]
fn netcheck_with_one_server_tells_whether_a_nat_goes_by_ports() {
    lab::run(|rig| {
        let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
        for (site, mapping, filtering) in [
            (Site::FullCone, NatKind::PortIndependent, NatKind::PortIndependent),
            (
                Site::PortRestricted,
                NatKind::PortIndependent,
                NatKind::AddressAndPortDependent,
            ),
            (
                Site::Symmetric,
                NatKind::AddressAndPortDependent,
                NatKind::AddressAndPortDependent,
            ),
        ] {
            let node = Node::start(&rig.host(&format!("{site:?}").to_lowercase(), site)?)?;
            node.create("home", rendezvous.address())?;
            let report = until("a STUN server's answer", LINK_WITHIN, || {
                let report = node.netcheck().map_err(|failure| failure.to_string())?;
                match report.servers.iter().any(|server| server.service == "stun") {
                    true => Ok(report),
                    false => Err(format!("{report:?}")),
                }
            })?;
            assert_eq!(
                (report.mapping, report.filtering),
                (mapping, filtering),
                "{site:?}: {report:?}"
            );
        }
        Ok(())
    });
}

fn check_report(site: Site, report: &NetReport) {
    let told = format!("{site:?}: {report:?}");
    let expected = oracle::behaviour(site).udp;
    assert_eq!(report.udp, expected.is_some(), "{told}");
    assert_eq!(report.ipv4.is_some(), expected.is_some() && site.ipv4(), "{told}");
    assert_eq!(report.ipv6.is_some(), expected.is_some() && site.ipv6(), "{told}");
    let mapping = match expected {
        None => NatKind::Blocked,
        Some(udp) if !udp.translated => NatKind::None,
        Some(udp) if udp.mapping == oracle::Kind::EndpointIndependent => NatKind::EndpointIndependent,
        Some(_) => NatKind::AddressAndPortDependent,
    };
    assert_eq!(report.mapping, mapping, "{told}");
    // Each server has one address, so that addresses cannot be told apart.
    let filtering = match expected.map(|udp| udp.filtering) {
        None => NatKind::Blocked,
        Some(oracle::Kind::EndpointIndependent | oracle::Kind::AddressDependent) => NatKind::PortIndependent,
        Some(oracle::Kind::AddressAndPortDependent) => NatKind::AddressAndPortDependent,
    };
    assert_eq!(report.filtering, filtering, "{told}");
    if let Some(udp) = expected {
        assert_eq!(report.hairpin, Some(udp.hairpin), "{told}");
    }
    for (service, over_udp) in [
        ("stun", true),
        ("turn udp", true),
        ("turn tcp", false),
        ("turn tls", false),
    ] {
        let mut entries = report
            .servers
            .iter()
            .filter(|server| server.service == service)
            .peekable();
        assert!(entries.peek().is_some(), "{service} is not in {told}");
        let works = expected.is_some() || !over_udp;
        assert!(
            entries.all(|entry| entry.rtt_us.is_some() == works),
            "{service} in {told}"
        );
    }
}
