//! Rooms (XEP-0045) as far as groups need them: join, presence with any child, messages, private IQs.
//!
//! Promises: an occupant sees others only as `room@conference/nick`; a newcomer sees every occupant's
//! latest presence, then its own (status 110); leaving is told to all. No history, no roles beyond the
//! founder's. Pure: what is to be sent is returned.
//!
//! 1. [`Rooms::presence`] joins, updates, renames, leaves; 2. [`Rooms::groupchat`]; 3. [`Rooms::private`].

use std::collections::BTreeMap;

use jid::FullJid;

use super::limits;
use super::stanza::Condition;
use super::xml::{Element, NS_CLIENT};

/// Namespace of the join element, and the feature.
pub(super) const NS_MUC: &str = "http://jabber.org/protocol/muc";
/// Namespace of what the room says about occupants.
pub(super) const NS_MUC_USER: &str = "http://jabber.org/protocol/muc#user";

/// A stanza and the session it goes to.
pub(super) type Delivery = (FullJid, Element);

/// All rooms of the server.
pub(super) struct Rooms {
    domain: String,
    rooms: BTreeMap<String, Room>,
}

#[derive(Default)]
struct Room {
    occupants: BTreeMap<String, Occupant>,
}

struct Occupant {
    jid: FullJid,
    founder: bool,
    /// The latest presence without addresses.
    presence: Element,
}

impl Rooms {
    pub(super) fn new(domain: String) -> Self {
        Rooms {
            domain,
            rooms: BTreeMap::new(),
        }
    }

    pub(super) fn is_occupant(&self, room: &str, jid: &FullJid) -> bool {
        self.rooms.get(room).is_some_and(|r| r.nick_of(jid).is_some())
    }

    pub(super) fn is_founder(&self, room: &str, jid: &FullJid) -> bool {
        self.rooms
            .get(room)
            .is_some_and(|r| r.occupants.values().any(|o| o.founder && o.jid == *jid))
    }

    /// A presence for `room/nick`.
    pub(super) fn presence(
        &mut self,
        from: &FullJid,
        room: &str,
        nick: &str,
        stanza: &Element,
    ) -> Result<Vec<Delivery>, Condition> {
        match stanza.attr("type") {
            None => self.available(from, room, nick, stanza),
            Some("unavailable") => Ok(self.leave(from, room, payload(stanza))),
            // RFC 6121 section 4.7.1 knows more types; a room has no use for any.
            Some(_) => Ok(Vec::new()),
        }
    }

    fn available(
        &mut self,
        from: &FullJid,
        room: &str,
        nick: &str,
        stanza: &Element,
    ) -> Result<Vec<Delivery>, Condition> {
        let presence = payload(stanza);
        if presence.to_text().len() > limits::PRESENCE_BYTES_MAX {
            return Err(Condition::NotAcceptable);
        }
        let joins = stanza.find("x", NS_MUC).is_some();
        let current = self.rooms.get(room).and_then(|r| r.nick_of(from)).map(str::to_owned);
        let taken = self
            .rooms
            .get(room)
            .and_then(|r| r.occupants.get(nick))
            .is_some_and(|o| o.jid != *from);
        match current {
            _ if taken => Err(Condition::Conflict),
            Some(current) if current != nick => Ok(self.rename(room, &current, nick, presence)),
            Some(_) => Ok(self.update(room, nick, presence, joins)),
            None if joins => self.join(from, room, nick, presence),
            None => Err(Condition::NotAcceptable),
        }
    }

    fn join(&mut self, from: &FullJid, room: &str, nick: &str, presence: Element) -> Result<Vec<Delivery>, Condition> {
        let created = !self.rooms.contains_key(room);
        if created && self.rooms.len() >= limits::ROOMS_MAX {
            return Err(Condition::ResourceConstraint);
        }
        let members = self.rooms.entry(room.to_owned()).or_default();
        if members.occupants.len() >= limits::OCCUPANTS_MAX {
            return Err(Condition::ServiceUnavailable);
        }
        let occupant = Occupant {
            jid: from.clone(),
            founder: created,
            presence,
        };
        members.occupants.insert(nick.to_owned(), occupant);
        let mut out = self.replay(room, nick);
        out.extend(self.announce(room, nick, if created { &["201"] } else { &[] }));
        out.extend(self.subject(room, nick));
        Ok(out)
    }

