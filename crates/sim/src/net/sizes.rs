//! Wires that change: the largest datagrams that ways and kernels take.
//!
//! Promises: what is on its way already arrives. Refuses to know: ICMP; no gateway says a word.

use std::net::IpAddr;

use super::{HostId, Net};
use crate::wire::{Wire, ip_size};

impl Net {
    /// Changes the wire of a host.
    pub fn set_wire(&mut self, host: HostId, wire: Wire) {
        self.hosts[host.0].line.wire = wire;
    }

    /// From now on the way from a host to the internet and back loses larger IP datagrams without a word.
    pub fn set_mtu(&mut self, host: HostId, mtu: usize) {
        self.hosts[host.0].line.wire.mtu = mtu;
        for realm in self.realms_above(self.hosts[host.0].realm) {
            self.realms[realm.0].line.wire.mtu = mtu;
        }
    }

    /// From now on the kernel of a host refuses to send larger IP datagrams.
    pub fn set_interface(&mut self, host: HostId, mtu: usize) {
        self.hosts[host.0].interface = mtu;
    }

    /// Whether the kernel of a host would send so many bytes of UDP there.
    pub fn takes(&self, host: HostId, target: IpAddr, bytes: usize) -> bool {
        ip_size(target, bytes) <= self.hosts[host.0].interface
    }
}
