//! Out, with offload: frames as the NIC joined them are cut and sealed side by side; short ones share a record.
//!
//! A record costs both ends the same whether it carries 64 bytes or 1,000, and so does a datagram in every queue on the way.
//! Frames that a NIC hands over in one turn and that go into one link therefore lie one behind the other in one record, as
//! long as it stays short enough for any path (`limits::FRAME_SURE`). None waits for another: what is there leaves.
//!
//! Promises: frames leave in the order in which they came, at most `limits::RECORD_FRAMES` in a record; no allocation.
//! Refuses to know: sockets.

use api::NetworkId;

use super::slice::{Shape, Slices};
use super::trains::Trains;
use super::transit::{Hull, begin_record};
use super::{CHANNEL, FastLink, FastPath, Lanes, LinkSlot, NetTable, Snapshot, way_out};
use crate::forward::DropReason;
use crate::frame::must_pass;
use crate::limits;
use crate::record::{HEADER, OVERHEAD, TAG};
use crate::transit::HEAD;

/// What became of a frame of a NIC with offload.
#[derive(Debug, PartialEq, Eq)]
pub enum Departed {
    /// All its pieces are on their way; to be told to the engine if traffic began.
    Sealed(Option<LinkSlot>),
    /// `Node::handle_frame` knows what to do with each of its pieces.
    ToEngine,
    /// The same, and the first piece is enough: they are too large for the path.
    FirstToEngine,
    /// Counted.
    Dropped(DropReason),
}

/// Seals one frame of a network's NIC, cut as its shape says, into `trains`. Calls `send`, which must clear them, whenever
/// they are full.
pub fn depart(
    snapshot: &Snapshot,
    lanes: &mut Lanes,
    network: NetworkId,
    (shape, frame): (&Shape, &[u8]),
    trains: &mut Trains,
    send: impl FnMut(&mut Trains),
) -> Departed {
    Departure::new(snapshot, lanes, network, trains, send).take(shape, frame)
}

/// The frames that leave a network's NIC together. The last record is sealed when this ends.
pub struct Departure<'a, S: FnMut(&mut Trains)> {
    snapshot: &'a Snapshot,
    lanes: &'a mut Lanes,
    net: Option<&'a NetTable>,
    trains: &'a mut Trains,
    send: S,
    open: Option<Record<'a>>,
}

/// A record that is being filled, where it will lie in the trains.
#[derive(Clone, Copy)]
struct Record<'a> {
    way: Out<'a>,
    frames: usize,
    bytes: usize,
}

impl<'a, S: FnMut(&mut Trains)> Departure<'a, S> {
    /// Calls `send`, which must clear the trains, whenever they are full.
    pub fn new(
        snapshot: &'a Snapshot,
        lanes: &'a mut Lanes,
        network: NetworkId,
        trains: &'a mut Trains,
        send: S,
    ) -> Self {
        Self {
            snapshot,
            lanes,
            net: snapshot.network(network).map(|net| &**net),
            trains,
            send,
            open: None,
        }
    }

    /// Takes a frame, to be cut as its shape says.
    pub fn take(&mut self, shape: &Shape, frame: &[u8]) -> Departed {
        let Some(net) = self.net else {
            return Departed::ToEngine;
        };
        let dropped = |reason| {
            net.drops.count(reason);
            Departed::Dropped(reason)
        };
        let slot = match way_out(net, frame) {
            Ok(Some(slot)) => slot,
            Ok(None) => return Departed::ToEngine,
            Err(reason) => return dropped(reason),
        };
        let Ok(mut slices) = Slices::new(shape, frame) else {
            return dropped(DropReason::Malformed);
        };
        // On lane 0 a kind would stand before the frame.
        if self.lanes.id == 0 {
            return Departed::ToEngine;
        }
        match Out::of(self.snapshot, slot, frame, slices.largest()) {
            Ok(way) => self.fill(way, &mut slices),
            Err(departed) => departed,
        }
    }

    /// Bytes that wait in the trains.
    pub fn bytes(&self) -> usize {
        self.trains.bytes()
    }

    /// Sends what waits.
    pub fn send(&mut self) {
        self.close();
        (self.send)(self.trains);
    }

    fn fill(&mut self, way: Out<'a>, slices: &mut Slices<'_>) -> Departed {
        let (mut frames, mut bytes) = (0, 0);
        while let Some(length) = slices.next_len() {
            let Some(room) = self.room(way, length) else {
                let left = (slices.count() - frames) as u64;
                way.link.shared.drops.add(DropReason::Exhausted, left);
                return Departed::Dropped(DropReason::Exhausted);
            };
            slices.write(room);
            frames += 1;
            bytes += length;
        }
        // One link is told of at a time; the other one at its next frame.
        if way.link.shared.on_sent(frames, bytes, slices.largest()) {
            return Departed::Sealed(Some(way.slot));
        }
        Departed::Sealed(way.hull.and_then(|hull| hull.wakes()))
    }

