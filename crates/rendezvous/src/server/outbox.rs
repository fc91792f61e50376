//! What waits to be written to one client: bounded in stanzas and in bytes. A client that does not read is
//! cut, so that it can never hold memory or hold up others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, mpsc};

use super::limits;

/// Why the server ends a stream (RFC 6120 section 4.9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It did not read fast enough.
    Slow,
    /// The same resource logged in anew.
    Replaced,
}

/// The end that anybody may push to.
#[derive(Clone)]
pub(super) struct Outbox {
    queue: mpsc::Sender<String>,
    shared: Arc<Shared>,
}

/// Knows when the stream is to be ended.
pub(super) struct Scissors {
    shared: Arc<Shared>,
}

/// The end of the client's own task.
pub(super) struct Drain {
    queue: mpsc::Receiver<String>,
    shared: Arc<Shared>,
}

struct Shared {
    bytes: AtomicUsize,
    cut: OnceLock<Cut>,
    notify: Notify,
}

pub(super) fn pair() -> (Outbox, Drain) {
    let (sender, receiver) = mpsc::channel(limits::OUTBOX_STANZAS);
    let shared = Shared {
        bytes: AtomicUsize::new(0),
        cut: OnceLock::new(),
        notify: Notify::new(),
    };
    let shared = Arc::new(shared);
    (
        Outbox {
            queue: sender,
            shared: shared.clone(),
        },
        Drain {
            queue: receiver,
            shared,
        },
    )
}

impl Outbox {
    /// Queues one stanza, or marks the client as too slow.
    pub(super) fn push(&self, text: String) {
        let bytes = text.len();
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > limits::OUTBOX_BYTES || self.queue.try_send(text).is_err() {
            self.cut(Cut::Slow);
        }
    }

    /// Ends the client's stream; the first reason counts.
    pub(super) fn cut(&self, reason: Cut) {
        let _ = self.shared.cut.set(reason);
        self.shared.notify.notify_one();
    }
}

impl Drain {
    /// The next stanzas as one write; ends when nobody can push any more. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<String> {
        let mut batch = self.queue.recv().await?;
        self.shared.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        while batch.len() < limits::READ_BYTES
            && let Ok(more) = self.queue.try_recv()
        {
            self.shared.bytes.fetch_sub(more.len(), Ordering::Relaxed);
            batch.push_str(&more);
        }
        Some(batch)
    }

    pub(super) fn scissors(&self) -> Scissors {
        Scissors {
            shared: self.shared.clone(),
        }
    }
}

impl Scissors {
    /// Waits until the stream is to be ended. Safe to cancel.
    pub(super) async fn cut(&self) -> Cut {
        loop {
            if let Some(reason) = self.shared.cut.get() {
                return *reason;
            }
            self.shared.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_cut_by_bytes_and_by_count() {
        let (outbox, drain) = pair();
        outbox.push("x".repeat(limits::OUTBOX_BYTES));
        assert_eq!(drain.shared.cut.get(), None);
        outbox.push("x".into());
        assert_eq!(drain.scissors().cut().await, Cut::Slow);

        let (outbox, drain) = pair();
        (0..=limits::OUTBOX_STANZAS).for_each(|_| outbox.push("x".into()));
        assert_eq!(drain.scissors().cut().await, Cut::Slow);
    }

    #[tokio::test]
    async fn what_was_written_no_longer_counts() {
        let (outbox, mut drain) = pair();
        for _ in 0..10 {
            outbox.push("x".repeat(limits::OUTBOX_BYTES / 2));
            assert_eq!(
                drain.next().await.map(|text| text.len()),
                Some(limits::OUTBOX_BYTES / 2)
            );
        }
        assert_eq!(drain.shared.cut.get(), None);
    }
}
