//! Unix sockets that only one user may use, and who is at the other end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::wake::wait_or_woken;
use crate::{Error, FileFault, Owner, PeerCredentials, Waker};

/// A listening Unix socket with mode 0600. Its file goes with it.
#[derive(Debug)]
pub struct PrivateListener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    waker: Waker,
}

impl PrivateListener {
    /// Listens at `path`, for us or for `owner` (which takes root). A socket left over by a process
    /// that is gone is replaced; one that somebody listens on is not.
    pub fn bind(path: &Path, owner: Option<Owner>) -> Result<PrivateListener, Error> {
        let failed = |e: io::Error| Error::system(format!("listen on {}", path.display()), e);
        make_way(path)?;
        // Bound under another name until the mode is right: nobody can connect in between.
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let placed = place(&listener, &new, path, owner);
        let inode = placed
            .inspect_err(|_| drop(std::fs::remove_file(&new)))
            .map_err(failed)?;
        let waker = Waker::new().map_err(failed)?;
        Ok(PrivateListener {
            listener,
            path: path.to_owned(),
            inode,
            waker,
        })
    }

    /// Waits for a connection, which then blocks; the error is of kind `Interrupted` when woken.
    pub fn accept(&self) -> io::Result<(UnixStream, PeerCredentials)> {
        loop {
            self.waker.check()?;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    let peer = peer_credentials(&stream)?;
                    return Ok((stream, peer));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_or_woken(self.listener.as_fd(), &self.waker, None)?;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends a blocked `accept`.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Another handle of the socket (it does not block), for a runtime. Keep `self`: its end removes the file.
    pub fn to_std(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl AsFd for PrivateListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for PrivateListener {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Who is at the other end of a connected Unix socket.
pub fn peer_credentials(stream: &impl AsFd) -> io::Result<PeerCredentials> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(PeerCredentials {
        pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
        uid: peer.uid.as_raw(),
        gid: peer.gid.as_raw(),
    })
}

/// Writes what the socket takes at once, without waiting, whatever mode the socket is in.
pub fn send_now(stream: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    Ok(rustix::net::send(stream, bytes, flags)?)
}

/// Our own user and group.
pub fn own_identity() -> Owner {
    Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn make_way(path: &Path) -> Result<(), Error> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if metadata.is_symlink() {
        return Err(Error::unsafe_file(path, FileFault::SymbolicLink));
    }
    if !metadata.file_type().is_socket() {
        return Err(Error::unsafe_file(path, FileFault::WrongKind));
    }
    match knock(path) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        _ => Err(Error::SocketInUse { path: path.to_owned() }),
    }
}

/// Connects without waiting: a listener that is too busy to accept is alive.
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn place(listener: &UnixListener, new: &Path, path: &Path, owner: Option<Owner>) -> io::Result<u64> {
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))?;
    if let Some(Owner { uid, gid }) = owner {
        chown(new, Some(uid), Some(gid))?;
    }
    std::fs::rename(new, path)?;
    Ok(std::fs::symlink_metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn the_listener_knows_who_connects_and_the_file_is_private() {
        let dir = TestDir::new();
        let path = dir.path("sock");
        let listener = PrivateListener::bind(&path, Some(Owner { uid: 0, gid: 12 })).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(
            (metadata.mode() & 0o777, metadata.uid(), metadata.gid()),
            (0o600, 0, 12)
        );
        let client = UnixStream::connect(&path).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        server.write_all(b"x").unwrap();
        let us = own_identity();
        let expected = PeerCredentials {
            pid: std::process::id(),
            uid: us.uid,
            gid: us.gid,
        };
        assert_eq!(peer, expected);
        assert_eq!(peer_credentials(&client).unwrap(), expected);
        drop(listener);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(dir.path("")).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = TestDir::new();
        let path = dir.path("sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left over");
        let listener = PrivateListener::bind(&path, None).unwrap();
        assert!(matches!(
            PrivateListener::bind(&path, None),
            Err(Error::SocketInUse { .. })
        ));
        drop(listener);
        std::fs::write(&path, "precious").unwrap();
        let refusal = PrivateListener::bind(&path, None).unwrap_err();
        assert!(
            matches!(
                refusal,
                Error::UnsafeFile {
                    fault: FileFault::WrongKind,
                    ..
                }
            ),
            "{refusal}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let dir = TestDir::new();
        let path = dir.path("sock");
        let old = PrivateListener::bind(&path, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        // Some file systems give a freed number out again at once; then the two cannot be told apart.
        let told_apart = std::fs::metadata(&path).unwrap().ino() != old.inode;
        drop(old);
        assert_eq!(path.exists(), told_apart);
        drop(successor);
    }

    #[test]
    fn a_blocked_accept_can_be_woken() {
        let dir = TestDir::new();
        let listener = PrivateListener::bind(&dir.path("sock"), None).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| listener.accept().unwrap_err().kind());
            listener.waker().wake();
            assert_eq!(thread.join().unwrap(), io::ErrorKind::Interrupted);
        });
    }
}
