//! SCRAM (RFC 5802, RFC 7677) for both sides of an XMPP stream.
//!
//! Promises: passwords are never kept by the server, only salted keys; channel binding is `tls-exporter`
//! (RFC 9266); a downgrade of the binding is noticed by both sides; every secret comparison takes constant
//! time. Refuses to know: XML, base64 of the SASL element, accounts, sockets. All messages are plain text.
//!
//! 1. [`Client::first`] -> [`Opening::parse`]; 2. [`Opening::challenge`] -> [`Client::answer`];
//! 3. [`Challenged::verify`] -> [`Verify::check`].

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand::SecureRandom, rand::SystemRandom};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Iterations for accounts that our own server creates.
///
/// Such passwords are random with at least 160 bits, so stretching adds nothing against a thief of the
/// database; the count only has to satisfy clients that refuse low ones.
pub const ITERATIONS_NEW: u32 = 10_000;
/// The lowest count a client accepts (RFC 7677 section 4: at least 4096).
pub const ITERATIONS_MIN: u32 = 4_096;
/// The highest count a client accepts: about 0.3 s of work, so that a hostile server cannot burn a CPU.
pub const ITERATIONS_MAX: u32 = 600_000;
/// Longest SASL message that is looked at.
pub const MESSAGE_BYTES_MAX: usize = 4_096;
/// Longest user name or password after preparation.
pub const NAME_BYTES_MAX: usize = 1_023;
/// Shortest acceptable nonce: 18 bytes of randomness in base64 (CVE-2022-48195: empty nonces).
pub const NONCE_CHARS_MIN: usize = 16;
/// Channel binding type (RFC 9266) and also the only one.
pub const BINDING_NAME: &str = "tls-exporter";
/// RFC 9266 section 2: the exporter label that goes with an empty context and 32 bytes.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// RFC 9266 section 2: how many bytes the exporter gives.
pub const BINDING_BYTES: usize = 32;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum SaslError {
    /// The message does not follow RFC 5802 section 7.
    #[error("the peer sent a SCRAM message that is not well-formed ({0})")]
    Malformed(&'static str),
    /// User name or password holds characters that SASLprep forbids, or is empty or too long.
    #[error("the user name or password is empty, too long or holds a forbidden character; choose another")]
    BadName,
    /// A PLUS mechanism was asked for on a stream without channel binding.
    #[error("channel binding was asked for, but this TLS session has none; use TLS 1.3")]
    NoBinding,
    /// Somebody between both ends removed the PLUS mechanisms, or the TLS sessions differ.
    #[error("the channel binding differs: somebody may sit between this client and the server")]
    BindingMismatch,
    /// Nonce too short, or not a continuation of ours.
    #[error("the peer's nonce is too short or does not continue ours")]
    BadNonce,
    /// Iteration count out of [`ITERATIONS_MIN`]..=[`ITERATIONS_MAX`].
    #[error("the server asks for {0} password iterations; between 4096 and 600000 are accepted")]
    BadIterations(u32),
    /// The client's proof is wrong: wrong password or unknown user.
    #[error("wrong user name or password")]
    WrongPassword,
    /// The server refused with this exchange's `e=` value.
    #[error("the server refused the login")]
    Refused,
    /// The server does not know the password's keys: it is not the server that made the account.
    #[error("the server could not prove that it knows this account; it may be an impostor")]
    ServerNotProven,
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

/// Hash under the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1: only for old servers; our server never offers it.
    Sha1,
    /// SCRAM-SHA-256.
    Sha256,
}

/// A SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mechanism {
    /// Hash under it.
    pub hash: Hash,
    /// With channel binding.
    pub plus: bool,
}

impl Mechanism {
    /// Strongest first.
    pub const ALL: [Mechanism; 4] = [
        Mechanism::new(Hash::Sha256, true),
        Mechanism::new(Hash::Sha256, false),
        Mechanism::new(Hash::Sha1, true),
        Mechanism::new(Hash::Sha1, false),
    ];

    /// A mechanism by its parts.
    pub const fn new(hash: Hash, plus: bool) -> Self {
        Mechanism { hash, plus }
    }

