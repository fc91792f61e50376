//! Sending many trains of datagrams with one system call (`sendmmsg`, each train segmented by the kernel).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;

use libc::{c_int, c_void};
use socket2::SockAddr;

use super::{FamilySocket, MAX_SEND, SEND_WAIT, Train, UdpSockets, may_be_gso};
use crate::wake::wait_writable;

/// Trains in one system call.
const AT_ONCE: usize = 16;
/// Room for the segment size and a source address: `CMSG_SPACE(2) + CMSG_SPACE(20)`.
const CONTROL_BYTES: usize = 64;

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl UdpSockets {
    /// Sends trains in order, with as few system calls as possible; tells of each that failed. Of one that fails some
    /// of the first datagrams may have left.
    pub fn send_trains<'a>(
        &self,
        trains: impl Iterator<Item = Train<'a>>,
        mut failed: impl FnMut(&Train<'a>, &io::Error),
    ) {
        let mut waiting: [Option<Train<'a>>; AT_ONCE] = [None; AT_ONCE];
        let mut count = 0;
        for train in trains {
            let other_family = waiting[0].is_some_and(|first| first.remote.is_ipv4() != train.remote.is_ipv4());
            if count == AT_ONCE || other_family {
                self.send_all(&waiting[..count], &mut failed);
                count = 0;
            }
            waiting[count] = Some(train);
            count += 1;
        }
        self.send_all(&waiting[..count], &mut failed);
    }

    /// Of one address family.
    fn send_all<'a>(&self, trains: &[Option<Train<'a>>], failed: &mut impl FnMut(&Train<'a>, &io::Error)) {
        let Some(first) = trains.first().copied().flatten() else {
            return;
        };
        let socket = match self.towards(first.remote) {
            Ok(socket) => socket,
            Err(error) => return trains.iter().flatten().for_each(|train| failed(train, &error)),
        };
        let mut rest = trains;
        while let Some((Some(train), behind)) = rest.split_first() {
            let segments = socket.max_segments.load(Ordering::Relaxed);
            if segments == 1 && train.bytes.len() > train.segment {
                self.send_alone(train, failed);
                rest = behind;
                continue;
            }
            match socket.send_mmsg(rest) {
                Ok(sent) => rest = &rest[sent.clamp(1, rest.len())..],
                Err(error) if may_be_gso(&error) => {
                    self.send_alone(train, failed);
                    rest = behind;
                }
                Err(error) => {
                    let _ = self.note_send(Err(io::Error::from(error.kind())));
                    failed(train, &error);
                    rest = behind;
                }
            }
        }
    }

    fn send_alone<'a>(&self, train: &Train<'a>, failed: &mut impl FnMut(&Train<'a>, &io::Error)) {
        if let Err(error) = self.send_segments(train.source, train.remote, train.bytes, train.segment) {
            failed(train, &error);
        }
    }
}

impl FamilySocket {
    /// Gives how many trains were sent, at least one; else the error of the first.
    fn send_mmsg(&self, trains: &[Option<Train<'_>>]) -> io::Result<usize> {
        let mut addresses = [const { None::<SockAddr> }; AT_ONCE];
        let mut controls = [const { Control([0; CONTROL_BYTES]) }; AT_ONCE];
        let mut pieces = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; AT_ONCE];
        // SAFETY: `mmsghdr` is plain data, for which zeros are valid.
        let mut messages: [libc::mmsghdr; AT_ONCE] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        for train in trains.iter().flatten().take(AT_ONCE) {
            if train.segment == 0 || train.bytes.len() > MAX_SEND {
                break;
            }
            let address = addresses[count].insert(SockAddr::from(train.remote));
            pieces[count] = libc::iovec {
                // The kernel only reads it.
                iov_base: train.bytes.as_ptr().cast_mut().cast::<c_void>(),
                iov_len: train.bytes.len(),
            };
            let message = &mut messages[count].msg_hdr;
            message.msg_name = address.as_ptr().cast_mut().cast::<c_void>();
            message.msg_namelen = address.len();
            message.msg_iov = &raw mut pieces[count];
            message.msg_iovlen = 1;
            write_control(message, &mut controls[count], train);
            count += 1;
        }
        if count == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            // SAFETY: the first `count` messages point at addresses, pieces and controls that outlive the call.
            let sent = unsafe {
                let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
                libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count as _, flags as _)
            };
            if let Ok(sent) = usize::try_from(sent) {
                return Ok(sent);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock if wait_writable(self.socket.as_fd(), SEND_WAIT)? => {}
                _ => return Err(error),
            }
        }
    }
}

/// Names segment size and source where they are needed.
fn write_control(message: &mut libc::msghdr, control: &mut Control, train: &Train<'_>) {
    message.msg_control = control.0.as_mut_ptr().cast::<c_void>();
    message.msg_controllen = CONTROL_BYTES as _;
    let mut used = 0;
    let mut push = |level: c_int, kind: c_int, value: &[u8]| {
        // SAFETY: the control buffer is zeroed and aligned, and has room for both possible entries of 2 and 12 or 20
        // bytes; CMSG_NXTHDR sees the lengths written before.
        unsafe {
            let header = if used == 0 {
                libc::CMSG_FIRSTHDR(message)
            } else {
                libc::CMSG_NXTHDR(message, libc::CMSG_FIRSTHDR(message))
            };
            if header.is_null() {
                return;
            }
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(value.len() as _) as _;
            std::ptr::copy_nonoverlapping(value.as_ptr(), libc::CMSG_DATA(header), value.len());
            used += libc::CMSG_SPACE(value.len() as _) as usize;
        }
    };
    if train.bytes.len() > train.segment {
        // `send_mmsg` has seen that the bytes, and so a segment, fit 16 bits.
        let segment = train.segment as u16;
        push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    match (train.source, train.remote) {
        (Some(IpAddr::V4(source)), SocketAddr::V4(_)) => {
            // `struct in_pktinfo`: interface (any), source, an address for the receiving side.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&source.octets());
            push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        (Some(IpAddr::V6(source)), SocketAddr::V6(_)) => {
            // `struct in6_pktinfo`: source, interface (any).
            let mut info = [0; 20];
            info[..16].copy_from_slice(&source.octets());
            push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => {}
    }
    message.msg_controllen = used as _;
    if used == 0 {
        message.msg_control = std::ptr::null_mut();
    }
}
