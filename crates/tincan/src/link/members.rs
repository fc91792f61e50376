//! What a link has to do with members: it may have ways through some to its peer, and may carry others' datagrams itself.
//!
//! Promises: a link that goes through a member carries nobody's datagrams, so nothing is ever wrapped twice; whoever it
//! carries for learns when something is too long.
//! Refuses to know: which members there are and who of them may be used (the node), what is in a datagram.

use api::NodeId;

use super::paths::Ends;
use super::resend::Again;
use super::{Cx, Link, LinkOutput, Phase};
use crate::forward::DropReason;
use crate::ice::Rank;
use crate::limits;
use crate::parts;
use crate::transit::{self, Way};

/// The members that the ends of a link named to each other, and what ways that makes.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Through whom we can be reached.
    pub(super) own: Vec<NodeId>,
    /// Through whom the peer says it can be.
    theirs: Vec<NodeId>,
    /// What both together, and our links, make of it.
    pub(super) ways: Vec<Way>,
    /// The restart for which the peer was told.
    told_for: u32,
}

impl Members {
    /// As a link begins.
    pub(super) fn named(own: Vec<NodeId>) -> Self {
        Self { own, ..Self::default() }
    }
}

impl Link {
    /// Through whom the peer says that it can be reached.
    pub(crate) fn peer_members(&self) -> &[NodeId] {
        &self.members.theirs
    }

    /// Whether the two should know at once who else could be between: there is no better way.
    pub(crate) fn wants_members(&self) -> bool {
        let is_direct = self.paths.current().is_some() && self.paths.rank() == Rank::Direct;
        !(self.is_up() && is_direct)
    }

    pub(super) fn take_members(&mut self, theirs: &[NodeId]) {
        let theirs = &theirs[..theirs.len().min(limits::LISTED_MEMBERS)];
        if self.members.theirs != theirs {
            self.members.theirs = theirs.to_vec();
            self.out.push_back(LinkOutput::Members);
        }
    }

    /// The members as they are now: those to be named to the peer, and the ways that there are.
    pub(crate) fn set_members(&mut self, cx: &mut Cx<'_>, own: Vec<NodeId>, ways: Vec<Way>) {
        if self.members.own != own {
            self.members.own = own;
            let is_restarted = std::mem::replace(&mut self.members.told_for, self.generation) != self.generation;
            // An unanswered offer goes again in whole by and by.
            if (self.wants_members() || is_restarted) && !self.is_offered() {
                let before = self.candidates_again.filter(|again| !again.is_last);
                self.candidates_again = Some(before.unwrap_or(Again::soon(cx.now)));
            }
        }
        if self.members.ways == ways {
            return;
        }
        let before = std::mem::replace(&mut self.members.ways, ways);
        self.agent.set_ways(cx.now, &self.members.ways);
        for gone in before.iter().filter(|way| !self.members.ways.contains(way)) {
            if self.paths.remove_remote(cx.now, gone.address()) && self.is_up() {
                self.out.push_back(LinkOutput::Changed);
            }
        }
        self.drain_agent(cx);
    }

    // --- carrying ---

    /// A payload that came in a record over `ends`.
    pub(super) fn on_transit(&mut self, ends: Ends, payload: &[u8]) -> Result<(), DropReason> {
        if transit::is_reserved(ends.remote.ip()) {
            return Err(DropReason::TransitNested);
        }
        self.out.push_back(LinkOutput::Transit(payload.to_vec()));
        Ok(())
    }

    /// Whether it may carry datagrams of other links now.
    pub(crate) fn carries(&self) -> bool {
        self.is_up() && self.paths.current().is_some() && self.paths.rank() != Rank::Member
    }

    /// The longest transit payload that the path carries whole.
    pub(crate) fn payload_max(&self) -> usize {
        self.mtu.size()
    }

    /// Seals a transit payload for the peer. One that is too long is cut where it `may_be_cut`.
    pub(crate) fn send_inside(&mut self, cx: &mut Cx<'_>, payload: &[u8], may_be_cut: bool) -> Result<(), DropReason> {
        let ends = self.paths.current().ok_or(DropReason::TransitLink)?;
        let (&kind, body) = payload.split_first().ok_or(DropReason::TransitForm)?;
        self.begin_carrying(cx);
        if payload.len() <= self.payload_max() {
            self.send_control(cx, ends, kind, body);
        } else if may_be_cut {
            self.send_parts(cx, ends, payload)?;
        } else {
            return Err(DropReason::TooBig);
        }
        self.shared.on_carried(1);
        if self.shared.wants_waking() {
            self.watch(cx);
        }
        Ok(())
    }

    /// From now on longer payloads than the NIC's frames are wanted: what is wrapped should be as long as other frames.
    fn begin_carrying(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.carries_others, true) {
            self.set_top(cx);
        }
    }

    pub(super) fn send_parts(&mut self, cx: &mut Cx<'_>, ends: Ends, whole: &[u8]) -> Result<(), DropReason> {
        self.cut = self.cut.wrapping_add(1);
        // A kind stands before each part.
        let bodies = parts::cut(self.cut, whole, self.mtu.size() - 1).ok_or(DropReason::TooBig)?;
        for body in bodies {
            self.send_control(cx, ends, super::control::PART, &body);
        }
        Ok(())
    }

    /// The way through a member carries datagrams of at most so many bytes up to the member.
    pub(crate) fn on_room(&mut self, cx: &mut Cx<'_>, room: usize) {
        let frame_max = room.saturating_sub(crate::record::OVERHEAD);
        self.mtu.on_refused(cx.now, frame_max + 1);
        self.drain_mtu(cx);
    }

    /// Where the path in use goes through a member.
    pub(crate) fn way(&self) -> Option<Way> {
        Way::of(self.paths.current()?.remote).filter(|_| !matches!(self.phase, Phase::Closed))
    }
}
