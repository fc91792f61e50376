//! A blocking client of the two APIs, for the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use api::control::ControlCall;
use api::rpc::{LINE_BYTES_MAX, Message};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::state::StateDir;

/// A connection to a controller.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
}

/// Why there is no connection: nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("IPOP is not running here (nobody listens on {0}): start it with `ipop up`")]
pub(crate) struct NotRunning(String);

impl Client {
    /// Connects to the controller of a state directory.
    pub(crate) fn connect(state: &StateDir) -> anyhow::Result<Self> {
        let path = state.control_socket();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self {
                reader: BufReader::new(stream),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(e).context(denied(&path)),
            Err(_) => Err(NotRunning(path.display().to_string()).into()),
        }
    }

    /// Asks and waits for the answer.
    pub(crate) fn call<T: DeserializeOwned>(&mut self, call: &ControlCall, patience: Duration) -> anyhow::Result<T> {
        let request = Message::Request {
            id: Some(json!(1)),
            method: call.method().into(),
            params: call.params(),
        };
        let stream = self.reader.get_mut();
        stream
            .set_read_timeout(Some(patience))
            .context("cannot set a time limit on the control socket")?;
        stream
            .write_all(&request.to_line())
            .context("the controller hung up: see `ipop status`")?;
        loop {
            if let Message::Answer { result, .. } = self.line()? {
                let value = result.map_err(|error| anyhow!(error))?;
                return serde_json::from_value(value).context("the controller is of another version: restart it");
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<Message> {
        let mut line = Vec::new();
        let read = self
            .reader
            .by_ref()
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => bail!("the controller hung up before it answered: see its log"),
            Ok(_) => Ok(Message::parse(&line)?),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                bail!("the controller did not answer in time")
            }
            Err(e) => Err(e).context("the controller hung up"),
        }
    }
}

fn denied(path: &Path) -> String {
    format!(
        "no right to use {}: run as root or as the user who runs IPOP",
        path.display()
    )
}
