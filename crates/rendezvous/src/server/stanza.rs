//! The three kinds of stanza: their types, their errors, their answers (RFC 6120 section 8).

use super::xml::{Element, NS_CLIENT};

/// Namespace of the defined error conditions.
const NS_CONDITION: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// The conditions that this server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    BadRequest,
    Conflict,
    FeatureNotImplemented,
    Forbidden,
    ItemNotFound,
    JidMalformed,
    NotAcceptable,
    NotAllowed,
    PolicyViolation,
    RemoteServerNotFound,
    ResourceConstraint,
    ServiceUnavailable,
}

impl Condition {
    const fn name(self) -> &'static str {
        match self {
            Condition::BadRequest => "bad-request",
            Condition::Conflict => "conflict",
            Condition::FeatureNotImplemented => "feature-not-implemented",
            Condition::Forbidden => "forbidden",
            Condition::ItemNotFound => "item-not-found",
            Condition::JidMalformed => "jid-malformed",
            Condition::NotAcceptable => "not-acceptable",
            Condition::NotAllowed => "not-allowed",
            Condition::PolicyViolation => "policy-violation",
            Condition::RemoteServerNotFound => "remote-server-not-found",
            Condition::ResourceConstraint => "resource-constraint",
            Condition::ServiceUnavailable => "service-unavailable",
        }
    }

    /// RFC 6120 section 8.3.2: what the sender may do about it.
    const fn kind(self) -> &'static str {
        match self {
            Condition::BadRequest | Condition::JidMalformed | Condition::NotAcceptable => "modify",
            Condition::Forbidden => "auth",
            Condition::PolicyViolation | Condition::ResourceConstraint => "wait",
            _ => "cancel",
        }
    }
}

/// What an IQ asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IqType {
    Get,
    Set,
    /// Result or error.
    Answer,
}

/// The type and payload of a well-formed IQ (RFC 6120 section 8.2.3).
pub(super) fn iq_parts(iq: &Element) -> Result<(IqType, Option<&Element>), Condition> {
    let kind = match iq.attr("type") {
        Some("get") => IqType::Get,
        Some("set") => IqType::Set,
        Some("result" | "error") => return Ok((IqType::Answer, None)),
        _ => return Err(Condition::BadRequest),
    };
    if iq.attr("id").is_none_or(str::is_empty) || iq.elements().count() != 1 {
        return Err(Condition::BadRequest);
    }
    Ok((kind, iq.elements().next()))
}

/// The empty answer to an IQ.
pub(super) fn result(iq: &Element) -> Element {
    let mut answer = Element::new("iq", NS_CLIENT).with("type", "result");
    copy(iq, "id", &mut answer, "id");
    copy(iq, "to", &mut answer, "from");
    copy(iq, "from", &mut answer, "to");
    answer
}

/// The error for a stanza; `None` where RFC 6120 section 8.3.1 forbids one.
pub(super) fn error(stanza: &Element, condition: Condition) -> Option<Element> {
    let answer_to_an_answer = stanza.name() == "iq" && stanza.attr("type") == Some("result");
    if answer_to_an_answer || stanza.attr("type") == Some("error") {
        return None;
    }
    let reason = Element::new(condition.name(), NS_CONDITION);
    let inner = Element::new("error", NS_CLIENT)
        .with("type", condition.kind())
        .child(reason);
    let mut answer = Element::new(stanza.name(), NS_CLIENT).with("type", "error");
    copy(stanza, "id", &mut answer, "id");
    copy(stanza, "to", &mut answer, "from");
    copy(stanza, "from", &mut answer, "to");
    Some(answer.child(inner))
}

/// An empty address is none: an answer from nobody could not be read.
fn copy(from: &Element, name: &str, to: &mut Element, as_name: &str) {
    if let Some(value) = from.attr(name).filter(|value| !value.is_empty()) {
        to.set(as_name, value);
    }
}
