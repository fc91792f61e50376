//! A link that is up: its session, the streams beside it, and the watch over its path.
//!
//! Promises: a fresh handshake takes over without a lost frame or message: receiving keys come first, sending switches
//! when the peer has them, the old session opens what is in flight, and the old stream is read to its end before the
//! new one; the counters of the fast path are looked at only while they move.
//! Refuses to know: how a path is chosen (`paths`), what controllers' messages mean.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::SessionId;

use super::making::{Making, Progress};
use super::paths::{Health, Step};
use super::{Cx, Link, LinkConfig, LinkOutput, Phase, Resend};
use crate::fast::{LinkShared, Tell};
use crate::forward::DropReason;
use crate::gauge::Gauges;
use crate::handshake::{Handshake, HandshakeEvent, MessageError, next_session};
use crate::ice::Pace;
use crate::record::{OpenKeys, ReceiverIndex};
use crate::session::{GRACE, Role, Session};
use crate::signal::{Body, Signal, Stamp};

/// Stream: from the controller.
const FROM_CONTROLLER: u8 = 0;
/// Stream: a signal.
const SIGNAL: u8 = 1;
/// Stream: the last of this stream; it goes on in the fresh one.
const STREAM_ENDS: u8 = 2;
/// Fresh stream: the old one was read to its end.
const STREAM_READ: u8 = 3;
/// Stream, from the server: begin a fresh handshake.
const FRESH_WANTED: u8 = 4;

/// The counters are looked at this often while they move ...
const TICK: Duration = Duration::from_millis(250);
/// ... and no longer after so many looks without a change.
const RESTS: u32 = 8;
/// A fresh handshake that failed is tried again after this, and so is asking for one.
const FRESH_AGAIN: Duration = Duration::from_secs(60);
/// The server takes part in a fresh handshake at most this often: an honest client waits for `FRESH_AGAIN`.
const FRESH_ACCEPTED: Duration = Duration::from_secs(30);

/// The session and what belongs to it.
pub(crate) struct Up {
    id: SessionId,
    session: Session,
    main: Handshake,
    // In boxes: a link at rest has neither, and each is as large as the rest.
    old: Option<Box<OldStream>>,
    previous: Option<(Session, Instant)>,
    fresh: Option<Box<Making>>,
    fresh_not_before: Instant,
    /// Server: when the peer last began a fresh handshake.
    fresh_begun: Option<Instant>,
    since: Instant,
    handshakes: u32,
    receive_epoch: u16,
    sample: Sample,
}

/// The stream of the handshake before, until both ends have read it to its end.
struct OldStream {
    handshake: Handshake,
    end_sent: bool,
    end_read: bool,
    read_told: bool,
    peer_has_read: bool,
}

/// The fast path's counters when last looked at.
struct Sample {
    sent: u64,
    opened: u64,
    at: Instant,
    next: Option<Instant>,
    rests: u32,
}

impl Up {
    fn new(making: Making, session: Session, now: Instant) -> Self {
        Self {
            id: making.id,
            session,
            main: making.handshake,
            old: None,
            previous: None,
            fresh: None,
            fresh_not_before: now,
            fresh_begun: None,
            since: now,
            handshakes: 1,
            receive_epoch: 0,
            sample: Sample {
                sent: 0,
                opened: 0,
                at: now,
                next: None,
                rests: 0,
            },
        }
    }

