//! The byte stream to a TURN server: TLS if wanted, and cutting the bytes into STUN messages and channel data.
//!
//! Promises: whatever the server sends, at most one message is buffered; bytes that cannot be TURN end the stream.
//! Refuses to know: what the messages mean.
//!
//! Not `turn-client-rustls`: its `recv` hands rustls a whole read but calls `read_tls` once, which takes 4 KiB, and
//! takes 2 KiB of plaintext a call; it also hides error codes, from which the sentence about a wrong password comes.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

/// Cuts a byte stream into TURN messages (RFC 8656 section 12.5: channel data is padded to four bytes on streams).
#[derive(Debug, Default)]
pub(crate) struct Framer {
    buffer: Vec<u8>,
}

/// The bytes are neither STUN nor channel data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotTurn;

impl Framer {
    /// Takes bytes and gives the messages that are complete now, without padding.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, NotTurn> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut used = 0;
        while let Some((length, padded)) = message_length(&self.buffer[used..])? {
            let Some(message) = self.buffer.get(used..used + padded) else {
                break;
            };
            messages.push(message[..length].to_vec());
            used += padded;
        }
        self.buffer.drain(..used);
        Ok(messages)
    }
}

/// Length of the message at the front, without and with padding; `None` when its header is not complete.
fn message_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, NotTurn> {
    let Some(&[first, _, high, low]) = bytes.first_chunk::<4>() else {
        return match bytes.first() {
            Some(first) if first >> 6 > 1 => Err(NotTurn),
            _ => Ok(None),
        };
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match first >> 6 {
        0 if length % 4 == 0 => Ok(Some((20 + length, 20 + length))),
        1 => Ok(Some((4 + length, 4 + length.next_multiple_of(4)))),
        _ => Err(NotTurn),
    }
}

/// A stream that is connected, in clear or in TLS.
pub(crate) struct Stream {
    tls: Option<Box<ClientConnection>>,
    framer: Framer,
}

impl Stream {
    pub(crate) fn clear() -> Self {
        Stream {
            tls: None,
            framer: Framer::default(),
        }
    }

    pub(crate) fn tls(config: ClientConfig, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let connection = ClientConnection::new(Arc::new(config), name)?;
        Ok(Stream {
            tls: Some(Box::new(connection)),
            framer: Framer::default(),
        })
    }

    /// Takes bytes off the wire and gives complete TURN messages.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let messages = match &mut self.tls {
            None => self.framer.push(bytes),
            Some(tls) => {
                let clear = decrypt(tls, bytes).map_err(|error| format!("TLS failed: {error}"))?;
                self.framer.push(&clear)
            }
        };
        messages.map_err(|NotTurn| "it does not speak TURN on this port".to_owned())
    }

    /// Turns a TURN message into bytes for the wire; channel data gets its padding.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<Vec<u8>, String> {
        let padding = &[0u8; 3][..message.len().next_multiple_of(4) - message.len()];
        let Some(tls) = &mut self.tls else {
            return Ok([message, padding].concat());
        };
        // Before the handshake is over rustls buffers this, up to its default limit of 64 KiB.
        let written = tls
            .writer()
            .write_all(message)
            .and_then(|()| tls.writer().write_all(padding));
        written.map_err(|error| format!("TLS failed: {error}"))?;
        Ok(self.flush())
    }

    /// Bytes that TLS itself wants on the wire.
    pub(crate) fn flush(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() && tls.write_tls(&mut out).is_ok() {}
        }
        out
    }
}

fn decrypt(tls: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut clear = Vec::new();
    while !bytes.is_empty() {
        let taken = tls.read_tls(&mut bytes).map_err(|error| error.to_string())?;
        let state = tls.process_new_packets().map_err(|error| error.to_string())?;
        let start = clear.len();
        clear.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader()
            .read_exact(&mut clear[start..])
            .map_err(|error| error.to_string())?;
        if taken == 0 {
            break;
        }
    }
    Ok(clear)
}

/// Any bytes through the framer, in pieces: for fuzzing.
pub fn fuzz_framer(bytes: &[u8]) {
    let mut framer = Framer::default();
    for piece in bytes.chunks(7) {
        if framer.push(piece).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_out_whole_however_the_stream_is_cut() {
        let stun: Vec<u8> = [&[0, 1, 0, 4][..], &[7; 20]].concat();
        let channel = [0x40, 1, 0, 5, 1, 2, 3, 4, 5];
        let wire = [&stun[..], &channel, &[0; 3], &stun].concat();
        for cut in 1..wire.len() {
            let mut framer = Framer::default();
            let mut got = Vec::new();
            for piece in wire.chunks(cut) {
                got.extend(framer.push(piece).unwrap());
            }
            assert_eq!(got, [stun.clone(), channel.to_vec(), stun.clone()]);
        }
        assert_eq!(Framer::default().push(b"HTTP/1.1 400"), Ok(vec![]));
        assert_eq!(Framer::default().push(&[0x80]), Err(NotTurn));
        assert_eq!(Framer::default().push(&[0, 1, 0, 3]), Err(NotTurn));
    }

    proptest! {
        #[test]
        fn any_bytes_are_framed_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_framer(&bytes);
        }
    }
}