    fn update(&mut self, room: &str, nick: &str, presence: Element, joins: bool) -> Vec<Delivery> {
        if let Some(occupant) = self.rooms.get_mut(room).and_then(|r| r.occupants.get_mut(nick)) {
            occupant.presence = presence;
        }
        if !joins {
            return self.announce(room, nick, &[]);
        }
        // It lost track of the room (XEP-0045 section 7.2.2): it gets everything again.
        let mut out = self.replay(room, nick);
        out.extend(self.announce(room, nick, &[]));
        out.extend(self.subject(room, nick));
        out
    }

    fn rename(&mut self, room: &str, old: &str, new: &str, presence: Element) -> Vec<Delivery> {
        let gone = Element::new("presence", NS_CLIENT).with("type", "unavailable");
        let mut out = self.tell_all(room, old, &gone, &["303"], Some(new));
        if let Some(members) = self.rooms.get_mut(room)
            && let Some(mut occupant) = members.occupants.remove(old)
        {
            occupant.presence = presence;
            members.occupants.insert(new.to_owned(), occupant);
        }
        out.extend(self.announce(room, new, &[]));
        out
    }

    /// The session leaves the room, by its own word or because its stream ended.
    pub(super) fn leave(&mut self, from: &FullJid, room: &str, mut last: Element) -> Vec<Delivery> {
        let Some(nick) = self.rooms.get(room).and_then(|r| r.nick_of(from)).map(str::to_owned) else {
            return Vec::new();
        };
        last.set("type", "unavailable");
        let out = self.tell_all(room, &nick, &last, &[], None);
        if let Some(members) = self.rooms.get_mut(room) {
            members.occupants.remove(&nick);
            if members.occupants.is_empty() {
                self.rooms.remove(room);
            }
        }
        out
    }

    /// A message for everybody in the room.
    pub(super) fn groupchat(&self, from: &FullJid, room: &str, stanza: &Element) -> Result<Vec<Delivery>, Condition> {
        let members = self.rooms.get(room).ok_or(Condition::ItemNotFound)?;
        let nick = members.nick_of(from).ok_or(Condition::NotAcceptable)?;
        let mut copy = stanza.clone();
        copy.set("from", self.address(room, nick));
        copy.retain_elements(|e| e.ns() != NS_MUC_USER);
        let to_each = |occupant: &Occupant| addressed(&copy, &occupant.jid);
        Ok(members.occupants.values().map(to_each).collect())
    }

    /// An IQ or message for one occupant: it reaches the session behind the nick, stamped with the
    /// sender's nick, so that the answer finds its way back the same way.
    pub(super) fn private(
        &self,
        from: &FullJid,
        room: &str,
        nick: &str,
        stanza: &Element,
    ) -> Result<Delivery, Condition> {
        let members = self.rooms.get(room).ok_or(Condition::ItemNotFound)?;
        let sender = members.nick_of(from).ok_or(Condition::NotAcceptable)?;
        let target = members.occupants.get(nick).ok_or(Condition::ItemNotFound)?;
        let mut copy = stanza.clone();
        copy.set("from", self.address(room, sender));
        copy.retain_elements(|e| e.ns() != NS_MUC_USER);
        if copy.name() == "message" {
            // XEP-0045 section 7.5: so that it is not taken for a direct message.
            copy.push(Element::new("x", NS_MUC_USER));
        }
        Ok(addressed(&copy, &target.jid))
    }

    /// Everybody else's presence, for `nick`.
    fn replay(&self, room: &str, nick: &str) -> Vec<Delivery> {
        let Some(members) = self.rooms.get(room) else {
            return Vec::new();
        };
        let Some(to) = members.occupants.get(nick) else {
            return Vec::new();
        };
        let others = members.occupants.iter().filter(|(other, _)| *other != nick);
        let told = others.map(|(other, o)| addressed(&self.stamped(room, other, o, &o.presence, &[], None), &to.jid));
        told.collect()
    }

