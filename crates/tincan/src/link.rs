//! One link: everything that two nodes share to exchange frames.
//!
//! 1 opened by the controller here, or by an offer of the peer. 2 gather: the node's candidates go out with offer or
//! answer and trickle after. 3 check: ICE looks for a path. 4 secure: QUIC over that path. 5 up: frames flow as
//! records. 6 rekey: epochs, and a fresh handshake beside the old session. 7 the path changes, or is lost and searched.
//! 8 closed, by either side or because no path answers any more.
//!
//! Promises: no QUIC datagram is looked at unless its sender has proved by an ICE check to know the sealed password;
//! nothing is sent in clear; a link that is not up within its time is over with a sentence.
//! Refuses to know: other links, tables, sockets; whether the peer is allowed (the node asks that first).

mod control;
mod making;
mod members;
mod mtu;
pub(crate) mod paths;
mod resend;
mod signals;
mod sizes;
mod up;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::link::LinkPhase;
use api::{NetworkId, NodeId, SessionId};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;

use crate::fast::{LinkShared, LinkSlot, Tell};
use crate::forward::DropReason;
use crate::ice::{AddressPolicy, Agent, AgentEvent, Candidate, Credentials, Pair, Rank};
use crate::keys::NodeKey;
use crate::parts::Joiner;
use crate::record::{Cipher, Header, Lane, OpenKeys, ReceiverIndex};
use crate::session::Role;
use crate::signal::{self, Body, LinkSecret};
use crate::transit;
use making::Making;
use members::Members;
use mtu::Mtu;
use paths::{Ends, Paths};
use resend::{Again, Resend};
use up::Up;

/// A link that is not up by then is given up.
pub(crate) const SETUP_TIME: Duration = Duration::from_secs(30);

/// A link of this node; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What a link needs of its node for one call.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) rng: &'a mut ChaCha12Rng,
    pub(crate) key: &'a NodeKey,
    pub(crate) lane: &'a mut Lane,
    pub(crate) indices: &'a mut super::node::Indices,
    pub(crate) ciphers: [Cipher; 2],
    pub(crate) candidates: &'a [Candidate],
    pub(crate) relayed: &'a dyn Fn(SocketAddr) -> bool,
}

impl Cx<'_> {
    fn bytes32(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

/// What a link wants done.
pub(crate) enum LinkOutput {
    /// Send this; a STUN message's transaction is the link's.
    Datagram { ends: Ends, bytes: Vec<u8>, is_stun: bool },
    /// Seal this to the peer and give it to the controller.
    Signal(Body),
    /// An opened frame; whether its source is right is still to be looked at.
    Frame { index: ReceiverIndex, bytes: Vec<u8> },
    /// From the peer's controller.
    Message(Vec<u8>),
    /// A transit payload.
    Transit(Vec<u8>),
    /// The peer names other members than before, or it is time to know who there is.
    Members,
    /// A `link.ping` was answered.
    Pong { ping: u64, rtt: Duration },
    /// Relays must let the peer's address through.
    Permit(SocketAddr),
    /// Paths fell silent: are the relays alive?
    VerifyRelays,
    /// The path in use deserves a channel, if it goes through a relay.
    Channel,
    /// Keys, path or phase changed: publish.
    Changed,
    /// Frames can flow.
    Up,
    /// The path in use changed, or none is left.
    PathChanged,
    /// It is over.
    Down(String),
}

/// How far it is, with what that state has.
enum Phase {
    /// Our offer is out.
    Offered(Resend),
    /// Both sides' credentials are known.
    Checking,
    /// A path works.
    Securing(Box<Making>),
    /// Frames flow.
    Up(Box<Up>),
    /// Over.
    Closed,
}

/// What a link is about; fixed for its life.
pub(crate) struct LinkConfig {
    pub(crate) id: LinkId,
    pub(crate) slot: LinkSlot,
    pub(crate) network: NetworkId,
    pub(crate) peer: NodeId,
    pub(crate) session: SessionId,
    pub(crate) secret: LinkSecret,
    pub(crate) role: Role,
    pub(crate) is_offerer: bool,
    pub(crate) policy: AddressPolicy,
    /// The NIC's MTU as the link begins.
    pub(crate) mtu: u16,
    /// Through whom we can be reached as it begins.
    pub(crate) members: Vec<NodeId>,
}

/// One link.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    /// The start of the peer that this link's signals came from.
    pub(crate) peer_instance: Option<u64>,
    pub(crate) shared: Arc<LinkShared>,
    agent: Agent,
    /// Counts ICE restarts.
    generation: u32,
    restart: Option<Resend>,
    candidates_again: Option<Again>,
    phase: Phase,
    paths: Paths,
    deadline: Instant,
    mtu: Mtu,
    nic_mtu: usize,
    members: Members,
    /// Whether datagrams of other links ever went over this one.
    carries_others: bool,
    /// Numbers the frames that are cut.
    cut: u16,
    joiner: Joiner,
    out: VecDeque<LinkOutput>,
    scratch: Vec<u8>,
}

