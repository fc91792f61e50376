//! One bound session as a machine: stanzas and times in, text and events out.
//!
//! Promises: an answer counts only from whom it was asked (S-X03); a dead connection is noticed within
//! [`limits::IDLE_TIME`] + [`limits::ANSWER_TIME`] when idle and [`limits::ANSWER_TIME`] with something pending (F-02);
//! every table is bounded. Refuses to know: sockets, what cards and blobs mean.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use api::rendezvous::{Occupant, RendezvousEvent};
use data_encoding::BASE64;

use super::fault::Failure;
use super::limits;
use super::room::Place;
use super::services::{self, Offered};
use super::stream::condition_of;
use super::wire::{self, NS_INFO, NS_PING, NS_SERVICES, NS_SIGNAL, NS_SM, NS_STANZA_ERRORS};
use crate::xml::{Element, NS_CLIENT};

/// A session.
pub(super) struct Session {
    pub(super) label: String,
    pub(super) domain: String,
    /// Our full JID, once bound.
    jid: String,
    pub(super) place: Place,
    pub(super) card: Vec<u8>,
    pub(super) occupants: BTreeSet<String>,
    pub(super) asked: HashMap<String, Asked>,
    copies: usize,
    by_message: bool,
    out: String,
    events: Vec<RendezvousEvent>,
    offered: Option<Vec<Offered>>,
    renew: Option<Instant>,
    alive: Liveness,
}

/// A question that waits for its answer.
pub(super) struct Asked {
    from: Option<String>,
    pub(super) what: Ask,
    until: Instant,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Ping,
    RoomPing,
    Services,
    Components,
    Component,
    /// The room's settings, as we like them.
    Settings,
    /// The room's settings, whatever they are.
    AnySettings,
    /// Bytes for an occupant, with a copy if there is room for one.
    Data(Option<Vec<u8>>),
}

/// Whether the server lives.
struct Liveness {
    acks: Acks,
    received: u32,
    last_heard: Instant,
    /// An answer is due then.
    due: Option<Instant>,
    /// Something was sent after the question.
    again: bool,
}

#[derive(PartialEq, Eq)]
enum Acks {
    None,
    Asked,
    On,
}

impl Session {
    /// A session that will enter `place`; what it says first may go out before the binding is answered.
    pub(super) fn new(label: &str, domain: &str, place: Place, card: Vec<u8>, now: Instant) -> Self {
        let mut session = Session {
            label: label.to_owned(),
            domain: domain.to_owned(),
            jid: String::new(),
            place,
            card,
            occupants: BTreeSet::new(),
            asked: HashMap::new(),
            copies: 0,
            by_message: false,
            out: String::new(),
            events: Vec::new(),
            offered: None,
            renew: None,
            alive: Liveness {
                acks: Acks::None,
                received: 0,
                last_heard: now,
                due: None,
                again: false,
            },
        };
        session.enter(now);
        session.ask_services(now);
        session
    }

    /// The binding was answered.
    pub(super) fn bound(&mut self, jid: String, acks: bool, now: Instant) {
        self.jid = jid;
        self.alive.last_heard = now;
        if acks {
            self.alive.acks = Acks::Asked;
            self.out.push_str(&Element::new("enable", NS_SM).to_text());
        }
        self.probe(now);
    }

    /// A stanza came.
    pub(super) fn handle(&mut self, stanza: &Element, now: Instant) -> Result<(), Failure> {
        self.alive.last_heard = now;
        if stanza.ns() == NS_CLIENT {
            self.alive.received = self.alive.received.wrapping_add(1);
        }
        match (stanza.name(), stanza.ns()) {
            ("iq", NS_CLIENT) => self.handle_iq(stanza, now)?,
            ("presence", NS_CLIENT) => self.handle_presence(stanza, now)?,
            ("message", NS_CLIENT) => self.handle_message(stanza),
            ("enabled", NS_SM) => (self.alive.acks, self.alive.received) = (Acks::On, 0),
            ("failed", NS_SM) => self.alive.acks = Acks::None,
            ("r", NS_SM) => {
                let answer = Element::new("a", NS_SM).with("h", self.alive.received.to_string());
                self.out.push_str(&answer.to_text());
            }
            ("a", NS_SM) => self.answered_probe(now),
            _ => {}
        }
        Ok(())
    }

    /// Brings bytes to an occupant.
    pub(super) fn send_bytes(&mut self, to: &Occupant, bytes: Vec<u8>, now: Instant) {
        if bytes.len() > limits::BLOB_BYTES || !self.is_occupant(&to.0) || !self.place.inside {
            tracing::debug!(
                to = to.0,
                bytes = bytes.len(),
                "not sent: too long, or not to this room"
            );
            return;
        }
        if self.by_message {
            return self.send_message(&to.0, &bytes, now);
        }
        let data = data_element(&bytes);
        let copy = (self.copies + bytes.len() <= limits::COPIES_BYTES).then_some(bytes);
        self.copies += copy.as_ref().map_or(0, Vec::len);
        self.ask("set", Some(&to.0), data, Ask::Data(copy), now);
    }

