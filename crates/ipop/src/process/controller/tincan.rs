//! The connection to tincan: made again whenever it is lost.

use std::path::PathBuf;
use std::time::Duration;

use api::link::{API_VERSION, Event, LinkCall, TincanInfo};
use api::rpc::{ApiError, Empty, ErrorKind, LINE_BYTES_MAX, Message};
use controller::CallId;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Wake;
use crate::state::StateDir;

/// tincan is our neighbour and starts in milliseconds: look often, so that links come back soon after a crash.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Calls that may wait while tincan is away or slow.
const CALLS_WAITING: usize = 1024;
/// Ids of the two calls made here; the machine's are numbers.
const HELLO: &str = "hello";
const SUBSCRIBE: &str = "subscribe";

/// What comes from there.
pub(super) enum FromTincan {
    Up(TincanInfo),
    Down(String),
    Reply(CallId, Result<Value, ApiError>),
    Event(Event),
}

/// Our end.
pub(super) struct Connection {
    calls: mpsc::Sender<Vec<u8>>,
    wakes: mpsc::Sender<Wake>,
}

impl Connection {
    /// Looks for tincan from now on.
    pub(super) fn start(state: &StateDir, wakes: mpsc::Sender<Wake>) -> Self {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING);
        tokio::task::spawn_local(stay_connected(state.tincan_socket(), waiting, wakes.clone()));
        Self { calls, wakes }
    }

    /// Asks tincan; a call that cannot leave fails like one that tincan refused.
    pub(super) fn call(&self, id: CallId, call: &LinkCall) {
        let line = request(json!(id.0), call);
        if self.calls.try_send(line).is_err() {
            let error = ApiError::new(ErrorKind::Unreachable, "tincan does not take calls: see its log");
            let wakes = self.wakes.clone();
            tokio::task::spawn_local(async move {
                let _ = wakes.send(Wake::Tincan(FromTincan::Reply(id, Err(error)))).await;
            });
        }
    }
}

fn request(id: Value, call: &LinkCall) -> Vec<u8> {
    Message::Request {
        id: Some(id),
        method: call.method().into(),
        params: call.params(),
    }
    .to_line()
}

async fn stay_connected(path: PathBuf, mut calls: mpsc::Receiver<Vec<u8>>, wakes: mpsc::Sender<Wake>) {
    let mut told = false;
    loop {
        let reason = match UnixStream::connect(&path).await {
            Ok(stream) => {
                // What was asked of a tincan that is gone means nothing to the next one.
                while calls.try_recv().is_ok() {}
                told = false;
                converse(stream, &mut calls, &wakes).await
            }
            Err(error) => format!("tincan is not running ({error})"),
        };
        if !told {
            told = true;
            if wakes.send(Wake::Tincan(FromTincan::Down(reason))).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Talks until the connection ends; tells why it did.
async fn converse(stream: UnixStream, calls: &mut mpsc::Receiver<Vec<u8>>, wakes: &mpsc::Sender<Wake>) -> String {
    let (reader, mut writer) = stream.into_split();
    let hello = [
        request(json!(HELLO), &LinkCall::Info(Empty {})),
        request(json!(SUBSCRIBE), &LinkCall::Subscribe(Empty {})),
    ];
    if writer.write_all(&hello.concat()).await.is_err() {
        return "tincan hung up at once".into();
    }
    let reading = listen(BufReader::new(reader), wakes);
    let writing = async {
        while let Some(line) = calls.recv().await {
            if writer.write_all(&line).await.is_err() {
                break;
            }
        }
        // Reading notices the end and tells why.
        std::future::pending::<String>().await
    };
    tokio::select! {
        reason = reading => reason,
        reason = writing => reason,
    }
}

async fn listen(mut reader: BufReader<tokio::net::unix::OwnedReadHalf>, wakes: &mpsc::Sender<Wake>) -> String {
    let mut line = Vec::new();
    loop {
        line.clear();
        // tincan's answers may be long: it is trusted with more than a caller is.
        match (&mut reader)
            .take(4 * LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line)
            .await
        {
            Err(_) | Ok(0) => return "tincan ended".into(),
            Ok(_) => {}
        }
        match understand(&line) {
            Ok(Some(news)) => {
                if wakes.send(Wake::Tincan(news)).await.is_err() {
                    return "the controller ends".into();
                }
            }
            Ok(None) => {}
            Err(reason) => return reason,
        }
    }
}

fn understand(line: &[u8]) -> Result<Option<FromTincan>, String> {
    match Message::parse(line).map_err(|error| format!("tincan speaks nonsense: {error}"))? {
        Message::Request {
            id: None,
            method,
            params,
        } if method == "event" => {
            // An event of a newer tincan is not for us.
            Ok(serde_json::from_value(params).ok().map(FromTincan::Event))
        }
        Message::Request { method, .. } => Err(format!("tincan asks for {method}, which is not its place")),
        Message::Answer { id, result } if id == HELLO => greet(result).map(Some),
        Message::Answer { id, result } => Ok(id.as_u64().map(|id| FromTincan::Reply(CallId(id), result))),
    }
}

fn greet(result: Result<Value, ApiError>) -> Result<FromTincan, String> {
    let value = result.map_err(|error| format!("tincan refuses us: {error}"))?;
    let info: TincanInfo = serde_json::from_value(value).map_err(|error| format!("tincan speaks nonsense: {error}"))?;
    if info.api == API_VERSION {
        Ok(FromTincan::Up(info))
    } else {
        Err(format!(
            "tincan speaks version {} of the link API, this controller {API_VERSION}: use one release",
            info.api
        ))
    }
}
