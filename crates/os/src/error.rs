//! What can go wrong at the operating system, each with its remedy.

use std::io;
#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;

/// A failure at the operating system. The sentence names the culprit and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This operating system has no implementation yet.
    #[error("{what} is not supported on this operating system yet")]
    NotSupported {
        /// What was asked for.
        what: &'static str,
    },
    /// The calling user may not make or change network interfaces.
    #[error("no permission to {doing}: run as root or give the program CAP_NET_ADMIN")]
    NoNetAdmin {
        /// What was tried.
        doing: String,
    },
    /// `/dev/net/tun` is not there.
    #[error(
        "/dev/net/tun does not exist: load it with `modprobe tun`, or give the container the device (`--device /dev/net/tun`)"
    )]
    NoTunDevice,
    /// Another interface has the name.
    #[error("a network interface named {name} is already in use: choose another name or stop what uses it")]
    NicNameInUse {
        /// The name.
        name: String,
    },
    /// No interface can have this name.
    #[error("{name:?} cannot name a network interface: 1 to 15 letters, digits, '-', '_' or '.'")]
    NicNameInvalid {
        /// The name.
        name: String,
    },
    /// Another program has the UDP port.
    #[error(
        "UDP port {port} is already in use: stop the program that has it, or choose another port (0 picks a free one)"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Ports below 1024 need a privilege.
    #[error("UDP port {port} may not be used: choose one above 1023, or run as root")]
    PortNotPermitted {
        /// The port.
        port: u16,
    },
    /// The host has neither IPv4 nor IPv6.
    #[error("this host offers neither IPv4 nor IPv6 sockets: {ipv4}; {ipv6}")]
    NoAddressFamily {
        /// Why there is no IPv4 socket.
        ipv4: io::Error,
        /// Why there is no IPv6 socket.
        ipv6: io::Error,
    },
    /// The resolver's file cannot be changed; it is as it was.
    #[error("{path} cannot be changed ({source}), so names of the network will not resolve; it is as it was")]
    ResolverUnwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `resolvectl` refused.
    #[error("`resolvectl {arguments}` failed: {output}")]
    Resolvectl {
        /// Its arguments.
        arguments: String,
        /// What it said.
        output: String,
    },
    /// A domain that cannot stand in a resolver file.
    #[error("{domain:?} is not a domain name")]
    DomainInvalid {
        /// The name.
        domain: String,
    },
    /// Another instance owns the state directory.
    #[error("{dir} is in use by process {pid}: stop it first, or use another state directory", pid = pid.map_or("(unknown)".into(), |p| p.to_string()))]
    AlreadyRunning {
        /// The state directory.
        dir: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
    /// Somebody listens on the socket.
    #[error("another program listens on {path}: stop it first")]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file that secrets must not be read from or written to.
    #[error("{path} is not safe for secrets: {fault}")]
    UnsafeFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// Privileges could not be given up for good.
    #[error("privileges could not be dropped: {why}")]
    PrivilegesKept {
        /// Why.
        why: String,
    },
    /// Any other failure of a system call.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// What makes a file unsafe for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// A symbolic link.
    #[error("it is a symbolic link; remove it")]
    SymbolicLink,
    /// Not the kind of file that is wanted there.
    #[error("it is not what is expected there (a device, directory, pipe or plain file in its place); remove it")]
    WrongKind,
    /// Owned by somebody else.
    #[error("it belongs to user {uid}; `chown` it to the user that runs this program")]
    ForeignOwner {
        /// The owner.
        uid: u32,
    },
    /// Open to others.
    #[error("others may use it (mode {mode:03o}); `chmod go-rwx` it")]
    OpenToOthers {
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any such file is.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
}

#[cfg(target_os = "linux")]
impl Error {
    pub(crate) fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        let (doing, source) = (doing.into(), source.into());
        Error::System { doing, source }
    }

    /// Like `system`, but a lack of permission asks for CAP_NET_ADMIN.
    pub(crate) fn net_admin(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        let (doing, source) = (doing.into(), source.into());
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Error::NoNetAdmin { doing };
        }
        Error::System { doing, source }
    }

    pub(crate) fn unsafe_file(path: &Path, fault: FileFault) -> Error {
        let path = path.to_owned();
        Error::UnsafeFile { path, fault }
    }
}
