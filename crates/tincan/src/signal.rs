//! Signals: what two tincans tell each other through a rendezvous, before and beside a link.
//!
//! Promises: any bytes are either a signal or an error; every signal carries a stamp by which its receiver refuses
//! what was replayed or overtaken; candidate lists are always whole, so a lost signal loses nothing that the next
//! does not bring again.
//! Refuses to know: sealing and sending (`keys`, the controller), what a signal does to a link.
//!
//! Form, big endian: version · kind · instance (64 bit) · number (64 bit) · body. It only travels sealed.

use api::{NodeId, SessionId};
use zeroize::{Zeroize, Zeroizing};

use crate::ice::{Candidate, Credentials};
use crate::limits;

/// The version of this form.
pub const VERSION: u8 = 1;
/// Versions of link (handshake and records) that this node speaks, best first.
pub const LINK_VERSIONS: &[u8] = &[1];

/// Orders the signals of one sender: `instance` is random at each start, `number` counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The sender's start.
    pub instance: u64,
    /// Its signals, counted.
    pub number: u64,
}

/// 256 bits that travel in the offer and go into the session's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkSecret(Zeroizing<[u8; 32]>);

impl LinkSecret {
    /// From 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the key schedule.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret(..)")
    }
}

/// One signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// When, in its sender's order.
    pub stamp: Stamp,
    /// What.
    pub body: Body,
}

/// What a signal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Let us make a link.
    Offer(Offer),
    /// Yes.
    Answer(Answer),
    /// My candidates as they are now.
    Candidates(Candidates),
    /// No path of the live link answers: check anew with these credentials.
    Restart(Restart),
    /// From controller to controller.
    Message(Vec<u8>),
}

/// Let us make a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Names the attempt.
    pub session: SessionId,
    /// Versions of link that the sender speaks, best first.
    pub versions: Vec<u8>,
    /// Goes into the keys.
    pub secret: LinkSecret,
    /// The sender's ICE credentials.
    pub credentials: Credentials,
    /// Where the sender can be reached, as far as it knows yet.
    pub candidates: Vec<Candidate>,
    /// Through whom, besides.
    pub members: Vec<NodeId>,
}

/// Yes, let us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The attempt.
    pub session: SessionId,
    /// The version chosen.
    pub version: u8,
    /// The sender's ICE credentials.
    pub credentials: Credentials,
    /// Where the sender can be reached, as far as it knows yet.
    pub candidates: Vec<Candidate>,
    /// Through whom, besides.
    pub members: Vec<NodeId>,
}

/// A sender's whole candidate list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// The link.
    pub session: SessionId,
    /// The restart that they belong to; 0 at first.
    pub generation: u32,
    /// All of them.
    pub candidates: Vec<Candidate>,
    /// All members through whom the sender can be reached besides.
    pub members: Vec<NodeId>,
}

/// New credentials for a live link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The link.
    pub session: SessionId,
    /// Counts restarts of the link; the first is 1.
    pub generation: u32,
    /// Whether this answers the other side's restart of the same generation.
    pub is_answer: bool,
    /// The sender's new ICE credentials.
    pub credentials: Credentials,
    /// All of the sender's candidates.
    pub candidates: Vec<Candidate>,
    /// All members through whom it can be reached besides.
    pub members: Vec<NodeId>,
}

/// Why bytes are no signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// Made by a newer IPOP.
    #[error("the signal has form {0}, this IPOP reads form {VERSION}: update it")]
    Version(u8),
    /// No kind that this version knows.
    #[error("the signal is of the unknown kind {0}")]
    Kind(u8),
    /// Cut short, too long, or a count beyond its bound.
    #[error("the signal's length is not what its fields say")]
    Length,
    /// Credentials that ICE does not allow.
    #[error("the signal's ICE credentials are not allowed by RFC 8445")]
    Credentials,
    /// A candidate that cannot be read.
    #[error("the signal names a candidate that cannot be read")]
    Candidate,
}

const OFFER: u8 = 1;
const ANSWER: u8 = 2;
const CANDIDATES: u8 = 3;
const RESTART: u8 = 4;
const MESSAGE: u8 = 5;
const VERSIONS_MAX: usize = 16;