    /// The session that seals.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn handshakes_done(&self) -> u32 {
        self.handshakes
    }

    pub(crate) fn receive_epoch(&self) -> u16 {
        self.receive_epoch
    }

    /// Every index that opens, with its keys.
    pub(super) fn receivers(&self) -> Vec<(ReceiverIndex, Arc<OpenKeys>)> {
        let own = [Some(&self.session), self.previous.as_ref().map(|(session, _)| session)];
        let own = own.into_iter().flatten().map(|s| (s.own_index(), s.opener()));
        own.chain(self.fresh.iter().filter_map(|fresh| fresh.receiver()))
            .collect()
    }

    pub(super) fn handshakes(&mut self) -> Vec<&mut Handshake> {
        let mut all = vec![&mut self.main];
        all.extend(self.old.as_mut().map(|old| &mut old.handshake));
        all.extend(self.fresh.as_mut().map(|fresh| &mut fresh.handshake));
        all
    }

    pub(super) fn handle_datagram(&mut self, cx: &mut Cx<'_>, link: &LinkConfig, bytes: &[u8]) -> bool {
        if let Some(handshake) = self.handshakes().into_iter().find(|h| h.owns(bytes)) {
            handshake.handle_datagram(cx.now, bytes);
            return true;
        }
        let too_soon = self
            .fresh_begun
            .is_some_and(|at| cx.now.saturating_duration_since(at) < FRESH_ACCEPTED);
        let is_free = self.fresh.is_none() && self.old.is_none() && !too_soon;
        let may_begin = link.role == Role::Server && is_free;
        let id = next_session(self.id);
        if !may_begin || !Making::begins(cx, link, id, bytes) {
            return false;
        }
        let Ok(mut fresh) = Making::new(cx, link, id, None) else {
            return false;
        };
        fresh.handle_datagram(cx.now, bytes);
        self.fresh = Some(Box::new(fresh));
        self.fresh_begun = Some(cx.now);
        true
    }

    pub(super) fn gauges(&self, all: &mut Gauges) {
        let old = self.old.as_ref().map(|old| &old.handshake);
        let fresh = self.fresh.as_ref().map(|fresh| &fresh.handshake);
        for handshake in [Some(&self.main), old, fresh].into_iter().flatten() {
            handshake.gauges(all);
        }
    }

    /// True if the keys to open with changed.
    pub(super) fn on_opened(&mut self, tell: Tell, now: Instant) -> bool {
        if let Some(fresh) = &mut self.fresh {
            fresh.on_opened(tell, now);
        }
        if tell.receiver == self.session.own_index() {
            self.receive_epoch = self.receive_epoch.max(tell.epoch);
            return self.session.on_opened(tell.epoch, now);
        }
        match &mut self.previous {
            Some((previous, _)) if previous.own_index() == tell.receiver => previous.on_opened(tell.epoch, now),
            _ => false,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let mut all = vec![self.session.poll_timeout(), self.main.poll_timeout(), self.sample.next];
        all.push(self.old.as_ref().and_then(|old| old.handshake.poll_timeout()));
        all.push(self.fresh.as_ref().and_then(|fresh| fresh.handshake.poll_timeout()));
        all.extend(self.previous.as_ref().map(|(_, until)| Some(*until)));
        all.into_iter().flatten().min()
    }

    /// Sends a signal to the peer's tincan over the stream; false if that cannot take it.
    pub(super) fn send_signal(&mut self, body: &Body) -> bool {
        let stamp = Stamp { instance: 0, number: 0 };
        let bytes = Signal {
            stamp,
            body: body.clone(),
        }
        .encode();
        self.send(SIGNAL, &bytes).is_ok()
    }

    pub(super) fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), MessageError> {
        self.main.send_message(&[&[kind], body].concat())
    }

    /// Closes every handshake: which of them is the peer's main one we may not know yet.
    pub(super) fn close(&mut self, now: Instant) {
        for handshake in self.handshakes() {
            handshake.close(now);
        }
    }

    /// The fresh session takes over.
    fn switch(&mut self, fresh: Making, session: Session, now: Instant) {
        let before = std::mem::replace(&mut self.session, session);
        self.previous = Some((before, now + GRACE));
        self.id = fresh.id;
        let handshake = std::mem::replace(&mut self.main, fresh.handshake);
        self.old = Some(Box::new(OldStream {
            handshake,
            end_sent: false,
            end_read: false,
            read_told: false,
            peer_has_read: false,
        }));
        self.handshakes += 1;
        self.receive_epoch = 0;
        self.end_old_stream();
    }

    fn end_old_stream(&mut self) {
        if let Some(old) = &mut self.old
            && !old.end_sent
        {
            old.end_sent = old.handshake.send_message(&[STREAM_ENDS]).is_ok();
        }
    }

    /// The old stream was read to its end: the peer need not keep it.
    fn tell_old_read(&mut self) {
        if let Some(old) = &self.old
            && old.end_read
            && !old.read_told
        {
            // Beyond the backlog the peer keeps its old stream a little longer, no more.
            let told = self.send(STREAM_READ, &[]).is_ok();
            if let Some(old) = &mut self.old {
                old.read_told = told;
            }
        }
    }

    /// The next message in order: the old stream's first.
    fn next_event(&mut self) -> Option<(bool, HandshakeEvent)> {
        if let Some(old) = &mut self.old
            && !old.end_read
        {
            return old.handshake.poll_event().map(|event| (true, event));
        }
        self.main.poll_event().map(|event| (false, event))
    }
}

