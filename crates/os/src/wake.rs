//! Waking a thread that waits in a system call, and waiting for several descriptors at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Ends every wait of the object it came from, now and later, until `clear`. Clones wake the same waits.
///
/// A wait so ended returns an error of kind `Interrupted`.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: OwnedFd,
    /// Spares the fast path a system call for each frame.
    set: AtomicBool,
}

impl Waker {
    /// A waker that nothing waits for yet.
    pub fn new() -> io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker(Arc::new(Inner {
            event,
            set: AtomicBool::new(false),
        })))
    }

    /// Wakes.
    pub fn wake(&self) {
        self.0.set.store(true, Ordering::Release);
        // The only failure is a full counter, and a full counter is readable, which is all that is wanted.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Lets waits wait again. Call it before looking for what was announced, so that nothing is missed.
    pub fn clear(&self) {
        self.0.set.store(false, Ordering::Release);
        let _ = rustix::io::read(&self.0.event, &mut [0u8; 8]);
    }

    /// Whether a wait would end at once.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_set() {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Which of the descriptors given to [`wait_readable`] have something, by their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(u64);

impl Ready {
    /// Whether the descriptor at this position can be read (or has failed, which reading will tell).
    pub fn has(&self, position: usize) -> bool {
        position < MAX_WAIT && self.0 >> position & 1 == 1
    }

    /// Whether the time ran out.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// As many descriptors as one wait takes.
pub const MAX_WAIT: usize = 16;

/// Waits until one of the descriptors (at most [`MAX_WAIT`]) can be read, or the time is over.
pub fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Ready> {
    wait(descriptors, PollFlags::IN, timeout)
}

/// Waits until `descriptor` can be read; `Interrupted` when woken. `false`: the time is over.
pub(crate) fn wait_or_woken(descriptor: BorrowedFd<'_>, waker: &Waker, timeout: Option<Duration>) -> io::Result<bool> {
    let ready = wait_readable(&[waker.as_fd(), descriptor], timeout)?;
    waker.check()?;
    Ok(ready.has(1))
}

/// Waits until `descriptor` takes more; `false`: the time is over.
pub(crate) fn wait_writable(descriptor: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    Ok(!wait(&[descriptor], PollFlags::OUT, Some(timeout))?.is_empty())
}

/// A time-out that keeps its end over several waits.
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(timeout: Option<Duration>) -> Deadline {
        Deadline(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    pub(crate) fn left(&self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }
}

fn wait(descriptors: &[BorrowedFd<'_>], flags: PollFlags, timeout: Option<Duration>) -> io::Result<Ready> {
    if descriptors.len() > MAX_WAIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one wait",
        ));
    }
    let deadline = Deadline::after(timeout);
    let Some(first) = descriptors.first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing to wait for"));
    };
    // No allocation: this is on the way of frames.
    let mut fds: [PollFd<'_>; MAX_WAIT] =
        std::array::from_fn(|at| PollFd::from_borrowed_fd(*descriptors.get(at).unwrap_or(first), flags));
    let fds = &mut fds[..descriptors.len()];
    loop {
        let left = deadline.left().map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        match poll(fds, left.as_ref()) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
    }
    let bits = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
    Ok(Ready(bits.fold(0, |bits, (position, _)| bits | 1 << position)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_lasts_until_cleared() {
        let waker = Waker::new().unwrap();
        let now = Some(Duration::ZERO);
        assert!(wait_readable(&[waker.as_fd()], now).unwrap().is_empty());
        waker.clone().wake();
        waker.wake();
        assert!(wait_readable(&[waker.as_fd()], None).unwrap().has(0));
        assert!(wait_readable(&[waker.as_fd()], None).unwrap().has(0));
        assert!(waker.is_set());
        waker.clear();
        assert!(wait_readable(&[waker.as_fd()], now).unwrap().is_empty());
        assert!(!waker.is_set());
    }
}
