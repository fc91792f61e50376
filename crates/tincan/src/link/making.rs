//! A handshake on its way to a session: the first of a link, or a fresh one beside a live session.
//!
//! Promises: the receiving keys are there as soon as the peer is proven; sending waits until the peer has them too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::SessionId;

use super::{Cx, Link, LinkConfig, LinkOutput, Phase, SETUP_TIME};
use crate::fast::Tell;
use crate::handshake::{Handshake, HandshakeConfig, HandshakeEvent, PeerHello, SessionError, is_first_flight};
use crate::ice::Candidate;
use crate::record::{OpenKeys, ReceiverIndex};
use crate::session::{Session, SessionKeys};

/// What QUIC takes for the round trip until it has measured.
const RTT_GUESS: Duration = Duration::from_millis(50);
/// A handshake that takes longer may be one whose datagrams do not fit: in a TURN channel they are 32 bytes shorter than in
/// indications, and pass where an outer path carries 1280 bytes. At once would be too soon, while paths still change: at
/// servers with two families only the first one has channels.
const CHANNEL_AFTER: Duration = Duration::from_millis(500);

/// One handshake and what has come of it.
pub(super) struct Making {
    pub(super) id: SessionId,
    pub(super) handshake: Handshake,
    pub(super) index: ReceiverIndex,
    pub(super) session: Option<Session>,
    channel_at: Instant,
}

/// How it goes on.
pub(super) enum Progress {
    Waiting,
    /// Receiving keys are there.
    Keyed,
    /// Both ends have keys.
    Ready,
    Failed(String),
}

impl Making {
    /// Begins, as the role demands.
    pub(super) fn new(
        cx: &mut Cx<'_>,
        link: &LinkConfig,
        id: SessionId,
        rtt: Option<Duration>,
    ) -> Result<Self, SessionError> {
        let index = cx.indices.take(cx.rng, link.id);
        let config = Self::config(cx, link, id, index, rtt);
        let handshake = Handshake::new(&config, cx.now).inspect_err(|_| cx.indices.free(index))?;
        Ok(Self {
            id,
            handshake,
            index,
            session: None,
            channel_at: cx.now + CHANNEL_AFTER,
        })
    }

    /// Whether `bytes` begin the handshake `id` of this link; asked by the server before anything is made.
    pub(super) fn begins(cx: &mut Cx<'_>, link: &LinkConfig, id: SessionId, bytes: &[u8]) -> bool {
        let index = ReceiverIndex::from_bytes([0; 3]);
        is_first_flight(&Self::config(cx, link, id, index, None), bytes)
    }

