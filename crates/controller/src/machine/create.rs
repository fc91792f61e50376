//! Making a group, inviting into it, leaving it.

use std::time::Instant;

use api::control::{Account, CreateGroup, CreateInvite, Invite as InviteAnswer};
use api::link::{LinkCall, MTU_MAX, MTU_MIN, NetworkRef, Purpose, Signer, default_mtu};
use api::rendezvous::{Login, RendezvousFault, ServerAddress};
use api::rpc::{ApiError, Empty, ErrorKind};
use api::{Cidr, NetworkId};
use data_encoding::BASE32_NOPAD;
use rand::RngCore;

use crate::InviteKey;
use crate::addressing::{Route, collision, host_label, is_group_name, is_group_subnet, pick_subnet};
use crate::entry::{Draft, Entry, Genesis, Grant, Leave, Role, Verified};
use crate::invite::Invite;
use crate::limits::{CREATE_DEADLINE, GROUPS_MAX, INVITE_SECONDS, INVITE_USES_MAX, LEAVE_LINGER, UNREACHABLE_GRACE};
use crate::log::Source;
use crate::membership::Roster;

use super::effects::{Cx, GroupCall, Now, Pending, RequestId};
use super::group::{Group, Stage};
use super::{Controller, Effects};

/// A group to be made, every wish checked.
#[derive(Debug)]
pub(super) struct Founding {
    pub(super) name: String,
    subnet: Cidr,
    host_name: String,
    login: Login,
    mtu: u16,
    started: Instant,
}

/// A group being made.
pub(super) struct Creating {
    pub(super) request: RequestId,
    pub(super) founding: Founding,
}

/// An invite being made.
pub(super) struct Inviting {
    pub(super) request: RequestId,
    key: InviteKey,
    grant: Grant,
    draft: Draft,
}

impl std::fmt::Debug for Inviting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inviting({:?})", self.request)
    }
}

/// A group being left.
pub(super) struct Leaving {
    pub(super) request: RequestId,
    /// None while the leave is being signed.
    pub(super) until: Option<Instant>,
}

impl Creating {
    pub(super) fn timeout(&self) -> Instant {
        self.founding.started + CREATE_DEADLINE
    }
}

/// The NIC's MTU that somebody wishes for.
pub(super) fn wished_mtu(wish: Option<u16>) -> Result<u16, ApiError> {
    let mtu = wish.unwrap_or_else(default_mtu);
    if (MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Ok(mtu);
    }
    let text = format!("an MTU is {MTU_MIN} to {MTU_MAX} bytes");
    Err(ApiError::new(ErrorKind::InvalidParams, text).field("mtu"))
}

impl Controller {
    pub(super) fn create(&mut self, now: Now, request: RequestId, params: CreateGroup) {
        match self.founding(now, params) {
            Ok(founding) => {
                let pending = Pending::Root(request, Box::new(founding));
                self.fx.call(pending, LinkCall::CreateRoot(Empty {}));
            }
            Err(error) => self.fx.refuse(request, error),
        }
    }

    fn founding(&mut self, now: Now, params: CreateGroup) -> Result<Founding, ApiError> {
        if !is_group_name(&params.name) {
            let text = "a group's name is 1 to 32 letters a-z, digits and hyphens, no hyphen at its ends";
            return Err(ApiError::new(ErrorKind::InvalidParams, text).field("name"));
        }
        let server: ServerAddress = params
            .server
            .parse()
            .map_err(|e: api::rendezvous::ServerAddressError| {
                ApiError::new(ErrorKind::InvalidParams, e.to_string()).field("server")
            })?;
        let mtu = wished_mtu(params.mtu)?;
        self.require_ready()?;
        self.require_room(&params.name)?;
        let subnet = match params.subnet {
            Some(subnet) => self.wished_subnet(subnet)?,
            None => self.free_subnet()?,
        };
        Ok(Founding {
            name: params.name,
            subnet,
            host_name: params
                .host_name
                .as_deref()
                .map_or_else(|| self.host_name.clone(), host_label),
            login: login(&mut self.fx, server, params.account),
            mtu,
            started: now.mono,
        })
    }

