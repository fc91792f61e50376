//! What a group is for: machines behind NATs that reach each other by address and by name.

use api::status::Connection;
use lab::{Accounts, Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Role, Site, until};

/// Three nodes with a daemon each, in one group.
fn three(rig: &mut Rig, rendezvous: &Rendezvous) -> Result<[Node; 3], Failure> {
    let ann = Node::start(&rig.host("ann", Site::PortRestricted)?)?;
    let bob = Node::start(&rig.host("bob", Site::Symmetric)?)?;
    let carol = Node::start(&rig.host("carol", Site::Public)?)?;
    let created = ann.create("home", rendezvous.address())?;
    for node in [&bob, &carol] {
        let joined = node.join(&created.invite)?;
        assert_eq!(joined.group.network, created.group.network);
    }
    Ok([ann, bob, carol])
}

#[test]
fn join_by_name() {
    joined_by_name(Rendezvous::embedded);
}

#[test]
fn join_by_name_at_prosody() {
    joined_by_name(|host| Rendezvous::prosody_coturn(host, Accounts::Open));
}

fn joined_by_name(start: impl FnOnce(&Host) -> Result<Rendezvous, Failure>) {
    lab::run(|rig| {
        let rendezvous = start(&rig.host("server", Site::Server)?)?;
        let nodes = three(rig, &rendezvous)?;
        all_reach_each_other(&nodes)
    });
}

fn all_reach_each_other(nodes: &[Node; 3]) -> Result<(), Failure> {
    for node in nodes {
        let others: Vec<&Node> = nodes.iter().filter(|n| n.host().name() != node.host().name()).collect();
        for other in others {
            let name = other.host().name();
            node.wait_linked(name, LINK_WITHIN)?;
            for address in other.addresses()? {
                node.wait_ping(&address.to_string(), LINK_WITHIN)?;
            }
            node.wait_ping(&format!("{name}.home.ipop"), LINK_WITHIN)?;
            assert_eq!(node.ping(name)?.name, name);
        }
    }
    let [ann, bob, carol] = nodes;
    ann.wait_direct("carol", LINK_WITHIN)?;
    bob.wait_direct("carol", LINK_WITHIN)?;
    let healthy = carol.status()?.health;
    assert!(healthy.is_empty(), "{healthy:?}");
    // No direct path is there: a fault of nobody's, but one to be told.
    let relayed = ann.wait_linked("bob", LINK_WITHIN)?.connection;
    assert!(matches!(relayed, Connection::Relay { .. }), "{relayed:?}");
    assert_eq!(
        ann.status()?.health.iter().map(|h| h.code.as_str()).collect::<Vec<_>>(),
        ["relayed"]
    );
    Ok(())
}

#[test]
fn up_on_a_new_machine_makes_a_group_and_its_rendezvous() {
    lab::run(|rig| {
        let ann = Node::new(&rig.host("ann", Site::Public)?);
        let before = ann.host().network_settings()?;
        let said = ann.ipop(&["up"])?;
        let invite = said.split_whitespace().find(|word| word.starts_with("ipop://"));
        let invite = invite.ok_or_else(|| Failure::Unexpected(format!("no invite in {said}")))?;
        let bob = Node::new(&rig.host("bob", Site::PortRestricted)?);
        let joined = bob.join(invite)?;
        let founder = &joined.member;
        for address in [format!("{founder}.home.ipop"), ann.addresses()?[1].to_string()] {
            bob.wait_ping(&address, LINK_WITHIN)?;
        }
        bob.wait_direct(founder, LINK_WITHIN)?;
        // The control plane has no right that it does not need.
        for role in [Role::Controller, Role::Server] {
            let pid = ann
                .process(role)
                .ok_or_else(|| Failure::Unexpected(format!("no {role:?}")))?;
            assert_unprivileged(pid);
        }
        for node in [&bob, &ann] {
            node.ipop(&["down"])?;
            until("the end of the daemon", LINK_WITHIN, || match node.host().processes() {
                none if none.is_empty() => Ok(()),
                some => Err(format!("{some:?}")),
            })?;
        }
        assert_eq!(ann.host().network_settings()?, before);
        ann.ipop(&["up"])?;
        bob.ipop(&["up"])?;
        bob.wait_ping(&format!("{founder}.home.ipop"), LINK_WITHIN)
    });
}

fn assert_unprivileged(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default()
            .trim()
    };
    assert!(!value("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
    for set in ["CapEff:", "CapPrm:", "CapInh:"] {
        assert_eq!(value(set), "0000000000000000", "{set} of {status}");
    }
}

#[test]
fn no_secret_is_logged() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let rendezvous = Rendezvous::embedded(&server)?;
        let ann = Node::start_talkative(&rig.host("ann", Site::PortRestricted)?)?;
        let bob = Node::start_talkative(&rig.host("bob", Site::Symmetric)?)?;
        let created = ann.create("home", rendezvous.address())?;
        bob.join(&created.invite)?;
        ann.wait_ping(&bob.addresses()?[0].to_string(), LINK_WITHIN)?;
        let token = rendezvous.address().rsplit('=').next().unwrap_or_default();
        let mut secrets = vec![token.to_owned(), created.invite["ipop://".len()..][60..120].to_owned()];
        for node in [&ann, &bob] {
            let store = std::fs::read_to_string(node.state().join("controller/store.json"));
            let store: serde_json::Value = serde_json::from_str(&store.unwrap_or_default()).unwrap_or_default();
            secrets_in(&store, &mut secrets);
        }
        assert!(secrets.len() > 3, "the stores have passwords: {}", secrets.len());
        for node in [&ann, &bob] {
            let said = node.daemon_said();
            assert!(said.contains("TRACE"), "it was to tell everything");
            let told = secrets.iter().filter(|secret| said.contains(secret.as_str())).count();
            let lines = said
                .lines()
                .filter(|line| secrets.iter().any(|secret| line.contains(secret.as_str())));
            assert_eq!(told, 0, "{:?}", lines.take(3).collect::<Vec<_>>());
        }
        Ok(())
    });
}

/// Every string that stands under a name like `password`, `token` or `secret`.
fn secrets_in(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let is_secret = ["password", "token", "secret"].iter().any(|word| name.contains(word));
                match value.as_str() {
                    Some(text) if is_secret && !text.is_empty() => found.push(text.to_owned()),
                    _ => secrets_in(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| secrets_in(value, found)),
        _ => {}
    }
}
