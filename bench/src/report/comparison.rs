//! Several ways by several metrics, as a table.

use serde::Serialize;

use super::layout;
use crate::peer::IPOP;
use crate::stats::Samples;

/// A column of a comparison.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// Digits after the point.
    pub(crate) digits: usize,
    pub(crate) more_is_better: bool,
    /// Which of all samples stands for them: 50 is the median.
    pub(crate) percent: usize,
}

impl Metric {
    pub(crate) const fn more(title: &'static str, unit: &'static str, digits: usize) -> Self {
        Self {
            title,
            unit,
            digits,
            more_is_better: true,
            percent: 50,
        }
    }

    pub(crate) const fn less(title: &'static str, unit: &'static str, digits: usize) -> Self {
        Self {
            title,
            unit,
            digits,
            more_is_better: false,
            percent: 50,
        }
    }

    /// The same, told by this percentile.
    pub(crate) const fn at(self, percent: usize) -> Self {
        Self { percent, ..self }
    }

    /// What stands for all samples.
    pub(crate) fn of(&self, samples: &Samples) -> Option<f64> {
        samples.percentile(self.percent)
    }
}

/// Several ways by several metrics.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) name: &'static str,
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
    pub(crate) fn new<'a>(
        name: &'static str,
        metrics: &'static [Metric],
        names: impl Iterator<Item = &'a str>,
    ) -> Self {
        let nothing = || vec![Samples::default(); metrics.len()];
        let ways = names
            .map(|way| Measured {
                name: way.to_owned(),
                samples: nothing(),
            })
            .collect();
        Self { name, metrics, ways }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, way: &str, metric: &str, value: f64) {
        let column = self.metrics.iter().position(|known| known.title == metric);
        let row = self.ways.iter_mut().find(|known| known.name == way);
        if let (Some(column), Some(row)) = (column, row) {
            row.samples[column].push(value);
        }
    }

    /// What stands in the table for a metric over a way, where it was measured.
    pub(crate) fn figure(&self, way: &str, metric: &str) -> Option<f64> {
        let column = self.metrics.iter().position(|known| known.title == metric)?;
        let way = self.ways.iter().find(|known| known.name == way)?;
        self.metrics[column].of(&way.samples[column])
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
    pub(super) fn table(&self) -> String {
        let head = |first: &str, of: fn(&Metric) -> &str| {
            std::iter::once(first.to_owned())
                .chain(self.metrics.iter().map(|metric| of(metric).to_owned()))
                .collect()
        };
        let mut lines: Vec<Vec<String>> = vec![head("", |metric| metric.title), head("medians", |metric| metric.unit)];
        lines.extend(self.cells(|way, column| {
            let digits = self.metrics[column].digits;
            self.metrics[column]
                .of(&way.samples[column])
                .map_or("-".into(), |value| format!("{value:.digits$}"))
        }));
        if let Some(ipop) = self.ways.iter().find(|way| way.name == IPOP) {
            lines.push(Vec::new());
            lines.push(head("ipop, as a multiple of", |_| ""));
            let ratio = |way: &Measured, column: usize| {
                let metric = &self.metrics[column];
                let (own, other) = (metric.of(&ipop.samples[column]), metric.of(&way.samples[column]));
                let ratio = own
                    .zip(other)
                    .filter(|(_, other)| *other > 0.0)
                    .map(|(own, other)| own / other);
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
            };
            lines.extend(self.cells(ratio).into_iter().filter(|line| line[0] != IPOP));
        }
        layout::numbers(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &[Metric] = &[Metric::more("rate", "Gbit/s", 1), Metric::less("cost", "s/GB", 2)];

    #[test]
    fn a_comparison_tells_medians_and_ratios() {
        let mut comparison = Comparison::new("rates", METRICS, ["bare", IPOP].into_iter());
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
}
