//! From a verified connection to a bound session: SCRAM, registration where it is needed, resource binding.
//!
//! Promises: a password never leaves but as a SCRAM proof; a lost channel binding is refused (S-X06); as few round
//! trips as the server's answers allow: the mechanism of the last login goes out with the stream header, everything
//! that needs no answer of the binding goes out with it.

use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncWrite};

use super::fault::Failure;
use super::limits;
use super::stream::{Broken, Stream, condition_of};
use super::target::{Memory, Target};
use super::wire::{self, NS_BIND, NS_SM, NS_STANZA_ERRORS};
use crate::sasl::{self, Client, Mechanism, SaslError, Verify};
use crate::xml::{Element, NS_CLIENT, STANZA_BYTES_MAX};

use api::rendezvous::RendezvousFault;

const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const NS_BINDINGS: &str = "urn:xmpp:sasl-cb:0";
const NS_REGISTER: &str = "jabber:iq:register";
const NS_REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
const NS_TOKEN_FEATURE: &str = "urn:xmpp:ibr-token:0";
const NS_INVITE_FEATURE: &str = "urn:xmpp:invite";
const NS_PREAUTH: &str = "urn:xmpp:pars:0";
/// Stanzas that may come before the answer to the binding.
const EARLY_MAX: usize = 16;

/// A bound session.
pub(super) struct LoggedIn {
    /// Our full JID.
    pub(super) jid: String,
    /// The server acknowledges stanzas (XEP-0198).
    pub(super) acks: bool,
    /// What came before the answer to the binding.
    pub(super) early: Vec<Element>,
}

/// What the server lets us log in with.
struct Offer {
    mechanisms: Vec<Mechanism>,
    others: bool,
    /// The exporter's value, if the server knows that kind of binding.
    binding: Option<[u8; sasl::BINDING_BYTES]>,
}

/// Logs in; `pipelined` goes out right behind the binding.
pub(super) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    memory: &mut Memory,
    binding: Option<[u8; sasl::BINDING_BYTES]>,
    pipelined: &str,
) -> Result<LoggedIn, Failure> {
    authenticate(stream, target, memory, binding).await?;
    bind(stream, target, pipelined).await
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    memory: &mut Memory,
    binding: Option<[u8; sasl::BINDING_BYTES]>,
) -> Result<(), Failure> {
    let broken = |broken| Failure::broken(&target.label, broken);
    stream.open(&target.domain, limits::STANZA_BYTES_STRANGER);
    // Behind a pin is most likely our own server, whose mechanism is known.
    let guess = memory.mechanism.take().or(target.pin.map(|_| Mechanism::ALL[0]));
    let guess = guess.filter(|m| !m.plus || binding.is_some());
    let guessed = guess
        .map(|m| start(stream, target, m, binding).map(|client| (m, client)))
        .transpose()?;
    let features = stream.features().await.map_err(broken)?;
    let offer = Offer::parse(&features, binding);
    let best = offer.best(target, memory)?;
    let (mut mechanism, mut client) = match guessed {
        Some(guessed) => guessed,
        None => (best, start(stream, target, best, offer.binding)?),
    };
    let mut registered = false;
    let mut retried = false;
    while let Err(condition) = exchange(stream, target, client).await? {
        if mechanism != best && !retried {
            (mechanism, retried) = (best, true);
        } else if condition == "not-authorized" && target.register && !registered {
            register(stream, target, &features).await?;
            registered = true;
        } else {
            return Err(refused(target, mechanism, &condition));
        }
        client = start(stream, target, mechanism, offer.binding)?;
    }
    memory.bound |= mechanism.plus;
    // The flag in the first message must be right before the features are known.
    memory.mechanism = (offer.binding == binding).then_some(mechanism);
    Ok(())
}

impl Offer {
    fn parse(features: &Element, binding: Option<[u8; sasl::BINDING_BYTES]>) -> Self {
        let names: Vec<String> = features
            .find("mechanisms", NS_SASL)
            .into_iter()
            .flat_map(Element::elements)
            .filter(|e| e.is("mechanism", NS_SASL))
            .map(Element::text)
            .collect();
        let bindings = features.find("sasl-channel-binding", NS_BINDINGS);
        let known = bindings.is_none_or(|list| list.elements().any(|e| e.attr("type") == Some(sasl::BINDING_NAME)));
        Offer {
            mechanisms: names.iter().filter_map(|name| Mechanism::from_name(name)).collect(),
            others: !names.is_empty(),
            binding: binding.filter(|_| known),
        }
    }

