//! The paths of one link: which there are, which one is used, and whether it still answers.
//!
//! Promises: one suspicion is first asked of the path itself and then of all others; a path is moved to only after
//! something sealed came back over it, or ICE nominated it; every table has a bound.
//! Refuses to know: how a probe is sealed and sent, candidates.
//!
//! Good -> (frames unanswered for `DOUBT_AFTER`) -> Doubt: the path is probed -> (no answer) -> Suspect: every path is
//! probed -> (no answer) -> Lost: no path is used, ICE starts again -> (no answer for `DEAD_AFTER`) -> the link is down.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ice::Rank;
use crate::limits;

/// Frames went out for this long and nothing came back: ask the path.
const DOUBT_AFTER: Duration = Duration::from_millis(500);
/// At least so long the path has to answer, or twice its round trip: then ask all others.
const ANSWER_AFTER: Duration = Duration::from_millis(400);
/// Probes of all paths are repeated after this.
const REPEAT_SUSPECT: Duration = Duration::from_millis(300);
/// All paths were asked for this long: the path is lost.
const LOST_AFTER: Duration = Duration::from_millis(1500);
/// Probes of a lost link are repeated after this.
const REPEAT_LOST: Duration = Duration::from_secs(1);
/// While a relay carries a link for which ICE knows a direct pair, that is tried after this, then less and less often.
const BETTER_FIRST: Duration = Duration::from_secs(1);
const BETTER_LAST: Duration = Duration::from_secs(60);
/// A lost link is down after this.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// Nothing was heard for this long on an idle link: NATs forget UDP mappings after 30 s (RFC 4787 REQ-5 is 2 min).
pub(super) const KEEPALIVE: Duration = Duration::from_secs(15);
/// One check of an unexpected address of the peer at most in this time.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// A probe unanswered for this long is forgotten.
const PROBE_LIFE: Duration = Duration::from_secs(5);

/// The two ends of a path: our host or relayed address, and the peer's as we see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// One path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) ends: Ends,
    pub(crate) rank: Rank,
    pub(crate) rtt: Option<Duration>,
    /// Something came back over it.
    is_proven: bool,
    last_check: Option<Instant>,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Whether the path answers.
    Liveness,
    /// Whether the peer is where its record seemed to come from; then the path moves there.
    Roam,
    /// Whether a better path works while a relay is used; then the path moves there.
    Better,
    /// `link.ping`, by its number.
    Ping(u64),
}

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    token: u64,
    ends: Ends,
    sent: Instant,
    purpose: Purpose,
}

/// How the present path does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    Doubt { since: Instant },
    Suspect { since: Instant, again: Instant },
    Lost { since: Instant, again: Instant },
}

/// What the link must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Probe the present path.
    ProbeCurrent,
    /// Probe every path.
    ProbeAll,
    /// A relay is used: probe a better pair, if ICE knows one that works.
    ProbeBetter,
    /// There is no path any more: start ICE again, probe every path.
    Lost,
    /// The link is dead.
    Dead,
}

/// What an answered probe means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) ends: Ends,
    pub(crate) rtt: Duration,
    pub(crate) purpose: Purpose,
    /// The path to use has changed.
    pub(crate) moved: bool,
}

/// All paths of a link.
#[derive(Debug)]
pub(crate) struct Paths {
    list: Vec<Path>,
    current: Option<Ends>,
    health: Health,
    /// Since when frames go out on the present path and nothing comes back.
    unanswered: Option<Instant>,
    /// When something authenticated last came, on any path.
    heard: Instant,
    probes: VecDeque<Probe>,
    /// The other end decides where both settle when each prefers another path.
    follows: bool,
    /// When something better than the relay in use is looked for, and how long after that again.
    better: Option<(Instant, Duration)>,
}

impl Paths {
    /// None yet.
    pub(crate) fn new(now: Instant, follows: bool) -> Self {
        Self {
            list: Vec::new(),
            current: None,
            health: Health::Good,
            unanswered: None,
            heard: now,
            probes: VecDeque::new(),
            follows,
            better: None,
        }
    }

    /// Probes that wait for an answer.
    pub(crate) fn probes_out(&self) -> usize {
        self.probes.len()
    }

    /// The path in use; none while lost.
    pub(crate) fn current(&self) -> Option<Ends> {
        match self.health {
            Health::Lost { .. } => None,
            _ => self.current,
        }
    }

    /// The path in use, or the last that was.
    pub(crate) fn last(&self) -> Option<&Path> {
        self.current.and_then(|ends| self.find(ends))
    }

    /// Who stands between on the path in use, or on the last that was.
    pub(crate) fn rank(&self) -> Rank {
        self.last().map_or(Rank::Direct, |path| path.rank)
    }

