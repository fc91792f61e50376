//! The room (XEP-0045): finding it, entering it, opening it, who is in it.
//!
//! Promises: nobody outside the room is ever told of; a lock, a taken nick or another place for rooms is dealt with
//! here. Refuses to know what a card means.

use std::time::Instant;

use api::rendezvous::{Occupant, RendezvousEvent};
use data_encoding::BASE64;

use super::fault::Failure;
use super::limits;
use super::session::{Ask, Session};
use super::stream::condition_of;
use super::wire::{
    self, NS_CARD, NS_FORM, NS_INFO, NS_ITEMS, NS_MUC, NS_MUC_OWNER, NS_MUC_USER, NS_PING, NS_STANZA_ERRORS,
};
use crate::xml::{Element, NS_CLIENT};

/// Which room, and how far we are.
pub(super) struct Place {
    /// The service: `conference.DOMAIN` unless found elsewhere.
    pub(super) service: String,
    /// The service is known to hold rooms.
    sure: bool,
    name: String,
    nick: String,
    /// The server has let us in.
    pub(super) inside: bool,
    tries: u32,
    /// Enter again then.
    pub(super) retry: Option<Instant>,
    check: Option<Instant>,
    /// The room is new and the settings we like were refused: both together need another try.
    made: bool,
    settings_refused: bool,
    /// Why the first guess of the service failed, while others are looked for.
    stuck: Option<String>,
}

impl Place {
    pub(super) fn new(name: &str, domain: &str, known: Option<String>) -> Result<Self, Failure> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
            return Err(Failure::unsuitable("the room's name may hold only letters and digits"));
        }
        Ok(Place {
            sure: known.is_some(),
            service: known.unwrap_or_else(|| format!("conference.{domain}")),
            name: name.to_ascii_lowercase(),
            nick: fresh_nick(),
            inside: false,
            tries: 0,
            retry: None,
            check: None,
            made: false,
            settings_refused: false,
            stuck: None,
        })
    }

    pub(super) fn next_check(&self) -> Option<Instant> {
        self.check
    }

    fn room(&self) -> String {
        format!("{}@{}", self.name, self.service)
    }

    pub(super) fn own(&self) -> String {
        format!("{}/{}", self.room(), self.nick)
    }
}

/// Nobody can tell from it which nodes came back.
fn fresh_nick() -> String {
    wire::fresh_id()
}

impl Session {
    /// Says all that entering needs at once: if the room is new, no other can find it locked.
    pub(super) fn enter(&mut self, now: Instant) {
        self.place.retry = None;
        self.place.tries += 1;
        let history = Element::new("history", NS_MUC).with("maxstanzas", "0");
        let enter = self.presence().child(Element::new("x", NS_MUC).child(history));
        self.send(&enter, now);
        let room = self.place.room();
        self.ask("set", Some(&room), settings(), Ask::Settings, now);
        if !self.place.sure && self.place.tries == 1 {
            let domain = self.domain.clone();
            self.ask(
                "get",
                Some(&domain),
                Element::new("query", NS_ITEMS),
                Ask::Components,
                now,
            );
        }
    }

    /// Shows another card.
    pub(super) fn show_card(&mut self, card: Vec<u8>, now: Instant) {
        self.card = card;
        if self.place.inside {
            let presence = self.presence();
            self.send(&presence, now);
        }
    }

    /// Leaves the room.
    pub(super) fn leave(&mut self, now: Instant) {
        let own = self.place.own();
        let leave = Element::new("presence", NS_CLIENT)
            .with("type", "unavailable")
            .with("to", own);
        self.send(&leave, now);
    }

    /// What to say when the time for entering is over.
    pub(super) fn not_entered(&self) -> Failure {
        let (label, room) = (&self.label, &self.place.service);
        Failure::unsuitable(match &self.place.stuck {
            Some(condition) => format!(
                "{label} offers no rooms (MUC) that were found ({room}: {condition}); ask its operator for XEP-0045"
            ),
            None => format!("the rooms of {label} ({room}) do not answer; ask its operator"),
        })
    }

