//! From `ipop join` to the first answered ping.

use std::time::{Duration, Instant};

use anyhow::Context;
use lab::{Delay, Host, Rig, Site};

use crate::node::{self, Node, Rendezvous};
use crate::report::{Report, Row};
use crate::settings::Settings;

const ROUNDS: usize = 10;
/// Two sites this far from the internet are twice as far from each other.
pub(crate) const HALF_WAY: Delay = Delay {
    one_way: Duration::from_millis(10),
    jitter: Duration::ZERO,
};

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rounds = settings.rounds(ROUNDS, 2);
    {
        let rig = Rig::new()?;
        let joiners: Vec<String> = (0..rounds).map(|number| format!("joiner{number}")).collect();
        let names: Vec<&str> = ["server", "founder"]
            .into_iter()
            .chain(joiners.iter().map(String::as_str))
            .collect();
        let hosts = rig.lan(&names)?;
        let row = joined(settings, &hosts).context("on a LAN");
        add(report, "`ipop join` to first ping, LAN", "at most 300 ms", row);
    }
    let mut rig = Rig::new()?;
    let mut hosts = vec![
        rig.distant_host("server", Site::Server, HALF_WAY)?,
        rig.distant_host("founder", Site::PortRestricted, HALF_WAY)?,
    ];
    for number in 0..rounds {
        hosts.push(rig.distant_host(&format!("joiner{number}"), Site::PortRestricted, HALF_WAY)?);
    }
    let row = joined(settings, &hosts).context("over 20 ms");
    add(
        report,
        "`ipop join` to first ping, 20 ms one way, two NATs",
        "at most 2 s",
        row,
    );
    Ok(())
}

fn add(report: &mut Report, what: &str, aim: &str, times: anyhow::Result<Vec<f64>>) {
    match times {
        Ok(times) => report.rows.push(Row::times(what, times.into_iter().collect(), aim)),
        Err(error) => report.fault(what, &error),
    }
}

/// The first host is the rendezvous, the second founds a group, the others join it, one after the other.
fn joined(settings: &Settings, hosts: &[Host]) -> anyhow::Result<Vec<f64>> {
    let rendezvous = Rendezvous::start(&settings.ipop, &hosts[0])?;
    let founder = Node::start(&settings.ipop, &hosts[1])?;
    founder.create(&rendezvous)?;
    let invite = founder.invite(hosts.len())?;
    let target = founder.address()?.to_string();
    hosts[2..]
        .iter()
        .map(|host| one(settings, host, &invite, &target))
        .collect()
}

/// Nothing of IPOP runs on the host before: the start of its processes counts. Milliseconds.
fn one(settings: &Settings, host: &Host, invite: &str, target: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    node::join(&settings.ipop, host, invite)?;
    host.ping(target)?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}
