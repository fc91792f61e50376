//! Out: frames that a NIC hands over are cut, sealed side by side, short ones together, and sent.

use api::NetworkId;
use os::{Nic, VNET_HEADER, VnetHeader};
use tincan::fast::slice::Shape;
use tincan::fast::trains::Trains;
use tincan::fast::transit::{self, Passing};
use tincan::fast::{Departed, Departure, Lanes, Snapshot};

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
        let mut departure = Departure::new(snapshot, lanes, network, &mut self.trains, |trains| {
            send(shared, trains)
        });
        let mut bytes = 0;
        for _ in 0..TURN_FRAMES {
            let Some(read) = nic.try_recv(&mut self.frame)? else {
                return Ok(Turn::Some);
            };
            if let Some((shape, frame)) = unwrap(nic, &self.frame[..read]) {
                let departed = departure.take(&shape, frame);
                tell(shared, network, departed, (&shape, frame));
            }
            if departure.bytes() >= SEND_AT {
                departure.send();
            }
            bytes += read;
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(Turn::Full)
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
        if !self.trains.is_empty() {
            send(shared, &mut self.trains);
        }
    }
}

fn send(shared: &Shared, trains: &mut Trains) {
    shared.send(trains);
    // What the device refused once it is not asked again.
    trains.set_records_max(shared.records_max());
}

/// What the NIC says of a frame, and the frame.
fn unwrap<'a>(nic: &Nic, bytes: &'a [u8]) -> Option<(Shape, &'a [u8])> {
    if !nic.offload().header {
        return Some((Shape::default(), bytes));
    }
    match VnetHeader::parse(bytes) {
        Ok((header, frame)) => Some((shape(&header), frame)),
        Err(error) => {
            tracing::trace!(%error, "a frame is dropped");
            None
        }
    }
}

/// Tells the engine what it must know of a frame.
fn tell(shared: &Shared, network: NetworkId, departed: Departed, (shape, frame): (&Shape, &[u8])) {
    match departed {
        Departed::Sealed(Some(slot)) => shared.tell_engine(Wake::Traffic(slot)),
        Departed::Sealed(None) | Departed::Dropped(_) => {}
        Departed::FirstToEngine => shared.give_engine(network, shape, frame, 1),
        Departed::ToEngine => shared.give_engine(network, shape, frame, usize::MAX),
    }
}

const _: () = assert!(TRAINS_BYTES > 2 * SEND_AT);
