//! One stream's bytes: reading elements, writing text, always within time and size.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::limits;
use super::xml::{Element, Incoming, Reader, XmlError};

/// What a stream runs over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Why a stream is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer closed it, properly or not.
    ByPeer,
    /// What it sent cannot be read.
    Xml(XmlError),
    /// We end it for this condition (RFC 6120 section 4.9.3).
    Condition(&'static str),
    /// The socket broke or stood still.
    Io,
}

impl From<XmlError> for Ended {
    fn from(error: XmlError) -> Self {
        Ended::Xml(error)
    }
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Ended::Io
    }
}

/// Reader and writer of one stream.
pub(super) struct Link {
    wire: Box<dyn Wire>,
    reader: Reader,
    input: Vec<u8>,
    /// How much of `input` was read already.
    used: usize,
}

impl Link {
    /// `input`: what was read from the wire before.
    pub(super) fn new(wire: Box<dyn Wire>, input: Vec<u8>, bytes_max: usize) -> Self {
        Link {
            wire,
            reader: Reader::new(bytes_max),
            input,
            used: 0,
        }
    }

    /// A new stream begins on the same wire (RFC 6120 section 4.3.3).
    pub(super) fn restart(&mut self, bytes_max: usize) {
        self.reader = Reader::new(bytes_max);
    }

    /// The next element that is here already.
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, Ended> {
        let mut rest = &self.input[self.used..];
        let found = self.reader.next(&mut rest);
        self.used = self.input.len() - rest.len();
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
        Ok(found?)
    }

    /// Reads more bytes. Safe to cancel.
    pub(super) async fn fill(&mut self) -> Result<(), Ended> {
        self.input.drain(..self.used);
        self.used = 0;
        self.input.reserve(limits::READ_BYTES);
        match (&mut self.wire)
            .take(limits::READ_BYTES as u64)
            .read_buf(&mut self.input)
            .await?
        {
            0 => Err(Ended::ByPeer),
            _ => Ok(()),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, Ended> {
        loop {
            if let Some(incoming) = self.buffered()? {
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    /// The next stanza; a header or the end of the stream is no stanza.
    pub(super) async fn next_stanza(&mut self) -> Result<Element, Ended> {
        match self.next().await? {
            Incoming::Stanza(stanza) => Ok(stanza),
            Incoming::Close => Err(Ended::ByPeer),
            Incoming::Open(_) => Err(Ended::Condition("bad-format")),
        }
    }

    pub(super) async fn send(&mut self, element: &Element) -> Result<(), Ended> {
        self.write(&element.to_text()).await
    }

    pub(super) async fn write(&mut self, text: &str) -> Result<(), Ended> {
        let written = timeout(limits::WRITE_TIME, async {
            self.wire.write_all(text.as_bytes()).await?;
            self.wire.flush().await
        });
        written.await.map_err(|_| Ended::Io)?.map_err(Ended::from)
    }

    /// Says why, if there is anything to say, and closes.
    pub(super) async fn close(mut self, ended: &Ended) {
        let condition = match ended {
            Ended::ByPeer => None,
            Ended::Io => return,
            Ended::Xml(XmlError::NotWellFormed) => Some("not-well-formed"),
            Ended::Xml(XmlError::TooLarge) => Some("policy-violation"),
            Ended::Xml(XmlError::NotXmpp) => Some("bad-format"),
            Ended::Condition(condition) => Some(*condition),
        };
        let reason = condition.map(|condition| {
            format!("<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
        });
        let last = format!("{}</stream:stream>", reason.unwrap_or_default());
        if self.write(&last).await.is_ok() {
            let _ = timeout(limits::WRITE_TIME, self.wire.shutdown()).await;
        }
    }

    /// Takes the wire back, for TLS. Bytes that came too early would be taken for encrypted ones: the
    /// classic injection before STARTTLS, so they end the connection.
    pub(super) fn into_wire(self) -> Result<Box<dyn Wire>, Ended> {
        match self.used == self.input.len() {
            true => Ok(self.wire),
            false => Err(Ended::Condition("policy-violation")),
        }
    }
}
