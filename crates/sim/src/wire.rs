//! What a line does to datagrams: delay, jitter, loss, bursts of loss, reorder, duplicates, a largest size.
//!
//! Promises: what a line does follows from its numbers and the generator alone.
//! Refuses to know: what it carries. Corruption is not modelled: UDP's checksum turns it into loss.

use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// One direction and the other alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wire {
    /// One way.
    pub delay: Duration,
    /// Up to this much more, drawn for each datagram.
    pub jitter: Duration,
    /// Lost, of 1.
    pub loss: f64,
    /// A burst of loss begins, of 1.
    pub burst: f64,
    /// Longest burst, datagrams.
    pub burst_length: u32,
    /// Held back by [`Wire::held`], of 1.
    pub reorder: f64,
    /// How long a held datagram waits.
    pub held: Duration,
    /// Arrives twice, of 1.
    pub duplicate: f64,
    /// Largest IP datagram, bytes; larger ones vanish without a word.
    pub mtu: usize,
}

impl Wire {
    /// No delay, no loss, 1500 bytes.
    pub const PERFECT: Wire = Wire {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        burst: 0.0,
        burst_length: 0,
        reorder: 0.0,
        held: Duration::ZERO,
        duplicate: 0.0,
        mtu: 1500,
    };

    /// A perfect wire with a delay.
    pub const fn delay(ms: u64) -> Wire {
        Wire {
            delay: Duration::from_millis(ms),
            ..Wire::PERFECT
        }
    }

    /// The same wire with loss, of 1.
    pub const fn losing(self, loss: f64) -> Wire {
        Wire { loss, ..self }
    }
}

/// One direction of a wire with what it remembers.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    burst_left: u32,
}

/// When the copies of a datagram arrive; empty: lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Of the first copy, and of the second.
    pub copies: [Option<Duration>; 2],
}

impl Direction {
    /// Sends one IP datagram of so many bytes.
    pub fn pass(&mut self, wire: &Wire, rng: &mut ChaCha12Rng, size: usize) -> Fate {
        if size > wire.mtu || self.loses(wire, rng) {
            return Fate::default();
        }
        let second = chance(rng, wire.duplicate).then(|| self.travel(wire, rng));
        Fate {
            copies: [Some(self.travel(wire, rng)), second],
        }
    }

    /// How long a segment of a reliable stream takes: a lost one is sent again after a fifth of a second.
    pub fn pass_reliably(&mut self, wire: &Wire, rng: &mut ChaCha12Rng) -> Duration {
        let mut late = Duration::ZERO;
        let mut again = Duration::from_millis(200);
        while late < Duration::from_secs(6) && self.loses(wire, rng) {
            late += again;
            again *= 2;
        }
        late + self.travel(wire, rng)
    }

    fn travel(&self, wire: &Wire, rng: &mut ChaCha12Rng) -> Duration {
        let held = if chance(rng, wire.reorder) {
            wire.held
        } else {
            Duration::ZERO
        };
        let jitter = wire.jitter.as_micros() as u64;
        let jitter = if jitter == 0 { 0 } else { rng.random_range(0..=jitter) };
        wire.delay + held + Duration::from_micros(jitter)
    }

    fn loses(&mut self, wire: &Wire, rng: &mut ChaCha12Rng) -> bool {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        if wire.burst_length > 0 && chance(rng, wire.burst) {
            self.burst_left = rng.random_range(0..wire.burst_length);
            return true;
        }
        chance(rng, wire.loss)
    }
}

/// A perfect wire draws nothing, so that adding one does not change the rest of a world.
fn chance(rng: &mut ChaCha12Rng, of_one: f64) -> bool {
    of_one > 0.0 && rng.random_bool(of_one)
}

/// Size of the IP datagram that carries so many bytes of UDP.
pub fn ip_size(family: IpAddr, payload: usize) -> usize {
    payload + if family.is_ipv4() { 28 } else { 48 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    fn arrivals(wire: Wire, count: u64, size: usize) -> Vec<(u64, u64)> {
        let mut rng = Seed(1).generator(0);
        let mut direction = Direction::default();
        let mut seen = Vec::new();
        for number in 0..count {
            let fate = direction.pass(&wire, &mut rng, size);
            for after in fate.copies.into_iter().flatten() {
                seen.push((number * 1000 + after.as_micros() as u64, number));
            }
        }
        seen.sort_unstable();
        seen
    }

    #[test]
    fn a_perfect_wire_delivers_everything_once_and_in_order() {
        let seen = arrivals(Wire::delay(20), 100, 1500);
        assert_eq!(seen.len(), 100);
        assert!(seen.is_sorted_by_key(|(_, number)| *number));
        assert!(arrivals(Wire::delay(20), 100, 1501).is_empty());
    }

    #[test]
    fn loss_duplicates_and_reorder_come_as_often_as_asked() {
        let lost = 10_000 - arrivals(Wire::PERFECT.losing(0.2), 10_000, 100).len();
        assert!((1800..2200).contains(&lost), "{lost}");

        let doubled = Wire {
            duplicate: 0.1,
            ..Wire::PERFECT
        };
        let twice = arrivals(doubled, 10_000, 100).len() - 10_000;
        assert!((900..1100).contains(&twice), "{twice}");

        let held = Wire {
            reorder: 0.3,
            held: Duration::from_millis(50),
            ..Wire::PERFECT
        };
        let seen = arrivals(held, 10_000, 100);
        let late = seen.windows(2).filter(|pair| pair[0].1 > pair[1].1).count();
        assert!((1500..4000).contains(&late), "{late}");
    }

    #[test]
    fn bursts_take_neighbours_together() {
        let wire = Wire {
            burst: 0.002,
            burst_length: 50,
            ..Wire::PERFECT
        };
        let seen = arrivals(wire, 50_000, 100);
        let longest = seen.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap();
        assert!((20..=150).contains(&longest), "{longest}");
    }
}