    /// The strongest mechanism that both know, unless that is weaker than what this server offered before.
    fn best(&self, target: &Target, memory: &Memory) -> Result<Mechanism, Failure> {
        let label = &target.label;
        let fits = |m: &Mechanism| self.mechanisms.contains(m) && (!m.plus || self.binding.is_some());
        let best = Mechanism::ALL.into_iter().find(fits);
        match best {
            Some(best) if memory.bound && !best.plus => Err(Failure::impostor(format!(
                "{label} tied logins to the TLS connection before and does not any more: somebody may sit between; if \
                 its operator changed that, start this node's controller anew"
            ))),
            Some(best) => Ok(best),
            None if self.others => Err(Failure::unsuitable(format!(
                "{label} offers no SCRAM login, and the password is never sent in clear; ask its operator for SCRAM"
            ))),
            None => Err(Failure::unsuitable(format!(
                "{label} offers no login with a password; ask its operator"
            ))),
        }
    }
}

fn start<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    mechanism: Mechanism,
    binding: Option<[u8; sasl::BINDING_BYTES]>,
) -> Result<Client, Failure> {
    let binding = binding.as_ref().map(<[u8; sasl::BINDING_BYTES]>::as_slice);
    let client = sasl::fresh_nonce()
        .and_then(|nonce| Client::new(&target.user, &target.password, mechanism, binding, nonce))
        .map_err(|error| sasl_failure(target, error))?;
    let auth = Element::new("auth", NS_SASL)
        .with("mechanism", mechanism.name())
        .with_text(BASE64.encode(client.first().as_bytes()));
    stream.queue(&auth.to_text());
    Ok(client)
}

/// Runs one exchange to its end; the inner error is the server's condition.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    client: Client,
) -> Result<Result<(), String>, Failure> {
    let broken = |broken| Failure::broken(&target.label, broken);
    let failed = |error| sasl_failure(target, error);
    let challenge = stream.stanza().await.map_err(broken)?;
    if challenge.is("failure", NS_SASL) {
        return Ok(Err(condition_of(&challenge, NS_SASL)));
    }
    let (answer, verify) = client
        .answer(&message(target, &challenge, "challenge")?)
        .map_err(failed)?;
    respond(stream, &answer);
    let mut last = stream.stanza().await.map_err(broken)?;
    if last.is("failure", NS_SASL) {
        return Ok(Err(condition_of(&last, NS_SASL)));
    }
    let mut verify = Some(verify);
    if last.is("challenge", NS_SASL) {
        // The server's proof as a challenge of its own: RFC 6120 allows both.
        check(target, &mut verify, &last, "challenge")?;
        respond(stream, "");
        last = stream.stanza().await.map_err(broken)?;
    }
    check(target, &mut verify, &last, "success")?;
    Ok(Ok(()))
}

fn check(target: &Target, verify: &mut Option<Verify>, element: &Element, name: &str) -> Result<(), Failure> {
    let text = message(target, element, name)?;
    match verify.take() {
        Some(verify) => verify.check(&text).map_err(|error| sasl_failure(target, error)),
        None => Ok(()),
    }
}

fn message(target: &Target, element: &Element, name: &str) -> Result<String, Failure> {
    let nonsense = || {
        Failure::protocol(format!(
            "{} broke the rules of the login (SASL); ask its operator",
            target.label
        ))
    };
    if !element.is(name, NS_SASL) {
        return Err(nonsense());
    }
    let text = element.text();
    let bytes = BASE64.decode(text.trim().as_bytes()).map_err(|_| nonsense())?;
    String::from_utf8(bytes).map_err(|_| nonsense())
}

fn respond<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Stream<S>, text: &str) {
    let response = Element::new("response", NS_SASL).with_text(BASE64.encode(text.as_bytes()));
    stream.queue(&response.to_text());
}

fn sasl_failure(target: &Target, error: SaslError) -> Failure {
    let fault = match error {
        SaslError::ServerNotProven | SaslError::BindingMismatch => RendezvousFault::Impostor,
        SaslError::BadName | SaslError::WrongPassword | SaslError::Refused => RendezvousFault::WrongPassword,
        SaslError::BadIterations(_) | SaslError::NoBinding => RendezvousFault::Unsuitable,
        _ => RendezvousFault::Protocol,
    };
    Failure::new(
        fault,
        format!("logging in as {} at {} failed: {error}", target.account(), target.label),
    )
}

fn refused(target: &Target, mechanism: Mechanism, condition: &str) -> Failure {
    let (account, label) = (target.account(), &target.label);
    match condition {
        "not-authorized" => Failure::new(
            RendezvousFault::WrongPassword,
            format!("{label} does not accept this password for {account}; correct the user or the password"),
        ),
        "account-disabled" | "credentials-expired" => Failure::new(
            RendezvousFault::WrongPassword,
            format!("{label} has closed the account {account} ({condition}); ask its operator"),
        ),
        "temporary-auth-failure" => Failure::lost(format!(
            "{label} cannot check passwords at the moment; it is tried again"
        )),
        _ => Failure::unsuitable(format!(
            "{label} refused the login by {mechanism} ({condition}); ask its operator"
        )),
    }
}

