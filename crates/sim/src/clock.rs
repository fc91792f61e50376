//! Virtual time: a start that means nothing, and a queue that gives things back in the order of their time.
//!
//! Promises: things due at the same time come back in the order in which they were put in.
//! Refuses to know: how late it really is.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

/// Where virtual time begins. `Instant` cannot be made from nothing, so the first look at the real clock serves as
/// zero; nothing depends on its value, and the real clock is never looked at again.
pub fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Things to come, by time.
#[derive(Debug)]
pub struct Queue<T> {
    items: BTreeMap<(Instant, u64), T>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            items: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Puts a thing in.
    pub fn push(&mut self, at: Instant, item: T) {
        self.sequence += 1;
        self.items.insert((at, self.sequence), item);
    }

    /// When the next thing is due.
    pub fn next(&self) -> Option<Instant> {
        self.items.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next thing out if it is due.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.items.pop_first().map(|(_, item)| item)
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn things_come_back_by_time_then_by_order_of_entry() {
        let start = origin();
        let mut queue = Queue::default();
        for (ms, name) in [(5, "c"), (1, "a"), (5, "d"), (1, "b")] {
            queue.push(start + Duration::from_millis(ms), name);
        }
        assert_eq!(queue.pop(start), None);
        let late = start + Duration::from_secs(1);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(late)).collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
    }
}
