//! The link API's door: a Unix socket, one JSON-RPC object a line.
//!
//! Promises: only root and the owner of the controller are let in; a client that does not read, or writes a line too long, is cut.
//! Refuses to know: what the calls do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::SyncSender;

use anyhow::Context;
use api::rpc::{ApiError, ErrorKind, LINE_BYTES_MAX, Message};
use os::{Owner, PrivateListener};

use super::Wake;

/// Connections at a time; a controller needs one, a person looking another.
const CLIENTS_MAX: usize = 16;
/// Bytes that may wait for a client to read them; two of the largest answers.
const BACKLOG_BYTES: usize = 2 * LINE_BYTES_MAX;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(u64);

/// What a client's reader tells the engine.
#[derive(Debug)]
pub(crate) enum FromClient {
    Opened(UnixStream),
    Line(Result<Message, ApiError>),
    Closed,
}

/// Listens until the process ends; each connection has a thread that reads it.
pub(crate) fn listen(path: &Path, owner: Owner, wakes: SyncSender<Wake>) -> anyhow::Result<()> {
    let listener = PrivateListener::bind(path, Some(owner))?;
    let accept = move || {
        for id in 0.. {
            let Ok((stream, peer)) = listener.accept() else { return };
            if ![0, owner.uid, os::own_identity().uid].contains(&peer.uid) {
                tracing::warn!(uid = peer.uid, "a user without the right to it tried the link API");
                continue;
            }
            let _ = start_reader(ClientId(id), stream, wakes.clone());
        }
    };
    std::thread::Builder::new()
        .name("api".into())
        .stack_size(128 << 10)
        .spawn(accept)
        .context("cannot start a thread")?;
    Ok(())
}

fn start_reader(id: ClientId, stream: UnixStream, wakes: SyncSender<Wake>) -> anyhow::Result<()> {
    let writer = stream.try_clone().context("cannot clone a socket")?;
    let read = move || {
        let tell = |what| wakes.send(Wake::Client(id, what)).is_ok();
        let mut reader = BufReader::new(stream);
        let mut alive = tell(FromClient::Opened(writer));
        while alive {
            alive = match next_line(&mut reader) {
                Some(line) => tell(FromClient::Line(line)),
                None => break,
            };
        }
        tell(FromClient::Closed);
    };
    std::thread::Builder::new()
        .name("api-client".into())
        .stack_size(256 << 10)
        .spawn(read)
        .context("cannot start a thread")?;
    Ok(())
}

fn next_line(reader: &mut impl BufRead) -> Option<Result<Message, ApiError>> {
    let mut line = Vec::new();
    let read = reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).ok()?;
    match read {
        0 => None,
        LINE_BYTES_MAX if line.last() != Some(&b'\n') => Some(Err(ApiError::new(
            ErrorKind::Limit,
            format!("a line has at most {LINE_BYTES_MAX} bytes"),
        ))),
        _ => Some(Message::parse(&line)),
    }
}

/// The writing ends of all connections, owned by the engine.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: BTreeMap<ClientId, Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    backlog: Vec<u8>,
    subscribed: bool,
}

impl Clients {
    /// Takes a new connection in, or cuts it when there are too many.
    pub(crate) fn open(&mut self, id: ClientId, stream: UnixStream) {
        if self.open.len() >= CLIENTS_MAX || stream.set_nonblocking(false).is_err() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        self.open.insert(
            id,
            Client {
                stream,
                backlog: Vec::new(),
                subscribed: false,
            },
        );
    }

    /// Forgets a connection.
    pub(crate) fn close(&mut self, id: ClientId) {
        if let Some(client) = self.open.remove(&id) {
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// From now on events go there.
    pub(crate) fn subscribe(&mut self, id: ClientId) {
        if let Some(client) = self.open.get_mut(&id) {
            client.subscribed = true;
        }
    }

    /// Says something to one client.
    pub(crate) fn send(&mut self, id: ClientId, message: &Message) {
        self.write(id, &message.to_line());
    }

    /// Tells all subscribers.
    pub(crate) fn publish(&mut self, message: &Message) {
        let subscribers: Vec<ClientId> = self
            .open
            .iter()
            .filter(|(_, client)| client.subscribed)
            .map(|(id, _)| *id)
            .collect();
        let line = message.to_line();
        for id in subscribers {
            self.write(id, &line);
        }
    }

    /// Tries again to write what clients have not taken yet; whether anything still waits.
    pub(crate) fn flush(&mut self) -> bool {
        let waiting: Vec<ClientId> = self
            .open
            .iter()
            .filter(|(_, c)| !c.backlog.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.write(id, &[]);
        }
        self.open.values().any(|client| !client.backlog.is_empty())
    }

    fn write(&mut self, id: ClientId, line: &[u8]) {
        let Some(client) = self.open.get_mut(&id) else { return };
        client.backlog.extend_from_slice(line);
        if client.drain().is_err() || client.backlog.len() > BACKLOG_BYTES {
            tracing::warn!("a client of the link API does not read its answers: cut");
            self.close(id);
        }
    }
}

impl Client {
    /// Writes what the socket takes now; never waits, as frames must not wait for a controller.
    fn drain(&mut self) -> std::io::Result<()> {
        while !self.backlog.is_empty() {
            match os::send_now(&self.stream, &self.backlog) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.stream.flush()
    }
}
