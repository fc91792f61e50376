//! Network interfaces of our own (TUN and TAP).
//!
//! A NIC vanishes with its last descriptor, also after `kill -9`. Nothing blocks: a `Poller` waits. Addresses and
//! routes are set in the network namespace that the NIC was created in, whichever thread asks.

mod config;
mod device;
mod steering;
mod vnet;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

pub use config::{NicConfig, NicKind, Offload};
pub use vnet::{Cut, PartialChecksum, VNET_HEADER, VnetError, VnetHeader};

use crate::net::{link_up_request, octets};
use crate::netlink::{Netlink, Request};
use crate::{Error, PerCore, Prefix};

/// One queue of a network interface. Clones share it; any number of threads may use it.
#[derive(Clone)]
pub struct Nic(Arc<Inner>);

struct Inner {
    queue: OwnedFd,
    device: Arc<Device>,
}

/// What all queues of an interface share.
struct Device {
    name: String,
    kind: NicKind,
    offload: Offload,
    queues: bool,
    index: u32,
    /// In its namespace.
    netlink: Mutex<Netlink>,
}

/// Frames that wait at each queue at most. Who reads them may have to wait for a core for a tick of the scheduler (4 ms at 250 Hz),
/// in which one sender that has the other core brings 3000 small frames (1.4 us each). Floods both ways with both ends and the load on
/// two cores, 280,000 frames a second each: with the kernel's 500 0.5 to 1.7 % are lost, with 2000 up to 0.3 %, with 4000 none.
const QUEUE_FRAMES: u32 = 4000;
/// A kernel's own: fewer make no sense.
const QUEUE_FRAMES_LEAST: u32 = 500;
/// Of the machine's memory, what one queue full of frames of 1500 bytes may take (super-frames take more): a sixteenth for the 16 of
/// a machine with two cores.
const QUEUE_SHARE: u64 = 256;
/// What a frame of 1500 bytes takes of the kernel's memory as it waits.
const FRAME_MEMORY: u64 = 2304;

/// Bytes of the machine's memory.
fn memory() -> u64 {
    let seen = rustix::system::sysinfo();
    // 32 bits wide where pointers are.
    (seen.totalram as u64).saturating_mul(u64::from(seen.mem_unit))
}

/// How many frames may wait at a queue of a machine with so many bytes of memory.
fn queue_frames(memory: u64) -> u32 {
    let frames = memory / QUEUE_SHARE / FRAME_MEMORY;
    u32::try_from(frames).map_or(QUEUE_FRAMES, |frames| frames.clamp(QUEUE_FRAMES_LEAST, QUEUE_FRAMES))
}

/// Pieces of one frame that `Nic::send_pieces` takes.
pub const PIECES: usize = 64;

impl Nic {
    /// Makes an interface in the calling thread's network namespace. It is down and has no address.
    pub fn create(config: &NicConfig) -> Result<Nic, Error> {
        let opened = device::create(config)?;
        let doing = format!("set up interface {}", opened.name);
        let netlink = Netlink::open().map_err(|e| Error::system(&doing, e))?;
        let index = crate::net::index_of(&opened.name)?
            .ok_or_else(|| Error::system(&doing, io::Error::from(io::ErrorKind::NotFound)))?;
        let device = Device {
            name: opened.name,
            kind: config.kind,
            offload: opened.offload,
            queues: config.queues,
            index,
            netlink: Mutex::new(netlink),
        };
        let nic = Nic::over(opened.queue, Arc::new(device));
        nic.set_mtu(config.mtu)?;
        nic.set_queue_frames(queue_frames(memory()))?;
        Ok(nic)
    }

    /// Another queue of the same interface: the kernel spreads flows over all of them.
    pub fn another_queue(&self) -> Result<Nic, Error> {
        let device = &self.0.device;
        if !device.queues {
            return Err(Error::NotSupported {
                what: "a second queue of a NIC made for one",
            });
        }
        let queue = device::attach(&device.name, device.kind, device.offload)?;
        Ok(Nic::over(queue, Arc::clone(device)))
    }

    /// From now on the frames that a core hands over wait at that core's queue, in the order in which the queues were made; refused where
    /// the process may not load a program into the kernel (CAP_BPF, Linux 4.16).
    pub fn wait_by_core(&self, per_core: PerCore) -> io::Result<()> {
        steering::by_core(&self.0.queue, per_core)
    }

    /// From now on frames wait at the queue that was written to last with frames of their flow, as they do at first.
    pub fn wait_by_flow(&self) -> io::Result<()> {
        steering::by_flow(&self.0.queue)
    }

    /// Removes the persistent, unused TUN or TAP interface of this name, if there is one. An
    /// interface that is in use, or is of another kind, is an error and stays.
    pub fn remove_stale(name: &str) -> Result<bool, Error> {
        if crate::net::index_of(name)?.is_none() {
            return Ok(false);
        }
        device::remove(name).map(|()| true)
    }

    fn over(queue: OwnedFd, device: Arc<Device>) -> Nic {
        Nic(Arc::new(Inner { queue, device }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.device.name
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.0.device.index
    }

    /// What it carries.
    pub fn kind(&self) -> NicKind {
        self.0.device.kind
    }

    /// What the kernel accepted of the offload asked for.
    pub fn offload(&self) -> Offload {
        self.0.device.offload
    }

    /// Gives a frame to the host.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        if self.0.device.offload.header {
            return self.write(&[&VnetHeader::default().to_bytes(), frame]);
        }
        self.write(&[frame])
    }

