//! A bound stream: stanzas in, stanzas out, acknowledgements (XEP-0198 without resumption), silence.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::hub::{Handled, SessionId};
use super::link::{Ended, Link};
use super::outbox::{Cut, Drain, Scissors};
use super::xml::{Element, Incoming, NS_CLIENT};
use super::{Shared, limits, services};

/// Namespace of stream management.
pub(super) const NS_SM: &str = "urn:xmpp:sm:3";

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Serves the stream until it ends.
pub(super) async fn run(
    link: &mut Link,
    shared: &Shared,
    id: &SessionId,
    drain: &mut Drain,
    mut shutdown: watch::Receiver<bool>,
) -> Ended {
    let scissors = drain.scissors();
    let mut acks = Acks::default();
    let mut silence = Silence::new(Instant::now());
    loop {
        match link.buffered() {
            Ok(Some(incoming)) => match take(link, shared, id, &mut acks, incoming).await {
                Ok(()) => continue,
                Err(ended) => return ended,
            },
            Ok(None) => {}
            Err(ended) => return ended,
        }
        let outcome = tokio::select! {
            biased;
            cut = scissors.cut() => Err(Ended::Condition(match cut {
                Cut::Slow => "policy-violation",
                Cut::Replaced => "conflict",
            })),
            _ = shutdown.changed() => Err(Ended::Condition("system-shutdown")),
            batch = drain.next() => match batch {
                Some(batch) => write(link, &scissors, &batch).await,
                None => Err(Ended::Condition("internal-server-error")),
            },
            filled = link.fill() => filled.inspect(|()| silence.heard(Instant::now())),
            () = tokio::time::sleep_until(silence.deadline) => match silence.passed(Instant::now()) {
                true => ping(link, shared, id).await,
                false => Err(Ended::Condition("connection-timeout")),
            },
        };
        if let Err(ended) = outcome {
            return ended;
        }
    }
}

/// A client that stopped reading can be cut in the middle of a write.
async fn write(link: &mut Link, scissors: &Scissors, batch: &str) -> Result<(), Ended> {
    tokio::select! {
        biased;
        written = link.write(batch) => written,
        _ = scissors.cut() => Err(Ended::Io),
    }
}

async fn take(
    link: &mut Link,
    shared: &Shared,
    id: &SessionId,
    acks: &mut Acks,
    incoming: Incoming,
) -> Result<(), Ended> {
    let stanza = match incoming {
        Incoming::Stanza(stanza) => stanza,
        Incoming::Close => return Err(Ended::ByPeer),
        Incoming::Open(_) => return Err(Ended::Condition("bad-format")),
    };
    if stanza.ns() == NS_SM {
        return match acks.handle(&stanza) {
            Some(answer) => link.send(&answer).await,
            None => Ok(()),
        };
    }
    acks.stanza_came();
    let handled = shared.hub().handle(id, stanza, unix_now());
    match handled {
        Handled::Done => Ok(()),
        Handled::Save => {
            // The change holds in memory; only a power cut could lose it.
            if let Err(error) = shared.save().await {
                tracing::error!(%error, "the state of the rendezvous server could not be written");
            }
            Ok(())
        }
        Handled::NotAStanza => Err(Ended::Condition("unsupported-stanza-type")),
    }
}

async fn ping(link: &mut Link, shared: &Shared, id: &SessionId) -> Result<(), Ended> {
    let ping = Element::new("iq", NS_CLIENT)
        .with("type", "get")
        .with("id", "alive")
        .with("from", shared.domain())
        .with("to", id.jid.as_str())
        .child(Element::new("ping", services::NS_PING));
    link.send(&ping).await
}

/// The answer to every wish for resumption.
pub(super) fn cannot_resume() -> Element {
    let reason = Element::new("item-not-found", "urn:ietf:params:xml:ns:xmpp-stanzas");
    Element::new("failed", NS_SM).child(reason)
}

/// The inbound half of XEP-0198.
#[derive(Default)]
struct Acks {
    enabled: bool,
    handled: u32,
}

impl Acks {
    fn handle(&mut self, element: &Element) -> Option<Element> {
        match element.name() {
            "enable" => {
                self.enabled = true;
                self.handled = 0;
                Some(Element::new("enabled", NS_SM))
            }
            "r" if self.enabled => Some(Element::new("a", NS_SM).with("h", self.handled.to_string())),
            "resume" => Some(cannot_resume()),
            _ => None,
        }
    }

    fn stanza_came(&mut self) {
        // XEP-0198 section 4: the counter wraps at 2^32.
        self.handled = self.handled.wrapping_add(1);
    }
}

/// When a silent client is asked, and when given up.
struct Silence {
    deadline: Instant,
    asked: bool,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Silence {
            deadline: now + limits::IDLE_TIME,
            asked: false,
        }
    }

    fn heard(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// The deadline passed: true if it is to be asked now, false if it was and did not answer.
    fn passed(&mut self, now: Instant) -> bool {
        if self.asked {
            return false;
        }
        *self = Silence {
            deadline: now + limits::PING_TIME,
            asked: true,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_asked_once_then_given_up() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        assert!(silence.passed(start + limits::IDLE_TIME));
        assert!(!silence.passed(start + limits::IDLE_TIME + limits::PING_TIME));
        silence.heard(start + limits::IDLE_TIME);
        assert!(silence.passed(start + 2 * limits::IDLE_TIME));
    }

    #[test]
    fn stanzas_are_counted_from_enabling_on() {
        let mut acks = Acks::default();
        acks.stanza_came();
        assert_eq!(acks.handle(&Element::new("r", NS_SM)), None);
        acks.handle(&Element::new("enable", NS_SM));
        acks.stanza_came();
        acks.stanza_came();
        assert_eq!(
            acks.handle(&Element::new("r", NS_SM)),
            Some(Element::new("a", NS_SM).with("h", "2"))
        );
    }
}
