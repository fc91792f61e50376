//! Vectors, and what must be refused.

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use proptest::prelude::*;

use super::*;

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEX.decode(hex.as_bytes()).expect("hex").try_into().expect("the length")
}

fn key(device: u8) -> NodeKey {
    NodeKey::derive(&DeviceSecret([device; 32]), NetworkId([1; 32]))
}

/// RFC 8032 section 7.1, tests 1 to 3: secret, public, message, signature.
const RFC_8032: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

#[test]
fn signing_is_that_of_rfc_8032() {
    for [secret, public, message, signature] in RFC_8032 {
        let pair = key_pair(&bytes(secret));
        assert_eq!(public_of(&pair), bytes(public));
        let message = HEX.decode(message.as_bytes()).expect("hex");
        assert_eq!(pair.sign(&message).as_ref(), bytes::<64>(signature));
    }
}

#[test]
fn both_forms_of_a_key_belong_together() {
    // The X25519 public key of the private form must be the Montgomery form of the public key.
    for device in 0..20 {
        let key = key(device);
        let private = aws_lc_rs::agreement::PrivateKey::from_private_key(
            &aws_lc_rs::agreement::X25519,
            key.to_x25519().secret_bytes(),
        )
        .expect("a private key");
        let public = private.compute_public_key().expect("its public key");
        assert_eq!(public.as_ref(), montgomery(key.id()).expect("a point"));
    }
    // And a vector of others: libsodium's test `ed25519_convert`.
    let seed = bytes("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee");
    let public = public_of(&key_pair(&seed));
    let x25519 = bytes("f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50");
    assert_eq!(montgomery(NodeId(public)), Some(x25519));
}

#[test]
fn networks_do_not_see_the_same_device() {
    let secret = DeviceSecret([7; 32]);
    let one = NodeKey::derive(&secret, NetworkId([1; 32]));
    let two = NodeKey::derive(&secret, NetworkId([2; 32]));
    assert_ne!(one.id(), two.id());
    let again = NodeKey::derive(&DeviceSecret([7; 32]), NetworkId([1; 32]));
    assert_eq!(one.id(), again.id());
}

#[test]
fn a_signature_fits_one_purpose_key_and_message() {
    let key = key(1);
    let signature = key.sign("purpose a", b"message");
    let public = key.id().0;
    assert!(verify(&public, "purpose a", b"message", &signature));
    assert!(!verify(&public, "purpose b", b"message", &signature));
    assert!(!verify(&public, "purpose", b" a\0message", &signature));
    assert!(!verify(&public, "purpose a", b"messagf", &signature));
    assert!(!verify(
        &super::tests::key(2).id().0,
        "purpose a",
        b"message",
        &signature
    ));
    assert!(!verify(&public, "purpose a", b"message", &signature[..63]));
    for at in 0..64 {
        let mut forged = signature;
        forged[at] ^= 1;
        assert!(!verify(&public, "purpose a", b"message", &forged), "{at}");
    }
    let root = RootKey::from_seed(&[3; 32]);
    let signature = root.sign("purpose a", b"message");
    assert!(verify(&root.network_id().0, "purpose a", b"message", &signature));
}

#[test]
fn a_signature_has_one_form() {
    // S + L verifies where S is not checked to be below the group's order (RFC 8032 section 5.1.7).
    let order = bytes::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let key = key(1);
    let mut signature = key.sign("purpose", b"message");
    let mut carry = 0u16;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert!(!verify(&key.id().0, "purpose", b"message", &signature));
}

/// Keys under which signatures prove nothing, and what is no key at all.
const BAD_KEYS: [&str; 5] = [
    "0100000000000000000000000000000000000000000000000000000000000000", // order 1
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
    "0000000000000000000000000000000000000000000000000000000000000000", // order 4
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
    "0200000000000000000000000000000000000000000000000000000000000000", // no point
];

