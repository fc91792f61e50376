//! The most that a path carries of what is sent at a fixed rate, found by trying rates.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What may be lost.
const LOSS: f64 = 0.01;
/// A search ends when the rates that pass and fail are this close.
const CLOSE: f64 = 1.06;
/// Tries of a search at most.
const TRIES: usize = 10;
/// No buffer space available, on Linux.
const ENOBUFS: i32 = 105;

/// What came of sending at a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// A second.
    pub(super) delivered: f64,
    /// 0 to 1.
    pub(super) lost: f64,
}

impl Trial {
    pub(super) fn new(sent: u64, received: u64, elapsed: Duration) -> Self {
        Self {
            delivered: received as f64 / elapsed.as_secs_f64(),
            lost: 1.0 - received as f64 / sent.max(1) as f64,
        }
    }
}

/// The most that is delivered at an offered rate, `most` at first, with no more than 1 % lost.
pub(super) fn best(most: f64, mut trial: impl FnMut(f64) -> anyhow::Result<Trial>) -> anyhow::Result<f64> {
    let (mut good, mut best) = (None::<f64>, None::<f64>);
    let (mut bad, mut offered) = (most * CLOSE, most);
    for _ in 0..TRIES {
        let seen = trial(offered)?;
        if seen.lost <= LOSS {
            best = Some(best.map_or(seen.delivered, |best| best.max(seen.delivered)));
            // A sender at its own limit offers no more, whatever it is asked.
            if seen.delivered < offered * 0.9 {
                break;
            }
            good = Some(offered);
        } else {
            bad = offered;
        }
        offered = match good {
            None => (seen.delivered * 0.95).min(bad * 0.7).max(1.0),
            Some(good) if bad / good < CLOSE => break,
            Some(good) => (good * bad).sqrt(),
        };
    }
    match best {
        Some(best) => Ok(best),
        None => bail!("at every rate more than 1 % is lost"),
    }
}

/// Sends at a rate for a while, up to `at_once` between two looks at the clock; gives how many were sent.
pub(super) fn paced(
    offered: f64,
    span: Duration,
    at_once: u64,
    mut send: impl FnMut(u64) -> io::Result<()>,
) -> anyhow::Result<u64> {
    let (start, mut sent) = (Instant::now(), 0u64);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= span {
            return Ok(sent);
        }
        let due = (offered * elapsed.as_secs_f64()) as u64;
        if sent >= due {
            sleep(Duration::from_micros(50));
            continue;
        }
        for _ in 0..(due - sent).min(at_once) {
            match send(sent) {
                Ok(()) => {}
                // Full queues lose, as they do for any program.
                Err(error) if error.raw_os_error() == Some(ENOBUFS) || error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot send a datagram"),
            }
            sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: f64 = 2.0e6;

    #[test]
    fn a_search_finds_what_a_path_carries() {
        // A path of 300,000 a second, which loses what is more.
        let path = |offered: f64| {
            let delivered = offered.min(300_000.0);
            Ok(Trial {
                delivered,
                lost: 1.0 - delivered / offered,
            })
        };
        let found = best(MOST, path).unwrap();
        assert!((280_000.0..=303_000.0).contains(&found), "{found}");
    }

    #[test]
    fn a_search_stops_where_the_sender_does() {
        let mut tries = 0;
        let found = best(MOST, |_| {
            tries += 1;
            Ok(Trial {
                delivered: 700_000.0,
                lost: 0.0,
            })
        });
        assert_eq!((found.unwrap(), tries), (700_000.0, 1));
    }

    #[test]
    fn a_path_that_always_loses_has_no_rate() {
        let lossy = |offered| {
            Ok(Trial {
                delivered: offered * 0.9,
                lost: 0.1,
            })
        };
        assert!(best(MOST, lossy).unwrap_err().to_string().contains("at every rate"));
    }

    #[test]
    fn full_queues_lose_and_other_errors_end() {
        let span = Duration::from_millis(5);
        let sent = paced(1e6, span, 16, |_| Err(io::Error::from_raw_os_error(ENOBUFS)));
        assert!(sent.unwrap() > 0);
        assert!(paced(1e6, span, 16, |_| Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
