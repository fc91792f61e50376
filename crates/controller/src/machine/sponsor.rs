//! Letting others in.
//!
//! Promises: one admission at a time, so that an invite's last use goes to one; the admission is stored before it is promised.

use std::collections::VecDeque;

use api::NodeId;
use api::link::{Purpose, Signer};
use api::rpc::ApiError;

use crate::entry::{Draft, Entry, Request, Role, Verified};
use crate::invite::Ago;
use crate::limits::{CLOCK_TOLERANCE_S, JOIN_QUEUE_MAX, LOG_ENTRIES_MAX, LOG_ROOT_RESERVE, SPONSOR_WAIT};
use crate::log::Source;
use crate::membership::Gone;
use crate::message::{Message, Refusal, parts};

use super::effects::{AfterSeal, Cx, GroupCall};
use super::group::Group;
use super::inbox::Sender;
use super::join::tag_of;

/// A join request with the way back.
#[derive(Debug)]
pub(super) struct Work {
    from: NodeId,
    sender: Sender,
    grant: Vec<u8>,
    request: Vec<u8>,
}

/// Requests under way.
#[derive(Default)]
pub(super) struct Sponsoring {
    busy: bool,
    waiting: VecDeque<Work>,
}

/// What becomes of a request.
enum Verdict {
    AlreadyIn,
    Admit(Box<Request>, u16),
    Refuse(Refusal, String),
}

impl Group {
    /// A stranger asks to be let in.
    pub(super) fn join_asked(
        &mut self,
        cx: &mut Cx<'_>,
        from: NodeId,
        sender: &Sender,
        grant: Vec<u8>,
        request: Vec<u8>,
    ) {
        let work = Work {
            from,
            sender: sender.clone(),
            grant,
            request,
        };
        if !self.is_member() {
            let text = "this member is just joining or leaving: ask another".to_owned();
            return self.answer_refused(cx, &work, Refusal::Busy, text);
        }
        if self.sponsoring.waiting.len() >= JOIN_QUEUE_MAX {
            let text = "this member is letting many others in: try again in a moment".to_owned();
            return self.answer_refused(cx, &work, Refusal::Busy, text);
        }
        self.inbox.hold(sender, cx.now.mono + SPONSOR_WAIT);
        self.sponsoring.waiting.push_back(work);
        self.sponsor_next(cx);
    }

    fn sponsor_next(&mut self, cx: &mut Cx<'_>) {
        while !self.sponsoring.busy {
            let Some(work) = self.sponsoring.waiting.pop_front() else {
                return;
            };
            match self.judge(cx, &work) {
                Verdict::AlreadyIn => self.welcome(cx, &work),
                Verdict::Refuse(refusal, text) => self.answer_refused(cx, &work, refusal, text),
                Verdict::Admit(request, index) => self.countersign(cx, work, &request, index),
            }
        }
    }

    fn countersign(&mut self, cx: &mut Cx<'_>, work: Work, request: &Request, index: u16) {
        let Some(node) = self.node else {
            return;
        };
        self.sponsoring.busy = true;
        let draft = Draft::admission(self.network, request, node, index, cx.now.unix);
        let payload = draft.payload(Role::Sponsor);
        let then = GroupCall::SignAdmission(Box::new(work), draft);
        cx.sign(self.network, Signer::Node, Purpose::LogEntry, payload, then);
    }

    fn judge(&mut self, cx: &mut Cx<'_>, work: &Work) -> Verdict {
        let group = self.name().to_owned();
        let refuse = |text: String| Verdict::Refuse(Refusal::Invite, text);
        let request = match Request::parse(self.network, &work.request) {
            Ok(request) if request.joiner == work.from => request,
            _ => {
                return refuse(
                    "the join request is not signed by its invite and its node: ask for a new invite".to_owned(),
                );
            }
        };
        if let Ok(grant) = Verified::parse(self.network, &work.grant)
            && matches!(grant.entry(), Entry::Grant(grant) if grant.key == request.grant)
        {
            self.learn(cx, Source::Anybody, vec![grant], None);
        }
        let Some(Entry::Grant(grant)) = self.log.grant_of(request.grant).map(Verified::entry) else {
            return refuse(format!("the invite was not granted by {group}: ask for a new one"));
        };
        match self.roster.gone.get(&work.from) {
            Some(Gone::Ejected) => {
                let text = format!("this node was removed from {group} by its founder and cannot join again");
                return Verdict::Refuse(Refusal::Barred, text);
            }
            Some(Gone::Left(at)) if request.joined_at <= *at => {
                let text = format!("this node left {group} at a later time than its clock shows now: set its clock");
                return Verdict::Refuse(Refusal::Barred, text);
            }
            _ => {}
        }
        if self.roster.has(work.from) {
            return Verdict::AlreadyIn;
        }
        if cx.now.unix > grant.expires_at.saturating_add(CLOCK_TOLERANCE_S) {
            let ago = Ago(cx.now.unix - grant.expires_at);
            return refuse(format!(
                "the invite expired {ago} by the clock of {}: ask for a new one",
                self.own_name()
            ));
        }
        let (used, by_this_node) = self.roster.uses_of(&request.grant, work.from);
        if used >= usize::from(grant.uses) && !by_this_node {
            return refuse("the invite is used up: ask for a new one".to_owned());
        }
        let index = (used as u16).saturating_add(1);
        self.judge_place(request, index)
    }

