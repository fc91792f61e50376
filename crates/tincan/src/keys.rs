//! The keys of a device: one secret, from it a signing key for each network, and sealing to another node.
//!
//! Promises: two networks cannot tell that a device is in both; a signature made for one purpose never passes for
//! another; what is sealed to a node is read by that node alone and only when its sender's signature is right.
//! Refuses to know: who may do what, where secrets are stored.

use api::{NetworkId, NodeId};
use aws_lc_rs::digest::{SHA512, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::{Zeroize, Zeroizing};

use crate::limits;

/// The one secret of a device, from which its keys in all networks follow.
pub struct DeviceSecret([u8; 32]);

impl DeviceSecret {
    /// From 32 bytes of the best randomness there is, or from where it was stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for storing them where only this user can read.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for DeviceSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// This device's key in one network; its public half is the node's id.
pub struct NodeKey {
    id: NodeId,
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl NodeKey {
    /// The device's key in `network`.
    pub fn derive(secret: &DeviceSecret, network: NetworkId) -> Self {
        let seed = hkdf(b"ipop node key v1", &secret.0, &[&network.0]);
        let pair = key_pair(&seed);
        Self {
            id: NodeId(public_of(&pair)),
            seed,
            pair,
        }
    }

    /// Who this key makes the device.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Signs `message` for the purpose that `context` names.
    pub fn sign(&self, context: &'static str, message: &[u8]) -> [u8; 64] {
        sign(&self.pair, context, message)
    }

    /// The key as PKCS#8, for TLS.
    pub(crate) fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        // RFC 8410 section 7: version 0, id-Ed25519, OCTET STRING in OCTET STRING.
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + 32));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(&*self.seed);
        der
    }

    /// The same key for X25519: RFC 8032 section 5.1.5 step 1; X25519 itself clamps.
    fn to_x25519(&self) -> HpkePrivateKey {
        HpkePrivateKey::from(digest(&SHA512, &*self.seed).as_ref()[..32].to_vec())
    }
}

/// The root key of a group, held by its founder.
pub struct RootKey {
    pair: Ed25519KeyPair,
}

impl RootKey {
    /// The root key of a seed of 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { pair: key_pair(seed) }
    }

    /// The group that this key is the root of.
    pub fn network_id(&self) -> NetworkId {
        NetworkId(public_of(&self.pair))
    }

    /// Signs `message` for the purpose that `context` names.
    pub fn sign(&self, context: &'static str, message: &[u8]) -> [u8; 64] {
        sign(&self.pair, context, message)
    }
}

/// Whether `signature` over `message` for the purpose `context` was made with the key that `public` belongs to.
///
/// Stricter than RFC 8032 demands: a key of small order, under which one signature fits many messages, passes nothing.
pub fn verify(public: &[u8; 32], context: &str, message: &[u8], signature: &[u8]) -> bool {
    let honest_key = CompressedEdwardsY(*public)
        .decompress()
        .is_some_and(|point| !point.is_small_order());
    honest_key
        && UnparsedPublicKey::new(&ED25519, public)
            .verify(&with_context(context, message), signature)
            .is_ok()
}

/// Why something could not be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealToError {
    /// The receiver's id is no usable public key.
    #[error("{0} is not the public key of a node: check the id")]
    NotAKey(NodeId),
    /// More than `limits::SIGNAL_BYTES`.
    #[error("{0} bytes are too many to seal in one signal, the most is {max}", max = limits::SIGNAL_BYTES)]
    TooLong(usize),
    /// The system's randomness failed.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

/// Why a sealed blob was refused. Nothing of its content is ever returned with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Empty, or of a length that no sealed blob has.
    #[error("the signal has a length that no signal has")]
    Length,
    /// Sealed by a newer IPOP.
    #[error("the signal is of version {0}, this IPOP reads version {VERSION}: update it")]
    Version(u8),
    /// For another node, or damaged on the way.
    #[error("the signal was not sealed to this node, or was damaged")]
    NotForUs,
    /// The sender named inside did not sign it for this node.
    #[error("the signal's sender did not sign it for this node")]
    BadSignature,
}

const VERSION: u8 = 1;
const SEAL_CONTEXT: &str = "ipop sealed signal v1";
const ENC: usize = 32;
const AEAD_TAG: usize = 16;
/// Sender, signature, length of the plaintext.
const INNER_HEAD: usize = 32 + 64 + 4;
/// Sizes of blobs go in steps of this, so that they tell less.
const STEP: usize = 64;
/// The longest blob that `seal_to` makes.
pub const SEALED_BYTES: usize = 1 + ENC + (INNER_HEAD + limits::SIGNAL_BYTES).next_multiple_of(STEP) + AEAD_TAG;

