//! How large datagrams are that pass between a site and the internet.

use super::Rig;
use crate::namespace::Namespace;
use crate::{Failure, Host};

impl Rig {
    /// From now on larger IP datagrams do not pass between a host's site and the internet. For sites with a router nobody
    /// says a word: it and the internet keep their ICMP errors to themselves. Without one it is the host's own interface.
    pub fn set_mtu(&self, host: &Host, mtu: u16) -> Result<(), Failure> {
        let (outer, silent) = if host.site.has_router() {
            let router = Namespace::named(&self.name, &format!("{}-router", host.name));
            router.nft(SILENCE)?;
            (router, true)
        } else {
            (host.namespace.clone(), false)
        };
        if silent {
            self.internet.nft(SILENCE)?;
        }
        self.internet.ip(&format!("link set {} mtu {mtu}\n", host.uplink))?;
        outer.ip(&format!("link set wan0 mtu {mtu}\n"))
    }
}

/// RFC 1191 and RFC 4443 section 3.2 as many firewalls have them.
const SILENCE: &str = "add table inet silence
add chain inet silence output { type filter hook output priority 0; }
flush chain inet silence output
add rule inet silence output icmp type destination-unreachable icmp code frag-needed drop
add rule inet silence output icmpv6 type packet-too-big drop
";
