//! The hub between two accounts, one of which belongs to a fuzzer.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use jid::Jid;

use super::hub::Hub;
use super::outbox::{self, Drain};
use super::services::TurnOffer;
use super::store::Store;
use super::xml::{Element, Incoming, Reader, STANZA_BYTES_MAX};
use crate::sasl::StoredKeys;

const DOMAIN: &str = "rdv.example";
const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
const NOW: u64 = 1_800_000_000;

/// Hands the hub the stanzas in `bytes`: Bob's where `by` says so, else Ann's. What comes out is XML, and nobody speaks
/// in another's name.
#[doc(hidden)]
pub fn fuzz_hub(bytes: &[u8]) {
    let mut store = Store::fresh().expect("the system gives random bytes");
    for user in ["ann", "bob"] {
        let added = store.add_account(user, &StoredKeys::decoy(b"secret", user));
        assert!(added.is_ok(), "there is room for two");
    }
    let offer = TurnOffer {
        host: None,
        udp: Some(3478),
        udp_second: Some(3479),
        tcp: Some(3478),
        secret: vec![1; 32],
        lifetime_secs: 3600,
    };
    let mut hub = Hub::new(store, DOMAIN.to_owned(), offer);
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut ends = ["ann", "bob"].map(|user| {
        let (outbox, drain) = outbox::pair();
        let id = hub.connect(user, Some("ipop"), outbox, ip).ok();
        (id.expect("a good name"), drain)
    });
    let (mut reader, mut header) = (Reader::new(STANZA_BYTES_MAX), HEADER);
    let opened = reader.next(&mut header);
    assert!(matches!(opened, Ok(Some(Incoming::Open(_)))), "the header is good");
    let mut input = bytes;
    while let Ok(Some(Incoming::Stanza(stanza))) = reader.next(&mut input) {
        let by = usize::from(stanza.attr("by") == Some("bob"));
        hub.handle(&ends[by].0, stanza, NOW);
        for (_, drain) in &mut ends {
            check(drain);
        }
    }
    hub.disconnect(&ends[0].0);
    check(&mut ends[1].1);
}

fn check(drain: &mut Drain) {
    while let Some(text) = take(drain) {
        let text = [HEADER, text.as_bytes()].concat();
        let (mut reader, mut input) = (Reader::new(2 * STANZA_BYTES_MAX), &text[..]);
        while let Some(incoming) = reader.next(&mut input).expect("what the server says is well-formed") {
            if let Incoming::Stanza(stanza) = incoming {
                check_sender(&stanza);
            }
        }
    }
}

fn check_sender(stanza: &Element) {
    // A refusal comes from whom the refused stanza was for, whatever that is.
    let from = stanza.attr("from").filter(|_| stanza.attr("type") != Some("error"));
    let Some(from) = from else { return };
    // An answer repeats the address as it was written.
    let bare = Jid::new(from)
        .expect("only refusals repeat what is no address")
        .to_bare()
        .to_string();
    let bare = bare.as_str();
    let known = [
        "rdv.example",
        "conference.rdv.example",
        "ann@rdv.example",
        "bob@rdv.example",
    ];
    assert!(
        known.contains(&bare) || bare.ends_with("@conference.rdv.example"),
        "from {from}"
    );
}

/// What waits already.
fn take(drain: &mut Drain) -> Option<String> {
    match pin!(drain.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(text) => text,
        Poll::Pending => None,
    }
}