    /// Whether a group can be made or joined at all now.
    pub(super) fn require_ready(&self) -> Result<(), ApiError> {
        self.require_tincan()?;
        if !self.up {
            return Err(ApiError::new(ErrorKind::State, "networks are down: `ipop up` first"));
        }
        Ok(())
    }

    /// Whether there is room for one more group of this name.
    pub(super) fn require_room(&self, name: &str) -> Result<(), ApiError> {
        let making = |p: &Pending| matches!(p, Pending::Root(_, founding) if founding.name == name);
        if self.groups.values().any(|g| g.name() == name) || self.fx.is_pending(making) {
            let text = format!("a group \"{name}\" is here already: choose another name, or `ipop leave {name}` first");
            return Err(ApiError::new(ErrorKind::Taken, text).field("name"));
        }
        if self.groups.len() >= GROUPS_MAX {
            let text = format!("this machine is in {GROUPS_MAX} groups, which is the most: leave one first");
            return Err(ApiError::new(ErrorKind::Limit, text));
        }
        Ok(())
    }

    fn wished_subnet(&self, wished: Cidr) -> Result<Cidr, ApiError> {
        let subnet = wished.network();
        if !is_group_subnet(subnet) {
            let text = format!("{wished} is not a subnet for a group: it must be unicast IPv4, /8 to /29");
            return Err(ApiError::new(ErrorKind::InvalidParams, text).field("subnet"));
        }
        self.require_clear(subnet).map_err(|text| {
            ApiError::new(ErrorKind::Taken, format!("{text}: choose another with --subnet")).field("subnet")
        })?;
        Ok(subnet)
    }

    /// Whether no route of this host and no other group shares addresses with a subnet.
    pub(super) fn require_clear(&self, subnet: Cidr) -> Result<(), String> {
        for group in self.groups.values() {
            let facts = group.facts().filter(|f| f.subnet.overlaps(subnet));
            if let Some(facts) = facts {
                return Err(format!(
                    "{subnet} collides with {} of group {}",
                    facts.subnet, facts.name
                ));
            }
        }
        match collision(subnet, &self.routes, None) {
            Some((route, nic)) => Err(format!(
                "{subnet} collides with the route {route} through {nic} of this machine"
            )),
            None => Ok(()),
        }
    }

    fn free_subnet(&mut self) -> Result<Cidr, ApiError> {
        let groups = self
            .groups
            .values()
            .filter_map(|g| Some((g.facts()?.subnet, g.name().to_owned())));
        let routes: Vec<Route> = self.routes.iter().cloned().chain(groups).collect();
        pick_subnet(&mut self.fx.rng, &routes).ok_or_else(|| {
            let text =
                "routes of this machine cover all of 10.0.0.0/8: choose a subnet with --subnet, as 172.20.0.0/16";
            ApiError::new(ErrorKind::Taken, text).field("subnet")
        })
    }

    /// Tincan made the root key.
    pub(super) fn root_made(
        &mut self,
        now: Now,
        request: RequestId,
        founding: Founding,
        result: Result<NetworkRef, ApiError>,
    ) {
        let network = match result {
            Ok(made) => made.network,
            Err(error) => return self.fx.refuse(request, error),
        };
        let (login, mtu) = (founding.login.clone(), founding.mtu);
        let stage = Stage::Creating(Box::new(Creating { request, founding }));
        let mut group = Group::new(network, login, stage);
        group.founder = true;
        group.mtu = mtu;
        self.groups.insert(network, group);
        self.with(now, network, |group, cx| {
            cx.call(
                group.network,
                GroupCall::Identity,
                LinkCall::Identity(NetworkRef { network }),
            );
        });
    }

