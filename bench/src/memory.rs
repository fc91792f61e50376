//! Size of the binary; memory and processor time of a node at rest, with one link and with many.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use api::status::Connection;
use lab::{Rig, until};

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
    let rig = Rig::new()?;
    let names: Vec<String> = (0..members).map(|number| format!("member{number}")).collect();
    let names: Vec<&str> = ["server", "founder"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let hosts = rig.lan(&names)?;
    let rendezvous = Rendezvous::start(&settings.ipop, &hosts[0])?;
    let founder = Node::start(&settings.ipop, &hosts[1])?;
    founder.create(&rendezvous)?;
    let invite = founder.invite(members)?;

    rest(&founder, "no link", "at most 16 MB", report)?;
    let mut nodes = Vec::new();
    for (number, host) in hosts[2..].iter().enumerate() {
        let node = Node::start(&settings.ipop, host)?;
        node.join(&invite)
            .with_context(|| format!("member {number} of {members}"))?;
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
    for (name, process) in ["tincan", "controller"].into_iter().zip(processes) {
        let memory = Memory::of(process)?.resident as f64 / 1e6;
        report
            .rows
            .push(Row::one(format!("memory of {name}, {state}"), memory, "MB", ""));
    }
    let memory = Memory::of_all(&processes)?.resident as f64 / 1e6;
    report
        .rows
        .push(Row::one(format!("memory of both, {state}"), memory, "MB", aim));
    report.rows.push(Row::one(
        format!("CPU of both at rest, {state}"),
        share,
        "% of a core",
        "0",
    ));
    Ok(())
}
