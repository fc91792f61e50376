//! Tests of the gatherer.
