//! From the first stream header to a bound resource (RFC 6120 sections 4 to 7, XEP-0077, XEP-0445).
//!
//! Promises: before TLS nothing but STARTTLS is offered or read; passwords travel as SCRAM only; an account
//! is made only with the registration token. A stranger gets bounded bytes, time and tries.
//!
//! 1. [`starttls`], 2. [`authenticate`], 3. [`bind`].

use std::time::Instant;

use data_encoding::BASE64;
use jid::{Jid, NodePart};

use super::guard::Origin;
use super::hub::SessionId;
use super::link::{Ended, Link};
use super::outbox::Outbox;
use super::stanza::{self, Condition};
use super::xml::{Element, Incoming, NS_CLIENT, NS_STREAM};
use super::{Shared, limits};
use crate::sasl::{self, Mechanism, Offered, Opening, SaslError, StoredKeys};

const NS_TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const NS_REGISTER: &str = "jabber:iq:register";
const NS_PREAUTH: &str = "urn:xmpp:pars:0";

/// Where a connection comes from, and what its TLS session can be bound to.
pub(super) struct Stranger {
    pub(super) origin: Origin,
    pub(super) binding: Option<[u8; sasl::BINDING_BYTES]>,
}

/// Offers STARTTLS and nothing else; returns when the client took it.
pub(super) async fn starttls(link: &mut Link, shared: &Shared) -> Result<(), Ended> {
    open(link, shared).await?;
    let required = Element::new("starttls", NS_TLS).child(Element::new("required", NS_TLS));
    link.send(&features([required])).await?;
    let asked = link.next_stanza().await?;
    if !asked.is("starttls", NS_TLS) {
        return Err(Ended::Condition("policy-violation"));
    }
    link.send(&Element::new("proceed", NS_TLS)).await
}

/// Returns the account's name once its owner has proven the password.
pub(super) async fn authenticate(link: &mut Link, shared: &Shared, who: &Stranger) -> Result<String, Ended> {
    open(link, shared).await?;
    link.send(&features(mechanisms(who.binding.is_some()))).await?;
    let mut registrar = Registrar::default();
    let mut failures = 0;
    loop {
        let stanza = link.next_stanza().await?;
        if stanza.is("auth", NS_SASL) {
            match scram(link, shared, who, &stanza).await? {
                Some(user) => return Ok(user),
                None => failures += 1,
            }
        } else if stanza.is("iq", NS_CLIENT) {
            let refused = registrar.answer(link, shared, who, &stanza).await?;
            failures += u32::from(refused);
        } else {
            return Err(Ended::Condition("not-authorized"));
        }
        if failures >= limits::FAILURES_PER_CONNECTION {
            return Err(Ended::Condition("policy-violation"));
        }
    }
}

/// Binds a resource for the account and says so.
pub(super) async fn bind<'a>(
    link: &mut Link,
    shared: &'a Shared,
    user: &str,
    outbox: &Outbox,
    server_ip: std::net::IpAddr,
) -> Result<Bound<'a>, Ended> {
    open(link, shared).await?;
    let session = Element::new("session", "urn:ietf:params:xml:ns:xmpp-session");
    let session = session.child(Element::new("optional", "urn:ietf:params:xml:ns:xmpp-session"));
    let management = Element::new("sm", super::session::NS_SM);
    link.send(&features([Element::new("bind", NS_BIND), session, management]))
        .await?;
    loop {
        let iq = link.next_stanza().await?;
        if iq.is("resume", super::session::NS_SM) {
            link.send(&super::session::cannot_resume()).await?;
            continue;
        }
        let asked = iq
            .find("bind", NS_BIND)
            .filter(|_| iq.is("iq", NS_CLIENT) && iq.attr("type") == Some("set"));
        let Some(asked) = asked else {
            return Err(Ended::Condition("not-authorized"));
        };
        let resource = asked.find("resource", NS_BIND).map(Element::text);
        let bound = shared
            .hub()
            .connect(user, resource.as_deref(), outbox.clone(), server_ip);
        match bound {
            Ok(id) => {
                let bound = Bound { shared, id };
                let jid = Element::new("jid", NS_BIND).with_text(bound.id.jid.as_str());
                let answer = stanza::result(&iq).child(Element::new("bind", NS_BIND).child(jid));
                return link.send(&answer).await.map(|()| bound);
            }
            Err(condition) => refuse(link, &iq, condition).await?,
        }
    }
}

