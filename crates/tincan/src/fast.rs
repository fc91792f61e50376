//! The way of a frame: pure functions over an immutable snapshot, for the workers and the engine alike.
//!
//! Out: 1 the frame is parsed, 2 its source must be ours, 3 its destination names a link, 4 it must fit the path,
//! 5 it is sealed in place, 6 the shell sends it to the path's address. What has no link, is for a group or does not
//! fit goes to the engine. Short frames that leave together for one link share a record.
//! In: 1 the receiver index names a session, 2 the sender's address must be the one expected, 3 the record is opened
//! in place, 4 each frame inside must come from an address of its sender and be for us or for all, 5 the shell gives them
//! to the NIC. Control records, unexpected addresses, STUN and handshakes go to the engine.
//!
//! Promises: no allocation (but for a sender's first frame over more links than ever before), lock or log; a worker
//! never needs the engine's answer; what is refused is counted. Refuses to know: time (the engine samples the
//! counters), sockets, how snapshots come about.

mod arrive;
mod depart;
pub mod merge;
pub mod segment;
pub mod slice;
mod sum;
#[cfg(test)]
mod testing;
pub mod trains;
pub mod transit;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::{Cidr, NetworkId};

use crate::forward::{DropReason, Drops};
use crate::frame::Frame;
use crate::limits;
use crate::record::{HEADER, Lane, OpenKeys, ReceiverIndex, SealKey, TAG};

use self::transit::{Inside, Name, Neighbour, Passing};

pub use self::arrive::{accept, inbound};
pub use self::depart::{Departed, Departure, depart};

/// Bytes of TURN channel data before a record (RFC 8656 section 12.4).
pub(crate) const CHANNEL: usize = 4;
/// Room that `outbound` wants before the frame: channel data header, record header, kind (lane 0).
pub const HEADROOM: usize = CHANNEL + HEADER + 1;
/// Room that `outbound` wants behind the frame.
pub const TAILROOM: usize = TAG;
/// First payload byte of lane 0: a frame follows.
pub const KIND_FRAME: u8 = 0;

/// A link's place in the tables of senders; used again only when its link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkSlot(u16);

impl LinkSlot {
    /// The place, if it is below `limits::LINKS`.
    pub fn new(slot: usize) -> Option<Self> {
        let small = u16::try_from(slot).ok()?;
        (slot < limits::LINKS).then_some(Self(small))
    }

    /// Its number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// Everything that workers need, published anew whenever any of it changes.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// By network id.
    pub networks: Vec<Arc<NetTable>>,
    /// By slot.
    pub links: Vec<Option<FastLink>>,
    /// By receiver index.
    pub receivers: Vec<FastReceiver>,
    /// Addresses of TURN servers in use over UDP, sorted.
    pub servers: Vec<SocketAddr>,
    /// Datagrams dropped that belong to no link.
    pub drops: Arc<Drops>,
}

/// One network's tables.
pub struct NetTable {
    /// The network.
    pub network: NetworkId,
    /// Our addresses in it.
    pub own: Vec<IpAddr>,
    /// Its subnets.
    pub subnets: Vec<Cidr>,
    /// Inner destination to link, sorted; without an entry the engine decides.
    pub routes: Vec<(IpAddr, LinkSlot)>,
    /// All peers, by what they are called in transit.
    pub neighbours: Vec<Neighbour>,
    /// Frames dropped that belong to no link.
    pub drops: Arc<Drops>,
}

/// A link as senders see it.
#[derive(Clone)]
pub struct FastLink {
    /// The key of the current epoch.
    pub sealer: Arc<SealKey>,
    /// Where its datagrams go.
    pub path: FastPath,
    /// The largest inner frame that the path carries.
    pub frame_max: usize,
    /// The largest payload: what is in transit may be longer than the NIC's frames.
    pub payload_max: usize,
    /// The engine cuts larger frames, all of them, as it does not know yet what the path carries.
    pub cuts: bool,
    /// Counters.
    pub shared: Arc<LinkShared>,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// Straight out of the UDP socket of the remote's family.
    Direct {
        /// Our address, to be set as source.
        source: Option<IpAddr>,
        /// Theirs.
        remote: SocketAddr,
    },
    /// In channel data to a TURN server over UDP.
    Channel {
        /// The server.
        server: SocketAddr,
        /// The channel's number.
        channel: u16,
    },
    /// In the link with a member.
    Member(Inside),
    /// Only the engine can send there (TURN over a stream, no channel yet, no path at all).
    Engine,
}

