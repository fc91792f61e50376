//! What a link signals to its peer, and what the peer's signals do to it.
//!
//! Promises: a signal of another attempt, or of a restart that is over, changes nothing.
//! Refuses to know: how a signal is sealed and carried.

use api::NodeId;
use rand::RngCore;

use super::resend::Again;
use super::{Cx, Link, LinkOutput, Phase};
use crate::forward::DropReason;
use crate::ice::{Candidate, Credentials};
use crate::signal::{self, Body};

impl Link {
    /// The offer again, now: after the peer's lost against ours, or with more candidates.
    pub(crate) fn send_offer(&mut self) {
        let offer = signal::Offer {
            session: self.config.session,
            versions: signal::LINK_VERSIONS.to_vec(),
            secret: self.config.secret.clone(),
            credentials: self.agent.credentials().clone(),
            candidates: self.agent.local_candidates().to_vec(),
            members: self.members.own.clone(),
        };
        self.out.push_back(LinkOutput::Signal(Body::Offer(offer)));
    }

    /// The answer, again if the offer came again.
    pub(crate) fn send_answer(&mut self) {
        let answer = signal::Answer {
            session: self.config.session,
            version: signal::LINK_VERSIONS[0],
            credentials: self.agent.credentials().clone(),
            candidates: self.agent.local_candidates().to_vec(),
            members: self.members.own.clone(),
        };
        self.out.push_back(LinkOutput::Signal(Body::Answer(answer)));
    }

    pub(super) fn send_candidates(&mut self, cx: &mut Cx<'_>) {
        let body = Body::Candidates(signal::Candidates {
            session: self.config.session,
            generation: self.generation,
            candidates: self.agent.local_candidates().to_vec(),
            members: self.members.own.clone(),
        });
        let over_link = self.paths.current().is_some();
        let sent = match &mut self.phase {
            Phase::Up(up) if over_link => up.send_signal(&body),
            _ => false,
        };
        if sent {
            self.drain_carriers(cx);
        } else {
            self.out.push_back(LinkOutput::Signal(body));
        }
    }

    pub(super) fn send_restart(&mut self, is_answer: bool) {
        let restart = signal::Restart {
            session: self.config.session,
            generation: self.generation,
            is_answer,
            credentials: self.agent.credentials().clone(),
            candidates: self.agent.local_candidates().to_vec(),
            members: self.members.own.clone(),
        };
        self.out.push_back(LinkOutput::Signal(Body::Restart(restart)));
    }

    /// The peer's answer to our offer.
    pub(crate) fn handle_answer(&mut self, cx: &mut Cx<'_>, answer: &signal::Answer) -> Result<(), DropReason> {
        if !self.is_offered() {
            return Err(DropReason::SignalStale);
        }
        if !signal::LINK_VERSIONS.contains(&answer.version) {
            self.close_with(
                "the peer's IPOP speaks no version of link that this one does: update the older of the two",
            );
            return Ok(());
        }
        self.phase = Phase::Checking;
        self.take_remote(cx, answer.credentials.clone(), &answer.candidates, &answer.members);
        self.candidates_again.get_or_insert(Again::last(cx.now));
        self.drain_agent(cx);
        Ok(())
    }

    /// The peer's candidates as they are now.
    pub(crate) fn handle_candidates(&mut self, cx: &mut Cx<'_>, list: &signal::Candidates) -> Result<(), DropReason> {
        if list.generation != self.generation {
            return Err(DropReason::SignalStale);
        }
        self.add_remotes(cx, &list.candidates);
        self.take_members(&list.members);
        self.drain_agent(cx);
        Ok(())
    }

    /// The peer found no path and starts ICE again, or answers our own start.
    pub(crate) fn handle_restart(&mut self, cx: &mut Cx<'_>, restart: &signal::Restart) -> Result<(), DropReason> {
        if !self.is_up() || restart.generation < self.generation || restart.generation == 0 {
            return Err(DropReason::SignalStale);
        }
        if restart.generation == self.generation && self.agent.has_remote() {
            // Our answer may have been lost.
            if !restart.is_answer {
                self.send_restart(true);
            }
            return Ok(());
        }
        if restart.generation > self.generation {
            self.generation = restart.generation;
            self.renew_agent(cx);
            self.out.push_back(LinkOutput::Members);
        }
        self.take_remote(cx, restart.credentials.clone(), &restart.candidates, &restart.members);
        if !restart.is_answer {
            self.send_restart(true);
        }
        self.drain_agent(cx);
        self.out.push_back(LinkOutput::VerifyRelays);
        if self.paths.is_uneasy() {
            self.probe_all(cx);
        }
        Ok(())
    }

    pub(super) fn renew_agent(&mut self, cx: &mut Cx<'_>) {
        let credentials = Credentials::from_entropy(cx.bytes32());
        let tie_breaker = cx.rng.next_u64();
        self.agent.restart(cx.now, credentials, tie_breaker);
        self.agent.set_ways(cx.now, &self.members.ways);
    }

    pub(super) fn take_remote(
        &mut self,
        cx: &mut Cx<'_>,
        credentials: Credentials,
        candidates: &[Candidate],
        members: &[NodeId],
    ) {
        self.add_remotes(cx, candidates);
        self.take_members(members);
        self.agent.set_remote(cx.now, credentials);
    }

    fn add_remotes(&mut self, cx: &mut Cx<'_>, candidates: &[Candidate]) {
        for candidate in candidates {
            // An address that policy refuses is one less to try.
            if self.agent.add_remote(cx.now, *candidate).is_ok() {
                self.out.push_back(LinkOutput::Permit(candidate.address));
            }
            // Its checks may have come before this signal: then it looked like the peer itself.
            let rank = self.agent.rank_of_remote(candidate.address);
            if self.paths.mark_relayed(cx.now, candidate.address, rank) && self.is_up() {
                self.out.push_back(LinkOutput::PathChanged);
                self.start_mtu(cx);
            }
        }
    }
}
