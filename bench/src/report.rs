//! What was measured: the text for people; the data for programs is the same by serde.

mod comparison;
mod layout;

use std::fmt::Write;

use serde::Serialize;

use crate::stats::Samples;

pub(crate) use comparison::{Comparison, Measured, Metric};

/// Everything measured in one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Versions of what was compared.
    pub(crate) versions: Vec<String>,
    /// Share of the cores that others kept busy before each part, 0 to 1.
    pub(crate) busy: Vec<f64>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) rows: Vec<Row>,
    pub(crate) faults: Vec<String>,
    /// Whether something of IPOP's own is among the faults.
    pub(crate) failed: bool,
}

/// A figure of IPOP's own.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    figures: String,
    aim: String,
    unit: &'static str,
    samples: Samples,
}

impl Row {
    /// Times in milliseconds, told by percentiles.
    pub(crate) fn times(what: impl Into<String>, samples: Samples, aim: &str) -> Self {
        let told = [(50, "p50"), (99, "p99"), (100, "max")].map(|(percent, name)| {
            let value = samples.percentile(percent).map_or("-".into(), in_time);
            format!("{name} {value}")
        });
        let figures = format!("{} of {}", told.join(", "), samples.len());
        Self {
            what: what.into(),
            figures,
            aim: aim.into(),
            unit: "ms",
            samples,
        }
    }

    /// One value.
    pub(crate) fn one(what: impl Into<String>, value: f64, unit: &'static str, aim: &str) -> Self {
        let figures = format!("{value:.2} {unit}");
        Self {
            what: what.into(),
            figures,
            aim: aim.into(),
            unit,
            samples: std::iter::once(value).collect(),
        }
    }
}

impl Report {
    /// Keeps a fault and tells it.
    pub(crate) fn fault(&mut self, what: &str, error: &anyhow::Error) {
        self.failed = true;
        self.left_out(what, error);
    }

    /// The same for a peer that cannot be had: the others are measured all the same.
    pub(crate) fn left_out(&mut self, what: &str, error: &anyhow::Error) {
        let fault = format!("{what}: {error:#}");
        eprintln!("  {fault}");
        // The same in another round tells nothing new.
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Everything as text.
    pub(crate) fn text(&self) -> String {
        let busiest = self.busy.iter().copied().reduce(f64::max);
        let mut text = format!("{}; it was {}\n", self.machine, crate::machine::load_in_words(busiest));
        let mut say = |line: std::fmt::Arguments| text.write_fmt(line).expect("a string takes all");
        if !self.versions.is_empty() {
            say(format_args!("{}\n", self.versions.join(", ")));
        }
        for comparison in &self.comparisons {
            say(format_args!("\n{}:\n{}", comparison.name, comparison.table()));
        }
        if !self.rows.is_empty() {
            let head = ["ipop", "", "aim"].map(str::to_owned).to_vec();
            let rows = self
                .rows
                .iter()
                .map(|row| vec![row.what.clone(), row.figures.clone(), row.aim.clone()]);
            say(format_args!(
                "\n{}",
                layout::words(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
            ));
        }
        for fault in &self.faults {
            say(format_args!("\nNOT MEASURED: {fault}\n"));
        }
        text
    }
}

/// Milliseconds as people read them.
fn in_time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} us", ms * 1000.0),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_figures_aims_and_faults() {
        let mut report = Report {
            machine: "2 cores".into(),
            busy: vec![0.0, 0.4],
            ..Report::default()
        };
        report.rows.push(Row::times(
            "set-up",
            [120.0, 80.0, 1500.0].into_iter().collect(),
            "p50 at most 300 ms",
        ));
        for _ in 0..2 {
            report.fault("tinc", &anyhow::anyhow!("no ping"));
        }
        let text = report.text();
        assert_eq!(text.matches("no ping").count(), 1);
        for part in [
            "2 cores; it was NOT idle: 40 %",
            "p50 120 ms, p99 1.50 s",
            "at most 300 ms",
            "NOT MEASURED: tinc: no ping",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
