//! Everything that a controller keeps over a restart, as one JSON document.
//!
//! Promises: what was written reads back; anything else is an error that names the file and the remedy, and changes nothing.

use api::link::default_mtu;
use api::rendezvous::Login;
use api::{Blob, NetworkId, NodeId};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Verified};
use crate::limits::{GROUPS_MAX, LOG_ENTRIES_MAX, STORE_BYTES_MAX};
use crate::log::{Log, Source};

/// The version that this program writes and the latest that it reads.
pub const STORE_VERSION: u32 = 1;

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// From a later IPOP.
    #[error(
        "{file} was written by a newer IPOP (its format is {version}), this one understands up to {STORE_VERSION}: upgrade, or use another --state"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        version: u64,
    },
    /// Not what we wrote.
    #[error(
        "{file} is corrupt ({reason}): put back a copy of it, or move it away and join the groups again; nothing was changed"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The document.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Store {
    /// See [`STORE_VERSION`].
    pub version: u32,
    /// Whether networks are wanted up.
    pub up: bool,
    /// Every group that this node is a member of.
    pub groups: Vec<StoredGroup>,
}

/// One group.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredGroup {
    /// Its id: the root public key.
    pub network: NetworkId,
    /// Our id in it.
    pub node: NodeId,
    /// Whether tincan keeps the root key here.
    pub founder: bool,
    /// How we log in where members meet.
    pub login: Login,
    /// The MTU of our NIC; what was written before there was a choice has the usual one.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// The membership log; name, subnets, members and invites made are in it.
    pub log: Vec<Blob>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            version: STORE_VERSION,
            up: true,
            groups: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} groups, up {})", self.groups.len(), self.up)
    }
}

impl Store {
    /// Reads a document; `file` is how errors call it.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt {
            file: file.to_owned(),
            reason,
        };
        if bytes.len() > STORE_BYTES_MAX {
            return Err(corrupt("it is too large".into()));
        }
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| corrupt(format!("line {}, column {}", e.line(), e.column())))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(version) if version > u64::from(STORE_VERSION) => {
                let file = file.to_owned();
                return Err(StoreError::Newer { file, version });
            }
            Some(1) => {}
            _ => return Err(corrupt("it has no version".into())),
        }
        // The sentence of the parser could quote a password: the place has to do.
        let store: Self =
            Self::deserialize(value).map_err(|_| corrupt("a field is missing or has a wrong form".into()))?;
        store.check().map_err(corrupt)?;
        Ok(store)
    }

    fn check(&self) -> Result<(), String> {
        if self.groups.len() > GROUPS_MAX {
            return Err("it has too many groups".into());
        }
        let mut seen = std::collections::BTreeSet::new();
        for group in &self.groups {
            if !seen.insert(group.network) {
                return Err(format!("the group {} stands twice", group.network));
            }
            group
                .read_log()
                .map_err(|reason| format!("group {}: {reason}", group.network))?;
        }
        Ok(())
    }

    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a store has a JSON form");
        bytes.push(b'\n');
        bytes
    }
}

impl StoredGroup {
    /// The log, every signature checked again.
    pub(crate) fn read_log(&self) -> Result<Log, String> {
        if self.log.len() > LOG_ENTRIES_MAX {
            return Err("its membership log is too long".into());
        }
        let entries = self
            .log
            .iter()
            .map(|blob| Verified::parse(self.network, &blob.0))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())?;
        let mut log = Log::new(self.network);
        log.insert(Source::Anybody, entries);
        if !log.entries().any(|e| matches!(e.entry(), Entry::Genesis(_))) {
            return Err("its membership log has no beginning".into());
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use proptest::prelude::*;

    fn store() -> Store {
        let entries = [genesis(), grant(100, 5), admission(100, 2, 1, 1, 10, "bob")];
        Store {
            version: STORE_VERSION,
            up: true,
            groups: vec![StoredGroup {
                network: network(),
                node: node(2),
                founder: false,
                login: Login {
                    server: "rdv.example:5222".parse().expect("a server"),
                    user: "n123".into(),
                    password: "hush".into(),
                    register: true,
                },
                mtu: 8900,
                log: entries.iter().map(|e| Blob(e.bytes().to_vec())).collect(),
            }],
        }
    }

    #[test]
    fn what_was_written_reads_back() {
        assert_eq!(Store::parse("f", &store().to_bytes()), Ok(store()));
        assert_eq!(Store::parse("f", &Store::default().to_bytes()), Ok(Store::default()));
    }

    #[test]
    fn a_newer_store_names_the_remedy() {
        let error =
            Store::parse("controller.json", br#"{"version": 2, "groups": "of another form"}"#).expect_err("newer");
        let text = "controller.json was written by a newer IPOP (its format is 2), this one understands up to 1: \
                    upgrade, or use another --state";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_log_that_was_tampered_with_is_corrupt() {
        let mut bad = store();
        bad.groups[0].log[2].0[100] ^= 1;
        let error = Store::parse("f", &bad.to_bytes()).expect_err("bad signature");
        assert!(
            matches!(&error, StoreError::Corrupt { reason, .. } if reason.contains("wrong signature")),
            "{error}"
        );
        let mut bad = store();
        bad.groups[0].log.remove(0);
        assert!(matches!(
            Store::parse("f", &bad.to_bytes()),
            Err(StoreError::Corrupt { .. })
        ));
        let mut bad = store();
        bad.groups.push(bad.groups[0].clone());
        assert!(matches!(
            Store::parse("f", &bad.to_bytes()),
            Err(StoreError::Corrupt { .. })
        ));
    }

    #[test]
    fn no_error_and_no_debug_shows_the_password() {
        assert!(!format!("{:?}", store()).contains("hush"));
        let text = String::from_utf8(store().to_bytes())
            .expect("JSON")
            .replace("\"register\": true", "\"register\": \"hush\"");
        let error = Store::parse("f", text.as_bytes()).expect_err("wrong type");
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    proptest! {
        #[test]
        fn corrupt_bytes_are_an_error_or_the_same_store(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = store().to_bytes();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            match Store::parse("f", &bytes) {
                Ok(store) => prop_assert!(Store::parse("f", &store.to_bytes()) == Ok(store)),
                Err(error) => prop_assert!(error.to_string().starts_with("f ")),
            }
        }
    }
}
