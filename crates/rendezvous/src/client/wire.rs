//! Names and small forms of stanzas that several parts of the client use.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::BASE32_NOPAD;

use crate::xml::{Element, NS_CLIENT};

pub(super) const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
pub(super) const NS_SM: &str = "urn:xmpp:sm:3";
pub(super) const NS_STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
pub(super) const NS_PING: &str = "urn:xmpp:ping";
pub(super) const NS_ITEMS: &str = "http://jabber.org/protocol/disco#items";
pub(super) const NS_INFO: &str = "http://jabber.org/protocol/disco#info";
pub(super) const NS_MUC: &str = "http://jabber.org/protocol/muc";
pub(super) const NS_MUC_USER: &str = "http://jabber.org/protocol/muc#user";
pub(super) const NS_MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
pub(super) const NS_FORM: &str = "jabber:x:data";
pub(super) const NS_SERVICES: &str = "urn:xmpp:extdisco:2";
/// What all in the room see of a node.
pub(super) const NS_CARD: &str = "urn:ipop:card:1";
/// Bytes for one occupant.
pub(super) const NS_SIGNAL: &str = "urn:ipop:signal:1";

/// 128 bits from the operating system: nobody guesses the id of a question (S-X03).
pub(super) fn fresh_id() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives random bytes once it has booted");
    BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
}

/// A fraction of one, for jitter.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives random bytes once it has booted");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

pub(super) fn iq(kind: &str, id: &str, to: Option<&str>) -> Element {
    let iq = Element::new("iq", NS_CLIENT).with("type", kind).with("id", id);
    match to {
        Some(to) => iq.with("to", to),
        None => iq,
    }
}

/// A refusal of an IQ.
pub(super) fn iq_error(id: &str, to: Option<&str>, kind: &str, condition: &str) -> Element {
    let error = Element::new("error", NS_CLIENT)
        .with("type", kind)
        .child(Element::new(condition, NS_STANZA_ERRORS));
    iq("error", id, to).child(error)
}
