//! Frames cut in parts, for a path that carries less than the frames that must pass: IPv6 hosts send 1280 bytes
//! whatever they are told (RFC 8200 section 5), and an outer path of 1280 bytes has not that much room inside.
//!
//! A part is the body of a record on lane 0: number of the frame (2 bytes, big endian), which part (1), of how many (1),
//! bytes. Parts of one frame are alike in length but the last, which is not longer.
//!
//! Promises: what waits has a bound in number, bytes and time, and the oldest goes first; a part that does not fit the
//! others ends its frame. Refuses to know: who cuts when, records (each part is sealed, and comes once).

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits;

/// Bytes before a part.
const HEAD: usize = 4;

/// One part as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The frame's number.
    pub frame: u16,
    /// Which part, from 0.
    pub at: usize,
    /// Of how many.
    pub count: usize,
    /// What it carries.
    pub bytes: &'a [u8],
}

/// Why bytes are no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no part of a frame: its head does not fit its bytes")]
pub struct PartError;

impl<'a> Part<'a> {
    /// Reads the body of a record.
    pub fn parse(body: &'a [u8]) -> Result<Self, PartError> {
        let (&[high, low, at, count], bytes) = body.split_first_chunk::<HEAD>().ok_or(PartError)?;
        let (at, count) = (usize::from(at), usize::from(count));
        let fits = (2..=limits::PARTS).contains(&count) && at < count;
        if !fits || bytes.is_empty() || bytes.len() > limits::FRAME {
            return Err(PartError);
        }
        Ok(Self {
            frame: u16::from_be_bytes([high, low]),
            at,
            count,
            bytes,
        })
    }
}

/// Cuts a frame into bodies of at most `room` bytes; none where that would be too many.
pub fn cut(number: u16, frame: &[u8], room: usize) -> Option<impl Iterator<Item = Vec<u8>>> {
    let most = room.checked_sub(HEAD).filter(|most| *most > 0)?;
    let count = frame.len().div_ceil(most).max(2);
    let each = frame.len().div_ceil(count).max(1);
    // A short frame may need fewer parts of a length that is rounded up.
    let count = frame.len().div_ceil(each);
    let total = u8::try_from(count)
        .ok()
        .filter(|_| (2..=limits::PARTS).contains(&count))?;
    let parts = frame.chunks(each).zip(0u8..);
    Some(parts.map(move |(bytes, at)| {
        let [high, low] = number.to_be_bytes();
        [&[high, low, at, total], bytes].concat()
    }))
}

/// Puts parts together again.
#[derive(Debug, Default)]
pub struct Joiner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    frame: u16,
    since: Instant,
    parts: Vec<Option<Vec<u8>>>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.parts.iter().flatten().map(Vec::len).sum()
    }
}

/// What a part led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The frame, when it was the last part missing.
    pub frame: Option<Vec<u8>>,
    /// So many frames were given up.
    pub given_up: u64,
}

impl Joiner {
    /// Takes a part.
    pub fn take(&mut self, now: Instant, part: &Part<'_>) -> Joined {
        let mut given_up = self.expire(now);
        let at = self.waiting.iter().position(|waiting| waiting.frame == part.frame);
        let mut waiting = match at.and_then(|at| self.remove(at)) {
            Some(waiting) if fits(&waiting, part) => waiting,
            other => {
                given_up += u64::from(other.is_some());
                Waiting {
                    frame: part.frame,
                    since: now,
                    parts: vec![None; part.count],
                }
            }
        };
        waiting.parts[part.at] = Some(part.bytes.to_vec());
        if waiting.parts.iter().all(Option::is_some) {
            let frame = waiting.parts.into_iter().flatten().flatten().collect();
            return Joined {
                frame: Some(frame),
                given_up,
            };
        }
        self.bytes += waiting.bytes();
        self.waiting.push_back(waiting);
        while self.waiting.len() > limits::JOINS || self.bytes > limits::JOIN_BYTES {
            self.remove(0);
            given_up += 1;
        }
        Joined { frame: None, given_up }
    }

    /// Gives up what waits too long; how many that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let old = |waiting: &Waiting| now.saturating_duration_since(waiting.since) >= limits::JOIN_TIME;
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !old(waiting));
        self.bytes = self.waiting.iter().map(Waiting::bytes).sum();
        (before - self.waiting.len()) as u64
    }

    /// Frames and bytes that wait.
    pub fn level(&self) -> (usize, usize) {
        (self.waiting.len(), self.bytes)
    }

    fn remove(&mut self, at: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(at)?;
        self.bytes -= waiting.bytes();
        Some(waiting)
    }
}

