//! Nothing is left behind: not by an end, not by a kill, not by leaving a group.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lab::{Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Role, Site, until};

fn server_and_host(rig: &mut Rig) -> Result<(Rendezvous, Host), Failure> {
    let server = rig.host("server", Site::Server)?;
    Ok((Rendezvous::embedded(&server)?, rig.host("ann", Site::PortRestricted)?))
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() && !path.is_symlink() => files(&path),
        path => BTreeSet::from([path]),
    });
    below.collect()
}

fn wait_alone(host: &Host) -> Result<(), Failure> {
    until("the end of all processes", LINK_WITHIN, || match host.processes() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
}

fn has_nic(node: &Node) -> Result<bool, Failure> {
    let Some(nic) = node.group()?.nic else {
        return Ok(false);
    };
    Ok(node.host().network_settings()?.contains(&nic))
}

fn names_itself(node: &Node) -> Result<bool, Failure> {
    let own = format!("{}.home.ipop", node.host().name());
    Ok(node.host().output("getent", &["ahosts", &own])?.status.success())
}

#[test]
fn an_end_by_signal_leaves_nothing() {
    lab::run(|rig| {
        let (rendezvous, host) = server_and_host(rig)?;
        let before = host.network_settings()?;
        for signal in ["TERM", "INT"] {
            let mut node = Node::start(&host)?;
            if node.status()?.groups.is_empty() {
                node.create("home", rendezvous.address())?;
            }
            until("the NIC and the names", LINK_WITHIN, || {
                match (has_nic(&node), names_itself(&node)) {
                    (Ok(true), Ok(true)) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
            assert_ne!(host.network_settings()?, before);
            assert_eq!(node.end(signal)?, Some(0));
            assert_eq!(host.network_settings()?, before, "after SIG{signal}");
            assert!(host.processes().is_empty(), "after SIG{signal}");
            assert_eq!(node.output(&["status"])?.status.code(), Some(1));
        }
        Ok(())
    });
}

#[test]
fn a_start_after_a_kill_clears_what_was_left() {
    lab::run(|rig| {
        let (rendezvous, host) = server_and_host(rig)?;
        let before = host.network_settings()?;
        let mut node = Node::start(&host)?;
        let group = node.create("home", rendezvous.address())?.group;
        for whole in [false, true] {
            let tincan = node.process(Role::Tincan);
            if whole {
                // All at once, as when the power goes: nobody can tidy up after anybody.
                for pid in host.processes() {
                    lab::signal(pid, "KILL")?;
                }
            } else {
                node.daemon().map_or(Ok(()), |daemon| daemon.signal("KILL"))?;
            }
            wait_alone(&host)?;
            node = Node::start(&host)?;
            assert_ne!(node.process(Role::Tincan), tincan);
            until("the group again", LINK_WITHIN, || {
                match (node.group(), names_itself(&node)) {
                    (Ok(now), Ok(true)) if now.network == group.network && now.nic.is_some() => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        }
        assert_eq!(node.end("TERM")?, Some(0));
        assert_eq!(host.network_settings()?, before);
        Ok(())
    });
}

#[test]
fn leaving_leaves_nothing_of_the_group() {
    lab::run(|rig| {
        let (rendezvous, host) = server_and_host(rig)?;
        let mut node = Node::start(&host)?;
        let settings = host.network_settings()?;
        let before = files(node.state());
        let token = rendezvous.address().rsplit('=').next().unwrap_or_default().to_owned();
        let group = node.create("home", rendezvous.address())?.group;
        assert!(!files(node.state()).is_subset(&before), "a group keeps something");
        node.ipop(&["leave", "home"])?;
        assert!(node.status()?.groups.is_empty());
        until("the host as it was", LINK_WITHIN, || {
            let now = host.network_settings().map_err(|failure| failure.to_string())?;
            if now == settings { Ok(()) } else { Err(now) }
        })?;
        for restarted in [false, true] {
            let mut left = files(node.state());
            left.retain(|path| !before.contains(path));
            let empty_store = node.state().join("controller/store.json");
            assert!(
                left.iter().all(|path| *path == empty_store),
                "restarted {restarted}: {left:?}"
            );
            for path in files(node.state()) {
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
                for trace in [
                    &group.network.to_string(),
                    &group.node.to_string(),
                    &token,
                    "home",
                    "ann",
                ] {
                    assert!(!text.contains(trace), "{} still has {trace}: {text}", path.display());
                }
            }
            if !restarted {
                node.end("TERM")?;
                node = Node::start(&host)?;
                assert!(node.status()?.groups.is_empty());
            }
        }
        Ok(())
    });
}

#[test]
fn a_second_daemon_is_refused() {
    lab::run(|rig| {
        let host = rig.host("ann", Site::Public)?;
        let node = Node::start(&host)?;
        let (tincan, controller) = (node.process(Role::Tincan), node.process(Role::Controller));
        let refusal = node.refused(&["daemon"])?;
        assert_eq!(refusal.code, 1);
        let state = node.state().display().to_string();
        assert!(refusal.sentence.contains(&state), "{}", refusal.sentence);
        assert_eq!(
            (node.process(Role::Tincan), node.process(Role::Controller)),
            (tincan, controller)
        );
        let status = node.status()?;
        assert!(
            status.tincan && status.memory_bytes.iter().all(|bytes| *bytes > 0),
            "{status:?}"
        );
        Ok(())
    });
}

#[test]
fn who_makes_a_group_after_down_wants_it_up() {
    lab::run(|rig| {
        let (rendezvous, host) = server_and_host(rig)?;
        let node = Node::start(&host)?;
        node.ipop(&["down"])?;
        node.create("home", rendezvous.address())?;
        let address = node.addresses()?[0];
        node.wait_ping(&address.to_string(), LINK_WITHIN)
    });
}

#[test]
fn down_takes_away_and_up_brings_back() {
    lab::run(|rig| {
        let (rendezvous, host) = server_and_host(rig)?;
        let node = Node::start(&host)?;
        let before = host.network_settings()?;
        node.create("home", rendezvous.address())?;
        let address = node.addresses()?[0];
        for _ in 0..2 {
            node.ipop(&["down"])?;
            assert!(!node.status()?.up);
            assert_eq!(host.network_settings()?, before);
            node.ipop(&["up"])?;
            assert!(node.status()?.up);
            node.wait_ping(&address.to_string(), LINK_WITHIN)?;
            until("the names", LINK_WITHIN, || match names_itself(&node) {
                Ok(true) => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
        }
        Ok(())
    });
}
