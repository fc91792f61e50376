//! In: which session a record is of, whether it came as expected, what is in it.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{CHANNEL, FastPath, FastReceiver, Inbound, Snapshot, Tell, transit};
use crate::forward::{DropReason, is_group};
use crate::frame::Frame;
use crate::limits;
use crate::record::{HEADER, Header, TAG};
use crate::transit::{Way, is_transit};

/// How a record came.
#[derive(Clone, Copy)]
pub(super) enum CameBy {
    /// Straight, from there.
    Wire(SocketAddr),
    /// From a TURN server, in this channel.
    Channel(SocketAddr, u16),
    /// In the link with a member.
    Way(Way),
}

/// Opens a datagram that came from `remote` where it lies.
pub fn inbound(snapshot: &Snapshot, remote: SocketAddr, datagram: &mut [u8]) -> Inbound {
    match unwrap_channel(snapshot, remote, datagram) {
        Some((start, came_by)) => open_at(snapshot, came_by, datagram, start..datagram.len()),
        None => Inbound::ToEngine,
    }
}

/// Opens the record that lies there.
pub(super) fn open_at(snapshot: &Snapshot, came_by: CameBy, datagram: &mut [u8], at: Range<usize>) -> Inbound {
    let Ok(header) = Header::parse(&datagram[at.clone()]) else {
        return Inbound::ToEngine;
    };
    if header.lane == 0 {
        return Inbound::ToEngine;
    }
    let Some(receiver) = snapshot.receiver(header.receiver) else {
        snapshot.drops.count(DropReason::UnknownReceiver);
        return Inbound::Dropped(DropReason::UnknownReceiver, None);
    };
    if !is_expected(receiver.expected, came_by) {
        return Inbound::ToEngine;
    }
    let opened = match receiver.keys.open(&mut datagram[at.clone()]) {
        Ok(opened) => opened,
        Err(reason) => {
            receiver.shared.drops.count(reason.into());
            return Inbound::Dropped(reason.into(), None);
        }
    };
    receiver.shared.opened.fetch_add(1, Ordering::Relaxed);
    let (is_first, epoch) = (opened.first_of_epoch, opened.epoch);
    let tell = || {
        (receiver.shared.wants_waking() || is_first).then_some(Tell {
            receiver: header.receiver,
            epoch,
        })
    };
    let payload = at.start + HEADER..at.end - TAG;
    if is_transit(opened.payload) {
        return on_transit(snapshot, receiver, came_by, (datagram, payload), tell);
    }
    match accept(receiver, opened.payload) {
        Ok(bytes) => Inbound::Frames {
            network: receiver.net.network,
            range: payload.start..payload.start + bytes,
            tell: tell(),
        },
        Err(reason) => Inbound::Dropped(reason, tell()),
    }
}

fn on_transit(
    snapshot: &Snapshot,
    receiver: &FastReceiver,
    came_by: CameBy,
    (datagram, payload): (&mut [u8], Range<usize>),
    outer: impl FnOnce() -> Option<Tell>,
) -> Inbound {
    let arrived = match came_by {
        CameBy::Way(_) => Err(DropReason::TransitNested),
        CameBy::Wire(_) | CameBy::Channel(..) => transit::arrive(snapshot, receiver, datagram, payload),
    };
    let mut inbound = arrived.unwrap_or_else(|reason| {
        receiver.shared.drops.count(reason);
        Inbound::Dropped(reason, None)
    });
    match &mut inbound {
        Inbound::Frames { tell, .. }
        | Inbound::PassOn { tell, .. }
        | Inbound::Inside { tell, .. }
        | Inbound::Dropped(_, tell) => {
            // One link is told of at a time; the other one at its next record.
            if tell.is_none() {
                *tell = outer();
            }
        }
        Inbound::ToEngine => {}
    }
    inbound
}

/// Which of the frames that a session's sender sealed together may go to the NIC: the bytes from the first on, up to one that
/// may not, which is dropped with all behind it: no honest sender makes such a record, nor one of more than
/// `limits::RECORD_FRAMES`. Counts them either way.
pub fn accept(receiver: &FastReceiver, payload: &[u8]) -> Result<usize, DropReason> {
    let (mut frames, mut bytes) = (0, 0);
    let refused = loop {
        match judge(receiver, &payload[bytes..]) {
            Ok(length) => {
                frames += 1;
                bytes += length;
            }
            Err(reason) => break Some(reason),
        }
        if bytes == payload.len() {
            break None;
        }
        if frames == limits::RECORD_FRAMES {
            break Some(DropReason::Malformed);
        }
    };
    if let Some(reason) = refused {
        receiver.shared.drops.count(reason);
    }
    if let (0, Some(reason)) = (frames, refused) {
        return Err(reason);
    }
    receiver.shared.on_received(frames as u64, bytes);
    Ok(bytes)
}

/// The length of the first frame, if it may go to the NIC.
fn judge(receiver: &FastReceiver, payload: &[u8]) -> Result<usize, DropReason> {
    let (parsed, length) = Frame::parse_first(payload).map_err(|_| DropReason::Malformed)?;
    if !receiver.allowed.contains(&parsed.source) {
        return Err(DropReason::Source);
    }
    let net = &receiver.net;
    if !net.own.contains(&parsed.destination) && !is_group(parsed.destination, &net.subnets) {
        return Err(DropReason::Destination);
    }
    Ok(length)
}

/// Where the record begins, and how it came.
fn unwrap_channel(snapshot: &Snapshot, remote: SocketAddr, datagram: &[u8]) -> Option<(usize, CameBy)> {
    if snapshot.servers.binary_search(&remote).is_err() {
        return Some((0, CameBy::Wire(remote)));
    }
    let [c0, c1, l0, l1, inner @ ..] = datagram else {
        return None;
    };
    let channel = u16::from_be_bytes([*c0, *c1]);
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    // RFC 8656 section 12: channels are 0x4000 to 0x4FFF; over UDP there need be no padding, but may be.
    let is_channel = (0x4000..=0x4fff).contains(&channel);
    (is_channel && length == inner.len()).then_some((CHANNEL, CameBy::Channel(remote, channel)))
}

fn is_expected(expected: FastPath, came_by: CameBy) -> bool {
    match (expected, came_by) {
        (FastPath::Direct { remote, .. }, CameBy::Wire(from)) => remote == from,
        (FastPath::Channel { server, channel }, CameBy::Channel(from, by)) => (server, channel) == (from, by),
        (FastPath::Member(inside), CameBy::Way(way)) => inside.way == way,
        _ => false,
    }
}
