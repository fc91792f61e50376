//! One XML stream over one connection: text out, stanzas in.
//!
//! Promises: everything a method keeps across an await lives in the stream, so its futures may be dropped at any
//! point; no read waits for a write. Refuses to know what a stanza means, except a stream error.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::limits;
use crate::xml::{Element, Incoming, NS_STREAM, Reader, XmlError};

const NS_STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";

/// Why a stream is of no more use.
#[derive(Debug)]
pub(super) enum Broken {
    /// End of the stream or of the connection.
    Closed,
    /// The connection broke.
    Io(io::Error),
    /// The server spoke nonsense.
    Xml(XmlError),
    /// The server's stream error: its condition, plain text.
    Refused(String),
}

/// A stream.
pub(super) struct Stream<S> {
    io: S,
    reader: Reader,
    chunk: Box<[u8]>,
    unread: std::ops::Range<usize>,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    heard: watch::Sender<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Over a connection that was made just now; `heard` is told whenever the server said something.
    pub(super) fn new(io: S, heard: watch::Sender<Instant>) -> Self {
        heard.send_replace(Instant::now());
        Stream {
            io,
            heard,
            reader: Reader::new(limits::STANZA_BYTES_STRANGER),
            chunk: vec![0; limits::READ_BYTES].into_boxed_slice(),
            unread: 0..0,
            out: Vec::new(),
            written: 0,
            unflushed: false,
        }
    }

    /// Adds to what is sent next.
    pub(super) fn queue(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Adds the header of a stream to `domain`, and expects a new one from the server.
    pub(super) fn open(&mut self, domain: &str, bytes_max: usize) {
        self.reader = Reader::new(bytes_max);
        self.queue(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' version='1.0' xml:lang='en' to='{domain}'>"
        ));
    }

    /// When the server last said something.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.borrow()
    }

    /// Bytes that the socket has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// The next part of the stream; sends meanwhile.
    pub(super) async fn next(&mut self) -> Result<Incoming, Broken> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`], but only sends while `read` is false.
    pub(super) async fn next_if(&mut self, read: bool) -> Result<Incoming, Broken> {
        poll_fn(|cx| match read {
            true => self.poll_next(cx),
            false => match self.poll_out(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Io(error))),
                _ => Poll::Pending,
            },
        })
        .await
    }

    /// The next stanza where nothing but a stanza may come.
    pub(super) async fn stanza(&mut self) -> Result<Element, Broken> {
        match self.next().await? {
            Incoming::Stanza(stanza) => Ok(stanza),
            Incoming::Open(_) => Err(Broken::Xml(XmlError::NotXmpp)),
            Incoming::Close => Err(Broken::Closed),
        }
    }

    /// The stream's header and its features.
    pub(super) async fn features(&mut self) -> Result<Element, Broken> {
        let Incoming::Open(_) = self.next().await? else {
            return Err(Broken::Xml(XmlError::NotXmpp));
        };
        let features = self.stanza().await?;
        match features.is("features", NS_STREAM) {
            true => Ok(features),
            false => Err(Broken::Xml(XmlError::NotXmpp)),
        }
    }

    /// Sends all that waits.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_out(cx)).await.map_err(Broken::Io)
    }

    /// The connection; refused while bytes of the server wait (RFC 6120 section 5.4.3.3: injection before TLS).
    pub(super) fn into_inner(self) -> Option<S> {
        self.unread.is_empty().then_some(self.io)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Broken>> {
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            // The server's last words may explain it.
            tracing::debug!(%error, "cannot write");
        }
        loop {
            let mut input = &self.chunk[self.unread.clone()];
            let incoming = self.reader.next(&mut input);
            self.unread.start = self.unread.end - input.len();
            match incoming {
                Err(error) => return Poll::Ready(Err(Broken::Xml(error))),
                Ok(Some(incoming)) => return Poll::Ready(refusal(incoming)),
                Ok(None) => {}
            }
            let mut buffer = ReadBuf::new(&mut self.chunk);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer));
            let filled = buffer.filled().len();
            match read {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Err(Broken::Closed)),
                Err(error) => return Poll::Ready(Err(Broken::Io(error))),
                Ok(()) if filled == 0 => return Poll::Ready(Err(Broken::Closed)),
                Ok(()) => self.unread = 0..filled,
            }
            self.heard.send_replace(Instant::now());
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
            self.unflushed = true;
        }
        // One long blob must not cost its memory for ever.
        self.out = Vec::new();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn refusal(incoming: Incoming) -> Result<Incoming, Broken> {
    match incoming {
        Incoming::Stanza(stanza) if stanza.is("error", NS_STREAM) => {
            Err(Broken::Refused(condition_of(&stanza, NS_STREAM_ERRORS)))
        }
        other => Ok(other),
    }
}

/// The condition element of an error, fit for people: its name is a name, so it holds no text of the server's choice
/// beyond 64 characters.
pub(super) fn condition_of(error: &Element, ns: &str) -> String {
    let condition = error.elements().find(|e| e.ns() == ns && e.name() != "text");
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    condition.map_or_else(
        || "no reason given".into(),
        |e| e.name().chars().filter(plain).take(64).collect(),
    )
}