    /// The name of RFC 5802 section 4.
    pub const fn name(self) -> &'static str {
        match (self.hash, self.plus) {
            (Hash::Sha256, true) => "SCRAM-SHA-256-PLUS",
            (Hash::Sha256, false) => "SCRAM-SHA-256",
            (Hash::Sha1, true) => "SCRAM-SHA-1-PLUS",
            (Hash::Sha1, false) => "SCRAM-SHA-1",
        }
    }

    /// The mechanism of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A nonce with 192 bits from the operating system, in characters that SCRAM allows.
pub fn fresh_nonce() -> Result<String, SaslError> {
    let mut bytes = [0u8; 24];
    fill_random(&mut bytes)?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

/// The client's side, before the server has spoken.
pub struct Client {
    user: String,
    password: Zeroizing<String>,
    hash: Hash,
    header: &'static str,
    binding: Vec<u8>,
    nonce: String,
}

impl Client {
    /// `binding` is the exporter's value if this TLS session has one, whether or not `mechanism` uses it:
    /// a client that could bind says so ("y"), and a server that offered PLUS then refuses, because
    /// somebody removed the offer.
    pub fn new(
        user: &str,
        password: &str,
        mechanism: Mechanism,
        binding: Option<&[u8]>,
        nonce: String,
    ) -> Result<Self, SaslError> {
        check_nonce(&nonce)?;
        let (header, data) = match (mechanism.plus, binding) {
            (true, Some(data)) => ("p=tls-exporter,,", data),
            (true, None) => return Err(SaslError::NoBinding),
            (false, Some(_)) => ("y,,", &[][..]),
            (false, None) => ("n,,", &[][..]),
        };
        Ok(Client {
            user: prepare(user)?,
            password: Zeroizing::new(prepare(password)?),
            hash: mechanism.hash,
            header,
            binding: [header.as_bytes(), data].concat(),
            nonce,
        })
    }

    /// The initial response.
    pub fn first(&self) -> String {
        format!("{}{}", self.header, self.first_bare())
    }

    /// The answer to the server's challenge, and what checks the server's last word.
    ///
    /// Costs up to [`ITERATIONS_MAX`] hash rounds: call it where a third of a second does no harm.
    pub fn answer(self, server_first: &str) -> Result<(String, Verify), SaslError> {
        let challenge = Challenge::parse(server_first)?;
        let mine = challenge.nonce.strip_prefix(self.nonce.as_str());
        if mine.is_none_or(|theirs| theirs.len() < NONCE_CHARS_MIN) {
            return Err(SaslError::BadNonce);
        }
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&challenge.iterations) {
            return Err(SaslError::BadIterations(challenge.iterations));
        }
        let salted = salt_password(self.hash, &self.password, &challenge.salt, challenge.iterations);
        let bare = format!("c={},r={}", BASE64.encode(&self.binding), challenge.nonce);
        let message = format!("{},{server_first},{bare}", self.first_bare());
        let client_key = Zeroizing::new(mac(self.hash, &salted, b"Client Key"));
        let server_key = Zeroizing::new(mac(self.hash, &salted, b"Server Key"));
        let stored_key = Zeroizing::new(hash(self.hash, &client_key));
        let signature = mac(self.hash, &stored_key, message.as_bytes());
        let proof = xor(&client_key, &signature);
        let expected = mac(self.hash, &server_key, message.as_bytes());
        Ok((format!("{bare},p={}", BASE64.encode(&proof)), Verify { expected }))
    }

    fn first_bare(&self) -> String {
        format!("n={},r={}", escape(&self.user), self.nonce)
    }
}

/// The client's side, waiting for the server's proof.
pub struct Verify {
    expected: Vec<u8>,
}

impl Verify {
    /// Checks that the server knows the account. Only after this the login counts.
    pub fn check(self, server_final: &str) -> Result<(), SaslError> {
        bounded(server_final)?;
        if server_final.starts_with("e=") {
            return Err(SaslError::Refused);
        }
        let value = server_final
            .strip_prefix("v=")
            .ok_or(SaslError::Malformed("verifier"))?;
        let value = value.split(',').next().unwrap_or(value);
        let given = decode(value, "verifier")?;
        match bool::from(given.ct_eq(&self.expected)) {
            true => Ok(()),
            false => Err(SaslError::ServerNotProven),
        }
    }
}