impl Signal {
    /// The bytes, to be sealed; erased when dropped, for offers hold secrets.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room for the largest at once: growing would leave copies of secrets behind.
        let room = match &self.body {
            Body::Message(data) => data.len() + 32,
            _ => 2048,
        };
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        out.extend_from_slice(&[VERSION, self.body.kind()]);
        out.extend_from_slice(&self.stamp.instance.to_be_bytes());
        out.extend_from_slice(&self.stamp.number.to_be_bytes());
        self.body.encode(&mut out);
        out
    }

    /// Reads what `encode` wrote, bounded in everything.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignalError> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(SignalError::Version(version));
        }
        let kind = reader.u8()?;
        let stamp = Stamp {
            instance: reader.u64()?,
            number: reader.u64()?,
        };
        let body = Body::parse(kind, &mut reader)?;
        if !reader.0.is_empty() {
            return Err(SignalError::Length);
        }
        Ok(Self { stamp, body })
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Offer(_) => OFFER,
            Self::Answer(_) => ANSWER,
            Self::Candidates(_) => CANDIDATES,
            Self::Restart(_) => RESTART,
            Self::Message(_) => MESSAGE,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Offer(offer) => {
                out.extend_from_slice(&offer.session.0.to_be_bytes());
                push_short(out, &offer.versions);
                out.extend_from_slice(offer.secret.expose());
                push_credentials(out, &offer.credentials);
                push_candidates(out, &offer.candidates, &offer.members);
            }
            Self::Answer(answer) => {
                out.extend_from_slice(&answer.session.0.to_be_bytes());
                out.push(answer.version);
                push_credentials(out, &answer.credentials);
                push_candidates(out, &answer.candidates, &answer.members);
            }
            Self::Candidates(list) => {
                out.extend_from_slice(&list.session.0.to_be_bytes());
                out.extend_from_slice(&list.generation.to_be_bytes());
                push_candidates(out, &list.candidates, &list.members);
            }
            Self::Restart(restart) => {
                out.extend_from_slice(&restart.session.0.to_be_bytes());
                out.extend_from_slice(&restart.generation.to_be_bytes());
                out.push(u8::from(restart.is_answer));
                push_credentials(out, &restart.credentials);
                push_candidates(out, &restart.candidates, &restart.members);
            }
            Self::Message(data) => out.extend_from_slice(data),
        }
    }

    fn parse(kind: u8, reader: &mut Reader<'_>) -> Result<Self, SignalError> {
        Ok(match kind {
            OFFER => {
                let session = reader.session()?;
                let versions = reader.versions()?;
                let secret = reader.secret()?;
                let credentials = reader.credentials()?;
                let (candidates, members) = reader.candidates()?;
                Self::Offer(Offer {
                    session,
                    versions,
                    secret,
                    credentials,
                    candidates,
                    members,
                })
            }
            ANSWER => {
                let session = reader.session()?;
                let version = reader.u8()?;
                let credentials = reader.credentials()?;
                let (candidates, members) = reader.candidates()?;
                Self::Answer(Answer {
                    session,
                    version,
                    credentials,
                    candidates,
                    members,
                })
            }
            CANDIDATES => {
                let session = reader.session()?;
                let generation = reader.u32()?;
                let (candidates, members) = reader.candidates()?;
                Self::Candidates(Candidates {
                    session,
                    generation,
                    candidates,
                    members,
                })
            }
            RESTART => {
                let session = reader.session()?;
                let generation = reader.u32()?;
                let is_answer = reader.u8()? == 1;
                let credentials = reader.credentials()?;
                let (candidates, members) = reader.candidates()?;
                Self::Restart(Restart {
                    session,
                    generation,
                    is_answer,
                    credentials,
                    candidates,
                    members,
                })
            }
            MESSAGE => Self::Message(reader.rest(limits::CONTROLLER_MESSAGE)?),
            other => return Err(SignalError::Kind(other)),
        })
    }
}

fn push_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).expect("own versions and credentials are short");
    out.push(length);
    out.extend_from_slice(bytes);
}

fn push_credentials(out: &mut Vec<u8>, credentials: &Credentials) {
    push_short(out, credentials.ufrag().as_bytes());
    push_short(out, credentials.password().as_bytes());
}

/// A member takes the place of an address: this where the kind stands, then its id.
const MEMBER: u8 = 4;

