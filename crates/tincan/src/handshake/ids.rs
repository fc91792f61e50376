//! Which handshake a QUIC datagram belongs to, by its connection id.

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::time::Duration;

/// Bytes of the connection id that a client's first datagrams bear; both ends derive it from the link secret.
pub(super) const FIRST_FLIGHT_ID: usize = 16;
/// Bytes of a connection id that we chose: a tag for the handshake, then chance.
const OWN_ID: usize = 8;
const TAG: usize = 4;

/// The tag that all own connection ids of one handshake begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnTag([u8; TAG]);

impl OwnTag {
    pub(super) fn new(rng: &mut ChaCha12Rng) -> Self {
        Self(rng.random())
    }

    pub(super) fn is_in(self, id: &[u8]) -> bool {
        id.len() == OWN_ID && id.starts_with(&self.0)
    }
}

/// The destination connection id of a QUIC version 1 datagram (RFC 8999 section 5), as long as ours are in short headers.
pub fn destination_id(datagram: &[u8]) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    if first & 0x80 == 0 {
        return rest.get(..OWN_ID);
    }
    let (length, rest) = rest.get(4..)?.split_first()?;
    rest.get(..usize::from(*length))
}

/// Makes own connection ids from a seed.
pub(super) struct OwnIds {
    tag: OwnTag,
    rng: ChaCha12Rng,
}

impl OwnIds {
    pub(super) fn new(tag: OwnTag, seed: [u8; 32]) -> Self {
        Self {
            tag,
            rng: ChaCha12Rng::from_seed(seed),
        }
    }
}

impl ConnectionIdGenerator for OwnIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; OWN_ID];
        id[..TAG].copy_from_slice(&self.tag.0);
        self.rng.fill(&mut id[TAG..]);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        OWN_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
