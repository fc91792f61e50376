//! `link.ping`: a probe that somebody waits for.
//!
//! Promises: every call is answered, at the latest when its time is over.

use std::time::{Duration, Instant};

use api::link::{NodeRef, Pong};
use api::rpc::{ApiError, ErrorKind};

use super::calls::{done, limit};
use super::{CallId, Node, Output};
use crate::limits;
use crate::link::LinkId;

impl Node {
    pub(super) fn ping(&mut self, now: Instant, call: CallId, node: NodeRef) -> Result<(), ApiError> {
        let id = self.current_link(node.network, node.node)?;
        if self.pings.len() >= limits::PINGS * 4 {
            return Err(limit(
                "too many pings wait for answers: ask again in a few seconds".into(),
            ));
        }
        let ping = self.next_ping;
        self.next_ping += 1;
        if self.with_link(now, id, |link, cx| link.ping(cx, ping)) != Some(true) {
            return Err(no_path());
        }
        self.pings.insert(ping, (call, now));
        Ok(())
    }

    pub(super) fn on_pong(&mut self, id: LinkId, ping: u64, rtt: Duration) {
        if let Some((call, _)) = self.pings.remove(&ping) {
            let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            let answer = match self.path_state(id) {
                Some(path) => done(Pong { rtt_us, path }),
                None => Err(no_path()),
            };
            self.out.push_back(Output::Reply(call, answer));
        }
    }

    pub(super) fn expire_pings(&mut self, now: Instant) {
        let old = |sent: &Instant| now.saturating_duration_since(*sent) >= limits::PING_TIMEOUT;
        while let Some(first) = self.pings.first_entry()
            && old(&first.get().1)
        {
            let (call, _) = first.remove();
            let text = format!("no answer within {} s", limits::PING_TIMEOUT.as_secs());
            self.out
                .push_back(Output::Reply(call, Err(ApiError::new(ErrorKind::Timeout, text))));
        }
    }
}

fn no_path() -> ApiError {
    ApiError::new(ErrorKind::Unreachable, "no path to the peer answers at present")
}
