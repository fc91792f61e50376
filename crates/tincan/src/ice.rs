//! ICE for one link (RFC 8445, trickle RFC 8838, consent RFC 7675): the only wrapper of crate `is`.
//!
//! Promises: checks go only to addresses that the policy allows, at most 50 a second; bytes that do not authenticate
//! change nothing; relays wait until direct paths had their chance, and a better path replaces a worse by itself.
//! Refuses to know: sockets, how signals travel, what the path carries. Whether a path is dead is decided by the
//! session; [`Agent::probe`] then tries everything again.

mod binding;
mod candidate;
mod inner;
mod stun;
#[cfg(test)]
mod tests;
mod types;
mod ways;

#[cfg(test)]
pub(crate) use binding::binding_answer;
pub use binding::{BindingAnswer, BindingError, ChangeRequest, binding_request};
pub use candidate::{AddressPolicy, Candidate, CandidateError, CandidateKind, Refused, plain};
pub use stun::{StunClass, TransactionId, Transactions, is_stun, stun_class, stun_transaction, stun_username};

pub use types::{AgentEvent, Credentials, IceTransmit, Pace, Pair, PairState, Rank, seed_transactions};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{IceAgent, IceAgentEvent, IceConnectionState};

use crate::limits;
use crate::transit;
use inner::{Budget, FIRST_RETRANSMIT, fresh_inner, parse_stun, same, silently, to_is_local};
use ways::{Hold, Ways};

/// How long direct candidates are tried before relays join in.
const RELAY_HEAD_START: Duration = Duration::from_millis(300);
/// Longest time between two checks of a pair while the link is being made, or while the chosen pair is in doubt.
const SEARCH_INTERVAL: Duration = Duration::from_secs(2);
/// Between two consent checks of a pair in use (RFC 7675: 5 s, less 20 %).
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Between two keepalives of an idle link; NATs forget UDP mappings after 30 s, and a lost one is repeated after 1 s.
const IDLE_INTERVAL: Duration = Duration::from_secs(25);
/// The controlled side answers those, which keeps its NAT open too, and checks by itself now and then.
const IDLE_ANSWERING_INTERVAL: Duration = Duration::from_secs(100);
/// A check of the chosen pair unanswered for this long puts the pair in doubt.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// A chosen pair in doubt for this long is reported silent, and every pair is tried.
const SILENT_AFTER: Duration = Duration::from_millis(1500);

/// While relayed, direct pairs are tried again after this, doubling.
const UPGRADE_FIRST: Duration = Duration::from_secs(15);
const UPGRADE_LAST: Duration = Duration::from_secs(120);
/// How long an attempt to get off the relay may take on an idle link.
const UPGRADE_TRIES: Duration = Duration::from_secs(5);

struct Attempt {
    local: SocketAddr,
    remote: SocketAddr,
    sent: Instant,
}

#[derive(Default)]
struct Known {
    checked: bool,
    valid: bool,
    rtt: Option<Duration>,
    last_heard: Option<Instant>,
}

/// The ICE side of one link.
pub struct Agent {
    inner: IceAgent,
    policy: AddressPolicy,
    credentials: Credentials,
    remote_credentials: Option<Credentials>,
    /// What the inner agent takes as local preference of the candidate being added.
    preference: Arc<AtomicU32>,
    locals: Vec<Candidate>,
    remotes: Vec<Candidate>,
    /// Remote addresses learnt from authenticated checks.
    discovered: BTreeSet<SocketAddr>,
    /// Mapped addresses that authenticated answers named.
    mapped: BTreeSet<SocketAddr>,
    locals_ever: usize,
    pairs: BTreeMap<(SocketAddr, SocketAddr), Known>,
    attempts: BTreeMap<TransactionId, Attempt>,
    early: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    outbox: VecDeque<IceTransmit>,
    events: VecDeque<AgentEvent>,
    nominated: Option<(SocketAddr, SocketAddr)>,
    relays: Hold,
    ways: Ways,
    pace: Pace,
    doubt_since: Option<Instant>,
    silent: bool,
    upgrade: Option<Upgrade>,
    budget: Budget,
    last_now: Instant,
}

/// Attempts to get from a relay to a direct path.
struct Upgrade {
    next: Instant,
    wait: Duration,
    /// Until then an idle link tries all pairs.
    trying_until: Instant,
}

