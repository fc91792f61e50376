//! What a socket reader needs to know of a STUN message before anybody parses it in full.
//!
//! Promises: plain functions over any bytes, no allocation. Refuses to know: integrity, state.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::limits;

/// A STUN transaction id.
pub type TransactionId = [u8; 12];

/// The class of a STUN message (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunClass {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// An answer that grants.
    Success,
    /// An answer that refuses.
    Error,
}

pub(super) const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USERNAME: u16 = 0x0006;
/// Method Binding, the only one between peers.
const BINDING: u16 = 1;

/// Whether the bytes are a STUN message by header and length.
pub fn is_stun(bytes: &[u8]) -> bool {
    header(bytes).is_some()
}

/// The class of a STUN Binding message; `None` for anything else.
pub fn stun_class(bytes: &[u8]) -> Option<StunClass> {
    let message_type = header(bytes)?;
    if message_type & !0x0110 != BINDING {
        return None;
    }
    Some(match message_type & 0x0110 {
        0x0000 => StunClass::Request,
        0x0010 => StunClass::Indication,
        0x0100 => StunClass::Success,
        _ => StunClass::Error,
    })
}

/// The transaction id of a STUN message.
pub fn stun_transaction(bytes: &[u8]) -> Option<TransactionId> {
    header(bytes)?;
    bytes.get(8..20)?.try_into().ok()
}

/// The user name fragments of a Binding request: ours first, the sender's second.
pub fn stun_username(bytes: &[u8]) -> Option<(&str, &str)> {
    if stun_class(bytes)? != StunClass::Request {
        return None;
    }
    let value = attribute(bytes, USERNAME)?;
    let (local, remote) = std::str::from_utf8(value).ok()?.split_once(':')?;
    (!local.is_empty() && !remote.is_empty()).then_some((local, remote))
}

fn header(bytes: &[u8]) -> Option<u16> {
    let head: &[u8; 20] = bytes.first_chunk()?;
    let message_type = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let ok = message_type & 0xc000 == 0 && head[4..8] == COOKIE && length % 4 == 0 && length + 20 == bytes.len();
    ok.then_some(message_type)
}

pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes.get(20..)?;
    loop {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = tail.get(..length)?;
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return Some(value);
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
}

/// Which link a STUN response belongs to: transaction ids noted when the requests left.
#[derive(Debug)]
pub struct Transactions<K> {
    by_id: HashMap<TransactionId, (Instant, K)>,
    by_age: VecDeque<(Instant, TransactionId)>,
}

impl<K> Default for Transactions<K> {
    fn default() -> Self {
        Transactions {
            by_id: HashMap::new(),
            by_age: VecDeque::new(),
        }
    }
}

impl<K: Clone> Transactions<K> {
    /// How long an answer may take.
    pub const LIFETIME: Duration = Duration::from_secs(10);

    /// Notes the transaction of an outgoing request; does nothing for other bytes.
    pub fn note(&mut self, now: Instant, bytes: &[u8], key: K) {
        self.expire(now);
        if stun_class(bytes) != Some(StunClass::Request) {
            return;
        }
        let Some(id) = stun_transaction(bytes) else {
            return;
        };
        while self.by_age.len() >= limits::STUN_TRANSACTIONS {
            self.drop_oldest();
        }
        self.by_age.push_back((now, id));
        self.by_id.insert(id, (now, key));
    }

    /// The link that an incoming response belongs to.
    pub fn find(&self, now: Instant, bytes: &[u8]) -> Option<K> {
        let (noted, key) = self.by_id.get(&stun_transaction(bytes)?)?;
        (now.saturating_duration_since(*noted) < Self::LIFETIME).then(|| key.clone())
    }

    /// How many transactions are remembered.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        let old = |noted: Instant| now.saturating_duration_since(noted) >= Self::LIFETIME;
        while self.by_age.front().is_some_and(|&(noted, _)| old(noted)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((noted, id)) = self.by_age.pop_front() else {
            return;
        };
        if self.by_id.get(&id).is_some_and(|(at, _)| *at == noted) {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(id: u8, username: &str) -> Vec<u8> {
        let padded = username.len().next_multiple_of(4);
        let mut bytes = vec![0, 1, 0, (padded + 4) as u8];
        bytes.extend_from_slice(&COOKIE);
        bytes.extend_from_slice(&[id; 12]);
        bytes.extend_from_slice(&[0, 6, 0, username.len() as u8]);
        bytes.extend_from_slice(username.as_bytes());
        bytes.resize(20 + 4 + padded, 0);
        bytes
    }

    #[test]
    fn a_request_tells_both_fragments_and_its_transaction() {
        let bytes = request(7, "local:far");
        assert_eq!(stun_username(&bytes), Some(("local", "far")));
        assert_eq!(stun_transaction(&bytes), Some([7; 12]));
        assert_eq!(stun_class(&bytes), Some(StunClass::Request));
        for cut in 0..bytes.len() {
            assert_eq!(stun_username(&bytes[..cut]), None);
        }
        assert_eq!(stun_username(&request(7, "nofragment")), None);
    }

    #[test]
    fn transactions_are_bounded_and_expire() {
        let start = Instant::now();
        let mut table = Transactions::default();
        table.note(start, &request(1, "a:b"), 1u32);
        assert_eq!(table.find(start, &request(1, "a:b")), Some(1));
        assert_eq!(table.find(start + Duration::from_secs(10), &request(1, "a:b")), None);
        for n in 0..2 * limits::STUN_TRANSACTIONS {
            let mut bytes = request(1, "a:b");
            bytes[8..16].copy_from_slice(&(n as u64).to_be_bytes());
            table.note(start, &bytes, 2);
        }
        assert_eq!(table.len(), limits::STUN_TRANSACTIONS);
        table.note(start + Duration::from_secs(60), &request(9, "a:b"), 3);
        assert_eq!(table.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120), stun in any::<bool>(),
        ) {
            if stun && bytes.len() >= 20 {
                let length = (bytes.len() - 20) as u16;
                bytes[..2].copy_from_slice(&[0, 1]);
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&COOKIE);
            }
            let _ = (stun_username(&bytes), stun_transaction(&bytes), stun_class(&bytes), is_stun(&bytes));
        }
    }
}
