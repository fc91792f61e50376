//! The corpus on disk: `corpus/TARGET/*`. Files named `seed-N` were written by [`write_seeds`], all others were found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Target;

/// Where the corpora of all targets lie.
pub fn root() -> PathBuf {
    // Cargo says where this checkout lies; a fuzzer started without it lies where it was built.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).join("corpus")
}

/// A target's inputs with their file names, in order.
pub fn read(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(root().join(target.name))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        inputs.push((name, fs::read(entry.path())?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Writes a target's seeds anew; to be done when a format changes.
pub fn write_seeds(target: &Target) -> io::Result<usize> {
    let folder = root().join(target.name);
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let is_seed = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("seed-"));
        if is_seed {
            fs::remove_file(path)?;
        }
    }
    let seeds = (target.seeds)();
    for (number, bytes) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{number:02}")), bytes)?;
    }
    Ok(seeds.len())
}
