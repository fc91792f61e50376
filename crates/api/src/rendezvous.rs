//! Rendezvous: where nodes of a group find each other, as the controller sees any kind of it.
//!
//! Promises: a rendezvous carries opaque bytes between occupants of a room and shows what each says of itself.
//! Refuses to know: what the bytes mean. Nothing that comes from a rendezvous is trusted for anything but delivery.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::link::TurnTransport;

/// How an XMPP server is reached and known: the text form goes into invites and after `--server`.
///
/// `example.org`, `example.org:5222`, `203.0.113.1:5222?domain=rdv.example&pin=HEX&token=TEXT`,
/// several hosts separated by commas, with or without `xmpp://` before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Hosts with ports, tried in order (and side by side after a moment): never empty.
    pub hosts: Vec<Host>,
    /// The XMPP domain; the first host's name where the text gives none.
    pub domain: String,
    /// SHA-256 of the TLS public key (SPKI). With a pin nothing else is asked of the certificate; without, the system's
    /// roots and the domain decide.
    pub pin: Option<[u8; 32]>,
    /// Lets a node register an account (XEP-0445).
    pub token: Option<String>,
}

/// One place where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name or address without brackets.
    pub name: String,
    /// TCP port; 5222 where not given. Where none is given and there is no pin, SRV records decide first.
    pub port: Option<u16>,
}

/// A text that is no server address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a server address: {reason}; expected HOST, HOST:PORT or what `ipop server` prints")]
pub struct ServerAddressError {
    text: String,
    reason: &'static str,
}

const HOSTS_MAX: usize = 8;
const TEXT_MAX: usize = 1024;

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        let refuse = |reason| ServerAddressError {
            text: text.chars().take(80).collect(),
            reason,
        };
        if text.len() > TEXT_MAX {
            return Err(refuse("it is too long"));
        }
        let bare = text.strip_prefix("xmpp://").unwrap_or(text);
        let (places, query) = bare.split_once('?').unwrap_or((bare, ""));
        let places = places.trim_end_matches('/');
        let hosts = places
            .split(',')
            .map(Host::parse)
            .collect::<Result<Vec<_>, _>>()
            .map_err(refuse)?;
        if hosts.len() > HOSTS_MAX {
            return Err(refuse("it names too many hosts"));
        }
        let mut address = Self {
            domain: hosts[0].name.clone(),
            hosts,
            pin: None,
            token: None,
        };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            address.set(pair).map_err(refuse)?;
        }
        Ok(address)
    }
}

impl ServerAddress {
    fn set(&mut self, pair: &str) -> Result<(), &'static str> {
        match pair.split_once('=').ok_or("an option has no value")? {
            ("domain", value) if plain_name(value) => self.domain = value.to_owned(),
            ("domain", _) => return Err("its domain is not a name"),
            ("pin", value) => {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
                let pin = bytes.and_then(|b| b.try_into().ok());
                self.pin = Some(pin.ok_or("its pin is not 64 hexadecimal digits")?);
            }
            ("token", value) => {
                let plain = value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                if value.is_empty() || value.len() > 128 || !plain {
                    return Err("its token has strange characters");
                }
                self.token = Some(value.to_owned());
            }
            _ => return Err("it has an unknown option"),
        }
        Ok(())
    }

    /// Host and port, for people: no pin, no token.
    pub fn label(&self) -> String {
        self.hosts[0].to_string()
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None if text.matches(':').count() > 1 => (text, None),
            None => text
                .split_once(':')
                .map_or((text, None), |(name, port)| (name, Some(port))),
        };
        let port = port
            .map(str::parse)
            .transpose()
            .map_err(|_| "its port is not a number from 1 to 65535")?;
        if port == Some(0) || !(plain_name(name) || name.parse::<std::net::IpAddr>().is_ok()) {
            return Err("its host is not a name or an address");
        }
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

fn plain_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.contains(':') {
            format!("[{}]", self.name)
        } else {
            self.name.clone()
        };
        match self.port {
            Some(port) => write!(f, "{name}:{port}"),
            None => f.write_str(&name),
        }
    }
}