    pub(crate) fn health(&self) -> Health {
        self.health
    }

    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.list.iter()
    }

    fn find(&self, ends: Ends) -> Option<&Path> {
        self.list.iter().find(|p| p.ends == ends)
    }

    /// Makes a path known. When there are too many the oldest that is not in use goes.
    pub(crate) fn add(&mut self, ends: Ends, rank: Rank, rtt: Option<Duration>) {
        if let Some(path) = self.list.iter_mut().find(|p| p.ends == ends) {
            path.rank = path.rank.max(rank);
            path.rtt = rtt.or(path.rtt);
            return;
        }
        if self.list.len() >= limits::PATHS
            && let Some(at) = self.list.iter().position(|p| Some(p.ends) != self.current)
        {
            self.list.remove(at);
        }
        self.list.push(Path {
            ends,
            rank,
            rtt,
            is_proven: false,
            last_check: None,
        });
    }

    /// The peer said that this address of its is a relay's; true if the path in use turns out to be relayed.
    pub(crate) fn mark_relayed(&mut self, now: Instant, remote: SocketAddr, rank: Rank) -> bool {
        let current = self.current;
        let mut is_news = false;
        for path in self
            .list
            .iter_mut()
            .filter(|p| p.ends.remote == remote && p.rank < rank)
        {
            path.rank = rank;
            is_news |= current == Some(path.ends);
        }
        if is_news {
            self.plan_better(now);
        }
        is_news
    }

    /// Forgets every path from a local address that is gone; true if the one in use was among them.
    pub(crate) fn remove_local(&mut self, now: Instant, local: SocketAddr) -> bool {
        self.remove(now, |ends| ends.local == local)
    }

    /// Forgets the paths to a remote address that is gone; true if the one in use was among them.
    pub(crate) fn remove_remote(&mut self, now: Instant, remote: SocketAddr) -> bool {
        self.remove(now, |ends| ends.remote == remote)
    }

    fn remove(&mut self, now: Instant, is_gone: impl Fn(Ends) -> bool) -> bool {
        let was_current = self.current.is_some_and(&is_gone);
        let current = self.current;
        self.list.retain(|p| !is_gone(p.ends) || Some(p.ends) == current);
        if was_current && !matches!(self.health, Health::Lost { .. }) {
            self.health = Health::Suspect { since: now, again: now };
        }
        was_current
    }

    /// Uses a path that something came back over, or that ICE agreed on; true if that changes anything.
    pub(crate) fn use_path(&mut self, now: Instant, ends: Ends) -> bool {
        let changed = self.current() != Some(ends);
        if let Some(path) = self.list.iter_mut().find(|p| p.ends == ends) {
            path.is_proven = true;
        }
        self.current = Some(ends);
        self.plan_better(now);
        if changed {
            self.health = Health::Good;
            self.unanswered = None;
            self.heard = self.heard.max(now);
        }
        changed
    }

    fn plan_better(&mut self, now: Instant) {
        let is_relayed = self.rank() > Rank::Direct;
        self.better = match self.better {
            _ if !is_relayed => None,
            None => Some((now + BETTER_FIRST, BETTER_FIRST)),
            planned => planned,
        };
    }

    /// ICE agreed on a path; true if it is used from now on.
    pub(crate) fn on_nominated(&mut self, now: Instant, ends: Ends, rank: Rank) -> bool {
        // Where both are of a rank the peer nominated it for a reason; a worse one never replaces a live path.
        if self.health == Health::Good && self.current.is_some() && rank > self.rank() {
            return false;
        }
        self.use_path(now, ends)
    }

    /// Frames were sent on the path in use since `since`, and nothing was heard.
    pub(crate) fn on_unanswered(&mut self, since: Instant) {
        self.unanswered.get_or_insert(since);
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_uneasy(&self) -> bool {
        self.unanswered.is_some() || self.health != Health::Good
    }

    /// Records were opened on the path in use.
    pub(crate) fn on_heard_current(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        if !matches!(self.health, Health::Lost { .. }) {
            self.unanswered = None;
            self.health = Health::Good;
        }
    }

    /// A record was opened that came over `ends`; what for the peer must be asked whether it really is there, if so.
    /// A peer that searches probes all its paths: `is_search` moves nobody who is not searching too.
    pub(crate) fn on_heard(&mut self, now: Instant, ends: Ends, rank: Rank, is_search: bool) -> Option<Purpose> {
        if self.current() == Some(ends) {
            self.on_heard_current(now);
            return None;
        }
        self.heard = self.heard.max(now);
        let is_known = self.find(ends).is_some_and(|p| p.is_proven);
        self.add(ends, rank, None);
        let current = self.rank();
        let wanted = self.health != Health::Good || (!is_search && (!is_known || self.follows));
        let path = self.list.iter_mut().find(|p| p.ends == ends)?;
        let better = !is_search && path.rank < current;
        let too_soon = path
            .last_check
            .is_some_and(|at| now.saturating_duration_since(at) < CHECK_EVERY);
        let purpose = match (wanted, better) {
            _ if too_soon => None,
            (true, _) => Some(Purpose::Roam),
            (false, true) => Some(Purpose::Better),
            (false, false) => None,
        };
        if purpose.is_some() {
            path.last_check = Some(now);
        }
        purpose
    }

    /// Doubts the path in use: ICE finds it silent, or a keepalive is due.
    pub(crate) fn doubt(&mut self, now: Instant) -> Option<Step> {
        if self.health != Health::Good || self.current.is_none() {
            return None;
        }
        self.health = Health::Doubt { since: now };
        Some(Step::ProbeCurrent)
    }

    /// Notes a probe that leaves now.
    pub(crate) fn on_probe_sent(&mut self, now: Instant, token: u64, ends: Ends, purpose: Purpose) {
        let old = |p: &Probe| now.saturating_duration_since(p.sent) >= PROBE_LIFE;
        while self.probes.front().is_some_and(old) || self.probes.len() >= limits::PROBES {
            self.probes.pop_front();
        }
        self.probes.push_back(Probe {
            token,
            ends,
            sent: now,
            purpose,
        });
    }

    /// The peer sent a token back, and it came from `from`. A path is one both ways: an answer from elsewhere shows
    /// that a NAT took another mapping for it, which nothing would keep open (RFC 8445 section 7.2.5.2.1 for checks).
    pub(crate) fn on_answer(&mut self, now: Instant, token: u64, from: SocketAddr) -> Option<Answered> {
        let at = self.probes.iter().position(|p| p.token == token)?;
        let probe = self.probes.remove(at)?;
        self.heard = self.heard.max(now);
        if probe.ends.remote != from {
            return None;
        }
        let rtt = now.saturating_duration_since(probe.sent);
        if let Some(path) = self.list.iter_mut().find(|p| p.ends == probe.ends) {
            path.is_proven = true;
            path.rtt = Some(rtt);
        }
        let is_current = self.current == Some(probe.ends);
        let searching = match self.health {
            Health::Good | Health::Doubt { .. } => false,
            Health::Suspect { since, .. } => probe.sent >= since,
            // ICE may have moved on since; any sealed answer will do.
            Health::Lost { .. } => true,
        };
        let wants_it = match probe.purpose {
            Purpose::Roam => !is_current,
            Purpose::Better => !is_current && self.find(probe.ends).is_some_and(|p| p.rank < self.rank()),
            Purpose::Liveness | Purpose::Ping(_) => false,
        };
        let moved = if searching || wants_it {
            self.use_path(now, probe.ends)
        } else {
            false
        };
        if is_current {
            self.unanswered = None;
            self.health = Health::Good;
        }
        Some(Answered {
            ends: probe.ends,
            rtt,
            purpose: probe.purpose,
            moved,
        })
    }

    /// What is due now, if anything.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Step> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        match self.health {
            Health::Good if self.better.is_some_and(|(at, _)| now >= at) => {
                let wait = self
                    .better
                    .map_or(BETTER_FIRST, |(_, wait)| (wait * 2).min(BETTER_LAST));
                self.better = Some((now + wait, wait));
                Some(Step::ProbeBetter)
            }
            Health::Good => self.doubt(now),
            Health::Doubt { .. } => {
                self.health = Health::Suspect {
                    since: now,
                    again: now + REPEAT_SUSPECT,
                };
                Some(Step::ProbeAll)
            }
            Health::Suspect { since, .. } if now >= since + LOST_AFTER => {
                self.health = Health::Lost {
                    since: now,
                    again: now + REPEAT_LOST,
                };
                Some(Step::Lost)
            }
            Health::Suspect { since, .. } => {
                let again = now + REPEAT_SUSPECT;
                self.health = Health::Suspect { since, again };
                Some(Step::ProbeAll)
            }
            Health::Lost { since, .. } if now >= since + DEAD_AFTER => Some(Step::Dead),
            Health::Lost { since, .. } => {
                let again = now + REPEAT_LOST;
                self.health = Health::Lost { since, again };
                Some(Step::ProbeAll)
            }
        }
    }

    /// When `handle_timeout` has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.current?;
        Some(match self.health {
            Health::Good => {
                let doubt = self.unanswered.map(|since| since + DOUBT_AFTER);
                let keepalive = self.heard + KEEPALIVE;
                let better = self.better.map(|(at, _)| at);
                [doubt, better].into_iter().flatten().fold(keepalive, Instant::min)
            }
            Health::Doubt { since } => {
                let rtt = self.last().and_then(|p| p.rtt).unwrap_or_default();
                since + ANSWER_AFTER.max(rtt * 2)
            }
            Health::Suspect { since, again } => again.min(since + LOST_AFTER),
            Health::Lost { since, again } => again.min(since + DEAD_AFTER),
        })
    }
}

#[cfg(test)]
mod tests;
