//! IPOP, its peers, the bare veth and what the kernel allows without a cipher, under the same loads, in turns.

use std::thread::sleep;

use anyhow::Context;
use lab::Rig;

use crate::load::{self, Direction};
use crate::peer::{self, Way};
use crate::process::{Memory, cpu_of_all};
use crate::report::{Comparison, Metric, Report, Row};
use crate::settings::Settings;

/// How often each way is measured, in turns.
pub(crate) const ROUNDS: usize = 3;
const PINGS: usize = 300;
/// Pings go out every 5 ms: as many as fit into a span under load.
const PINGS_PER_SECOND: usize = 200;
/// Idle is looked at for as many spans.
const IDLE_SPANS: u32 = 3;

/// What [`one_stream`] adds.
pub(crate) const STREAM: [Metric; 3] = [
    Metric::more("TCP 1 stream", "Gbit/s", 2),
    Metric::less("CPU", "s/GB both", 2),
    Metric::less("sent again", "segments/GB", 0),
];

/// What [`pings`] adds.
pub(crate) const PING: [Metric; 2] = [
    Metric::less("ping", "us p50", 0),
    Metric::less("ping, p99", "us", 0).at(99),
];

/// Columns of the table, in order.
const METRICS: &[Metric] = &[
    STREAM[0],
    STREAM[1],
    STREAM[2],
    Metric::more("TCP 4 streams", "Gbit/s", 2),
    Metric::less("ping under it", "ms p50", 2),
    Metric::less("ping under it, p99", "ms", 2).at(99),
    Metric::more("TCP req/resp", "1000/s", 1),
    PING[0],
    PING[1],
    Metric::more("UDP 64 B", "1000/s", 0),
    Metric::more("UDP 64 B, both ways", "1000/s", 0),
    Metric::more("UDP 1200 B flows", "Gbit/s", 2),
    Metric::less("CPU idle", "% a node", 2),
    Metric::less("memory idle", "MB a node", 1),
    Metric::less("memory peak", "MB a node", 1),
];

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let mut ways = vec![Way::bare(&rig)?];
    match Way::of(&peer::NO_CIPHER, &rig, settings) {
        Ok(way) => ways.push(way),
        Err(error) => report.left_out(peer::NO_CIPHER.name, &error),
    }
    for peer in &settings.peers {
        match Way::of(peer, &rig, settings) {
            Ok(way) => ways.push(way),
            Err(error) if peer.name == peer::IPOP => report.fault(peer.name, &error),
            Err(error) => report.left_out(peer.name, &error),
        }
    }
    let mut comparison = Comparison::new("compare", METRICS, ways.iter().map(|way| way.name.as_str()));
    idle(&ways, settings, &mut comparison)?;
    let rounds = settings.rounds(ROUNDS, 1);
    for round in 1..=rounds {
        for way in &ways {
            eprintln!("  round {round} of {rounds}: {}", way.name);
            match loads(way, settings, &mut comparison) {
                Err(error) if peer::is_foreign(&way.name) => report.left_out(&way.name, &error),
                Err(error) => report.fault(&way.name, &error),
                Ok(()) => {}
            }
        }
    }
    for way in ways.iter().filter(|way| way.name != peer::BARE) {
        match Memory::of_all(&way.daemons) {
            Ok(memory) => comparison.add(&way.name, "memory peak", megabytes_a_node(memory.peak)),
            Err(error) => report.left_out(&way.name, &error),
        }
    }
    report.rows.extend(against_aims(&comparison));
    if let Some(ipop) = ways.iter().find(|way| way.name == peer::IPOP) {
        report.rows.extend(largest(&ipop.daemons));
    }
    report.comparisons.push(comparison);
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
            &way.name,
            "CPU idle",
            (after - before) / span.as_secs_f64() * 100.0 / 2.0,
        );
        comparison.add(
            &way.name,
            "memory idle",
            megabytes_a_node(Memory::of_all(&way.daemons)?.resident),
        );
    }
    Ok(())
}

