//! Tests of the relays.
