//! Interfaces, addresses and routes as data.

use std::net::IpAddr;

use crate::Prefix;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// Whether it leads to this host only.
    pub loopback: bool,
    /// The largest frame without link header, in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address with the length of its subnet.
    pub prefix: Prefix,
    /// An IPv6 privacy address that is replaced from time to time (RFC 8981).
    pub temporary: bool,
    /// Still there, but not for new flows.
    pub deprecated: bool,
    /// Duplicate address detection has not finished, or found a duplicate: not usable.
    pub tentative: bool,
}

/// A route of the host, from any table but the one of its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// The interface it leaves by (the first, where it has several).
    pub interface: u32,
    /// The router, where there is one.
    pub gateway: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// The routing table; 254 is the main one.
    pub table: u32,
}
