//! In: datagrams are opened where they lie, the frames in them joined, and given to the NICs. What others sent each other through us
//! is sealed on and leaves with what departs.

use std::net::SocketAddr;
use std::ops::Range;

use api::NetworkId;
use os::{Batch, Family, Nic};
use tincan::fast::merge::{FRAMES, Merger, Takes};
use tincan::fast::{self, Inbound, Lanes, Snapshot};
use tincan::frame::split;

use super::departing::Departing;
use super::pace::Turn;
use super::vnet::header;
use super::{NicQueues, Shared, Wake};

/// Frames are given to the NIC when so many bytes wait: none may become larger.
const MERGE_AT: usize = 64 << 10;
/// Receive buffers of 64 KiB each: what one system call may bring.
const RECEIVE_BUFFERS: usize = 8;

/// The way in of one worker.
pub(super) struct Arriving {
    worker: usize,
    batch: Batch,
    merger: Merger,
}

impl Arriving {
    pub(super) fn new(worker: usize) -> Self {
        Self {
            worker,
            batch: Batch::new(RECEIVE_BUFFERS),
            merger: Merger::default(),
        }
    }

    /// Takes what one system call brings; what is to be passed on may wait in `departing`.
    pub(super) fn take_turn(
        &mut self,
        shared: &Shared,
        (snapshot, nics): (&Snapshot, &[NicQueues]),
        (family, shard): (Family, usize),
        (departing, lanes): (&mut Departing, &mut Lanes),
    ) -> std::io::Result<Turn> {
        if !shared.sockets.try_recv(family, shard, &mut self.batch)? {
            return Ok(Turn::Some);
        }
        let mut round = Round {
            worker: self.worker,
            shared,
            snapshot,
            nics,
            merger: &mut self.merger,
            departing,
            lanes,
            frames: 0,
        };
        let mut bytes = 0;
        for number in 0.. {
            let Some(part) = self.batch.part(number) else { break };
            bytes += part.bytes.len();
            for start in part.bytes.clone().step_by(part.stride) {
                let end = part.bytes.end.min(start + part.stride);
                round.take(part.local, part.remote, self.batch.memory(), start..end);
            }
        }
        round.give_nics(self.batch.memory());
        Ok(Turn::of(bytes, round.frames))
    }
}

/// One batch of datagrams on its way to the NICs.
struct Round<'a> {
    worker: usize,
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    nics: &'a [NicQueues],
    merger: &'a mut Merger,
    departing: &'a mut Departing,
    lanes: &'a mut Lanes,
    /// How many were there so far, whoever they are for.
    frames: usize,
}

impl Round<'_> {
    fn take(&mut self, local: SocketAddr, remote: SocketAddr, memory: &mut [u8], datagram: Range<usize>) {
        let start = datagram.start;
        let tell = match fast::inbound(self.snapshot, remote, &mut memory[datagram.clone()]) {
            Inbound::Frames { network, range, tell } => {
                self.hold(memory, network, start + range.start..start + range.end);
                tell
            }
            Inbound::PassOn {
                passing, payload, tell, ..
            } => {
                let payload = &memory[start + payload.start..start + payload.end];
                self.frames += 1;
                self.departing
                    .pass_on(self.shared, self.snapshot, self.lanes, passing, payload);
                tell
            }
            Inbound::Inside {
                receiver,
                payload,
                tell,
            } => {
                let payload = memory[start + payload.start..start + payload.end].to_vec();
                self.shared.tell_engine(Wake::Inside(receiver, payload));
                tell
            }
            Inbound::ToEngine => {
                let bytes = memory[datagram].to_vec();
                self.shared.tell_engine(Wake::Udp { local, remote, bytes });
                None
            }
            Inbound::Dropped(_, tell) => tell,
        };
        if let Some(tell) = tell {
            self.shared.tell_engine(Wake::Opened(tell));
        }
    }

    fn hold(&mut self, memory: &mut [u8], network: NetworkId, frames: Range<usize>) {
        let Some(at) = self.nics.iter().position(|nic| nic.network == network) else {
            return;
        };
        let offload = self.nics[at].queues.first().map(Nic::offload).unwrap_or_default();
        let takes = Takes {
            tcp: offload.tcp,
            udp: offload.udp,
            unfinished: offload.header,
        };
        for frame in split(memory, frames) {
            self.frames += 1;
            self.merger.push(memory, frame, at as u32, takes);
        }
        if self.merger.bytes() >= MERGE_AT {
            self.give_nics(memory);
        }
    }

    fn give_nics(&mut self, memory: &mut [u8]) {
        self.merger.flush(memory, |joined, pieces| {
            if let Some(nic) = self
                .nics
                .get(joined.nic as usize)
                .and_then(|nic| nic.of_flow(self.worker, joined.flow()))
            {
                // A NIC that is down or full drops, as a wire does.
                let _ = nic.send_pieces(&header(joined), pieces);
            }
        });
    }
}

const _: () = assert!(FRAMES <= os::PIECES);
