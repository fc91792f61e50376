//! Accounts, contacts and the server's own secrets, and the one file that keeps them.
//!
//! Promises: passwords are kept as SCRAM keys only; the file is replaced whole and synced, so a power cut
//! leaves the old or the new one; every comparison with the registration token takes constant time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::{BASE32_NOPAD, BASE64};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::stanza::Condition;
use super::{ServerError, files, limits};
use crate::sasl::StoredKeys;

pub(super) const FILE: &str = "server.json";

/// Everything that outlives the process.
#[derive(Serialize, Deserialize)]
pub(super) struct Store {
    version: u32,
    token: String,
    secret: String,
    accounts: BTreeMap<String, Account>,
}

/// One account.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    salt: String,
    iterations: u32,
    stored_key: String,
    server_key: String,
    /// By bare JID.
    #[serde(default)]
    pub(super) contacts: BTreeMap<String, Contact>,
    /// Subscription requests that nobody has answered yet.
    #[serde(default)]
    pub(super) requests: BTreeSet<String>,
}

/// A roster item (RFC 6121 section 2.1).
#[derive(Serialize, Deserialize, Default, Clone, PartialEq, Eq)]
pub(super) struct Contact {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    /// We see its presence.
    #[serde(default)]
    pub(super) to: bool,
    /// It sees our presence.
    #[serde(default)]
    pub(super) from: bool,
    /// We asked to see its presence.
    #[serde(default)]
    pub(super) asked: bool,
}

impl Store {
    /// Reads the state directory, or starts one.
    pub(super) fn load_or_make(dir: &Path) -> Result<Self, ServerError> {
        let content = files::read_bounded(dir, FILE, limits::STATE_BYTES_MAX).map_err(ServerError::State)?;
        let Some(content) = content else {
            let store = Self::fresh()?;
            files::replace_private(dir, FILE, &store.to_bytes()).map_err(ServerError::State)?;
            return Ok(store);
        };
        // A state that cannot be read is never replaced by an empty one: that would lose every account.
        let store: Store = serde_json::from_slice(&content).map_err(|_| ServerError::StateContent)?;
        match store.version {
            1 => Ok(store),
            _ => Err(ServerError::StateContent),
        }
    }

    pub(super) fn fresh() -> Result<Self, ServerError> {
        let token = BASE32_NOPAD.encode(&random::<20>()?).to_ascii_lowercase();
        let secret = BASE64.encode(&random::<32>()?);
        Ok(Store {
            version: 1,
            token,
            secret,
            accounts: BTreeMap::new(),
        })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn token_is(&self, given: &str) -> bool {
        bool::from(self.token.as_bytes().ct_eq(given.as_bytes()))
    }

    /// The secret for purpose `label`; purposes cannot learn each other's.
    pub(super) fn secret(&self, label: &str) -> [u8; 32] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.secret.as_bytes());
        let mut out = [0u8; 32];
        out.copy_from_slice(aws_lc_rs::hmac::sign(&key, label.as_bytes()).as_ref());
        out
    }

    pub(super) fn account(&self, user: &str) -> Option<&Account> {
        self.accounts.get(user)
    }

    pub(super) fn account_mut(&mut self, user: &str) -> Option<&mut Account> {
        self.accounts.get_mut(user)
    }

    /// The SCRAM keys of the account; for a stranger, keys that no password fits.
    pub(super) fn keys(&self, user: &str) -> StoredKeys {
        let known = self.accounts.get(user).and_then(Account::keys);
        known.unwrap_or_else(|| StoredKeys::decoy(&self.secret("scram decoy"), user))
    }

    pub(super) fn add_account(&mut self, user: &str, keys: &StoredKeys) -> Result<(), Condition> {
        if self.accounts.contains_key(user) {
            return Err(Condition::Conflict);
        }
        if self.accounts.len() >= limits::ACCOUNTS_MAX {
            return Err(Condition::ResourceConstraint);
        }
        self.accounts.insert(user.to_owned(), Account::new(keys));
        Ok(())
    }
}

impl Account {
    fn new(keys: &StoredKeys) -> Self {
        Account {
            salt: BASE64.encode(&keys.salt),
            iterations: keys.iterations,
            stored_key: BASE64.encode(&keys.stored_key),
            server_key: BASE64.encode(&keys.server_key),
            contacts: BTreeMap::new(),
            requests: BTreeSet::new(),
        }
    }

    fn keys(&self) -> Option<StoredKeys> {
        Some(StoredKeys {
            salt: BASE64.decode(self.salt.as_bytes()).ok()?,
            iterations: self.iterations,
            stored_key: BASE64.decode(self.stored_key.as_bytes()).ok()?.try_into().ok()?,
            server_key: BASE64.decode(self.server_key.as_bytes()).ok()?.try_into().ok()?,
        })
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], ServerError> {
    let mut bytes = [0u8; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ServerError::NoRandomness)?;
    Ok(bytes)
}
