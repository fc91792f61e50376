//! Size of the binary; memory and processor time of a node at rest, with one link and with many.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use api::status::Connection;
use lab::{Rig, Site, until};

use crate::node::{Node, Rendezvous};
use crate::process::{Memory, cpu_of_all};
use crate::report::{Report, Row};
use crate::settings::Settings;

const MEMBERS: usize = 50;
const LINKED_WITHIN: Duration = Duration::from_secs(120);
const AT_REST: Duration = Duration::from_secs(10);

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let size = std::fs::metadata(&settings.ipop)
        .context("read the binary's size")?
        .len();
    report
        .rows
        .push(Row::one("size of the binary", size as f64 / 1e6, "MB", ""));

    let members = settings.rounds(MEMBERS, 4);
    let mut rig = Rig::new()?;
    // Not on one switch: each host would have every other in the kernel's table of neighbours, which all namespaces share.
    let server = rig.host("server", Site::Server)?;
    let founding = rig.host("founder", Site::Public)?;
    let rendezvous = Rendezvous::start(&settings.ipop, &server)?;
    let founder = Node::start(&settings.ipop, &founding)?;
    founder.create(&rendezvous)?;
    let invite = founder.invite(members)?;

    rest(&founder, "no link", "at most 16 MB", report)?;
    let mut nodes = Vec::new();
    let target = founder.address()?.to_string();
    for number in 1..=members {
        let host = rig.host(&format!("member{number}"), Site::Public)?;
        let node = Node::start(&settings.ipop, &host)?;
        node.join(&invite)
            .with_context(|| format!("member {number} of {members}"))?;
        // In a large group members link to whom they talk to.
        until("the founder answers", LINKED_WITHIN, || {
            host.ping(&target).map_err(|failure| failure.to_string())
        })?;
        nodes.push(node);
    }
    until("every member is linked to the founder", LINKED_WITHIN, || {
        let linked = linked(&founder).map_err(|error| format!("{error:#}"))?;
        if linked == members {
            Ok(())
        } else {
            Err(format!("{linked} of {members}"))
        }
    })?;
    rest(&founder, &format!("{members} links"), "", report)
}

fn linked(node: &Node) -> anyhow::Result<usize> {
    let status = node.status()?;
    let peers = status.groups.iter().flat_map(|group| &group.peers);
    Ok(peers
        .filter(|peer| matches!(peer.connection, Connection::Direct { .. } | Connection::Relay { .. }))
        .count())
}

fn rest(node: &Node, state: &str, aim: &str, report: &mut Report) -> anyhow::Result<()> {
    let processes = [node.process("tincan")?, node.process("controller")?];
    let before = cpu_of_all(&processes)?;
    sleep(AT_REST);
    let share = (cpu_of_all(&processes)? - before) / AT_REST.as_secs_f64() * 100.0;
    let in_mb = |bytes: u64| bytes as f64 / 1e6;
    let mut say =
        |what: &str, value, unit, aim| report.rows.push(Row::one(format!("{what}, {state}"), value, unit, aim));
    for (name, process) in ["memory of tincan", "memory of controller"].into_iter().zip(processes) {
        say(name, in_mb(Memory::of(process)?.resident), "MB", "");
    }
    let both = Memory::of_all(&processes)?;
    say("memory of both", in_mb(both.resident), "MB", aim);
    say("the same without pages of files", in_mb(both.own), "MB", "");
    say("CPU of both at rest", share, "% of a core", "0");
    Ok(())
}
