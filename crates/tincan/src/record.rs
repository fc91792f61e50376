//! The record layer: one inner frame, sealed, is one datagram.
//!
//! Promises: no nonce is used twice under one key, whatever callers do; nothing but a record that its peer sealed
//! is opened, each at most once; a refused record changes nothing but a counter of the caller's; sealing and
//! opening take no lock and, after a lane's first record, no memory.
//! Refuses to know: paths, sockets, what a payload means, when an epoch ends (`session`).
//!
//! On the wire: `0b10 << 6 | lane` · receiver index (24 bit) · epoch (16 bit) · counter (48 bit) · ciphertext · tag.
//! The 12 bytes before the ciphertext are authenticated with it. All numbers are big endian.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::replay::Window;

/// Bytes before the ciphertext.
pub const HEADER: usize = 12;
/// Bytes behind the ciphertext.
pub const TAG: usize = 16;
/// What a record is longer than its payload.
pub const OVERHEAD: usize = HEADER + TAG;
/// Lanes are 0 (the engine's) to 62; 63 would be first byte 0xBF and stays free for another version.
pub const LANES: u8 = 63;

/// A lane draws its right to seal in chunks of this many frames ...
const CHUNK_FRAMES: u32 = 1 << 16;
/// ... or of this many 16-byte blocks, whichever is used up first.
const CHUNK_BLOCKS: u32 = 1 << 24;
/// 7/8 of 2^36 AES-GCM blocks under one key (OpenVPN's bound), or 2^27.8 frames: time for a new epoch.
const SOFT_CHUNKS: u32 = 3584;
/// Nothing is sealed beyond twice that.
const HARD_CHUNKS: u32 = 2 * SOFT_CHUNKS;

/// A number by which a node finds the session of a record; chosen at random by the node that receives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReceiverIndex(u32);

impl ReceiverIndex {
    /// The index, if it has no more than 24 bits.
    pub fn new(index: u32) -> Option<Self> {
        (index < 1 << 24).then_some(Self(index))
    }

    /// From its three bytes on the wire.
    pub fn from_bytes([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// Its three bytes on the wire.
    pub fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The clear part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The sending thread's lane, below `LANES`.
    pub lane: u8,
    /// Whose record it is.
    pub receiver: ReceiverIndex,
    /// Which of the session's keys.
    pub epoch: u16,
    /// Below 2^48.
    pub counter: u64,
}

impl Header {
    /// Reads the header of a datagram whose first byte is 0x80..=0xBF; the tag must fit behind it.
    pub fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        if datagram.len() < OVERHEAD {
            return Err(DropReason::Short);
        }
        let &[first, r0, r1, r2, e0, e1, c0, c1, c2, c3, c4, c5, ..] = datagram else {
            return Err(DropReason::Short);
        };
        let lane = first & 0x3F;
        if first >> 6 != 0b10 || lane >= LANES {
            return Err(DropReason::UnknownLane);
        }
        Ok(Self {
            lane,
            receiver: ReceiverIndex::from_bytes([r0, r1, r2]),
            epoch: u16::from_be_bytes([e0, e1]),
            counter: u64::from_be_bytes([0, 0, c0, c1, c2, c3, c4, c5]),
        })
    }

    /// The header's bytes. `counter` must be below 2^48 and `lane` below `LANES`.
    pub fn encode(&self) -> [u8; HEADER] {
        debug_assert!(self.lane < LANES && self.counter < 1 << 48);
        let [r0, r1, r2] = self.receiver.to_bytes();
        let [e0, e1] = self.epoch.to_be_bytes();
        let [_, _, c0, c1, c2, c3, c4, c5] = self.counter.to_be_bytes();
        [0x80 | self.lane, r0, r1, r2, e0, e1, c0, c1, c2, c3, c4, c5]
    }

    fn nonce(&self, iv: &[u8; NONCE_LEN]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..2].copy_from_slice(&self.epoch.to_be_bytes());
        nonce[2] = self.lane;
        nonce[6..].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        for (byte, iv) in nonce.iter_mut().zip(iv) {
            *byte ^= iv;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Why a datagram that looked like a record was dropped; each is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum DropReason {
    /// No room for header and tag.
    #[error("the record is shorter than {OVERHEAD} bytes")]
    Short,
    /// No key for that epoch: erased already, or far ahead.
    #[error("the record is of an epoch without a key")]
    UnknownEpoch,
    /// Counted already, or too late.
    #[error("the record was received before, or came more than a window late")]
    Replay,
    /// Its tag is wrong.
    #[error("the record was not sealed by the peer")]
    Forged,
    /// A lane that no version of ours sends on.
    #[error("the record names a lane that does not exist")]
    UnknownLane,
    /// A counter that no honest sender reaches.
    #[error("the record's counter is beyond what a key may seal")]
    Exhausted,
}

/// Why a record was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The key has sealed all that it may; the session must move to its next epoch.
    #[error("this epoch's key has sealed all that it may: the session must move to its next epoch")]
    Key,
    /// Another `Lane` value of the same id has sealed with this key.
    #[error("lane {0} of this epoch belongs to another sender: give every sender its own lane")]
    LaneTaken(u8),
    /// The buffer has no room for header and tag.
    #[error("the buffer has no room for header and tag")]
    Buffer,
}

/// The AEADs that records may use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cipher {
    /// Several times the faster where the CPU has AES instructions.
    Aes256Gcm,
    /// Fast everywhere, and in constant time without AES instructions.
    ChaCha20Poly1305,
}

impl Cipher {
    /// What this node likes best first; both are always supported.
    pub fn preferred(cpu_has_aes: bool) -> [Cipher; 2] {
        if cpu_has_aes {
            [Self::Aes256Gcm, Self::ChaCha20Poly1305]
        } else {
            [Self::ChaCha20Poly1305, Self::Aes256Gcm]
        }
    }

