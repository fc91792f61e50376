//! The Internet checksum (RFC 1071), fast: eight bytes a step, in the CPU's own byte order, which the sum does not mind.

/// A sum so far. Every part but the last must have an even number of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last one counts as if a zero followed it.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        // Two halves apart: no carry to wait for, so that the compiler can use vectors. 2^32 steps would fit.
        let (mut low, mut high) = (0u64, 0u64);
        for word in words {
            let word = u64::from_ne_bytes(*word);
            low += word & 0xffff_ffff;
            high += word >> 32;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = u64::from_ne_bytes(last);
        let halves = [low, high, last & 0xffff_ffff, last >> 32];
        halves.into_iter().fold(self, Self::add)
    }

    /// Adds a number of 16 bits.
    pub(super) fn word(self, word: u16) -> Self {
        self.add(u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// The sum in 16 bits, as a frame would carry it: what belongs into the field of a partial checksum.
    pub(super) fn partial(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum; never zero, which in UDP means none (RFC 768), and which 0xffff equals.
    pub(super) fn checksum(self) -> [u8; 2] {
        match !self.fold() {
            0 => [0xff; 2],
            sum => sum.to_ne_bytes(),
        }
    }

    /// The checksum of an IPv4 header, where zero is a value like others.
    pub(super) fn header_checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether bytes that include their checksum, all of which were added, are as they were sent.
    pub(super) fn is_right(self) -> bool {
        self.fold() == 0xffff
    }

    fn add(self, number: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(number);
        // 2^64 - 1 is a multiple of 2^16 - 1, so a carry goes around here, too.
        Self(sum + u64::from(carry))
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

/// The checksum's start: addresses and protocol. The length is not in yet.
pub(super) fn pseudo_header(ip_header: &[u8], protocol: u8) -> Sum {
    let addresses = if ip_header.first().is_some_and(|b| b >> 4 == 4) {
        ip_header.get(12..20)
    } else {
        ip_header.get(8..40)
    };
    Sum::default()
        .bytes(addresses.unwrap_or_default())
        .word(u16::from(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slowly(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u64::from(*b));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_rfc(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let cut = (cut * 2).min(bytes.len() / 2 * 2);
            let sum = Sum::default().bytes(&bytes[..cut]).bytes(&bytes[cut..]);
            prop_assert_eq!(u16::from_be_bytes(sum.partial()), slowly(&bytes));
            let checksum = sum.checksum();
            prop_assert_ne!(checksum, [0, 0]);
            if bytes.len() % 2 == 0 {
                prop_assert!(Sum::default().bytes(&bytes).bytes(&checksum).is_right());
            }
        }

        #[test]
        fn words_count_in_network_order(word in any::<u16>()) {
            let (as_word, as_bytes) = (Sum::default().word(word), Sum::default().bytes(&word.to_be_bytes()));
            prop_assert_eq!(as_word.partial(), as_bytes.partial());
        }
    }

    #[test]
    fn all_ones_for_64_kilobytes_do_not_overflow() {
        assert!(Sum::default().bytes(&[0xff; 65_536]).is_right());
    }
}
