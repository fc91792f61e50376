//! One instance for each state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Error;

const NAME: &str = "lock";

/// Holds a state directory; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the directory, or tells who has it.
    pub fn acquire(dir: &Path) -> Result<StateLock, Error> {
        let path = dir.join(NAME);
        let failed = |e: io::Error| Error::system(format!("lock {}", path.display()), e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::AlreadyRunning {
                    dir: dir.to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        note_pid(&mut file).map_err(failed)?;
        Ok(StateLock { _file: file })
    }

    /// The process that holds the directory now; `None` when nobody does (or nobody may look).
    pub fn holder(dir: &Path) -> Option<u32> {
        let mut file = File::open(dir.join(NAME)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => holder(&mut file),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn the_second_is_told_who_is_first() {
        let dir = TestDir::new();
        let first = StateLock::acquire(&dir.path("")).unwrap();
        match StateLock::acquire(&dir.path("")).unwrap_err() {
            Error::AlreadyRunning { pid, .. } => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other}"),
        }
        assert_eq!(StateLock::holder(&dir.path("")), Some(std::process::id()));
        drop(first);
        assert_eq!(StateLock::holder(&dir.path("")), None);
        StateLock::acquire(&dir.path("")).unwrap();
        assert!(matches!(
            StateLock::acquire(&dir.path("none")),
            Err(Error::System { .. })
        ));
    }
}