fn push_candidates(out: &mut Vec<u8>, candidates: &[Candidate], members: &[NodeId]) {
    let taken = &candidates[..candidates.len().min(limits::CANDIDATES)];
    let members = &members[..members.len().min(limits::LISTED_MEMBERS)];
    out.push(u8::try_from(taken.len() + members.len()).expect("bounded just above"));
    for candidate in taken {
        candidate.encode(out);
    }
    for member in members {
        out.push(MEMBER);
        out.extend_from_slice(&member.0);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SignalError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(SignalError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SignalError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(SignalError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, SignalError> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, SignalError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, SignalError> {
        self.array().map(u64::from_be_bytes)
    }

    fn session(&mut self) -> Result<SessionId, SignalError> {
        self.u64().map(SessionId)
    }

    fn short(&mut self, most: usize) -> Result<&'a [u8], SignalError> {
        let length = usize::from(self.u8()?);
        if length > most {
            return Err(SignalError::Length);
        }
        self.take(length)
    }

    fn versions(&mut self) -> Result<Vec<u8>, SignalError> {
        self.short(VERSIONS_MAX).map(<[u8]>::to_vec)
    }

    fn secret(&mut self) -> Result<LinkSecret, SignalError> {
        let mut bytes = self.array()?;
        let secret = LinkSecret::from_bytes(bytes);
        bytes.zeroize();
        Ok(secret)
    }

    fn credentials(&mut self) -> Result<Credentials, SignalError> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| SignalError::Credentials);
        let ufrag = text(self.short(limits::ICE_CREDENTIAL)?)?;
        let password = text(self.short(limits::ICE_CREDENTIAL)?)?;
        Credentials::from_peer(ufrag, password).ok_or(SignalError::Credentials)
    }

    /// Addresses first, then members.
    fn candidates(&mut self) -> Result<(Vec<Candidate>, Vec<NodeId>), SignalError> {
        let count = usize::from(self.u8()?);
        let (mut candidates, mut members) = (Vec::new(), Vec::new());
        for _ in 0..count {
            if self.0.first() == Some(&MEMBER) {
                self.u8()?;
                members.push(NodeId(self.array()?));
            } else if members.is_empty() {
                let (candidate, rest) = Candidate::parse(self.0).map_err(|_| SignalError::Candidate)?;
                self.0 = rest;
                candidates.push(candidate);
            } else {
                return Err(SignalError::Candidate);
            }
        }
        if candidates.len() > limits::CANDIDATES || members.len() > limits::LISTED_MEMBERS {
            return Err(SignalError::Length);
        }
        Ok((candidates, members))
    }

    fn rest(&mut self, most: usize) -> Result<Vec<u8>, SignalError> {
        if self.0.len() > most {
            return Err(SignalError::Length);
        }
        Ok(std::mem::take(&mut self.0).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Signal> {
        let credentials = Credentials::from_entropy([3; 32]);
        let candidates = vec![
            Candidate::host("192.0.2.1:40000".parse().unwrap(), 9),
            Candidate::host("[2001:db8::1]:40000".parse().unwrap(), 8),
        ];
        let members = vec![NodeId([1; 32]), NodeId([2; 32])];
        let session = SessionId(77);
        let bodies = [
            Body::Offer(Offer {
                session,
                versions: LINK_VERSIONS.to_vec(),
                secret: LinkSecret::from_bytes([5; 32]),
                credentials: credentials.clone(),
                candidates: candidates.clone(),
                members: members.clone(),
            }),
            Body::Answer(Answer {
                session,
                version: 1,
                credentials: credentials.clone(),
                candidates: candidates.clone(),
                members: members.clone(),
            }),
            Body::Candidates(Candidates {
                session,
                generation: 2,
                candidates: candidates.clone(),
                members: members.clone(),
            }),
            Body::Restart(Restart {
                session,
                generation: 1,
                is_answer: true,
                credentials,
                candidates,
                members,
            }),
            Body::Message(vec![1, 2, 3]),
        ];
        let stamp = Stamp {
            instance: 1 << 63,
            number: 9,
        };
        bodies.into_iter().map(|body| Signal { stamp, body }).collect()
    }

    #[test]
    fn every_kind_reads_back() {
        for signal in examples() {
            assert_eq!(Signal::parse(&signal.encode()), Ok(signal));
        }
    }

    #[test]
    fn cut_or_lengthened_signals_are_refused() {
        for signal in examples().into_iter().take(4) {
            let bytes = signal.encode();
            for cut in 0..bytes.len() {
                assert!(Signal::parse(&bytes[..cut]).is_err(), "{cut} of {signal:?}");
            }
            assert_eq!(Signal::parse(&[&bytes[..], &[0]].concat()), Err(SignalError::Length));
        }
    }

    #[test]
    fn other_versions_and_kinds_are_named() {
        let mut bytes = examples()[0].encode();
        bytes[1] = 99;
        assert_eq!(Signal::parse(&bytes), Err(SignalError::Kind(99)));
        bytes[0] = 2;
        assert_eq!(Signal::parse(&bytes), Err(SignalError::Version(2)));
    }

    #[test]
    fn secrets_do_not_print() {
        let text = format!("{:?}", examples()[0]);
        let password = Credentials::from_entropy([3; 32]).password().to_owned();
        assert!(!text.contains(&password) && !text.contains("5, 5, 5"), "{text}");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(which in 0usize..5, edits in proptest::collection::vec((0usize..200, any::<u8>()), 0..6)) {
            let mut bytes = examples()[which].encode().to_vec();
            for (at, value) in edits {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(signal) = Signal::parse(&bytes) {
                prop_assert_eq!(Signal::parse(&signal.encode()), Ok(signal));
            }
        }
    }
}
