//! The table for people and the file with everything.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::Samples;

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    figures: String,
    aim: Option<String>,
    data: Value,
}

impl Row {
    /// What was measured, its figures in words, and the data behind them.
    pub(crate) fn new(what: impl Into<String>, figures: impl Into<String>, data: Value) -> Self {
        Self { what: what.into(), figures: figures.into(), aim: None, data }
    }

    /// Percentiles of samples in milliseconds.
    pub(crate) fn times(what: impl Into<String>, samples: &Samples, percentiles: &[usize]) -> Self {
        let figure = |percent: &usize| match percent {
            50 => format!("median {}", in_time(samples.median())),
            100 => format!("max {}", in_time(samples.max())),
            percent => format!("p{percent} {}", in_time(samples.percentile(*percent))),
        };
        let figures: Vec<String> = percentiles.iter().map(figure).collect();
        let text = format!("{} of {}", figures.join(", "), samples.values().len());
        Self::new(what, text, json!({ "unit": "ms", "samples": samples.values() }))
    }

    #[must_use]
    pub(crate) fn aim(mut self, aim: impl Into<String>) -> Self {
        self.aim = Some(aim.into());
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:44} {}", self.what, self.figures)?;
        self.aim.iter().try_for_each(|aim| write!(f, "  (aim: {aim})"))
    }
}

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    parts: Vec<Part>,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    busy_before: Option<f64>,
    rows: Vec<Row>,
    fault: Option<String>,
}

impl Report {
    pub(crate) fn new(machine: String) -> Self {
        Self { machine, parts: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, busy_before: Option<f64>, rows: Vec<Row>) {
        self.parts.push(Part { name: name.into(), busy_before, rows, fault: None });
    }

    pub(crate) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        let fault = Some(format!("{error:#}"));
        self.parts.push(Part { name: name.into(), busy_before: None, rows: Vec::new(), fault });
    }

    pub(crate) fn store(&self, path: &Path) -> anyhow::Result<()> {
        let doing = || format!("cannot write {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(doing)?;
        }
        let text = serde_json::to_string_pretty(self).context("a report has a JSON form")?;
        fs::write(path, text + "\n").with_context(doing)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.parts.iter().flat_map(|part| &part.rows);
        let width = |column: fn(&Row) -> usize| rows().map(column).max().unwrap_or(0);
        let (first, second) = (width(|row| row.what.len()), width(|row| row.figures.len()));
        let loads: Vec<f64> = self.parts.iter().filter_map(|part| part.busy_before).collect();
        let busiest = loads.into_iter().reduce(f64::max);
        writeln!(f, "{}; it was {}", self.machine, crate::machine::load_in_words(busiest))?;
        for row in rows() {
            let aim = row.aim.as_deref().unwrap_or("-");
            writeln!(f, "{:first$}  {:second$}  {aim}", row.what, row.figures)?;
        }
        for part in &self.parts {
            part.fault.iter().try_for_each(|fault| writeln!(f, "{}: NOT MEASURED: {fault}", part.name))?;
        }
        Ok(())
    }
}

/// Milliseconds as people read them.
pub(crate) fn in_time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} us", ms * 1000.0),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

pub(crate) fn in_mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_figures_and_aim() {
        let samples = Samples::new(vec![120.0, 80.0, 1500.0]).unwrap();
        let row = Row::times("set-up", &samples, &[50, 99, 100]).aim("at most 300 ms");
        assert_eq!(row.figures, "median 120 ms, p99 1.50 s, max 1.50 s of 3");
        let mut report = Report::new("2 cores".into());
        report.add("setup", Some(0.4), vec![row]);
        report.failed("rtt", &anyhow::anyhow!("no ping"));
        let text = report.to_string();
        for part in ["2 cores; it was NOT idle: 40 %", "median 120 ms", "at most 300 ms", "rtt: NOT MEASURED: no ping"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn times_keep_three_digits() {
        assert_eq!([0.0421, 1.5, 12.3, 2345.0].map(in_time), ["42 us", "1.50 ms", "12 ms", "2.35 s"]);
    }
}
