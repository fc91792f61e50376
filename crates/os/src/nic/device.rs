//! `/dev/net/tun` and its ioctls.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::c_int;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{NicConfig, NicKind, Offload, VNET_HEADER};
use crate::Error;

const DEVICE: &str = "/dev/net/tun";
const TEMPLATE: &str = "ipop%d";
/// The kernel's bound on an interface name, without the closing zero.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

pub(super) struct Opened {
    pub(super) queue: OwnedFd,
    pub(super) name: String,
    pub(super) offload: Offload,
}

/// Makes a new interface; never takes over one that exists.
pub(super) fn create(config: &NicConfig) -> Result<Opened, Error> {
    if let Some(name) = &config.name {
        check_name(name)?;
    }
    let queue = open()?;
    let name = config.name.as_deref().unwrap_or(TEMPLATE);
    let mut flags = kind_flag(config.kind) | libc::IFF_TUN_EXCL;
    if config.offload {
        flags |= libc::IFF_VNET_HDR;
    }
    if config.queues {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let name = set_interface(&queue, name, flags).map_err(|e| refused(name, e))?;
    let failed = |e: io::Error| Error::system(format!("set offloads of interface {name}"), e);
    let offload = if config.offload {
        set_offload(&queue, config.joined_udp).map_err(failed)?
    } else {
        Offload::default()
    };
    Ok(Opened { queue, name, offload })
}

/// One more queue of an interface made with queues.
pub(super) fn attach(name: &str, kind: NicKind, offload: Offload) -> Result<OwnedFd, Error> {
    let queue = open()?;
    let mut flags = kind_flag(kind) | libc::IFF_MULTI_QUEUE;
    if offload.header {
        flags |= libc::IFF_VNET_HDR;
    }
    set_interface(&queue, name, flags).map_err(|e| refused(name, e))?;
    if offload.header {
        let failed = |e: io::Error| Error::system(format!("set offloads of interface {name}"), e);
        set_header_size(&queue).map_err(failed)?;
    }
    Ok(queue)
}

/// Attaches to an interface and makes it vanish with the descriptor.
pub(super) fn remove(name: &str) -> Result<(), Error> {
    check_name(name)?;
    for kind in [libc::IFF_TUN, libc::IFF_TAP] {
        for queues in [0, libc::IFF_MULTI_QUEUE] {
            let queue = open()?;
            match set_interface(&queue, name, kind | queues) {
                Ok(_) => {
                    return set_persistent(&queue, false)
                        .map_err(|e| Error::net_admin(format!("remove interface {name}"), e));
                }
                Err(Errno::INVAL) => {}
                Err(error) => return Err(refused(name, error)),
            }
        }
    }
    Err(Error::NicNameInUse { name: name.to_owned() })
}

fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && name.bytes().all(allowed) && name != "." && name != ".." {
        return Ok(());
    }
    Err(Error::NicNameInvalid { name: name.to_owned() })
}

fn open() -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => Error::NoTunDevice,
        error => Error::net_admin(format!("open {DEVICE}"), error),
    })
}

fn refused(name: &str, error: Errno) -> Error {
    match error {
        // EINVAL: there is an interface of the name that is no TUN or TAP, or not of this kind.
        Errno::BUSY | Errno::EXIST | Errno::INVAL => Error::NicNameInUse { name: name.to_owned() },
        error => Error::net_admin(format!("make interface {name}"), error),
    }
}

fn kind_flag(kind: NicKind) -> c_int {
    match kind {
        NicKind::Tun => libc::IFF_TUN | libc::IFF_NO_PI,
        NicKind::Tap => libc::IFF_TAP | libc::IFF_NO_PI,
    }
}

/// Gives the name that the kernel settled on.
fn set_interface(queue: &OwnedFd, name: &str, flags: c_int) -> Result<String, Errno> {
    // SAFETY: `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(MAX_NAME)) {
        *to = from.cast_signed() as libc::c_char;
    }
    // The flags are 16 bits wide; IFF_NO_PI to IFF_TUN_EXCL use the upper one, too.
    request.ifr_ifru.ifru_flags = flags as u16 as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    let outcome = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if outcome < 0 {
        return Err(last_error());
    }
    let name = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    Ok(String::from_utf8(name).unwrap_or_default())
}

/// Asks for as much as the kernel has.
fn set_offload(queue: &OwnedFd, joined_udp: bool) -> io::Result<Offload> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    set_header_size(queue)?;
    let masks = [(tcp | udp, true), (tcp, false)];
    for (mask, udp) in masks.into_iter().filter(|(_, udp)| joined_udp || !udp) {
        let offload = Offload {
            header: true,
            tcp: true,
            udp,
        };
        // SAFETY: the argument is a number, not a pointer.
        if unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(mask)) } == 0 {
            return Ok(offload);
        }
    }
    Ok(Offload {
        header: true,
        tcp: false,
        udp: false,
    })
}

fn set_header_size(queue: &OwnedFd) -> io::Result<()> {
    let size = c_int::try_from(VNET_HEADER).expect("the header is ten bytes long");
    // SAFETY: the kernel reads one int, which outlives the call.
    let outcome = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn set_persistent(queue: &impl AsRawFd, persistent: bool) -> io::Result<()> {
    // SAFETY: the argument is a number, not a pointer.
    let outcome = unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            libc::TUNSETPERSIST as _,
            libc::c_ulong::from(persistent),
        )
    };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