impl Link {
    /// 5: both ends have keys.
    pub(super) fn become_up(&mut self, cx: &mut Cx<'_>) {
        let Phase::Securing(making) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return;
        };
        let mut making = *making;
        let Some(session) = making.session.take() else {
            return self.close_with("the handshake was through without keys: report this");
        };
        self.phase = Phase::Up(Box::new(Up::new(making, session, cx.now)));
        self.paths.on_heard_current(cx.now);
        self.out.push_back(LinkOutput::Changed);
        self.out.push_back(LinkOutput::Up);
        self.shared.watched.store(true, Ordering::Relaxed);
        self.start_mtu(cx);
        self.watch(cx);
    }

    /// Moves what the streams of a link that is up have to say.
    pub(super) fn drain_up(&mut self, cx: &mut Cx<'_>) {
        self.drain_fresh(cx);
        while let Phase::Up(up) = &mut self.phase {
            let Some((is_old, event)) = up.next_event() else {
                break;
            };
            match event {
                HandshakeEvent::Message(message) => self.on_message(cx, &message, is_old),
                // Neither end can have more of the old stream.
                HandshakeEvent::Failed(_) if is_old => {
                    self.on_old_read();
                    self.on_peer_has_read();
                }
                HandshakeEvent::Closed => self.close_with("the peer closed the link"),
                HandshakeEvent::Failed(error) => {
                    self.transmit_carriers(cx);
                    self.close_with(&error.to_string());
                }
                HandshakeEvent::Keys(..) | HandshakeEvent::Ready => {}
            }
        }
        if let Phase::Up(up) = &mut self.phase {
            up.old.take_if(|old| old.end_read && old.peer_has_read);
        }
    }

    fn drain_fresh(&mut self, cx: &mut Cx<'_>) {
        while let Phase::Up(up) = &mut self.phase
            && let Some(fresh) = &mut up.fresh
        {
            match fresh.progress(cx.now) {
                Progress::Waiting => return,
                Progress::Keyed => self.out.push_back(LinkOutput::Changed),
                Progress::Ready => {
                    if let Some(mut fresh) = up.fresh.take()
                        && let Some(session) = fresh.session.take()
                    {
                        up.switch(*fresh, session, cx.now);
                        self.out.push_back(LinkOutput::Changed);
                    }
                }
                Progress::Failed(_) => {
                    cx.indices.free(fresh.index);
                    up.fresh = None;
                    up.fresh_not_before = cx.now + FRESH_AGAIN;
                    self.out.push_back(LinkOutput::Changed);
                }
            }
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: &[u8], is_old: bool) {
        let Some((&kind, body)) = message.split_first() else {
            return self.shared.drops.count(DropReason::BadMessage);
        };
        match kind {
            FROM_CONTROLLER => self.out.push_back(LinkOutput::Message(body.to_vec())),
            SIGNAL => self.on_signal(cx, body),
            STREAM_ENDS if is_old => self.on_old_read(),
            STREAM_READ => self.on_peer_has_read(),
            FRESH_WANTED => self.force_fresh(cx),
            _ => self.shared.drops.count(DropReason::BadMessage),
        }
    }

    fn on_old_read(&mut self) {
        if let Phase::Up(up) = &mut self.phase
            && let Some(old) = &mut up.old
        {
            old.end_read = true;
            up.tell_old_read();
        }
    }

    fn on_peer_has_read(&mut self) {
        if let Phase::Up(up) = &mut self.phase
            && let Some(old) = &mut up.old
        {
            old.peer_has_read = true;
        }
    }

    fn on_signal(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) {
        match Signal::parse(bytes).map(|signal| signal.body) {
            Ok(Body::Candidates(list)) if list.session == self.config.session => {
                if let Err(reason) = self.handle_candidates(cx, &list) {
                    self.shared.drops.count(reason);
                }
            }
            _ => self.shared.drops.count(DropReason::BadMessage),
        }
    }

    /// Sends bytes to the peer's controller.
    pub(crate) fn send_message(&mut self, cx: &mut Cx<'_>, data: &[u8]) -> Result<(), MessageError> {
        let Phase::Up(up) = &mut self.phase else {
            return Err(MessageError::Closed);
        };
        up.send(FROM_CONTROLLER, data)?;
        self.drain_carriers(cx);
        Ok(())
    }

    /// Makes the keys anew as soon as may be.
    pub(crate) fn force_fresh(&mut self, cx: &mut Cx<'_>) {
        if let Phase::Up(up) = &mut self.phase {
            up.session.force_fresh_handshake();
        }
        self.begin_fresh(cx);
    }

    // --- time ---

    /// Traffic began, or somebody wants it watched: from now on the counters are looked at.
    pub(crate) fn watch(&mut self, cx: &mut Cx<'_>) {
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        if up.sample.next.is_none() {
            up.sample.next = Some(cx.now + TICK);
            up.sample.at = cx.now;
            up.sample.rests = 0;
            self.agent.set_pace(Pace::Active);
            self.look(cx.now);
        }
    }

    /// Compares the counters with those of the last look; true if they moved.
    fn look(&mut self, now: Instant) -> bool {
        let Phase::Up(up) = &mut self.phase else {
            return false;
        };
        let (sent, opened) = counters(&self.shared);
        let (was_sent, was_opened) = (up.sample.sent, up.sample.opened);
        let since = std::mem::replace(&mut up.sample.at, now);
        (up.sample.sent, up.sample.opened) = (sent, opened);
        if opened != was_opened {
            self.paths.on_heard_current(now);
        } else if sent != was_sent {
            self.paths.on_unanswered(since);
        }
        (sent, opened) != (was_sent, was_opened)
    }

    fn tick(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        let moved = self.look(now);
        let large = self.shared.large.swap(false, Ordering::Relaxed);
        self.mtu.on_look(now, moved, large);
        let uneasy = self.paths.is_uneasy();
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        up.sample.rests = if moved || uneasy { 0 } else { up.sample.rests + 1 };
        up.sample.next = Some(now + TICK);
        if up.sample.rests < RESTS {
            return;
        }
        self.shared.watched.store(false, Ordering::SeqCst);
        if counters(&self.shared) == (up.sample.sent, up.sample.opened) {
            up.sample.next = None;
            self.agent.set_pace(Pace::Idle);
        } else {
            // Something moved before it could see that nobody watches any more.
            self.shared.watched.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn up_timeout(&mut self, cx: &mut Cx<'_>) {
        self.session_timeout(cx);
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if self.up().is_some_and(|up| due(up.sample.next)) {
            self.tick(cx);
        }
        self.mtu.handle_timeout(now);
        self.drain_mtu(cx);
        self.step(cx);
        if self.restart.as_mut().is_some_and(|resend| resend.is_due(now)) {
            self.send_restart(false);
        }
        self.begin_fresh(cx);
    }

    fn session_timeout(&mut self, cx: &mut Cx<'_>) {
        self.shared
            .drops
            .add(DropReason::Incomplete, self.joiner.expire(cx.now));
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        for handshake in up.handshakes() {
            handshake.handle_timeout(cx.now);
        }
        up.end_old_stream();
        up.tell_old_read();
        match up.session.handle_timeout(cx.now) {
            Ok(false) => {}
            Ok(true) => self.out.push_back(LinkOutput::Changed),
            Err(_) => up.session.force_fresh_handshake(),
        }
        if let Some((previous, _)) = up.previous.take_if(|(_, until)| cx.now >= *until) {
            cx.indices.free(previous.own_index());
            self.out.push_back(LinkOutput::Changed);
        }
    }

    fn step(&mut self, cx: &mut Cx<'_>) {
        let before = self.paths.health();
        let Some(step) = self.paths.handle_timeout(cx.now) else {
            return;
        };
        match step {
            Step::ProbeCurrent => self.probe_current(cx),
            Step::ProbeBetter => self.probe_better(cx),
            Step::ProbeAll => {
                if matches!(before, Health::Doubt { .. }) {
                    self.out.push_back(LinkOutput::VerifyRelays);
                    self.agent.probe(cx.now);
                    self.drain_agent(cx);
                }
                self.probe_all(cx);
            }
            Step::Lost => self.on_lost(cx),
            Step::Dead => self.close_with("no path to the peer answered for 30 s"),
        }
    }

    /// 7: no path answers: ICE starts again, and every path is asked meanwhile.
    fn on_lost(&mut self, cx: &mut Cx<'_>) {
        // The peer may have counted as far as it likes.
        let Some(generation) = self.generation.checked_add(1) else {
            return self.close_with("no path to the peer answers, and ICE was restarted too often");
        };
        self.generation = generation;
        self.probe_all(cx);
        self.renew_agent(cx);
        self.out.push_back(LinkOutput::Members);
        self.send_restart(false);
        self.restart = Some(Resend::new(cx.now));
        self.drain_agent(cx);
        self.out.push_back(LinkOutput::Changed);
        self.out.push_back(LinkOutput::PathChanged);
    }

    /// 6: the client begins a fresh handshake when it is time, the server asks it to.
    fn begin_fresh(&mut self, cx: &mut Cx<'_>) {
        let has_path = self.paths.current().is_some();
        let rtt = self.paths.last().and_then(|p| p.rtt);
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        let is_free = up.fresh.is_none() && up.old.is_none() && cx.now >= up.fresh_not_before;
        if !is_free || !has_path || !up.session.wants_fresh_handshake(cx.now) {
            return;
        }
        up.fresh_not_before = cx.now + FRESH_AGAIN;
        if self.config.role == Role::Server {
            // Asked again after `FRESH_AGAIN` if it does not come.
            let _ = up.send(FRESH_WANTED, &[]);
        } else if let Ok(fresh) = Making::new(cx, &self.config, next_session(up.id), rtt) {
            up.fresh = Some(Box::new(fresh));
        }
    }
}

fn counters(shared: &LinkShared) -> (u64, u64) {
    let sent = shared.sent_frames.load(Ordering::SeqCst) + shared.carried.load(Ordering::SeqCst);
    (sent, shared.opened.load(Ordering::SeqCst))
}

/// A peer that holds the keys and breaks the rules.
#[cfg(test)]
impl Link {
    /// Sends anything on the stream; false if that cannot take it.
    pub(crate) fn send_raw_message(&mut self, cx: &mut Cx<'_>, message: &[u8]) -> bool {
        let Phase::Up(up) = &mut self.phase else {
            panic!("the link is not up");
        };
        let taken = up.main.send_message(message).is_ok();
        self.drain_carriers(cx);
        taken
    }

    /// Begins a fresh handshake as often as it is asked to.
    pub(crate) fn force_fresh_impatiently(&mut self, cx: &mut Cx<'_>) {
        if let Phase::Up(up) = &mut self.phase {
            up.fresh_not_before = cx.now;
        }
        self.force_fresh(cx);
        self.drain_carriers(cx);
    }
}
