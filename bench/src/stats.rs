//! Order statistics of samples.

/// Sorted samples of one thing in one unit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// `None` where nothing was measured.
    pub(crate) fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The least sample that this share of all do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank.min(self.0.len()) - 1]
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn max(&self) -> f64 {
        self.percentile(100)
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred = Samples::new((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!([1, 50, 99, 100].map(|p| hundred.percentile(p)), [1.0, 50.0, 99.0, 100.0]);
        let three = Samples::new(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.median(), three.max(), three.percentile(0)), (2.0, 3.0, 1.0));
        assert_eq!(Samples::new(Vec::new()), None);
    }
}
