//! What was measured: the text for people; the data for programs is the same by serde.

use std::fmt::Write;

use serde::Serialize;

use crate::peer::IPOP;
use crate::stats::Samples;

/// Everything measured in one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Versions of what was compared.
    pub(crate) versions: Vec<String>,
    /// Share of the cores that others kept busy before each part, 0 to 1.
    pub(crate) busy: Vec<f64>,
    pub(crate) comparison: Option<Comparison>,
    pub(crate) rows: Vec<Row>,
    pub(crate) faults: Vec<String>,
    /// Whether something of IPOP's own is among the faults.
    pub(crate) failed: bool,
}

/// A column of a comparison.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// Digits after the point.
    pub(crate) digits: usize,
    pub(crate) more_is_better: bool,
}

impl Metric {
    pub(crate) const fn more(title: &'static str, unit: &'static str, digits: usize) -> Self {
        Self {
            title,
            unit,
            digits,
            more_is_better: true,
        }
    }

    pub(crate) const fn less(title: &'static str, unit: &'static str, digits: usize) -> Self {
        Self {
            title,
            unit,
            digits,
            more_is_better: false,
        }
    }
}

/// Several ways by several metrics.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) metrics: &'static [Metric],
    pub(crate) ways: Vec<Measured>,
}

/// One way: samples of each metric, in the order of the metrics.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) samples: Vec<Samples>,
}

impl Comparison {
    pub(crate) fn new<'a>(metrics: &'static [Metric], names: impl Iterator<Item = &'a str>) -> Self {
        let nothing = || vec![Samples::default(); metrics.len()];
        let ways = names
            .map(|name| Measured {
                name: name.to_owned(),
                samples: nothing(),
            })
            .collect();
        Self { metrics, ways }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, way: &str, metric: &str, value: f64) {
        let column = self.metrics.iter().position(|known| known.title == metric);
        let row = self.ways.iter_mut().find(|known| known.name == way);
        if let (Some(column), Some(row)) = (column, row) {
            row.samples[column].push(value);
        }
    }

    /// The median of a metric over a way, where it was measured.
    pub(crate) fn median(&self, way: &str, metric: &str) -> Option<f64> {
        let column = self.metrics.iter().position(|known| known.title == metric)?;
        self.ways.iter().find(|known| known.name == way)?.samples[column].median()
    }

    fn cells(&self, text: impl Fn(&Measured, usize) -> String) -> Vec<Vec<String>> {
        let columns = 0..self.metrics.len();
        self.ways
            .iter()
            .map(|way| {
                let figures = columns.clone().map(|column| text(way, column));
                std::iter::once(way.name.clone()).chain(figures).collect()
            })
            .collect()
    }

    /// Medians, and below them what IPOP is to each of the others.
    fn table(&self) -> String {
        let head = |first: &str, of: fn(&Metric) -> &str| {
            std::iter::once(first.to_owned())
                .chain(self.metrics.iter().map(|metric| of(metric).to_owned()))
                .collect()
        };
        let mut lines: Vec<Vec<String>> = vec![head("", |metric| metric.title), head("medians", |metric| metric.unit)];
        lines.extend(self.cells(|way, column| {
            let digits = self.metrics[column].digits;
            way.samples[column]
                .median()
                .map_or("-".into(), |value| format!("{value:.digits$}"))
        }));
        if let Some(ipop) = self.ways.iter().find(|way| way.name == IPOP) {
            lines.push(Vec::new());
            lines.push(head("ipop, as a multiple of", |_| ""));
            let ratio = |way: &Measured, column: usize| {
                let (own, other) = (ipop.samples[column].median(), way.samples[column].median());
                let ratio = own
                    .zip(other)
                    .filter(|(_, other)| *other > 0.0)
                    .map(|(own, other)| own / other);
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
            };
            lines.extend(self.cells(ratio).into_iter().filter(|line| line[0] != IPOP));
        }
        aligned(&lines)
    }
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
        eprintln!("  {what}: {error:#}");
        self.faults.push(format!("{what}: {error:#}"));
    }

    /// Everything as text.
    pub(crate) fn text(&self) -> String {
        let busiest = self.busy.iter().copied().reduce(f64::max);
        let mut text = format!("{}; it was {}\n", self.machine, crate::machine::load_in_words(busiest));
        let mut say = |line: std::fmt::Arguments| text.write_fmt(line).expect("a string takes all");
        if !self.versions.is_empty() {
            say(format_args!("{}\n", self.versions.join(", ")));
        }
        if let Some(comparison) = &self.comparison {
            say(format_args!("\n{}", comparison.table()));
        }
        if !self.rows.is_empty() {
            let head = ["ipop", "", "aim"].map(str::to_owned).to_vec();
            let rows = self
                .rows
                .iter()
                .map(|row| vec![row.what.clone(), row.figures.clone(), row.aim.clone()]);
            say(format_args!(
                "\n{}",
                left_aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
            ));
        }
        for fault in &self.faults {
            say(format_args!("\nNOT MEASURED: {fault}\n"));
        }
        text
    }
}

/// Columns of numbers: the first to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    rows(lines, |column, text, width| match column {
        0 => format!("{text:width$}"),
        _ => format!("  {text:>width$}"),
    })
}

/// Columns of words.
fn left_aligned(lines: &[Vec<String>]) -> String {
    rows(lines, |_, text, width| format!("{text:width$}  "))
}

fn rows(lines: &[Vec<String>], cell: impl Fn(usize, &str, usize) -> String) -> String {
    let widths = widths(lines);
    let row = |line: &Vec<String>| {
        let cells = line
            .iter()
            .enumerate()
            .map(|(column, text)| cell(column, text, widths[column]));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    lines.iter().map(row).collect()
}

fn widths(lines: &[Vec<String>]) -> Vec<usize> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|text| text.chars().count())
            .max()
    };
    (0..columns).map(|column| width(column).unwrap_or(0)).collect()
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

    const METRICS: &[Metric] = &[Metric::more("rate", "Gbit/s", 1), Metric::less("cost", "s/GB", 2)];

    #[test]
    fn a_comparison_tells_medians_and_ratios() {
        let mut comparison = Comparison::new(METRICS, ["bare", IPOP].into_iter());
        for (way, metric, value) in [
            ("bare", "rate", 40.0),
            (IPOP, "rate", 9.0),
            (IPOP, "rate", 10.0),
            (IPOP, "cost", 1.0),
        ] {
            comparison.add(way, metric, value);
        }
        let table = comparison.table();
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "                          rate  cost");
        assert!(
            lines[2].starts_with("bare") && lines[2].ends_with("40.0     -"),
            "{table}"
        );
        assert!(lines[3].ends_with("9.0  1.00"), "{table}");
        assert!(
            lines[6].starts_with("bare") && lines[6].ends_with("0.23     -"),
            "{table}"
        );
    }

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
        report.fault("tinc", &anyhow::anyhow!("no ping"));
        let text = report.text();
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
