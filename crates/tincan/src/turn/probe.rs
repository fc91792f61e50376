//! Whether TURN servers serve us: an allocation at each, given back at once.
//!
//! Promises: an answer for every server within `ALLOCATE_WITHIN`; a server that the node's relays talk to from the same
//! socket is only asked, without a name, whether it is there: an allocation of ours would collide with theirs.
//! Refuses to know: whether anybody wants a relay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngCore;
use rand_chacha::ChaCha12Rng;

use super::client::{Client, ClientEvent, ClientTransmit, Ending};
use super::{RelayOutput, StreamId, StreamInput, StreamOutput, TlsTrust, TurnServer, TurnTransport, way_name};
use crate::ice::{TransactionId, plain, stun_transaction};

/// First retransmission of a nameless question; doubles: 250, 500 and 1000 ms.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(250);
const TRANSMISSIONS: u32 = 3;
/// The magic cookie of STUN (RFC 8489 section 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What came of one server.
pub(crate) type Outcome = Result<Duration, String>;

/// One server and how it is tried.
pub(crate) struct TurnProbe {
    pub(crate) server: TurnServer,
    try_: Try,
    began: Instant,
    rtt: Option<Duration>,
    outcome: Option<Outcome>,
}

enum Try {
    /// An allocation of our own.
    Allocation(Box<Client>),
    /// An Allocate request without a name: any answer says that TURN is there.
    Question {
        id: TransactionId,
        sent: u32,
        again_at: Instant,
    },
    /// Not tried.
    None,
}

impl TurnProbe {
    /// Allocates at a server; `stream` is for TCP and TLS.
    pub(crate) fn allocate(now: Instant, mut server: TurnServer, stream: StreamId) -> Self {
        server.address = plain(server.address);
        let stream = (server.transport != TurnTransport::Udp).then_some(stream);
        let client = Client::new(now, now, server.clone(), stream, false);
        Self::new(now, server, Try::Allocation(Box::new(client)))
    }

    /// Asks a server to which the node talks already.
    pub(crate) fn ask(now: Instant, mut server: TurnServer, rng: &mut ChaCha12Rng) -> Self {
        server.address = plain(server.address);
        let mut id = [0; 12];
        rng.fill_bytes(&mut id);
        let again_at = now;
        Self::new(now, server, Try::Question { id, sent: 0, again_at })
    }

    /// A server that cannot be tried, with the reason.
    pub(crate) fn refused(now: Instant, server: TurnServer, reason: String) -> Self {
        let mut probe = Self::new(now, server, Try::None);
        probe.outcome = Some(Err(reason));
        probe
    }

    fn new(began: Instant, server: TurnServer, try_: Try) -> Self {
        Self {
            server,
            try_,
            began,
            rtt: None,
            outcome: None,
        }
    }

    /// How the server is named in sentences.
    pub(crate) fn name(&self) -> String {
        format!("TURN server {} ({})", self.server.label, way_name(&self.server))
    }

    /// Round trip, or why it does not serve us; none while it is tried.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Takes a datagram from the shared socket. `false`: not ours.
    pub(crate) fn handle_udp(&mut self, now: Instant, remote: SocketAddr, bytes: &[u8]) -> bool {
        let is_mine = match &mut self.try_ {
            Try::Allocation(client) if client.owns(remote) => {
                client.take_message(now, bytes);
                true
            }
            Try::Question { id, .. } => self.server.address == remote && stun_transaction(bytes) == Some(*id),
            _ => false,
        };
        if is_mine {
            self.note_answer(now);
            if matches!(self.try_, Try::Question { .. }) {
                self.outcome
                    .get_or_insert(Ok(now.saturating_duration_since(self.began)));
            }
        }
        is_mine
    }

    /// Takes what happened to a stream. `false`: not ours.
    pub(crate) fn handle_stream(
        &mut self,
        now: Instant,
        stream: StreamId,
        input: &StreamInput<'_>,
        trust: &TlsTrust,
    ) -> bool {
        let Try::Allocation(client) = &mut self.try_ else {
            return false;
        };
        if client.stream_id != Some(stream) {
            return false;
        }
        match input {
            StreamInput::Connected => client.connected(now, trust),
            StreamInput::Data(bytes) => client.stream_data(now, bytes),
            StreamInput::Congested(congested) => client.set_congested(*congested),
            StreamInput::Closed => client.stream_closed(),
        }
        if !matches!(input, StreamInput::Closed) {
            self.note_answer(now);
        }
        true
    }

