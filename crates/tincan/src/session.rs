//! The keys of a session: two directions, each a chain of epochs that is only ever walked forwards.
//!
//! Promises: the two ends may be in different epochs and lose no record in flight by it; what was sealed in an epoch
//! that is over cannot be opened with what a node still holds; nothing ever wraps around: keys that are used up end
//! the session.
//! Refuses to know: how the keys were agreed (`handshake`), who sends when, paths.
//!
//! The sending direction moves on after 120 s in use, or when its key is worn. It waits for a sign of life from the
//! peer first: a peer that is away for an hour must not find us more epochs ahead than it can follow. The receiving
//! direction follows the peer: it holds the epoch before (for 10 s), the current one and the next two.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::keys::{hkdf, hkdf_into};
use crate::record::{Cipher, KeyMaterial, OpenEpoch, OpenKeys, ReceiverIndex, SealKey};

/// How long an epoch's sending key is used.
pub const EPOCH_TIME: Duration = Duration::from_secs(120);
/// How long the key of the epoch before still opens records that were in flight.
pub const GRACE: Duration = Duration::from_secs(10);
/// After this a fresh handshake heals what a leaked key gave away.
pub const FRESH_AFTER: Duration = Duration::from_secs(30 * 60);

/// Receiving keys that are computed ahead of the peer.
const AHEAD: usize = 2;

/// Which of the two ends of a session a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The node with the lower id; its QUIC end is the client.
    Client,
    /// The node with the higher id.
    Server,
}

/// What a handshake yields: the roots of both directions. Erased when dropped; it cannot be copied.
pub struct SessionKeys {
    cipher: Cipher,
    sending: Zeroizing<[u8; 32]>,
    receiving: Zeroizing<[u8; 32]>,
}

impl SessionKeys {
    /// From the TLS exporter's value and the secret that travelled in the sealed offer: both must fall for the keys to fall.
    pub fn new(exported: &[u8; 32], link_secret: &[u8; 32], cipher: Cipher, role: Role) -> Self {
        let root = hkdf(link_secret, exported, &[b"ipop session root v1"]);
        let client = hkdf(b"ipop direction v1", &*root, &[b"client to server"]);
        let server = hkdf(b"ipop direction v1", &*root, &[b"server to client"]);
        let (sending, receiving) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        Self {
            cipher,
            sending,
            receiving,
        }
    }

    /// The AEAD that both ends settled on.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }
}

/// The session cannot go on: its last epoch is used up. A fresh handshake makes a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the session's keys are used up: it needs a fresh handshake")]
pub struct KeysExhausted;

/// The epochs of a session in both directions, and snapshots of their keys for the fast path.
pub struct Session {
    own_index: ReceiverIndex,
    peer_index: ReceiverIndex,
    cipher: Cipher,
    born: Instant,
    fresh_wanted: bool,
    sending: Sending,
    receiving: Receiving,
}

/// The sending direction.
struct Sending {
    /// Of the epoch after the current one.
    chain: Chain,
    sealer: Arc<SealKey>,
    since: Instant,
    next_look: Instant,
    /// Something from the peer was opened since this epoch began.
    peer_alive: bool,
}

/// The receiving direction.
struct Receiving {
    /// Of the epoch after those held.
    chain: Chain,
    opener: Arc<OpenKeys>,
    current: u16,
    /// When the epoch before goes.
    previous_until: Option<Instant>,
}

impl Session {
    /// A session in its first epochs.
    pub fn new(keys: SessionKeys, peer_index: ReceiverIndex, own_index: ReceiverIndex, now: Instant) -> Self {
        let SessionKeys {
            cipher,
            sending,
            receiving,
        } = keys;
        Self {
            own_index,
            peer_index,
            cipher,
            born: now,
            fresh_wanted: false,
            sending: Sending::new(Chain::new(sending, cipher), peer_index, now),
            receiving: Receiving::new(Chain::new(receiving, cipher)),
        }
    }

    /// The index that the peer puts on records for this session.
    pub fn own_index(&self) -> ReceiverIndex {
        self.own_index
    }

    /// The index that records for the peer bear.
    pub fn peer_index(&self) -> ReceiverIndex {
        self.peer_index
    }

    /// The AEAD of its records.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The key to seal with now. Replaced when `handle_timeout` says that something changed.
    pub fn sealer(&self) -> Arc<SealKey> {
        self.sending.sealer.clone()
    }

    /// The keys to open with now. Replaced when `on_opened` or `handle_timeout` says that something changed;
    /// replay windows go on in the new snapshot.
    pub fn opener(&self) -> Arc<OpenKeys> {
        self.receiving.opener.clone()
    }

    /// To be called at least for each record with `first_of_epoch`; true if `opener` changed.
    pub fn on_opened(&mut self, epoch: u16, now: Instant) -> bool {
        self.sending.peer_alive = true;
        self.receiving.follow(epoch, now)
    }

