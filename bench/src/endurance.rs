//! Memory of both ends under full load for a long time: does it grow?

use std::thread::sleep;
use std::time::Instant;

use anyhow::bail;
use lab::Rig;

use crate::load;
use crate::peer::{self, Way};
use crate::process::Memory;
use crate::report::{Report, Row};
use crate::settings::Settings;
use crate::stats::Samples;

const STREAMS: usize = 4;

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let Some(peer) = peer::ALL.iter().find(|peer| peer.name == peer::IPOP) else {
        bail!("IPOP is not among what is measured");
    };
    let way = Way::of(peer, &rig, settings)?;
    let (start, wanted) = (Instant::now(), settings.endurance);
    let (carried, samples) = load::streams(&way.hosts, way.target, STREAMS, || {
        let mut samples = Vec::new();
        while start.elapsed() < wanted.span {
            sleep(wanted.every);
            let memory = Memory::of_all(&way.daemons)?;
            let [resident, own] = [memory.resident, memory.own].map(|bytes| bytes as f64 / 1e6);
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("  {seconds:.0} s: {resident:.1} MB, {own:.2} without pages of files");
            samples.push((resident, own));
        }
        anyhow::Ok(samples)
    })?;
    let minutes = wanted.span.as_secs_f64() / 60.0;
    let (resident, own): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
    let mut say = |what: String, value, unit, aim| report.rows.push(Row::one(what, value, unit, aim));
    say(
        format!("carried by {STREAMS} TCP streams in {minutes:.1} minutes"),
        carried.bytes as f64 / 1e9,
        "GB",
        "",
    );
    for (which, samples) in [("", resident), (" without pages of files", own)] {
        let (first, last) = quarters(&samples);
        say(format!("memory of both ends{which}, first quarter"), first, "MB", "");
        say(format!("memory of both ends{which}, last quarter"), last, "MB", "");
        say(
            format!("memory{which} grown in {minutes:.1} minutes"),
            last - first,
            "MB",
            "0",
        );
    }
    Ok(())
}

/// Medians of the first and of the last quarter of what was seen.
fn quarters(samples: &[f64]) -> (f64, f64) {
    let quarter = samples.len().div_ceil(4);
    let median = |part: &[f64]| {
        let part: Samples = part.iter().copied().collect();
        part.median().unwrap_or_default()
    };
    (median(&samples[..quarter]), median(&samples[samples.len() - quarter..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_between_the_first_and_the_last_quarter() {
        let seen = [10.0, 11.0, 12.0, 99.0, 0.0, 20.0, 21.0, 22.0];
        assert_eq!(quarters(&seen), (10.0, 21.0));
        assert_eq!(quarters(&[5.0]), (5.0, 5.0));
        assert_eq!(quarters(&[]), (0.0, 0.0));
    }
}
