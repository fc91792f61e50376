//! Messages of STUN and TURN as bytes: framing on streams, reading, writing. No state.

use std::net::{IpAddr, SocketAddr};

use stun_proto::types::attribute::{AttributeType, ErrorCode, Fingerprint, Nonce, Realm, UnknownAttributes, Username};
use stun_proto::types::attribute::{MessageIntegrity, MessageIntegritySha256};
use stun_proto::types::message::{IntegrityAlgorithm, IntegrityKey, Message, MessageWriteVec, StunWriteError};
use stun_proto::types::prelude::*;
use turn_types::attribute::{
    ChannelNumber, Data, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
};
use turn_types::message::DATA;

use super::limits;

/// The attributes that must be understood, and are.
pub(super) const KNOWN: &[AttributeType] = &[
    Username::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    Fingerprint::TYPE,
    Lifetime::TYPE,
    RequestedTransport::TYPE,
    RequestedAddressFamily::TYPE,
    XorPeerAddress::TYPE,
    ChannelNumber::TYPE,
    Data::TYPE,
];

/// Why bytes on a stream are not TURN.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum FrameError {
    /// The first bits are neither STUN's nor a channel's.
    #[error("the peer does not speak TURN")]
    NotTurn,
    /// Longer than any datagram.
    #[error("the peer sent a TURN message beyond the limits of this server")]
    TooLong,
}

/// The length of the message at the start of a stream's bytes (RFC 8656 section 3.1, RFC 8489 section 7.2.2),
/// padding included; `None` until enough is there.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(&[first, _, high, low]) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let length = match first {
        0x00..=0x3f if body % 4 == 0 => 20 + body,
        // RFC 8656 section 12.5: over streams channel data is padded to four bytes.
        0x40..=0x4f => 4 + body.next_multiple_of(4),
        _ => return Err(FrameError::NotTurn),
    };
    match length > limits::MESSAGE_BYTES {
        true => Err(FrameError::TooLong),
        false => Ok(Some(length)),
    }
}

/// Channel number and data of a ChannelData message.
pub fn channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (&[a, b, high, low], rest) = bytes.split_first_chunk::<4>()?;
    let number = u16::from_be_bytes([a, b]);
    let data = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    (0x4000..=0x4fff).contains(&number).then_some((number, data))
}

/// The most bytes that can be wrapped in every way: a message's length has 16 bits.
pub(super) const WRAPPED_BYTES_MAX: usize = 65_535 - 64;

/// What is put around a peer's datagram for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    /// A ChannelData message.
    Channel {
        number: u16,
        /// As streams want it.
        is_padded: bool,
    },
    /// A Data indication.
    Indication { from: SocketAddr },
}

impl Wrapping {
    /// The length of the message around so many bytes.
    pub(super) fn length(self, data: usize) -> usize {
        match self {
            Wrapping::Channel { is_padded: false, .. } => 4 + data,
            Wrapping::Channel { is_padded: true, .. } => 4 + data.next_multiple_of(4),
            Wrapping::Indication { from } => {
                let address = if from.is_ipv4() { 12 } else { 24 };
                20 + address + 4 + data.next_multiple_of(4)
            }
        }
    }

    /// Writes the message around data of at most [`WRAPPED_BYTES_MAX`] behind what is there.
    pub(super) fn write(self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Wrapping::Channel { number, .. } => {
                let end = out.len() + self.length(data.len());
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
                out.extend_from_slice(data);
                out.resize(end, 0);
            }
            Wrapping::Indication { from } => out.extend(data_indication(from, data).unwrap_or_default()),
        }
    }
}

fn data_indication(peer: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Message::builder_indication(DATA, MessageWriteVec::with_capacity(64 + data.len()));
    let transaction = out.transaction_id();
    out.add_attribute(&XorPeerAddress::new(peer, transaction)).ok()?;
    out.add_attribute(&Data::new(data)).ok()?;
    Some(out.finish())
}

/// All peers named in a request, and whether every one could be read.
pub(super) fn peers(message: &Message<'_>) -> Option<Vec<SocketAddr>> {
    let transaction = message.transaction_id();
    let raw = message
        .iter_attributes()
        .filter(|(_, a)| a.get_type() == XorPeerAddress::TYPE);
    let peers: Result<Vec<_>, _> = raw
        .take(limits::PEERS_PER_REQUEST + 1)
        .map(|(_, a)| XorPeerAddress::from_raw(a).map(|a| canonical(a.addr(transaction))))
        .collect();
    peers.ok().filter(|p| p.len() <= limits::PEERS_PER_REQUEST)
}

