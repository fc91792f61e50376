//! The control API's door: a Unix socket for root and the owner, one JSON-RPC object a line.

use std::collections::BTreeMap;

use anyhow::Context;
use api::control::ControlCall;
use api::rpc::{ApiError, ErrorKind, LINE_BYTES_MAX, Message};
use controller::RequestId;
use os::PrivateListener;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Wake, answer_line};
use crate::state::StateDir;

/// Connections at a time.
const CALLERS_MAX: usize = 32;
/// Answers that may wait for a caller to read them.
const ANSWERS_WAITING: usize = 64;
/// Requests under way at a time.
const REQUESTS_MAX: usize = 256;

/// One connection's way back.
pub(super) type Caller = mpsc::Sender<Vec<u8>>;

pub(super) struct Door {
    asked: BTreeMap<RequestId, (Caller, Value)>,
    next: u64,
    _file: PrivateListener,
}

impl Door {
    /// Listens from now on.
    pub(super) fn open(state: &StateDir, wakes: mpsc::Sender<Wake>) -> anyhow::Result<Self> {
        let file = PrivateListener::bind(&state.control_socket(), None)?;
        let listener = file
            .to_std()
            .and_then(UnixListener::from_std)
            .context("cannot listen on the control socket")?;
        tokio::task::spawn_local(accept(listener, wakes));
        Ok(Self {
            asked: BTreeMap::new(),
            next: 0,
            _file: file,
        })
    }

    /// Gives a request a name under which it is answered later.
    pub(super) fn remember(&mut self, caller: Caller, id: Value) -> RequestId {
        self.asked.retain(|_, (caller, _)| !caller.is_closed());
        self.next += 1;
        let request = RequestId(self.next);
        if self.asked.len() >= REQUESTS_MAX {
            let text = "too many requests are under way: wait for some to end";
            self.answer_caller(caller, id, Err(ApiError::new(ErrorKind::Limit, text)));
        } else {
            self.asked.insert(request, (caller, id));
        }
        request
    }

    /// Answers a request, once.
    pub(super) fn answer(&mut self, request: RequestId, result: Result<Value, ApiError>) {
        if let Some((caller, id)) = self.asked.remove(&request) {
            self.answer_caller(caller, id, result);
        }
    }

    /// Answers at once; a caller that does not read loses the answer.
    pub(super) fn answer_caller(&self, caller: Caller, id: Value, result: Result<Value, ApiError>) {
        let _ = caller.try_send(answer_line(id, result));
    }
}

async fn accept(listener: UnixListener, wakes: mpsc::Sender<Wake>) {
    let room = std::rc::Rc::new(());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: links go on, new callers wait.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let allowed = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == os::own_identity().uid);
        if allowed && std::rc::Rc::strong_count(&room) <= CALLERS_MAX {
            tokio::task::spawn_local(attend(stream, wakes.clone(), room.clone()));
        }
    }
}

async fn attend(stream: UnixStream, wakes: mpsc::Sender<Wake>, _place: std::rc::Rc<()>) {
    let (reader, writer) = stream.into_split();
    let (caller, answers) = mpsc::channel(ANSWERS_WAITING);
    let writing = tokio::task::spawn_local(write_all(writer, answers));
    read_all(reader, caller, wakes).await;
    let _ = writing.await;
}

async fn read_all(reader: OwnedReadHalf, caller: Caller, wakes: mpsc::Sender<Wake>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line)
            .await;
        let asked = match read {
            Err(_) | Ok(0) => return,
            Ok(_) if line.last() != Some(&b'\n') && line.len() == LINE_BYTES_MAX => {
                let text = format!("a line has at most {LINE_BYTES_MAX} bytes");
                let _ = caller.try_send(answer_line(Value::Null, Err(ApiError::new(ErrorKind::Limit, text))));
                return;
            }
            Ok(_) => parse(&line),
        };
        if wakes.send(Wake::Control(caller.clone(), asked)).await.is_err() {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Result<(Value, ControlCall), (Value, ApiError)> {
    match Message::parse(line) {
        Ok(Message::Request { id, method, params }) => {
            let id = id.unwrap_or(Value::Null);
            ControlCall::parse(&method, params)
                .map(|call| (id.clone(), call))
                .map_err(|error| (id, error))
        }
        Ok(Message::Answer { id, .. }) => Err((
            id,
            ApiError::new(
                ErrorKind::InvalidRequest,
                "nothing was asked of you: send requests only",
            ),
        )),
        Err(error) => Err((Value::Null, error)),
    }
}

async fn write_all(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = answers.recv().await {
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}
