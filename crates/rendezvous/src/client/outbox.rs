//! Events on their way to the controller.
//!
//! Promises: no event is lost or overtaken, and a controller that is slow to take events can still give commands: the
//! adapter never waits for it.

use std::collections::VecDeque;

use api::rendezvous::RendezvousEvent;
use tokio::sync::mpsc;

/// Events that wait.
pub(super) struct Outbox {
    waiting: VecDeque<RendezvousEvent>,
    events: mpsc::Sender<RendezvousEvent>,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<RendezvousEvent>) -> Self {
        Outbox {
            waiting: VecDeque::new(),
            events,
        }
    }

    pub(super) fn push(&mut self, event: RendezvousEvent) {
        self.waiting.push_back(event);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Delivers for ever; returns when nobody listens any more. May be dropped at any point.
    pub(super) async fn deliver(&mut self) {
        while self.deliver_one().await {}
    }

    /// Delivers one event, when there is one; false if nobody listens any more. May be dropped at any point.
    pub(super) async fn deliver_one(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.events.closed().await;
            return false;
        }
        let Ok(permit) = self.events.reserve().await else {
            return false;
        };
        if let Some(event) = self.waiting.pop_front() {
            permit.send(event);
        }
        true
    }
}