/// Registers the account on the stream that refused the login. Both requests go out at once.
async fn register<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    features: &Element,
) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Failure::new(
            RendezvousFault::RegistrationRefused,
            format!(
                "{} does not know {} with this password and {why}",
                target.label,
                target.account()
            ),
        )
    };
    let offered = [NS_REGISTER_FEATURE, NS_TOKEN_FEATURE, NS_INVITE_FEATURE];
    if !offered.iter().any(|ns| features.find("register", ns).is_some()) {
        return Err(refuse("does not register accounts; ask its operator for one"));
    }
    let preauth = target.token.as_ref().map(|token| {
        let preauth = Element::new("preauth", NS_PREAUTH).with("token", token.as_str());
        wire::iq("set", &wire::fresh_id(), Some(&target.domain)).child(preauth)
    });
    let query = Element::new("query", NS_REGISTER)
        .child(Element::new("username", NS_REGISTER).with_text(target.user.as_str()))
        .child(Element::new("password", NS_REGISTER).with_text(target.password.as_str()));
    let set = wire::iq("set", &wire::fresh_id(), Some(&target.domain)).child(query);
    if let Some(preauth) = &preauth {
        stream.queue(&preauth.to_text());
    }
    stream.queue(&set.to_text());
    let token = match &preauth {
        Some(preauth) => answer(stream, target, preauth).await?,
        None => Ok(()),
    };
    match (answer(stream, target, &set).await?, token) {
        (Ok(()), _) => Ok(()),
        // It exists, so the password was wrong.
        (Err(condition), _) if condition == "conflict" => Err(refused(target, Mechanism::ALL[0], "not-authorized")),
        (Err(condition), Ok(())) if matches!(condition.as_str(), "resource-constraint" | "policy-violation") => {
            Err(refuse("registers no more accounts at the moment; it is tried again"))
        }
        (Err(_), Err(_)) => Err(refuse("its token no longer registers accounts; ask for a new invite")),
        (Err(condition), Ok(())) => Err(refuse(&format!(
            "refused to register it ({condition}); ask its operator or for an invite"
        ))),
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    question: &Element,
) -> Result<Result<(), String>, Failure> {
    let answer = stream.stanza().await.map_err(|broken| match broken {
        Broken::Refused(condition) => Failure::new(
            RendezvousFault::RegistrationRefused,
            format!(
                "{} does not register accounts ({condition}); ask its operator for one",
                target.label
            ),
        ),
        other => Failure::broken(&target.label, other),
    })?;
    let ours = answer.is("iq", NS_CLIENT) && answer.attr("id") == question.attr("id");
    match answer.attr("type") {
        Some("result") if ours => Ok(Ok(())),
        Some("error") if ours => Ok(Err(answer
            .find("error", NS_CLIENT)
            .map_or_else(String::new, |e| condition_of(e, NS_STANZA_ERRORS)))),
        _ => Err(Failure::protocol(format!(
            "{} answered what was not asked; ask its operator",
            target.label
        ))),
    }
}

async fn bind<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    target: &Target,
    pipelined: &str,
) -> Result<LoggedIn, Failure> {
    let broken = |broken| Failure::broken(&target.label, broken);
    let id = wire::fresh_id();
    stream.open(&target.domain, STANZA_BYTES_MAX);
    stream.queue(
        &wire::iq("set", &id, None)
            .child(Element::new("bind", NS_BIND))
            .to_text(),
    );
    stream.queue(pipelined);
    let features = stream.features().await.map_err(broken)?;
    let mut early = Vec::new();
    loop {
        let stanza = stream.stanza().await.map_err(broken)?;
        if !(stanza.is("iq", NS_CLIENT) && stanza.attr("id") == Some(&id)) {
            early.push(stanza);
            if early.len() > EARLY_MAX {
                return Err(Failure::protocol(format!(
                    "{} did not answer the binding; ask its operator",
                    target.label
                )));
            }
            continue;
        }
        let jid = stanza
            .find("bind", NS_BIND)
            .and_then(|b| b.find("jid", NS_BIND))
            .map(Element::text);
        return match jid.filter(|jid| stanza.attr("type") == Some("result") && jid.contains('/')) {
            Some(jid) => Ok(LoggedIn {
                jid,
                acks: features.find("sm", NS_SM).is_some(),
                early,
            }),
            None => Err(Failure::unsuitable(format!(
                "{} let {} in but gave it no session; too many may be logged in",
                target.label,
                target.account()
            ))),
        };
    }
}