    pub(super) fn is_occupant(&self, jid: &str) -> bool {
        let nick = jid
            .strip_prefix(self.place.room().as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        nick.is_some_and(|nick| !nick.is_empty() && nick.len() <= limits::RESOURCE_BYTES)
    }

    pub(super) fn handle_room_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        if self.place.retry.is_some_and(|at| at <= now) {
            self.enter(now);
        }
        if self.place.check.is_some_and(|at| at <= now) {
            self.place.check = Some(now + limits::ROOM_CHECK_TIME);
            let own = self.place.own();
            self.ask("get", Some(&own), Element::new("ping", NS_PING), Ask::RoomPing, now);
        }
        Ok(())
    }

    /// XEP-0410: which refusals mean that the room does not know us.
    pub(super) fn room_ping_refused(&self, condition: &str) -> Result<(), Failure> {
        match condition {
            "service-unavailable" | "feature-not-implemented" | "item-not-found" => Ok(()),
            _ => Err(Failure::lost(format!(
                "the room at {} has forgotten this node ({condition}); it enters again",
                self.label
            ))),
        }
    }

    pub(super) fn handle_presence(&mut self, presence: &Element, now: Instant) -> Result<(), Failure> {
        let Some(from) = presence.attr("from") else {
            return Ok(());
        };
        let own = from == self.place.own();
        let kind = presence.attr("type");
        if kind == Some("error") {
            return match own || from == self.place.room() {
                true if !self.place.inside => self.refused(presence, now),
                _ => Ok(()),
            };
        }
        if !self.is_occupant(from) {
            return Ok(());
        }
        match kind {
            None => self.present(from, own, presence, now),
            Some("unavailable") if own || (self.place.inside && has_status(presence, "110")) => self.removed(presence),
            Some("unavailable") => {
                if self.occupants.remove(from) {
                    self.tell(RendezvousEvent::Absent {
                        occupant: Occupant(from.to_owned()),
                    });
                }
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn settings_answered(&mut self, good: bool, now: Instant) {
        self.place.settings_refused = !good;
        self.open_anyhow(now);
    }

    /// `all`: the server's components; else one of them.
    pub(super) fn answered_disco(&mut self, from: &str, all: bool, iq: &Element, now: Instant) {
        if self.place.inside {
            return;
        }
        if all {
            let Some(query) = iq.find("query", NS_ITEMS) else {
                return;
            };
            let items = query
                .elements()
                .filter(|e| e.is("item", NS_ITEMS) && e.attr("node").is_none());
            let mut found: Vec<String> = items.filter_map(|e| e.attr("jid")).map(str::to_owned).collect();
            found.retain(|jid| jid.len() <= 253);
            self.place.sure = found.contains(&self.place.service);
            found.truncate(limits::COMPONENTS_MAX);
            if !self.place.sure {
                for jid in found {
                    self.ask("get", Some(&jid), Element::new("query", NS_INFO), Ask::Component, now);
                }
            }
            return;
        }
        let Some(query) = iq.find("query", NS_INFO) else { return };
        let has = |name: &str, key: &str, value: &str| {
            query
                .elements()
                .any(|e| e.is(name, NS_INFO) && e.attr(key) == Some(value))
        };
        if has("feature", "var", NS_MUC) && has("identity", "category", "conference") && !self.place.sure {
            tracing::debug!(service = from, "rooms found");
            from.clone_into(&mut self.place.service);
            (self.place.sure, self.place.stuck) = (true, None);
            self.enter(now);
        }
    }

    /// No place for rooms is left to be asked for.
    pub(super) fn stuck(&self) -> Result<(), Failure> {
        let open = self
            .asked
            .values()
            .any(|asked| matches!(asked.what, Ask::Components | Ask::Component));
        match self.place.stuck.is_some() && !self.place.inside && !open {
            true => Err(self.not_entered()),
            false => Ok(()),
        }
    }

    fn presence(&self) -> Element {
        let card = Element::new("card", NS_CARD).with_text(BASE64.encode(&self.card));
        Element::new("presence", NS_CLIENT)
            .with("to", self.place.own())
            .child(card)
    }

    fn present(&mut self, from: &str, own: bool, presence: &Element, now: Instant) -> Result<(), Failure> {
        // A room speaks of its occupants only to occupants.
        if !self.place.inside {
            (self.place.inside, self.place.sure, self.place.stuck) = (true, true, None);
            self.place.check = Some(now + limits::ROOM_CHECK_TIME);
            self.tell(RendezvousEvent::Online);
        }
        if own || has_status(presence, "110") {
            if !own && let Some((_, nick)) = from.split_once('/') {
                // Status 210: the service gave us another nick.
                nick.clone_into(&mut self.place.nick);
            }
            self.place.made |= has_status(presence, "201");
            self.open_anyhow(now);
            return Ok(());
        }
        let Some(card) = card_of(presence) else { return Ok(()) };
        if self.occupants.len() >= limits::OCCUPANTS_MAX && !self.occupants.contains(from) {
            tracing::debug!("the room is too full: occupant ignored");
            return Ok(());
        }
        self.occupants.insert(from.to_owned());
        self.tell(RendezvousEvent::Present {
            occupant: Occupant(from.to_owned()),
            card,
        });
        Ok(())
    }

    /// A room of our making stays locked until it has settings.
    fn open_anyhow(&mut self, now: Instant) {
        if !(self.place.made && self.place.settings_refused) {
            return;
        }
        self.place.made = false;
        let form = Element::new("x", NS_FORM).with("type", "submit");
        let room = self.place.room();
        let query = Element::new("query", NS_MUC_OWNER).child(form);
        self.ask("set", Some(&room), query, Ask::AnySettings, now);
    }

    fn removed(&self, presence: &Element) -> Result<(), Failure> {
        let why = match presence {
            p if has_status(p, "301") => "banned this node",
            p if has_status(p, "307") => "put this node out",
            p if has_status(p, "332") => "closes down",
            _ => "lost this node",
        };
        Err(Failure::lost(format!(
            "the room at {} {why}; it enters again",
            self.label
        )))
    }

    fn refused(&mut self, presence: &Element, now: Instant) -> Result<(), Failure> {
        let error = presence.find("error", NS_CLIENT);
        let condition = error.map_or_else(String::new, |e| condition_of(e, NS_STANZA_ERRORS));
        tracing::debug!(condition, tries = self.place.tries, "not let in");
        match condition.as_str() {
            "conflict" if self.place.tries < limits::JOIN_TRIES => {
                self.place.nick = fresh_nick();
                self.enter(now);
                Ok(())
            }
            // Somebody is just making the room.
            "item-not-found" | "recipient-unavailable" if self.place.tries < limits::JOIN_TRIES => {
                let wait = limits::LOCKED_RETRY.mul_f64(0.5 + wire::chance());
                self.place.retry = Some(now + wait);
                Ok(())
            }
            // There may be no such service: its components tell.
            _ if !self.place.sure => {
                self.place.stuck = Some(condition);
                self.stuck()
            }
            _ => Err(Failure::unsuitable(format!(
                "the rooms of {} ({}) do not let this account in ({condition}); ask its operator",
                self.label, self.place.service
            ))),
        }
    }
}

/// Not listed, not kept, not logged, open to whoever knows its name: what is said inside is sealed anyway.
fn settings() -> Element {
    let field = |name: &str, value: &str| {
        Element::new("field", NS_FORM)
            .with("var", name)
            .child(Element::new("value", NS_FORM).with_text(value))
    };
    let form = Element::new("x", NS_FORM)
        .with("type", "submit")
        .child(field("FORM_TYPE", "http://jabber.org/protocol/muc#roomconfig"))
        .child(field("muc#roomconfig_publicroom", "0"))
        .child(field("muc#roomconfig_persistentroom", "0"))
        .child(field("muc#roomconfig_membersonly", "0"))
        .child(field("muc#roomconfig_enablelogging", "0"));
    Element::new("query", NS_MUC_OWNER).child(form)
}

fn has_status(presence: &Element, code: &str) -> bool {
    let user = presence.find("x", NS_MUC_USER);
    user.is_some_and(|x| {
        x.elements()
            .any(|e| e.is("status", NS_MUC_USER) && e.attr("code") == Some(code))
    })
}

fn card_of(presence: &Element) -> Option<Vec<u8>> {
    let text = presence.find("card", NS_CARD)?.text();
    let short = text.len() <= limits::CARD_BYTES.div_ceil(3) * 4;
    BASE64
        .decode(text.as_bytes())
        .ok()
        .filter(|card| short && card.len() <= limits::CARD_BYTES)
}
