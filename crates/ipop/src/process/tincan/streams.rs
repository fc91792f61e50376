//! TCP streams to TURN servers, two threads each: one connects and reads, one writes.
//!
//! Promises: the engine never waits for a stream; a stream that takes no more bytes is cut.
//! Refuses to know: TLS and TURN.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tincan::turn::{StreamId, StreamInput};

use super::Wake;

const CONNECT_WITHIN: Duration = Duration::from_secs(4);
const READ_BYTES: usize = 16 << 10;
/// Writes that may wait: at 1400 bytes each about 700 KB, half a second at 10 Mbit/s.
const WRITES_WAITING: usize = 512;
const STACK_BYTES: usize = 128 << 10;

/// What a stream's reader tells the engine.
#[derive(Debug)]
pub(crate) enum FromStream {
    Connected(SocketAddr, TcpStream),
    Data(Vec<u8>),
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
}

impl Streams {
    pub(crate) fn new(wakes: SyncSender<Wake>) -> Self {
        Self { open: BTreeMap::new(), wakes }
    }

    /// Connects in the background.
    pub(crate) fn connect(&mut self, id: StreamId, remote: SocketAddr) {
        let wakes = self.wakes.clone();
        self.open.insert(id, None);
        let read = move || {
            let tell = |what| wakes.send(Wake::Stream(id, what)).is_ok();
            let _ = read_until_end(remote, tell);
            tell(FromStream::Closed);
        };
        if std::thread::Builder::new().name("turn-tcp".into()).stack_size(STACK_BYTES).spawn(read).is_err() {
            let _ = self.wakes.try_send(Wake::Stream(id, FromStream::Closed));
        }
    }

    /// Takes a report in and says what the machine should hear of it; nothing about streams it closed itself.
    pub(crate) fn take<'a>(&mut self, id: StreamId, report: &'a FromStream) -> Option<StreamInput<'a>> {
        let entry = self.open.get_mut(&id)?;
        match report {
            FromStream::Connected(local, socket) => {
                *entry = start_writer(socket);
                Some(StreamInput::Connected { local: *local })
            }
            FromStream::Data(bytes) => Some(StreamInput::Data(bytes)),
            FromStream::Closed => {
                self.open.remove(&id);
                Some(StreamInput::Closed)
            }
        }
    }

    /// Queues bytes; a stream that does not keep up is cut and reports its end.
    pub(crate) fn send(&mut self, id: StreamId, bytes: Vec<u8>) {
        let Some(Some(writer)) = self.open.get(&id) else { return };
        match writer.queue.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => shut(&writer.socket),
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
    let mut alive = tell(FromStream::Connected(socket.local_addr()?, socket.try_clone()?));
    let mut buffer = vec![0; READ_BYTES];
    while alive {
        match socket.read(&mut buffer)? {
            0 => break,
            read => alive = tell(FromStream::Data(buffer[..read].to_vec())),
        }
    }
    Ok(())
}

fn start_writer(socket: &TcpStream) -> Option<Writer> {
    let (queue, waiting): (_, Receiver<Vec<u8>>) = sync_channel(WRITES_WAITING);
    let mut out = socket.try_clone().ok()?;
    let write = move || {
        for bytes in waiting {
            if out.write_all(&bytes).is_err() {
                shut(&out);
                return;
            }
        }
    };
    std::thread::Builder::new().name("turn-tcp-out".into()).stack_size(STACK_BYTES).spawn(write).ok()?;
    Some(Writer { socket: socket.try_clone().ok()?, queue })
}
