//! Invite links: everything a stranger needs to join a group, in one line of text.
//!
//! Promises: a link that parses is whole, was granted by the root of the group that it names, and never shows in logs.
//! Refuses to know: whether it is used up; only members do.
//!
//! `ipop://` + base64url of: version, length of what follows (16 bits), body, first four bytes of the hash of all before.

use api::rendezvous::ServerAddress;
use api::{Cidr, NetworkId};
use data_encoding::BASE64URL_NOPAD;

use crate::addressing::ipv6_subnet;
use crate::crypto::{InviteKey, hash};
use crate::entry::{Entry, Genesis, Grant, Verified};
use crate::limits::{CLOCK_TOLERANCE_S, ENTRY_BYTES_MAX, INVITE_CHARS_MAX};
use crate::wire::{Malformed, Reader, put_bytes};

const SCHEME: &str = "ipop://";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
const SERVER_TEXT_MAX: usize = 1024;

/// Why a text is no invite that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Something else.
    #[error("this is not an invite: an invite begins with ipop:// and is printed by `ipop invite`")]
    NotALink,
    /// The end is missing.
    #[error("the invite is cut short: copy it again, to its very end")]
    Truncated,
    /// From a later IPOP.
    #[error(
        "the invite was made by a newer IPOP (its format is {0}, this one understands {VERSION}): upgrade this one"
    )]
    Newer(u8),
    /// Some characters changed.
    #[error("the invite is damaged: copy it again, or ask for a new one")]
    Corrupt,
    /// The group's root did not sign it.
    #[error(
        "the invite is forged: it is not signed by the group that it names; ask a member of the group for a new one"
    )]
    Foreign,
    /// Too late.
    #[error(
        "the invite expired {0}: ask for a new one (and check this machine's clock if you think it should be good)"
    )]
    Expired(Ago),
}

/// A span of time in the largest fitting unit, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ago(pub u64);

impl std::fmt::Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0..=119 => write!(f, "{} seconds ago", self.0),
            120..=7199 => write!(f, "{} minutes ago", self.0 / 60),
            7200..=172_799 => write!(f, "{} hours ago", self.0 / 3600),
            _ => write!(f, "{} days ago", self.0 / 86_400),
        }
    }
}

/// An invite, taken apart and checked.
#[derive(Clone)]
pub struct Invite {
    /// The group's root public key.
    pub network: NetworkId,
    /// The group's first entry.
    pub genesis: Verified,
    /// The right to join.
    pub grant: Verified,
    /// Its key.
    pub key: InviteKey,
    /// Where members meet.
    pub server: ServerAddress,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invite({})", self.network)
    }
}

