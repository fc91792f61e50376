//! Frames from the NIC that the fast path leaves to the engine: without a link, for a group, too big.

use std::time::Instant;

use api::link::Event;
use api::{NetworkId, NodeId};

use super::signals::Between;
use super::{Node, Output};
use crate::fast::{self, FastPath, HEADROOM, LinkSlot, Outbound, TAILROOM};
use crate::forward::{DropReason, is_group};
use crate::frame::{self, Frame};
use crate::limits;

impl Node {
    /// A frame from a network's NIC.
    pub fn handle_frame(&mut self, now: Instant, network: NetworkId, frame: &[u8]) {
        if let Err(reason) = self.forward(now, network, frame)
            && let Some(net) = self.networks.get(&network)
        {
            net.drops.count(reason);
        }
        self.settle(now);
    }

    fn forward(&mut self, now: Instant, network: NetworkId, frame: &[u8]) -> Result<(), DropReason> {
        if frame.len() > limits::FRAME {
            return Err(DropReason::Malformed);
        }
        let mut buffer = with_room(frame);
        let snapshot = self.snapshot.clone();
        match fast::outbound(&snapshot, &mut self.lanes, network, &mut buffer) {
            Outbound::Sealed {
                range,
                path,
                slot,
                wake,
            } => {
                self.send_sealed(now, path, slot, buffer[range].to_vec());
                if wake {
                    self.on_wake(now, slot);
                }
                Ok(())
            }
            Outbound::Dropped(_) => Ok(()),
            Outbound::ToEngine => self.forward_slowly(now, network, frame),
        }
    }

    fn send_sealed(&mut self, now: Instant, path: FastPath, slot: LinkSlot, bytes: Vec<u8>) {
        match path {
            FastPath::Direct { source, remote } => self.out.push_back(Output::Udp { source, remote, bytes }),
            FastPath::Channel { server, .. } => self.out.push_back(Output::Udp {
                source: None,
                remote: server,
                bytes,
            }),
            FastPath::Member(_) | FastPath::Engine => {
                let id = self.slots.get(slot.get()).copied().flatten();
                let entry = id.and_then(|id| self.links.get(&id));
                if let Some(ends) = entry.and_then(|entry| entry.link.paths().current()) {
                    self.transmit(now, ends.local, ends.remote, bytes);
                }
            }
        }
    }

    fn forward_slowly(&mut self, now: Instant, network: NetworkId, bytes: &[u8]) -> Result<(), DropReason> {
        let parsed = Frame::parse(bytes).map_err(|_| DropReason::Malformed)?;
        let Some(net) = self.networks.get_mut(&network) else {
            return Err(DropReason::NoRoute);
        };
        if !net.own().contains(&parsed.source) {
            return Err(DropReason::OwnSource);
        }
        if is_group(parsed.destination, &net.config.addresses) {
            if !net.group_rate.allows(now) {
                return Err(DropReason::GroupRate);
            }
            self.copy_to_all(now, network, bytes);
            return Ok(());
        }
        let Some(peer) = net.owners.get(&parsed.destination).copied() else {
            self.answer(now, network, frame::unreachable(bytes));
            return Err(DropReason::NoRoute);
        };
        let between = Between { network, peer };
        if let Some((frame_max, cuts)) = self.sizes(between) {
            return self.fit(now, between, bytes, frame_max, cuts);
        }
        self.stage(now, between, bytes)
    }

    /// The largest frame of the path to a peer, where it has one now, and whether larger ones are cut.
    fn sizes(&self, between: Between) -> Option<(usize, bool)> {
        let peer = self.networks.get(&between.network)?.peers.get(&between.peer)?;
        let link = &self.links.get(&peer.current?)?.link;
        link.paths().current().map(|_| (link.frame_max(), link.cuts()))
    }

    /// What the fast path found too large for the path: it is cut, or its sender is told.
    fn fit(
        &mut self,
        now: Instant,
        between: Between,
        bytes: &[u8],
        frame_max: usize,
        cuts: bool,
    ) -> Result<(), DropReason> {
        let passes = bytes.len() <= frame_max || cuts || frame::must_pass(bytes, bytes.len());
        if passes && self.send_to(now, between, bytes) {
            return Ok(());
        }
        let mtu = u16::try_from(frame_max).unwrap_or(u16::MAX);
        self.answer(now, between.network, frame::too_big(bytes, mtu));
        Err(DropReason::TooBig)
    }

