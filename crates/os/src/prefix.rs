//! An address with a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP prefix. The address may have host bits (as an interface's address has).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `None` when the length does not fit the address family.
    pub fn new(address: IpAddr, length: u8) -> Option<Prefix> {
        (length <= bits(address)).then_some(Prefix { address, length })
    }

    /// The prefix that holds only this address.
    pub fn host(address: IpAddr) -> Prefix {
        let length = bits(address);
        Prefix { address, length }
    }

    /// The address, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The same prefix with host bits cleared.
    pub fn network(&self) -> Prefix {
        let address = match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Prefix {
            address,
            length: self.length,
        }
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        Prefix::new(address, self.length)
            .is_some_and(|other| same_family(address, self.address) && other.network() == self.network())
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        if self.length <= other.length {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The text is not `address/length`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a prefix such as 10.1.0.0/16 or fd00::/48")]
pub struct PrefixParseError(String);

impl FromStr for Prefix {
    type Err = PrefixParseError;

    fn from_str(text: &str) -> Result<Prefix, PrefixParseError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            Prefix::new(address.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| PrefixParseError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn overlap_is_symmetric_and_keeps_families_apart() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.9.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "192.168.1.7/32", true),
            ("0.0.0.0/0", "::/0", false),
            ("fd00::/48", "fd00:0:0:1::/64", true),
            ("fd00::/48", "fd00:0:1::/48", false),
            ("10.1.2.3/24", "10.1.2.200/25", true),
        ] {
            assert_eq!(p(a).overlaps(&p(b)), expected, "{a} {b}");
            assert_eq!(p(b).overlaps(&p(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn network_clears_host_bits() {
        assert_eq!(p("10.1.2.3/24").network(), p("10.1.2.0/24"));
        assert_eq!(p("10.1.2.3/0").network(), p("0.0.0.0/0"));
        assert_eq!(p("fd00::1/128").network(), p("fd00::1/128"));
        assert_eq!(p("fd00::1/0").network(), p("::/0"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.1", "10.0.0.1/33", "::/129", "a/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
