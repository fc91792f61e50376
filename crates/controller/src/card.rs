//! Presence cards: what a member shows of itself at a rendezvous, and the proof that goes with it.
//!
//! Promises: a parsed card was signed by the node that it names, in this network. Refuses to know: whether that node is a
//! member (the entries in it help to find out), or who shows it: a card can be copied by anybody who sees it.

use api::link::Purpose;
use api::{NetworkId, NodeId};

use crate::crypto::{Sig, verify};
use crate::entry::{EntryError, Verified};
use crate::limits::{CARD_BYTES_MAX, CARD_ENTRIES_MAX, ENTRY_BYTES_MAX};
use crate::wire::{Reader, put_bytes};

const VERSION: u8 = 1;
const SIGNATURE_BYTES: usize = 64;

/// A card whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Whose.
    pub node: NodeId,
    /// Unix time of its making, by its owner's clock.
    pub time: u64,
    /// Of its proof, the entries that are good in themselves.
    pub proof: Vec<Verified>,
}

impl Card {
    /// Reads and checks a card.
    pub fn parse(network: NetworkId, bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > CARD_BYTES_MAX {
            return Err(EntryError::Malformed);
        }
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            0 => return Err(EntryError::Malformed),
            _ => return Err(EntryError::Newer),
        }
        let node = NodeId(reader.array()?);
        let time = reader.u64()?;
        reader.take(8)?;
        let count = usize::from(reader.u8()?);
        if count > CARD_ENTRIES_MAX {
            return Err(EntryError::Malformed);
        }
        let mut proof = Vec::new();
        for _ in 0..count {
            proof.push(reader.bytes(ENTRY_BYTES_MAX)?);
        }
        let signed = payload(network, reader.taken());
        let signature: Sig = reader.array()?;
        reader.end()?;
        if !verify(&node.0, Purpose::Presence, &signed, &signature) {
            return Err(EntryError::Signature);
        }
        let proof = proof
            .into_iter()
            .map(|bytes| Verified::parse(network, bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self { node, time, proof })
    }
}

/// A card on its way to be signed.
#[derive(Clone, Debug)]
pub struct CardDraft {
    network: NetworkId,
    bytes: Vec<u8>,
}

impl CardDraft {
    /// Takes of the proof what fits, nearest first.
    pub fn new(network: NetworkId, node: NodeId, time: u64, nonce: u64, proof: &[&Verified]) -> Self {
        let mut entries = Vec::new();
        let mut count = 0;
        let head = 1 + 32 + 8 + 8 + 1;
        for entry in proof.iter().take(CARD_ENTRIES_MAX) {
            if head + entries.len() + 2 + entry.bytes().len() + SIGNATURE_BYTES > CARD_BYTES_MAX {
                break;
            }
            put_bytes(&mut entries, entry.bytes());
            count += 1;
        }
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&node.0);
        bytes.extend_from_slice(&time.to_be_bytes());
        bytes.extend_from_slice(&nonce.to_be_bytes());
        bytes.push(count);
        bytes.extend_from_slice(&entries);
        Self { network, bytes }
    }

    /// What the node signs, for [`Purpose::Presence`].
    pub fn payload(&self) -> Vec<u8> {
        payload(self.network, &self.bytes)
    }

    /// The card.
    pub fn signed(mut self, signature: &[u8]) -> Vec<u8> {
        self.bytes.extend_from_slice(signature);
        self.bytes
    }
}

fn payload(network: NetworkId, bytes: &[u8]) -> Vec<u8> {
    [&network.0[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::log::{Log, Source};
    use crate::membership::Roster;

    fn card(number: u8) -> Vec<u8> {
        let mut log = Log::new(network());
        log.insert(
            Source::Member,
            [genesis(), grant(100, 5), admission(100, 2, 1, 1, 10, "bob")],
        );
        let chain = Roster::evaluate(&log).chain_of(&log, node(2));
        let draft = CardDraft::new(network(), node(2), START, 7, &chain);
        let signature = key(number).sign(Purpose::Presence, &draft.payload());
        draft.signed(&signature)
    }

    #[test]
    fn a_card_reads_back_with_its_proof() {
        let parsed = Card::parse(network(), &card(2)).expect("well made");
        assert_eq!((parsed.node, parsed.time), (node(2), START));
        assert_eq!(
            parsed.proof,
            [admission(100, 2, 1, 1, 10, "bob"), grant(100, 5), genesis()]
        );
    }

    #[test]
    fn forged_flipped_and_foreign_cards_are_refused() {
        assert_eq!(Card::parse(network(), &card(3)), Err(EntryError::Signature));
        assert_eq!(
            Card::parse(NetworkId(key(201).public()), &card(2)),
            Err(EntryError::Signature)
        );
        let good = card(2);
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 0x10;
            assert!(Card::parse(network(), &bad).is_err(), "byte {byte}");
            assert!(Card::parse(network(), &good[..byte]).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn a_long_chain_is_cut_to_what_fits() {
        let entries: Vec<_> = (2..30).map(|n| admission(100, n, 1, 1, 10, "x")).collect();
        let draft = CardDraft::new(network(), node(2), START, 7, &entries.iter().collect::<Vec<_>>());
        let signature = key(2).sign(Purpose::Presence, &draft.payload());
        let bytes = draft.signed(&signature);
        assert!(bytes.len() <= CARD_BYTES_MAX);
        assert!(Card::parse(network(), &bytes).expect("well made").proof.len() >= 8);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_no_card(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..600)) {
            assert!(Card::parse(network(), &bytes).is_err());
            bytes[0] = VERSION;
            assert!(Card::parse(network(), &bytes).is_err());
        }
    }
}
