//! Datagrams to one place, side by side, so that one system call sends them.
//!
//! Promises: they leave as they were pushed, in order, each with its own borders. All have one size: a kernel could cut a
//! shorter last one off as well (UDP_SEGMENT), but a train is lost in whole where a virtual wire finds its size too large,
//! and a shorter one may be a node's probe that would have passed. Refuses to know where they go and what is in them.

/// What one call takes: the largest payload of IPv4, joined or not.
const BYTES_MAX: usize = 65_507;
/// And so many of them (UDP_MAX_SEGMENTS before Linux 6.9).
const DATAGRAMS_MAX: usize = 64;

/// Datagrams that leave together.
#[derive(Default)]
pub(super) struct Train {
    bytes: Vec<u8>,
    segment: usize,
    datagrams: usize,
}

impl Train {
    /// Whether a datagram of this length can leave with the others. One always can with none.
    pub(super) fn takes(&self, length: usize) -> bool {
        let fits = self.bytes.len() + length <= BYTES_MAX && self.datagrams < DATAGRAMS_MAX;
        self.datagrams == 0 || (length == self.segment && length > 0 && fits)
    }

    /// Takes the datagram that `write` puts behind the others; [`Train::takes`] has said that it can.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - before;
        if self.datagrams == 0 {
            self.segment = length;
        }
        self.datagrams += 1;
    }

    /// Gives the datagrams, and the size of each, to `send`, if there are any; then has none.
    pub(super) fn leave(&mut self, send: impl FnOnce(&[u8], usize)) {
        if self.datagrams > 0 {
            send(&self.bytes, self.segment);
        }
        self.bytes.clear();
        self.datagrams = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves, datagram by datagram and train by train, when these are handed over.
    fn trains(lengths: &[usize]) -> Vec<Vec<usize>> {
        let mut train = Train::default();
        let mut left = Vec::new();
        let mut leave = |train: &mut Train| {
            train.leave(|bytes, segment| left.push(bytes.chunks(segment.max(1)).map(<[u8]>::len).collect::<Vec<_>>()));
        };
        for (number, length) in lengths.iter().enumerate() {
            if !train.takes(*length) {
                leave(&mut train);
            }
            assert!(train.takes(*length));
            train.push(|out| out.resize(out.len() + length, number as u8));
        }
        leave(&mut train);
        left
    }

    #[test]
    fn datagrams_of_one_size_leave_together_and_others_by_themselves() {
        assert_eq!(trains(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(
            trains(&[100, 100, 40, 100, 101]),
            [vec![100, 100], vec![40], vec![100], vec![101]]
        );
        assert_eq!(trains(&[40, 100]), [vec![40], vec![100]]);
    }

    #[test]
    fn no_train_is_longer_than_a_kernel_takes() {
        let lengths = |train: &Vec<usize>| (train.len(), train.iter().sum::<usize>());
        let left: Vec<_> = trains(&[1; 100]).iter().map(lengths).collect();
        assert_eq!(left, [(64, 64), (36, 36)]);
        let left: Vec<_> = trains(&[1400; 50]).iter().map(lengths).collect();
        assert_eq!(left, [(46, 46 * 1400), (4, 4 * 1400)]);
        assert_eq!(trains(&[65_535]), [vec![65_535]]);
    }

    #[test]
    fn an_empty_datagram_leaves_alone() {
        let mut train = Train::default();
        train.push(|_| {});
        assert!(!train.takes(0));
        let mut left = None;
        train.leave(|bytes, segment| left = Some((bytes.len(), segment)));
        assert_eq!(left, Some((0, 0)));
        train.leave(|_, _| panic!("nothing was pushed"));
    }
}
