//! The keys of this machine on disk: the device secret and the root keys of groups founded here.
//!
//! Promises: a key is made once and never silently made anew; files are readable by the owner only, written atomically.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use api::NetworkId;

use crate::state::StateDir;

const SECRET_BYTES: usize = 32;

/// The key folder of a state directory.
#[derive(Debug)]
pub(crate) struct KeyFiles {
    folder: PathBuf,
}

impl KeyFiles {
    /// Opens the folder, making it if this is a new node.
    pub(crate) fn open(state: &StateDir) -> anyhow::Result<Self> {
        let folder = state.keys();
        os::create_private_dir(&folder)?;
        os::create_private_dir(&folder.join("roots"))?;
        Ok(Self { folder })
    }

    /// The device secret, made from the system's randomness the first time.
    pub(crate) fn device(&self) -> anyhow::Result<[u8; SECRET_BYTES]> {
        let path = self.folder.join("device");
        if path.exists() {
            return read_secret(&path);
        }
        if fs::read_dir(self.folder.join("roots"))?.next().is_some() {
            bail!(
                "{} is missing but root keys are there: restore it from a backup, or use another --state",
                path.display()
            );
        }
        let secret = random()?;
        os::write_atomic(&path, &secret, 0o600)?;
        Ok(secret)
    }

    /// Every root key kept here.
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<[u8; SECRET_BYTES]>> {
        let mut roots = Vec::new();
        for entry in fs::read_dir(self.folder.join("roots"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "root") {
                roots.push(read_secret(&path)?);
            }
        }
        Ok(roots)
    }

    /// Keeps a root key.
    pub(crate) fn store_root(&self, network: NetworkId, seed: &[u8; SECRET_BYTES]) -> anyhow::Result<()> {
        Ok(os::write_atomic(&self.root(network), seed, 0o600)?)
    }

    /// Erases a root key; none there is fine.
    pub(crate) fn erase_root(&self, network: NetworkId) -> anyhow::Result<()> {
        match fs::remove_file(self.root(network)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot erase the root key"),
            _ => Ok(()),
        }
    }

    fn root(&self, network: NetworkId) -> PathBuf {
        self.folder.join("roots").join(format!("{network}.root"))
    }
}

fn read_secret(path: &std::path::Path) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let bytes = os::read_private(path, SECRET_BYTES + 1)?;
    match bytes.try_into() {
        Ok(secret) => Ok(secret),
        Err(_) => bail!(
            "{} is corrupt (a key has 32 bytes): restore it from a backup, or use another --state",
            path.display()
        ),
    }
}

/// 32 bytes of the operating system's randomness.
pub(crate) fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the operating system gives no randomness"))?;
    Ok(bytes)
}