impl Invite {
    /// Reads a link; white space that mail programs put in does not matter.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        if text.len() > INVITE_CHARS_MAX {
            return Err(InviteError::NotALink);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let scheme = text.get(..SCHEME.len()).filter(|s| s.eq_ignore_ascii_case(SCHEME));
        scheme.ok_or(InviteError::NotALink)?;
        let bytes = decode(&text[SCHEME.len()..])?;
        let body = unwrap(&bytes)?;
        Self::body(body)
    }

    fn body(body: &[u8]) -> Result<Self, InviteError> {
        let mut reader = Reader::new(body);
        let mut fields = || -> Result<_, Malformed> {
            let network = NetworkId(reader.array()?);
            let genesis = reader.bytes(ENTRY_BYTES_MAX)?;
            let grant = reader.bytes(ENTRY_BYTES_MAX)?;
            let key = InviteKey::from_seed(reader.array()?);
            let pin = match reader.u8()? {
                0 => None,
                1 => Some(reader.array()?),
                _ => return Err(Malformed),
            };
            let text = std::str::from_utf8(reader.bytes(SERVER_TEXT_MAX)?).map_err(|_| Malformed)?;
            let mut server: ServerAddress = text.parse().map_err(|_| Malformed)?;
            server.pin = server.pin.or(pin);
            reader.end()?;
            Ok((network, genesis, grant, key, server))
        };
        let (network, genesis, grant, key, server) = fields().map_err(|_| InviteError::Corrupt)?;
        let entry = |bytes| Verified::parse(network, bytes).map_err(|_| InviteError::Foreign);
        let invite = Self {
            network,
            genesis: entry(genesis)?,
            grant: entry(grant)?,
            key,
            server,
        };
        match (invite.genesis.entry(), invite.grant.entry()) {
            (Entry::Genesis(_), Entry::Grant(grant)) if grant.key == invite.key.public() => Ok(invite),
            _ => Err(InviteError::Foreign),
        }
    }

    /// The link.
    pub fn to_link(&self) -> String {
        let mut body = self.network.0.to_vec();
        put_bytes(&mut body, self.genesis.bytes());
        put_bytes(&mut body, self.grant.bytes());
        body.extend_from_slice(self.key.seed());
        match self.server.pin {
            Some(pin) => {
                body.push(1);
                body.extend_from_slice(&pin);
            }
            None => body.push(0),
        }
        let bare = ServerAddress {
            pin: None,
            ..self.server.clone()
        };
        put_bytes(&mut body, bare.to_string().trim_start_matches("xmpp://").as_bytes());
        let mut bytes = vec![VERSION];
        put_bytes(&mut bytes, &body);
        let check = hash("ipop invite v1", &[&bytes]);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// What the root said of the group.
    pub fn facts(&self) -> &Genesis {
        match self.genesis.entry() {
            Entry::Genesis(genesis) => genesis,
            _ => unreachable!("an invite is made with a genesis"),
        }
    }

    /// The right that it carries.
    pub fn right(&self) -> &Grant {
        match self.grant.entry() {
            Entry::Grant(grant) => grant,
            _ => unreachable!("an invite is made with a grant"),
        }
    }

    /// The group's subnets.
    pub fn subnets(&self) -> [Cidr; 2] {
        [self.facts().subnet, ipv6_subnet(self.network)]
    }

    /// Whether it is still good by this clock.
    pub fn check_time(&self, unix: u64) -> Result<(), InviteError> {
        let expires_at = self.right().expires_at;
        if unix > expires_at.saturating_add(CLOCK_TOLERANCE_S) {
            return Err(InviteError::Expired(Ago(unix - expires_at)));
        }
        Ok(())
    }
}

fn decode(text: &str) -> Result<Vec<u8>, InviteError> {
    let text = text.trim_end_matches('/');
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Err(InviteError::Corrupt);
    }
    // A cut link ends anywhere within a group of four characters.
    let whole = text.len() - text.len() % 4;
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .or_else(|_| BASE64URL_NOPAD.decode(&text.as_bytes()[..whole]))
        .map_err(|_| InviteError::Corrupt)
}

