//! The switchboard: who is connected, and where each stanza goes (RFC 6120 section 10, RFC 6121 section 8).
//!
//! Promises: the sender of every stanza that leaves here was stamped by the server; a stanza costs a
//! bounded number of copies; unknown requests get `service-unavailable`. Refuses to know sockets and time.
//!
//! 1. [`Hub::connect`] binds a resource; 2. [`Hub::handle`] routes what it sends; 3. [`Hub::disconnect`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jid::{FullJid, Jid};

use super::muc::{Delivery, NS_MUC, Rooms};
use super::outbox::{Cut, Outbox};
use super::roster::{self, Consequence, NS_ROSTER, Party, Request};
use super::services::{self, Asker, Entity, TurnOffer};
use super::stanza::{self, Condition, IqType};
use super::store::Store;
use super::xml::{Element, NS_CLIENT};
use super::{ServerError, limits, store};

/// One bound resource; the serial tells it from a later one with the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionId {
    pub(super) jid: FullJid,
    serial: u64,
}

/// What the stream's task has to do after a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handled {
    Done,
    /// Something that must outlive the process changed.
    Save,
    /// Not a stanza at all: the stream ends with `unsupported-stanza-type`.
    NotAStanza,
}

/// The switchboard.
pub(super) struct Hub {
    pub(super) store: Store,
    domain: String,
    conference: String,
    turn: TurnOffer,
    users: BTreeMap<String, BTreeMap<String, Session>>,
    rooms: Rooms,
    serial: u64,
}

struct Session {
    serial: u64,
    jid: FullJid,
    outbox: Outbox,
    server_ip: IpAddr,
    /// The last available presence, as it was broadcast.
    presence: Option<Element>,
    /// It asked for the roster and so gets pushes.
    interested: bool,
    directed: BTreeSet<Jid>,
    rooms: BTreeSet<String>,
}

/// Where a stanza is to go.
enum Destination {
    Server,
    Account { user: String, resource: Option<String> },
    Conference,
    Room { room: String, nick: Option<String> },
    Elsewhere,
}

impl Hub {
    pub(super) fn new(store: Store, domain: String, turn: TurnOffer) -> Self {
        let conference = format!("conference.{domain}");
        let rooms = Rooms::new(conference.clone());
        Hub {
            store,
            domain,
            conference,
            turn,
            users: BTreeMap::new(),
            rooms,
            serial: 0,
        }
    }

    /// Binds a resource (RFC 6120 section 7). The same resource again replaces the old session: that is
    /// a client whose old stream died unnoticed.
    pub(super) fn connect(
        &mut self,
        user: &str,
        resource: Option<&str>,
        outbox: Outbox,
        server_ip: IpAddr,
    ) -> Result<SessionId, Condition> {
        let resource = match resource.filter(|r| !r.is_empty()) {
            Some(resource) => resource.to_owned(),
            None => fresh_resource().map_err(|_| Condition::ResourceConstraint)?,
        };
        let jid = FullJid::new(&format!("{user}@{}/{resource}", self.domain)).map_err(|_| Condition::JidMalformed)?;
        let resource = jid.resource().as_str().to_owned();
        if let Some(old) = self.users.get(user).and_then(|s| s.get(&resource)) {
            let id = SessionId {
                jid: jid.clone(),
                serial: old.serial,
            };
            old.outbox.cut(Cut::Replaced);
            self.disconnect(&id);
        }
        let sessions = self.users.entry(user.to_owned()).or_default();
        if sessions.len() >= limits::SESSIONS_PER_ACCOUNT {
            return Err(Condition::ResourceConstraint);
        }
        self.serial += 1;
        let session = Session {
            serial: self.serial,
            jid: jid.clone(),
            outbox,
            server_ip,
            presence: None,
            interested: false,
            directed: BTreeSet::new(),
            rooms: BTreeSet::new(),
        };
        sessions.insert(resource, session);
        Ok(SessionId {
            jid,
            serial: self.serial,
        })
    }