impl Agent {
    /// A new agent. The tie breaker comes from the caller's entropy; credentials must be unique in this node.
    pub fn new(
        credentials: Credentials,
        controlling: bool,
        tie_breaker: u64,
        policy: AddressPolicy,
        now: Instant,
    ) -> Self {
        let preference = Arc::new(AtomicU32::new(0));
        let inner = fresh_inner(&credentials, controlling, tie_breaker, &preference, now);
        Agent {
            inner,
            policy,
            credentials,
            remote_credentials: None,
            preference,
            locals: Vec::new(),
            remotes: Vec::new(),
            discovered: BTreeSet::new(),
            mapped: BTreeSet::new(),
            locals_ever: 0,
            pairs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            early: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            nominated: None,
            relays: Hold::Waiting,
            ways: Ways::default(),
            pace: Pace::Active,
            doubt_since: None,
            silent: false,
            upgrade: None,
            budget: Budget::new(now),
            last_now: now,
        }
    }

    /// Our credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Whether the peer's credentials are known.
    pub fn has_remote(&self) -> bool {
        self.remote_credentials.is_some()
    }

    /// Whether this side nominates (a role conflict may have changed it).
    pub fn controlling(&self) -> bool {
        self.inner.controlling()
    }

    /// Sets the peer's credentials; checks start, and early checks of the peer are answered.
    pub fn set_remote(&mut self, now: Instant, credentials: Credentials) {
        silently(|| self.inner.set_remote_credentials(credentials.to_is()));
        self.remote_credentials = Some(credentials);
        if self.relays == Hold::Waiting {
            self.relays = Hold::Until(now + RELAY_HEAD_START);
        }
        self.give_remotes();
        for (local, remote, bytes) in std::mem::take(&mut self.early) {
            self.handle_stun(now, local, remote, &bytes);
        }
        self.drain(now);
    }

    /// Adds a local candidate. The order of `preference` decides among equals.
    pub fn add_local(&mut self, now: Instant, candidate: Candidate) -> Result<(), Refused> {
        if self.locals.iter().any(|c| same(c, &candidate)) {
            return Ok(());
        }
        if self.locals_ever >= limits::ICE_LOCALS_EVER {
            return Err(Refused::Exhausted(self.locals_ever));
        }
        if self.locals.len() >= limits::ICE_LOCAL_CANDIDATES {
            return Err(Refused::TooMany(limits::ICE_LOCAL_CANDIDATES));
        }
        self.policy.check(candidate.address)?;
        self.policy.check(candidate.base)?;
        self.locals_ever += 1;
        self.locals.push(candidate);
        self.give_local(&candidate);
        self.drain(now);
        Ok(())
    }

    /// Removes a local candidate, and with a host candidate every pair that is sent from it.
    pub fn remove_local(&mut self, now: Instant, candidate: &Candidate) {
        let Some(at) = self.locals.iter().position(|c| same(c, candidate)) else {
            return;
        };
        let gone = self.locals.remove(at);
        if let Some(inner) = to_is_local(&gone) {
            self.inner.invalidate_candidate(&inner);
        }
        if gone.kind != CandidateKind::ServerReflexive {
            self.pairs.retain(|(local, _), _| *local != gone.address);
            if self.nominated.is_some_and(|(local, _)| local == gone.address) {
                self.nominated = None;
                self.release_relays();
            }
        }
        self.drain(now);
    }

    /// Adds a candidate that the peer signalled.
    pub fn add_remote(&mut self, now: Instant, candidate: Candidate) -> Result<(), Refused> {
        let candidate = Candidate {
            address: plain(candidate.address),
            base: plain(candidate.address),
            ..candidate
        };
        if self
            .remotes
            .iter()
            .any(|c| c.address == candidate.address && c.kind == candidate.kind)
        {
            return Ok(());
        }
        self.policy.check(candidate.address)?;
        if self.remotes.len() >= limits::ICE_REMOTE_CANDIDATES {
            return Err(Refused::TooMany(limits::ICE_REMOTE_CANDIDATES));
        }
        self.remotes.push(candidate);
        self.give_remote(&candidate);
        self.drain(now);
        Ok(())
    }