fn unwrap(bytes: &[u8]) -> Result<&[u8], InviteError> {
    let version = *bytes.first().ok_or(InviteError::Truncated)?;
    if version > VERSION {
        return Err(InviteError::Newer(version));
    }
    if version < VERSION {
        return Err(InviteError::Corrupt);
    }
    let mut reader = Reader::new(bytes);
    let mut parts = || -> Result<_, Malformed> {
        reader.u8()?;
        let body = reader.bytes(usize::from(u16::MAX))?;
        let before = reader.taken();
        Ok((body, before, reader.array::<CHECK_BYTES>()?))
    };
    let (body, before, check) = parts().map_err(|_| InviteError::Truncated)?;
    if !reader.is_empty() || hash("ipop invite v1", &[before])[..CHECK_BYTES] != check {
        return Err(InviteError::Corrupt);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use proptest::prelude::*;

    fn invite() -> Invite {
        let pin = "ab".repeat(32);
        let server = format!("203.0.113.1:5222,[2001:db8::1]:5222?domain=rdv.example&pin={pin}&token=abcdefghijklmnop");
        Invite {
            network: network(),
            genesis: genesis(),
            grant: grant(100, 1),
            key: key(100),
            server: server.parse().expect("a server"),
        }
    }

    fn check(invite: &Invite, other: &Invite) {
        assert_eq!(other.network, invite.network);
        assert_eq!((&other.genesis, &other.grant), (&invite.genesis, &invite.grant));
        assert_eq!(other.server, invite.server);
        assert_eq!(other.key.public(), invite.key.public());
    }

    #[test]
    fn a_link_reads_back_and_is_short() {
        let link = invite().to_link();
        assert!(link.len() <= 700, "{} characters", link.len());
        check(&invite(), &Invite::parse(&link).expect("our own"));
        let wrapped = format!("  {}\n {}\n", &link[..80], &link[80..]);
        check(&invite(), &Invite::parse(&wrapped).expect("wrapped by a mail program"));
    }

    #[test]
    fn each_way_to_break_a_link_has_its_name() {
        let link = invite().to_link();
        let refused = |text: &str| Invite::parse(text).expect_err(text);
        for text in ["", "hello", "http://example.org", "ipop:/x", "é", "ipop:/é"] {
            assert_eq!(refused(text), InviteError::NotALink, "{text}");
        }
        for end in SCHEME.len()..link.len() {
            assert_eq!(refused(&link[..end]), InviteError::Truncated, "{end}");
        }
        assert_eq!(refused(&format!("{link}AAAA")), InviteError::Corrupt);
        assert_eq!(refused(&link.replace("://A", "://Ä")), InviteError::Corrupt);
        let mut bytes = BASE64URL_NOPAD
            .decode(&link.as_bytes()[SCHEME.len()..])
            .expect("base64");
        bytes[60] ^= 1;
        assert_eq!(
            refused(&format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&bytes))),
            InviteError::Corrupt
        );
        bytes[0] = 2;
        assert_eq!(
            refused(&format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&bytes))),
            InviteError::Newer(2)
        );
    }

    #[test]
    fn a_grant_that_the_root_did_not_sign_or_of_another_key_is_foreign() {
        let stranger = NetworkId(key(201).public());
        let foreign = Invite {
            network: stranger,
            ..invite()
        };
        assert_eq!(
            Invite::parse(&foreign.to_link()).expect_err("other root"),
            InviteError::Foreign
        );
        let swapped = Invite {
            key: key(101),
            ..invite()
        };
        assert_eq!(
            Invite::parse(&swapped.to_link()).expect_err("other key"),
            InviteError::Foreign
        );
        let twice = Invite {
            grant: genesis(),
            ..invite()
        };
        assert_eq!(
            Invite::parse(&twice.to_link()).expect_err("no grant"),
            InviteError::Foreign
        );
    }

    #[test]
    fn it_expires_with_tolerance_for_clocks() {
        let end = START + 86_400 + CLOCK_TOLERANCE_S;
        assert_eq!(invite().check_time(0), Ok(()));
        assert_eq!(invite().check_time(end), Ok(()));
        assert_eq!(
            invite().check_time(end + 1),
            Err(InviteError::Expired(Ago(CLOCK_TOLERANCE_S + 1)))
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?} {:?}", invite(), invite().key);
        assert!(!text.contains("abcdefghijklmnop") && text.len() < 100, "{text}");
    }

    proptest! {
        #[test]
        fn nonsense_is_refused(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Invite::parse(&text).is_err());
            let link = format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&bytes));
            prop_assert!(Invite::parse(&link).is_err());
            let mut wrapped = vec![VERSION];
            put_bytes(&mut wrapped, &bytes);
            let check = hash("ipop invite v1", &[&wrapped]);
            wrapped.extend_from_slice(&check[..CHECK_BYTES]);
            let link = format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&wrapped));
            prop_assert!(Invite::parse(&link).is_err());
        }
    }
}
