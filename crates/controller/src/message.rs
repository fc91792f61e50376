//! Messages between the controllers of two nodes, and the envelope in which a rendezvous carries sealed blobs.
//!
//! Promises: every message has one encoding within its bound; who sent it is never in it, but proven by link or seal.

use api::NodeId;

use crate::limits::{
    BLOB_BYTES_MAX, ENTRY_BYTES_MAX, HAVE_IDS_MAX, MESSAGE_BYTES_MAX, MESSAGE_ENTRY_BYTES, RELAY_BLOB_MAX, SENTENCE_MAX,
};
use crate::log::Digest;
use crate::wire::{Malformed, Reader, put_bytes};

const VERSION: u8 = 1;
const SIGNAL: u8 = 0;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the bytes of a message.
    #[error("a message of another controller is malformed")]
    Malformed,
    /// A kind or version that we do not know.
    #[error("a message of another controller is of a kind that this IPOP does not know: upgrade this one")]
    Unknown,
}

impl From<Malformed> for MessageError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Names an entry in gossip: the first 16 bytes of its id.
pub type ShortId = [u8; 16];

/// Names a join request in its answer.
pub type RequestTag = [u8; 16];

/// Why a member lets a joiner not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The invite is expired, used up, or not of this group.
    Invite = 0,
    /// The name is taken.
    Name = 1,
    /// The node was ejected, or its clock is behind.
    Barred = 2,
    /// Not now, or not here: another member may.
    Busy = 3,
}

impl Refusal {
    fn from_byte(byte: u8) -> Result<Self, Malformed> {
        [Self::Invite, Self::Name, Self::Barred, Self::Busy]
            .into_iter()
            .find(|r| *r as u8 == byte)
            .ok_or(Malformed)
    }
}

/// What controllers tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Let me in.
    Join {
        /// The grant that the invite carries, which the sponsor may not have yet.
        grant: Vec<u8>,
        /// The request, signed by invite and joiner.
        request: Vec<u8>,
    },
    /// You are in; here are the entries that prove it. More may follow as [`Message::Entries`].
    Welcome {
        /// Of the request.
        tag: RequestTag,
        /// Entries, in the order in which they chain.
        entries: Vec<Vec<u8>>,
    },
    /// You are not.
    Refused {
        /// Of the request.
        tag: RequestTag,
        /// What kind of reason.
        refusal: Refusal,
        /// Why, one sentence.
        reason: String,
    },
    /// My log, in short.
    Digest {
        /// What to compare.
        digest: Digest,
        /// Unix time by the sender's clock.
        time: u64,
    },
    /// Of the entries named from `from` to `to`, I have these.
    Have {
        /// Lowest name.
        from: ShortId,
        /// Highest name.
        to: ShortId,
        /// Sorted.
        ids: Vec<ShortId>,
    },
    /// Entries that you may lack.
    Entries(Vec<Vec<u8>>),
    /// Pass this blob on to that member, to which I have no way.
    Relay {
        /// To whom.
        to: NodeId,
        /// Sealed for it.
        blob: Vec<u8>,
    },
    /// A blob that a member asked me to pass on.
    Relayed {
        /// Who asked, as I know it.
        from: NodeId,
        /// Sealed for you.
        blob: Vec<u8>,
    },
}

impl Message {
    /// Reads a message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::Malformed);
        }
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(MessageError::Unknown);
        }
        let message = match reader.u8()? {
            1 => Self::Join {
                grant: reader.bytes(ENTRY_BYTES_MAX)?.to_vec(),
                request: reader.bytes(ENTRY_BYTES_MAX)?.to_vec(),
            },
            2 => Self::Welcome {
                tag: reader.array()?,
                entries: entries(&mut reader)?,
            },
            3 => Self::Refused {
                tag: reader.array()?,
                refusal: Refusal::from_byte(reader.u8()?)?,
                reason: sentence(reader.bytes(4 * SENTENCE_MAX)?),
            },
            4 => Self::Digest {
                digest: Digest {
                    count: reader.u32()?,
                    hash: reader.array()?,
                },
                time: reader.u64()?,
            },
            5 => have(&mut reader)?,
            6 => Self::Entries(entries(&mut reader)?),
            7 => Self::Relay {
                to: NodeId(reader.array()?),
                blob: reader.bytes(RELAY_BLOB_MAX)?.to_vec(),
            },
            8 => Self::Relayed {
                from: NodeId(reader.array()?),
                blob: reader.bytes(RELAY_BLOB_MAX)?.to_vec(),
            },
            _ => return Err(MessageError::Unknown),
        };
        reader.end()?;
        Ok(message)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Join { grant, request } => {
                out.push(1);
                put_bytes(&mut out, grant);
                put_bytes(&mut out, request);
            }
            Self::Welcome { tag, entries } => {
                out.push(2);
                out.extend_from_slice(tag);
                put_entries(&mut out, entries);
            }
            Self::Refused { tag, refusal, reason } => {
                out.push(3);
                out.extend_from_slice(tag);
                out.push(*refusal as u8);
                let reason: String = reason.chars().take(SENTENCE_MAX).collect();
                put_bytes(&mut out, reason.as_bytes());
            }
            Self::Digest { digest, time } => {
                out.push(4);
                out.extend_from_slice(&digest.count.to_be_bytes());
                out.extend_from_slice(&digest.hash);
                out.extend_from_slice(&time.to_be_bytes());
            }
            Self::Have { from, to, ids } => {
                out.push(5);
                out.extend_from_slice(from);
                out.extend_from_slice(to);
                out.extend_from_slice(&(ids.len() as u16).to_be_bytes());
                out.extend(ids.iter().flatten());
            }
            Self::Entries(entries) => {
                out.push(6);
                put_entries(&mut out, entries);
            }
            Self::Relay { to, blob } => {
                out.push(7);
                out.extend_from_slice(&to.0);
                put_bytes(&mut out, blob);
            }
            Self::Relayed { from, blob } => {
                out.push(8);
                out.extend_from_slice(&from.0);
                put_bytes(&mut out, blob);
            }
        }
        out
    }
}

