//! Out: frames that a NIC hands over are cut, sealed side by side, and sent.

use api::NetworkId;
use os::{Nic, VNET_HEADER, VnetHeader};
use tincan::fast::slice::Shape;
use tincan::fast::trains::Trains;
use tincan::fast::transit::{self, Passing};
use tincan::fast::{self, Departed, Lanes, Snapshot};

use super::pace::Turn;
use super::vnet::shape;
use super::{Shared, Wake};

/// The largest frame that a NIC can hand over: IPv6 header and what its length field can say.
const FRAME_BYTES_MAX: usize = 40 + 65_535;
/// Records that wait: at least what the largest frame becomes when it is cut for a usual MTU.
const TRAINS_BYTES: usize = 128 << 10;
/// Records are sent when so many bytes wait, though the NIC may have more: no send takes many more.
const SEND_AT: usize = 56 << 10;
/// Frames and bytes that one queue may give before it is the next one's turn.
const TURN_FRAMES: usize = 64;
const TURN_BYTES: usize = SEND_AT;

/// The way out of one worker.
pub(super) struct Departing {
    frame: Vec<u8>,
    trains: Trains,
}

impl Departing {
    pub(super) fn new(shared: &Shared) -> Self {
        let mut trains = Trains::new(TRAINS_BYTES);
        trains.set_records_max(shared.records_max());
        Self {
            frame: vec![0; VNET_HEADER + FRAME_BYTES_MAX],
            trains,
        }
    }

    /// Seals what a NIC has, as much as one turn gives; it may wait to be sent.
    pub(super) fn take_turn(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        lanes: &mut Lanes,
        (network, nic): (NetworkId, &Nic),
    ) -> std::io::Result<Turn> {
        let mut bytes = 0;
        for _ in 0..TURN_FRAMES {
            let Some(read) = nic.try_recv(&mut self.frame)? else {
                return Ok(Turn::Some);
            };
            self.depart(shared, snapshot, lanes, (network, nic), read);
            bytes += read;
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(Turn::Full)
    }

    /// Seals what was read; sends when much waits.
    fn depart(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        lanes: &mut Lanes,
        (network, nic): (NetworkId, &Nic),
        read: usize,
    ) {
        let bytes = &self.frame[..read];
        let (shape, frame) = if nic.offload().header {
            match VnetHeader::parse(bytes) {
                Ok((header, frame)) => (shape(&header), frame),
                Err(error) => {
                    tracing::trace!(%error, "a frame is dropped");
                    return;
                }
            }
        } else {
            (Shape::default(), bytes)
        };
        let departed = fast::depart(snapshot, lanes, network, (&shape, frame), &mut self.trains, |trains| {
            shared.send(trains)
        });
        match departed {
            Departed::Sealed(Some(slot)) => shared.tell_engine(Wake::Traffic(slot)),
            Departed::Sealed(None) | Departed::Dropped(_) => {}
            Departed::FirstToEngine => shared.give_engine(network, &shape, frame, 1),
            Departed::ToEngine => shared.give_engine(network, &shape, frame, usize::MAX),
        }
        if self.trains.bytes() >= SEND_AT {
            self.send(shared);
        }
    }

    /// Seals what one peer sent another through us; sends when much waits.
    pub(super) fn pass_on(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        lanes: &mut Lanes,
        passing: Passing,
        payload: &[u8],
    ) {
        let trains = &mut self.trains;
        let began = transit::pass_on(snapshot, lanes, passing, payload, trains, |trains| shared.send(trains));
        if let Some(slot) = began {
            shared.tell_engine(Wake::Traffic(slot));
        }
        if self.trains.bytes() >= SEND_AT {
            self.send(shared);
        }
    }

    /// Sends what waits.
    pub(super) fn send(&mut self, shared: &Shared) {
        if self.trains.is_empty() {
            return;
        }
        shared.send(&mut self.trains);
        // What the device refused once it is not asked again.
        self.trains.set_records_max(shared.records_max());
    }
}

const _: () = assert!(TRAINS_BYTES > 2 * SEND_AT);
