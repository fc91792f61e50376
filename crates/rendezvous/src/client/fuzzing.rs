//! A bound session whose server belongs to a fuzzer.

use std::time::{Duration, Instant};

use api::rendezvous::{Occupant, RendezvousEvent};

use super::limits;
use super::room::Place;
use super::session::{Ask, Session};
use crate::xml::{Element, Incoming, Reader, STANZA_BYTES_MAX};

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
/// Events of one stanza.
const EVENTS_MAX: usize = 4;
/// What one stanza, or one timeout, makes us say: a refusal repeats an id and an address, a question a blob.
const WORDS_MAX: usize = 16 * 1024;

/// Hands a session in its room the stanzas in `bytes`. In `id`, `?ping`, `?services` and the like stand for the question
/// that waits; in `from`, `?own` stands for ourselves in the room. A stanza `wait` lets the seconds in `id` pass.
#[doc(hidden)]
pub fn fuzz_session(bytes: &[u8], start: Instant) {
    let Ok(place) = Place::new("home", "rdv.example", None) else {
        return;
    };
    let mut session = Session::new("rdv.example", "rdv.example", place, b"card".to_vec(), start);
    session.bound("n1@rdv.example/ipop".to_owned(), true, start);
    check(&mut session, start);
    let (mut now, mut reader, mut header) = (start, Reader::new(STANZA_BYTES_MAX), HEADER);
    let opened = reader.next(&mut header);
    assert!(matches!(opened, Ok(Some(Incoming::Open(_)))), "the header is good");
    let mut input = bytes;
    while let Ok(Some(Incoming::Stanza(mut stanza))) = reader.next(&mut input) {
        let handled = if stanza.name() == "wait" {
            let seconds = stanza.attr("id").and_then(|text| text.parse::<u16>().ok());
            now += Duration::from_secs(u64::from(seconds.unwrap_or(1)));
            let outcome = session.handle_timeout(now);
            assert!(
                outcome.is_err() || session.deadline() > now,
                "a timeout that was handled is due again"
            );
            outcome
        } else {
            fill_in(&session, &mut stanza);
            session.handle(&stanza, now)
        };
        check(&mut session, now);
        if let Err(failure) = handled {
            assert!(!failure.reason.is_empty());
            return;
        }
    }
}

/// Ids and our nick are random: no script can hold them.
fn fill_in(session: &Session, stanza: &mut Element) {
    let wanted = match stanza.attr("id") {
        Some("?ping") => Some(Ask::Ping),
        Some("?room") => Some(Ask::RoomPing),
        Some("?services") => Some(Ask::Services),
        Some("?components") => Some(Ask::Components),
        Some("?component") => Some(Ask::Component),
        Some("?settings") => Some(Ask::Settings),
        Some("?any-settings") => Some(Ask::AnySettings),
        Some("?data") => Some(Ask::Data(None)),
        _ => None,
    };
    if let Some(wanted) = wanted {
        let fits = |what: &Ask| std::mem::discriminant(what) == std::mem::discriminant(&wanted);
        let ids = session.asked.iter().filter(|(_, asked)| fits(&asked.what));
        if let Some(id) = ids.map(|(id, _)| id).min().cloned() {
            stanza.set("id", id);
        }
    }
    if stanza.attr("from") == Some("?own") {
        stanza.set("from", session.place.own());
    }
}

/// Bounds hold, what is said is XML, and everybody who comes gets bytes.
fn check(session: &mut Session, now: Instant) {
    assert!(session.asked.len() <= limits::ASKED_MAX && session.occupants.len() <= limits::OCCUPANTS_MAX);
    let events = session.take_events();
    assert!(events.len() <= EVENTS_MAX, "{} events", events.len());
    for event in events {
        match event {
            RendezvousEvent::Present { occupant, card } => {
                assert!(card.len() <= limits::CARD_BYTES);
                session.send_bytes(&occupant, b"hello".to_vec(), now);
            }
            RendezvousEvent::Received {
                from: Occupant(from),
                bytes,
            } => {
                assert!(bytes.len() <= limits::BLOB_BYTES && session.is_occupant(&from));
            }
            _ => {}
        }
    }
    let _ = session.take_offered();
    let words = session.take_out();
    assert!(words.len() <= WORDS_MAX, "{} bytes", words.len());
    let text = [HEADER, words.as_bytes()].concat();
    let (mut reader, mut input) = (Reader::new(STANZA_BYTES_MAX), &text[..]);
    while reader.next(&mut input).expect("what we say is well-formed").is_some() {}
}