/// What the server keeps of a password (SHA-256 only).
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKeys {
    /// Salt.
    pub salt: Vec<u8>,
    /// Iterations.
    pub iterations: u32,
    /// `StoredKey`: H(ClientKey).
    pub stored_key: [u8; 32],
    /// `ServerKey`.
    pub server_key: [u8; 32],
}

impl StoredKeys {
    /// Salts a new password.
    pub fn from_password(password: &str) -> Result<Self, SaslError> {
        let mut salt = vec![0u8; 16];
        fill_random(&mut salt)?;
        let password = Zeroizing::new(prepare(password)?);
        Ok(Self::derive(&password, salt, ITERATIONS_NEW))
    }

    /// Keys of nobody: what a challenge for an unknown user is made of, equal each time it is asked, so
    /// that strangers cannot find out which accounts exist.
    pub fn decoy(server_secret: &[u8], user: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, server_secret);
        let mut salt = hmac::sign(&key, user.as_bytes()).as_ref().to_vec();
        salt.truncate(16);
        // No client key hashes to a value whose pre-image nobody has: it is itself a MAC output.
        let mut stored_key = [0u8; 32];
        stored_key.copy_from_slice(hmac::sign(&key, &[b"decoy ", user.as_bytes()].concat()).as_ref());
        StoredKeys {
            salt,
            iterations: ITERATIONS_NEW,
            stored_key,
            server_key: stored_key,
        }
    }

    fn derive(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let salted = salt_password(Hash::Sha256, password, &salt, iterations);
        let client_key = Zeroizing::new(mac(Hash::Sha256, &salted, b"Client Key"));
        let mut keys = StoredKeys {
            salt,
            iterations,
            stored_key: [0; 32],
            server_key: [0; 32],
        };
        keys.stored_key.copy_from_slice(&hash(Hash::Sha256, &client_key));
        keys.server_key
            .copy_from_slice(&mac(Hash::Sha256, &salted, b"Server Key"));
        keys
    }
}

/// What a server can bind to on this stream.
#[derive(Clone, Copy)]
pub enum Offered<'a> {
    /// PLUS was not offered: this TLS session has no exporter value.
    NoBinding,
    /// PLUS was offered, with this exporter value.
    Exporter(&'a [u8]),
}

/// The server's side: the client's first message, understood.
pub struct Opening {
    /// Prepared user name.
    pub user: String,
    /// The identity it wants to act as, if any; the caller compares it with the account's address.
    pub authzid: Option<String>,
    bare: String,
    binding: Vec<u8>,
    nonce: String,
}

impl Opening {
    /// Reads the initial response. `plus` says which of both mechanisms the client chose.
    pub fn parse(client_first: &str, plus: bool, offered: Offered<'_>) -> Result<Self, SaslError> {
        bounded(client_first)?;
        let mut parts = client_first.splitn(3, ',');
        let flag = parts.next().unwrap_or_default();
        let authzid = parts.next().ok_or(SaslError::Malformed("gs2 header"))?;
        let bare = parts.next().ok_or(SaslError::Malformed("gs2 header"))?;
        let data = check_flag(flag, plus, offered)?;
        let authzid = match authzid {
            "" => None,
            named => Some(unescape(
                named.strip_prefix("a=").ok_or(SaslError::Malformed("authzid"))?,
            )?),
        };
        let mut attributes = bare.split(',');
        // RFC 5802 section 5.1: "m=" marks an extension that we must understand, and we know none.
        let user = attributes
            .next()
            .and_then(|a| a.strip_prefix("n="))
            .ok_or(SaslError::Malformed("user"))?;
        let nonce = attributes
            .next()
            .and_then(|a| a.strip_prefix("r="))
            .ok_or(SaslError::Malformed("nonce"))?;
        check_nonce(nonce)?;
        let header_bytes = client_first.len() - bare.len();
        Ok(Opening {
            user: prepare(&unescape(user)?)?,
            authzid,
            bare: bare.to_owned(),
            binding: [&client_first.as_bytes()[..header_bytes], data].concat(),
            nonce: nonce.to_owned(),
        })
    }

    /// The challenge for an account with these keys.
    pub fn challenge(self, keys: &StoredKeys, nonce: &str) -> Result<(String, Challenged), SaslError> {
        check_nonce(nonce)?;
        let nonce = format!("{}{nonce}", self.nonce);
        let first = format!("r={nonce},s={},i={}", BASE64.encode(&keys.salt), keys.iterations);
        let transcript = format!("{},{first}", self.bare);
        let state = Challenged {
            binding: self.binding,
            nonce,
            transcript,
            keys: keys.clone(),
        };
        Ok((first, state))
    }
}

