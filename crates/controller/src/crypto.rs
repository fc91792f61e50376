//! The little cryptography of a process that holds no key: checking signatures, hashing, and the one-time key of an invite.

use api::link::Purpose;
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use zeroize::Zeroizing;

/// An Ed25519 signature.
pub(crate) type Sig = [u8; 64];

/// SHA-256 over a label, a zero byte, and the parts.
pub(crate) fn hash(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(label.as_bytes());
    context.update(&[0]);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Whether `key` signed `payload` for that purpose. Keys of small order sign anything and so count for nothing.
pub(crate) fn verify(key: &[u8; 32], purpose: Purpose, payload: &[u8], signature: &[u8]) -> bool {
    strong(key)
        && UnparsedPublicKey::new(&ED25519, key)
            .verify(&message(purpose, payload), signature)
            .is_ok()
}

/// The bytes that are signed: the purpose's context, a zero byte, the payload.
pub(crate) fn message(purpose: Purpose, payload: &[u8]) -> Vec<u8> {
    let mut message = purpose.context().as_bytes().to_vec();
    message.push(0);
    message.extend_from_slice(payload);
    message
}

fn strong(key: &[u8; 32]) -> bool {
    let point = CompressedEdwardsY(*key).decompress();
    point.is_some_and(|point| !point.is_small_order() && point.compress().0 == *key)
}

/// The one-time key of an invite: whoever has the link has it.
pub struct InviteKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl InviteKey {
    /// Every 32 bytes are a key.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).expect("32 bytes are an Ed25519 seed");
        Self { seed, pair }
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Its public half, which the grant names.
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        key
    }

    pub(crate) fn sign(&self, purpose: Purpose, payload: &[u8]) -> Sig {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(&message(purpose, payload)).as_ref());
        out
    }
}

impl Clone for InviteKey {
    fn clone(&self) -> Self {
        Self::from_seed(*self.seed)
    }
}

impl std::fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InviteKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_purpose_and_bytes_alone() {
        let key = InviteKey::from_seed([1; 32]);
        let signature = key.sign(Purpose::LogEntry, b"x");
        assert!(verify(&key.public(), Purpose::LogEntry, b"x", &signature));
        assert!(!verify(&key.public(), Purpose::Presence, b"x", &signature));
        assert!(!verify(&key.public(), Purpose::LogEntry, b"y", &signature));
        assert!(!verify(&[2; 32], Purpose::LogEntry, b"x", &signature));
    }

    #[test]
    fn keys_of_small_order_sign_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(&identity, Purpose::LogEntry, b"anything", &signature));
        assert!(!verify(&[0; 32], Purpose::LogEntry, b"anything", &signature));
    }
}
