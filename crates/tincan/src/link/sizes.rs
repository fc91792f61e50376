//! What a link does with sizes: probes that leave, frames cut and joined, what the kernel refused.
//!
//! Promises: a frame that came in parts goes the same way as one that came whole.
//! Refuses to know: which sizes to try (`mtu`), how parts look (`parts`).

use api::link::{PathKind, PathState};

use super::control::SIZE;
use super::mtu::Way;
use super::paths::Ends;
use super::{Cx, Link, LinkOutput};
use crate::fast::CHANNEL;
use crate::forward::DropReason;
use crate::ice::Rank;
use crate::parts::Part;
use crate::record::{OVERHEAD, ReceiverIndex};
use crate::transit;

impl Link {
    /// A frame whose last part this was goes on as if it had come whole.
    pub(super) fn on_part(
        &mut self,
        cx: &mut Cx<'_>,
        index: ReceiverIndex,
        ends: Ends,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let part = Part::parse(body).map_err(|_| DropReason::BadControl)?;
        let joined = self.joiner.take(cx.now, &part);
        self.shared.drops.add(DropReason::Incomplete, joined.given_up);
        let Some(bytes) = joined.frame else {
            return Ok(());
        };
        if transit::is_transit(&bytes) {
            return self.on_transit(ends, &bytes);
        }
        self.out.push_back(LinkOutput::Frame { index, bytes });
        Ok(())
    }

    /// Sends a frame in parts that the path carries.
    pub(crate) fn send_cut(&mut self, cx: &mut Cx<'_>, frame: &[u8]) -> Result<(), DropReason> {
        let ends = self.paths.current().ok_or(DropReason::TooBig)?;
        self.send_parts(cx, ends, frame)?;
        if self.shared.on_sent(1, frame.len(), frame.len()) {
            self.watch(cx);
        }
        Ok(())
    }

    /// The largest frame that is sent whole.
    pub(crate) fn frame_max(&self) -> usize {
        self.mtu.size().min(self.nic_mtu)
    }

    /// Whether larger frames are cut, as it is not known yet what the path carries.
    pub(crate) fn cuts(&self) -> bool {
        !self.mtu.is_settled()
    }

    /// The NIC's MTU is another one.
    pub(crate) fn set_mtu(&mut self, cx: &mut Cx<'_>, mtu: u16) {
        self.nic_mtu = usize::from(mtu);
        self.set_top(cx);
    }

    pub(super) fn set_top(&mut self, cx: &mut Cx<'_>) {
        let wrapping = if self.carries_others { transit::OVERHEAD } else { 0 };
        self.mtu.set_top(cx.now, self.nic_mtu + wrapping);
        self.drain_mtu(cx);
    }

    /// The kernel refused a datagram of this link that had so many bytes.
    pub(crate) fn on_too_big(&mut self, cx: &mut Cx<'_>, in_channel: bool, bytes: usize) {
        let channel = if in_channel { CHANNEL } else { 0 };
        self.mtu.on_refused(cx.now, bytes.saturating_sub(channel + OVERHEAD));
        self.drain_mtu(cx);
    }

    /// The path in use is a new one: its size is not known.
    pub(super) fn start_mtu(&mut self, cx: &mut Cx<'_>) {
        let Some(path) = self.paths.last() else {
            return;
        };
        let way = Way {
            is_relayed: path.rank != Rank::Direct,
            is_v6: path.ends.remote.is_ipv6(),
            wrapping: if path.rank == Rank::Member {
                transit::OVERHEAD
            } else {
                0
            },
            rtt: path.rtt,
        };
        self.mtu.start(cx.now, way);
        self.drain_mtu(cx);
    }

    /// Sends the probes that wait, and tells of what was found.
    pub(super) fn drain_mtu(&mut self, cx: &mut Cx<'_>) {
        while let Some(probe) = self.mtu.poll_probe() {
            if let Some(ends) = self.paths.current() {
                let mut body = probe.token.to_be_bytes().to_vec();
                // A worker seals a frame without a kind.
                body.resize(body.len().max(probe.size.saturating_sub(1)), 0);
                self.send_control(cx, ends, SIZE, &body);
            }
        }
        if self.mtu.take_news() {
            self.out.push_back(LinkOutput::Changed);
        }
    }

    /// The path in use as people see it.
    pub(crate) fn path_state(&self) -> Option<PathState> {
        self.paths.current()?;
        let path = self.paths.last()?;
        Some(PathState {
            kind: match path.rank {
                Rank::Direct => PathKind::Direct,
                Rank::Turn | Rank::Stream => PathKind::Turn,
                Rank::Member => PathKind::Member,
            },
            local: path.ends.local,
            remote: path.ends.remote,
            via: None,
            rtt_us: path.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            mtu: u16::try_from(self.frame_max()).ok().filter(|_| self.is_up()),
        })
    }
}
