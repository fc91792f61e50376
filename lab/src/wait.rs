//! Waiting for what will happen, with a bound.

use std::time::{Duration, Instant};

use crate::Failure;

/// How often a condition is looked at. There is nothing to wait for instead: a condition is what a program says when it is
/// asked, or whether a ping comes through, of both of which nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until the condition holds. `look` gives what it waited for, or else what it saw instead.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, Failure> {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => {
                return Err(Failure::Timeout {
                    what: what.into(),
                    within,
                    last,
                });
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