/// A session as receivers see it.
#[derive(Clone)]
pub struct FastReceiver {
    /// What records for it bear.
    pub index: ReceiverIndex,
    /// The keys of its epochs.
    pub keys: Arc<OpenKeys>,
    /// Where its datagrams come from as long as nothing moves.
    pub expected: FastPath,
    /// The network its frames belong to.
    pub net: Arc<NetTable>,
    /// Inner addresses of the sender.
    pub allowed: Arc<[IpAddr]>,
    /// What the sender is called.
    pub sender: Name,
    /// Counters.
    pub shared: Arc<LinkShared>,
}

/// What the threads share about a link: counters, and whether the engine is watching.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct LinkShared {
    /// Inner frames sent, and their bytes.
    pub sent_frames: AtomicU64,
    /// See `sent_frames`.
    pub sent_bytes: AtomicU64,
    /// Inner frames received and accepted, and their bytes.
    pub received_frames: AtomicU64,
    /// See `received_frames`.
    pub received_bytes: AtomicU64,
    /// Datagrams of other links that left inside this one.
    pub carried: AtomicU64,
    /// Of these, datagrams that two other nodes sent each other, and their bytes.
    pub relayed_frames: AtomicU64,
    /// See `relayed_frames`.
    pub relayed_bytes: AtomicU64,
    /// Records opened on the expected path, frames refused included: signs of life.
    pub opened: AtomicU64,
    /// Frames that not every path carries were sent; cleared by the engine at each look.
    pub large: AtomicBool,
    /// The engine samples the counters; cleared by it when they rest.
    pub watched: AtomicBool,
    /// Frames and records dropped on this link.
    pub drops: Drops,
}

impl LinkShared {
    /// The longest of these frames had `longest` bytes. True: tell the engine that traffic began.
    pub(crate) fn on_sent(&self, frames: usize, bytes: usize, longest: usize) -> bool {
        if longest > limits::FRAME_SURE && !self.large.load(Ordering::Relaxed) {
            self.large.store(true, Ordering::Relaxed);
        }
        self.sent_frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.wants_waking()
    }

    fn on_received(&self, frames: u64, bytes: usize) {
        self.received_frames.fetch_add(frames, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// True for the one caller that finds the link unwatched.
    pub(crate) fn wants_waking(&self) -> bool {
        !self.watched.load(Ordering::Relaxed) && !self.watched.swap(true, Ordering::Relaxed)
    }
}

/// One sender's lanes, one for each link; a thread owns them for good.
pub struct Lanes {
    id: u8,
    lanes: Vec<Lane>,
}

impl Lanes {
    /// Lanes numbered `id`: 0 is the engine's, every worker has its own; none for an id that does not exist.
    pub fn new(id: u8) -> Option<Self> {
        let first = Lane::new(id)?;
        let lanes = vec![first];
        Some(Self { id, lanes })
    }

    /// The lane of a link.
    pub(crate) fn lane(&mut self, slot: LinkSlot) -> &mut Lane {
        if slot.get() >= self.lanes.len() {
            let ids = std::iter::repeat(self.id);
            let more = ids.filter_map(Lane::new).take(slot.get() + 1 - self.lanes.len());
            self.lanes.extend(more);
        }
        &mut self.lanes[slot.get()]
    }
}

/// What became of a frame from the NIC.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound {
    /// `buffer[range]` is a datagram for `path`.
    Sealed {
        /// Where it lies in the buffer.
        range: Range<usize>,
        /// Where it goes.
        path: FastPath,
        /// Its link.
        slot: LinkSlot,
        /// Tell the engine (`Node::handle_wake`): traffic began.
        wake: bool,
    },
    /// `Node::handle_frame` knows what to do with the frame.
    ToEngine,
    /// Counted.
    Dropped(DropReason),
}

/// What became of a datagram from the socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound {
    /// `datagram[range]` is one frame for the NIC of `network`, or several, one behind the other (`frame::split`).
    Frames {
        /// The network.
        network: NetworkId,
        /// Where they lie in the datagram.
        range: Range<usize>,
        /// Tell the engine (`Node::handle_opened`): traffic or an epoch began.
        tell: Option<Tell>,
    },
    /// `transit::pass_on` takes `datagram[payload]`.
    PassOn {
        /// The session that it came in.
        receiver: ReceiverIndex,
        /// To whom, from whom.
        passing: Passing,
        /// Where it lies in the datagram.
        payload: Range<usize>,
        /// As above.
        tell: Option<Tell>,
    },
    /// `Node::handle_inside` knows what to do with the transit payload `datagram[payload]`.
    Inside {
        /// The session that it came in.
        receiver: ReceiverIndex,
        /// Where it lies in the datagram.
        payload: Range<usize>,
        /// As above.
        tell: Option<Tell>,
    },
    /// `Node::handle_udp` knows what to do with the datagram, which is unchanged.
    ToEngine,
    /// Counted. There may still be something to tell.
    Dropped(DropReason, Option<Tell>),
}