    /// The presence of `nick` for everybody, its own last.
    fn announce(&self, room: &str, nick: &str, own_statuses: &[&str]) -> Vec<Delivery> {
        let occupant = self.rooms.get(room).and_then(|r| r.occupants.get(nick));
        let Some(presence) = occupant.map(|o| o.presence.clone()) else {
            return Vec::new();
        };
        let mut out = self.tell_all(room, nick, &presence, &[], None);
        if let Some((_, own)) = out.last_mut() {
            add_statuses(own, own_statuses);
        }
        out
    }

    fn tell_all(
        &self,
        room: &str,
        nick: &str,
        presence: &Element,
        statuses: &[&str],
        new_nick: Option<&str>,
    ) -> Vec<Delivery> {
        let Some(members) = self.rooms.get(room) else {
            return Vec::new();
        };
        let Some(subject) = members.occupants.get(nick) else {
            return Vec::new();
        };
        let stanza = self.stamped(room, nick, subject, presence, statuses, new_nick);
        let others = members.occupants.iter().filter(|(other, _)| *other != nick);
        let mut out: Vec<Delivery> = others.map(|(_, o)| addressed(&stanza, &o.jid)).collect();
        let mut own = addressed(&stanza, &subject.jid);
        add_statuses(&mut own.1, &["110"]);
        out.push(own);
        out
    }

    fn stamped(
        &self,
        room: &str,
        nick: &str,
        occupant: &Occupant,
        presence: &Element,
        statuses: &[&str],
        new_nick: Option<&str>,
    ) -> Element {
        let gone = presence.attr("type") == Some("unavailable");
        let role = if gone { "none" } else { "participant" };
        let affiliation = if occupant.founder { "owner" } else { "none" };
        let mut item = Element::new("item", NS_MUC_USER)
            .with("affiliation", affiliation)
            .with("role", role);
        if let Some(new_nick) = new_nick {
            item.set("nick", new_nick);
        }
        let mut stanza = presence.clone();
        stanza.set("from", self.address(room, nick));
        stanza.push(Element::new("x", NS_MUC_USER).child(item));
        add_statuses(&mut stanza, statuses);
        stanza
    }

    /// XEP-0045 section 7.2.15: the subject ends the join; ours is always empty.
    fn subject(&self, room: &str, nick: &str) -> Option<Delivery> {
        let to = self.rooms.get(room)?.occupants.get(nick)?;
        let message = Element::new("message", NS_CLIENT)
            .with("type", "groupchat")
            .with("from", format!("{room}@{}", self.domain))
            .child(Element::new("subject", NS_CLIENT));
        Some(addressed(&message, &to.jid))
    }

    fn address(&self, room: &str, nick: &str) -> String {
        format!("{room}@{}/{nick}", self.domain)
    }
}

impl Room {
    fn nick_of(&self, jid: &FullJid) -> Option<&str> {
        self.occupants
            .iter()
            .find(|(_, o)| o.jid == *jid)
            .map(|(nick, _)| nick.as_str())
    }
}

/// The presence without addresses and without what only a room may say (CVE class "server-only elements").
fn payload(stanza: &Element) -> Element {
    let mut presence = stanza.clone();
    presence.unset("from");
    presence.unset("to");
    presence.retain_elements(|e| e.ns() != NS_MUC && e.ns() != NS_MUC_USER);
    presence
}

fn addressed(stanza: &Element, to: &FullJid) -> Delivery {
    let mut copy = stanza.clone();
    copy.set("to", to.as_str());
    (to.clone(), copy)
}

fn add_statuses(stanza: &mut Element, codes: &[&str]) {
    let Some(mut x) = stanza.find("x", NS_MUC_USER).cloned() else {
        return;
    };
    for code in codes {
        x.push(Element::new("status", NS_MUC_USER).with("code", *code));
    }
    stanza.retain_elements(|e| !e.is("x", NS_MUC_USER));
    stanza.push(x);
}
