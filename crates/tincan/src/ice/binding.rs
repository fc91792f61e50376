//! STUN Binding without credentials, as STUN servers speak it (RFC 8489, RFC 5780).
//!
//! Promises: plain functions over any bytes. Refuses to know: when to ask whom.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::candidate::plain;
use super::stun::{COOKIE, StunClass, TransactionId, attribute, stun_class, stun_transaction};

const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
const CHANGED_ADDRESS: u16 = 0x0005;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const OTHER_ADDRESS: u16 = 0x802c;

/// From where a server is asked to answer (RFC 5780 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeRequest {
    /// From where it was asked: tells whether it knows the question at all.
    Nothing,
    /// From its other port.
    Port,
    /// From its other address and other port.
    AddressAndPort,
}

/// A Binding request with this transaction id.
pub fn binding_request(id: TransactionId, change: Option<ChangeRequest>) -> Vec<u8> {
    let length = if change.is_some() { 8 } else { 0 };
    let mut bytes = vec![0, 1, 0, length];
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&id);
    if let Some(change) = change {
        let flags = match change {
            ChangeRequest::Nothing => 0,
            ChangeRequest::Port => 2,
            ChangeRequest::AddressAndPort => 6,
        };
        bytes.extend_from_slice(&CHANGE_REQUEST.to_be_bytes());
        bytes.extend_from_slice(&[0, 4, 0, 0, 0, flags]);
    }
    bytes
}

/// What a STUN server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingAnswer {
    /// To which request.
    pub transaction: TransactionId,
    /// How the server sees us.
    pub mapped: SocketAddr,
    /// Its other address and port, where it can test NATs.
    pub other: Option<SocketAddr>,
}

/// Why bytes are not a usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BindingError {
    /// No STUN Binding answer at all.
    #[error("not a STUN answer")]
    NotAnAnswer,
    /// The server refused.
    #[error("the server refuses with error {0}")]
    Refused(u16),
    /// No address in it.
    #[error("the answer names no address")]
    NoAddress,
}

impl BindingAnswer {
    /// Reads an answer to a Binding request.
    pub fn parse(bytes: &[u8]) -> Result<Self, BindingError> {
        let transaction = stun_transaction(bytes).ok_or(BindingError::NotAnAnswer)?;
        match stun_class(bytes) {
            Some(StunClass::Success) => {}
            Some(StunClass::Error) => return Err(BindingError::Refused(error_code(bytes))),
            _ => return Err(BindingError::NotAnAnswer),
        }
        let xored = attribute(bytes, XOR_MAPPED_ADDRESS).and_then(|value| address(value, Some(&transaction)));
        let clear = || attribute(bytes, MAPPED_ADDRESS).and_then(|value| address(value, None));
        let mapped = xored.or_else(clear).ok_or(BindingError::NoAddress)?;
        let other = attribute(bytes, OTHER_ADDRESS).or_else(|| attribute(bytes, CHANGED_ADDRESS));
        let other = other
            .and_then(|value| address(value, None))
            .filter(|other| other.port() != 0);
        Ok(BindingAnswer {
            transaction,
            mapped,
            other,
        })
    }
}

fn error_code(bytes: &[u8]) -> u16 {
    match attribute(bytes, ERROR_CODE) {
        Some(&[_, _, class, number, ..]) => u16::from(class & 7) * 100 + u16::from(number),
        _ => 0,
    }
}

/// An address attribute, XORed with cookie and transaction id if these are given (RFC 8489 section 14.2).
fn address(value: &[u8], xor: Option<&TransactionId>) -> Option<SocketAddr> {
    let (&[_, family, high, low], ip) = value.split_first_chunk::<4>()?;
    let mut mask = [0u8; 16];
    if let Some(id) = xor {
        mask[..4].copy_from_slice(&COOKIE);
        mask[4..].copy_from_slice(id);
    }
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    let ip: IpAddr = match family {
        1 => {
            let octets: [u8; 4] = ip.try_into().ok()?;
            let mut clear = [0; 4];
            for (at, octet) in clear.iter_mut().enumerate() {
                *octet = octets[at] ^ mask[at];
            }
            clear.into()
        }
        2 => {
            let octets: [u8; 16] = ip.try_into().ok()?;
            let mut clear = [0; 16];
            for (at, octet) in clear.iter_mut().enumerate() {
                *octet = octets[at] ^ mask[at];
            }
            clear.into()
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, port)))
}

/// A STUN server's answer, for tests.
#[cfg(test)]
pub(crate) fn binding_answer(request: &[u8], mapped: SocketAddr, other: Option<SocketAddr>) -> Vec<u8> {
    let id = stun_transaction(request).unwrap();
    let mut attributes = Vec::new();
    let mut put = |kind: u16, address: SocketAddr, xor: bool| {
        let mut mask = [0u8; 16];
        if xor {
            mask[..4].copy_from_slice(&COOKIE);
            mask[4..].copy_from_slice(&id);
        }
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let [high, low] = address.port().to_be_bytes();
        attributes.extend_from_slice(&kind.to_be_bytes());
        attributes.extend_from_slice(&(4 + octets.len() as u16).to_be_bytes());
        let family = if address.is_ipv4() { 1 } else { 2 };
        attributes.extend_from_slice(&[0, family, high ^ mask[0], low ^ mask[1]]);
        attributes.extend(octets.iter().zip(mask).map(|(octet, mask)| octet ^ mask));
    };
    put(XOR_MAPPED_ADDRESS, mapped, true);
    if let Some(other) = other {
        put(OTHER_ADDRESS, other, false);
    }
    let mut bytes = vec![1, 1, 0, attributes.len() as u8];
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&attributes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_says_how_the_server_sees_us() {
        // RFC 5769 section 2.2, without the attributes after the address.
        let mut rfc5769 = vec![0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42];
        rfc5769.extend_from_slice(&[0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
        rfc5769.extend_from_slice(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let answer = BindingAnswer::parse(&rfc5769).unwrap();
        assert_eq!(answer.mapped, "192.0.2.1:32853".parse().unwrap());
        let request = binding_request([9; 12], None);
        let other = Some("[2001:db8::1]:3479".parse().unwrap());
        let bytes = binding_answer(&request, "[2001:db8::2]:7".parse().unwrap(), other);
        let answer = BindingAnswer::parse(&bytes).unwrap();
        assert_eq!(
            (answer.mapped, answer.other),
            ("[2001:db8::2]:7".parse().unwrap(), other)
        );
        assert_eq!(BindingAnswer::parse(&request), Err(BindingError::NotAnAnswer));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..120), kind in any::<bool>(),
        ) {
            let length = (bytes.len() - 20) as u16;
            bytes[..2].copy_from_slice(if kind { &[1, 1] } else { &[1, 0x11] });
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&COOKIE);
            let _ = BindingAnswer::parse(&bytes);
        }
    }
}
