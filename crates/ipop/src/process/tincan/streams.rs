//! TCP streams to TURN servers, two threads each: one connects and reads, one writes.
//!
//! Promises: the engine never waits for a stream; it hears when a stream is behind and when it has caught up; a stream
//! that takes nothing at all is cut.
//! Refuses to know: TLS and TURN.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tincan::turn::{StreamId, StreamInput};

use super::Wake;

const CONNECT_WITHIN: Duration = Duration::from_secs(4);
const READ_BYTES: usize = 16 << 10;
/// Bytes that wait before the engine hears that the stream is behind: 20 ms at 50 Mbit/s, as a queue of our own only
/// adds delay to what the kernel's holds.
const BEHIND_BYTES: usize = 128 << 10;
/// Writes that may wait at all: a stream so far behind has stalled.
const WRITES_WAITING: usize = 1024;

/// What a stream's threads tell the engine.
#[derive(Debug)]
pub(crate) enum FromStream {
    Connected(TcpStream),
    Data(Vec<u8>),
    CaughtUp,
    Closed,
}

/// All streams, owned by the engine.
#[derive(Debug)]
pub(crate) struct Streams {
    open: BTreeMap<StreamId, Option<Writer>>,
    wakes: SyncSender<Wake>,
}

#[derive(Debug)]
struct Writer {
    socket: TcpStream,
    queue: SyncSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    is_behind: bool,
}

impl Streams {
    pub(crate) fn new(wakes: SyncSender<Wake>) -> Self {
        Self {
            open: BTreeMap::new(),
            wakes,
        }
    }

    /// Connects in the background.
    pub(crate) fn connect(&mut self, id: StreamId, remote: SocketAddr) {
        let wakes = self.wakes.clone();
        self.open.insert(id, None);
        let read = move || {
            let tell = |what| wakes.send(Wake::Stream(id, what)).is_ok();
            if let Err(error) = read_until_end(remote, tell) {
                tracing::debug!(%remote, %error, "a stream to a TURN server ended");
            }
            tell(FromStream::Closed);
        };
        if super::spawn("turn-tcp", read).is_err() {
            let _ = self.wakes.try_send(Wake::Stream(id, FromStream::Closed));
        }
    }

    /// Takes a report in and says what the machine should hear of it; nothing about streams it closed itself.
    pub(crate) fn take<'a>(&mut self, id: StreamId, report: &'a FromStream) -> Option<StreamInput<'a>> {
        let entry = self.open.get_mut(&id)?;
        match report {
            FromStream::Connected(socket) => match start_writer(id, socket, self.wakes.clone()) {
                Ok(writer) => {
                    *entry = Some(writer);
                    Some(StreamInput::Connected)
                }
                Err(error) => {
                    tracing::warn!("a stream to a TURN server cannot be written: {error:#}");
                    shut(socket);
                    None
                }
            },
            FromStream::Data(bytes) => Some(StreamInput::Data(bytes)),
            FromStream::CaughtUp => {
                entry.as_mut()?.is_behind = false;
                Some(StreamInput::Congested(false))
            }
            FromStream::Closed => {
                self.open.remove(&id);
                Some(StreamInput::Closed)
            }
        }
    }

    /// Queues bytes; true when the stream is behind from now on. One that has stalled is cut and reports its end.
    pub(crate) fn send(&mut self, id: StreamId, bytes: Vec<u8>) -> bool {
        let Some(Some(writer)) = self.open.get_mut(&id) else {
            return false;
        };
        let waiting = writer.waiting.fetch_add(bytes.len(), Ordering::AcqRel) + bytes.len();
        match writer.queue.try_send(bytes) {
            Ok(()) => waiting >= BEHIND_BYTES && !std::mem::replace(&mut writer.is_behind, true),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shut(&writer.socket);
                false
            }
        }
    }

    /// Ends a stream.
    pub(crate) fn close(&mut self, id: StreamId) {
        if let Some(Some(writer)) = self.open.remove(&id) {
            shut(&writer.socket);
        }
    }
}

fn shut(socket: &TcpStream) {
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

fn read_until_end(remote: SocketAddr, tell: impl Fn(FromStream) -> bool) -> std::io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&remote, CONNECT_WITHIN)?;
    socket.set_nodelay(true)?;
    let mut alive = tell(FromStream::Connected(socket.try_clone()?));
    let mut buffer = vec![0; READ_BYTES];
    while alive {
        match socket.read(&mut buffer)? {
            0 => break,
            read => alive = tell(FromStream::Data(buffer[..read].to_vec())),
        }
    }
    Ok(())
}

fn start_writer(id: StreamId, socket: &TcpStream, wakes: SyncSender<Wake>) -> anyhow::Result<Writer> {
    let (queue, queued): (_, Receiver<Vec<u8>>) = sync_channel(WRITES_WAITING);
    let (mut out, socket) = (socket.try_clone()?, socket.try_clone()?);
    let waiting = Arc::new(AtomicUsize::new(0));
    let left = waiting.clone();
    let write = move || {
        for bytes in queued {
            if out.write_all(&bytes).is_err() {
                return shut(&out);
            }
            let before = left.fetch_sub(bytes.len(), Ordering::AcqRel);
            let crossed = before >= BEHIND_BYTES / 2 && before - bytes.len() < BEHIND_BYTES / 2;
            if crossed && wakes.send(Wake::Stream(id, FromStream::CaughtUp)).is_err() {
                return;
            }
        }
    };
    super::spawn("turn-tcp-out", write)?;
    Ok(Writer {
        socket,
        queue,
        waiting,
        is_behind: false,
    })
}