    /// The room of a frame: behind those that are in the open record, or in one of its own. None if the one before it
    /// cannot be sealed: neither can this.
    fn room(&mut self, way: Out<'a>, length: usize) -> Option<&mut [u8]> {
        if !self.open.is_some_and(|open| open.takes(&way, length)) {
            self.close().then_some(())?;
            // Where one begins, there is room for all that it may take.
            if !self.trains.has_room(way.record(length.max(way.shared_max()))) {
                (self.send)(self.trains);
            }
        }
        let open = self.open.get_or_insert(Record {
            way,
            frames: 0,
            bytes: 0,
        });
        let start = way.head() + open.bytes;
        open.frames += 1;
        open.bytes += length;
        let record = self.trains.room(way.record(open.bytes))?;
        record.get_mut(start..start + length)
    }

    /// Seals the record that is open; `false` if its key may seal no more.
    fn close(&mut self) -> bool {
        let Some(Record { way, frames, bytes }) = self.open.take() else {
            return true;
        };
        let record = way.record(bytes);
        let is_sealed = self.trains.room(record).is_some_and(|room| way.seal(self.lanes, room));
        if is_sealed {
            self.trains.take(way.path(), record);
            way.hull.inspect(|hull| hull.count(1));
        } else {
            way.link.shared.drops.add(DropReason::Exhausted, frames as u64);
        }
        is_sealed
    }
}

impl<S: FnMut(&mut Trains)> Drop for Departure<'_, S> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Record<'_> {
    fn takes(&self, way: &Out<'_>, length: usize) -> bool {
        self.way.slot == way.slot && self.bytes + length <= way.shared_max()
    }
}

/// How a frame leaves.
#[derive(Clone, Copy)]
struct Out<'a> {
    slot: LinkSlot,
    link: &'a FastLink,
    hull: Option<Hull<'a>>,
}

impl<'a> Out<'a> {
    /// What becomes of a frame whose longest piece has `longest` bytes, if it cannot leave by a worker.
    fn of(snapshot: &'a Snapshot, slot: LinkSlot, frame: &[u8], longest: usize) -> Result<Self, Departed> {
        let Some(link) = snapshot.link(slot).filter(|link| link.path != FastPath::Engine) else {
            return Err(Departed::ToEngine);
        };
        if longest > link.frame_max {
            let all = link.cuts || must_pass(frame, longest);
            return Err(if all {
                Departed::ToEngine
            } else {
                Departed::FirstToEngine
            });
        }
        let hull = match link.path {
            FastPath::Member(inside) => {
                let hull = Hull::of(snapshot, inside).filter(|hull| hull.carries(longest));
                Some(hull.ok_or(Departed::ToEngine)?)
            }
            _ => None,
        };
        Ok(Self { slot, link, hull })
    }

    /// Where the datagram goes.
    fn path(&self) -> FastPath {
        self.hull.map_or(self.link.path, |hull| hull.path())
    }

    /// How long frames that share a record may be together.
    fn shared_max(&self) -> usize {
        let most = self.link.frame_max.min(limits::FRAME_SURE);
        match self.hull {
            Some(hull) if !hull.carries(most) => 0,
            _ => most,
        }
    }

    /// Bytes before the frames.
    fn head(&self) -> usize {
        let inside = self.hull.map_or(0, |_| HEAD + HEADER);
        channel_head(self.path()) + HEADER + inside
    }

    /// Bytes of the whole datagram with so many of frames.
    fn record(&self, bytes: usize) -> usize {
        bytes + OVERHEAD + self.hull.map_or(channel_head(self.link.path), |hull| hull.overhead())
    }

    /// Seals the frames that lie in the room of a datagram.
    fn seal(&self, lanes: &mut Lanes, room: &mut [u8]) -> bool {
        match self.hull {
            Some(hull) => hull.seal(self.link, lanes, self.slot, room),
            None => {
                let record = begin_record(self.link.path, room);
                self.link.sealer.seal(lanes.lane(self.slot), record).is_ok()
            }
        }
    }
}

/// Bytes that a datagram has beside the payload, on a worker's lane.
pub(super) fn overhead(path: FastPath) -> usize {
    channel_head(path) + HEADER + TAG
}

fn channel_head(path: FastPath) -> usize {
    match path {
        FastPath::Channel { .. } => CHANNEL,
        FastPath::Direct { .. } | FastPath::Member(_) | FastPath::Engine => 0,
    }
}

#[cfg(test)]
mod tests;
