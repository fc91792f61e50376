//! Joining a group by an invite.
//!
//! One round trip to a member after its card is seen: the request goes sealed, our offer right behind it; the answer brings
//! the log, and the answer to the offer follows.

use std::collections::BTreeSet;
use std::time::Instant;

use api::control::{JoinGroup, Joined};
use api::link::{LinkCall, NetworkRef, NodeRef, Purpose, SealedMessage, Signer};
use api::rendezvous::{Occupant, RendezvousCommand};
use api::rpc::{ApiError, ErrorKind};
use api::{NodeId, link::PeerMessage};

use crate::addressing::{free_name, host_label};
use crate::crypto::hash;
use crate::entry::{Draft, Role};
use crate::invite::Invite;
use crate::limits::{JOIN_DEADLINE, JOIN_NAMES_MAX, SPONSOR_PATIENCE, SPONSORS_MAX};
use crate::log::Source;
use crate::membership::Roster;
use crate::message::{Message, Refusal, RequestTag, seal_envelope};

use super::Controller;
use super::create::{login, rendezvous_error, wished_mtu};
use super::effects::{AfterSeal, Cx, GroupCall, Now, RequestId};
use super::group::{Group, Stage};

/// A group being joined.
pub(super) struct Joining {
    pub(super) request: RequestId,
    pub(super) started: Instant,
    invite: Invite,
    wanted: String,
    /// Names that were taken; none is looked for beside one that the user chose.
    taken: Option<BTreeSet<String>>,
    /// The join message, once signed, with its tag.
    message: Option<(Vec<u8>, RequestTag)>,
    /// Members asked, and when.
    pub(super) asked: Vec<(NodeId, Instant)>,
    /// When the one asked last has had its time.
    patience_until: Option<Instant>,
    /// Members that cannot let us in now.
    declined: Vec<(NodeId, String)>,
    /// Whether the roster has us.
    pub(super) admitted: bool,
    /// Whether the rendezvous was reached.
    online: bool,
}

impl Joining {
    pub(super) fn timeout(&self) -> Instant {
        let deadline = self.started + JOIN_DEADLINE;
        self.patience_until.map_or(deadline, |at| at.min(deadline))
    }

    /// The machine's own name is taken, as two of one make often have one name: asks for the next; false where the user
    /// chose it, or too many are.
    fn rename(&mut self) -> bool {
        let Some(taken) = self.taken.as_mut().filter(|taken| taken.len() < JOIN_NAMES_MAX) else {
            return false;
        };
        taken.insert(self.wanted.clone());
        let plain = taken.iter().min_by_key(|name| name.len()).expect("one was put in");
        self.wanted = free_name(plain, taken);
        self.message = None;
        self.asked.clear();
        true
    }
}

impl Controller {
    pub(super) fn join(&mut self, now: Now, request: RequestId, params: JoinGroup) {
        let invite = match self.usable_invite(now, &params) {
            Ok(invite) => invite,
            Err(error) => return self.fx.refuse(request, error),
        };
        let mtu = match wished_mtu(params.mtu) {
            Ok(mtu) => mtu,
            Err(error) => return self.fx.refuse(request, error),
        };
        let network = invite.network;
        let wanted = params
            .host_name
            .as_deref()
            .map_or_else(|| self.host_name.clone(), host_label);
        let login = login(&mut self.fx, invite.server.clone(), params.account);
        let entries = [invite.genesis.clone(), invite.grant.clone()];
        let joining = Joining {
            request,
            started: now.mono,
            invite,
            wanted,
            taken: params.host_name.is_none().then(BTreeSet::new),
            message: None,
            asked: Vec::new(),
            patience_until: None,
            declined: Vec::new(),
            admitted: false,
            online: false,
        };
        let mut group = Group::new(network, login, Stage::Joining(Box::new(joining)));
        group.mtu = mtu;
        group.log.insert(Source::Anybody, entries);
        group.roster = Roster::evaluate(&group.log);
        self.groups.insert(network, group);
        self.with(now, network, |group, cx| {
            cx.call(network, GroupCall::Identity, LinkCall::Identity(NetworkRef { network }));
            group.start_meeting(cx, Vec::new());
        });
    }

    fn usable_invite(&self, now: Now, params: &JoinGroup) -> Result<Invite, ApiError> {
        let refuse = |e: crate::invite::InviteError| ApiError::new(ErrorKind::Invite, e.to_string()).field("invite");
        let invite = Invite::parse(&params.invite).map_err(refuse)?;
        invite.check_time(now.unix).map_err(refuse)?;
        self.require_ready()?;
        let name = &invite.facts().name;
        if self.groups.contains_key(&invite.network) {
            let text = format!("this machine is in {name} already: `ipop status` shows it");
            return Err(ApiError::new(ErrorKind::Taken, text).field("invite"));
        }
        self.require_room(name)?;
        for subnet in invite.subnets() {
            self.require_clear(subnet).map_err(|text| {
                let text = format!("{text}: {name} cannot be joined until that is gone");
                ApiError::new(ErrorKind::Taken, text).field("invite")
            })?;
        }
        Ok(invite)
    }
}

