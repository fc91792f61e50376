//! Control records of a link that is up (lane 0): probes, answers, the news of a move, and parts of frames.
//!
//! Promises: an answer goes back the way its probe came; a path that is not in use is probed in a way that moves nobody.
//! Refuses to know: when to probe and what an answer changes (`paths`, `mtu`).

use rand::RngCore;

use super::paths::{Ends, Purpose};
use super::{Cx, Link, LinkOutput, Phase};
use crate::fast::KIND_FRAME;
use crate::forward::DropReason;
use crate::gauge::Gauges;
use crate::ice::{Pair, PairState};
use crate::limits;
use crate::record::{HEADER, ReceiverIndex, TAG};
use crate::transit;

/// Lane 0: is somebody there? Sent on the path in use.
const PROBE: u8 = 1;
/// Lane 0: yes, with the probe's token.
const ANSWER: u8 = 2;
/// Lane 0: from now on this is the path in use.
const MOVED: u8 = 3;
/// Lane 0: a probe of a path that is not in use.
const SEARCH: u8 = 4;
/// Lane 0: does a record of this length arrive? A token, and zeros to the length that is asked for.
pub(super) const SIZE: u8 = 5;
/// Lane 0: it did, with its token.
const SIZE_ANSWER: u8 = 6;
/// Lane 0: a part of a frame.
pub(super) const PART: u8 = 7;

/// Whether a control record only looks for paths and sizes.
pub(super) fn is_search(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(&SEARCH | &ANSWER | &SIZE | &SIZE_ANSWER))
}

impl Link {
    pub(super) fn handle_control(
        &mut self,
        cx: &mut Cx<'_>,
        index: ReceiverIndex,
        ends: Ends,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let (&kind, body) = payload.split_first().ok_or(DropReason::BadControl)?;
        if transit::is_transit(payload) {
            return self.on_transit(ends, payload);
        }
        if kind == KIND_FRAME {
            let bytes = body.to_vec();
            self.out.push_back(LinkOutput::Frame { index, bytes });
            return Ok(());
        }
        if kind == MOVED {
            return Ok(());
        }
        if kind == PART {
            return self.on_part(cx, index, ends, body);
        }
        let (token, padding) = body.split_first_chunk::<8>().ok_or(DropReason::BadControl)?;
        if kind != SIZE && !padding.is_empty() {
            return Err(DropReason::BadControl);
        }
        let token = *token;
        match kind {
            SIZE => self.send_control(cx, ends, SIZE_ANSWER, &token),
            SIZE_ANSWER => {
                self.mtu.on_answer(cx.now, u64::from_be_bytes(token));
                self.drain_mtu(cx);
            }
            PROBE | SEARCH => self.send_control(cx, ends, ANSWER, &token),
            ANSWER => self.on_answer(cx, ends, u64::from_be_bytes(token)),
            _ => return Err(DropReason::BadControl),
        }
        Ok(())
    }

    fn on_answer(&mut self, cx: &mut Cx<'_>, ends: Ends, token: u64) {
        let Some(answered) = self.paths.on_answer(cx.now, token, ends.remote) else {
            return;
        };
        if answered.moved {
            if answered.purpose == Purpose::Roam {
                self.force_fresh(cx);
            }
            self.on_moved(cx);
        }
        if let Purpose::Ping(ping) = answered.purpose {
            let rtt = answered.rtt;
            self.out.push_back(LinkOutput::Pong { ping, rtt });
        }
    }

