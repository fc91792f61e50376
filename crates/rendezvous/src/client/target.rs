//! Where and as whom to log in, and what is remembered about a server between logins.

use api::rendezvous::{Host, Login};
use zeroize::Zeroizing;

use super::fault::Failure;
use crate::sasl::Mechanism;

/// One login, understood.
pub(super) struct Target {
    /// Local part of the account.
    pub(super) user: String,
    /// The account's domain in lower case: the reference identity of TLS and the `to` of the stream.
    pub(super) domain: String,
    pub(super) password: Zeroizing<String>,
    pub(super) hosts: Vec<Host>,
    pub(super) pin: Option<[u8; 32]>,
    pub(super) token: Option<String>,
    pub(super) register: bool,
    /// The server as people know it.
    pub(super) label: String,
}

impl Target {
    pub(super) fn new(login: &Login) -> Result<Self, Failure> {
        let (user, domain) = match login.user.split_once('@') {
            Some((user, domain)) => (user, domain),
            None => (login.user.as_str(), login.server.domain.as_str()),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if domain.is_empty() || domain.len() > 253 || !domain.bytes().all(plain) {
            return Err(Failure::unsuitable(
                "the account's domain is not a plain host name; write names with other letters in their xn-- form",
            ));
        }
        Ok(Target {
            user: user.to_owned(),
            domain: domain.to_ascii_lowercase(),
            password: Zeroizing::new(login.password.clone()),
            hosts: login.server.hosts.clone(),
            pin: login.server.pin,
            token: login.server.token.clone(),
            register: login.register,
            label: login.server.label(),
        })
    }

    /// The account as people know it; no secret.
    pub(super) fn account(&self) -> String {
        format!("{}@{}", self.user, self.domain)
    }
}

/// What is remembered about one server while the process lives.
#[derive(Default)]
pub(super) struct Memory {
    /// It offered channel binding once: its loss is a downgrade (S-X06).
    pub(super) bound: bool,
    /// The mechanism of the last login: next time it is sent along with the stream header, one round trip less.
    pub(super) mechanism: Option<Mechanism>,
    /// Where the rooms are, if not at `conference.DOMAIN`.
    pub(super) rooms: Option<String>,
    /// How TLS began at the last address.
    pub(super) way: Option<(std::net::SocketAddr, super::dial::Way)>,
}
