//! Order statistics of samples.

use serde::Serialize;

/// Samples of one thing in one unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other <= value);
        self.0.insert(place, value);
    }

    /// The least sample that this share of all do not exceed (nearest rank); `None` where nothing was measured.
    pub(crate) fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.percentile(50)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [1, 50, 99, 100].map(|p| hundred.percentile(p)),
            [Some(1.0), Some(50.0), Some(99.0), Some(100.0)]
        );
        let mut three = Samples::default();
        [3.0, 1.0, 2.0].into_iter().for_each(|value| three.push(value));
        assert_eq!(
            (three.median(), three.percentile(100), three.percentile(0)),
            (Some(2.0), Some(3.0), Some(1.0))
        );
        assert_eq!(Samples::default().median(), None);
    }
}
