//! Loads: what a pair of hosts is made to carry, and what came through.

mod flood;
mod flows;
mod ping;
mod search;
mod tcp;

pub(crate) use flood::{Direction, flood};
pub(crate) use flows::flows;
pub(crate) use ping::round_trips;
pub(crate) use tcp::{requests, retransmits, streams};

use std::time::Duration;

/// When nothing came for so long, nothing is on the way any more.
const DRAIN: Duration = Duration::from_millis(200);