impl Group {
    /// Our id is known: NIC and request are made while the rendezvous is being reached.
    pub(super) fn request(&mut self, cx: &mut Cx<'_>) {
        let (Stage::Joining(joining), Some(node)) = (&self.stage, self.node) else {
            return;
        };
        let draft = Draft::request(self.network, &joining.invite.key, node, cx.now.unix, &joining.wanted);
        let payload = draft.payload(Role::Joiner);
        // The NIC comes first: where there is no permission for one, nobody shall be asked to admit us.
        self.reconcile(cx);
        cx.sign(
            self.network,
            Signer::Node,
            Purpose::LogEntry,
            payload,
            GroupCall::SignRequest(draft),
        );
    }

    pub(super) fn request_signed(&mut self, cx: &mut Cx<'_>, draft: Draft, signature: Result<Vec<u8>, ApiError>) {
        let signature = match signature {
            Ok(signature) => signature,
            Err(error) => return self.abort(cx, error),
        };
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        let request = draft.signed(&signature).into_bytes();
        let tag = tag_of(&request);
        let grant = joining.invite.grant.bytes().to_vec();
        joining.message = Some((Message::Join { grant, request }.to_bytes(), tag));
        self.ask(cx);
    }

    pub(super) fn joining_online(&mut self, online: bool) {
        if let Stage::Joining(joining) = &mut self.stage {
            joining.online |= online;
        }
    }