    pub(super) fn invite(&mut self, now: Now, request: RequestId, params: &CreateInvite) {
        let network = match self.inviting_group(params) {
            Ok(network) => network,
            Err(error) => return self.fx.refuse(request, error),
        };
        let mut seed = [0; 32];
        self.fx.rng.fill_bytes(&mut seed);
        let key = InviteKey::from_seed(seed);
        zeroize::Zeroize::zeroize(&mut seed);
        let grant = Grant {
            key: key.public(),
            uses: params.uses as u16,
            expires_at: now.unix.saturating_add(params.expires_s),
        };
        let draft = Draft::grant(network, &grant);
        let payload = draft.payload(Role::Root);
        let inviting = Box::new(Inviting {
            request,
            key,
            grant,
            draft,
        });
        self.with(now, network, |_, cx| {
            cx.sign(
                network,
                Signer::Root,
                Purpose::LogEntry,
                payload,
                GroupCall::SignGrant(inviting),
            );
        });
    }

    fn inviting_group(&self, params: &CreateInvite) -> Result<NetworkId, ApiError> {
        if !(1..=INVITE_USES_MAX).contains(&params.uses) {
            let text = format!("an invite has 1 to {INVITE_USES_MAX} uses");
            return Err(ApiError::new(ErrorKind::InvalidParams, text).field("uses"));
        }
        if !INVITE_SECONDS.contains(&params.expires_s) {
            let text = "an invite is good for 60 seconds to 365 days";
            return Err(ApiError::new(ErrorKind::InvalidParams, text).field("expires_s"));
        }
        let group = self.group_named(params.group.as_deref().unwrap_or_default())?;
        self.require_tincan()?;
        if !group.founder {
            let founder = group.facts().and_then(|f| group.roster.members.get(&f.founder));
            let who = founder.map_or("the node that made the group", |m| m.name.as_str());
            let text = format!(
                "only {who} can invite into {}: it holds the group's root key",
                group.name()
            );
            return Err(ApiError::new(ErrorKind::State, text));
        }
        Ok(group.network)
    }

    pub(super) fn leave(&mut self, now: Now, request: RequestId, name: &str) {
        let network = match self.require_tincan().and_then(|()| Ok(self.group_named(name)?.network)) {
            Ok(network) => network,
            Err(error) => return self.fx.refuse(request, error),
        };
        self.with(now, network, |group, cx| group.leave(cx, request));
    }
}

/// How to log in: by the account given, else by one made up here.
pub(super) fn login(fx: &mut Effects, server: ServerAddress, account: Option<Account>) -> Login {
    if let Some(account) = account {
        return Login {
            server,
            user: account.jid,
            password: account.password,
            register: false,
        };
    }
    let mut random = [0; 32];
    fx.rng.fill_bytes(&mut random);
    let text = BASE32_NOPAD.encode(&random).to_ascii_lowercase();
    zeroize::Zeroize::zeroize(&mut random);
    Login {
        server,
        user: format!("n{}", &text[..16]),
        password: text[16..48].to_owned(),
        register: true,
    }
}

/// What a fault of the rendezvous means to somebody who waits for it.
pub(super) fn rendezvous_error(fault: RendezvousFault, reason: &str) -> ApiError {
    let kind = match fault {
        RendezvousFault::Unreachable | RendezvousFault::Lost => ErrorKind::Unreachable,
        RendezvousFault::Impostor
        | RendezvousFault::WrongPassword
        | RendezvousFault::RegistrationRefused
        | RendezvousFault::Unsuitable
        | RendezvousFault::Protocol => ErrorKind::Refused,
    };
    ApiError::new(kind, reason)
}

/// Whether waiting any longer helps nobody.
pub(super) fn hopeless(fault: RendezvousFault, waited: std::time::Duration) -> bool {
    match fault {
        RendezvousFault::Impostor
        | RendezvousFault::WrongPassword
        | RendezvousFault::RegistrationRefused
        | RendezvousFault::Unsuitable => true,
        RendezvousFault::Unreachable => waited >= UNREACHABLE_GRACE,
        RendezvousFault::Protocol | RendezvousFault::Lost => false,
    }
}