    /// Its number in a Hello.
    pub fn code(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The cipher of a number in a Hello.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    fn key(self, bytes: &[u8; 32]) -> LessSafeKey {
        let algorithm = match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("both ciphers take 32 bytes"))
    }
}

/// Key and IV of one direction in one epoch; erased when dropped.
pub(crate) struct KeyMaterial {
    cipher: Cipher,
    key: [u8; 32],
    iv: [u8; NONCE_LEN],
}

impl KeyMaterial {
    /// Key, then IV.
    pub(crate) fn new(cipher: Cipher, bytes: &[u8; 32 + NONCE_LEN]) -> Self {
        let mut material = Self {
            cipher,
            key: [0; 32],
            iv: [0; NONCE_LEN],
        };
        material.key.copy_from_slice(&bytes[..32]);
        material.iv.copy_from_slice(&bytes[32..]);
        material
    }
}

impl Drop for KeyMaterial {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

/// A sending thread's place in the nonce space: one `Lane` value for each thread and link.
///
/// It can be neither copied nor cloned. It binds itself to a key at its first record under it; a second `Lane` of
/// the same id finds the place taken, so two counters can never run side by side.
pub struct Lane {
    id: u8,
    /// Serial of the key that `counter` counts for; 0 before the first record.
    bound: u64,
    counter: u64,
    frames_left: u32,
    blocks_left: u32,
}

impl Lane {
    /// Lane `id`, which must be below `LANES`; lane 0 is the engine's.
    pub fn new(id: u8) -> Option<Self> {
        (id < LANES).then_some(Self {
            id,
            bound: 0,
            counter: 0,
            frames_left: 0,
            blocks_left: 0,
        })
    }

