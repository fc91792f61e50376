//! The state directory: what lies where.
//!
//! Promises: one directory is one node; nothing of it is readable for others but the sockets' names.
//! Refuses to know: what is in the files.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use os::Owner;

/// Version of the directory's layout; a directory of a newer one is left alone.
const LAYOUT: u32 = 1;
const DYNAMIC_USERS: std::ops::Range<u32> = 61_184..65_520;

/// A state directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Names a directory without touching it; relative paths are made absolute, as children are started with it.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("no such place: {}", path.display()))?;
        // A Unix socket's path has at most 107 bytes (sun_path).
        if path.join("controller/control.sock").as_os_str().len() > 107 {
            bail!("the path of the state directory is too long for a socket: use a shorter --state");
        }
        Ok(Self(path))
    }

    /// Makes the directory if it is missing, and refuses one that a newer IPOP wrote, that is not writable, or not ours.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        let path = self.path();
        make_passable(path).with_context(|| self.unusable())?;
        match fs::read_to_string(self.layout()) {
            Ok(text) => self.check_layout(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| self.unusable()),
        }
        os::write_atomic(&self.layout(), format!("{LAYOUT}\n").as_bytes(), 0o644).with_context(|| self.unusable())
    }

    fn check_layout(&self, text: &str) -> anyhow::Result<()> {
        match text.trim().parse::<u32>() {
            Ok(version) if version <= LAYOUT => Ok(()),
            Ok(version) => bail!(
                "{} was written by a newer IPOP (layout {version}, this one knows {LAYOUT}): upgrade, or use another --state",
                self.path().display()
            ),
            Err(_) => bail!(
                "{} is corrupt (it should hold one number): restore it from a backup, or use another --state",
                self.layout().display()
            ),
        }
    }

    fn unusable(&self) -> String {
        format!(
            "cannot use the state directory {}: check its owner and rights, or use another --state",
            self.0.display()
        )
    }

    /// The user that the controller becomes when root starts it: one that nobody else has, from the range of systemd's dynamic
    /// users (systemd.exec(5), `DynamicUser=`), the same at every start. Where such a user could not enter the directory, the
    /// controller stays who it is and only gives up its capabilities.
    pub(crate) fn controller_owner(&self) -> Owner {
        let own = os::own_identity();
        let enterable = |folder: &Path| fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
        let sum = self
            .0
            .as_os_str()
            .as_bytes()
            .iter()
            .fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        let user = DYNAMIC_USERS.start + sum % (DYNAMIC_USERS.end - DYNAMIC_USERS.start);
        if own.uid == 0 && os::is_user_known(user) && self.0.ancestors().all(enterable) {
            Owner { uid: user, gid: user }
        } else {
            own
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn layout(&self) -> PathBuf {
        self.0.join("version")
    }

    /// Socket of the link API.
    pub(crate) fn tincan_socket(&self) -> PathBuf {
        self.0.join("tincan.sock")
    }

    /// Socket of the control API.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.controller().join("control.sock")
    }

    /// Keys; tincan's alone.
    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// What the controller stores.
    pub(crate) fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    /// What the embedded server stores; the daemon runs one where its settings are there.
    pub(crate) fn server(&self) -> PathBuf {
        self.0.join("server")
    }

    /// Settings of the embedded server.
    pub(crate) fn server_settings(&self) -> PathBuf {
        self.0.join("server.json")
    }

    /// The address that the embedded server is reached by, token and pin in it, as it wrote it at its start.
    pub(crate) fn server_address(&self) -> PathBuf {
        self.server().join("address")
    }

    /// What a daemon in the background says.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }
}

/// Others may pass through to the sockets, which check who they are, but see nothing.
fn make_passable(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    }
    let owner = fs::metadata(path)?.uid();
    if owner != os::own_identity().uid {
        let text = format!("it belongs to user {owner}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> StateDir {
        let path = std::env::temp_dir().join(format!("ipop-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        StateDir::new(&path).expect("a short path")
    }

    #[test]
    fn a_directory_is_made_and_used_again() {
        let state = fresh("again");
        state.prepare().expect("a new directory");
        state.prepare().expect("the same directory");
        fs::remove_dir_all(state.path()).expect("it is there");
    }

    #[test]
    fn newer_and_corrupt_directories_are_left_as_they_are() {
        let state = fresh("newer");
        state.prepare().expect("a new directory");
        for (text, told) in [("2\n", "newer IPOP"), ("\u{0}x", "corrupt"), ("", "corrupt")] {
            fs::write(state.layout(), text).expect("writable");
            let error = state.prepare().expect_err("refused").to_string();
            assert!(error.contains(told), "{error}");
            assert_eq!(fs::read_to_string(state.layout()).expect("readable"), text);
        }
        fs::remove_dir_all(state.path()).expect("it is there");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        assert!(StateDir::new(Path::new(&format!("/{}", "x".repeat(120)))).is_err());
    }
}
