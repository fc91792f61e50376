//! One link of a node that has a thousand others, at rest and talking.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use api::Cidr;
use lab::{Host, Rig};

use crate::compare::{PING, ROUNDS, STREAM, one_stream, pings};
use crate::crowd::OUTSIDE;
use crate::peer::Way;
use crate::process::{Memory, cpu_of_all};
use crate::report::{Comparison, Metric, Report, Row};
use crate::settings::Settings;
use crate::switchboard::Switchboard;

const OTHERS: usize = 1000;
const TALKING: usize = 100;
/// Idle is looked at for as many spans.
const IDLE_SPANS: u32 = 2;
/// Between talk and rest.
const SETTLE: Duration = Duration::from_millis(500);

const METRICS: &[Metric] = &[
    STREAM[0],
    STREAM[1],
    STREAM[2],
    PING[0],
    PING[1],
    Metric::less("CPU besides", "% of a core", 2),
    Metric::less("memory", "MB", 1),
];

/// A pair of tincans that is measured.
struct Measured {
    way: Way,
    /// The process of the end that has the other links.
    hub: u32,
    talking: usize,
}

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let (others, talking) = (settings.rounds(OTHERS, 100), settings.rounds(TALKING, 10));
    let rig = Rig::new()?;
    let hosts = rig.lan(&["peer", "hub", "crowd", "solo-peer", "solo"])?;
    let mut switchboard = Switchboard::new(&settings.ipop, Duration::ZERO);
    let solo = pair(&mut switchboard, &hosts[3..5], [(10, 98, 2), (10, 98, 1)])?;
    let hub = pair(&mut switchboard, &hosts[0..2], [(10, 99, 2), (10, 99, 1)])?;
    let crowd_address = hosts[2].addresses()[0].to_string();
    hosts[1].run("ip", &["route", "add", OUTSIDE, "via", &crowd_address])?;
    switchboard.gather_crowd(&hosts[2], others, hub.number)?;
    eprintln!("  linking {others} nodes");
    switchboard.link_crowd()?;

    let measured = |name: String, pair: &Pair, talking| Measured {
        way: Way::over(name, &pair.hosts, pair.target.into(), &pair.processes),
        hub: pair.processes[1],
        talking,
    };
    let all = [
        measured("1 link".into(), &solo, 0),
        measured(format!("{} links", others + 1), &hub, 0),
        measured(format!("the same, {talking} talk"), &hub, talking),
    ];
    let mut comparison = Comparison::new("many", METRICS, all.iter().map(|one| one.way.name.as_str()));
    let rounds = settings.rounds(ROUNDS, 1);
    for round in 1..=rounds {
        for one in &all {
            eprintln!("  round {round} of {rounds}: {}", one.way.name);
            let loads = loads(one, &mut switchboard, settings, &mut comparison);
            if let Err(error) = loads {
                report.fault(&one.way.name, &error);
            }
        }
    }
    let crowd = switchboard.crowd().context("no crowd was gathered")?;
    report.rows.push(Row::one(
        format!("links of {others} left at the end"),
        crowd.linked() as f64,
        "",
        "",
    ));
    let each = |metric| {
        let figure = |one: &Measured| comparison.figure(&one.way.name, metric);
        Some((figure(&all[1])?, figure(&all[0])?))
    };
    let ratio = each("TCP 1 stream").map(|(many, one)| many / one);
    let growth = each("memory").map(|(many, one)| (many - one) * 1000.0 / others as f64);
    let what = format!("TCP 1 stream with {others} more links, as a multiple of one link's");
    report.rows.extend(ratio.map(|ratio| Row::one(what, ratio, "x", "")));
    report
        .rows
        .extend(growth.map(|kb| Row::one("memory of tincan for each link", kb, "kB", "")));
    report.comparisons.push(comparison);
    Ok(())
}

/// Two linked tincans.
struct Pair {
    hosts: [Host; 2],
    processes: [u32; 2],
    target: Ipv4Addr,
    /// The second, as the switchboard knows it.
    number: usize,
}

fn pair(switchboard: &mut Switchboard, hosts: &[Host], inner: [(u8, u8, u8); 2]) -> anyhow::Result<Pair> {
    let address = inner.map(|(a, b, last)| Ipv4Addr::new(a, b, 0, last));
    let cidr = address.map(|address| Cidr {
        address: address.into(),
        prefix: 16,
    });
    let a = switchboard.start(&hosts[0], cidr[0])?;
    let b = switchboard.start(&hosts[1], cidr[1])?;
    switchboard.introduce(a, b)?;
    for who in [a, b] {
        switchboard.wait_for_candidates(who)?;
    }
    switchboard.open(a, b)?;
    Ok(Pair {
        hosts: [hosts[0].clone(), hosts[1].clone()],
        processes: [switchboard.process(a), switchboard.process(b)],
        target: address[1],
        number: b,
    })
}

fn loads(
    one: &Measured,
    switchboard: &mut Switchboard,
    settings: &Settings,
    comparison: &mut Comparison,
) -> anyhow::Result<()> {
    let way = &one.way;
    let crowd = switchboard.crowd().context("no crowd was gathered")?;
    crowd.talk(one.talking);
    sleep(SETTLE);
    let answers = crowd.answers();
    let before = cpu_of_all(&[one.hub])?;
    let span = settings.span() * IDLE_SPANS;
    sleep(span);
    let share = (cpu_of_all(&[one.hub])? - before) / span.as_secs_f64() * 100.0;
    anyhow::ensure!(
        one.talking == 0 || crowd.answers() > answers,
        "nobody of the crowd is answered"
    );
    comparison.add(&way.name, "CPU besides", share);
    pings(way, settings, comparison)?;
    one_stream(way, settings, comparison)?;
    comparison.add(&way.name, "memory", Memory::of(one.hub)?.resident as f64 / 1e6);
    // What the crowd and the nodes say to each other meanwhile.
    switchboard.run(Duration::from_millis(50))
}
