//! How full everything is that has a bound, to be held against `limits`.
//!
//! Promises: reading changes nothing. Refuses to know: what lies in the queues.

/// How full one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// What.
    pub name: &'static str,
    /// How many, or how many bytes.
    pub level: usize,
    /// As many there may be.
    pub limit: usize,
}

/// Gauges of everything, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Gauges(pub(crate) Vec<Gauge>);

impl Gauges {
    pub(crate) fn add(&mut self, name: &'static str, level: usize, limit: usize) {
        self.0.push(Gauge { name, level, limit });
    }
}