    /// Gives the NIC each of the frames that came together.
    pub(super) fn give_nic(&mut self, network: NetworkId, frames: &[u8]) {
        for frame in frame::split(frames, 0..frames.len()) {
            let mut bytes = frames[frame].to_vec();
            fast::segment::finish(&mut bytes);
            self.out.push_back(Output::Frame { network, bytes });
        }
    }

    /// Gives our own host an ICMP error, within the rate.
    fn answer(&mut self, now: Instant, network: NetworkId, error: Option<Vec<u8>>) {
        if let Some(bytes) = error
            && let Some(net) = self.networks.get_mut(&network)
            && net.icmp_rate.allows(now)
        {
            self.out.push_back(Output::Frame { network, bytes });
        }
    }

    fn copy_to_all(&mut self, now: Instant, network: NetworkId, bytes: &[u8]) {
        let Some(net) = self.networks.get(&network) else {
            return;
        };
        let peers: Vec<NodeId> = net.peers.keys().copied().collect();
        for peer in peers {
            self.send_to(now, Between { network, peer }, bytes);
        }
    }

    /// Seals a frame for a peer whose link has a path; `false` where there is none.
    fn send_to(&mut self, now: Instant, between: Between, bytes: &[u8]) -> bool {
        let peer = self
            .networks
            .get(&between.network)
            .and_then(|net| net.peers.get(&between.peer));
        let Some(id) = peer.and_then(|peer| peer.current) else {
            return false;
        };
        let Some(link) = self.fast_link(id) else {
            return false;
        };
        // Lane 0 has a kind before the frame.
        if bytes.len() >= link.frame_max {
            if !self.cut_rate.allows(now) {
                link.shared.drops.count(DropReason::TooBig);
                return true;
            }
            return self.with_link(now, id, |link, cx| link.send_cut(cx, bytes)) == Some(Ok(()));
        }
        let Some(slot) = self.links.get(&id).map(|entry| entry.link.config.slot) else {
            return false;
        };
        let mut buffer = with_room(bytes);
        if let Outbound::Sealed { range, path, wake, .. } = fast::seal(&link, &mut self.lanes, slot, &mut buffer) {
            self.send_sealed(now, path, slot, buffer[range].to_vec());
            if wake {
                self.on_wake(now, slot);
            }
        }
        true
    }

    /// Keeps a frame until its peer has a link with a path.
    fn stage(&mut self, now: Instant, between: Between, bytes: &[u8]) -> Result<(), DropReason> {
        if self.staged_bytes + bytes.len() > limits::STAGED_BYTES {
            return Err(DropReason::StagedFull);
        }
        let Some(peer) = self.peer_mut(between.network, between.peer) else {
            return Err(DropReason::NoRoute);
        };
        let pushed_out = peer.staged.push(bytes.to_vec());
        let is_wanted = peer.current.is_none() && peer.attempt.is_none() && peer.wanted.allows(now);
        self.staged_bytes += bytes.len();
        if is_wanted {
            self.event(Event::LinkWanted {
                network: between.network,
                node: between.peer,
            });
        }
        match pushed_out {
            Some(old) => {
                self.staged_bytes -= old.len();
                Err(DropReason::StagedFull)
            }
            None => Ok(()),
        }
    }

    /// Sends what waited for a peer.
    pub(super) fn flush_staged(&mut self, now: Instant, between: Between) {
        while let Some(frame) = self
            .peer_mut(between.network, between.peer)
            .and_then(|peer| peer.staged.pop())
        {
            self.staged_bytes -= frame.len();
            if !self.send_to(now, between, &frame)
                && let Some(net) = self.networks.get(&between.network)
            {
                net.drops.count(DropReason::LinkFailed);
            }
        }
    }

    /// Gives up what waited for a peer.
    pub(super) fn drop_staged(&mut self, between: Between) {
        while let Some(frame) = self
            .peer_mut(between.network, between.peer)
            .and_then(|peer| peer.staged.pop())
        {
            self.staged_bytes -= frame.len();
            if let Some(net) = self.networks.get(&between.network) {
                net.drops.count(DropReason::LinkFailed);
            }
        }
    }
}

fn with_room(frame: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM + frame.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    buffer
}
