//! What goes over a link's stream: length-prefixed messages, the first of which is a Hello.
//!
//! Form of a message: kind (8 bit) · length (32 bit) · body. Kinds from 128 on are left out by who does not know them.

use crate::limits;
use crate::record::{Cipher, ReceiverIndex};

/// The version of records and control messages that this code speaks.
pub const WIRE_VERSION: u8 = 1;

const HEAD: usize = 5;

/// What a node says of itself first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Highest wire version that it speaks; it speaks all from 1 on.
    pub version: u8,
    /// What the other side must put on records.
    pub receiver_index: ReceiverIndex,
    /// Bits for what later versions add; unknown ones are left alone.
    pub capabilities: u32,
    /// Ciphers, the best liked first.
    pub ciphers: Vec<Cipher>,
}

/// A kind of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The first of each direction.
    Hello,
    /// The server has the client's Hello: records may be sent to it.
    Ready,
    /// A message of the layer above.
    Message,
}

/// Why the bytes of a stream or a Hello are no messages of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageFault {
    /// Longer than `limits::MESSAGE_BYTES`.
    #[error("a message of {0} bytes")]
    TooLong(u32),
    /// A kind below 128 that no version has.
    #[error("a message of unknown kind {0}")]
    UnknownKind(u8),
    /// The Hello ends early.
    #[error("a Hello that ends early")]
    ShortHello,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Ready => 2,
            Self::Message => 3,
        }
    }

    /// None for what may be left out.
    fn from_code(code: u8) -> Result<Option<Self>, MessageFault> {
        match code {
            1 => Ok(Some(Self::Hello)),
            2 => Ok(Some(Self::Ready)),
            3 => Ok(Some(Self::Message)),
            128.. => Ok(None),
            _ => Err(MessageFault::UnknownKind(code)),
        }
    }
}

/// A message's bytes on the stream. `body` is at most `limits::MESSAGE_BYTES` long.
pub(super) fn frame(kind: Kind, body: &[u8]) -> impl Iterator<Item = u8> {
    let length = u32::try_from(body.len()).expect("the caller bounds it");
    std::iter::once(kind.code())
        .chain(length.to_be_bytes())
        .chain(body.iter().copied())
}

impl Hello {
    /// Its bytes; reads back with `parse`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.version];
        bytes.extend_from_slice(&self.receiver_index.to_bytes());
        bytes.extend_from_slice(&self.capabilities.to_be_bytes());
        bytes.push(u8::try_from(self.ciphers.len()).expect("there are two ciphers"));
        bytes.extend(self.ciphers.iter().map(|cipher| cipher.code()));
        bytes
    }

    /// Reads a Hello; unknown ciphers and what later versions append are left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageFault> {
        let &[version, r0, r1, r2, c0, c1, c2, c3, count, ref rest @ ..] = bytes else {
            return Err(MessageFault::ShortHello);
        };
        let codes = rest.get(..usize::from(count)).ok_or(MessageFault::ShortHello)?;
        Ok(Self {
            version,
            receiver_index: ReceiverIndex::from_bytes([r0, r1, r2]),
            capabilities: u32::from_be_bytes([c0, c1, c2, c3]),
            ciphers: codes.iter().filter_map(|c| Cipher::from_code(*c)).collect(),
        })
    }
}

/// Cuts a stream's bytes into messages.
#[derive(Default)]
pub struct Deframer {
    bytes: Vec<u8>,
    start: usize,
}

impl Deframer {
    /// Takes the next bytes of the stream; call `next_message` until it has no more before the next `push`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message of a known kind. After a fault the stream is lost.
    pub fn next_message(&mut self) -> Result<Option<(Kind, Vec<u8>)>, MessageFault> {
        loop {
            let rest = &self.bytes[self.start..];
            let Some((&[code, l0, l1, l2, l3], rest)) = rest.split_first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let kind = Kind::from_code(code)?;
            let length = u32::from_be_bytes([l0, l1, l2, l3]);
            let size = usize::try_from(length)
                .ok()
                .filter(|size| *size <= limits::MESSAGE_BYTES)
                .ok_or(MessageFault::TooLong(length))?;
            let Some(body) = rest.get(..size) else {
                return Ok(None);
            };
            let found = kind.map(|kind| (kind, body.to_vec()));
            self.start += HEAD + size;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}