impl Group {
    /// Our id is known: the first entry is signed.
    pub(super) fn found(&mut self, cx: &mut Cx<'_>) {
        let (Stage::Creating(creating), Some(node)) = (&self.stage, self.node) else {
            return;
        };
        let genesis = Genesis {
            created: cx.now.unix,
            subnet: creating.founding.subnet,
            founder: node,
            founder_name: creating.founding.host_name.clone(),
            name: creating.founding.name.clone(),
        };
        let draft = Draft::genesis(self.network, &genesis);
        let payload = draft.payload(Role::Root);
        let then = GroupCall::SignGenesis(draft);
        cx.sign(self.network, Signer::Root, Purpose::LogEntry, payload, then);
    }

    pub(super) fn genesis_signed(&mut self, cx: &mut Cx<'_>, draft: Draft, signature: Result<Vec<u8>, ApiError>) {
        match self.entry_of(draft, signature) {
            Ok(entry) => {
                self.learn(cx, Source::Anybody, vec![entry], None);
            }
            Err(error) => self.abort(cx, error),
        }
    }

    /// The finished entry; a signature that does not verify is tincan's fault.
    pub(super) fn entry_of(&self, draft: Draft, signature: Result<Vec<u8>, ApiError>) -> Result<Verified, ApiError> {
        let bytes = draft.signed(&signature?).into_bytes();
        Verified::parse(self.network, &bytes).map_err(|e| {
            let text =
                format!("the data-plane process signed wrongly ({e}): is its state directory the one of this group?");
            ApiError::new(ErrorKind::Internal, text)
        })
    }

    /// The rendezvous is online: the group stands.
    pub(super) fn created(&mut self, cx: &mut Cx<'_>) {
        let Stage::Creating(creating) = &self.stage else {
            return;
        };
        let request = creating.request;
        self.stage = Stage::Member;
        if let Some(info) = self.info() {
            cx.fx.reply_saved(request, info);
        }
    }

    /// The rendezvous is not reached while a creation or a join waits for it.
    pub(super) fn rendezvous_fault(&mut self, cx: &mut Cx<'_>, fault: RendezvousFault, reason: &str) {
        let Some(started) = self.awaits_rendezvous_since() else {
            return;
        };
        if hopeless(fault, cx.now.mono.saturating_duration_since(started)) {
            self.abort(cx, rendezvous_error(fault, reason));
        }
    }