/// The server's side, waiting for the client's proof.
pub struct Challenged {
    binding: Vec<u8>,
    nonce: String,
    transcript: String,
    keys: StoredKeys,
}

impl Challenged {
    /// Checks the proof; gives the server's last word.
    pub fn verify(self, client_final: &str) -> Result<String, SaslError> {
        bounded(client_final)?;
        let (bare, proof) = client_final.rsplit_once(",p=").ok_or(SaslError::Malformed("proof"))?;
        let mut attributes = bare.split(',');
        let binding = attributes
            .next()
            .and_then(|a| a.strip_prefix("c="))
            .ok_or(SaslError::Malformed("binding"))?;
        let nonce = attributes
            .next()
            .and_then(|a| a.strip_prefix("r="))
            .ok_or(SaslError::Malformed("nonce"))?;
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(SaslError::BadNonce);
        }
        if !bool::from(decode(binding, "binding")?.ct_eq(&self.binding)) {
            return Err(SaslError::BindingMismatch);
        }
        let message = format!("{},{bare}", self.transcript);
        let signature = mac(Hash::Sha256, &self.keys.stored_key, message.as_bytes());
        let proof = decode(proof, "proof")?;
        if proof.len() != signature.len() {
            return Err(SaslError::Malformed("proof"));
        }
        let client_key = Zeroizing::new(xor(&proof, &signature));
        if !bool::from(hash(Hash::Sha256, &client_key).ct_eq(&self.keys.stored_key)) {
            return Err(SaslError::WrongPassword);
        }
        let verifier = mac(Hash::Sha256, &self.keys.server_key, message.as_bytes());
        Ok(format!("v={}", BASE64.encode(&verifier)))
    }
}

/// RFC 5802 section 6: the flag must fit the mechanism and what the server offered.
fn check_flag<'a>(flag: &str, plus: bool, offered: Offered<'a>) -> Result<&'a [u8], SaslError> {
    match (flag, plus, offered) {
        ("p=tls-exporter", true, Offered::Exporter(data)) => Ok(data),
        (_, true, Offered::NoBinding) => Err(SaslError::NoBinding),
        ("n", false, _) | ("y", false, Offered::NoBinding) => Ok(&[]),
        ("y", false, Offered::Exporter(_)) => Err(SaslError::BindingMismatch),
        _ => Err(SaslError::Malformed("channel binding flag")),
    }
}

/// The server's first message, in parts.
struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Challenge<'a> {
    fn parse(text: &'a str) -> Result<Self, SaslError> {
        bounded(text)?;
        let mut attributes = text.split(',');
        let mut next = |prefix, name| {
            let value = attributes.next().and_then(|a: &str| a.strip_prefix(prefix));
            value.ok_or(SaslError::Malformed(name))
        };
        let nonce = next("r=", "nonce")?;
        let salt = decode(next("s=", "salt")?, "salt")?;
        let iterations = next("i=", "iterations")?;
        let digits = iterations.len() <= 9 && iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|_| digits);
        let iterations = iterations.ok_or(SaslError::Malformed("iterations"))?;
        match salt.is_empty() {
            true => Err(SaslError::Malformed("salt")),
            false => Ok(Challenge {
                nonce,
                salt,
                iterations,
            }),
        }
    }
}

fn prepare(text: &str) -> Result<String, SaslError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(SaslError::BadName);
    }
    let prepared = stringprep::saslprep(text).map_err(|_| SaslError::BadName)?;
    match prepared.is_empty() || prepared.len() > NAME_BYTES_MAX {
        true => Err(SaslError::BadName),
        false => Ok(prepared.into_owned()),
    }
}

fn bounded(message: &str) -> Result<(), SaslError> {
    match message.len() > MESSAGE_BYTES_MAX {
        true => Err(SaslError::Malformed("too long")),
        false => Ok(()),
    }
}

/// RFC 5802 section 7: printable ASCII without a comma.
fn check_nonce(nonce: &str) -> Result<(), SaslError> {
    let good = nonce.len() >= NONCE_CHARS_MIN && nonce.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    match good {
        true => Ok(()),
        false => Err(SaslError::BadNonce),
    }
}

fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn unescape(name: &str) -> Result<String, SaslError> {
    let mut pieces = name.split('=');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(SaslError::Malformed("user name escape")),
        };
        out.push(character);
        out.push_str(rest);
    }
    Ok(out)
}

fn decode(text: &str, name: &'static str) -> Result<Vec<u8>, SaslError> {
    BASE64.decode(text.as_bytes()).map_err(|_| SaslError::Malformed(name))
}

fn fill_random(bytes: &mut [u8]) -> Result<(), SaslError> {
    SystemRandom::new().fill(bytes).map_err(|_| SaslError::NoRandomness)
}

fn salt_password(hash: Hash, password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Vec<u8>> {
    let (algorithm, bytes) = match hash {
        Hash::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
        Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
    };
    let mut out = Zeroizing::new(vec![0u8; bytes]);
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut out);
    out
}

fn mac(hash: Hash, key: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
}

fn hash(hash: Hash, message: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &digest::SHA256,
    };
    digest::digest(algorithm, message).as_ref().to_vec()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(x, y)| x ^ y).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUS: Mechanism = Mechanism::new(Hash::Sha256, true);
    const BARE: Mechanism = Mechanism::new(Hash::Sha256, false);
    const CLIENT_NONCE: &str = "client-nonce-0123456789";
    const SERVER_NONCE: &str = "server-nonce-0123456789";

    fn login(client: Client, plus: bool, offered: Offered<'_>, keys: &StoredKeys) -> Result<(), SaslError> {
        let opening = Opening::parse(&client.first(), plus, offered)?;
        let (challenge, server) = opening.challenge(keys, SERVER_NONCE)?;
        let (answer, verify) = client.answer(&challenge)?;
        verify.check(&server.verify(&answer)?)
    }

    fn client(password: &str, mechanism: Mechanism, binding: Option<&[u8]>) -> Client {
        Client::new("ann", password, mechanism, binding, CLIENT_NONCE.into()).unwrap()
    }

    fn keys(password: &str) -> StoredKeys {
        StoredKeys::derive(password, b"sixteen bytes of".to_vec(), ITERATIONS_MIN)
    }

    #[test]
    fn rfc_7677_vector_both_sides() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let client = Client::new("user", "pencil", BARE, None, nonce).unwrap();
        let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        assert_eq!(client.first(), first);
        let salt = BASE64.decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = StoredKeys::derive("pencil", salt, 4096);
        let opening = Opening::parse(first, false, Offered::NoBinding).unwrap();
        let (challenge, server) = opening.challenge(&keys, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap();
        assert_eq!(
            challenge,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let (answer, verify) = client.answer(&challenge).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let verifier = server.verify(&answer).unwrap();
        assert_eq!(verifier, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        verify.check(&verifier).unwrap();
    }

    #[test]
    fn rfc_5802_vector_client_side() {
        let mechanism = Mechanism::new(Hash::Sha1, false);
        let nonce = "fyko+d2lbbFgONRv9qkxdawL".to_owned();
        let client = Client::new("user", "pencil", mechanism, None, nonce).unwrap();
        let challenge = "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";
        let (answer, verify) = client.answer(challenge).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
        );
        verify.check("v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").unwrap();
    }

    #[test]
    fn right_password_with_and_without_binding() {
        let exporter = Offered::Exporter(&[7; 32]);
        assert_eq!(
            login(client("pw", PLUS, Some(&[7; 32])), true, exporter, &keys("pw")),
            Ok(())
        );
        assert_eq!(login(client("pw", BARE, None), false, exporter, &keys("pw")), Ok(()));
        assert_eq!(
            login(
                client("pw", BARE, Some(&[7; 32])),
                false,
                Offered::NoBinding,
                &keys("pw")
            ),
            Ok(())
        );
    }

    #[test]
    fn wrong_password_is_refused() {
        let outcome = login(client("other", BARE, None), false, Offered::NoBinding, &keys("pw"));
        assert_eq!(outcome, Err(SaslError::WrongPassword));
        let decoy = StoredKeys::decoy(b"secret", "ann");
        let outcome = login(client("pw", BARE, None), false, Offered::NoBinding, &decoy);
        assert_eq!(outcome, Err(SaslError::WrongPassword));
    }

    #[test]
    fn somebody_between_is_noticed() {
        let theirs = Offered::Exporter(&[8; 32]);
        let outcome = login(client("pw", PLUS, Some(&[7; 32])), true, theirs, &keys("pw"));
        assert_eq!(outcome, Err(SaslError::BindingMismatch));
        // The middle box removed PLUS from the offer.
        let outcome = login(client("pw", BARE, Some(&[7; 32])), false, theirs, &keys("pw"));
        assert_eq!(outcome, Err(SaslError::BindingMismatch));
        // It turned the flag from "y" into "n" as well: the proof no longer fits.
        let honest = client("pw", BARE, Some(&[7; 32]));
        let forged = honest.first().replacen('y', "n", 1);
        let opening = Opening::parse(&forged, false, theirs).unwrap();
        let (challenge, server) = opening.challenge(&keys("pw"), SERVER_NONCE).unwrap();
        let (answer, _) = honest.answer(&challenge).unwrap();
        assert_eq!(server.verify(&answer), Err(SaslError::BindingMismatch));
    }

    #[test]
    fn an_impostor_server_is_noticed() {
        let honest = client("pw", BARE, None);
        let opening = Opening::parse(&honest.first(), false, Offered::NoBinding).unwrap();
        let (challenge, _) = opening.challenge(&keys("pw"), SERVER_NONCE).unwrap();
        let (_, verify) = honest.answer(&challenge).unwrap();
        assert_eq!(
            verify.check(&format!("v={}", BASE64.encode(&[0; 32]))),
            Err(SaslError::ServerNotProven)
        );
        let (_, verify) = client("pw", BARE, None).answer(&challenge).unwrap();
        assert_eq!(verify.check("e=other-error"), Err(SaslError::Refused));
    }

    #[test]
    fn hostile_challenges_are_refused() {
        let answer = |text: &str| client("pw", BARE, None).answer(text).err();
        let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
        assert_eq!(
            answer(&format!("r={nonce},s=AAAA,i=4095")),
            Some(SaslError::BadIterations(4095))
        );
        assert_eq!(
            answer(&format!("r={nonce},s=AAAA,i=600001")),
            Some(SaslError::BadIterations(600_001))
        );
        assert_eq!(
            answer(&format!("r={nonce},s=AAAA,i=+4096")),
            Some(SaslError::Malformed("iterations"))
        );
        assert_eq!(
            answer(&format!("r={nonce},s=,i=4096")),
            Some(SaslError::Malformed("salt"))
        );
        assert_eq!(
            answer(&format!("r={CLIENT_NONCE},s=AAAA,i=4096")),
            Some(SaslError::BadNonce)
        );
        assert_eq!(
            answer(&format!("r={SERVER_NONCE},s=AAAA,i=4096")),
            Some(SaslError::BadNonce)
        );
        assert_eq!(answer("m=x"), Some(SaslError::Malformed("nonce")));
        assert_eq!(answer(&"r".repeat(5000)), Some(SaslError::Malformed("too long")));
    }

    #[test]
    fn hostile_openings_are_refused() {
        let parse = |text: &str| Opening::parse(text, false, Offered::NoBinding).err();
        assert_eq!(parse(""), Some(SaslError::Malformed("gs2 header")));
        assert_eq!(parse("n,,n=ann,r="), Some(SaslError::BadNonce));
        assert_eq!(
            parse("n,,m=ext,n=ann,r=0123456789abcdef"),
            Some(SaslError::Malformed("user"))
        );
        assert_eq!(
            parse("n,,n=a=nn,r=0123456789abcdef"),
            Some(SaslError::Malformed("user name escape"))
        );
        assert_eq!(parse("n,,n=,r=0123456789abcdef"), Some(SaslError::BadName));
        assert_eq!(
            parse("p=tls-unique,,n=ann,r=0123456789abcdef"),
            Some(SaslError::Malformed("channel binding flag"))
        );
    }

    #[test]
    fn names_survive_escaping() {
        let odd = Client::new("a=b,c", "pw", BARE, None, CLIENT_NONCE.into()).unwrap();
        let opening = Opening::parse(&odd.first(), false, Offered::NoBinding).unwrap();
        assert_eq!(opening.user, "a=b,c");
    }
}