    /// Whether there is room for it in the group.
    fn judge_place(&self, request: Request, index: u16) -> Verdict {
        let group = self.name();
        if self.roster.members.values().any(|m| m.name == request.name) {
            let text = format!(
                "the name \"{}\" is taken in {group}: choose another with --name",
                request.name
            );
            return Verdict::Refuse(Refusal::Name, text);
        }
        let taken = self.roster.members.values().filter_map(|m| m.v4).collect();
        let subnet = self.facts().map(|f| f.subnet);
        if subnet
            .and_then(|s| crate::addressing::ipv4_of(s, request.joiner, &taken))
            .is_none()
        {
            let text = format!("the subnet of {group} is full: nobody can join until a member leaves");
            return Verdict::Refuse(Refusal::Barred, text);
        }
        if self.log.len() + LOG_ROOT_RESERVE >= LOG_ENTRIES_MAX {
            let text = format!("the membership log of {group} is full: make a new group");
            return Verdict::Refuse(Refusal::Barred, text);
        }
        Verdict::Admit(Box::new(request), index)
    }

    pub(super) fn admission_signed(
        &mut self,
        cx: &mut Cx<'_>,
        work: Work,
        draft: Draft,
        signature: Result<Vec<u8>, ApiError>,
    ) {
        self.sponsoring.busy = false;
        match self.entry_of(draft, signature) {
            Ok(entry) => {
                // Stored and spread here, and `peer.set` goes out, before the answer and what follows it.
                self.learn(cx, Source::Anybody, vec![entry], None);
                if self.roster.has(work.from) {
                    self.welcome(cx, &work);
                } else {
                    let text = "the invite is used up: ask for a new one".to_owned();
                    self.answer_refused(cx, &work, Refusal::Invite, text);
                }
            }
            Err(error) => self.answer_refused(cx, &work, Refusal::Busy, error.message),
        }
        self.sponsor_next(cx);
    }

    fn welcome(&mut self, cx: &mut Cx<'_>, work: &Work) {
        let tag = tag_of(&work.request);
        let chain: Vec<_> = self.roster.chain_of(&self.log, work.from).into_iter().rev().collect();
        let ids: std::collections::BTreeSet<_> = chain.iter().map(|e| e.id()).collect();
        let rest = self.log.in_order().into_iter().filter(|e| !ids.contains(&e.id()));
        let all = parts(chain.into_iter().chain(rest).map(Verified::bytes));
        for (number, entries) in all.into_iter().enumerate() {
            let message = match number {
                0 => Message::Welcome { tag, entries },
                _ => Message::Entries(entries),
            };
            self.answer(cx, work, &message);
        }
        self.served(cx, &work.sender);
    }

    fn answer_refused(&mut self, cx: &mut Cx<'_>, work: &Work, refusal: Refusal, reason: String) {
        let tag = tag_of(&work.request);
        self.answer(cx, work, &Message::Refused { tag, refusal, reason });
        self.served(cx, &work.sender);
    }

    fn answer(&mut self, cx: &mut Cx<'_>, work: &Work, message: &Message) {
        if let Sender::Occupant(occupant) = &work.sender {
            let occupants = vec![occupant.clone()];
            self.seal_to(cx, work.from, occupants, message.to_bytes(), AfterSeal::Nothing);
        }
    }

    /// What the joiner sent behind its request may come now.
    fn served(&mut self, cx: &mut Cx<'_>, sender: &Sender) {
        self.inbox.release(sender);
        self.pump(cx, sender);
    }
}