    fn awaits_rendezvous_since(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Creating(creating) => Some(creating.founding.started),
            Stage::Joining(joining) if !joining.admitted => Some(joining.started),
            _ => None,
        }
    }

    /// When a rendezvous that is not reached has had its chance; the next try may come later than the person may wait.
    pub(super) fn unreachable_at(&self) -> Option<Instant> {
        let started = self.awaits_rendezvous_since()?;
        matches!(self.meeting.fault, Some((RendezvousFault::Unreachable, _))).then(|| started + UNREACHABLE_GRACE)
    }

    pub(super) fn unreachable_timeout(&mut self, cx: &mut Cx<'_>) {
        let is_due = self.unreachable_at().is_some_and(|at| at <= cx.now.mono);
        let fault = self.meeting.fault.as_ref().filter(|_| is_due);
        if let Some(error) = fault.map(|(fault, reason)| rendezvous_error(*fault, reason)) {
            self.abort(cx, error);
        }
    }

    pub(super) fn creating_timeout(&mut self, cx: &mut Cx<'_>) {
        let Stage::Creating(creating) = &self.stage else {
            return;
        };
        if creating.timeout() > cx.now.mono {
            return;
        }
        let label = creating.founding.login.server.label();
        let error = match &self.meeting.fault {
            Some((fault, reason)) => rendezvous_error(*fault, reason),
            None => ApiError::new(
                ErrorKind::Timeout,
                format!(
                    "the rendezvous {label} did not answer within {} s: is it running?",
                    CREATE_DEADLINE.as_secs()
                ),
            ),
        };
        self.abort(cx, error);
    }

    pub(super) fn grant_signed(&mut self, cx: &mut Cx<'_>, inviting: Inviting, signature: Result<Vec<u8>, ApiError>) {
        let grant = match self.entry_of(inviting.draft, signature) {
            Ok(grant) => grant,
            Err(error) => return cx.fx.refuse(inviting.request, error),
        };
        let genesis = self
            .log
            .entries()
            .find(|e| matches!(e.entry(), Entry::Genesis(_)))
            .cloned();
        self.learn(cx, Source::Anybody, vec![grant.clone()], None);
        let (Some(genesis), true) = (genesis, self.log.contains(grant.id())) else {
            let text = "the membership log of this group is full: it cannot grant any more invites";
            return cx.fx.refuse(inviting.request, ApiError::new(ErrorKind::Limit, text));
        };
        let invite = Invite {
            network: self.network,
            genesis,
            grant,
            key: inviting.key,
            server: self.login.server.clone(),
        };
        let answer = InviteAnswer {
            invite: invite.to_link(),
            expires_at: inviting.grant.expires_at,
            group: self.name().to_owned(),
        };
        cx.fx.reply_saved(inviting.request, answer);
    }

    fn leave(&mut self, cx: &mut Cx<'_>, request: RequestId) {
        let Some(node) = self.node.filter(|_| self.is_in()) else {
            // Thrown out already: there is nobody to tell.
            self.forget(cx);
            return cx.fx.reply_saved(request, Empty {});
        };
        let joined_at = self.roster.members.get(&node).map_or(0, |m| m.joined_at);
        let leave = Leave {
            node,
            left_at: cx.now.unix.max(joined_at),
        };
        let draft = Draft::leave(self.network, &leave);
        let payload = draft.payload(Role::Leaver);
        self.stage = Stage::Leaving(Box::new(Leaving { request, until: None }));
        let then = GroupCall::SignLeave(draft);
        cx.sign(self.network, Signer::Node, Purpose::LogEntry, payload, then);
    }

    pub(super) fn leave_signed(&mut self, cx: &mut Cx<'_>, draft: Draft, signature: Result<Vec<u8>, ApiError>) {
        let entry = self.entry_of(draft, signature);
        let Stage::Leaving(leaving) = &mut self.stage else {
            return;
        };
        match entry {
            Ok(entry) => {
                leaving.until = Some(cx.now.mono + LEAVE_LINGER);
                // The roster stays as it is, so that links live until members have heard.
                self.log.insert(Source::Anybody, [entry.clone()]);
                self.spread(cx, &[entry], None);
                self.leaving_step(cx);
            }
            Err(error) => {
                let request = leaving.request;
                self.stage = Stage::Member;
                cx.fx.refuse(request, error);
            }
        }
    }

    /// Goes on once no link is up any more: then every member that could hear has heard.
    pub(super) fn leaving_step(&mut self, cx: &mut Cx<'_>) {
        let Stage::Leaving(leaving) = &self.stage else {
            return;
        };
        let linked = self.peers.values().any(super::group::Peer::is_up);
        let due = leaving.until.is_some_and(|until| until <= cx.now.mono || !linked);
        if !due {
            return;
        }
        let request = leaving.request;
        self.forget(cx);
        cx.fx.reply_saved(request, Empty {});
    }

    pub(super) fn leaving_timeout(&mut self, cx: &mut Cx<'_>) {
        self.leaving_step(cx);
    }

    /// The log says that we are not in (any more).
    pub(super) fn displaced(&mut self, cx: &mut Cx<'_>) {
        self.roster = Roster::evaluate(&self.log);
        let text = self.barred_because();
        tracing::warn!(group = self.name(), "{text}");
        if matches!(self.stage, Stage::Joining(_)) {
            self.abort(cx, ApiError::new(ErrorKind::Invite, text));
        }
    }

    /// Why the roster does not have us.
    pub(super) fn barred_because(&self) -> String {
        let gone = self.node.and_then(|node| self.roster.gone.get(&node));
        let name = self.name();
        match gone {
            Some(crate::membership::Gone::Ejected) => {
                format!("this node was removed from {name} by its founder: `ipop leave {name}` forgets it")
            }
            Some(crate::membership::Gone::Left(_)) => {
                format!("this node left {name}: `ipop leave {name}` forgets it, an invite lets it in again")
            }
            Some(crate::membership::Gone::Refused) | None => format!(
                "this node's admission to {name} does not count: another node used up the invite at the same time; \
                 `ipop leave {name}`, then ask for a new invite"
            ),
        }
    }
}
