//! The round trip that a tunnel adds to the path below it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::report::{Row, in_time};
use crate::stats::Samples;
use crate::tunnel::{Way, Ways};

const ROUNDS: usize = 3;
const PINGS: &str = "400";
const INTERVAL_S: &str = "0.005";

pub(crate) fn measure(binary: &Path) -> anyhow::Result<Vec<Row>> {
    let ways = Ways::new(binary)?;
    let mut times: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for way in Way::ALL {
            let target = ways.target(way).to_string();
            let text = ways.hosts[0].run("ping", &["-n", "-c", PINGS, "-i", INTERVAL_S, &target])?;
            times.entry(way).or_default().extend(round_trips(&text));
        }
    }
    let samples = |way: Way| {
        let values = times.get(&way).cloned().unwrap_or_default();
        Samples::new(values).with_context(|| format!("no ping was answered over {}", way.name()))
    };
    let bare = samples(Way::Bare)?;
    let mut rows = vec![Row::times("round trip, bare veth", &bare, &[50, 99])];
    for way in [Way::WireGuard, Way::Ipop] {
        let samples = samples(way)?;
        rows.push(added(way, &samples, &bare));
    }
    Ok(rows)
}

fn added(way: Way, samples: &Samples, bare: &Samples) -> Row {
    let more = |percent| in_time((samples.percentile(percent) - bare.percentile(percent)).max(0.0));
    let figures = format!("median +{}, p99 +{} of {}", more(50), more(99), samples.values().len());
    let data = json!({ "unit": "ms", "round_trips": samples.values() });
    Row::new(format!("round trip added by {}", way.name()), figures, data)
}

/// The times in what ping prints, milliseconds.
fn round_trips(text: &str) -> impl Iterator<Item = f64> {
    text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_lines_are_read() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.045 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=40.1 ms\n\n\
                    --- 10.0.0.2 ping statistics ---\n\
                    2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n";
        assert_eq!(round_trips(text).collect::<Vec<_>>(), [0.045, 40.1]);
    }
}
