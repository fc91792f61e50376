//! A port on the router, asked for by PCP or NAT-PMP (RFC 6887, RFC 6886), so that peers behind hard NATs reach us directly.
//!
//! Promises: at most one mapping at a time, renewed at half its life and given back at the end; a router that does not do it is
//! asked again only when the network changes or after ten minutes.
//! Refuses to know: UPnP, and what becomes of the address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use tokio::sync::watch;

use super::Wake;

/// A router in the house answers in milliseconds: 250, 500 and 1000 ms (RFC 6886 section 3.1 begins so, too).
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};
const LIFETIME_S: u32 = 7200;
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// How long the end may wait for the router.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where we are, as a router sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The router.
    pub(crate) gateway: Ipv4Addr,
    /// Our address and port towards it.
    pub(crate) own: (Ipv4Addr, NonZeroU16),
}

impl Place {
    /// The place where a mapping could help: behind a NAT, as our address is not public.
    pub(crate) fn now(port: u16) -> Option<Self> {
        let (Some(IpAddr::V4(own)), _) = os::default_sources() else {
            return None;
        };
        let gateways = os::default_gateways().ok()?;
        let gateway = gateways.into_iter().find_map(|(gateway, _)| match gateway {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        })?;
        let port = NonZeroU16::new(port)?;
        is_inside(own).then_some(Self {
            gateway,
            own: (own, port),
        })
    }
}

/// Addresses that are not reached from outside: RFC 1918, and RFC 6598 of carriers.
fn is_inside(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || (a == 100 && b & 0xC0 == 64)
}

/// What came of asking.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The router passes `external` on to `internal`.
    Mapped {
        external: SocketAddr,
        internal: SocketAddr,
        lifetime: Duration,
        protocol: &'static str,
    },
    /// It does not.
    None,
}

/// Asks in a thread of its own.
pub(crate) struct Mapper {
    place: Option<watch::Sender<Option<Place>>>,
    thread: Option<JoinHandle<()>>,
}

impl Mapper {
    pub(crate) fn start(wakes: SyncSender<Wake>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (place, places) = watch::channel(None);
        let work = move || runtime.block_on(keep_mapped(places, wakes));
        let thread = std::thread::Builder::new().name("port-mapping".into()).spawn(work)?;
        Ok(Self {
            place: Some(place),
            thread: Some(thread),
        })
    }

    /// From now on we are here; none: no mapping is wanted.
    pub(crate) fn set_place(&self, place: Option<Place>) {
        if let Some(sender) = &self.place {
            sender.send_if_modified(|old| std::mem::replace(old, place) != place);
        }
    }
}

impl Drop for Mapper {
    /// Gives the mapping back.
    fn drop(&mut self) {
        drop(self.place.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn keep_mapped(mut places: watch::Receiver<Option<Place>>, wakes: SyncSender<Wake>) {
    loop {
        let place = *places.borrow_and_update();
        let moved = match place {
            None => places.changed().await,
            Some(place) => tokio::select! {
                moved = places.changed() => moved,
                mapped = Mapped::ask(place) => match mapped {
                    Some(mapped) => mapped.hold(&mut places, &wakes).await,
                    None => {
                        let _ = wakes.send(Wake::Mapping(Outcome::None));
                        tokio::time::timeout(TRY_AGAIN, places.changed()).await.unwrap_or(Ok(()))
                    }
                },
            },
        };
        if moved.is_err() {
            return;
        }
    }
}

/// A mapping that the router has made.
struct Mapped {
    place: Place,
    mapping: PortMapping,
    external: Ipv4Addr,
    protocol: &'static str,
}

impl Mapped {
    async fn ask(place: Place) -> Option<Self> {
        let (own, port) = place.own;
        let options = PortMappingOptions {
            external_port: Some(port),
            lifetime_seconds: Some(LIFETIME_S),
            timeout_config: Some(PATIENCE),
        };
        let gateway = place.gateway.into();
        let asked = PortMapping::new(gateway, own.into(), InternetProtocol::Udp, port, options).await;
        let mapping = match asked {
            Ok(mapping) => mapping,
            // Routers that know NAT-PMP only may be silent when spoken to in PCP.
            Err(_) => natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options)
                .await
                .ok()?,
        };
        let (external, protocol) = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => (v4(external_ip)?, "pcp"),
            PortMappingType::NatPmp => (natpmp::external_address(gateway, Some(PATIENCE)).await.ok()?, "nat_pmp"),
        };
        // A router behind another NAT maps to an address that nobody reaches.
        let helps = !is_inside(external) && !external.is_unspecified();
        helps.then_some(Self {
            place,
            mapping,
            external,
            protocol,
        })
    }

    /// Renews until we are elsewhere or the router forgets us; then gives the mapping back.
    async fn hold(
        mut self,
        places: &mut watch::Receiver<Option<Place>>,
        wakes: &SyncSender<Wake>,
    ) -> Result<(), watch::error::RecvError> {
        loop {
            let _ = wakes.send(Wake::Mapping(self.outcome()));
            let half = (self.left() / 2).max(Duration::from_secs(1));
            match tokio::time::timeout(half, places.changed()).await {
                Err(_) if self.mapping.renew().await.is_ok() => {}
                Err(_) => return Ok(()),
                Ok(moved) => {
                    let _ = tokio::time::timeout(FAREWELL, self.mapping.try_drop()).await;
                    return moved;
                }
            }
        }
    }

    fn left(&self) -> Duration {
        self.mapping.expiration().saturating_duration_since(Instant::now())
    }

    fn outcome(&self) -> Outcome {
        let (own, port) = self.place.own;
        Outcome::Mapped {
            external: SocketAddr::from((self.external, self.mapping.external_port().get())),
            internal: SocketAddr::from((own, port.get())),
            lifetime: self.left(),
            protocol: self.protocol,
        }
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_inside_need_a_router() {
        for (address, inside) in [
            ("192.168.1.2", true),
            ("10.0.0.1", true),
            ("172.31.255.255", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.1", false),
            ("203.0.113.9", false),
            ("172.32.0.1", false),
        ] {
            assert_eq!(is_inside(address.parse().expect(address)), inside, "{address}");
        }
    }
}
