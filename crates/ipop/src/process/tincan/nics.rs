//! NICs of networks as the operating system has them: made, addressed, named, and taken away again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use api::NetworkId;
use api::link::{NamesConfig, NetworkConfig, NicKind};
use os::{DnsWiring, Nic, NicConfig, Prefix};
use tincan::fast::Lanes;

use super::resolver::{self, Names};
use super::workers::{self, Shared};

/// All NICs, owned by the engine.
pub(crate) struct Nics {
    shared: Shared,
    open: BTreeMap<NetworkId, Open>,
    names: Names,
    /// Lanes of workers that ended: their counters go on.
    resting: Vec<Lanes>,
    /// The number of the next worker's lanes; 0 is the engine's.
    next_lanes: u8,
}

struct Open {
    nic: Nic,
    config: NetworkConfig,
    worker: JoinHandle<Lanes>,
    wiring: Option<DnsWiring>,
}

impl Nics {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, open: BTreeMap::new(), names: Names::default(), resting: Vec::new(), next_lanes: 1 }
    }

    /// Makes a network's NIC, or changes its addresses; gives its name.
    pub(crate) fn set(&mut self, config: &NetworkConfig) -> anyhow::Result<String> {
        if let Some(open) = self.open.get_mut(&config.network) {
            open.change(config)?;
            return Ok(open.nic.name().to_owned());
        }
        let nic = make(config)?;
        let name = nic.name().to_owned();
        let lanes = self.lanes()?;
        let worker = workers::start_sender(&self.shared, config.network, nic.clone(), lanes)?;
        self.open.insert(config.network, Open { nic, config: config.clone(), worker, wiring: None });
        self.publish();
        Ok(name)
    }

    /// Takes a network's NIC, with its routes, and its names away; none there is fine.
    pub(crate) fn remove(&mut self, network: NetworkId) {
        self.names.remove(network);
        let Some(open) = self.open.remove(&network) else { return };
        self.publish();
        self.resting.extend(open.end());
    }

    /// Takes everything away.
    pub(crate) fn remove_all(&mut self) {
        for network in self.open.keys().copied().collect::<Vec<_>>() {
            self.remove(network);
        }
    }

    /// Replaces the names that the resolver answers for a network, and wires it into the system's resolver the first time.
    pub(crate) fn set_names(&mut self, config: NamesConfig) -> anyhow::Result<()> {
        let network = config.network;
        let zone = config.zone.clone();
        self.names.set(config);
        let Some(open) = self.open.get_mut(&network) else { return Ok(()) };
        if open.wiring.is_some() {
            return Ok(());
        }
        let addresses = open.config.addresses.iter().map(|cidr| cidr.address);
        let Some(own) = addresses.min_by_key(|address| !address.is_ipv4()) else { return Ok(()) };
        resolver::serve(&self.names, network, own)?;
        open.wiring = Some(DnsWiring::install(open.nic.name(), own, &[zone])?);
        Ok(())
    }

    /// Gives a frame to a network's NIC; one that is down or full drops it, as a wire does.
    pub(crate) fn send(&self, network: NetworkId, frame: &[u8]) {
        if let Some(open) = self.open.get(&network) {
            let _ = open.nic.send(frame);
        }
    }

    /// The interfaces that are ours: their addresses are no way to reach us from outside.
    pub(crate) fn is_ours(&self, interface: &str) -> bool {
        self.open.values().any(|open| open.nic.name() == interface)
    }

    fn lanes(&mut self) -> anyhow::Result<Lanes> {
        if let Some(lanes) = self.resting.pop() {
            return Ok(lanes);
        }
        let lanes = Lanes::new(self.next_lanes).context("too many networks at a time")?;
        self.next_lanes += 1;
        Ok(lanes)
    }

    fn publish(&self) {
        let all = self.open.iter().map(|(network, open)| (*network, open.nic.clone())).collect();
        self.shared.nics.set(Arc::new(all));
    }
}

impl Open {
    fn change(&mut self, config: &NetworkConfig) -> anyhow::Result<()> {
        if self.config.mtu != config.mtu {
            self.nic.set_mtu(config.mtu)?;
        }
        let (old, new) = (&self.config.addresses, &config.addresses);
        for gone in old.iter().filter(|cidr| !new.contains(cidr)) {
            self.nic.remove_address(prefix(*gone)?)?;
        }
        for come in new.iter().filter(|cidr| !old.contains(cidr)) {
            self.nic.add_address(prefix(*come)?)?;
        }
        self.config = config.clone();
        Ok(())
    }

    fn end(self) -> Option<Lanes> {
        if let Some(wiring) = self.wiring
            && let Err(error) = wiring.remove()
        {
            tracing::warn!(%error, "names are not taken out of the system's resolver");
        }
        self.nic.waker().wake();
        self.worker.join().ok()
    }
}

fn make(config: &NetworkConfig) -> anyhow::Result<Nic> {
    let kind = match config.kind {
        NicKind::Ip => os::NicKind::Tun,
        NicKind::Ethernet => os::NicKind::Tap,
    };
    if let Some(name) = &config.nic {
        // What a killed process may have left in the resolver goes with the NIC that it was for.
        let _ = DnsWiring::remove_stale(name);
    }
    let nic = Nic::create(&NicConfig { name: config.nic.clone(), mtu: config.mtu, ..NicConfig::new(kind) })?;
    nic.set_up(config.mtu)?;
    for address in &config.addresses {
        nic.add_address(prefix(*address)?)?;
    }
    Ok(nic)
}

fn prefix(cidr: api::Cidr) -> anyhow::Result<Prefix> {
    Prefix::new(cidr.address, cidr.prefix).with_context(|| format!("{cidr} is no subnet"))
}