/// A bound resource; however its task ends, rooms and contacts are told.
pub(super) struct Bound<'a> {
    shared: &'a Shared,
    pub(super) id: SessionId,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        self.shared.hub().disconnect(&self.id);
    }
}

/// Reads the client's header and sends ours.
async fn open(link: &mut Link, shared: &Shared) -> Result<(), Ended> {
    let Incoming::Open(header) = link.next().await? else {
        return Err(Ended::Condition("bad-format"));
    };
    let id = sasl::fresh_nonce().map_err(|_| Ended::Condition("internal-server-error"))?;
    let domain = shared.domain();
    // A domain is checked to hold no character that XML would need escaped.
    let text = format!(
        "<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAM}' \
         from='{domain}' id='{id}' version='1.0' xml:lang='en'>"
    );
    link.write(&text).await?;
    let meant = header.attr("to").and_then(|to| Jid::new(to).ok());
    match meant {
        Some(to) if to.as_str() == domain => Ok(()),
        _ => Err(Ended::Condition("host-unknown")),
    }
}

fn features(features: impl IntoIterator<Item = Element>) -> Element {
    Element::new("features", NS_STREAM).children_from(features)
}

fn mechanisms(binding: bool) -> Vec<Element> {
    let names = Mechanism::ALL
        .into_iter()
        .filter(|m| m.hash == sasl::Hash::Sha256 && (binding || !m.plus));
    let names = names.map(|m| Element::new("mechanism", NS_SASL).with_text(m.name()));
    let mut out = vec![Element::new("mechanisms", NS_SASL).children_from(names)];
    if binding {
        const NS_SASL_CB: &str = "urn:xmpp:sasl-cb:0";
        let kind = Element::new("channel-binding", NS_SASL_CB).with("type", sasl::BINDING_NAME);
        out.push(Element::new("sasl-channel-binding", NS_SASL_CB).child(kind));
    }
    out.push(Element::new("register", "http://jabber.org/features/iq-register"));
    out.push(Element::new("register", "urn:xmpp:invite"));
    out
}

/// One SCRAM exchange; `None`: it failed and the client was told.
async fn scram(link: &mut Link, shared: &Shared, who: &Stranger, auth: &Element) -> Result<Option<String>, Ended> {
    if !shared.guard().may_try(who.origin, Instant::now()) {
        return fail(link, "temporary-auth-failure").await;
    }
    let mechanism = auth.attr("mechanism").and_then(Mechanism::from_name);
    let Some(mechanism) = mechanism.filter(|m| m.hash == sasl::Hash::Sha256) else {
        return fail(link, "invalid-mechanism").await;
    };
    let offered = match &who.binding {
        Some(exporter) => Offered::Exporter(exporter),
        None => Offered::NoBinding,
    };
    let opening = decode(auth).and_then(|text| Opening::parse(&text, mechanism.plus, offered));
    let opening = match opening {
        Ok(opening) => opening,
        Err(error) => return failed(link, shared, who, error).await,
    };
    let Some(user) = account_name(&opening.user).filter(|u| authorised(&opening, u, shared.domain())) else {
        return failed(link, shared, who, SaslError::WrongPassword).await;
    };
    let keys = shared.hub().store.keys(&user);
    let challenge = sasl::fresh_nonce().and_then(|nonce| opening.challenge(&keys, &nonce));
    let (challenge, waiting) = challenge.map_err(|_| Ended::Condition("internal-server-error"))?;
    link.send(&Element::new("challenge", NS_SASL).with_text(BASE64.encode(challenge.as_bytes())))
        .await?;
    let response = link.next_stanza().await?;
    if response.is("abort", NS_SASL) {
        return fail(link, "aborted").await;
    }
    if !response.is("response", NS_SASL) {
        return Err(Ended::Condition("not-authorized"));
    }
    match decode(&response).and_then(|text| waiting.verify(&text)) {
        Ok(last) => {
            link.send(&Element::new("success", NS_SASL).with_text(BASE64.encode(last.as_bytes())))
                .await?;
            Ok(Some(user))
        }
        Err(error) => failed(link, shared, who, error).await,
    }
}

/// RFC 6120 section 6.3.8: an identity to act as must be the account's own address.
fn authorised(opening: &Opening, user: &str, domain: &str) -> bool {
    opening
        .authzid
        .as_ref()
        .is_none_or(|id| *id == format!("{user}@{domain}"))
}