impl Link {
    /// 1 and 2: opened here. The offer is in the outputs.
    pub(crate) fn offer(config: LinkConfig, cx: &mut Cx<'_>) -> Self {
        let mut link = Self::new(config, cx);
        link.phase = Phase::Offered(Resend::new(cx.now));
        link.send_offer();
        link
    }

    /// 1 and 2: opened by the peer's offer. The answer is in the outputs.
    pub(crate) fn answer(config: LinkConfig, offer: &signal::Offer, cx: &mut Cx<'_>) -> Self {
        let mut link = Self::new(config, cx);
        link.take_remote(cx, offer.credentials.clone(), &offer.candidates, &offer.members);
        link.send_answer();
        link.drain_agent(cx);
        link
    }

    fn new(config: LinkConfig, cx: &mut Cx<'_>) -> Self {
        let credentials = Credentials::from_entropy(cx.bytes32());
        let tie_breaker = cx.rng.next_u64();
        let mut agent = Agent::new(
            credentials,
            config.is_offerer,
            tie_breaker,
            config.policy.clone(),
            cx.now,
        );
        for candidate in cx.candidates {
            // What policy refuses is simply not offered.
            let _ = agent.add_local(cx.now, *candidate);
        }
        let follows = config.role == Role::Server;
        let nic_mtu = usize::from(config.mtu);
        let members = Members::named(config.members.clone());
        Self {
            config,
            peer_instance: None,
            shared: Arc::default(),
            agent,
            generation: 0,
            restart: None,
            candidates_again: None,
            phase: Phase::Checking,
            paths: Paths::new(cx.now, follows),
            deadline: cx.now + SETUP_TIME,
            mtu: Mtu::new(nic_mtu),
            nic_mtu,
            members,
            carries_others: false,
            cut: 0,
            joiner: Joiner::default(),
            out: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<LinkOutput> {
        self.out.pop_front()
    }

    /// How far it is, for `state.get`.
    pub(crate) fn phase(&self) -> LinkPhase {
        match &self.phase {
            Phase::Offered(_) => LinkPhase::Offered,
            Phase::Checking => LinkPhase::Checking,
            Phase::Securing(_) => LinkPhase::Securing,
            Phase::Up(_) if self.paths.current().is_none() => LinkPhase::Lost,
            Phase::Up(_) => LinkPhase::Up,
            Phase::Closed => LinkPhase::Idle,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether our offer waits for its answer.
    pub(crate) fn is_offered(&self) -> bool {
        matches!(self.phase, Phase::Offered(_))
    }

    pub(crate) fn up(&self) -> Option<&Up> {
        match &self.phase {
            Phase::Up(up) => Some(up),
            _ => None,
        }
    }

    /// The session-level view of the paths.
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The user name fragment by which checks for this link are known.
    pub(crate) fn ufrag(&self) -> &str {
        self.agent.credentials().ufrag()
    }

    /// What records for this link may bear, with the keys that open them.
    pub(crate) fn receivers(&self) -> Vec<(ReceiverIndex, Arc<OpenKeys>)> {
        match &self.phase {
            Phase::Securing(making) => making.receiver().into_iter().collect(),
            Phase::Up(up) => up.receivers(),
            _ => Vec::new(),
        }
    }

    /// Where the peer said it is.
    pub(crate) fn remote_addresses(&self) -> Vec<SocketAddr> {
        self.agent.remote_candidates().iter().map(|c| c.address).collect()
    }

    // --- own candidates ---

    /// The node has a new address.
    pub(crate) fn add_local(&mut self, cx: &mut Cx<'_>, candidate: Candidate) {
        if self.agent.add_local(cx.now, candidate).is_err() {
            return;
        }
        for remote in self.agent.remote_candidates() {
            self.out.push_back(LinkOutput::Permit(remote.address));
        }
        self.on_candidates_changed(cx);
    }

    /// The node lost an address.
    pub(crate) fn remove_local(&mut self, cx: &mut Cx<'_>, candidate: &Candidate) {
        self.agent.remove_local(cx.now, candidate);
        let is_base = candidate.kind != crate::ice::CandidateKind::ServerReflexive;
        if is_base && self.paths.remove_local(cx.now, candidate.address) && self.is_up() {
            self.out.push_back(LinkOutput::Changed);
        }
        self.on_candidates_changed(cx);
    }

    fn on_candidates_changed(&mut self, cx: &mut Cx<'_>) {
        // An unanswered offer goes again in whole by and by; the answered are told at the end of this instant.
        if !self.is_offered() {
            self.candidates_again = Some(Again::now(cx.now));
        }
        self.drain_agent(cx);
    }

    // --- datagrams ---

    /// A STUN message for this link. `true`: it authenticated.
    pub(crate) fn handle_stun(&mut self, cx: &mut Cx<'_>, ends: Ends, bytes: &[u8]) -> bool {
        let ours = self.agent.handle_stun(cx.now, ends.local, ends.remote, bytes);
        self.drain_agent(cx);
        ours
    }

    /// A QUIC datagram from an address that once sent us an authenticated check for this link. `false`: not ours.
    pub(crate) fn handle_quic(&mut self, cx: &mut Cx<'_>, ends: Ends, bytes: &[u8]) -> bool {
        if bytes.len() > crate::limits::HANDSHAKE_DATAGRAM || !self.is_proven(ends) {
            return false;
        }
        if matches!(self.phase, Phase::Checking) && self.config.role == Role::Server && self.start_making(cx) {
            self.out.push_back(LinkOutput::Changed);
        }
        let ours = match &mut self.phase {
            Phase::Securing(making) => making.handle_datagram(cx.now, bytes),
            Phase::Up(up) => up.handle_datagram(cx, &self.config, bytes),
            _ => false,
        };
        if ours {
            self.drain_carriers(cx);
        }
        ours
    }

    fn is_proven(&self, ends: Ends) -> bool {
        let on_path = self.paths.iter().any(|p| p.ends.remote == ends.remote);
        on_path || {
            let pairs = self.agent.pairs();
            pairs.iter().any(|p| p.remote == ends.remote && p.last_heard.is_some())
        }
    }

    /// A record for one of this link's sessions that the fast path left to us.
    pub(crate) fn handle_record(&mut self, cx: &mut Cx<'_>, ends: Ends, bytes: &mut [u8]) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        let keys = self
            .receivers()
            .into_iter()
            .find(|(index, _)| *index == header.receiver);
        let (index, keys) = keys.ok_or(DropReason::UnknownReceiver)?;
        let opened = keys.open(bytes)?;
        let tell = Tell {
            receiver: index,
            epoch: opened.epoch,
        };
        let lane = opened.lane;
        let payload = opened.payload.to_vec();
        self.handle_opened(cx, tell);
        let is_search = lane == 0 && control::is_search(&payload);
        let rank = match self.agent.rank(ends.local, ends.remote) {
            Rank::Direct if (cx.relayed)(ends.local) => Rank::Turn,
            rank => rank,
        };
        if let Some(purpose) = self.paths.on_heard(cx.now, ends, rank, is_search) {
            self.probe(cx, ends, purpose);
        }
        if lane == 0 {
            self.handle_control(cx, index, ends, &payload)?;
        } else if transit::is_transit(&payload) {
            self.on_transit(ends, &payload)?;
        } else {
            self.out.push_back(LinkOutput::Frame { index, bytes: payload });
        }
        Ok(())
    }

    /// A worker, or the fast path of the engine, opened a record that tells something.
    pub(crate) fn handle_opened(&mut self, cx: &mut Cx<'_>, tell: Tell) {
        match &mut self.phase {
            Phase::Securing(making) => making.on_opened(tell, cx.now),
            Phase::Up(up) => {
                if up.on_opened(tell, cx.now) {
                    self.out.push_back(LinkOutput::Changed);
                }
                if self.shared.watched.load(Ordering::Relaxed) {
                    self.watch(cx);
                }
            }
            _ => {}
        }
        self.drain_carriers(cx);
    }

    // --- ICE ---

    fn drain_agent(&mut self, cx: &mut Cx<'_>) {
        while let Some(t) = self.agent.poll_transmit() {
            let ends = Ends {
                local: t.local,
                remote: t.remote,
            };
            self.out.push_back(LinkOutput::Datagram {
                ends,
                bytes: t.bytes,
                is_stun: true,
            });
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                AgentEvent::ValidPair(pair) => self.on_pair(cx, &pair, false),
                AgentEvent::Nominated(pair) => self.on_pair(cx, &pair, true),
                AgentEvent::Silent(pair) => self.on_silent(cx, &pair),
                // Session liveness and our own deadline decide that.
                AgentEvent::Disconnected => {}
            }
        }
    }

    fn on_pair(&mut self, cx: &mut Cx<'_>, pair: &Pair, is_nominated: bool) {
        let ends = Ends {
            local: pair.local,
            remote: pair.remote,
        };
        self.paths.add(ends, pair.rank, pair.rtt);
        if self.is_up() {
            if is_nominated && self.paths.on_nominated(cx.now, ends, pair.rank) {
                self.on_moved(cx);
            } else if self.paths.health() != paths::Health::Good {
                self.probe(cx, ends, paths::Purpose::Liveness);
            }
            return;
        }
        if is_nominated || self.paths.current().is_none() {
            self.paths.use_path(cx.now, ends);
            self.out.push_back(LinkOutput::Changed);
        }
        if matches!(self.phase, Phase::Checking) && !self.start_making(cx) {
            return;
        }
        self.drain_carriers(cx);
    }

    fn on_silent(&mut self, cx: &mut Cx<'_>, pair: &Pair) {
        let is_current = self.paths.current()
            == Some(Ends {
                local: pair.local,
                remote: pair.remote,
            });
        if self.is_up() && is_current && self.paths.doubt(cx.now).is_some() {
            self.probe_current(cx);
        }
    }

    // --- time ---

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        self.agent.handle_timeout(cx.now);
        self.drain_agent(cx);
        if let Some(again) = self.candidates_again.filter(|again| cx.now >= again.at) {
            self.candidates_again = (!again.is_last).then(|| Again::last(cx.now));
            self.send_candidates(cx);
        }
        match &mut self.phase {
            Phase::Offered(resend) => {
                if resend.is_due(cx.now) {
                    self.send_offer();
                }
            }
            Phase::Securing(making) => self.out.extend(making.handle_timeout(cx.now)),
            Phase::Up(_) => self.up_timeout(cx),
            Phase::Checking | Phase::Closed => {}
        }
        self.drain_carriers(cx);
        if !self.is_up() && !self.is_closed() && cx.now >= self.deadline {
            let reason = self.failure();
            self.close_with(&reason);
        }
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let (own, deadline) = match &self.phase {
            Phase::Closed => return None,
            Phase::Offered(resend) => (Some(resend.at), Some(self.deadline)),
            Phase::Checking => (None, Some(self.deadline)),
            Phase::Securing(making) => (making.poll_timeout(), Some(self.deadline)),
            Phase::Up(up) => (up.poll_timeout(), None),
        };
        let paths = if self.is_up() { self.paths.due() } else { None };
        let mtu = if self.is_up() { self.mtu.poll_timeout() } else { None };
        let restart = self.restart.map(|resend| resend.at);
        let agent = self.agent.poll_timeout();
        [
            own,
            deadline,
            paths,
            mtu,
            restart,
            agent,
            self.candidates_again.map(|again| again.at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- end ---

    /// Ends it and tells the peer, where there is a session to tell it over.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) {
        match &mut self.phase {
            Phase::Up(up) => up.close(cx.now),
            Phase::Securing(making) => making.close(cx.now),
            _ => {}
        }
        self.transmit_carriers(cx);
        self.phase = Phase::Closed;
    }

    fn close_with(&mut self, reason: &str) {
        self.phase = Phase::Closed;
        self.out.push_back(LinkOutput::Down(reason.to_owned()));
    }
}
