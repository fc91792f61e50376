//! Signals as something to wait for, alone or beside other descriptors.
//!
//! Handlers, not a blocked mask: children inherit a mask, but never handlers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use libc::c_int;
use rustix::event::{EventfdFlags, eventfd};

use crate::Error;
use crate::wake::{Deadline, wait_readable};

/// What this program reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: the user pressed control-C.
    Interrupt,
    /// SIGTERM: somebody asks us to end.
    Terminate,
    /// SIGCHLD: a child has ended.
    Child,
    /// SIGHUP: look at the settings again.
    Hangup,
}

/// Receives the signals of the whole process. The descriptor can be read while one waits.
#[derive(Debug, Clone, Copy)]
pub struct Signals {
    event: &'static OwnedFd,
}

const WATCHED: [(c_int, Signal); 4] = [
    (libc::SIGINT, Signal::Interrupt),
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGCHLD, Signal::Child),
    (libc::SIGHUP, Signal::Hangup),
];

static EVENT: OnceLock<OwnedFd> = OnceLock::new();
/// `EVENT` for the handler, which must not touch anything that may lock.
static EVENT_NUMBER: AtomicI32 = AtomicI32::new(-1);
static PENDING: AtomicU32 = AtomicU32::new(0);

impl Signals {
    /// From now on these signals no longer end the process. Later calls give the same receiver.
    pub fn install() -> Result<Signals, Error> {
        let failed = |e: io::Error| Error::system("install signal handlers", e);
        if let Some(event) = EVENT.get() {
            return Ok(Signals { event });
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let event = EVENT.get_or_init(|| event);
        EVENT_NUMBER.store(event.as_raw_fd(), Ordering::Release);
        for (number, _) in WATCHED {
            handle(number).map_err(failed)?;
        }
        Ok(Signals { event })
    }

    /// Waits for a signal; `None` when the time is over. Equal ones that came together are one.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(signal) = self.take() {
                return Ok(Some(signal));
            }
            if wait_readable(&[self.event.as_fd()], deadline.left())?.is_empty() {
                return Ok(None);
            }
        }
    }

    fn take(&self) -> Option<Signal> {
        // The counter goes first: a signal in between raises it again, which costs one look too many.
        let _ = rustix::io::read(self.event, &mut [0u8; 8]);
        let pending = PENDING.load(Ordering::Acquire);
        let (number, signal) = WATCHED.into_iter().find(|(number, _)| pending & bit(*number) != 0)?;
        let others = PENDING.fetch_and(!bit(number), Ordering::AcqRel) & !bit(number);
        if others != 0 {
            raise_event(self.event.as_raw_fd());
        }
        Some(signal)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

fn bit(number: c_int) -> u32 {
    1 << number
}

fn handle(number: c_int) -> io::Result<()> {
    // SAFETY: `sigaction` is plain data for which zeros are valid; the handler does only what
    // signal-safety(7) allows; both pointers are to live data or null.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(number, &raw const action, std::ptr::null_mut())
    };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

extern "C" fn on_signal(number: c_int) {
    PENDING.fetch_or(bit(number), Ordering::AcqRel);
    raise_event(EVENT_NUMBER.load(Ordering::Acquire));
}

/// Safe in a signal handler: one system call, and errno as before.
fn raise_event(event: c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: errno is this thread's own; `write` reads eight bytes of a live array.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(event, one.as_ptr().cast(), one.len());
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;

    #[test]
    fn signals_wait_until_they_are_taken() {
        let signals = Signals::install().unwrap();
        let same = Signals::install().unwrap();
        kill_process(getpid(), Number::TERM).unwrap();
        kill_process(getpid(), Number::INT).unwrap();
        kill_process(getpid(), Number::INT).unwrap();
        // A child of another test may end meanwhile.
        let mut taken = Vec::new();
        while taken.len() < 2 {
            assert!(wait_readable(&[signals.as_fd()], None).unwrap().has(0));
            taken.extend(same.wait(None).unwrap().filter(|s| *s != Signal::Child));
        }
        taken.sort_by_key(|s| *s as u8);
        assert_eq!(taken, [Signal::Interrupt, Signal::Terminate]);
    }

    #[test]
    fn the_end_of_a_child_is_a_signal() {
        let signals = Signals::install().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while signals.wait(None).unwrap() != Some(Signal::Child) {}
        child.wait().unwrap();
    }
}
