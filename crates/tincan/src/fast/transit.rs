//! Records inside the link with a member: wrapped by their sender, passed on by the member, unwrapped by their receiver.
//!
//! Promises: as for the way of any frame: no allocation, lock or log; nothing is wrapped twice; who sealed a payload is
//! who it is passed on for.
//! Refuses to know: how ways are found (`node::members`); what is no record on a worker's lane is left to the engine.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::arrive::{CameBy, open_at};
use super::depart::overhead;
use super::trains::Trains;
use super::{CHANNEL, FastLink, FastPath, FastReceiver, Inbound, Lanes, LinkShared, LinkSlot, NetTable, Snapshot};
use crate::forward::DropReason;
use crate::record::{HEADER, OVERHEAD, TAG};
use crate::transit::{HEAD, PeerNumber, ShortId, Transit, Way, arrived, onward};

/// A way through a member, as senders see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The link with the member.
    pub outer: LinkSlot,
    /// Whom it passes on to.
    pub to: ShortId,
    /// Which way that is.
    pub way: Way,
}

/// What a peer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// In transit.
    pub short: ShortId,
    /// On this node.
    pub number: PeerNumber,
}

/// A peer of a network, for transit.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// What it is called.
    pub name: Name,
    /// Its link, where it is up.
    pub slot: Option<LinkSlot>,
}

/// Who is to get a payload, and from whom it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// The link that it goes into.
    pub to: LinkSlot,
    /// Who sealed it for us.
    pub from: ShortId,
}

impl NetTable {
    fn neighbour(&self, short: ShortId) -> Option<&Neighbour> {
        let at = self.neighbours.binary_search_by(|n| n.name.short.cmp(&short)).ok()?;
        self.neighbours.get(at)
    }
}

/// The link around the records of another.
#[derive(Clone, Copy)]
pub(super) struct Hull<'a> {
    link: &'a FastLink,
    slot: LinkSlot,
    to: ShortId,
}

impl<'a> Hull<'a> {
    /// None where only the engine can send there.
    pub(super) fn of(snapshot: &'a Snapshot, inside: Inside) -> Option<Self> {
        let link = snapshot.link(inside.outer)?;
        let is_ours = matches!(link.path, FastPath::Direct { .. } | FastPath::Channel { .. });
        is_ours.then_some(Self {
            link,
            slot: inside.outer,
            to: inside.to,
        })
    }

    /// Where the whole goes.
    pub(super) fn path(&self) -> FastPath {
        self.link.path
    }

    /// Whether it carries the record of a frame of this length.
    pub(super) fn carries(&self, frame: usize) -> bool {
        HEAD + OVERHEAD + frame <= self.link.payload_max
    }

    /// What it adds to a record.
    pub(super) fn overhead(&self) -> usize {
        HEAD + overhead(self.link.path)
    }

    /// So many records left inside.
    pub(super) fn count(&self, records: usize) {
        self.link.shared.on_carried(records);
    }

    /// Its slot, if the engine is to be told that its traffic began.
    pub(super) fn wakes(&self) -> Option<LinkSlot> {
        self.link.shared.wants_waking().then_some(self.slot)
    }

    /// Seals the frames that lie in the room of a datagram for their receiver, and that for the member.
    pub(super) fn seal(&self, link: &FastLink, lanes: &mut Lanes, slot: LinkSlot, room: &mut [u8]) -> bool {
        let record = begin_record(self.link.path, room);
        let end = record.len() - TAG;
        let (head, inner) = record[HEADER..end].split_at_mut(HEAD);
        head.copy_from_slice(&onward(self.to));
        link.sealer.seal(lanes.lane(slot), inner).is_ok()
            && self.link.sealer.seal(lanes.lane(self.slot), record).is_ok()
    }
}