fn loads(way: &Way, settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    let (hosts, target, span) = (&way.hosts, way.target, settings.span());
    one_stream(way, settings, comparison)?;
    pings(way, settings, comparison)?;
    let mut add = |metric, value| comparison.add(&way.name, metric, value);
    let count = PINGS_PER_SECOND * span.as_secs() as usize;
    let (carried, pings) =
        load::streams(hosts, target, 4, || load::round_trips(&hosts[0], target, count)).context("four TCP streams")?;
    add("TCP 4 streams", carried.gigabit_per_second());
    for ms in pings {
        add("ping under it", ms);
        add("ping under it, p99", ms);
    }
    add(
        "TCP req/resp",
        load::requests(hosts, target, span).context("requests and responses")? / 1e3,
    );
    let each = span / 6;
    let flood = |direction| load::flood(hosts, target, direction, each).context("small datagrams");
    add("UDP 64 B", flood(Direction::There)? / 1e3);
    add("UDP 64 B, both ways", flood(Direction::Both)? / 1e3);
    let flows = load::flows(hosts, target, each).context("datagrams sent together")?;
    add("UDP 1200 B flows", flows);
    Ok(())
}

/// Round trips while nothing else is going on.
pub(crate) fn pings(way: &Way, settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    let pings = load::round_trips(&way.hosts[0], way.target, settings.rounds(PINGS, 100)).context("ping")?;
    for ms in pings {
        comparison.add(&way.name, "ping", ms * 1000.0);
        comparison.add(&way.name, "ping, p99", ms * 1000.0);
    }
    Ok(())
}

/// One TCP stream: its rate, what the daemons of both ends take for it, and how much had to be sent again.
pub(crate) fn one_stream(way: &Way, settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    let (carried, (seconds, segments)) = load::streams(&way.hosts, way.target, 1, || {
        let look = || anyhow::Ok((cpu_of_all(&way.daemons)?, load::retransmits(&way.hosts[0])?));
        let before = look()?;
        sleep(settings.span());
        let after = look()?;
        Ok((after.0 - before.0, after.1 - before.1))
    })
    .context("one TCP stream")?;
    let gigabytes = carried.bytes as f64 / 1e9;
    comparison.add(&way.name, "TCP 1 stream", carried.gigabit_per_second());
    comparison.add(&way.name, "sent again", segments as f64 / gigabytes);
    if !way.daemons.is_empty() {
        comparison.add(&way.name, "CPU", seconds / gigabytes);
    }
    Ok(())
}

/// IPOP beside the aims of `docs/performance.md`.
fn against_aims(comparison: &Comparison) -> Vec<Row> {
    let ipop = |metric: &str| comparison.figure(peer::IPOP, metric);
    let ratio = |metric, other, aim| {
        let value = ipop(metric)? / comparison.figure(other, metric)?;
        Some(Row::one(format!("{metric}, as a multiple of {other}"), value, "x", aim))
    };
    let best = |metric: &str, aim| {
        let peers = peer::ALL.iter().filter(|peer| peer::is_foreign(peer.name));
        let figures = peers.filter_map(|peer| comparison.figure(peer.name, metric));
        let value = ipop(metric)? / figures.reduce(f64::max)?;
        Some(Row::one(
            format!("{metric}, as a multiple of the best peer"),
            value,
            "x",
            aim,
        ))
    };
    let plain = |metric: &str, unit, aim| Some(Row::one(metric, ipop(metric)?, unit, aim));
    let added = || {
        let value = ipop("ping")? - comparison.figure(peer::BARE, "ping")?;
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
        ratio("TCP 1 stream", peer::NO_CIPHER.name, "at least 0.65"),
        best("TCP 4 streams", "at least 1.5"),
        ratio("CPU", wireguard, "at most 0.31"),
        ratio("UDP 64 B", wireguard, "at least 6"),
        ratio("UDP 64 B", peer::BARE, "at least 0.75"),
        ratio("UDP 64 B, both ways", peer::BARE, "at least 0.75"),
        best("UDP 1200 B flows", "at least 2"),
        ratio("TCP req/resp", peer::BARE, "at least 0.5"),
        best("TCP req/resp", "at least 1.15"),
        added(),
        plain("ping under it", "ms p50", "at most 1 ms"),
    ];
    rows.into_iter().flatten().collect()
}

fn largest(daemons: &[u32]) -> Option<Row> {
    let peaks = daemons
        .iter()
        .filter_map(|id| Memory::of(*id).ok())
        .map(|memory| memory.peak);
    let megabytes = peaks.max()? as f64 / 1e6;
    Some(Row::one(
        "memory peak of the largest process",
        megabytes,
        "MB",
        "at most 16 MB",
    ))
}

/// Both ends run the same.
fn megabytes_a_node(bytes_of_both: u64) -> f64 {
    bytes_of_both as f64 / 1e6 / 2.0
}
