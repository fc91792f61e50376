//! How crate `is` is set up and spoken to; the pace of checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use is::stun::StunMessage;
use is::{IceAgent, Protocol};

use super::{Agent, Candidate, CandidateKind, Credentials, SEARCH_INTERVAL, is_stun};
use crate::gauge::Gauges;
use crate::limits;

/// Smallest time between two checks of one agent (Ta).
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// First retransmission of a check. `is` does not repeat a check when the peer's arrives (RFC 8445 section 7.3.1.4), so
/// this is what a hole that the peer just punched waits for.
pub(super) const FIRST_RETRANSMIT: Duration = Duration::from_millis(120);

impl Agent {
    pub(crate) fn gauges(&self, all: &mut Gauges) {
        all.add("ICE outputs", self.outbox.len(), 0);
        all.add("ICE events", self.events.len(), 0);
        all.add("ICE attempts", self.attempts.len(), limits::ICE_ATTEMPTS);
        all.add("early checks", self.early.len(), limits::ICE_EARLY_CHECKS);
        all.add("local candidates", self.locals.len(), limits::ICE_LOCAL_CANDIDATES);
        all.add("remote candidates", self.remotes.len(), limits::ICE_REMOTE_CANDIDATES);
        all.add(
            "remotes discovered",
            self.discovered.len(),
            limits::ICE_REMOTE_CANDIDATES,
        );
        all.add("mapped addresses", self.mapped.len(), limits::ICE_MAPPED_ADDRESSES);
        all.add("ways through members", self.ways.len(), limits::WAYS);
        let remotes = 2 * limits::ICE_REMOTE_CANDIDATES;
        all.add("pairs seen", self.pairs.len(), limits::ICE_LOCAL_CANDIDATES * remotes);
    }
}

/// Checks per second: a bucket of `ICE_CHECK_BURST`, filled with `ICE_CHECKS_PER_SECOND`.
pub(super) struct Budget {
    /// When the bucket would be full.
    full_at: Instant,
}

impl Budget {
    const EACH: Duration = Duration::from_millis(1000 / limits::ICE_CHECKS_PER_SECOND as u64);

    pub(super) fn new(now: Instant) -> Self {
        Budget { full_at: now }
    }

    pub(super) fn allows(&self, now: Instant) -> bool {
        now >= self.next(now)
    }

    /// When one more check may leave.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let depth = Self::EACH * (limits::ICE_CHECK_BURST - 1);
        self.full_at.checked_sub(depth).map_or(now, |at| at.max(now))
    }

    pub(super) fn spend(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + Self::EACH;
    }
}

/// A new inner agent.
pub(super) fn fresh_inner(
    credentials: &Credentials,
    controlling: bool,
    tie_breaker: u64,
    preference: &Arc<AtomicU32>,
    now: Instant,
) -> IceAgent {
    silently(|| {
        let mut inner = IceAgent::new(credentials.to_is());
        inner.set_controlling(controlling);
        inner.set_control_tie_breaker(tie_breaker);
        inner.set_timing_advance(CHECK_INTERVAL);
        inner.set_initial_stun_rto(FIRST_RETRANSMIT);
        inner.set_max_stun_rto(SEARCH_INTERVAL);
        inner.set_max_candidate_pairs(limits::ICE_PAIRS);
        let preference = Arc::clone(preference);
        inner.set_local_preference(move |_: &is::Candidate, _: usize| preference.load(Ordering::Relaxed));
        // Without a first call `poll_timeout` stays silent.
        inner.handle_timeout(now);
        while inner.poll_event().is_some() {}
        inner
    })
}

/// Runs a call into `is` that would write a password to the log: it prints credentials at debug and trace level.
pub(super) fn silently<T>(call: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), call)
}

pub(super) fn parse_stun(bytes: &[u8]) -> Option<StunMessage<'_>> {
    // `is` trusts the length field less than we do: one exact header check before its parser.
    if bytes.len() > limits::ICE_STUN_BYTES || !is_stun(bytes) {
        return None;
    }
    StunMessage::parse(bytes).ok()
}

pub(super) fn same(a: &Candidate, b: &Candidate) -> bool {
    (a.kind, a.address, a.base) == (b.kind, b.address, b.base)
}

pub(super) fn to_is_local(candidate: &Candidate) -> Option<is::Candidate> {
    match candidate.kind {
        CandidateKind::Host => is::Candidate::host(candidate.address, Protocol::Udp).ok(),
        CandidateKind::ServerReflexive => {
            is::Candidate::server_reflexive(candidate.address, candidate.base, Protocol::Udp).ok()
        }
        CandidateKind::Relayed => is::Candidate::relayed(candidate.address, candidate.address, Protocol::Udp).ok(),
        CandidateKind::PeerReflexive => None,
    }
}

pub(super) fn to_is_remote(candidate: &Candidate) -> is::Candidate {
    let kind = match candidate.kind {
        CandidateKind::Host => is::CandidateKind::Host,
        CandidateKind::ServerReflexive => is::CandidateKind::ServerReflexive,
        CandidateKind::PeerReflexive => is::CandidateKind::PeerReflexive,
        CandidateKind::Relayed => is::CandidateKind::Relayed,
    };
    is::Candidate::from_parts(
        "1".to_owned(),
        1,
        Protocol::Udp,
        candidate.priority,
        candidate.address,
        kind,
        None,
        None,
        None,
    )
}
