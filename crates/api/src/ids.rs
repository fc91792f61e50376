//! Who is who: the identities that every other type names.
//!
//! Promises: an id is a whole key or a whole random value, never a truncation, and its text form reads back to the same id.
//! Refuses to know: what an id is allowed to do.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A device in one network: its Ed25519 public key there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(transparent)]
pub struct NodeId(#[schemars(with = "String")] pub [u8; 32]);

/// A network; for a group this is the group's Ed25519 root public key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(transparent)]
pub struct NetworkId(#[schemars(with = "String")] pub [u8; 32]);

/// One attempt of two nodes at a link; random, chosen by the side that offers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SessionId(pub u64);

/// An id text that is not 52 characters of lower-case base32.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an id: expected 52 letters a-z and digits 2-7")]
pub struct IdError(pub String);

impl NodeId {
    /// The first eight letters: enough to tell nodes apart on a screen, never used to decide anything.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let refuse = || IdError(text.chars().take(64).collect());
                if text.len() != 52 || text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(refuse());
                }
                let bytes = BASE32_NOPAD
                    .decode(text.to_ascii_uppercase().as_bytes())
                    .map_err(|_| refuse())?;
                bytes.try_into().map(Self).map_err(|_| refuse())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(NodeId);
text_id!(NetworkId);

/// Bytes that cross JSON as base64 (standard alphabet, padded): sealed signals, messages between controllers.
#[derive(Clone, PartialEq, Eq, Default, JsonSchema)]
#[schemars(transparent)]
pub struct Blob(#[schemars(with = "String")] pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::BASE64
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_reads_back() {
        let id = NodeId([7; 32]);
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), &id.to_string()[..8]);
    }

    #[test]
    fn anything_else_is_refused() {
        let good = NodeId([7; 32]).to_string();
        let nonzero_tail = format!("{}{}", &good[..51], "b");
        for text in [
            "",
            "abc",
            &good.to_ascii_uppercase(),
            &good[..51],
            &format!("{good}a"),
            &nonzero_tail,
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