    /// Asks a member that is there, if nobody is being waited for: the founder first.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_>) {
        let founder = self.facts().map(|f| f.founder);
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        let Some((message, _)) = joining.message.clone().filter(|_| !joining.admitted) else {
            return;
        };
        let declined = |node: NodeId| joining.declined.iter().any(|(n, _)| *n == node);
        let impatient = |(node, at): &(NodeId, Instant)| declined(*node) || *at + SPONSOR_PATIENCE <= cx.now.mono;
        if joining.asked.len() >= SPONSORS_MAX || !joining.asked.iter().all(impatient) {
            return;
        }
        let fresh = |node: &NodeId| !joining.asked.iter().any(|(n, _)| n == node);
        let mut there: Vec<NodeId> = self.meeting.nodes().into_iter().filter(fresh).collect();
        there.retain(|node| self.roster.has(*node));
        there.sort_by_key(|node| Some(*node) != founder);
        let Some(node) = there.first().copied() else {
            return;
        };
        joining.asked.push((node, cx.now.mono));
        joining.patience_until = Some(cx.now.mono + SPONSOR_PATIENCE);
        let occupants = self.meeting.seats_of(node);
        self.seal_to(cx, node, occupants, message, AfterSeal::Offer(node));
    }

    /// Seals a message and sends it to occupants.
    pub(super) fn seal_to(
        &mut self,
        cx: &mut Cx<'_>,
        node: NodeId,
        occupants: Vec<Occupant>,
        message: Vec<u8>,
        after: AfterSeal,
    ) {
        let call = LinkCall::SealMessage(PeerMessage {
            network: self.network,
            node,
            data: api::Blob(message),
        });
        cx.call(self.network, GroupCall::Seal(occupants, after), call);
    }

    pub(super) fn sealed(
        &mut self,
        cx: &mut Cx<'_>,
        occupants: Vec<Occupant>,
        after: AfterSeal,
        result: Result<SealedMessage, ApiError>,
    ) {
        let Ok(sealed) = result else {
            return self.count("message that could not be sealed");
        };
        let bytes = seal_envelope(&sealed.blob.0);
        for to in occupants {
            let bytes = bytes.clone();
            cx.fx.rendezvous(self.network, RendezvousCommand::Send { to, bytes });
        }
        if let AfterSeal::Offer(node) = after
            && matches!(self.stage, Stage::Joining(_))
        {
            self.reconcile(cx);
            self.open(cx, node);
        }
    }

    /// A member let us in. The entries prove it, not its word.
    pub(super) fn welcomed(&mut self, cx: &mut Cx<'_>, from: NodeId, tag: RequestTag, entries: &[Vec<u8>]) {
        if self.awaits(from, tag) {
            let entries = self.verify(entries);
            self.learn(cx, Source::Member, entries, Some(from));
        }
    }

    /// A member does not let us in.
    pub(super) fn refused(&mut self, cx: &mut Cx<'_>, from: NodeId, tag: RequestTag, refusal: Refusal, reason: String) {
        if !self.awaits(from, tag) {
            return;
        }
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        if refusal == Refusal::Name && joining.rename() {
            return self.request(cx);
        }
        let kind = match refusal {
            Refusal::Invite => ErrorKind::Invite,
            Refusal::Name => ErrorKind::Taken,
            Refusal::Barred => ErrorKind::Refused,
            Refusal::Busy => {
                joining.declined.push((from, reason));
                return self.ask(cx);
            }
        };
        let field = if refusal == Refusal::Name {
            "host_name"
        } else {
            "invite"
        };
        self.abort(cx, ApiError::new(kind, reason).field(field));
    }

    fn awaits(&self, from: NodeId, tag: RequestTag) -> bool {
        match &self.stage {
            Stage::Joining(joining) => {
                !joining.admitted
                    && joining.asked.iter().any(|(node, _)| *node == from)
                    && joining.message.as_ref().is_some_and(|(_, own)| *own == tag)
            }
            _ => false,
        }
    }

    /// The log has us: from here on the membership is kept.
    pub(super) fn admitted(&mut self, cx: &mut Cx<'_>) {
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        if joining.admitted {
            return;
        }
        joining.admitted = true;
        for peer in self.peers.values_mut() {
            peer.courtesy_until = None;
            peer.eager = true;
        }
        cx.fx.save();
        self.show_card(cx);
        self.joined(cx);
    }

    /// Answers once we are in and a member is linked.
    pub(super) fn joined(&mut self, cx: &mut Cx<'_>) {
        let Stage::Joining(joining) = &self.stage else {
            return;
        };
        let first = self.peers.iter().find(|(_, peer)| peer.is_up()).map(|(node, _)| *node);
        let member = first.and_then(|node| self.roster.members.get(&node));
        let (Some(member), Some(group), true) = (member, self.info(), joining.admitted) else {
            return;
        };
        let answer = Joined {
            group,
            member: member.name.clone(),
            elapsed_ms: cx.now.mono.saturating_duration_since(joining.started).as_millis() as u64,
        };
        let request = joining.request;
        self.stage = Stage::Member;
        cx.fx.reply_saved(request, answer);
    }

    pub(super) fn joining_timeout(&mut self, cx: &mut Cx<'_>) {
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        joining.patience_until = joining.patience_until.filter(|at| *at > cx.now.mono);
        if cx.now.mono < joining.started + JOIN_DEADLINE {
            return self.ask(cx);
        }
        let request = joining.request;
        let admitted = joining.admitted;
        let Stage::Joining(joining) = &self.stage else {
            return;
        };
        let error = self.join_failure(joining);
        if admitted {
            // The invite is spent and the membership real: it is kept, and links go on being tried.
            self.stage = Stage::Member;
            cx.fx.refuse(request, error);
        } else {
            self.abort(cx, error);
        }
    }

    /// What was reached and what was not.
    fn join_failure(&self, joining: &Joining) -> ApiError {
        let seconds = JOIN_DEADLINE.as_secs();
        let group = self.name();
        let label = self.login.server.label();
        let name = |node: &NodeId| {
            self.roster
                .members
                .get(node)
                .map_or_else(|| node.short(), |m| m.name.clone())
        };
        let asked: Vec<String> = joining.asked.iter().map(|(node, _)| name(node)).collect();
        let asked = asked.join(", ");
        if joining.admitted {
            let why = self.peers.values().find_map(|p| p.last_fault.clone());
            let why = why.map(|w| format!(" ({w})")).unwrap_or_default();
            let text = format!(
                "{group} let this node in, but no member could be linked within {seconds} s{why}: \
                 it goes on trying, see `ipop status` and `ipop netcheck`"
            );
            return ApiError::new(ErrorKind::Timeout, text);
        }
        if let Some((fault, reason)) = &self.meeting.fault {
            return rendezvous_error(*fault, reason);
        }
        if !joining.online {
            let text = format!("the rendezvous {label} did not answer within {seconds} s: is it running?");
            return ApiError::new(ErrorKind::Timeout, text);
        }
        if let Some((node, reason)) = joining.declined.last() {
            return ApiError::new(
                ErrorKind::Refused,
                format!("{} did not let this node in: {reason}", name(node)),
            );
        }
        let text = if asked.is_empty() {
            format!(
                "the rendezvous {label} was reached, but no member of {group} is online there: start one and join again"
            )
        } else {
            format!("{asked} is at the rendezvous {label}, but did not answer within {seconds} s: try again")
        };
        ApiError::new(ErrorKind::Timeout, text)
    }

    /// Opens a link at once.
    pub(super) fn open(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let network = self.network;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.link = super::group::Link::Opening(cx.now.mono);
            peer.open_at = None;
            cx.call(
                network,
                GroupCall::OpenLink(node),
                LinkCall::OpenLink(NodeRef { network, node }),
            );
        }
    }
}

/// Names a request in its answer, so that an answer to another is told apart.
pub(super) fn tag_of(request: &[u8]) -> RequestTag {
    let mut tag = [0; 16];
    tag.copy_from_slice(&hash("ipop join tag v1", &[request])[..16]);
    tag
}
