//! Many sealed records side by side in one buffer, for few system calls.
//!
//! Promises: records leave in the order they were sealed in; the records of one train go the same way and are of one
//! size, but the last, which may be smaller: what UDP segmentation asks for; no allocation after `new`.
//! Refuses to know: sockets, and how a record is sealed.

use super::FastPath;

/// What one send takes, segmented or not: 65535 bytes less IPv4 and UDP header.
const TRAIN_BYTES: usize = 65_507;
/// Trains that wait at a time.
const TRAINS: usize = 64;

/// Sealed records that wait to be sent.
pub struct Trains {
    buffer: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    records_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Train {
    path: FastPath,
    start: usize,
    end: usize,
    record: usize,
    is_closed: bool,
}

impl Trains {
    /// With room for `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            buffer: vec![0; bytes],
            used: 0,
            trains: Vec::with_capacity(TRAINS),
            records_max: 1,
        }
    }

    /// How many records one train may have: what the socket takes at once.
    pub fn set_records_max(&mut self, records: usize) {
        self.records_max = records.max(1);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Whether a record of `bytes` still finds room.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.trains.len() < TRAINS && self.used + bytes <= self.buffer.len()
    }

    /// What waits: the way, the records, and the size of each but the last.
    pub fn iter(&self) -> impl Iterator<Item = (FastPath, &[u8], usize)> {
        self.trains
            .iter()
            .map(|train| (train.path, &self.buffer[train.start..train.end], train.record))
    }

    /// Forgets what waits: it was sent.
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
    }

    /// The room for a record; it counts only when `take`n. None if `has_room` is false.
    pub fn room(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.has_room(bytes)
            .then(|| &mut self.buffer[self.used..self.used + bytes])
    }

    /// Takes the record that was written to `room`.
    pub fn take(&mut self, path: FastPath, bytes: usize) {
        let start = self.used;
        self.used += bytes;
        let records_max = self.records_max;
        if let Some(train) = self.trains.last_mut()
            && train.goes_on(path, bytes, records_max)
        {
            train.end = self.used;
            train.is_closed = bytes < train.record;
            return;
        }
        self.trains.push(Train {
            path,
            start,
            end: self.used,
            record: bytes,
            is_closed: false,
        });
    }
}

impl Train {
    fn goes_on(&self, path: FastPath, bytes: usize, records_max: usize) -> bool {
        let length = self.end - self.start;
        !self.is_closed
            && bytes <= self.record
            && length + bytes <= TRAIN_BYTES
            && length < records_max * self.record
            && self.path == path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(port: u16) -> FastPath {
        FastPath::Direct {
            source: None,
            remote: ([192, 0, 2, 1], port).into(),
        }
    }

    fn trains_of(records_max: usize, records: &[(u16, usize)]) -> Vec<(usize, usize)> {
        let mut trains = Trains::new(1 << 20);
        trains.set_records_max(records_max);
        for (number, (port, bytes)) in records.iter().enumerate() {
            trains.room(*bytes).unwrap().fill(number as u8);
            trains.take(way(*port), *bytes);
        }
        let all: Vec<u8> = trains.iter().flat_map(|(_, bytes, _)| bytes.to_vec()).collect();
        let expected: Vec<u8> = (0..).zip(records).flat_map(|(n, (_, bytes))| vec![n; *bytes]).collect();
        assert_eq!(all, expected, "in order");
        trains.iter().map(|(_, bytes, record)| (bytes.len(), record)).collect()
    }

    #[test]
    fn records_of_one_size_and_way_share_a_train_and_a_smaller_one_ends_it() {
        let records = [(1, 100), (1, 100), (1, 60), (1, 60), (1, 100), (2, 100), (1, 100)];
        assert_eq!(
            trains_of(64, &records),
            [(260, 100), (60, 60), (100, 100), (100, 100), (100, 100)]
        );
    }

    #[test]
    fn a_train_is_no_longer_than_the_socket_takes() {
        assert_eq!(trains_of(2, &[(1, 10); 5]), [(20, 10), (20, 10), (10, 10)]);
        assert_eq!(trains_of(1, &[(1, 10); 2]), [(10, 10), (10, 10)]);
        assert_eq!(trains_of(64, &[(1, 1428); 48]), [(1428 * 45, 1428), (1428 * 3, 1428)]);
    }

    #[test]
    fn what_is_full_says_so_and_empties() {
        let mut trains = Trains::new(100);
        assert!(trains.room(101).is_none());
        assert!(trains.room(60).is_some());
        trains.take(way(1), 60);
        assert!(!trains.has_room(41) && trains.has_room(40) && !trains.is_empty());
        trains.clear();
        assert!(trains.has_room(100) && trains.is_empty());
        for port in 0..64 {
            trains.take(way(port), 1);
        }
        assert!(!trains.has_room(1));
    }
}
