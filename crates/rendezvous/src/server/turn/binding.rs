//! Binding (RFC 8489) and what a server with one address and two ports can do for NAT tests (RFC 5780).
//!
//! Promises: an answer never costs state, and one to a question about ports is at most twice as long as the question.
//! Refuses: to change its address, as there is no second one (RFC 5780 section 6.1: error 420); OTHER-ADDRESS, which
//! a server without a second address must not send (section 7.4): clients learn of the second port by XEP-0215.

use std::net::SocketAddr;

use stun_proto::types::attribute::{AttributeType, ErrorCode, XorMappedAddress};
use stun_proto::types::message::{BINDING, Message, MessageClass};

use super::wire;

/// RFC 5780 section 7.2.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const CHANGE_IP: u8 = 0x04;
const CHANGE_PORT: u8 = 0x02;

/// The ports of the address that a question came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    One,
    Two,
}

/// An answer, by the port that it leaves from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    FromHere(Vec<u8>),
    FromOtherPort(Vec<u8>),
}

/// Answers a datagram that is a Binding request; `None` if it is something else.
pub(super) fn answer_datagram(peer: SocketAddr, bytes: &[u8], ports: Ports) -> Option<Answer> {
    let message = Message::from_bytes(bytes).ok()?;
    let is_ours = message.class() == MessageClass::Request && message.method() == BINDING;
    is_ours.then(|| answer(peer, &message, ports))?
}

/// Answers a Binding request.
pub(super) fn answer(peer: SocketAddr, message: &Message<'_>, ports: Ports) -> Option<Answer> {
    let change = message.raw_attribute(CHANGE_REQUEST);
    let flags = match change.as_ref().map(|change| change.value.as_ref()) {
        None => 0,
        Some(&[_, _, _, flags]) => flags,
        Some(_) => return wire::error(message, ErrorCode::BAD_REQUEST, None).map(Answer::FromHere),
    };
    let known = match ports {
        Ports::Two if flags & CHANGE_IP == 0 => &[CHANGE_REQUEST][..],
        _ => &[],
    };
    let known = [wire::KNOWN, known].concat();
    if let Some(unknown) = wire::unknown(message, &known) {
        return Some(Answer::FromHere(unknown));
    }
    let mapped = XorMappedAddress::new(wire::canonical(peer), message.transaction_id());
    let answer = wire::success(message, &[&mapped], None)?;
    Some(match flags & CHANGE_PORT {
        0 => Answer::FromHere(answer),
        _ => Answer::FromOtherPort(answer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(change: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend_from_slice(&[7; 12]);
        if let Some(change) = change {
            bytes.extend_from_slice(&[0, 3, 0, u8::try_from(change.len()).unwrap()]);
            bytes.extend_from_slice(change);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes[3] = u8::try_from(bytes.len() - 20).unwrap();
        }
        bytes
    }

    /// Which port it leaves from, and the error's code, or 0.
    fn told(answer: &Answer) -> (bool, u16) {
        let (Answer::FromHere(bytes) | Answer::FromOtherPort(bytes)) = answer;
        let message = Message::from_bytes(bytes).unwrap();
        let code = message.attribute::<ErrorCode>().map_or(0, |error| error.code());
        (matches!(answer, Answer::FromOtherPort(_)), code)
    }

    #[test]
    fn a_change_is_honoured_where_there_is_another_port_and_refused_otherwise() {
        let table: [(&[u8], Ports, (bool, u16)); 8] = [
            (&[0, 0, 0, 0], Ports::Two, (false, 0)),
            (&[0, 0, 0, 2], Ports::Two, (true, 0)),
            (&[0, 0, 0, 4], Ports::Two, (false, 420)),
            (&[0, 0, 0, 6], Ports::Two, (false, 420)),
            (&[0, 0, 0, 0], Ports::One, (false, 420)),
            (&[0, 0, 0, 2], Ports::One, (false, 420)),
            (&[0, 0, 2], Ports::Two, (false, 400)),
            (&[], Ports::One, (false, 400)),
        ];
        let peer = "192.0.2.1:9".parse().unwrap();
        for (change, ports, expected) in table {
            let answer = answer_datagram(peer, &question(Some(change)), ports).unwrap();
            assert_eq!(told(&answer), expected, "{change:?} {ports:?}");
        }
        assert_eq!(
            told(&answer_datagram(peer, &question(None), Ports::Two).unwrap()),
            (false, 0)
        );
    }

    #[test]
    fn answers_about_ports_are_at_most_twice_as_long_as_their_questions() {
        for peer in ["192.0.2.1:9", "[2001:db8::1]:9"] {
            for flags in 0..=7 {
                for ports in [Ports::One, Ports::Two] {
                    let question = question(Some(&[0, 0, 0, flags]));
                    let answer = answer_datagram(peer.parse().unwrap(), &question, ports).unwrap();
                    let (Answer::FromHere(bytes) | Answer::FromOtherPort(bytes)) = answer;
                    assert!(bytes.len() <= 2 * question.len(), "{flags} {ports:?}: {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn answers_are_never_answered() {
        let peer = "192.0.2.1:9".parse().unwrap();
        for flags in [2, 4] {
            let answer = answer_datagram(peer, &question(Some(&[0, 0, 0, flags])), Ports::Two).unwrap();
            let (Answer::FromHere(bytes) | Answer::FromOtherPort(bytes)) = answer;
            assert_eq!(answer_datagram(peer, &bytes, Ports::Two), None);
        }
    }
}