/// Seals `plaintext` to node `to`, signed by `from`; nobody else learns either the content or the sender.
///
/// HPKE (RFC 9180) base mode, X25519, HKDF-SHA256, AES-256-GCM; the signature covers receiver and encapsulated key,
/// so the receiver cannot pass the message on as one to somebody else.
/// Form: version · enc (32) · AEAD of [sender (32) · signature (64) · length (32 bit) · plaintext · zeros].
pub fn seal_to(from: &NodeKey, to: NodeId, plaintext: &[u8]) -> Result<Vec<u8>, SealToError> {
    if plaintext.len() > limits::SIGNAL_BYTES {
        return Err(SealToError::TooLong(plaintext.len()));
    }
    let public = montgomery(to).ok_or(SealToError::NotAKey(to))?;
    let (enc, mut sealer) = SUITE
        .setup_sealer(&hpke_info(to), &HpkePublicKey(public.to_vec()))
        .map_err(|_| SealToError::NoRandomness)?;
    let signature = from.sign(SEAL_CONTEXT, &signed_part(to, &enc.0, plaintext));
    let mut inner = Zeroizing::new(Vec::with_capacity(SEALED_BYTES));
    inner.extend_from_slice(&from.id.0);
    inner.extend_from_slice(&signature);
    let length = u32::try_from(plaintext.len()).expect("bounded above");
    inner.extend_from_slice(&length.to_be_bytes());
    inner.extend_from_slice(plaintext);
    let padded = inner.len().next_multiple_of(STEP);
    inner.resize(padded, 0);
    let sealed = sealer.seal(&[VERSION], &inner).map_err(|_| SealToError::NoRandomness)?;
    Ok([&[VERSION], &enc.0[..], &sealed[..]].concat())
}

/// Opens what was sealed to this node; returns who sealed it and the content.
pub fn open_from(to: &NodeKey, blob: &[u8]) -> Result<(NodeId, Vec<u8>), OpenError> {
    let (&version, rest) = blob.split_first().ok_or(OpenError::Length)?;
    if version != VERSION {
        return Err(OpenError::Version(version));
    }
    let (enc, sealed) = rest.split_at_checked(ENC).ok_or(OpenError::Length)?;
    let inner_len = sealed.len().checked_sub(AEAD_TAG);
    if blob.len() > SEALED_BYTES || inner_len.is_none_or(|n| n < INNER_HEAD || n % STEP != 0) {
        return Err(OpenError::Length);
    }
    let inner = SUITE
        .open(
            &EncapsulatedSecret(enc.to_vec()),
            &hpke_info(to.id),
            &[VERSION],
            sealed,
            &to.to_x25519(),
        )
        .map(Zeroizing::new)
        .map_err(|_| OpenError::NotForUs)?;
    let (sender, signature, plaintext) = parse_inner(&inner).ok_or(OpenError::Length)?;
    let signed = signed_part(to.id, enc, plaintext);
    if !verify(&sender.0, SEAL_CONTEXT, &signed, signature) {
        return Err(OpenError::BadSignature);
    }
    Ok((sender, plaintext.to_vec()))
}

static SUITE: &dyn Hpke = DH_KEM_X25519_HKDF_SHA256_AES_256;

/// Reads what a sealed blob holds, for fuzzing: only somebody who can seal gets there.
#[doc(hidden)]
pub fn fuzz_inner(inner: &[u8]) {
    if let Some((_, signature, plaintext)) = parse_inner(inner) {
        assert!(signature.len() == 64 && INNER_HEAD + plaintext.len() <= inner.len());
        assert!(inner.len() < INNER_HEAD + plaintext.len() + STEP);
    }
}

fn parse_inner(inner: &[u8]) -> Option<(NodeId, &[u8], &[u8])> {
    let (sender, rest) = inner.split_first_chunk::<32>()?;
    let (signature, rest) = rest.split_at_checked(64)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (plaintext, padding) = rest.split_at_checked(length)?;
    let honest_padding = padding.len() < STEP && padding.iter().all(|byte| *byte == 0);
    honest_padding.then_some((NodeId(*sender), signature, plaintext))
}

fn hpke_info(to: NodeId) -> Vec<u8> {
    with_context(SEAL_CONTEXT, &to.0)
}

fn signed_part(to: NodeId, enc: &[u8], plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([&to.0, enc, plaintext].concat())
}

/// The X25519 form of a node's key; none for what is not a point of the prime-order group.
fn montgomery(node: NodeId) -> Option<[u8; 32]> {
    let point = CompressedEdwardsY(node.0).decompress()?;
    let is_canonical = point.compress().0 == node.0;
    (is_canonical && !point.is_small_order() && point.is_torsion_free()).then(|| point.to_montgomery().0)
}

fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed")
}

fn public_of(pair: &Ed25519KeyPair) -> [u8; 32] {
    pair.public_key()
        .as_ref()
        .try_into()
        .expect("Ed25519 public keys have 32 bytes")
}

fn sign(pair: &Ed25519KeyPair, context: &str, message: &[u8]) -> [u8; 64] {
    pair.sign(&with_context(context, message))
        .as_ref()
        .try_into()
        .expect("Ed25519 signatures have 64 bytes")
}

/// No context has a zero byte, so two contexts never yield the same bytes.
fn with_context(context: &str, message: &[u8]) -> Vec<u8> {
    debug_assert!(!context.contains('\0'));
    [context.as_bytes(), &[0], message].concat()
}

/// HKDF-SHA256 (RFC 5869), extract and expand, 32 bytes.
pub(crate) fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    hkdf_into(salt, secret, info, &mut *out);
    out
}

/// HKDF-SHA256 into a buffer of at most 255 times 32 bytes.
pub(crate) fn hkdf_into(salt: &[u8], secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("less than 255 blocks are asked for");
}

#[cfg(test)]
mod tests;
