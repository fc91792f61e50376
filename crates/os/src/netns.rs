//! Network namespaces of single threads: how tests and labs keep away from the host's network.
//!
//! A namespace belongs to the calling thread, so a thread that enters one is dedicated to it; what it
//! creates (NICs, sockets, watchers) stays there whichever thread uses it later.

use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::Error;
use crate::net::set_link_up;

/// Moves the calling thread into a new network namespace that has nothing but a working loopback.
pub fn enter_new() -> Result<(), Error> {
    let error = |e: rustix::io::Errno| Error::net_admin("make a network namespace", e);
    // SAFETY: only NEWNET is given, so no other thread's view of descriptors changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(error)?;
    set_link_up("lo")
}

/// Moves the calling thread into the network namespace that `path` names, such as
/// `/run/netns/NAME` or `/proc/PID/ns/net`.
pub fn enter(path: &Path) -> Result<(), Error> {
    let doing = || format!("enter the network namespace {}", path.display());
    let namespace = std::fs::File::open(path).map_err(|e| Error::net_admin(doing(), e))?;
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind)
        .map_err(|e| Error::net_admin(doing(), e))
}

/// Runs `body` on a thread of its own in a new network namespace.
pub fn run_in_new<T: Send>(body: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new()?;
            Ok(body())
        });
        thread.join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
