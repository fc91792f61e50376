//! One TCP stream, in turns over the bare path, wireguard-go and IPOP.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use lab::{Host, until};
use serde_json::{Value, json};

use crate::process::cpu_seconds;
use crate::report::Row;
use crate::stats::Samples;
use crate::tunnel::{Way, Ways};

const ROUNDS: usize = 5;
const SECONDS: &str = "4";
const LISTEN_WITHIN: Duration = Duration::from_secs(10);

/// One stream as both ends saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stream {
    gbit_per_second: f64,
    gigabytes: f64,
}

#[derive(Default)]
struct Measured {
    gbit_per_second: Vec<f64>,
    cpu_seconds_per_gb: Vec<f64>,
}

pub(crate) fn measure(binary: &Path) -> anyhow::Result<Vec<Row>> {
    let ways = Ways::new(binary)?;
    let mut measured: BTreeMap<Way, Measured> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for way in Way::ALL {
            let before = cpu_of(&ways, way)?;
            let stream = stream(&ways.hosts, &ways.target(way).to_string())?;
            let spent = cpu_of(&ways, way)? - before;
            let entry = measured.entry(way).or_default();
            entry.gbit_per_second.push(stream.gbit_per_second);
            entry.cpu_seconds_per_gb.push(spent / stream.gigabytes);
        }
    }
    Way::ALL.into_iter().map(|way| row(way, &measured)).collect()
}

fn cpu_of(ways: &Ways, way: Way) -> anyhow::Result<f64> {
    ways.daemons(way).into_iter().map(cpu_seconds).sum()
}

fn row(way: Way, measured: &BTreeMap<Way, Measured>) -> anyhow::Result<Row> {
    let of = |way: Way, which: fn(&Measured) -> &Vec<f64>| {
        let values = measured.get(&way).map(which).cloned().unwrap_or_default();
        Samples::new(values).with_context(|| format!("nothing was measured over {}", way.name()))
    };
    let rate = of(way, |m| &m.gbit_per_second)?;
    let cpu = of(way, |m| &m.cpu_seconds_per_gb)?;
    let mut figures = format!("median {:.2} Gbit/s of {}", rate.median(), rate.values().len());
    if way != Way::Bare {
        figures += &format!(", {:.2} CPU s/GB at both ends", cpu.median());
    }
    let data = json!({ "gbit_per_second": rate.values(), "cpu_seconds_per_gb": cpu.values() });
    let row = Row::new(format!("one TCP stream, {}", way.name()), figures.clone(), data.clone());
    if way != Way::Ipop {
        return Ok(row);
    }
    let peer = of(Way::WireGuard, |m| &m.gbit_per_second)?;
    figures += &format!("; {:.2} x wireguard-go", rate.median() / peer.median());
    Ok(Row::new(format!("one TCP stream, {}", way.name()), figures, data).aim("a ratio"))
}

fn stream(hosts: &[Host; 2], target: &str) -> anyhow::Result<Stream> {
    let mut command = hosts[1].command("iperf3");
    let mut server = hosts[1].spawn("iperf3", command.args(["-s", "-1", "--forceflush", "-B", target]))?;
    until("iperf3 listens", LISTEN_WITHIN, || {
        if server.said().contains("Server listening") { Ok(()) } else { Err(server.said()) }
    })?;
    let text = hosts[0].run("iperf3", &["-c", target, "-t", SECONDS, "-J"])?;
    server.wait(LISTEN_WITHIN)?;
    read(&text).with_context(|| format!("iperf3 says something unknown: {}", text.chars().take(400).collect::<String>()))
}

/// What the receiver got, in the JSON form of iperf3.
fn read(text: &str) -> Option<Stream> {
    let value: Value = serde_json::from_str(text).ok()?;
    let sum = value.get("end")?.get("sum_received")?;
    let number = |name| sum.get(name).and_then(Value::as_f64);
    Some(Stream { gbit_per_second: number("bits_per_second")? / 1e9, gigabytes: number("bytes")? / 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_receiver_got_counts() {
        let text = r#"{"end":{"sum_sent":{"bytes":9e9,"bits_per_second":9e9},
                       "sum_received":{"bytes":2500000000,"bits_per_second":5.0e9}}}"#;
        assert_eq!(read(text), Some(Stream { gbit_per_second: 5.0, gigabytes: 2.5 }));
        assert_eq!(read(r#"{"error":"unable to connect"}"#), None);
    }
}