    /// Whether the bytes are a check or an answer that authenticates for this link. Changes nothing.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        parse_stun(bytes).is_some_and(|message| self.inner.accepts_message(&message))
    }

    /// Takes a STUN message that arrived at `local` (host address and port of the socket, or a relayed address);
    /// an unspecified `local` is taken for the first host candidate of its family. `false`: not ours, nothing changed.
    pub fn handle_stun(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let (local, remote) = (self.concrete_local(plain(local), remote), plain(remote));
        let Some(message) = parse_stun(bytes) else {
            return false;
        };
        if !self.inner.accepts_message(&message) {
            return false;
        }
        let known = match stun_class(bytes) {
            Some(StunClass::Request) => self.admit_request(now, local, remote, bytes),
            Some(StunClass::Success | StunClass::Error) => self.admit_answer(now, local, remote, &message, bytes),
            _ => false,
        };
        if known {
            let packet = StunPacket {
                proto: ways::protocol(remote),
                source: remote,
                destination: local,
                message,
            };
            self.inner.handle_packet(now, packet);
            // A nomination is taken up, and a new pair checked, at the next turn; `is` would wait for its timer.
            if self.budget.allows(now) {
                self.inner.handle_timeout(now);
            }
            self.drain(now);
        }
        known
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if let Hold::Until(due) = self.relays
            && now >= due
        {
            match self.nominated_pair() {
                Some(pair) if !pair.is_relayed() => self.relays = Hold::Waiting,
                _ => self.release_relays(),
            }
        }
        self.judge_nominated(now);
        self.try_upgrade(now);
        let due = self.inner.poll_timeout().is_none_or(|at| now >= at);
        if due && self.budget.allows(now) {
            self.inner.handle_timeout(now);
        }
        self.drain(now);
    }

    /// When to call [`Agent::handle_timeout`] next.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let check = self
            .inner
            .poll_timeout()
            .map(|at| at.max(self.budget.next(self.last_now)));
        let relays = match self.relays {
            Hold::Until(due) => Some(due),
            Hold::Waiting | Hold::Released => None,
        };
        let upgrade = self.upgrade.as_ref().map(|upgrade| upgrade.next);
        [check, relays, upgrade, self.doubt_due()].into_iter().flatten().min()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<IceTransmit> {
        self.outbox.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// Every pair that works or is worth probing, best state first, then by address.
    pub fn pairs(&self) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = self.pairs.keys().map(|&key| self.describe(key)).collect();
        for local in self.locals.iter().filter(|c| c.kind != CandidateKind::ServerReflexive) {
            for remote in &self.remotes {
                let key = (local.address, remote.address);
                let fits = local.address.is_ipv4() == remote.address.is_ipv4();
                if fits && !self.pairs.contains_key(&key) && !pairs.iter().any(|p| (p.local, p.remote) == key) {
                    pairs.push(self.describe(key));
                }
            }
        }
        let ways = self.ways.iter().map(|way| (transit::HERE, way));
        let untried = ways.filter(|key| !self.pairs.contains_key(key));
        pairs.extend(untried.map(|key| self.describe(key)));
        pairs.sort_by_key(|p| (std::cmp::Reverse(p.state), p.rank, p.local, p.remote));
        pairs
    }

    /// The nominated pair.
    pub fn best(&self) -> Option<Pair> {
        self.nominated_pair()
    }

    /// Round trip of the nominated pair.
    pub fn rtt(&self) -> Option<Duration> {
        self.nominated_pair()?.rtt
    }

    /// Local candidates as they stand.
    pub fn local_candidates(&self) -> &[Candidate] {
        &self.locals
    }

    /// Remote candidates as they were signalled.
    pub fn remote_candidates(&self) -> &[Candidate] {
        &self.remotes
    }

    /// Sets how eagerly pairs are kept alive.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        self.apply_pace();
    }

    /// Tries every pair again, relays too. Called when the session says that the path is dead.
    pub fn probe(&mut self, now: Instant) {
        self.release_relays();
        self.inner.recreate_candidate_pairs();
        self.silent = true;
        self.apply_pace();
        self.handle_timeout(now);
    }

    /// Restarts ICE with new credentials: remote candidates and credentials are forgotten, local ones kept. The
    /// nominated pair stays the best until another is found.
    pub fn restart(&mut self, now: Instant, credentials: Credentials, tie_breaker: u64) {
        let controlling = self.inner.controlling();
        self.inner = fresh_inner(&credentials, controlling, tie_breaker, &self.preference, now);
        self.credentials = credentials;
        self.remote_credentials = None;
        self.remotes.clear();
        self.discovered.clear();
        self.mapped.clear();
        self.attempts.clear();
        self.early.clear();
        self.outbox.clear();
        self.events.clear();
        let nominated = self.nominated;
        self.pairs.retain(|key, _| Some(*key) == nominated);
        self.locals_ever = self.locals.len();
        self.relays = Hold::Waiting;
        self.ways = Ways::default();
        self.doubt_since = None;
        self.silent = self.nominated.is_some();
        self.upgrade = None;
        for candidate in self.locals.clone() {
            self.give_local(&candidate);
        }
        self.apply_pace();
        self.drain(now);
    }

    fn concrete_local(&self, local: SocketAddr, remote: SocketAddr) -> SocketAddr {
        if !local.ip().is_unspecified() {
            return local;
        }
        let fits = |c: &&Candidate| c.kind == CandidateKind::Host && c.address.is_ipv4() == plain(remote).is_ipv4();
        self.locals.iter().find(fits).map_or(local, |c| c.address)
    }

    /// A check of the peer: bounded, policed, and held while we do not know whom to answer.
    fn admit_request(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        if self.remote_credentials.is_none() {
            let again = self.early.iter().any(|(_, _, held)| held == bytes);
            if !again && self.early.len() < limits::ICE_EARLY_CHECKS {
                self.early.push_back((local, remote, bytes.to_vec()));
            }
            return false;
        }
        let named = self.ways.contains(remote) || self.remotes.iter().any(|c| c.address == remote);
        if !named && !self.discovered.contains(&remote) {
            let full = self.discovered.len() >= limits::ICE_REMOTE_CANDIDATES;
            if full || self.policy.check(remote).is_err() {
                return false;
            }
        }
        if !self.has_local(local) {
            return false;
        }
        if !named {
            self.discovered.insert(remote);
        }
        // The peer tries our relay: it has its reason.
        if self.describe((local, remote)).local_kind == CandidateKind::Relayed || local == transit::HERE {
            self.release_relays();
        }
        self.known((local, remote)).last_heard = Some(now);
        true
    }

    /// An answer must come back from where the check went (RFC 8445 section 7.2.5.2.1; `is` does not look).
    fn admit_answer(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        message: &StunMessage<'_>,
        bytes: &[u8],
    ) -> bool {
        let Some(id) = stun_transaction(bytes) else {
            return false;
        };
        let symmetric = |a: &Attempt| a.remote == remote && (a.local == local || local.ip().is_unspecified());
        if !self.attempts.get(&id).is_some_and(symmetric) {
            return false;
        }
        if let Some(mapped) = message.mapped_address() {
            if !self.mapped.contains(&mapped) && self.mapped.len() >= limits::ICE_MAPPED_ADDRESSES {
                return false;
            }
            self.mapped.insert(mapped);
        }
        let Some(attempt) = self.attempts.remove(&id) else {
            return false;
        };
        if stun_class(bytes) == Some(StunClass::Success) {
            self.record_answer(now, &attempt);
        }
        true
    }

    fn record_answer(&mut self, now: Instant, attempt: &Attempt) {
        let key = (attempt.local, attempt.remote);
        let known = self.known(key);
        let first = !known.valid;
        known.valid = true;
        known.rtt = Some(now.saturating_duration_since(attempt.sent));
        known.last_heard = Some(now);
        // Older requests of this pair no longer say anything.
        let sent = attempt.sent;
        self.attempts.retain(|_, a| (a.local, a.remote) != key || a.sent > sent);
        if first {
            let pair = self.describe(key);
            self.push_event(AgentEvent::ValidPair(pair));
        }
        if self.nominated == Some(key) && (self.doubt_since.is_some() || self.silent) {
            self.nominate(key);
        }
    }

    fn known(&mut self, key: (SocketAddr, SocketAddr)) -> &mut Known {
        self.pairs.entry(key).or_default()
    }

    fn describe(&self, key: (SocketAddr, SocketAddr)) -> Pair {
        let (local, remote) = key;
        let relayed = |c: &&Candidate| c.kind == CandidateKind::Relayed && c.address == local;
        let known = self.pairs.get(&key);
        let state = match known {
            Some(k) if k.valid => PairState::Valid,
            Some(_) => PairState::Checking,
            None => PairState::Reserve,
        };
        let remote_kind = self
            .remotes
            .iter()
            .filter(|c| c.address == remote)
            .map(|c| c.kind)
            .max();
        Pair {
            local,
            remote,
            local_kind: match self.locals.iter().find(relayed) {
                Some(_) => CandidateKind::Relayed,
                None => CandidateKind::Host,
            },
            remote_kind: remote_kind.unwrap_or(CandidateKind::PeerReflexive),
            state,
            rtt: known.and_then(|k| k.rtt),
            last_heard: known.and_then(|k| k.last_heard),
            rank: self.rank(local, remote),
        }
    }

    fn nominated_pair(&self) -> Option<Pair> {
        self.nominated.map(|key| self.describe(key))
    }

    /// Takes what the inner agent wants to send and to say.
    fn drain(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        while let Some(transmit) = self.inner.poll_transmit() {
            self.pass_on(now, transmit.source, transmit.destination, transmit.contents.into());
        }
        while let Some(event) = self.inner.poll_event() {
            match event {
                IceAgentEvent::NominatedSend {
                    source, destination, ..
                } => self.nominate((source, destination)),
                IceAgentEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    self.push_event(AgentEvent::Disconnected);
                }
                _ => {}
            }
        }
    }

    fn pass_on(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        if stun_class(&bytes) == Some(StunClass::Request) {
            if self.is_parked((local, remote)) {
                return;
            }
            let Some(id) = stun_transaction(&bytes) else {
                return;
            };
            self.budget.spend(now);
            self.known((local, remote)).checked = true;
            while self.attempts.len() >= limits::ICE_ATTEMPTS {
                self.attempts.pop_first();
            }
            self.attempts.insert(
                id,
                Attempt {
                    local,
                    remote,
                    sent: now,
                },
            );
        }
        self.outbox.push_back(IceTransmit { local, remote, bytes });
    }

    /// On an idle link only the nominated pair is kept alive; the others are tried again when it falls silent.
    fn is_parked(&self, key: (SocketAddr, SocketAddr)) -> bool {
        let upgrading = self
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| self.last_now < upgrade.trying_until);
        let settled = self.pace == Pace::Idle && !self.silent && !upgrading && self.doubt_since.is_none();
        settled && self.nominated.is_some_and(|nominated| nominated != key)
    }

    fn nominate(&mut self, key: (SocketAddr, SocketAddr)) {
        let again = self.nominated == Some(key) && !self.silent;
        self.nominated = Some(key);
        self.doubt_since = None;
        self.silent = false;
        self.apply_pace();
        if !again {
            let pair = self.describe(key);
            self.push_event(AgentEvent::Nominated(pair));
        }
    }

    /// `is` gives a failed pair up for good: while a relay carries the link, everything is tried again now and then.
    fn try_upgrade(&mut self, now: Instant) {
        if !self.nominated_pair().is_some_and(|pair| pair.is_relayed()) {
            self.upgrade = None;
            return;
        }
        let upgrade = self.upgrade.get_or_insert(Upgrade {
            next: now + UPGRADE_FIRST,
            wait: UPGRADE_FIRST,
            trying_until: now,
        });
        if now < upgrade.next {
            return;
        }
        upgrade.wait = (upgrade.wait * 2).min(UPGRADE_LAST);
        upgrade.next = now + upgrade.wait;
        upgrade.trying_until = now + UPGRADE_TRIES;
        self.inner.recreate_candidate_pairs();
    }

    fn push_event(&mut self, event: AgentEvent) {
        if self.events.len() < limits::ICE_EVENTS {
            self.events.push_back(event);
        }
    }

    fn oldest_unanswered(&self) -> Option<Instant> {
        let key = self.nominated?;
        let mine = self.attempts.values().filter(|a| (a.local, a.remote) == key);
        mine.map(|a| a.sent).min()
    }

    fn doubt_due(&self) -> Option<Instant> {
        match self.doubt_since {
            _ if self.silent => None,
            Some(since) => Some(since + SILENT_AFTER),
            None => self.oldest_unanswered().map(|sent| sent + DOUBT_AFTER),
        }
    }

    /// First doubt: check the chosen pair quickly. Then silence: check everything.
    fn judge_nominated(&mut self, now: Instant) {
        let Some(pair) = self.nominated_pair() else {
            return;
        };
        if self.doubt_due().is_none_or(|due| now < due) {
            return;
        }
        if self.doubt_since.is_none() {
            self.doubt_since = Some(now);
            self.apply_pace();
            return;
        }
        self.silent = true;
        self.doubt_since = None;
        self.attempts
            .retain(|_, a| (a.local, a.remote) != (pair.local, pair.remote));
        self.push_event(AgentEvent::Silent(pair));
        self.release_relays();
        self.inner.recreate_candidate_pairs();
        self.apply_pace();
    }

    fn apply_pace(&mut self) {
        let searching = self.nominated.is_none() || self.silent || self.doubt_since.is_some();
        let interval = match self.pace {
            _ if searching => SEARCH_INTERVAL,
            Pace::Active => CONSENT_INTERVAL,
            Pace::Idle if self.inner.controlling() => IDLE_INTERVAL,
            Pace::Idle => IDLE_ANSWERING_INTERVAL,
        };
        // `is` doubles from the first retransmission eight times at most, so that too bounds its longest interval.
        let first = FIRST_RETRANSMIT.max(interval / 250);
        self.inner.set_initial_stun_rto(first);
        self.inner.set_max_stun_rto(interval);
    }
}
