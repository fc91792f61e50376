//! The two one-way streams of a handshake: Hello first, then control messages.

use std::collections::VecDeque;

use quinn_proto::{Connection, Dir, ReadError, StreamId};

use super::message::{Deframer, Hello, Kind, MessageFault, frame};
use super::{Handshake, HandshakeEvent, MESSAGE_COST, Phase};
use crate::gauge::Gauges;
use crate::limits;
use crate::session::Role;

/// The stream to the peer.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) stream: Option<StreamId>,
    pub(super) hello_queued: bool,
    /// Hello and Ready.
    pub(super) own: VecDeque<u8>,
    /// Messages of the layer above; they wait until the peer is proven.
    pub(super) messages: VecDeque<u8>,
}

/// The stream from the peer.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) stream: Option<StreamId>,
    pub(super) deframer: Deframer,
    pub(super) hello_seen: bool,
    /// Bytes of messages that the caller has not polled.
    pub(super) waiting: usize,
}

impl Handshake {
    pub(crate) fn gauges(&self, all: &mut Gauges) {
        all.add(
            "events of a handshake",
            self.events.len(),
            limits::MESSAGE_INBOX / MESSAGE_COST,
        );
        all.add(
            "message backlog",
            self.outgoing.messages.len(),
            limits::MESSAGE_BACKLOG + MESSAGE_COST,
        );
        all.add(
            "message inbox",
            self.incoming.waiting,
            limits::MESSAGE_INBOX + 2 * limits::MESSAGE_BYTES,
        );
    }

    /// Sends what may be sent by now.
    pub(super) fn write(&mut self) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        if self.phase == Phase::Closed {
            return;
        }
        if self.outgoing.stream.is_none() {
            self.outgoing.stream = connection.streams().open(Dir::Uni);
        }
        let Some(stream) = self.outgoing.stream else {
            return;
        };
        // The server's Hello may leave before the client is proven: there is nothing in it to hide from one who
        // holds the link secret. The client's tells the server that the client has keys.
        let hello_may_go = self.identity.role == Role::Server || self.phase >= Phase::Keyed;
        if hello_may_go && !self.outgoing.hello_queued {
            self.outgoing.hello_queued = true;
            let hello = self.own_hello.encode();
            // `Ready` may wait there already, but never before the Hello.
            let ready: Vec<u8> = self.outgoing.own.drain(..).collect();
            self.outgoing.own.extend(frame(Kind::Hello, &hello));
            self.outgoing.own.extend(ready);
        }
        write_queue(connection, stream, &mut self.outgoing.own);
        if self.outgoing.own.is_empty() && self.phase >= Phase::Keyed {
            write_queue(connection, stream, &mut self.outgoing.messages);
        }
    }

    /// Takes what came on the peer's stream, as far as the caller keeps up.
    pub(super) fn read(&mut self) {
        while self.connected && self.phase != Phase::Closed {
            if let Err(fault) = self.take_messages() {
                return self.misbehaved(&fault.to_string());
            }
            if self.incoming.waiting >= limits::MESSAGE_INBOX || self.phase == Phase::Closed {
                return;
            }
            match self.read_chunk() {
                Ok(true) => {}
                Ok(false) => return,
                Err(what) => return self.misbehaved(what),
            }
        }
    }

    /// Moves some of the stream's bytes to the deframer; false if there are none.
    fn read_chunk(&mut self) -> Result<bool, &'static str> {
        const CHUNK: usize = 16 * 1024;
        let Some((_, connection)) = &mut self.connection else {
            return Ok(false);
        };
        if self.incoming.stream.is_none() {
            self.incoming.stream = connection.streams().accept(Dir::Uni);
        }
        let Some(stream) = self.incoming.stream else {
            return Ok(false);
        };
        let mut stream = connection.recv_stream(stream);
        let mut chunks = stream.read(true).map_err(|_| "it ended the control stream")?;
        let chunk = chunks.next(CHUNK);
        // Whether to send a new window is found again by `poll_transmit`.
        let _ = chunks.finalize();
        match chunk {
            Ok(Some(chunk)) => {
                self.incoming.deframer.push(&chunk.bytes);
                Ok(true)
            }
            Err(ReadError::Blocked) => Ok(false),
            Ok(None) | Err(ReadError::Reset(_)) => Err("it ended the control stream"),
        }
    }

    fn take_messages(&mut self) -> Result<(), MessageFault> {
        while self.phase != Phase::Closed
            && let Some((kind, body)) = self.incoming.deframer.next_message()?
        {
            match (kind, self.incoming.hello_seen) {
                (Kind::Hello, false) => {
                    self.incoming.hello_seen = true;
                    let hello = Hello::parse(&body)?;
                    self.on_hello(&hello);
                }
                (Kind::Message, true) => {
                    self.incoming.waiting += body.len() + MESSAGE_COST;
                    self.events.push_back(HandshakeEvent::Message(body));
                }
                (Kind::Ready, true) if self.identity.role == Role::Client => self.become_ready(),
                (kind, _) => self.misbehaved(&format!("a {kind:?} out of order")),
            }
        }
        Ok(())
    }
}

fn write_queue(connection: &mut Connection, stream: StreamId, queue: &mut VecDeque<u8>) {
    while !queue.is_empty() {
        let (first, _) = queue.as_slices();
        // An error is a full window, or a stream that the peer stopped, of which an event tells.
        let Ok(written) = connection.send_stream(stream).write(first) else {
            return;
        };
        queue.drain(..written);
    }
}