/// Whether a part belongs to what came of its frame so far: as many parts, its place free, the whole not too long.
fn fits(waiting: &Waiting, part: &Part<'_>) -> bool {
    let free = waiting.parts.get(part.at).is_some_and(Option::is_none);
    free && waiting.parts.len() == part.count && waiting.bytes() + part.bytes.len() <= limits::FRAME
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bodies(number: u16, length: usize, room: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let frame: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let bodies = cut(number, &frame, room).expect("not too many parts").collect();
        (frame, bodies)
    }

    fn take(joiner: &mut Joiner, now: Instant, body: &[u8]) -> Joined {
        joiner.take(now, &Part::parse(body).unwrap())
    }

    #[test]
    fn a_frame_comes_out_as_it_was_whatever_the_order() {
        let now = Instant::now();
        for (length, room) in [
            (2, 5),
            (1280, 1223),
            (1280, 1203),
            (1280, 479),
            (9000, 1199),
            (9000, 479),
        ] {
            let (frame, mut bodies) = bodies(7, length, room);
            assert!(bodies.iter().all(|body| body.len() <= room), "{length} {room}");
            for turn in 0..bodies.len() {
                bodies.rotate_left(turn);
                let mut joiner = Joiner::default();
                let (last, first) = bodies.split_last().unwrap();
                for body in first {
                    assert_eq!(take(&mut joiner, now, body), Joined::default());
                }
                assert_eq!(take(&mut joiner, now, last).frame.as_ref(), Some(&frame));
                assert_eq!(joiner.level(), (0, 0));
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_is_not() {
        assert!(cut(0, &[1; 9000], 300).is_none());
        assert!(cut(0, &[1; 9000], HEAD).is_none());
        assert!(cut(0, &[1; 100], 0).is_none());
        assert!(cut(0, &[1], 100).is_none());
    }

    #[test]
    fn frames_that_miss_a_part_are_given_up_by_number_bytes_and_time() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        let mut given_up = 0;
        for number in 0..200 {
            let (_, bodies) = bodies(number, 1280, 1200);
            given_up += take(&mut joiner, now, &bodies[0]).given_up;
        }
        assert_eq!(
            (joiner.level().0, given_up),
            (limits::JOINS, 200 - limits::JOINS as u64)
        );

        let mut joiner = Joiner::default();
        for number in 0..64 {
            let (_, bodies) = bodies(number, 9000, 8000);
            take(&mut joiner, now, &bodies[0]);
            assert!(joiner.level().1 <= limits::JOIN_BYTES);
        }
        let waiting = joiner.level().0 as u64;
        assert!(waiting < 32);
        assert_eq!(joiner.expire(now + limits::JOIN_TIME - Duration::from_millis(1)), 0);
        assert_eq!(joiner.expire(now + limits::JOIN_TIME), waiting);
        assert_eq!(joiner.level(), (0, 0));
    }

    #[test]
    fn a_number_used_again_begins_a_frame_of_its_own() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        let (_, old) = bodies(3, 1000, 400);
        let (frame, new) = bodies(3, 1280, 1200);
        take(&mut joiner, now, &old[0]);
        assert_eq!(take(&mut joiner, now, &new[0]).given_up, 1);
        assert_eq!(take(&mut joiner, now, &new[1]).frame, Some(frame));
    }

    #[test]
    fn parts_never_make_more_than_the_longest_frame() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        let body = |at: u8, length: usize| [&[0, 1, at, 3][..], &vec![9; length]].concat();
        take(&mut joiner, now, &body(0, 5000));
        // Too long together: a frame of its own, which now misses the first part.
        assert_eq!(take(&mut joiner, now, &body(1, 5000)).given_up, 1);
        assert_eq!(take(&mut joiner, now, &body(2, 100)).frame, None);
    }

    #[test]
    fn heads_that_lie_are_refused() {
        for bad in [
            &[0, 1, 0, 1, 9][..],
            &[0, 1, 2, 2, 9],
            &[0, 1, 0, 25, 9],
            &[0, 1, 0, 2],
            &[0, 1, 0],
            &[],
        ] {
            assert_eq!(Part::parse(bad), Err(PartError), "{bad:?}");
        }
    }
}