#[test]
fn keys_of_small_order_verify_nothing_and_get_nothing() {
    for hex in BAD_KEYS {
        let public = bytes(hex);
        // R = the identity, S = 0: right for every message under the key of order 1.
        let mut signature = [0; 64];
        signature[0] = 1;
        for message in [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i"] {
            assert!(!verify(&public, "purpose", message, &signature), "{hex}");
        }
        let sealed = seal_to(&key(1), NodeId(public), b"x");
        assert_eq!(sealed, Err(SealToError::NotAKey(NodeId(public))));
    }
}

#[test]
fn only_the_receiver_reads_and_knows_the_sender() {
    let (from, to, other) = (key(1), key(2), key(3));
    for length in [0, 1, 27, 28, 29, 63, 64, 1000, limits::SIGNAL_BYTES] {
        let plaintext = vec![0x5A; length];
        let blob = seal_to(&from, to.id(), &plaintext).expect("sealed");
        assert_eq!((blob.len() - 1 - ENC - AEAD_TAG) % STEP, 0);
        assert!(blob.len() <= SEALED_BYTES);
        assert_eq!(open_from(&to, &blob), Ok((from.id(), plaintext)));
        assert_eq!(open_from(&other, &blob), Err(OpenError::NotForUs));
        assert_eq!(open_from(&from, &blob), Err(OpenError::NotForUs));
    }
    let long = vec![0; limits::SIGNAL_BYTES + 1];
    let sealed = seal_to(&from, to.id(), &long);
    assert_eq!(sealed, Err(SealToError::TooLong(long.len())));
}

#[test]
fn every_bit_of_a_blob_counts() {
    let (from, to) = (key(1), key(2));
    let blob = seal_to(&from, to.id(), b"offer").expect("sealed");
    for at in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[at] ^= 0x80;
        // X25519 leaves out the top bit of a public key (RFC 7748 section 5); HPKE hashes it all the same.
        assert!(open_from(&to, &damaged).is_err(), "byte {at}");
    }
    for length in 0..blob.len() {
        assert!(open_from(&to, &blob[..length]).is_err(), "{length} bytes");
    }
    let longer = [&blob[..], &[0; 64]].concat();
    assert_eq!(open_from(&to, &longer), Err(OpenError::NotForUs));
}

#[test]
fn a_receiver_cannot_pass_a_signal_on_as_one_to_somebody_else() {
    let (from, middle, to) = (key(1), key(2), key(3));
    let blob = seal_to(&from, middle.id(), b"offer").expect("sealed");
    let inner = SUITE
        .open(
            &EncapsulatedSecret(blob[1..=ENC].to_vec()),
            &hpke_info(middle.id()),
            &[VERSION],
            &blob[1 + ENC..],
            &middle.to_x25519(),
        )
        .expect("it is for the middle");
    let public = HpkePublicKey(montgomery(to.id()).expect("a key").to_vec());
    let (enc, sealed) = SUITE
        .seal(&hpke_info(to.id()), &[VERSION], &inner, &public)
        .expect("sealed anew");
    let passed_on = [&[VERSION], &enc.0[..], &sealed[..]].concat();
    assert_eq!(open_from(&to, &passed_on), Err(OpenError::BadSignature));
}

#[test]
fn what_is_signed_names_receiver_and_encapsulated_key() {
    let signed = signed_part(NodeId([1; 32]), &[2; 32], b"offer");
    assert_ne!(signed, signed_part(NodeId([3; 32]), &[2; 32], b"offer"));
    assert_ne!(signed, signed_part(NodeId([1; 32]), &[3; 32], b"offer"));
    assert_ne!(signed, signed_part(NodeId([1; 32]), &[2; 32], b"offes"));
}

#[test]
fn a_newer_version_is_named() {
    let mut blob = seal_to(&key(1), key(2).id(), b"offer").expect("sealed");
    blob[0] = 9;
    assert_eq!(open_from(&key(2), &blob), Err(OpenError::Version(9)));
    assert_eq!(open_from(&key(2), &[]), Err(OpenError::Length));
}

proptest! {
    #[test]
    fn outside_bytes_do_no_harm(mut blob in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open_from(&key(2), &blob).is_err());
        if let Some(first) = blob.first_mut() {
            *first = VERSION;
        }
        prop_assert!(open_from(&key(2), &blob).is_err());
        let _ = parse_inner(&blob);
    }
}
