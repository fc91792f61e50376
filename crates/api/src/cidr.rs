//! An address with its prefix length.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address and a prefix length, as in `10.5.0.7/16`; the host part may be set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(transparent)]
pub struct Cidr {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// Leading bits that name the network: 0 to 32, or 0 to 128.
    #[schemars(skip)]
    pub prefix: u8,
}

/// A text that is not ADDRESS/PREFIX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a subnet: expected something like 10.5.0.0/16 or fd00:1::/48")]
pub struct CidrError(pub String);

impl Cidr {
    /// `None` where the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// The one address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            prefix: bits(address),
        }
    }

    /// The same prefix with the host part zero.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & mask32(self.prefix)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & mask128(self.prefix)).into()),
        };
        Self {
            address,
            prefix: self.prefix,
        }
    }

    /// Whether the address lies inside.
    pub fn contains(self, address: IpAddr) -> bool {
        bits(address) == bits(self.address)
            && Self {
                address,
                prefix: self.prefix,
            }
            .network()
            .address
                == self.network().address
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let (wide, narrow) = if self.prefix <= other.prefix {
            (self, other)
        } else {
            (other, self)
        };
        wide.contains(narrow.address)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refuse = || CidrError(text.chars().take(64).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let address = address.parse().map_err(|_| refuse())?;
        let prefix = prefix.parse().map_err(|_| refuse())?;
        Self::new(address, prefix).ok_or_else(refuse)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn contains_and_overlaps() {
        for (a, b, overlaps) in [
            ("10.1.0.0/16", "10.1.2.3/32", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("0.0.0.0/0", "10.2.0.0/16", true),
            ("fd00::/8", "fd12::1/128", true),
            ("10.0.0.0/8", "fd12::1/128", false),
        ] {
            assert_eq!(cidr(a).overlaps(cidr(b)), overlaps, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), overlaps, "{b} {a}");
        }
    }

    #[test]
    fn text_reads_back_or_is_refused() {
        assert_eq!(cidr("10.5.0.7/16").to_string(), "10.5.0.7/16");
        assert_eq!(cidr("10.5.0.7/16").network(), cidr("10.5.0.0/16"));
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