    /// The first sign of the server is one round trip old: a connected stream, or an answer.
    fn note_answer(&mut self, now: Instant) {
        self.rtt.get_or_insert(now.saturating_duration_since(self.began));
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match &mut self.try_ {
            Try::Allocation(client) => client.handle_timeout(now),
            Try::Question { sent, again_at, .. } if now >= *again_at && *sent >= TRANSMISSIONS => {
                let silent = "it does not answer; UDP to it may be blocked".to_owned();
                self.outcome.get_or_insert(Err(silent));
            }
            Try::Question { .. } | Try::None => {}
        }
    }

    /// When to call `handle_timeout` next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.try_ {
            _ if self.outcome.is_some() => None,
            Try::Allocation(client) => client.poll_timeout(),
            Try::Question { again_at, .. } => Some(*again_at),
            Try::None => None,
        }
    }

    /// Whether the server was only asked whether it is there.
    pub(crate) fn was_nameless(&self) -> bool {
        matches!(self.try_, Try::Question { .. })
    }

    /// Ends the try: nobody waits for it any more.
    pub(crate) fn abandon(&mut self, now: Instant) {
        self.end(now, "it was not over in time");
    }

    /// Ends a try over the shared socket: somebody else is to allocate from there.
    pub(crate) fn give_way(&mut self, now: Instant) {
        if self.server.transport == TurnTransport::Udp {
            self.end(now, "the servers in use changed meanwhile: check again");
        }
    }

    fn end(&mut self, now: Instant, reason: &str) {
        if self.outcome.is_none() {
            if let Try::Allocation(client) = &mut self.try_ {
                client.release(now);
            }
            self.outcome = Some(Err(reason.to_owned()));
        }
    }

    /// Takes what is to be done.
    pub(crate) fn drain(&mut self, now: Instant, mut act: impl FnMut(RelayOutput)) {
        let remote = self.server.address;
        match &mut self.try_ {
            Try::Allocation(client) => {
                while let Some(event) = client.events.pop_front() {
                    let outcome = match event {
                        ClientEvent::Allocated(_) => Ok(self.rtt.unwrap_or_default()),
                        ClientEvent::Ended(Ending::Failed(reason) | Ending::WrongPassword(reason)) => Err(reason),
                        ClientEvent::Permitted(_) | ClientEvent::Data { .. } => continue,
                    };
                    self.outcome.get_or_insert(outcome);
                }
                let is_over = self.outcome.is_some();
                if is_over && !client.ended() {
                    client.release(now);
                }
                let stream = client.stream_id;
                for transmit in client.transmits.drain(..) {
                    match (transmit, stream) {
                        (ClientTransmit::Datagram(bytes), _) => act(RelayOutput::Udp { remote, bytes }),
                        (ClientTransmit::Connect, Some(id)) => {
                            act(RelayOutput::Stream(id, StreamOutput::Connect(remote)));
                        }
                        (ClientTransmit::Stream(bytes), Some(id)) => {
                            act(RelayOutput::Stream(id, StreamOutput::Data(bytes)));
                        }
                        _ => {}
                    }
                }
                if is_over {
                    if let Some(id) = stream {
                        act(RelayOutput::Stream(id, StreamOutput::Close));
                    }
                    self.try_ = Try::None;
                }
            }
            Try::Question { id, sent, again_at } => {
                if self.outcome.is_none() && now >= *again_at && *sent < TRANSMISSIONS {
                    *again_at = now + FIRST_RETRANSMIT * 2u32.pow(*sent);
                    *sent += 1;
                    let bytes = nameless_allocate(*id);
                    act(RelayOutput::Udp { remote, bytes });
                }
            }
            Try::None => {}
        }
    }
}

/// An Allocate request for UDP without credentials (RFC 8656 section 7.1): a server answers it with 401.
fn nameless_allocate(id: TransactionId) -> Vec<u8> {
    const UDP: u8 = 17;
    let mut bytes = vec![0, 3, 0, 8];
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&[0, 0x19, 0, 4, UDP, 0, 0, 0]);
    bytes
}