    fn config<'a, 'b: 'a>(
        cx: &mut Cx<'b>,
        link: &'a LinkConfig,
        session: SessionId,
        own_index: ReceiverIndex,
        rtt: Option<Duration>,
    ) -> HandshakeConfig<'a> {
        HandshakeConfig {
            key: cx.key,
            peer: link.peer,
            network: link.network,
            session,
            link_secret: link.secret.expose(),
            own_index,
            ciphers: cx.ciphers,
            capabilities: 0,
            initial_rtt: rtt.unwrap_or(RTT_GUESS),
            seed: cx.bytes32(),
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> bool {
        let ours = self.handshake.owns(bytes);
        if ours {
            self.handshake.handle_datagram(now, bytes);
        }
        ours
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<LinkOutput> {
        self.handshake.handle_timeout(now);
        let takes_long = now >= self.channel_at;
        takes_long.then(|| {
            self.channel_at = now + CHANNEL_AFTER;
            LinkOutput::Channel
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.handshake.poll_timeout();
        Some(handshake.map_or(self.channel_at, |at| at.min(self.channel_at)))
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.handshake.close(now);
    }

    /// What records for the coming session bear.
    pub(super) fn receiver(&self) -> Option<(ReceiverIndex, Arc<OpenKeys>)> {
        let session = self.session.as_ref()?;
        Some((self.index, session.opener()))
    }

    /// A record of the coming session was opened: the peer has the keys.
    pub(super) fn on_opened(&mut self, tell: Tell, now: Instant) {
        if tell.receiver == self.index
            && let Some(session) = &mut self.session
        {
            session.on_opened(tell.epoch, now);
            self.handshake.on_record_opened();
        }
    }

    /// The next thing that the handshake says; messages are left in it.
    pub(super) fn progress(&mut self, now: Instant) -> Progress {
        match self.handshake.poll_event() {
            None => Progress::Waiting,
            Some(HandshakeEvent::Keys(keys, hello)) => {
                self.on_keys(keys, hello, now);
                Progress::Keyed
            }
            Some(HandshakeEvent::Ready) => Progress::Ready,
            Some(HandshakeEvent::Failed(error)) => Progress::Failed(error.to_string()),
            Some(HandshakeEvent::Closed) => Progress::Failed("the peer closed the link".into()),
            // Before `Ready` no message passes the handshake's order.
            Some(HandshakeEvent::Message(_)) => Progress::Failed("the peer sent messages too early".into()),
        }
    }

    fn on_keys(&mut self, keys: SessionKeys, hello: PeerHello, now: Instant) {
        self.session = Some(Session::new(keys, hello.receiver_index, self.index, now));
    }
}

impl Link {
    /// 4: a path works, so the handshake begins. `false`: it could not.
    pub(super) fn start_making(&mut self, cx: &mut Cx<'_>) -> bool {
        let rtt = self.paths.last().and_then(|p| p.rtt);
        match Making::new(cx, &self.config, self.config.session, rtt) {
            Ok(making) => {
                self.phase = Phase::Securing(Box::new(making));
                true
            }
            Err(error) => {
                self.close_with(&error.to_string());
                false
            }
        }
    }

    /// Moves everything that handshakes say and want sent.
    pub(super) fn drain_carriers(&mut self, cx: &mut Cx<'_>) {
        if let Phase::Securing(making) = &mut self.phase {
            match making.progress(cx.now) {
                Progress::Waiting => {}
                Progress::Keyed => {
                    self.out.push_back(LinkOutput::Changed);
                    return self.drain_carriers(cx);
                }
                Progress::Ready => self.become_up(cx),
                Progress::Failed(reason) => {
                    self.transmit_carriers(cx);
                    return self.close_with(&reason);
                }
            }
        }
        self.drain_up(cx);
        self.transmit_carriers(cx);
    }

    /// Sends what handshakes want sent over the path in use; without one it waits in them.
    pub(super) fn transmit_carriers(&mut self, cx: &mut Cx<'_>) {
        let Some(ends) = self.paths.current() else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let handshakes: Vec<&mut Handshake> = match &mut self.phase {
            Phase::Securing(making) => vec![&mut making.handshake],
            Phase::Up(up) => up.handshakes(),
            _ => Vec::new(),
        };
        for handshake in handshakes {
            while handshake.poll_transmit(cx.now, &mut scratch) {
                self.out.push_back(LinkOutput::Datagram {
                    ends,
                    bytes: scratch.clone(),
                    is_stun: false,
                });
            }
        }
        self.scratch = scratch;
    }

    /// Why it is not up: what was tried.
    pub(super) fn failure(&self) -> String {
        let seconds = SETUP_TIME.as_secs();
        match &self.phase {
            Phase::Offered(_) => {
                format!("no answer to our offer within {seconds} s: the peer is away, or does not know us")
            }
            Phase::Securing(_) => format!("a path works, but no session came about within {seconds} s"),
            _ => {
                let list = |candidates: &[Candidate]| {
                    let mut kinds: Vec<String> = candidates.iter().map(|c| format!("{:?}", c.kind)).collect();
                    kinds.sort();
                    kinds.dedup();
                    format!("{} addresses ({})", candidates.len(), kinds.join(", "))
                };
                let ours = list(self.agent.local_candidates());
                let theirs = list(self.agent.remote_candidates());
                format!("no path to the peer within {seconds} s: tried {ours} of ours against {theirs} of its own")
            }
        }
    }
}