/// What a worker tells the engine about a record it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tell {
    /// The session's index.
    pub receiver: ReceiverIndex,
    /// The record's epoch.
    pub epoch: u16,
}

impl Snapshot {
    /// The tables of a network.
    pub fn network(&self, network: NetworkId) -> Option<&Arc<NetTable>> {
        let at = self.networks.binary_search_by(|n| n.network.cmp(&network)).ok()?;
        self.networks.get(at)
    }

    /// The session that an index names.
    pub fn receiver(&self, index: ReceiverIndex) -> Option<&FastReceiver> {
        let at = self.receivers.binary_search_by(|r| r.index.cmp(&index)).ok()?;
        self.receivers.get(at)
    }

    fn link(&self, slot: LinkSlot) -> Option<&FastLink> {
        self.links.get(slot.get())?.as_ref()
    }
}

impl NetTable {
    /// The link of an inner destination.
    pub fn route(&self, destination: IpAddr) -> Option<LinkSlot> {
        let at = self.routes.binary_search_by(|(ip, _)| ip.cmp(&destination)).ok()?;
        self.routes.get(at).map(|(_, slot)| *slot)
    }
}

/// Seals the frame `buffer[HEADROOM..buffer.len() - TAILROOM]` of a network's NIC where it lies.
pub fn outbound(snapshot: &Snapshot, lanes: &mut Lanes, network: NetworkId, buffer: &mut [u8]) -> Outbound {
    let Some(net) = snapshot.network(network) else {
        return Outbound::ToEngine;
    };
    let frame_end = buffer.len().saturating_sub(TAILROOM);
    let Some(frame) = buffer.get(HEADROOM..frame_end) else {
        return dropped(&net.drops, DropReason::Malformed);
    };
    let slot = match way_out(net, frame) {
        Ok(Some(slot)) => slot,
        Ok(None) => return Outbound::ToEngine,
        Err(reason) => return dropped(&net.drops, reason),
    };
    let Some(link) = snapshot.link(slot) else {
        return Outbound::ToEngine;
    };
    // A worker puts what goes through a member into trains (`depart`).
    let engine_only = matches!(link.path, FastPath::Engine | FastPath::Member(_)) && lanes.id != 0;
    if engine_only || payload_len(lanes, frame) > link.frame_max {
        return Outbound::ToEngine;
    }
    seal(link, lanes, slot, buffer)
}

/// Bytes that a frame becomes before it is sealed: on lane 0 a kind stands before it.
fn payload_len(lanes: &Lanes, frame: &[u8]) -> usize {
    frame.len() + usize::from(lanes.id == 0)
}

/// Seals a frame for a link that is already known; room in `buffer` as for `outbound`.
pub fn seal(link: &FastLink, lanes: &mut Lanes, slot: LinkSlot, buffer: &mut [u8]) -> Outbound {
    let frame_bytes = buffer.len().saturating_sub(HEADROOM + TAILROOM);
    // Lane 0 carries other things than frames too, so there a kind goes before it.
    let start = if lanes.id == 0 {
        buffer[HEADROOM - 1] = KIND_FRAME;
        HEADROOM - 1 - HEADER
    } else {
        HEADROOM - HEADER
    };
    if link.sealer.seal(lanes.lane(slot), &mut buffer[start..]).is_err() {
        return dropped(&link.shared.drops, DropReason::Exhausted);
    }
    let range = match link.path {
        FastPath::Channel { channel, .. } => {
            let length = u16::try_from(buffer.len() - start).unwrap_or(u16::MAX);
            let head = start - CHANNEL;
            buffer[head..head + 2].copy_from_slice(&channel.to_be_bytes());
            buffer[head + 2..start].copy_from_slice(&length.to_be_bytes());
            head..buffer.len()
        }
        FastPath::Direct { .. } | FastPath::Member(_) | FastPath::Engine => start..buffer.len(),
    };
    let wake = link.shared.on_sent(1, frame_bytes, frame_bytes);
    Outbound::Sealed {
        range,
        path: link.path,
        slot,
        wake,
    }
}

/// The link of a frame's destination, where there is one.
fn way_out(net: &NetTable, frame: &[u8]) -> Result<Option<LinkSlot>, DropReason> {
    let parsed = Frame::parse(frame).map_err(|_| DropReason::Malformed)?;
    if !net.own.contains(&parsed.source) {
        return Err(DropReason::OwnSource);
    }
    Ok(net.route(parsed.destination))
}

fn dropped(drops: &Drops, reason: DropReason) -> Outbound {
    drops.count(reason);
    Outbound::Dropped(reason)
}

#[cfg(test)]
mod tests;