fn decode(element: &Element) -> Result<String, SaslError> {
    let text = element.text();
    let bytes = BASE64
        .decode(text.trim().as_bytes())
        .map_err(|_| SaslError::Malformed("base64"))?;
    String::from_utf8(bytes).map_err(|_| SaslError::Malformed("UTF-8"))
}

async fn failed(link: &mut Link, shared: &Shared, who: &Stranger, error: SaslError) -> Result<Option<String>, Ended> {
    shared.guard().failed(who.origin, Instant::now());
    let condition = match error {
        SaslError::Malformed(_) | SaslError::BadName => "malformed-request",
        _ => "not-authorized",
    };
    fail(link, condition).await
}

async fn fail(link: &mut Link, condition: &str) -> Result<Option<String>, Ended> {
    let text = format!("<failure xmlns='{NS_SASL}'><{condition}/></failure>");
    link.write(&text).await.map(|()| None)
}

/// The account's name in its one canonical spelling.
pub(super) fn account_name(name: &str) -> Option<String> {
    NodePart::new(name).ok().map(|part| part.as_str().to_owned())
}

/// Registration on one connection: the token first, then the account.
#[derive(Default)]
struct Registrar {
    token_given: bool,
}

impl Registrar {
    /// True if the client was refused in a way that counts as guessing.
    async fn answer(&mut self, link: &mut Link, shared: &Shared, who: &Stranger, iq: &Element) -> Result<bool, Ended> {
        match self.judge(shared, who, iq) {
            Ok(Answer::Empty) => link.send(&stanza::result(iq)).await.map(|()| false),
            Ok(Answer::Form) => link.send(&stanza::result(iq).child(form())).await.map(|()| false),
            Ok(Answer::Registered) => {
                if shared.save().await.is_err() {
                    return refuse(link, iq, Condition::ResourceConstraint).await.map(|()| false);
                }
                link.send(&stanza::result(iq)).await.map(|()| false)
            }
            Err(condition) => {
                refuse(link, iq, condition).await?;
                Ok(matches!(condition, Condition::ItemNotFound | Condition::Conflict))
            }
        }
    }

    fn judge(&mut self, shared: &Shared, who: &Stranger, iq: &Element) -> Result<Answer, Condition> {
        let (kind, payload) = stanza::iq_parts(iq)?;
        let asked = payload.ok_or(Condition::BadRequest)?;
        if asked.is("preauth", NS_PREAUTH) && kind == stanza::IqType::Set {
            return self.token(shared, who, asked).map(|()| Answer::Empty);
        }
        if !asked.is("query", NS_REGISTER) {
            return Err(Condition::NotAllowed);
        }
        if kind == stanza::IqType::Get {
            return Ok(Answer::Form);
        }
        if !self.token_given {
            return Err(Condition::Forbidden);
        }
        let field = |name| {
            asked
                .find(name, NS_REGISTER)
                .map(Element::text)
                .filter(|text| !text.is_empty())
        };
        let user = field("username")
            .and_then(|name| account_name(&name))
            .ok_or(Condition::NotAcceptable)?;
        let password = field("password").ok_or(Condition::NotAcceptable)?;
        let keys = StoredKeys::from_password(&password).map_err(|_| Condition::NotAcceptable)?;
        shared.hub().store.add_account(&user, &keys)?;
        // One account for one showing of the token.
        self.token_given = false;
        Ok(Answer::Registered)
    }

    fn token(&mut self, shared: &Shared, who: &Stranger, asked: &Element) -> Result<(), Condition> {
        let now = Instant::now();
        if !shared.guard().may_try(who.origin, now) {
            return Err(Condition::PolicyViolation);
        }
        self.token_given = shared.hub().store.token_is(asked.attr("token").unwrap_or_default());
        if self.token_given {
            return Ok(());
        }
        shared.guard().failed(who.origin, now);
        Err(Condition::ItemNotFound)
    }
}

enum Answer {
    Empty,
    Form,
    Registered,
}

fn form() -> Element {
    let instructions = Element::new("instructions", NS_REGISTER);
    let instructions = instructions.with_text("Give the registration token first (XEP-0445), then name and password.");
    Element::new("query", NS_REGISTER)
        .child(instructions)
        .child(Element::new("username", NS_REGISTER))
        .child(Element::new("password", NS_REGISTER))
}

async fn refuse(link: &mut Link, iq: &Element, condition: Condition) -> Result<(), Ended> {
    match stanza::error(iq, condition) {
        Some(error) => link.send(&error).await,
        None => Ok(()),
    }
}
