//! IPOP, its peers and the bare veth under the same loads, in turns.

use std::thread::sleep;

use anyhow::Context;
use lab::Rig;

use crate::load;
use crate::peer::{self, Way};
use crate::process::{Memory, cpu_of_all};
use crate::report::{Comparison, Metric, Report, Row};
use crate::settings::Settings;

const ROUNDS: usize = 5;
const PINGS: usize = 300;
/// Pings go out every 5 ms: as many as fit into a span under load.
const PINGS_PER_SECOND: usize = 200;
/// Idle is looked at for as many spans.
const IDLE_SPANS: u32 = 3;

/// Columns of the table, in order.
pub(crate) const METRICS: &[Metric] = &[
    Metric::more("TCP 1 stream", "Gbit/s", 2),
    Metric::less("CPU", "s/GB both", 2),
    Metric::more("TCP 4 streams", "Gbit/s", 2),
    Metric::less("ping under it", "ms p50", 2),
    Metric::more("UDP 64 B", "1000/s", 0),
    Metric::more("TCP req/resp", "1000/s", 1),
    Metric::less("ping", "us p50", 0),
    Metric::less("CPU idle", "% a node", 2),
    Metric::less("memory idle", "MB a node", 1),
    Metric::less("memory peak", "MB a node", 1),
];

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let mut ways = vec![Way::bare(&rig)?];
    for peer in &settings.peers {
        match Way::of(peer, &rig, settings) {
            Ok(way) => ways.push(way),
            Err(error) if peer.name == peer::IPOP => report.fault(peer.name, &error),
            Err(error) => report.left_out(peer.name, &error),
        }
    }
    let mut comparison = Comparison::new(METRICS, ways.iter().map(|way| way.name));
    idle(&ways, settings, &mut comparison)?;
    let rounds = settings.rounds(ROUNDS, 1);
    for round in 1..=rounds {
        for way in &ways {
            eprintln!("  round {round} of {rounds}: {}", way.name);
            if let Err(error) = loads(way, settings, &mut comparison) {
                report.fault(way.name, &error);
            }
        }
    }
    for way in ways.iter().filter(|way| way.name != peer::BARE) {
        comparison.add(
            way.name,
            "memory peak",
            megabytes_a_node(Memory::of_all(&way.daemons)?.peak),
        );
    }
    report.rows.extend(against_aims(&comparison));
    report.comparison = Some(comparison);
    Ok(())
}

fn idle(ways: &[Way], settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    let with_daemons: Vec<&Way> = ways.iter().filter(|way| way.name != peer::BARE).collect();
    let spent = || {
        with_daemons
            .iter()
            .map(|way| cpu_of_all(&way.daemons))
            .collect::<anyhow::Result<Vec<f64>>>()
    };
    let span = settings.span() * IDLE_SPANS;
    let before = spent().context("a daemon has ended")?;
    sleep(span);
    for ((way, before), after) in with_daemons.iter().zip(before).zip(spent()?) {
        comparison.add(
            way.name,
            "CPU idle",
            (after - before) / span.as_secs_f64() * 100.0 / 2.0,
        );
        comparison.add(
            way.name,
            "memory idle",
            megabytes_a_node(Memory::of_all(&way.daemons)?.resident),
        );
    }
    Ok(())
}

fn loads(way: &Way, settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    let (hosts, target, span) = (&way.hosts, way.target, settings.span());
    let mut add = |metric, value| comparison.add(way.name, metric, value);

    let pings = load::round_trips(&hosts[0], target, settings.rounds(PINGS, 100)).context("ping")?;
    pings.into_iter().for_each(|ms| add("ping", ms * 1000.0));

    let (carried, spent) = load::streams(hosts, target, 1, || {
        let before = cpu_of_all(&way.daemons)?;
        sleep(span);
        Ok(cpu_of_all(&way.daemons)? - before)
    })
    .context("one TCP stream")?;
    add("TCP 1 stream", carried.gigabit_per_second());
    if way.name != peer::BARE {
        add("CPU", spent / (carried.bytes as f64 / 1e9));
    }

    let count = PINGS_PER_SECOND * span.as_secs() as usize;
    let (carried, pings) =
        load::streams(hosts, target, 4, || load::round_trips(&hosts[0], target, count)).context("four TCP streams")?;
    add("TCP 4 streams", carried.gigabit_per_second());
    pings.into_iter().for_each(|ms| add("ping under it", ms));

    add(
        "TCP req/resp",
        load::requests(hosts, target, span).context("requests and responses")? / 1e3,
    );
    add(
        "UDP 64 B",
        load::flood(hosts, target, span / 4).context("small datagrams")? / 1e3,
    );
    Ok(())
}

/// IPOP beside the aims of `docs/performance.md`.
fn against_aims(comparison: &Comparison) -> Vec<Row> {
    let ratio = |metric, other, aim| {
        let value = comparison.median(peer::IPOP, metric)? / comparison.median(other, metric)?;
        Some(Row::one(format!("{metric}, as a multiple of {other}"), value, "x", aim))
    };
    let added = || {
        let value = comparison.median(peer::IPOP, "ping")? - comparison.median(peer::BARE, "ping")?;
        Some(Row::one(
            "round trip added to the bare veth, p50",
            value,
            "us",
            "at most 60 us",
        ))
    };
    let wireguard = "wireguard-go";
    let rows = [
        ratio("TCP 1 stream", wireguard, "at least 2.8"),
        ratio("TCP 1 stream", peer::BARE, "at least 0.25"),
        ratio("CPU", wireguard, "at most 0.31"),
        ratio("UDP 64 B", peer::BARE, "at least 0.75"),
        ratio("TCP req/resp", peer::BARE, "at least 0.5"),
        added(),
    ];
    rows.into_iter().flatten().collect()
}

/// Both ends run the same.
fn megabytes_a_node(bytes_of_both: u64) -> f64 {
    bytes_of_both as f64 / 1e6 / 2.0
}
