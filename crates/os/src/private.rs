//! Files and directories for secrets: ours alone, and never half-written.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, FileFault};

const GROUP_AND_OTHERS: u32 = 0o077;

/// Makes a directory (and those above it) that only its owner may enter. One that is there already
/// must be ours and closed to others.
pub fn create_private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_else(|e| {
            if e.kind() == io::ErrorKind::AlreadyExists {
                Ok(())
            } else {
                Err(e)
            }
        })
        .map_err(|e| Error::system(format!("make the directory {}", path.display()), e))?;
    let metadata =
        std::fs::symlink_metadata(path).map_err(|e| Error::system(format!("look at {}", path.display()), e))?;
    check(&metadata, metadata.is_dir()).map_err(|fault| Error::unsafe_file(path, fault))
}

/// Puts `bytes` in the place of the file in one step: after a crash the old content is there, or the
/// new. `mode` is the file's permission, such as 0o600.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |e: io::Error| Error::system(format!("write {}", path.display()), e);
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => (folder, name.to_string_lossy()),
        _ => return Err(failed(io::ErrorKind::InvalidInput.into())),
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!(
        ".{name}.{}-{}.new",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let new = folder.join(unique);
    let outcome = write_new(&new, bytes, mode)
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| File::open(folder)?.sync_all());
    outcome.map_err(|e| {
        let _ = std::fs::remove_file(&new);
        failed(e)
    })
}

/// Reads a file of at most `limit` bytes that must be ours, plain, and closed to others.
pub fn read_private(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let failed = |e: io::Error| Error::system(format!("read {}", path.display()), e);
    let faulty = |fault: FileFault| Error::unsafe_file(path, fault);
    // Without NONBLOCK opening a pipe in the file's place would wait for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| {
            if e.raw_os_error() == Some(libc::ELOOP) {
                faulty(FileFault::SymbolicLink)
            } else {
                failed(e)
            }
        })?;
    let metadata = file.metadata().map_err(failed)?;
    check(&metadata, metadata.is_file()).map_err(faulty)?;
    let mut bytes = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(faulty(FileFault::TooLarge { limit }));
    }
    Ok(bytes)
}

fn write_new(path: &PathBuf, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn check(metadata: &Metadata, right_kind: bool) -> Result<(), FileFault> {
    if metadata.is_symlink() {
        return Err(FileFault::SymbolicLink);
    }
    if !right_kind {
        return Err(FileFault::WrongKind);
    }
    // Root's files are as good as ours: root could read ours anyway.
    let (uid, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if uid != us && uid != 0 {
        return Err(FileFault::ForeignOwner { uid });
    }
    let mode = metadata.mode() & 0o777;
    if mode & GROUP_AND_OTHERS != 0 {
        return Err(FileFault::OpenToOthers { mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::test_dir::TestDir;

    fn fault(outcome: Result<impl Sized, Error>) -> FileFault {
        match outcome.err().unwrap() {
            Error::UnsafeFile { fault, .. } => fault,
            other => panic!("{other}"),
        }
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn writing_replaces_the_whole_file_and_leaves_nothing_else() {
        let dir = TestDir::new();
        let path = dir.path("secret");
        write_atomic(&path, b"a long first content", 0o600).unwrap();
        write_atomic(&path, b"second", 0o600).unwrap();
        assert_eq!(read_private(&path, 100).unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path("")).unwrap().count(), 1);
        assert!(write_atomic(&dir.path("none/secret"), b"", 0o600).is_err());
        std::fs::create_dir(dir.path("folder")).unwrap();
        assert!(write_atomic(&dir.path("folder"), b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path("")).unwrap().count(), 2);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_not_followed() {
        let dir = TestDir::new();
        let (path, victim) = (dir.path("secret"), dir.path("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &path).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(read_private(&path, 3).unwrap(), b"new");
    }

    #[test]
    fn unsafe_files_are_refused_by_name() {
        let dir = TestDir::new();
        let path = dir.path("secret");
        write_atomic(&path, b"secret", 0o600).unwrap();
        assert_eq!(fault(read_private(&path, 5)), FileFault::TooLarge { limit: 5 });
        for mode in [0o640, 0o604, 0o620, 0o610] {
            chmod(&path, mode);
            assert_eq!(fault(read_private(&path, 100)), FileFault::OpenToOthers { mode });
        }
        chmod(&path, 0o600);
        symlink(&path, dir.path("link")).unwrap();
        assert_eq!(fault(read_private(&dir.path("link"), 100)), FileFault::SymbolicLink);
        std::fs::create_dir(dir.path("folder")).unwrap();
        assert_eq!(fault(read_private(&dir.path("folder"), 100)), FileFault::WrongKind);
        chown(&path, Some(4321), None).expect("tests run as root");
        assert_eq!(fault(read_private(&path, 100)), FileFault::ForeignOwner { uid: 4321 });
        assert!(matches!(read_private(&dir.path("none"), 1), Err(Error::System { .. })));
    }

    #[test]
    fn a_private_directory_is_made_once_and_checked_after() {
        let dir = TestDir::new();
        let path = dir.path("a/b");
        create_private_dir(&path).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        chmod(&path, 0o755);
        assert_eq!(
            fault(create_private_dir(&path)),
            FileFault::OpenToOthers { mode: 0o755 }
        );
        symlink(&path, dir.path("link")).unwrap();
        assert_eq!(fault(create_private_dir(&dir.path("link"))), FileFault::SymbolicLink);
        std::fs::write(dir.path("file"), "").unwrap();
        assert_eq!(fault(create_private_dir(&dir.path("file"))), FileFault::WrongKind);
    }
}
