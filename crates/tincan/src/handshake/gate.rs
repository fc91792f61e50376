//! The gate before QUIC: a tag on every handshake datagram, keyed from the secret of the sealed offer.
//!
//! Promises: what a stranger sends, even one who sees all datagrams, costs a hash and reaches no parser; so nobody
//! on the way can break a handshake off with a forged Initial, whose QUIC keys are public.
//! Refuses to know: what is inside.

use api::{NetworkId, NodeId, SessionId};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::ids::FIRST_FLIGHT_ID;
use crate::keys::hkdf_into;
use crate::limits;
use crate::session::Role;

/// What the gate makes a datagram longer.
pub const GATE_TAG: usize = 16;

/// Both directions' tag keys, and the connection id that a client's first datagrams bear.
pub(super) struct Gate {
    sending: hmac::Key,
    receiving: hmac::Key,
    pub(super) first_flight: [u8; FIRST_FLIGHT_ID],
}

impl Gate {
    pub(super) fn new(
        link_secret: &[u8; 32],
        network: NetworkId,
        session: SessionId,
        nodes: (NodeId, NodeId),
        role: Role,
    ) -> Self {
        let mut bytes = Zeroizing::new([0; 64 + FIRST_FLIGHT_ID]);
        let info: [&[u8]; 4] = [&network.0, &session.0.to_be_bytes(), &nodes.0.0, &nodes.1.0];
        hkdf_into(b"ipop handshake gate v1", link_secret, &info, &mut *bytes);
        let client = hmac::Key::new(hmac::HMAC_SHA256, &bytes[..32]);
        let server = hmac::Key::new(hmac::HMAC_SHA256, &bytes[32..64]);
        let mut first_flight = [0; FIRST_FLIGHT_ID];
        first_flight.copy_from_slice(&bytes[64..]);
        let (sending, receiving) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        Self {
            sending,
            receiving,
            first_flight,
        }
    }

    /// Puts the tag behind a datagram.
    pub(super) fn close(&self, datagram: &mut Vec<u8>) {
        let tag = hmac::sign(&self.sending, datagram);
        datagram.extend_from_slice(&tag.as_ref()[..GATE_TAG]);
    }

    /// The datagram without its tag, if the tag is right.
    pub(super) fn open<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        if datagram.len() > limits::HANDSHAKE_DATAGRAM {
            return None;
        }
        let (inner, tag) = datagram.split_last_chunk::<GATE_TAG>()?;
        let right = hmac::sign(&self.receiving, inner);
        aws_lc_rs::constant_time::verify_slices_are_equal(&right.as_ref()[..GATE_TAG], tag).ok()?;
        Some(inner)
    }
}