    /// Takes what is there, header included on a NIC with offload; `None`: nothing is.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.0.queue, &mut *buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(Some(length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Like `send` of a frame that lies in pieces, at most [`PIECES`], and that `header` describes; a NIC without
    /// offload takes only ordinary frames with finished checksums.
    pub fn send_pieces<'a>(&self, header: &VnetHeader, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let header_bytes = header.to_bytes();
        let mut all: [&[u8]; PIECES + 1] = [&[]; PIECES + 1];
        let mut count = 0;
        if self.0.device.offload.header {
            all[0] = &header_bytes;
            count = 1;
        } else if header.cut != Cut::Whole || header.checksum.is_some() {
            self.need_header()?;
        }
        for piece in pieces {
            *all.get_mut(count).ok_or(io::ErrorKind::InvalidInput)? = piece;
            count += 1;
        }
        self.write(&all[..count])
    }

    fn need_header(&self) -> io::Result<()> {
        if self.0.device.offload.header {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this NIC has no offload: it takes ordinary frames with finished checksums",
        ))
    }

    fn write(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices = [io::IoSlice::new(&[]); PIECES + 1];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = io::IoSlice::new(part);
        }
        loop {
            match rustix::io::writev(&self.0.queue, &slices[..parts.len()]) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Nic {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.queue.as_fd()
    }
}

/// Settings in the kernel.
impl Nic {
    /// Switches the interface on, with this MTU.
    pub fn set_up(&self, mtu: u16) -> Result<(), Error> {
        self.change("switch on", |index| {
            link_up_request(index).attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())
        })
    }

    /// Changes the MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        self.change(&format!("set MTU {mtu} of"), |index| {
            let mut body = [0; 16];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            Request::new(libc::RTM_NEWLINK, 0, &body).attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())
        })
    }

    fn set_queue_frames(&self, frames: u32) -> Result<(), Error> {
        self.change("set the queue length of", |index| {
            let mut body = [0; 16];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            Request::new(libc::RTM_NEWLINK, 0, &body).attribute(libc::IFLA_TXQLEN, &frames.to_ne_bytes())
        })
    }

    /// Sets the Ethernet address of a TAP.
    pub fn set_ethernet_address(&self, address: [u8; 6]) -> Result<(), Error> {
        self.change("set the Ethernet address of", |index| {
            let mut body = [0; 16];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            Request::new(libc::RTM_NEWLINK, 0, &body).attribute(libc::IFLA_ADDRESS, &address)
        })
    }

    /// Adds an address and, with it, the route to its subnet. One that is already there is fine.
    pub fn add_address(&self, address: Prefix) -> Result<(), Error> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.change(&format!("add address {address} to"), |index| {
            address_request(libc::RTM_NEWADDR, flags, index, address)
        })
    }

    /// Takes an address away. One that is not there is fine.
    pub fn remove_address(&self, address: Prefix) -> Result<(), Error> {
        let gone = self.change(&format!("remove address {address} from"), |index| {
            address_request(libc::RTM_DELADDR, 0, index, address)
        });
        forgive(gone, &[libc::EADDRNOTAVAIL])
    }

    /// Leads a prefix into this interface. Replaces a route of ours to the same prefix.
    pub fn add_route(&self, destination: Prefix) -> Result<(), Error> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.change(&format!("route {destination} to"), |index| {
            route_request(libc::RTM_NEWROUTE, flags, index, destination)
        })
    }

    /// Ends that. A route that is not there is fine.
    pub fn remove_route(&self, destination: Prefix) -> Result<(), Error> {
        let gone = self.change(&format!("take route {destination} from"), |index| {
            route_request(libc::RTM_DELROUTE, 0, index, destination)
        });
        forgive(gone, &[libc::ESRCH, libc::ENOENT])
    }

    /// Takes the interface away, with its addresses and routes, whoever else still holds it open.
    pub fn remove(&self) -> Result<(), Error> {
        let gone = self.change("take away", |index| {
            let mut body = [0; 16];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            Request::new(libc::RTM_DELLINK, 0, &body)
        });
        forgive(gone, &[libc::ENODEV])
    }

    fn change(&self, doing: &str, request: impl FnOnce(u32) -> Request) -> Result<(), Error> {
        let mut netlink = self.0.device.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        netlink
            .change(request(self.0.device.index))
            .map_err(|e| Error::net_admin(format!("{doing} interface {}", self.name()), e))
    }
}

fn address_request(kind: u16, flags: u16, index: u32, address: Prefix) -> Request {
    let mut body = [0; 8];
    body[0] = family(address);
    body[1] = address.length();
    // Our own network has no duplicates to detect, and waiting a second would keep the address from use.
    body[2] = if address.address().is_ipv6() {
        libc::IFA_F_NODAD as u8
    } else {
        0
    };
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let octets = octets(address.address());
    Request::new(kind, flags, &body)
        .attribute(libc::IFA_LOCAL, &octets)
        .attribute(libc::IFA_ADDRESS, &octets)
}

fn route_request(kind: u16, flags: u16, index: u32, destination: Prefix) -> Request {
    let destination = destination.network();
    let mut body = [0; 12];
    body[0] = family(destination);
    body[1] = destination.length();
    body[4] = libc::RT_TABLE_MAIN;
    body[5] = libc::RTPROT_STATIC;
    body[6] = if destination.address().is_ipv4() {
        libc::RT_SCOPE_LINK
    } else {
        libc::RT_SCOPE_UNIVERSE
    };
    body[7] = libc::RTN_UNICAST;
    Request::new(kind, flags, &body)
        .attribute(libc::RTA_DST, &octets(destination.address()))
        .attribute(libc::RTA_OIF, &index.to_ne_bytes())
}

fn family(prefix: Prefix) -> u8 {
    if prefix.address().is_ipv4() {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

fn forgive(outcome: Result<(), Error>, codes: &[i32]) -> Result<(), Error> {
    match outcome {
        Err(Error::System { source, .. }) if source.raw_os_error().is_some_and(|c| codes.contains(&c)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod tests;
