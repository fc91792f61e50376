//! Waiting for many descriptors of which few have something (epoll): what a wait costs does not grow with their number.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Descriptors that are waited for together, each under a number of the caller's.
pub struct Poller(OwnedFd);

/// What one look at a [`Poller`] found: at most [`Found::MOST`] numbers, the rest at the next look.
pub struct Found {
    events: [epoll::Event; Found::MOST],
    count: usize,
}

impl Poller {
    /// Of none yet.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Looks at this descriptor too, until it is removed or closed.
    pub fn add(&self, descriptor: impl AsFd, number: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(number);
        Ok(epoll::add(&self.0, descriptor, data, epoll::EventFlags::IN)?)
    }

    /// Looks at it no more.
    pub fn remove(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, descriptor)?)
    }

    /// Waits until one of them can be read (or has failed, which reading will tell), for at most `timeout`.
    pub fn wait(&self, found: &mut Found, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        found.count = match epoll::wait(&self.0, &mut found.events, timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }
}

impl Found {
    /// As many as one look finds.
    pub const MOST: usize = 32;

    /// The numbers under which something can be read.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.events[..self.count].iter().map(|event| event.data.u64())
    }

    /// Whether nothing can be.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Default for Found {
    fn default() -> Found {
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        Found {
            events: [none; Found::MOST],
            count: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Waker;

    #[test]
    fn only_what_has_something_is_found_and_only_while_it_is_watched() {
        let (poller, mut found) = (Poller::new().unwrap(), Found::default());
        let wakers: Vec<Waker> = (0..40).map(|_| Waker::new().unwrap()).collect();
        for (waker, number) in wakers.iter().zip(0..) {
            poller.add(waker, number).unwrap();
        }
        let mut look = |poller: &Poller| {
            poller.wait(&mut found, Some(Duration::ZERO)).unwrap();
            found.numbers().collect::<Vec<_>>()
        };
        assert_eq!(look(&poller), [0u64; 0]);
        wakers[7].wake();
        assert_eq!(look(&poller), [7]);
        assert_eq!(look(&poller), [7], "until it is cleared");
        wakers[7].clear();
        wakers[39].wake();
        assert_eq!(look(&poller), [39]);
        poller.remove(&wakers[39]).unwrap();
        assert_eq!(look(&poller), [0u64; 0]);
        wakers.iter().for_each(Waker::wake);
        assert_eq!(look(&poller).len(), Found::MOST);
    }
}