impl fmt::Display for ServerAddress {
    /// Reads back; holds the token, so it is for invites and the owner's screen only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "xmpp://{}", hosts.join(","))?;
        let mut options = Vec::new();
        if self.domain != self.hosts[0].name {
            options.push(format!("domain={}", self.domain));
        }
        options.extend(
            self.pin
                .map(|pin| format!("pin={}", data_encoding::HEXLOWER.encode(&pin))),
        );
        options.extend(self.token.as_ref().map(|token| format!("token={token}")));
        if options.is_empty() {
            Ok(())
        } else {
            write!(f, "?{}", options.join("&"))
        }
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// How to log in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The server.
    pub server: ServerAddress,
    /// Local part of the account; the domain is the account's own if it has one (`user@domain`), else the server's.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Register the account first if the server does not know it (in-band registration, with the token if there is one).
    pub register: bool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} at {})", self.user, self.server.label())
    }
}

/// Somebody in the room, named by the rendezvous: good for sending to and comparing, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Occupant(pub String);

/// Asked of a rendezvous adapter. One adapter serves one network.
#[derive(Clone, Debug, PartialEq)]
pub enum RendezvousCommand {
    /// Log in, enter the room and stay there, over every loss of the connection, until `Stop`.
    Start {
        /// How to log in.
        login: Login,
        /// Room: a name of letters and digits, the same for all members, not telling the group's name.
        room: String,
        /// What all in the room see of us, at most 4 KiB; given again it replaces the old.
        card: Vec<u8>,
    },
    /// Shows another card.
    Card(Vec<u8>),
    /// Brings bytes to an occupant, at most 96 KiB.
    Send {
        /// To whom.
        to: Occupant,
        /// What.
        bytes: Vec<u8>,
    },
    /// Leaves and logs out.
    Stop,
}

/// Told by a rendezvous adapter.
#[derive(Clone, Debug, PartialEq)]
pub enum RendezvousEvent {
    /// Logged in and in the room; occupants follow as `Present`.
    Online,
    /// Not there (any more); all occupants are forgotten. It tries again by itself.
    Offline {
        /// Whose fault and what to do, one sentence.
        reason: String,
        /// What kind of fault.
        fault: RendezvousFault,
        /// Milliseconds until the next try.
        retry_ms: u64,
    },
    /// Somebody is in the room, or changed the card.
    Present {
        /// Who.
        occupant: Occupant,
        /// The card as shown.
        card: Vec<u8>,
    },
    /// Somebody left.
    Absent {
        /// Who.
        occupant: Occupant,
    },
    /// Bytes came from an occupant.
    Received {
        /// From whom, as the server says.
        from: Occupant,
        /// What.
        bytes: Vec<u8>,
    },
    /// STUN and TURN services that the server offers (XEP-0215), resolved; renewed before they expire.
    Services(Vec<Service>),
}

/// Why a rendezvous is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RendezvousFault {
    /// No connection.
    Unreachable,
    /// Its TLS key or certificate is not the expected one.
    Impostor,
    /// User or password is wrong.
    WrongPassword,
    /// It does not register accounts, or not with this token.
    RegistrationRefused,
    /// It lacks something that we need (rooms, TLS, SCRAM).
    Unsuitable,
    /// It spoke nonsense.
    Protocol,
    /// The connection was lost or closed by the server.
    Lost,
}

/// One service.
#[derive(Clone, PartialEq, Eq)]
pub enum Service {
    /// STUN over UDP.
    Stun(SocketAddr),
    /// TURN.
    Turn {
        /// Where.
        address: SocketAddr,
        /// How.
        transport: TurnTransport,
        /// Name for TLS.
        name: Option<String>,
        /// Pin for TLS: the rendezvous' own where it is the same host.
        pin: Option<[u8; 32]>,
        /// User.
        username: String,
        /// Password.
        password: String,
        /// Seconds that the credentials are good for.
        expires_s: Option<u64>,
    },
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stun(address) => write!(f, "Stun({address})"),
            Self::Turn { address, transport, .. } => write!(f, "Turn({address} {transport:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        let pin = "ab".repeat(32);
        for text in [
            "example.org".to_owned(),
            "example.org:5222".into(),
            format!("203.0.113.1:5222,[2001:db8::1]:5222?domain=rdv.example&pin={pin}&token=a-b_C1"),
            "xmpp://[2001:db8::1]:7".into(),
        ] {
            let address: ServerAddress = text.parse().expect(&text);
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn broken_addresses_are_refused() {
        for text in [
            "", "?", ":5222", "a:0", "a:99999", "a b", "a?pin=12", "a?x=1", "a?token=", "[::1", "a,,b",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }
}
