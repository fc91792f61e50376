//! The controller's file: read once, written atomically.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use controller::Store;

use crate::state::StateDir;

pub(super) struct StoreFile {
    path: PathBuf,
}

impl StoreFile {
    pub(super) fn open(state: &StateDir) -> anyhow::Result<Self> {
        let folder = state.controller();
        os::create_private_dir(&folder)?;
        Ok(Self {
            path: folder.join("store.json"),
        })
    }

    /// What was stored; none on a new node. A file that cannot be understood stops the controller: nothing is overwritten.
    pub(super) fn load(&self) -> anyhow::Result<Option<Store>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let store = Store::parse(&self.path.display().to_string(), &bytes)?;
        Ok(Some(store))
    }

    pub(super) fn save(&self, store: &Store) -> anyhow::Result<()> {
        Ok(os::write_atomic(&self.path, &store.to_bytes(), 0o600)?)
    }
}