    /// The next moment at which [`Self::handle_timeout`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        let idle = self.alive.last_heard + limits::IDLE_TIME;
        let mut next = self.alive.due.unwrap_or(idle);
        for other in [self.renew, self.place.next_check(), self.place.retry]
            .into_iter()
            .flatten()
        {
            next = next.min(other);
        }
        next
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        match self.alive.due {
            Some(due) if due <= now => {
                return Err(Failure::lost(format!(
                    "{} has not answered for {} seconds; check the network",
                    self.label,
                    limits::ANSWER_TIME.as_secs()
                )));
            }
            None if self.alive.last_heard + limits::IDLE_TIME <= now => self.probe(now),
            _ => {}
        }
        if self.renew.is_some_and(|at| at <= now) {
            self.ask_services(now);
        }
        self.forget_questions(now);
        self.handle_room_timeout(now)
    }

    /// Silence that was our own doing (nobody took the events) is not the server's.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.alive.last_heard = now;
        self.alive.due = self.alive.due.map(|_| now + limits::ANSWER_TIME);
    }

    pub(super) fn take_out(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    pub(super) fn take_events(&mut self) -> Vec<RendezvousEvent> {
        std::mem::take(&mut self.events)
    }

    /// Services whose names want to be resolved.
    pub(super) fn take_offered(&mut self) -> Option<Vec<Offered>> {
        self.offered.take()
    }

    pub(super) fn tell(&mut self, event: RendezvousEvent) {
        self.events.push(event);
    }

    /// Sends a stanza, and wants to know that it arrived.
    pub(super) fn send(&mut self, stanza: &Element, now: Instant) {
        self.out.push_str(&stanza.to_text());
        if self.jid.is_empty() {
            return;
        }
        match self.alive.due {
            Some(_) => self.alive.again = true,
            None => self.probe(now),
        }
    }

    /// Asks somebody, `None` for our own server.
    pub(super) fn ask(&mut self, kind: &str, to: Option<&str>, payload: Element, what: Ask, now: Instant) {
        if self.asked.len() >= limits::ASKED_MAX {
            self.forget_questions(now);
            if self.asked.len() >= limits::ASKED_MAX {
                tracing::debug!("not asked: too many questions wait");
                return;
            }
        }
        let id = wire::fresh_id();
        let iq = wire::iq(kind, &id, to).child(payload);
        let until = now + limits::PEER_ANSWER_TIME;
        self.asked.insert(
            id,
            Asked {
                from: to.map(str::to_owned),
                what,
                until,
            },
        );
        self.send(&iq, now);
    }

    fn ask_services(&mut self, now: Instant) {
        self.renew = None;
        let domain = self.domain.clone();
        self.ask(
            "get",
            Some(&domain),
            Element::new("services", NS_SERVICES),
            Ask::Services,
            now,
        );
    }

    fn probe(&mut self, now: Instant) {
        self.alive.due = Some(now + limits::ANSWER_TIME);
        self.alive.again = false;
        match self.alive.acks {
            Acks::On => self.out.push_str(&Element::new("r", NS_SM).to_text()),
            // `ask` sees the question already under way, so it asks no second one.
            Acks::None | Acks::Asked => {
                let domain = self.domain.clone();
                self.ask("get", Some(&domain), Element::new("ping", NS_PING), Ask::Ping, now);
                self.alive.again = false;
            }
        }
    }

    fn answered_probe(&mut self, now: Instant) {
        self.alive.due = None;
        if self.alive.again {
            self.probe(now);
        }
    }

    fn forget_questions(&mut self, now: Instant) {
        self.asked.retain(|_, asked| asked.until > now);
        let copies = self.asked.values().map(|asked| match &asked.what {
            Ask::Data(Some(bytes)) => bytes.len(),
            _ => 0,
        });
        self.copies = copies.sum();
    }

    fn handle_iq(&mut self, iq: &Element, now: Instant) -> Result<(), Failure> {
        let (Some(id), Some(kind)) = (iq.attr("id"), iq.attr("type")) else {
            return Ok(());
        };
        if id.len() > limits::RESOURCE_BYTES * 4 {
            return Ok(());
        }
        match kind {
            "get" | "set" => self.questioned(iq, id, kind, now),
            "result" | "error" => {
                let asked_of = self.asked.get(id).map(|asked| asked.from.clone());
                if !asked_of.is_some_and(|of| self.is_from(iq, of.as_deref())) {
                    return Ok(());
                }
                match self.asked.remove(id) {
                    Some(asked) => return self.answered(asked, iq, kind == "result", now),
                    None => return Ok(()),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Our own server may leave itself out.
    fn is_from(&self, stanza: &Element, of: Option<&str>) -> bool {
        let bare = self.jid.split('/').next();
        match (of, stanza.attr("from")) {
            (Some(of), Some(from)) => of == from,
            (Some(of), None) => of == self.domain,
            (None, None) => true,
            (None, Some(from)) => from == self.domain || from == self.jid || Some(from) == bare,
        }
    }

    fn questioned(&mut self, iq: &Element, id: &str, kind: &str, now: Instant) {
        let from = iq.attr("from");
        let payload = iq.elements().next();
        let result = wire::iq("result", id, from);
        let answer = match (kind, payload.map(|p| (p.name(), p.ns()))) {
            ("set", Some(("data", NS_SIGNAL))) => match self.receive(from, payload) {
                true => result,
                false => wire::iq_error(id, from, "modify", "bad-request"),
            },
            ("get", Some(("ping", NS_PING))) => result,
            ("get", Some(("query", NS_INFO))) => {
                let mut query = Element::new("query", NS_INFO).child(
                    Element::new("identity", NS_INFO)
                        .with("category", "client")
                        .with("type", "bot"),
                );
                for feature in [NS_INFO, NS_PING] {
                    query.push(Element::new("feature", NS_INFO).with("var", feature));
                }
                result.child(query)
            }
            ("set", Some(("services", NS_SERVICES))) if self.is_from(iq, Some(&self.domain)) => {
                self.ask_services(now);
                result
            }
            _ => wire::iq_error(id, from, "cancel", "service-unavailable"),
        };
        self.send(&answer, now);
    }

    fn handle_message(&mut self, message: &Element) {
        let data = message.find("data", NS_SIGNAL);
        let kind = message.attr("type").unwrap_or("normal");
        if data.is_some() && matches!(kind, "chat" | "normal") {
            self.receive(message.attr("from"), data);
        }
    }

    fn receive(&mut self, from: Option<&str>, data: Option<&Element>) -> bool {
        let Some((from, data)) = from.zip(data) else {
            return false;
        };
        let text = data.text();
        if !self.is_occupant(from) || text.len() > limits::BLOB_BYTES.div_ceil(3) * 4 {
            return false;
        }
        let Ok(bytes) = BASE64.decode(text.as_bytes()) else {
            return false;
        };
        self.tell(RendezvousEvent::Received {
            from: Occupant(from.to_owned()),
            bytes,
        });
        true
    }

    fn answered(&mut self, asked: Asked, iq: &Element, good: bool, now: Instant) -> Result<(), Failure> {
        let condition = || {
            let error = iq.find("error", NS_CLIENT);
            error.map_or_else(String::new, |e| condition_of(e, NS_STANZA_ERRORS))
        };
        match asked.what {
            // A refusal is an answer.
            Ask::Ping => self.answered_probe(now),
            Ask::Services => self.services(iq, good, now),
            Ask::Components | Ask::Component if good => {
                let from = asked.from.unwrap_or_default();
                self.answered_disco(&from, asked.what == Ask::Components, iq, now);
                self.stuck()?;
            }
            Ask::Components | Ask::Component => self.stuck()?,
            Ask::Settings => self.settings_answered(good, now),
            Ask::AnySettings if good => {}
            Ask::AnySettings => {
                return Err(Failure::unsuitable(format!(
                    "{} made a room and did not open it ({}); ask its operator",
                    self.label,
                    condition()
                )));
            }
            Ask::RoomPing if good => {}
            Ask::RoomPing => self.room_ping_refused(&condition())?,
            Ask::Data(copy) => {
                self.copies -= copy.as_ref().map_or(0, Vec::len).min(self.copies);
                if !good && let Some(to) = asked.from {
                    self.data_refused(&to, copy, &condition(), now);
                }
            }
        }
        Ok(())
    }

    /// Some servers let no IQ through rooms: then private messages carry the bytes.
    fn data_refused(&mut self, to: &str, copy: Option<Vec<u8>>, condition: &str, now: Instant) {
        tracing::debug!(to, condition, "bytes refused");
        let by_room = matches!(
            condition,
            "not-allowed" | "forbidden" | "feature-not-implemented" | "not-acceptable"
        );
        if !by_room && condition != "service-unavailable" {
            return;
        }
        self.by_message |= by_room;
        if let Some(bytes) = copy {
            self.send_message(to, &bytes, now);
        }
    }

    fn send_message(&mut self, to: &str, bytes: &[u8], now: Instant) {
        let message = Element::new("message", NS_CLIENT)
            .with("type", "chat")
            .with("id", wire::fresh_id())
            .with("to", to)
            .child(data_element(bytes))
            .child(Element::new("x", wire::NS_MUC_USER))
            .child(Element::new("no-store", "urn:xmpp:hints"))
            .child(Element::new("no-copy", "urn:xmpp:hints"));
        self.send(&message, now);
    }

    fn services(&mut self, iq: &Element, good: bool, now: Instant) {
        let offered = match iq.find("services", NS_SERVICES) {
            Some(list) if good => services::parse(list, std::time::SystemTime::now()),
            _ => return,
        };
        self.renew = Some(now + services::renewal(&offered));
        self.offered = Some(offered);
    }
}

fn data_element(bytes: &[u8]) -> Element {
    Element::new("data", NS_SIGNAL).with_text(BASE64.encode(bytes))
}