    /// Its number on the wire.
    pub fn id(&self) -> u8 {
        self.id
    }
}

/// Seals records in one direction and epoch; shared by all sending threads.
pub struct SealKey {
    serial: u64,
    epoch: u16,
    receiver: ReceiverIndex,
    iv: [u8; NONCE_LEN],
    key: LessSafeKey,
    /// A bit for each lane that a `Lane` value has bound itself to.
    lanes_taken: AtomicU64,
    chunks_taken: AtomicU32,
}

impl Drop for SealKey {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl SealKey {
    pub(crate) fn new(material: &KeyMaterial, receiver: ReceiverIndex, epoch: u16) -> Self {
        /// Tells keys apart for lanes; not visible outside.
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            epoch,
            receiver,
            iv: material.iv,
            key: material.cipher.key(&material.key),
            lanes_taken: AtomicU64::new(0),
            chunks_taken: AtomicU32::new(0),
        }
    }

    /// The epoch that this key seals.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// Whether anything was sealed with it.
    pub fn is_used(&self) -> bool {
        self.lanes_taken.load(Ordering::Relaxed) != 0
    }

    /// Whether it has sealed so much that the session should move on now: look once a batch, then tell the engine.
    pub fn is_worn(&self) -> bool {
        self.chunks_taken.load(Ordering::Relaxed) >= SOFT_CHUNKS
    }

    /// As if it had sealed half of what it may.
    #[cfg(test)]
    pub(crate) fn wear_out(&self) {
        self.chunks_taken.store(SOFT_CHUNKS, Ordering::Relaxed);
    }

    /// As if it had sealed all that it may.
    #[cfg(test)]
    pub(crate) fn use_up(&self) {
        self.chunks_taken.store(HARD_CHUNKS, Ordering::Relaxed);
    }

    /// Seals in place: `buffer` is room for the header, then the payload, then room for the tag.
    pub fn seal(&self, lane: &mut Lane, buffer: &mut [u8]) -> Result<(), SealError> {
        let Some(payload_len) = buffer.len().checked_sub(OVERHEAD) else {
            return Err(SealError::Buffer);
        };
        let header = self.next_header(lane, payload_len)?;
        let (head, rest) = buffer.split_at_mut(HEADER);
        let (payload, tag) = rest.split_at_mut(payload_len);
        let bytes = header.encode();
        head.copy_from_slice(&bytes);
        let sealed = self
            .key
            .seal_in_place_separate_tag(header.nonce(&self.iv), Aad::from(bytes), payload)
            .map_err(|_| SealError::Buffer)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// Takes the lane's next counter; it is spent even if sealing then fails.
    fn next_header(&self, lane: &mut Lane, payload_len: usize) -> Result<Header, SealError> {
        if lane.bound != self.serial {
            self.bind(lane)?;
        }
        // One block more for the GCM length block and one for a partial one.
        let blocks = u32::try_from(payload_len / 16 + 2)
            .ok()
            .filter(|blocks| *blocks <= CHUNK_BLOCKS)
            .ok_or(SealError::Buffer)?;
        if lane.frames_left == 0 || lane.blocks_left < blocks {
            self.grant(lane)?;
        }
        lane.frames_left -= 1;
        lane.blocks_left -= blocks;
        let counter = lane.counter;
        lane.counter += 1;
        Ok(Header {
            lane: lane.id,
            receiver: self.receiver,
            epoch: self.epoch,
            counter,
        })
    }

    #[cold]
    fn bind(&self, lane: &mut Lane) -> Result<(), SealError> {
        let bit = 1u64 << lane.id;
        if self.lanes_taken.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(SealError::LaneTaken(lane.id));
        }
        lane.bound = self.serial;
        lane.counter = 0;
        lane.frames_left = 0;
        lane.blocks_left = 0;
        Ok(())
    }

    #[cold]
    fn grant(&self, lane: &mut Lane) -> Result<(), SealError> {
        self.chunks_taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < HARD_CHUNKS).then_some(taken + 1)
            })
            .map_err(|_| SealError::Key)?;
        lane.frames_left = CHUNK_FRAMES;
        lane.blocks_left = CHUNK_BLOCKS;
        Ok(())
    }
}

/// The key of one receiving epoch with its replay windows.
pub(crate) struct OpenEpoch {
    epoch: u16,
    iv: [u8; NONCE_LEN],
    key: LessSafeKey,
    heard: AtomicBool,
    windows: [OnceLock<Box<Window>>; LANES as usize],
}

