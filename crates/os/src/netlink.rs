//! Route netlink by hand: requests with an answer, dumps, and the reading of attributes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel fills dumps up to 32 KiB when offered.
const BUFFER: usize = 32 * 1024;
/// A table that changes during every one of so many dumps is returned as last seen.
const DUMP_TRIES: usize = 8;

/// A request under construction: header, fixed body, attributes.
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Request(bytes)
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = u16::try_from(4 + value.len()).expect("attributes made here are a few bytes long");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("requests made here are a few hundred bytes long");
        let flags = flags | u16_at(&self.0, 6).unwrap_or(0);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Netlink> {
        Netlink::subscribe(0, SocketFlags::CLOEXEC)
    }

    /// Hears the kernel's announcements to `groups`; reads do not block.
    pub(crate) fn listen(groups: u32) -> io::Result<Netlink> {
        Netlink::subscribe(groups, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn subscribe(groups: u32, flags: SocketFlags) -> io::Result<Netlink> {
        // Protocol 0 of netlink is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a change and waits for the kernel's verdict.
    pub(crate) fn change(&mut self, request: Request) -> io::Result<()> {
        let sequence = self.send(request, NLM_F_ACK)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let bytes = self.receive(&mut buffer)?;
            for message in messages(bytes).filter(|m| m.sequence == sequence) {
                if message.kind == NLMSG_ERROR {
                    return verdict(&message);
                }
            }
        }
    }

    /// Asks for a whole table; gives the bodies of messages of kind `answer`.
    pub(crate) fn dump(&mut self, kind: u16, answer: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut table = Vec::new();
        for _ in 0..DUMP_TRIES {
            let whole = self.dump_once(Request::new(kind, 0, body), answer, &mut table)?;
            if whole {
                break;
            }
        }
        Ok(table)
    }

    fn dump_once(&mut self, request: Request, answer: u16, table: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        table.clear();
        let sequence = self.send(request, NLM_F_DUMP)?;
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        loop {
            let bytes = self.receive(&mut buffer)?;
            for message in messages(bytes).filter(|m| m.sequence == sequence) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => verdict(&message)?,
                    kind if kind == answer => table.push(message.body.to_vec()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, request: Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &request.finish(self.sequence, flags), SendFlags::empty())?;
        Ok(self.sequence)
    }

    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, length)) => return Ok(&buffer[..length.min(buffer.len())]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

fn verdict(message: &Message<'_>) -> io::Result<()> {
    match u32_at(message.body, 0).map_or(0, u32::cast_signed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

/// The messages in what one read gave; ends at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The attributes of a body after its fixed part; ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NESTED_AND_ORDER_FLAGS: u16 = 0xC000;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !NESTED_AND_ORDER_FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let bytes = Request::new(16, 0x100, &[1, 2, 3, 4])
            .attribute(3, b"abcde")
            .attribute(9, b"")
            .finish(7, 4);
        let found: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kind, found[0].flags, found[0].sequence), (16, 0x105, 7));
        let attributes: Vec<_> = attributes(&found[0].body[4..]).collect();
        assert_eq!(attributes, [(3, &b"abcde"[..]), (9, &b""[..])]);
    }

    #[test]
    fn malformed_bytes_end_the_reading() {
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0]).count(), 1);
    }
}
