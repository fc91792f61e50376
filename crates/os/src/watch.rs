//! Being told that the host's network has changed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::net::Changes;
use crate::netlink::{Netlink, messages};
use crate::wake::{Deadline, wait_or_woken};
use crate::{Error, Waker};

/// Watches interfaces, addresses and routes of the network namespace it was opened in.
pub struct Watcher {
    netlink: Netlink,
    waker: Waker,
}

impl Watcher {
    /// Starts watching: no change after this is missed.
    pub fn new() -> Result<Watcher, Error> {
        let failed = |e: io::Error| Error::system("watch the network interfaces", e);
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV6_ROUTE;
        let netlink = Netlink::listen(groups as u32).map_err(failed)?;
        let waker = Waker::new().map_err(failed)?;
        Ok(Watcher { netlink, waker })
    }

    /// Ends a `wait`.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for changes and gives all there are; `None` when the time is over first,
    /// an error of kind `Interrupted` when woken.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Changes>> {
        let deadline = Deadline::after(timeout);
        loop {
            self.waker.check()?;
            let changes = self.drain()?;
            if changes.any() {
                return Ok(Some(changes));
            }
            if !wait_or_woken(self.netlink.as_fd(), &self.waker, deadline.left())? {
                return Ok(None);
            }
        }
    }

    fn drain(&self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.netlink.receive(&mut buffer) {
                Ok(bytes) => messages(bytes).for_each(|m| changes.note(m.kind)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                // The kernel had more to say than the socket holds: anything may have changed.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes = Changes {
                        links: true,
                        addresses: true,
                        routes: true,
                    };
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Changes {
    fn note(&mut self, kind: u16) {
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.links = true,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.addresses = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.routes = true,
            _ => {}
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::run_in_new;
    use crate::{Nic, NicConfig, NicKind};

    #[test]
    fn a_new_address_is_seen() {
        run_in_new(|| {
            let nic = Nic::create(&NicConfig::new(NicKind::Tun)).unwrap();
            let watcher = Watcher::new().unwrap();
            assert_eq!(watcher.wait(Some(Duration::ZERO)).unwrap(), None);
            nic.add_address("10.77.0.1/24".parse().unwrap()).unwrap();
            let changes = watcher.wait(None).unwrap().unwrap();
            assert!(changes.addresses && !changes.links, "{changes:?}");
            nic.set_up(1300).unwrap();
            while !watcher.wait(None).unwrap().unwrap().links {}
        })
        .unwrap();
    }

    #[test]
    fn a_wait_can_be_ended() {
        let watcher = Watcher::new().unwrap();
        watcher.waker().wake();
        assert_eq!(watcher.wait(None).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
