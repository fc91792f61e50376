//! NATs and firewalls as nftables rules. `wan0` is outside, `lan0` inside.

use std::net::Ipv4Addr;

/// How a router translates IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
}

/// What a router translates and lets through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Router {
    pub(crate) nat: Nat,
    pub(crate) udp_blocked: bool,
    /// Its address outside.
    pub(crate) public: Ipv4Addr,
    /// The host inside.
    pub(crate) host: Ipv4Addr,
}

impl Router {
    pub(crate) fn rules(self) -> String {
        let nat = match self.nat {
            Nat::PortRestricted => masquerade(""),
            Nat::Symmetric => masquerade("random,fully-random"),
            Nat::FullCone => self.full_cone(),
            Nat::AddressRestricted => self.address_restricted(),
        };
        let blocked = if self.udp_blocked {
            "oifname wan0 meta l4proto udp drop\n oifname wan0 tcp dport != 443 drop"
        } else {
            ""
        };
        format!("{nat}\n{}", guard(blocked))
    }

    /// A mapping lets everybody in; a port that nobody mapped leads to the host too, so that filtering is independent from the
    /// first datagram on. Datagrams from inside to the public address turn back.
    fn full_cone(self) -> String {
        let Self { public, host, .. } = self;
        format!(
            "table ip nat {{
 map own {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }}
 chain remember {{ type filter hook postrouting priority -10;
  oifname wan0 meta l4proto udp update @own {{ udp sport : ip saddr . udp sport }}
 }}
 chain pre {{ type nat hook prerouting priority -100;
  ip daddr {public} meta l4proto udp dnat ip to udp dport map @own
  ip daddr {public} meta l4proto udp dnat to {host}
 }}
 chain post {{ type nat hook postrouting priority 100;
  oifname lan0 ip saddr {host} ct status dnat snat to {public}
  oifname wan0 snat to {public} persistent
 }}
}}"
        )
    }

    fn address_restricted(self) -> String {
        let public = self.public;
        format!(
            "table ip nat {{
 map own {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }}
 set seen {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }}
 chain remember {{ type filter hook postrouting priority -10;
  oifname wan0 meta l4proto udp update @own {{ udp sport : ip saddr . udp sport }}
  oifname wan0 meta l4proto udp update @seen {{ ip daddr . udp sport }}
 }}
 chain pre {{ type nat hook prerouting priority -100;
  iifname wan0 ip saddr . udp dport @seen dnat ip to udp dport map @own
 }}
 chain post {{ type nat hook postrouting priority 100;
  oifname wan0 snat to {public} persistent
 }}
}}"
        )
    }
}

fn masquerade(how: &str) -> String {
    format!(
        "table ip nat {{
 chain post {{ type nat hook postrouting priority 100;
  oifname wan0 masquerade {how}
 }}
}}"
    )
}

/// Who was not asked is not let in. What comes unasked is dropped, not rejected: a rejection would leave a conntrack entry, and
/// with it take the mapping away from a host that punches a moment later.
fn guard(first: &str) -> String {
    format!(
        "table inet guard {{
 chain forward {{ type filter hook forward priority 0; policy drop;
  {first}
  ct status dnat accept
  ct state established,related accept
  meta l4proto ipv6-icmp accept
  iifname wan0 drop
  accept
 }}
 chain input {{ type filter hook input priority 0; policy drop;
  iifname != wan0 accept
  ct state established,related accept
  meta l4proto {{ icmp, ipv6-icmp }} accept
 }}
}}"
    )
}

/// A host's own firewall.
pub(crate) fn host_firewall() -> String {
    guard("")
}