/// IPv4-mapped addresses are IPv4 addresses, wherever they are compared.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The refusal of attributes that must be understood and are not (RFC 8489 section 6.3.1). In our own few bytes, as the
/// sender may be forged: the library's answer is two and a half times as long as the shortest question.
pub(super) fn unknown(message: &Message<'_>, known: &[AttributeType]) -> Option<Vec<u8>> {
    let types = message.iter_attributes().map(|(_, attribute)| attribute.get_type());
    let unknown: Vec<_> = types
        .filter(|kind| kind.comprehension_required() && !known.contains(kind))
        .collect();
    if unknown.is_empty() {
        return None;
    }
    let code = ErrorCode::new(ErrorCode::UNKNOWN_ATTRIBUTE, "").ok()?;
    let refusal = Message::builder_error(message, MessageWriteVec::with_capacity(64));
    answer(refusal, &[&code, &UnknownAttributes::new(&unknown)], None).ok()
}

/// An answer under construction that is signed at its end, if there is a key.
pub(super) fn answer(
    message: MessageWriteVec,
    attributes: &[&dyn AttributeWrite],
    key: Option<&IntegrityKey>,
) -> Result<Vec<u8>, StunWriteError> {
    let mut message = message;
    for attribute in attributes {
        message.add_attribute(*attribute)?;
    }
    if let Some(key) = key {
        message.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1)?;
    }
    Ok(message.finish())
}

/// A success response.
pub(super) fn success(
    request: &Message<'_>,
    attributes: &[&dyn AttributeWrite],
    key: Option<&IntegrityKey>,
) -> Option<Vec<u8>> {
    answer(
        Message::builder_success(request, MessageWriteVec::with_capacity(128)),
        attributes,
        key,
    )
    .ok()
}

/// An error response.
pub(super) fn error(request: &Message<'_>, code: u16, key: Option<&IntegrityKey>) -> Option<Vec<u8>> {
    let code = ErrorCode::new(code, "").ok()?;
    answer(
        Message::builder_error(request, MessageWriteVec::with_capacity(64)),
        &[&code],
        key,
    )
    .ok()
}

/// The challenge (RFC 8489 section 9.2.4): code 401 or 438 with realm and nonce.
pub(super) fn challenge(request: &Message<'_>, code: u16, realm: &str, nonce: &str) -> Option<Vec<u8>> {
    let code = ErrorCode::new(code, "").ok()?;
    let (realm, nonce) = (Realm::new(realm).ok()?, Nonce::new(nonce).ok()?);
    let message = Message::builder_error(request, MessageWriteVec::with_capacity(128));
    answer(message, &[&code, &realm, &nonce], None).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_on_a_stream_are_cut_right() {
        assert_eq!(frame_length(&[0, 1, 0]), Ok(None));
        assert_eq!(frame_length(&[0, 1, 0, 8]), Ok(Some(28)));
        assert_eq!(frame_length(&[0x40, 0, 0, 5]), Ok(Some(12)));
        assert_eq!(frame_length(&[0, 1, 0, 7]), Err(FrameError::NotTurn));
        assert_eq!(frame_length(&[0x80, 0, 0, 0]), Err(FrameError::NotTurn));
        // Every length that a header can hold is either refused or bounded (S-I01).
        for body in 0..=u16::MAX {
            let [high, low] = body.to_be_bytes();
            for first in [0x00, 0x40] {
                if let Ok(Some(length)) = frame_length(&[first, 0, high, low]) {
                    assert!(length <= limits::MESSAGE_BYTES);
                }
            }
        }
    }

    #[test]
    fn what_is_wrapped_has_the_length_that_was_told() {
        let channel = |is_padded| Wrapping::Channel {
            number: 0x4001,
            is_padded,
        };
        let indication = |from: &str| Wrapping::Indication {
            from: from.parse().unwrap(),
        };
        for wrapping in [
            channel(false),
            channel(true),
            indication("192.0.2.1:9"),
            indication("[2001:db8::1]:9"),
        ] {
            for length in [0, 1, 3, 4, 1201, WRAPPED_BYTES_MAX] {
                let mut out = vec![9];
                wrapping.write(&vec![7; length], &mut out);
                assert_eq!(out.len() - 1, wrapping.length(length), "{wrapping:?} {length}");
            }
        }
    }

    #[test]
    fn channel_data_survives_both_ways() {
        for padded in [false, true] {
            let wrapping = Wrapping::Channel {
                number: 0x4001,
                is_padded: padded,
            };
            let mut bytes = Vec::new();
            wrapping.write(b"abcde", &mut bytes);
            assert_eq!(bytes.len(), if padded { 12 } else { 9 });
            assert_eq!(channel_data(&bytes), Some((0x4001, &b"abcde"[..])));
        }
        assert_eq!(channel_data(&[0x40, 0, 0, 5, 1]), None);
        assert_eq!(channel_data(&[0x50, 0, 0, 0]), None);
    }
}