impl Drop for OpenEpoch {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl OpenEpoch {
    pub(crate) fn new(material: &KeyMaterial, epoch: u16) -> Self {
        Self {
            epoch,
            iv: material.iv,
            key: material.cipher.key(&material.key),
            heard: AtomicBool::new(false),
            // Two kilobytes each, so they are made when a lane's first record of the epoch has proved itself:
            // most sessions rest, and three epochs of each are held ahead.
            windows: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Whether a record of this epoch was ever opened.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }
}

/// The receiving keys of a session at one moment: the epoch before, the current one, the next two.
pub struct OpenKeys {
    epochs: Vec<Option<Arc<OpenEpoch>>>,
    /// Something was opened with this snapshot.
    alive: AtomicBool,
}

/// An opened record.
#[derive(PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    /// The lane it came on.
    pub lane: u8,
    /// The epoch it was sealed in.
    pub epoch: u16,
    /// Its number in its lane.
    pub counter: u64,
    /// True for the first record of its epoch: the engine must be told (`Session::on_opened`).
    pub first_of_epoch: bool,
    /// What was sealed.
    pub payload: &'a mut [u8],
}

impl OpenKeys {
    pub(crate) fn new(epochs: Vec<Option<Arc<OpenEpoch>>>) -> Self {
        Self {
            epochs,
            alive: AtomicBool::new(false),
        }
    }

    /// In rising order, with gaps.
    pub(crate) fn epochs(&self) -> &[Option<Arc<OpenEpoch>>] {
        &self.epochs
    }

    /// Whether anything was opened since the last call.
    pub(crate) fn take_sign_of_life(&self) -> bool {
        self.alive.swap(false, Ordering::Relaxed)
    }

    /// Opens a record in place. On `Forged` the whole buffer is wiped; on any error nothing else changed.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<Opened<'a>, DropReason> {
        let header = Header::parse(datagram)?;
        let keys = self.epoch(header.epoch).ok_or(DropReason::UnknownEpoch)?;
        if header.counter >= MAX_COUNTER {
            return Err(DropReason::Exhausted);
        }
        let window = &keys.windows[usize::from(header.lane)];
        if window.get().is_some_and(|w| !w.may_accept(header.counter)) {
            return Err(DropReason::Replay);
        }
        keys.decrypt(&header, datagram)?;
        if !window.get_or_init(Box::default).mark(header.counter) {
            datagram.fill(0);
            return Err(DropReason::Replay);
        }
        if !self.alive.load(Ordering::Relaxed) {
            self.alive.store(true, Ordering::Relaxed);
        }
        let first_of_epoch = !keys.is_heard() && !keys.heard.swap(true, Ordering::Relaxed);
        let end = datagram.len() - TAG;
        Ok(Opened {
            lane: header.lane,
            epoch: header.epoch,
            counter: header.counter,
            first_of_epoch,
            payload: &mut datagram[HEADER..end],
        })
    }

    fn epoch(&self, epoch: u16) -> Option<&OpenEpoch> {
        self.epochs
            .iter()
            .flatten()
            .map(|keys| &**keys)
            .find(|keys| keys.epoch == epoch)
    }
}

/// No honest lane counts further: a key's whole allowance in one lane.
const MAX_COUNTER: u64 = HARD_CHUNKS as u64 * CHUNK_FRAMES as u64;

impl OpenEpoch {
    fn decrypt(&self, header: &Header, datagram: &mut [u8]) -> Result<(), DropReason> {
        let (head, sealed) = datagram.split_at_mut(HEADER);
        let opened = self
            .key
            .open_in_place(header.nonce(&self.iv), Aad::from(&*head), sealed)
            .is_ok();
        if opened {
            Ok(())
        } else {
            datagram.fill(0);
            Err(DropReason::Forged)
        }
    }
}

#[cfg(test)]
mod tests;
