//! Everything that touches the operating system: NICs, UDP sockets, interfaces and routes, the
//! system resolver, Unix sockets, files for secrets, signals, privileges.
//!
//! All calls block; there is no runtime and no thread inside. This is the only crate with `unsafe`
//! and with `cfg(target_os)`. Linux is implemented; elsewhere every entry point returns
//! [`Error::NotSupported`]. It knows nothing of networks, peers or keys.

#![allow(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![warn(missing_docs)]

mod dns;
mod error;
mod listen;
mod lock;
mod net;
mod netlink;
pub mod netns;
mod nic;
mod prefix;
mod private;
mod process;
mod resolv_conf;
mod signals;
#[cfg(test)]
mod test_dir;
mod udp;
mod wake;
mod watch;

pub use dns::DnsWiring;
pub use error::{Error, FileFault};
pub use listen::{Owner, PeerCredentials, PrivateListener, own_identity, peer_credentials};
pub use lock::StateLock;
pub use net::{
    Interface, InterfaceAddress, Route, default_gateways, default_sources, interfaces, routes, source_towards,
};
pub use nic::{Cut, Nic, NicConfig, NicKind, Offload, PartialChecksum, VNET_HEADER, VnetError, VnetHeader};
pub use prefix::{Prefix, PrefixParseError};
pub use private::{create_private_dir, read_private, write_atomic};
pub use process::{die_with_parent, has_net_admin, memory_in_use, parent_process, run_as_unprivileged};
pub use signals::{Signal, Signals};
pub use udp::{Batch, BufferSizes, Datagram, Family, SEND_WAIT, UdpConfig, UdpCounts, UdpSockets, is_too_big};
pub use wake::{MAX_WAIT, Ready, Waker, wait_readable};
pub use watch::{Changes, Watcher};
