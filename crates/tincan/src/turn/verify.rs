//! Whether an allocation still lives: servers restart, and after a change of address they know us no more.
//!
//! Promises: one request at a time and at most one in `AGAIN`; silence, or the server's word that there is no
//! allocation, ends the client; only answers to our own request count.
//! Refuses to know: who asks and why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use stun_types::attribute::ErrorCode;
use stun_types::message::{Message, TransactionId};
use turn_types::attribute::XorPeerAddress;
use turn_types::message::CREATE_PERMISSION;

use super::client::Client;

/// A living server answers one of four transmissions in this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Not asked again before.
const AGAIN: Duration = Duration::from_secs(2);

/// A question on its way, or the last one.
pub(super) struct Verify {
    /// For the documentation (RFC 5737, RFC 3849): permission to send there is worth nothing, any answer to the wish is.
    nobody: IpAddr,
    asked: Instant,
    /// Its transmissions: a stale nonce makes another.
    requests: Vec<TransactionId>,
    answered: bool,
}

impl Client {
    /// Asks the server for something small, to hear whether the allocation lives.
    pub(super) fn verify(&mut self, now: Instant) {
        let too_soon = |last: &Verify| !last.answered || now.saturating_duration_since(last.asked) < AGAIN;
        let Some(own) = self.relayed().first().filter(|_| !self.ended()) else {
            return;
        };
        if self.verify.as_ref().is_some_and(too_soon) {
            return;
        }
        // A permission that is there is not asked for again, so it is another nobody each time.
        let turn = self.verify.as_ref().map_or(1, |last| last_byte(last.nobody) % 250 + 1);
        let nobody = match own.is_ipv4() {
            true => IpAddr::from(Ipv4Addr::new(192, 0, 2, turn)),
            false => IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(turn))),
        };
        self.verify = Some(Verify {
            nobody,
            asked: now,
            requests: Vec::new(),
            answered: false,
        });
        self.ask_permission(now, nobody);
    }

    /// Looks at a request that leaves; true if it is the question.
    pub(super) fn note_verify(&mut self, message: &Message<'_>) -> bool {
        let Some(verify) = self.verify.as_mut().filter(|verify| !verify.answered) else {
            return false;
        };
        let peer = message.attribute::<XorPeerAddress>().ok();
        let peer = peer.map(|peer| peer.addr(message.transaction_id()).ip());
        if !message.has_method(CREATE_PERMISSION) || peer != Some(verify.nobody) {
            return false;
        }
        verify.requests.push(message.transaction_id());
        true
    }

    /// Looks at a message of the server: is it the answer?
    pub(super) fn note_verified(&mut self, message: &Message<'_>) {
        let Some(verify) = self.verify.as_mut().filter(|verify| !verify.answered) else {
            return;
        };
        if !message.is_response() || !verify.requests.contains(&message.transaction_id()) {
            return;
        }
        match message.attribute::<ErrorCode>().map(|error| error.code()) {
            // The nonce is stale: the question goes out again with the new one.
            Ok(401 | 438) => {}
            // It would, but not to there: it forbids, has another family, or is full.
            Err(_) | Ok(403 | 443 | 486 | 508) => verify.answered = true,
            Ok(_) => self.end("it does not know our allocation any more".to_owned()),
        }
    }

    pub(super) fn verify_due(&self) -> Option<Instant> {
        let open = self.verify.as_ref().filter(|verify| !verify.answered);
        open.map(|verify| verify.asked + ANSWER_WITHIN)
    }

    pub(super) fn verify_timeout(&mut self, now: Instant) {
        if self.verify_due().is_some_and(|due| now >= due) {
            self.end("it stopped answering".to_owned());
        }
    }
}

fn last_byte(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}
