//! Expiring TURN credentials, as coturn's `use-auth-secret` and XEP-0215 have them: the name says until
//! when and for whom, the password is a MAC of the name. Nobody has to keep a table of users.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

/// Longest name that is looked at: ten digits, a colon, an account's name.
pub(crate) const NAME_BYTES_MAX: usize = 512;

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// Makes credentials for `user` that end at `expiry` (seconds since 1970).
pub(crate) fn issue(secret: &[u8], user: &str, expiry: u64) -> Credentials {
    let username = format!("{expiry}:{user}");
    Credentials {
        password: password(secret, &username),
        username,
    }
}

/// The only password that fits this name.
pub(crate) fn password(secret: &[u8], username: &str) -> String {
    // HMAC-SHA1 is what every TURN server's shared-secret scheme uses; no collision can forge a MAC.
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref())
}

/// The user behind a name that has not expired at `now` (seconds since 1970).
pub fn user_of(username: &str, now: u64) -> Option<&str> {
    if username.len() > NAME_BYTES_MAX {
        return None;
    }
    let (expiry, user) = username.split_once(':')?;
    let digits = (1..=15).contains(&expiry.len()) && expiry.bytes().all(|b| b.is_ascii_digit());
    let valid = digits && !user.is_empty() && expiry.parse::<u64>().is_ok_and(|expiry| now < expiry);
    valid.then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_secret_scheme_of_coturn() {
        // printf '1700000000:ann' | openssl dgst -sha1 -hmac north -binary | base64
        let credentials = issue(b"north", "ann", 1_700_000_000);
        assert_eq!(credentials.username, "1700000000:ann");
        assert_eq!(credentials.password, "jeamH6dA5l2I9g3jmieza7CzEDo=");
    }

    #[test]
    fn names_end_and_lies_are_refused() {
        assert_eq!(user_of("100:ann", 99), Some("ann"));
        assert_eq!(user_of("100:ann:x", 99), Some("ann:x"));
        for name in [
            "100:ann",
            "100",
            "100:",
            ":ann",
            "+200:ann",
            "9999999999999999:ann",
            "x:ann",
            "",
        ] {
            assert_eq!(user_of(name, 100), None, "{name}");
        }
    }
}
