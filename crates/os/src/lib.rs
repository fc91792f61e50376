//! Everything that touches the operating system: NICs, UDP sockets, interfaces and routes, the
//! system resolver, Unix sockets, files for secrets, signals, privileges.
//!
//! All calls block; there is no runtime and no thread inside. This is the only crate with `unsafe`
//! and with `cfg(target_os)`. Linux is implemented; elsewhere every entry point returns
//! [`Error::NotSupported`]. It knows nothing of networks, peers or keys.

#![allow(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![warn(missing_docs)]

mod error;
mod identity;
mod prefix;

pub use error::{Error, FileFault};
pub use identity::{Owner, PeerCredentials};
pub use prefix::{Prefix, PrefixParseError};

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::*;

#[cfg(target_os = "linux")]
mod cores;
#[cfg(target_os = "linux")]
mod dns;
#[cfg(target_os = "linux")]
mod listen;
#[cfg(target_os = "linux")]
mod lock;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
mod nic;
#[cfg(target_os = "linux")]
mod poller;
#[cfg(target_os = "linux")]
mod private;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod resolv_conf;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(all(test, target_os = "linux"))]
mod test_dir;
#[cfg(target_os = "linux")]
mod udp;
#[cfg(target_os = "linux")]
mod wake;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
pub use self::{
    cores::{Thread, cores},
    dns::DnsWiring,
    listen::{PrivateListener, own_identity, peer_credentials, send_now},
    lock::StateLock,
    net::{
        Changes, Interface, InterfaceAddress, Route, default_gateways, default_sources, interfaces, routes,
        source_towards,
    },
    nic::{Cut, Nic, NicConfig, NicKind, Offload, PIECES, PartialChecksum, VNET_HEADER, VnetError, VnetHeader},
    poller::{Found, Poller},
    private::{create_private_dir, read_private, write_atomic},
    process::{
        die_with_parent, give_up_capabilities, hang_up, has_net_admin, host_name, is_user_known, kill_all,
        memory_in_use, parent_process, put_first, release_code, run_as_unprivileged, terminate,
    },
    signals::{Signal, Signals},
    udp::{
        Batch, BufferSizes, Choice, Datagram, Family, Part, PerCore, SEND_WAIT, Steering, Train, UdpConfig, UdpCounts,
        UdpSockets, allow_fragments, is_too_big,
    },
    wake::{MAX_WAIT, Ready, Waker, wait_readable},
    watch::Watcher,
};
