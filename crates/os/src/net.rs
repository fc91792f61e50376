//! What the host's network looks like: interfaces, routes, gateways; and the changes to them.

mod changes;
mod types;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

pub use changes::Changes;
pub use types::{Interface, InterfaceAddress, Route};

use crate::netlink::{Netlink, Request, attributes, u16_at, u32_at};
use crate::{Error, Prefix};

const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// Every interface with its addresses, by index.
pub fn interfaces() -> Result<Vec<Interface>, Error> {
    let failed = |e: io::Error| Error::system("list network interfaces", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    let links = netlink
        .dump(libc::RTM_GETLINK, libc::RTM_NEWLINK, &[0; 16])
        .map_err(failed)?;
    let addresses = netlink
        .dump(libc::RTM_GETADDR, libc::RTM_NEWADDR, &[0; 8])
        .map_err(failed)?;
    let mut interfaces: Vec<Interface> = links.iter().filter_map(|body| parse_link(body)).collect();
    interfaces.sort_by_key(|i| i.index);
    for (index, address) in addresses.iter().filter_map(|body| parse_address(body)) {
        if let Some(interface) = interfaces.iter_mut().find(|i| i.index == index) {
            interface.addresses.push(address);
        }
    }
    Ok(interfaces)
}

/// Every unicast route, of both families and of every table but `local`.
pub fn routes() -> Result<Vec<Route>, Error> {
    let failed = |e: io::Error| Error::system("list routes", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    let bodies = netlink
        .dump(libc::RTM_GETROUTE, libc::RTM_NEWROUTE, &[0; 12])
        .map_err(failed)?;
    Ok(bodies.iter().filter_map(|body| parse_route(body)).collect())
}

/// The routers of the default routes, best first: where to ask for port mappings.
pub fn default_gateways() -> Result<Vec<(IpAddr, u32)>, Error> {
    let mut defaults = routes()?;
    defaults.retain(|r| r.destination.length() == 0 && r.table == MAIN_TABLE);
    defaults.sort_by_key(|r| r.metric);
    Ok(defaults
        .iter()
        .filter_map(|r| Some((r.gateway?, r.interface)))
        .collect())
}

/// The address this host would use towards `remote`; `None` when there is no way. Nothing is sent.
pub fn source_towards(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    const DISCARD_PORT: u16 = 9;
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(remote, DISCARD_PORT)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// The addresses that face the internet over the default routes: (IPv4, IPv6).
pub fn default_sources() -> (Option<IpAddr>, Option<IpAddr>) {
    // Documentation prefixes (RFC 5737, RFC 3849): only the default route leads there.
    let v4 = source_towards(Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = source_towards(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    (v4, v6)
}

/// The index of the interface with this name; `None` when there is none.
pub(crate) fn index_of(name: &str) -> Result<Option<u32>, Error> {
    Ok(interfaces()?.into_iter().find(|i| i.name == name).map(|i| i.index))
}

pub(crate) fn set_link_up(name: &str) -> Result<(), Error> {
    let doing = || format!("switch on interface {name}");
    let index = index_of(name)?.ok_or_else(|| Error::system(doing(), io::Error::from(io::ErrorKind::NotFound)))?;
    let mut netlink = Netlink::open().map_err(|e| Error::system(doing(), e))?;
    netlink
        .change(link_up_request(index))
        .map_err(|e| Error::net_admin(doing(), e))
}

pub(crate) fn link_up_request(index: u32) -> Request {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&up);
    body[12..16].copy_from_slice(&up);
    Request::new(libc::RTM_NEWLINK, 0, &body)
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn parse_link(body: &[u8]) -> Option<Interface> {
    let flags = u32_at(body, 8)?;
    let has = |flag: libc::c_int| flags & flag as u32 != 0;
    let mut interface = Interface {
        name: String::new(),
        index: u32_at(body, 4)?,
        up: has(libc::IFF_UP) && has(libc::IFF_RUNNING),
        loopback: has(libc::IFF_LOOPBACK),
        mtu: 0,
        addresses: Vec::new(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => interface.name = text(value),
            libc::IFLA_MTU => interface.mtu = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(interface)
}

fn parse_address(body: &[u8]) -> Option<(u32, InterfaceAddress)> {
    let (family, length) = (*body.first()?, *body.get(1)?);
    let mut flags = u32::from(*body.get(2)?);
    let (mut peer, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            libc::IFA_ADDRESS => peer = ip(value),
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let is_v6 = i32::from(family) == libc::AF_INET6;
    let has = |flag: u32| flags & flag != 0;
    let address = InterfaceAddress {
        prefix: Prefix::new(local.or(peer)?, length)?,
        // The same bit means "secondary" for IPv4.
        temporary: is_v6 && has(libc::IFA_F_TEMPORARY),
        deprecated: has(libc::IFA_F_DEPRECATED),
        tentative: has(libc::IFA_F_TENTATIVE) || has(libc::IFA_F_DADFAILED),
    };
    Some((u32_at(body, 4)?, address))
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let (family, length) = (i32::from(*body.first()?), *body.get(1)?);
    let mut table = u32::from(*body.get(4)?);
    let (kind, flags) = (*body.get(7)?, u32_at(body, 8)?);
    let any: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut to, mut interface, mut gateway, mut metric) = (any, None, None, 0);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_DST => to = ip(value)?,
            libc::RTA_OIF => interface = u32_at(value, 0),
            libc::RTA_GATEWAY => gateway = ip(value),
            libc::RTA_VIA => gateway = value.get(2..).and_then(ip),
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            libc::RTA_TABLE => table = u32_at(value, 0)?,
            libc::RTA_MULTIPATH => (interface, gateway) = first_hop(value)?,
            _ => {}
        }
    }
    let usable = kind == libc::RTN_UNICAST && flags & libc::RTM_F_CLONED == 0;
    let route = Route {
        destination: Prefix::new(to, length)?,
        interface: interface?,
        gateway,
        metric,
        table,
    };
    (usable && table != u32::from(libc::RT_TABLE_LOCAL)).then_some(route)
}

/// The first of the hops of a route over several (`struct rtnexthop`).
fn first_hop(value: &[u8]) -> Option<(Option<u32>, Option<IpAddr>)> {
    let length = usize::from(u16_at(value, 0)?);
    let mut gateway = None;
    for (kind, value) in attributes(value.get(8..length)?) {
        if kind == libc::RTA_GATEWAY {
            gateway = ip(value);
        }
    }
    Some((u32_at(value, 4), gateway))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::run_in_new;

    #[test]
    fn a_new_namespace_has_a_working_loopback_only() {
        run_in_new(|| {
            let found = interfaces().unwrap();
            let up: Vec<&Interface> = found.iter().filter(|i| i.up).collect();
            assert_eq!(up.len(), 1, "{found:?}");
            assert!(up[0].loopback && up[0].name == "lo" && up[0].mtu >= 16436);
            let addresses: Vec<String> = up[0].addresses.iter().map(|a| a.prefix.to_string()).collect();
            assert_eq!(addresses, ["127.0.0.1/8", "::1/128"]);
            assert_eq!(default_sources(), (None, None));
            assert_eq!(default_gateways().unwrap(), []);
            assert_eq!(
                source_towards(Ipv4Addr::LOCALHOST.into()),
                Some(Ipv4Addr::LOCALHOST.into())
            );
        })
        .unwrap();
    }

    #[test]
    fn kernel_bodies_cut_short_are_skipped() {
        for length in 0..12 {
            let body = vec![2; length];
            assert!(parse_link(&body).is_none());
            assert!(parse_address(&body).is_none());
            assert!(parse_route(&body).is_none());
        }
    }
}
