//! The words in which an agent and its users talk.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;
use is::IceCreds;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CandidateKind;

/// The name and password of one side's connectivity checks. The password is secret: it travels in sealed signals only.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Credentials {
    ufrag: String,
    password: String,
}

impl Credentials {
    /// Makes credentials from 32 random bytes: 96 bits of user fragment, 160 bits of password.
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        let (name, secret) = entropy.split_at(12);
        Credentials {
            ufrag: BASE32_NOPAD.encode(name).to_lowercase(),
            password: BASE32_NOPAD.encode(secret).to_lowercase(),
        }
    }

    /// Takes a peer's credentials; `None` where they are shorter than ours would be allowed to be, or no ICE characters.
    pub fn from_peer(ufrag: &str, password: &str) -> Option<Self> {
        let proper = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        };
        let ok = (8..=64).contains(&ufrag.len())
            && (24..=128).contains(&password.len())
            && proper(ufrag)
            && proper(password);
        ok.then(|| Credentials {
            ufrag: ufrag.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The user name fragment: who a check is for. Not secret.
    pub fn ufrag(&self) -> &str {
        &self.ufrag
    }

    /// The password, for sealing into a signal.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn to_is(&self) -> IceCreds {
        IceCreds {
            ufrag: self.ufrag.clone(),
            pass: self.password.clone(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, ..)", self.ufrag)
    }
}

/// Seeds the generator of this thread from which transaction ids and pair ids come. The shell seeds it with entropy
/// on the engine's thread, a simulation with its seed so that a run replays. Answers are protected by their HMAC.
pub fn seed_transactions(seed: u64) {
    fastrand::seed(seed);
}

/// A STUN message to send from `local` (a host address, or a relayed one: then through its TURN server).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceTransmit {
    /// The local host address or relayed address it leaves from.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// The STUN message.
    pub bytes: Vec<u8>,
}

/// Two addresses between which datagrams may flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Our host address or relayed address.
    pub local: SocketAddr,
    /// The peer's address as we see it.
    pub remote: SocketAddr,
    /// Host or Relayed.
    pub local_kind: CandidateKind,
    /// How we know the remote address.
    pub remote_kind: CandidateKind,
    /// What checks said so far.
    pub state: PairState,
    /// Round trip of the last answered check.
    pub rtt: Option<Duration>,
    /// When a check was last answered, or the peer's check last came in.
    pub last_heard: Option<Instant>,
    /// Who stands between.
    pub rank: Rank,
}

impl Pair {
    /// Whether somebody stands between.
    pub fn is_relayed(&self) -> bool {
        self.rank != Rank::Direct
    }
}

/// Who stands between the two ends of a path; the better first. A TURN server is there to relay, so it comes before a
/// member, who pays with its own line and seals everything twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Nobody.
    Direct,
    /// A TURN server that is reached over UDP.
    Turn,
    /// A member that both ends have links with.
    Member,
    /// A TURN server that an end reaches over a byte stream.
    Stream,
}

/// How far checks of a pair are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairState {
    /// Known and not tried yet (relays in reserve).
    Reserve,
    /// Being tried.
    Checking,
    /// A check was answered.
    Valid,
}

/// What an agent tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// A pair answered a check for the first time.
    ValidPair(Pair),
    /// Both sides agreed on this pair; comes again when a better one is found.
    Nominated(Pair),
    /// The nominated pair stopped answering; all pairs are being tried again.
    Silent(Pair),
    /// No pair is left to try: restart with fresh candidates and credentials.
    Disconnected,
}

/// How eagerly the agent checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Traffic flows: consent every 5 s.
    Active,
    /// Nothing flows: one keepalive in 25 s on the nominated pair by the controlling side, none elsewhere.
    Idle,
}