/// Writes what stands before a record on its path; gives the room of the record.
pub(super) fn begin_record(path: FastPath, room: &mut [u8]) -> &mut [u8] {
    let FastPath::Channel { channel, .. } = path else {
        return room;
    };
    let (head, record) = room.split_at_mut(CHANNEL);
    let length = u16::try_from(record.len()).unwrap_or(u16::MAX);
    head[..2].copy_from_slice(&channel.to_be_bytes());
    head[2..].copy_from_slice(&length.to_be_bytes());
    record
}

/// What becomes of a transit payload that a peer sealed for us on a worker's lane.
pub(super) fn arrive(
    snapshot: &Snapshot,
    receiver: &FastReceiver,
    datagram: &mut [u8],
    payload: Range<usize>,
) -> Result<Inbound, DropReason> {
    let net = &receiver.net;
    let for_engine = Inbound::Inside {
        receiver: receiver.index,
        payload: payload.clone(),
        tell: None,
    };
    match Transit::parse(&datagram[payload.clone()]) {
        Err(_) => Err(DropReason::TransitForm),
        Ok(Transit::Onward { hops: 0, .. }) => Err(DropReason::TransitHops),
        Ok(Transit::Onward { to, .. }) => {
            let to = net.neighbour(to).filter(|to| to.name != receiver.sender);
            let slot = to.and_then(|to| to.slot).ok_or(DropReason::TransitLink)?;
            let link = snapshot.link(slot).ok_or(DropReason::TransitLink)?;
            match link.path {
                FastPath::Member(_) => Err(DropReason::TransitLink),
                FastPath::Engine => Ok(for_engine),
                _ if payload.len() > link.payload_max => Err(DropReason::TooBig),
                _ => Ok(Inbound::PassOn {
                    receiver: receiver.index,
                    passing: Passing {
                        to: slot,
                        from: receiver.sender.short,
                    },
                    payload,
                    tell: None,
                }),
            }
        }
        Ok(Transit::Arrived { from, .. }) => {
            let from = net.neighbour(from).ok_or(DropReason::TransitLink)?;
            let way = Way {
                member: receiver.sender.number,
                peer: from.name.number,
            };
            let inner = payload.start + HEAD..payload.end;
            Ok(match open_at(snapshot, CameBy::Way(way), datagram, inner) {
                Inbound::ToEngine => for_engine,
                opened => opened,
            })
        }
    }
}

/// Seals what is to be passed on into the link of its receiver, in `trains`; calls `send`, which must clear them, when
/// they are full. Gives the link whose traffic began, if it did: to be told to the engine.
pub fn pass_on(
    snapshot: &Snapshot,
    lanes: &mut Lanes,
    passing: Passing,
    payload: &[u8],
    trains: &mut Trains,
    send: impl FnOnce(&mut Trains),
) -> Option<LinkSlot> {
    let link = snapshot.link(passing.to)?;
    let bytes = payload.len() + overhead(link.path);
    if !trains.has_room(bytes) {
        send(trains);
    }
    let room = trains.room(bytes)?;
    let record = begin_record(link.path, room);
    let end = record.len() - TAG;
    // The head is written anew: it says now where this comes from.
    let (head, inner) = record[HEADER..end].split_at_mut(HEAD);
    head.copy_from_slice(&arrived(passing.from));
    inner.copy_from_slice(payload.get(HEAD..)?);
    if link.sealer.seal(lanes.lane(passing.to), record).is_err() {
        link.shared.drops.count(DropReason::Exhausted);
        return None;
    }
    trains.take(link.path, bytes);
    link.shared.on_passed_on(1, payload.len() - HEAD);
    link.shared.on_carried(1);
    link.shared.wants_waking().then_some(passing.to)
}

impl LinkShared {
    /// Datagrams of other links left inside this one.
    pub(crate) fn on_carried(&self, datagrams: usize) {
        self.carried.fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// Some of them were others'.
    pub(crate) fn on_passed_on(&self, datagrams: usize, bytes: usize) {
        self.relayed_frames.fetch_add(datagrams as u64, Ordering::Relaxed);
        self.relayed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests;