fn entries(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(reader.bytes(ENTRY_BYTES_MAX)?.to_vec());
    }
    Ok(entries)
}

fn put_entries(out: &mut Vec<u8>, entries: &[Vec<u8>]) {
    for entry in entries {
        put_bytes(out, entry);
    }
}

fn have(reader: &mut Reader<'_>) -> Result<Message, Malformed> {
    let (from, to) = (reader.array()?, reader.array()?);
    let count = usize::from(reader.u16()?);
    if count > HAVE_IDS_MAX || from > to {
        return Err(Malformed);
    }
    let ids = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
    Ok(Message::Have { from, to, ids })
}

/// Text from outside made fit for a screen: no control characters, bounded.
fn sentence(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control())
        .take(SENTENCE_MAX)
        .collect()
}

/// Splits entries into lists that fit a message each.
pub fn parts<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<Vec<u8>>> {
    let mut parts: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        let cost = entry.len() + 2;
        if cost > room {
            parts.push(Vec::new());
            room = MESSAGE_ENTRY_BYTES;
        }
        room -= cost;
        parts.last_mut().expect("one was just pushed").push(entry.to_vec());
    }
    parts
}

/// What a rendezvous carries for us: so far sealed blobs alone.
pub fn seal_envelope(blob: &[u8]) -> Vec<u8> {
    [&[VERSION, SIGNAL], blob].concat()
}

/// Takes the blob out of an envelope.
pub fn open_envelope(bytes: &[u8]) -> Result<&[u8], MessageError> {
    match bytes {
        [VERSION, SIGNAL, blob @ ..] if !blob.is_empty() && blob.len() <= BLOB_BYTES_MAX => Ok(blob),
        [VERSION, SIGNAL, ..] | [] | [_] => Err(MessageError::Malformed),
        _ => Err(MessageError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_read_back_and_cut_ones_do_not() {
        let tag = [5; 16];
        let messages = [
            Message::Join {
                grant: vec![1; 9],
                request: vec![2; 300],
            },
            Message::Welcome {
                tag,
                entries: vec![vec![1; 100], vec![2; 200]],
            },
            Message::Refused {
                tag,
                refusal: Refusal::Name,
                reason: "the name \"bob\" is taken".into(),
            },
            Message::Digest {
                digest: Digest {
                    count: 7,
                    hash: [8; 32],
                },
                time: 9,
            },
            Message::Have {
                from: [0; 16],
                to: [255; 16],
                ids: vec![[3; 16], [4; 16]],
            },
            Message::Entries(vec![vec![7; 2048]]),
            Message::Relay {
                to: NodeId([6; 32]),
                blob: vec![1; RELAY_BLOB_MAX],
            },
            Message::Relayed {
                from: NodeId([6; 32]),
                blob: vec![1; 10],
            },
        ];
        for message in messages {
            let bytes = message.to_bytes();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(Message::parse(&bytes), Ok(message));
            assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn full_messages_fit_their_bound() {
        let have = Message::Have {
            from: [0; 16],
            to: [1; 16],
            ids: vec![[0; 16]; HAVE_IDS_MAX],
        };
        assert!(have.to_bytes().len() <= MESSAGE_BYTES_MAX);
        let entries: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 1000]).collect();
        let all = parts(entries.iter().map(Vec::as_slice));
        assert_eq!(all.concat(), entries);
        for part in all {
            let welcome = Message::Welcome {
                tag: [0; 16],
                entries: part,
            };
            assert!(welcome.to_bytes().len() <= MESSAGE_BYTES_MAX);
        }
    }

    #[test]
    fn a_refusal_shows_no_control_characters() {
        let refused = Message::Refused {
            tag: [0; 16],
            refusal: Refusal::Busy,
            reason: "a\u{1b}[31mb\nc".into(),
        };
        let Ok(Message::Refused { reason, .. }) = Message::parse(&refused.to_bytes()) else {
            panic!("reads back");
        };
        assert_eq!(reason, "a[31mbc");
    }

    proptest! {
        #[test]
        fn nonsense_never_panics_and_what_parses_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..10) {
            let headed = [&[VERSION, kind], &bytes[..]].concat();
            for bytes in [&bytes, &headed] {
                if let Ok(message) = Message::parse(bytes) {
                    prop_assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
                }
                if let Ok(blob) = open_envelope(bytes) {
                    prop_assert_eq!(seal_envelope(blob), bytes.clone());
                }
            }
        }
    }
}