    pub(super) fn send_control(&mut self, cx: &mut Cx<'_>, ends: Ends, kind: u8, body: &[u8]) {
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        let mut bytes = vec![0; HEADER];
        bytes.push(kind);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len() + TAG, 0);
        if up.session().sealer().seal(cx.lane, &mut bytes).is_err() {
            return self.shared.drops.count(DropReason::Exhausted);
        }
        self.out.push_back(LinkOutput::Datagram {
            ends,
            bytes,
            is_stun: false,
        });
    }

    /// Says anything (kind, then body) with the link's own keys, as a peer of ours may: for fuzzing.
    pub(crate) fn fuzz_inside(&mut self, cx: &mut Cx<'_>, on_stream: bool, bytes: &[u8]) {
        let Some((&kind, body)) = bytes.split_first() else {
            return;
        };
        if let Phase::Up(up) = &mut self.phase
            && on_stream
        {
            // A full backlog is as good as any other end.
            let _ = up.send(kind, body);
            self.drain_carriers(cx);
        } else if let Some(ends) = self.paths.current() {
            self.send_control(cx, ends, kind, body);
        }
    }

    pub(super) fn probe(&mut self, cx: &mut Cx<'_>, ends: Ends, purpose: Purpose) {
        let token = cx.rng.next_u64();
        let kind = if self.paths.current() == Some(ends) {
            PROBE
        } else {
            SEARCH
        };
        self.paths.on_probe_sent(cx.now, token, ends, purpose);
        self.send_control(cx, ends, kind, &token.to_be_bytes());
    }

    pub(super) fn probe_current(&mut self, cx: &mut Cx<'_>) {
        if let Some(ends) = self.paths.current() {
            self.probe(cx, ends, Purpose::Liveness);
        }
    }

    /// Probes every path there may be: those known to work, and what ICE has not tried yet.
    pub(super) fn probe_all(&mut self, cx: &mut Cx<'_>) {
        for pair in self.agent.pairs().iter().take(limits::PATHS) {
            let ends = Ends {
                local: pair.local,
                remote: pair.remote,
            };
            self.paths.add(ends, pair.rank, None);
        }
        let all: Vec<Ends> = self.paths.iter().map(|p| p.ends).collect();
        for ends in all {
            self.probe(cx, ends, Purpose::Liveness);
        }
    }

    /// Probes a better pair that ICE found to work, its choice first: the nomination may not have reached us.
    pub(super) fn probe_better(&mut self, cx: &mut Cx<'_>) {
        let current = self.paths.rank();
        let works = |pair: &Pair| pair.state == PairState::Valid && pair.rank < current;
        let chosen = self.agent.best().filter(works);
        let Some(pair) = chosen.or_else(|| self.agent.pairs().into_iter().find(works)) else {
            return;
        };
        let ends = Ends {
            local: pair.local,
            remote: pair.remote,
        };
        if self.paths.current() != Some(ends) {
            self.paths.add(ends, pair.rank, None);
            self.probe(cx, ends, Purpose::Better);
        }
    }

    /// Sends an authenticated probe; the answer comes as `Pong`. `false`: there is no path.
    pub(crate) fn ping(&mut self, cx: &mut Cx<'_>, ping: u64) -> bool {
        let Some(ends) = self.paths.current().filter(|_| self.is_up()) else {
            return false;
        };
        self.probe(cx, ends, Purpose::Ping(ping));
        true
    }

    /// Another path is in use.
    pub(super) fn on_moved(&mut self, cx: &mut Cx<'_>) {
        self.restart = None;
        self.start_mtu(cx);
        if let Some(ends) = self.paths.current() {
            self.send_control(cx, ends, MOVED, &[]);
        }
        self.out.push_back(LinkOutput::Changed);
        self.out.push_back(LinkOutput::PathChanged);
        self.transmit_carriers(cx);
    }

    pub(crate) fn gauges(&self, all: &mut Gauges) {
        all.add("outputs of a link", self.out.len(), 0);
        all.add("paths of a link", self.paths.iter().count(), limits::PATHS);
        all.add("probes of a link", self.paths.probes_out(), limits::PROBES);
        all.add("size probes of a link", self.mtu.probes_out(), limits::SIZE_PROBES);
        let (frames, bytes) = self.joiner.level();
        all.add("cut frames of a link", frames, limits::JOINS);
        all.add("bytes of cut frames of a link", bytes, limits::JOIN_BYTES);
        self.agent.gauges(all);
        match &self.phase {
            Phase::Securing(making) => making.handshake.gauges(all),
            Phase::Up(up) => up.gauges(all),
            _ => {}
        }
    }
}

/// A peer that holds the keys and breaks the rules.
#[cfg(test)]
impl Link {
    /// Seals anything on lane 0 and sends it to the peer.
    pub(crate) fn send_raw_record(&mut self, cx: &mut Cx<'_>, payload: &[u8]) {
        let ends = self.paths.current().expect("a path");
        let Phase::Up(up) = &mut self.phase else {
            panic!("the link is not up");
        };
        let mut bytes = [&[0; HEADER][..], payload, &[0; TAG]].concat();
        up.session().sealer().seal(cx.lane, &mut bytes).expect("sealed");
        self.out.push_back(LinkOutput::Datagram {
            ends,
            bytes,
            is_stun: false,
        });
    }
}