    /// The stream ended, however: rooms and contacts are told.
    pub(super) fn disconnect(&mut self, id: &SessionId) {
        let user = user_of(&id.jid);
        let Some(sessions) = self.users.get_mut(&user) else {
            return;
        };
        let resource = id.jid.resource().as_str();
        if sessions.get(resource).is_none_or(|s| s.serial != id.serial) {
            return;
        }
        self.went_unavailable(&id.jid, Element::new("presence", NS_CLIENT).with("type", "unavailable"));
        if let Some(sessions) = self.users.get_mut(&user) {
            sessions.remove(resource);
            if sessions.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    /// Routes one stanza of a session. `now` is in seconds since 1970.
    pub(super) fn handle(&mut self, id: &SessionId, mut stanza: Element, now: u64) -> Handled {
        if stanza.ns() != NS_CLIENT || !matches!(stanza.name(), "iq" | "presence" | "message") {
            return Handled::NotAStanza;
        }
        if self.session(&id.jid).is_none_or(|s| s.serial != id.serial) {
            return Handled::Done;
        }
        stanza.set("from", id.jid.as_str());
        let handled = match self.destination(&stanza) {
            Ok(to) => match stanza.name() {
                "iq" => self.iq(&id.jid, to, &stanza, now),
                "presence" => self.presence(&id.jid, to, &stanza),
                _ => self.message(&id.jid, to, &stanza).map(|()| Handled::Done),
            },
            Err(condition) => Err(condition),
        };
        handled.unwrap_or_else(|condition| {
            if let Some(error) = stanza::error(&stanza, condition) {
                self.reply(&id.jid, error);
            }
            Handled::Done
        })
    }

    fn destination(&self, stanza: &Element) -> Result<Destination, Condition> {
        let Some(to) = stanza.attr("to").filter(|to| !to.is_empty()) else {
            return Ok(Destination::Server);
        };
        let to = Jid::new(to).map_err(|_| Condition::JidMalformed)?;
        let node = to.node().map(|n| n.as_str().to_owned());
        let resource = to.resource().map(|r| r.as_str().to_owned());
        Ok(match (to.domain().as_str(), node) {
            (domain, None) if domain == self.domain => Destination::Server,
            (domain, Some(user)) if domain == self.domain => Destination::Account { user, resource },
            (domain, None) if domain == self.conference => Destination::Conference,
            (domain, Some(room)) if domain == self.conference => Destination::Room { room, nick: resource },
            _ => Destination::Elsewhere,
        })
    }

    // --- IQ ---

    fn iq(&mut self, from: &FullJid, to: Destination, iq: &Element, now: u64) -> Result<Handled, Condition> {
        let (kind, payload) = stanza::iq_parts(iq)?;
        match (to, payload) {
            (Destination::Room { room, nick: Some(nick) }, _) => {
                let delivery = self.rooms.private(from, &room, &nick, iq)?;
                self.deliver(vec![delivery]);
            }
            (
                Destination::Account {
                    user,
                    resource: Some(resource),
                },
                _,
            ) => {
                let target = self.users.get(&user).and_then(|s| s.get(&resource));
                let target = target.ok_or(Condition::ServiceUnavailable)?;
                target.outbox.push(addressed(iq, &target.jid));
            }
            // Answers to the server's own pings, and to what it never asked.
            (_, None) => {}
            (Destination::Server, Some(asked)) => return self.server_iq(from, kind, asked, iq, now),
            (Destination::Account { user, resource: None }, Some(asked)) => {
                let own = user == user_of(from) && asked.ns() == NS_ROSTER;
                return if own {
                    self.roster_iq(from, kind, asked, iq)
                } else {
                    Err(Condition::ServiceUnavailable)
                };
            }
            (Destination::Conference, Some(asked)) => {
                let answer = self.describe(Entity::Conference, kind, asked)?;
                self.answer(from, iq, answer);
            }
            (Destination::Room { room, nick: None }, Some(asked)) => {
                let answer = self.room_iq(from, &room, kind, asked)?;
                self.answer(from, iq, answer);
            }
            (Destination::Elsewhere, Some(_)) => return Err(Condition::RemoteServerNotFound),
        }
        Ok(Handled::Done)
    }

    fn server_iq(
        &mut self,
        from: &FullJid,
        kind: IqType,
        asked: &Element,
        iq: &Element,
        now: u64,
    ) -> Result<Handled, Condition> {
        let answer = match (kind, asked.ns()) {
            (_, NS_ROSTER) => return self.roster_iq(from, kind, asked, iq),
            // RFC 3921's session request: old clients still send it.
            (IqType::Set, "urn:ietf:params:xml:ns:xmpp-session") => None,
            (IqType::Get, services::NS_EXTDISCO) => Some(self.external(from, asked, now)?),
            _ => self.describe(Entity::Server, kind, asked)?,
        };
        self.answer(from, iq, answer);
        Ok(Handled::Done)
    }

    fn external(&self, from: &FullJid, asked: &Element, now: u64) -> Result<Element, Condition> {
        let session = self.session(from).ok_or(Condition::ServiceUnavailable)?;
        let user = user_of(from);
        let asker = Asker {
            user: &user,
            server_ip: session.server_ip,
            now,
        };
        match asked.name() {
            "services" => Ok(self.turn.services(&asker, asked.attr("type"))),
            "credentials" => {
                let service = asked
                    .find("service", services::NS_EXTDISCO)
                    .ok_or(Condition::BadRequest)?;
                self.turn.credentials(&asker, service).ok_or(Condition::ItemNotFound)
            }
            _ => Err(Condition::ServiceUnavailable),
        }
    }

    /// Discovery and ping, which every entity answers.
    fn describe(&self, entity: Entity, kind: IqType, asked: &Element) -> Result<Option<Element>, Condition> {
        match (kind, asked.ns()) {
            // XEP-0030 section 3.2: an unknown node does not exist.
            (IqType::Get, services::NS_DISCO_INFO | services::NS_DISCO_ITEMS) if asked.attr("node").is_some() => {
                Err(Condition::ItemNotFound)
            }
            (IqType::Get, services::NS_DISCO_INFO) => Ok(Some(services::disco_info(entity))),
            (IqType::Get, services::NS_DISCO_ITEMS) => Ok(Some(services::disco_items(entity, &self.conference))),
            (IqType::Get, services::NS_PING) => Ok(None),
            _ => Err(Condition::ServiceUnavailable),
        }
    }

    fn room_iq(&self, from: &FullJid, room: &str, kind: IqType, asked: &Element) -> Result<Option<Element>, Condition> {
        if asked.ns() != services::NS_MUC_OWNER {
            return self.describe(Entity::Room, kind, asked);
        }
        if !self.rooms.is_founder(room, from) {
            return Err(Condition::Forbidden);
        }
        // XEP-0045 section 10.1: a client that made the room accepts its configuration; there is only one.
        let form = Element::new("x", services::NS_DATA).with("type", "form");
        match (kind, asked.find("x", services::NS_DATA)) {
            (IqType::Get, _) => Ok(Some(Element::new("query", services::NS_MUC_OWNER).child(form))),
            (_, Some(_)) => Ok(None),
            (_, None) => Err(Condition::FeatureNotImplemented),
        }
    }

    fn roster_iq(&mut self, from: &FullJid, kind: IqType, asked: &Element, iq: &Element) -> Result<Handled, Condition> {
        let user = user_of(from);
        if kind == IqType::Get {
            let account = self.store.account(&user).ok_or(Condition::ServiceUnavailable)?;
            let answer = roster::query(account);
            if let Some(session) = self.session_mut(from) {
                session.interested = true;
            }
            self.answer(from, iq, Some(answer));
            return Ok(Handled::Done);
        }
        let mut items = asked.elements().filter(|e| e.is("item", NS_ROSTER));
        let (Some(item), None) = (items.next(), items.next()) else {
            return Err(Condition::BadRequest);
        };
        let contact = Jid::new(item.attr("jid").ok_or(Condition::BadRequest)?).map_err(|_| Condition::JidMalformed)?;
        let contact = contact.into_bare().to_string();
        if item.attr("subscription") == Some("remove") {
            let own = self.party(&user);
            let other = self.party_of(&contact);
            let consequences = roster::remove(&mut self.store, &own, &other)?;
            self.apply(&own.jid, consequences);
        } else {
            let account = self.store.account_mut(&user).ok_or(Condition::ServiceUnavailable)?;
            roster::set(account, &contact, item)?;
            self.push_item(&user, &contact);
        }
        self.answer(from, iq, None);
        Ok(Handled::Save)
    }

    // --- messages ---

    fn message(&mut self, from: &FullJid, to: Destination, message: &Element) -> Result<(), Condition> {
        match to {
            Destination::Room { room, nick: None } if message.attr("type") == Some("groupchat") => {
                let deliveries = self.rooms.groupchat(from, &room, message)?;
                self.deliver(deliveries);
                Ok(())
            }
            Destination::Room { nick: Some(_), .. } if message.attr("type") == Some("groupchat") => {
                Err(Condition::BadRequest)
            }
            Destination::Room { room, nick: Some(nick) } => {
                let delivery = self.rooms.private(from, &room, &nick, message)?;
                self.deliver(vec![delivery]);
                Ok(())
            }
            Destination::Account { user, resource } => self.direct_message(&user, resource.as_deref(), message),
            Destination::Elsewhere => Err(Condition::RemoteServerNotFound),
            Destination::Room { .. } | Destination::Conference | Destination::Server => {
                Err(Condition::ServiceUnavailable)
            }
        }
    }

    /// RFC 6121 section 8.5, without offline storage.
    fn direct_message(&self, user: &str, resource: Option<&str>, message: &Element) -> Result<(), Condition> {
        let sessions = self.users.get(user).ok_or(Condition::ServiceUnavailable)?;
        if let Some(target) = resource.and_then(|r| sessions.get(r)) {
            target.outbox.push(addressed(message, &target.jid));
            return Ok(());
        }
        if resource.is_some() && message.attr("type") != Some("chat") {
            return Err(Condition::ServiceUnavailable);
        }
        let mut reached = false;
        for session in sessions
            .values()
            .filter(|s| s.presence.as_ref().is_some_and(|p| priority(p) >= 0))
        {
            session.outbox.push(message.to_text());
            reached = true;
        }
        if reached {
            Ok(())
        } else {
            Err(Condition::ServiceUnavailable)
        }
    }

    // --- presence ---

    fn presence(&mut self, from: &FullJid, to: Destination, presence: &Element) -> Result<Handled, Condition> {
        let kind = presence.attr("type");
        match to {
            Destination::Server if presence.attr("to").is_some() => Ok(Handled::Done),
            Destination::Server => {
                match kind {
                    None => self.went_available(from, presence),
                    Some("unavailable") => self.went_unavailable(from, presence.clone()),
                    Some(_) => return Err(Condition::BadRequest),
                }
                Ok(Handled::Done)
            }
            Destination::Room { room, nick } => {
                // XEP-0045 section 7.2.1: without a nick there is nobody to join as.
                let nick = nick.ok_or(Condition::JidMalformed)?;
                self.room_presence(from, &room, &nick, presence).map(|()| Handled::Done)
            }
            Destination::Account { user, resource } => match kind.map(Request::from_type) {
                Some(Some(request)) => Ok(self.subscription(from, &user, request)),
                Some(None) if kind != Some("unavailable") => Ok(Handled::Done),
                _ => {
                    self.directed_presence(from, &user, resource.as_deref(), presence);
                    Ok(Handled::Done)
                }
            },
            Destination::Conference => Ok(Handled::Done),
            Destination::Elsewhere => Err(Condition::RemoteServerNotFound),
        }
    }

    fn room_presence(&mut self, from: &FullJid, room: &str, nick: &str, presence: &Element) -> Result<(), Condition> {
        let session = self.session(from).ok_or(Condition::ServiceUnavailable)?;
        let joins = presence.attr("type").is_none() && presence.find("x", NS_MUC).is_some();
        if joins && !session.rooms.contains(room) && session.rooms.len() >= limits::ROOMS_PER_SESSION {
            return Err(Condition::ResourceConstraint);
        }
        let deliveries = self.rooms.presence(from, room, nick, presence)?;
        let inside = self.rooms.is_occupant(room, from);
        if let Some(session) = self.session_mut(from) {
            match inside {
                true => session.rooms.insert(room.to_owned()),
                false => session.rooms.remove(room),
            };
        }
        self.deliver(deliveries);
        Ok(())
    }

    fn went_available(&mut self, from: &FullJid, presence: &Element) {
        let first = self.session(from).is_some_and(|s| s.presence.is_none());
        // Kept for those who come later: a giant one is not.
        if presence.to_text().len() <= limits::PRESENCE_BYTES_MAX
            && let Some(session) = self.session_mut(from)
        {
            session.presence = Some(presence.clone());
        }
        self.broadcast(from, presence);
        if first {
            self.welcome(from);
        }
    }

    /// RFC 6121 section 4.2.2: a fresh session learns its contacts' presence and waiting requests.
    fn welcome(&self, from: &FullJid) {
        let user = user_of(from);
        let (Some(account), Some(session)) = (self.store.account(&user), self.session(from)) else {
            return;
        };
        let seen = account
            .contacts
            .iter()
            .filter(|(_, contact)| contact.to)
            .map(|(jid, _)| jid.clone());
        for jid in seen.chain([self.bare(&user)]) {
            let others = self.available(&jid).filter(|s| s.jid != session.jid);
            others
                .filter_map(|s| s.presence.as_ref())
                .for_each(|p| session.outbox.push(addressed(p, &session.jid)));
        }
        for jid in &account.requests {
            let request = Element::new("presence", NS_CLIENT)
                .with("type", "subscribe")
                .with("from", jid.as_str());
            session.outbox.push(addressed(&request, &session.jid));
        }
    }

    fn went_unavailable(&mut self, from: &FullJid, mut last: Element) {
        last.set("from", from.as_str());
        last.unset("to");
        let Some(session) = self.session_mut(from) else {
            return;
        };
        let rooms = std::mem::take(&mut session.rooms);
        let directed = std::mem::take(&mut session.directed);
        let was_available = session.presence.take().is_some();
        for room in rooms {
            let mut gone = last.clone();
            gone.unset("from");
            let deliveries = self.rooms.leave(from, &room, gone);
            self.deliver(deliveries);
        }
        if was_available {
            self.broadcast(from, &last);
        }
        for target in directed {
            let Some(user) = target.node().map(|n| n.as_str().to_owned()) else {
                continue;
            };
            self.to_account(&user, target.resource().map(|r| r.as_str()), &last);
        }
    }

    /// To everybody who may see this account, and to its own other resources.
    fn broadcast(&self, from: &FullJid, presence: &Element) {
        let user = user_of(from);
        let contacts = self.store.account(&user).into_iter().flat_map(|a| &a.contacts);
        let watchers = contacts.filter(|(_, contact)| contact.from).map(|(jid, _)| jid.clone());
        for jid in watchers.chain([self.bare(&user)]) {
            let others = self.available(&jid).filter(|s| s.jid != *from);
            others.for_each(|s| s.outbox.push(addressed(presence, &s.jid)));
        }
    }

    fn directed_presence(&mut self, from: &FullJid, user: &str, resource: Option<&str>, presence: &Element) {
        let to = presence.attr("to").and_then(|to| Jid::new(to).ok());
        if let (Some(session), Some(to)) = (self.session_mut(from), to) {
            if presence.attr("type").is_some() {
                session.directed.remove(&to);
            } else if session.directed.len() < limits::DIRECTED_MAX {
                session.directed.insert(to);
            }
        }
        self.to_account(user, resource, presence);
    }

    fn to_account(&self, user: &str, resource: Option<&str>, stanza: &Element) {
        let Some(sessions) = self.users.get(user) else {
            return;
        };
        let chosen = sessions.iter().filter(|(name, session)| match resource {
            Some(resource) => *name == resource,
            None => session.presence.is_some(),
        });
        chosen.for_each(|(_, session)| session.outbox.push(addressed(stanza, &session.jid)));
    }

    // --- subscriptions ---

    fn subscription(&mut self, from: &FullJid, to_user: &str, request: Request) -> Handled {
        let from = self.party(&user_of(from));
        let to = self.party(to_user);
        if from == to {
            return Handled::Done;
        }
        let from_jid = from.jid.clone();
        let consequences = roster::change(&mut self.store, request, &from, &to);
        // The stanza that others see always comes from the bare address (RFC 6121 section 3.1.2).
        self.apply(&from_jid, consequences);
        Handled::Save
    }

    fn apply(&self, from: &str, consequences: Vec<Consequence>) {
        for consequence in consequences {
            match consequence {
                Consequence::Push { user, contact } => self.push_item(&user, &contact),
                Consequence::Tell { user, kind } => {
                    let stanza = Element::new("presence", NS_CLIENT)
                        .with("type", kind)
                        .with("from", from);
                    self.to_account(&user, None, &stanza);
                }
                Consequence::Show { watched, watcher } => self.show(&watched, &watcher, false),
                Consequence::Hide { watched, watcher } => self.show(&watched, &watcher, true),
            }
        }
    }

    fn push_item(&self, user: &str, contact: &str) {
        let known = self.store.account(user).and_then(|a| a.contacts.get(contact));
        let query = Element::new("query", NS_ROSTER).child(roster::item(contact, known));
        let sessions = self
            .users
            .get(user)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|s| s.interested);
        for session in sessions {
            let push = Element::new("iq", NS_CLIENT)
                .with("type", "set")
                .with("id", format!("push{}", session.serial));
            session.outbox.push(addressed(&push.child(query.clone()), &session.jid));
        }
    }

    fn show(&self, watched: &str, watcher: &str, hide: bool) {
        for session in self.available(&self.bare(watched)) {
            let presence = match hide {
                true => Some(
                    Element::new("presence", NS_CLIENT)
                        .with("type", "unavailable")
                        .with("from", session.jid.as_str()),
                ),
                false => session.presence.clone(),
            };
            presence.iter().for_each(|p| self.to_account(watcher, None, p));
        }
    }

    // --- small things ---

    fn deliver(&self, deliveries: Vec<Delivery>) {
        for (jid, stanza) in deliveries {
            self.reply(&jid, stanza);
        }
    }

    fn reply(&self, to: &FullJid, stanza: Element) {
        if let Some(session) = self.session(to) {
            session.outbox.push(stanza.to_text());
        }
    }

    fn answer(&self, to: &FullJid, iq: &Element, payload: Option<Element>) {
        self.reply(to, stanza::result(iq).children_from(payload));
    }

    fn session(&self, jid: &FullJid) -> Option<&Session> {
        self.users.get(jid.node()?.as_str())?.get(jid.resource().as_str())
    }

    fn session_mut(&mut self, jid: &FullJid) -> Option<&mut Session> {
        self.users
            .get_mut(jid.node()?.as_str())?
            .get_mut(jid.resource().as_str())
    }

    /// The available sessions of a bare JID of this server.
    fn available(&self, bare: &str) -> impl Iterator<Item = &Session> {
        let user = bare
            .strip_suffix(self.domain.as_str())
            .and_then(|u| u.strip_suffix('@'));
        let sessions = user
            .and_then(|user| self.users.get(user))
            .into_iter()
            .flat_map(BTreeMap::values);
        sessions.filter(|s| s.presence.is_some())
    }

    fn bare(&self, user: &str) -> String {
        format!("{user}@{}", self.domain)
    }

    fn party(&self, user: &str) -> Party {
        Party {
            user: user.to_owned(),
            jid: self.bare(user),
        }
    }

    /// A contact elsewhere has an account name that no account here can have.
    fn party_of(&self, jid: &str) -> Party {
        let user = jid
            .strip_suffix(self.domain.as_str())
            .and_then(|u| u.strip_suffix('@'))
            .unwrap_or_default();
        Party {
            user: user.to_owned(),
            jid: jid.to_owned(),
        }
    }
}

fn addressed(stanza: &Element, to: &FullJid) -> String {
    let mut copy = stanza.clone();
    copy.set("to", to.as_str());
    copy.to_text()
}

fn user_of(jid: &FullJid) -> String {
    jid.node().map(|n| n.as_str().to_owned()).unwrap_or_default()
}

fn priority(presence: &Element) -> i8 {
    presence
        .find("priority", NS_CLIENT)
        .and_then(|p| p.text().trim().parse().ok())
        .unwrap_or(0)
}

fn fresh_resource() -> Result<String, ServerError> {
    Ok(data_encoding::HEXLOWER.encode(&store::random::<16>()?))
}