    /// Moves on what is due; true if `sealer` or `opener` changed. Call it too when `SealKey::is_worn`.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<bool, KeysExhausted> {
        self.sending.peer_alive |= self.receiving.opener.take_sign_of_life();
        // Should the word of an epoch's first record have been lost on its way to the engine.
        let followed = self.receiving.follow_heard(now);
        let forgot = self.receiving.forget_previous(now);
        let moved = self.sending.look(self.peer_index, now)?;
        Ok(followed || forgot || moved)
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next_epoch = self.sending.next_look;
        Some(match self.receiving.previous_until {
            Some(until) => until.min(next_epoch),
            None => next_epoch,
        })
    }

    /// Asks for a fresh handshake: after roaming, waking up, or a change of the key store.
    pub fn force_fresh_handshake(&mut self) {
        self.fresh_wanted = true;
    }

    /// Whether a fresh handshake should begin.
    pub fn wants_fresh_handshake(&self, now: Instant) -> bool {
        self.fresh_wanted || now.saturating_duration_since(self.born) >= FRESH_AFTER
    }
}

impl Sending {
    fn new(mut chain: Chain, receiver: ReceiverIndex, now: Instant) -> Self {
        let (epoch, material) = chain.step().expect("a new chain has its first epoch");
        Self {
            chain,
            sealer: Arc::new(SealKey::new(&material, receiver, epoch)),
            since: now,
            next_look: now + EPOCH_TIME,
            peer_alive: false,
        }
    }

    /// Goes to the next epoch if that is due.
    fn look(&mut self, receiver: ReceiverIndex, now: Instant) -> Result<bool, KeysExhausted> {
        let is_over = now.saturating_duration_since(self.since) >= EPOCH_TIME;
        let is_due = is_over && self.peer_alive && self.sealer.is_used();
        if !is_due && !self.sealer.is_worn() {
            if now >= self.next_look {
                self.next_look = now + LOOK_AGAIN;
            }
            return Ok(false);
        }
        self.next_look = now + EPOCH_TIME;
        let (epoch, material) = self.chain.step().ok_or(KeysExhausted)?;
        self.sealer = Arc::new(SealKey::new(&material, receiver, epoch));
        self.since = now;
        self.peer_alive = false;
        Ok(true)
    }
}

impl Receiving {
    fn new(mut chain: Chain) -> Self {
        let mut held = vec![None];
        held.extend((0..=AHEAD).map(|_| chain.step_open()));
        Self {
            chain,
            opener: Arc::new(OpenKeys::new(held)),
            current: 0,
            previous_until: None,
        }
    }

    /// Makes `epoch` the current one if it is ahead and the peer has proved that it is there.
    fn follow(&mut self, epoch: u16, now: Instant) -> bool {
        let steps = usize::from(epoch.saturating_sub(self.current));
        let held = self.opener.epochs();
        let is_proved = held
            .get(CURRENT + steps)
            .and_then(Option::as_ref)
            .is_some_and(|keys| keys.is_heard());
        if steps == 0 || !is_proved {
            return false;
        }
        let mut shifted = held[steps..].to_vec();
        shifted.extend((0..steps).map(|_| self.chain.step_open()));
        self.opener = Arc::new(OpenKeys::new(shifted));
        self.current = epoch;
        self.previous_until = Some(now + GRACE);
        true
    }

    /// Follows to the newest epoch of which a record was opened.
    fn follow_heard(&mut self, now: Instant) -> bool {
        let ahead = self.opener.epochs().iter().skip(CURRENT + 1);
        let heard = ahead.map(|keys| keys.as_ref().is_some_and(|keys| keys.is_heard()));
        let newest = heard.zip(1u16..).filter(|(heard, _)| *heard).last();
        newest.is_some_and(|(_, steps)| self.follow(self.current.saturating_add(steps), now))
    }

    fn forget_previous(&mut self, now: Instant) -> bool {
        if self.previous_until.is_none_or(|until| now < until) {
            return false;
        }
        let mut kept = self.opener.epochs().to_vec();
        kept[0] = None;
        self.opener = Arc::new(OpenKeys::new(kept));
        self.previous_until = None;
        true
    }
}

/// Where in `OpenKeys` the current epoch stands: behind the previous one.
const CURRENT: usize = 1;
/// When an epoch was over but unused, or the peer silent, look again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One direction's secrets from the next epoch onwards.
struct Chain {
    root: Zeroizing<[u8; 32]>,
    cipher: Cipher,
    /// None behind the last epoch.
    next: Option<u16>,
}

impl Chain {
    fn new(root: Zeroizing<[u8; 32]>, cipher: Cipher) -> Self {
        Self {
            root,
            cipher,
            next: Some(0),
        }
    }

    /// The next epoch's key; the chain itself then no longer knows it.
    fn step(&mut self) -> Option<(u16, KeyMaterial)> {
        let epoch = self.next?;
        let name: &[u8] = match self.cipher {
            Cipher::Aes256Gcm => b"aes-256-gcm",
            Cipher::ChaCha20Poly1305 => b"chacha20-poly1305",
        };
        let mut bytes = Zeroizing::new([0; 32 + 12]);
        hkdf_into(b"ipop record key v1", &*self.root, &[name], &mut *bytes);
        let material = KeyMaterial::new(self.cipher, &bytes);
        self.root = hkdf(b"ipop epoch v1", &*self.root, &[b"next"]);
        self.next = epoch.checked_add(1);
        Some((epoch, material))
    }

    fn step_open(&mut self) -> Option<Arc<OpenEpoch>> {
        self.step()
            .map(|(epoch, material)| Arc::new(OpenEpoch::new(&material, epoch)))
    }
}

#[cfg(test)]
mod tests;
