//! Prosody with coturn does what the embedded rendezvous does, and what is wrong with a server is said at once.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use api::status::Connection;
use lab::{Accounts, Failure, LINK_WITHIN, Node, Rendezvous, Rig, Site, until};

/// What the issue of this program promises for a fault of a rendezvous.
const SAID_WITHIN: Duration = Duration::from_secs(5);

fn file(node: &Node, text: &str) -> Result<String, Failure> {
    let path = node.host().folder().with_extension("password");
    std::fs::write(&path, text).map_err(|e| Failure::Unexpected(format!("a password file: {e}")))?;
    Ok(path.display().to_string())
}

#[test]
fn a_group_meets_at_prosody_and_relays_through_coturn() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let rendezvous = Rendezvous::prosody_coturn(&server, Accounts::Open)?;
        let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
        let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
        let carol = Node::start(&rig.host("carol", Site::UdpBlocked)?)?;
        let created = ann.create("home", rendezvous.address())?;
        bob.join(&created.invite)?;
        carol.join(&created.invite)?;
        let nodes = [&ann, &bob, &carol];
        for node in nodes {
            for other in nodes
                .into_iter()
                .filter(|other| other.host().name() != node.host().name())
            {
                let name = other.host().name();
                let relayed = |peer: &api::status::PeerStatus| matches!(peer.connection, Connection::Relay { .. });
                node.wait_peer(name, "through coturn", LINK_WITHIN, relayed)?;
                node.wait_ping(&format!("{name}.home.ipop"), LINK_WITHIN)?;
            }
        }
        for peer in carol.group()?.peers {
            let Connection::Relay { via } = peer.connection else {
                panic!("{peer:?}");
            };
            assert!(via.ends_with("over TCP"), "no UDP passes there, but the relay is {via}");
        }
        Ok(())
    });
}

#[test]
fn accounts_of_the_users_own() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let rendezvous = Rendezvous::prosody_coturn(&server, Accounts::Closed)?;
        let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        let create = ["create", "home", "--server", rendezvous.address()];
        let wrong = file(&ann, "not-anns-secret\n")?;
        said_at_once(
            &ann,
            &[&create[..], &["--account", "ann@rdv.lab", "--password-file", &wrong]].concat(),
            "password",
        )?;
        said_at_once(&ann, &create, "regist")?;
        let right = file(&ann, "ann-secret\n")?;
        ann.ipop(&[&create[..], &["--account", "ann@rdv.lab", "--password-file", &right]].concat())?;
        let invite = ann.invite("home", 1)?.invite;
        let (right, wrong) = (file(&bob, "bob-secret\n")?, "not-bobs-secret");
        let account = ["--account", "bob@rdv.lab", "--password-file", &right];
        bob.ipop(&[&["join", invite.as_str()][..], &account].concat())?;
        assert!(!ann.daemon_said().contains("ann-secret") && !bob.daemon_said().contains(wrong));
        ann.wait_ping(&bob.addresses()?[0].to_string(), LINK_WITHIN)
    });
}

#[test]
fn an_impostor_and_silence_and_nobody() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let rendezvous = Rendezvous::embedded(&server)?;
        let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
        let address = rendezvous.address();
        let at = address.find("pin=").map_or(0, |at| at + 4);
        let impostor = format!("{}{}{}", &address[..at], "77".repeat(32), &address[at + 64..]);
        let ip = server.addresses()[1];
        let pin = "7".repeat(64);
        said_at_once(&ann, &["create", "home", "--server", &impostor], "key")?;
        // A port that refuses, an address where nobody is, and one who answers the call but says nothing.
        said_at_once(
            &ann,
            &["create", "home", "--server", &format!("{ip}:9?pin={pin}")],
            &ip.to_string(),
        )?;
        said_at_once(
            &ann,
            &["create", "home", "--server", &format!("203.0.113.250:5222?pin={pin}")],
            "203.0.113.250",
        )?;
        let mute = server.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7)))?;
        let _mute = mute.map_err(|e| Failure::Unexpected(format!("a mute server: {e}")))?;
        said_at_once(
            &ann,
            &["create", "home", "--server", &format!("{ip}:7?pin={pin}")],
            &ip.to_string(),
        )?;
        said_at_once(
            &ann,
            &["create", "home", "--server", "no.such.host.example"],
            "no.such.host.example",
        )?;
        ann.create("home", address)?;
        Ok(())
    });
}

/// Refused with one sentence that has a word of it, in the time that was promised, and nothing was made.
fn said_at_once(node: &Node, arguments: &[&str], word: &str) -> Result<(), Failure> {
    let began = Instant::now();
    let refusal = node.refused(arguments)?;
    let took = began.elapsed();
    eprintln!("{took:?}: {}", refusal.sentence);
    assert_eq!((refusal.code, refusal.sentence.lines().count()), (1, 1), "{refusal:?}");
    assert!(
        refusal.sentence.contains(word),
        "{word} is not in: {}",
        refusal.sentence
    );
    assert!(took <= SAID_WITHIN, "said only after {took:?}: {}", refusal.sentence);
    assert!(node.status()?.groups.is_empty());
    Ok(())
}

#[test]
fn a_server_that_dies_is_told_and_found_again() {
    lab::run(|rig: &mut Rig| {
        let server = rig.host("server", Site::Server)?;
        let mut rendezvous = Rendezvous::embedded(&server)?;
        let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        let created = ann.create("home", rendezvous.address())?;
        bob.join(&created.invite)?;
        ann.wait_direct("bob", LINK_WITHIN)?;
        rendezvous.processes()[0].signal("KILL")?;
        let killed = Instant::now();
        until("a sentence about the dead server", LINK_WITHIN, || {
            let status = ann.status().map_err(|failure| failure.to_string())?;
            let told = status
                .health
                .iter()
                .any(|health| health.message.contains("203.0.113.2:443"));
            let faults = status.groups.iter().flat_map(|g| &g.rendezvous);
            let known = faults.clone().all(|server| !server.online && server.fault.is_some());
            if told && known {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })?;
        let took = killed.elapsed();
        assert!(took <= SAID_WITHIN, "said only after {took:?}");
        // Links do without it.
        ann.wait_ping(&bob.addresses()?[0].to_string(), LINK_WITHIN)?;
        drop(rendezvous);
        let _again = Rendezvous::embedded(&server)?;
        until("both at the server again", 2 * LINK_WITHIN, || {
            let online = |node: &Node| Ok(node.group()?.rendezvous.iter().all(|server| server.online));
            match (online(&ann), online(&bob)) {
                (Ok(true), Ok(true)) => Ok(()),
                (a, b) => Err::<_, String>(format!("{:?} {:?}", a.map_err(|e: Failure| e), b)),
            }
        })?;
        assert!(ann.status()?.health.is_empty(), "{:?}", ann.status()?.health);
        Ok(())
    });
}
