//! NICs of networks as the operating system has them: made, addressed, named, and taken away again.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use api::NetworkId;
use api::link::{NamesConfig, NetworkConfig, NicKind};
use os::{DnsWiring, Nic, NicConfig, Prefix, Waker};

use super::abilities::Without;
use super::names::Names;
use super::resolver;
use super::workers::{self, NicQueues, Shared};

/// All NICs, owned by the engine.
pub(crate) struct Nics {
    shared: Shared,
    open: BTreeMap<NetworkId, Open>,
    names: Names,
}

struct Open {
    nic: Nic,
    queues: Vec<Nic>,
    config: NetworkConfig,
    answering: Option<Answering>,
}

/// A network's names as this machine's programs find them: a thread that answers, and the system's resolver told of it.
struct Answering {
    resolver: Waker,
    wiring: DnsWiring,
}

impl Nics {
    /// None yet; what a killed process left in the system's resolver is taken out.
    pub(crate) fn new(shared: Shared) -> Self {
        if let Err(error) = DnsWiring::sweep() {
            tracing::warn!(%error, "cannot look for names that a killed run left behind");
        }
        Self {
            shared,
            open: BTreeMap::new(),
            names: Names::default(),
        }
    }

    /// Makes a network's NIC, or changes its addresses; gives its name.
    pub(crate) fn set(&mut self, config: &NetworkConfig) -> anyhow::Result<String> {
        if let Some(open) = self.open.get_mut(&config.network) {
            open.change(config)?;
            return Ok(open.nic.name().to_owned());
        }
        let nic = make(config, self.shared.without)?;
        let name = nic.name().to_owned();
        self.open.insert(
            config.network,
            Open {
                queues: queues(&nic, self.shared.wakers.len())?,
                nic,
                config: config.clone(),
                answering: None,
            },
        );
        self.publish();
        Ok(name)
    }

    /// Takes a network's NIC, with its routes, and its names away; none there is fine.
    pub(crate) fn remove(&mut self, network: NetworkId) {
        self.remove_names(network);
        let Some(open) = self.open.remove(&network) else { return };
        self.publish();
        // Workers may hold the NIC for a moment longer.
        if let Err(error) = open.nic.remove() {
            tracing::warn!(%error, "a NIC stays until the process ends");
        }
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
        let Some(open) = self.open.get_mut(&network) else {
            return Ok(());
        };
        if open.answering.is_some() {
            return Ok(());
        }
        let addresses = open.config.addresses.iter().map(|cidr| cidr.address);
        let Some(own) = addresses.min_by_key(|address| !address.is_ipv4()) else {
            return Ok(());
        };
        let resolver = resolver::serve(&self.names, own)?;
        match DnsWiring::install(open.nic.name(), own, &[zone]) {
            Ok(wiring) => open.answering = Some(Answering { resolver, wiring }),
            Err(error) => {
                resolver.wake();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Answers none of a network's names any more.
    pub(crate) fn remove_names(&mut self, network: NetworkId) {
        self.names.remove(network);
        let Some(answering) = self.open.get_mut(&network).and_then(|open| open.answering.take()) else {
            return;
        };
        answering.resolver.wake();
        if let Err(error) = answering.wiring.remove() {
            tracing::warn!(%error, "names are not taken out of the system's resolver");
        }
    }

    /// Gives a frame to a network's NIC; one that is down or full drops it, as a wire does.
    pub(crate) fn send(&self, network: NetworkId, frame: &[u8]) {
        if let Some(open) = self.open.get(&network) {
            let _ = open.nic.send(frame);
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Nic> + Clone {
        self.open.values().map(|open| &open.nic)
    }

    /// The interfaces that are ours: their addresses are no way to reach us from outside.
    pub(crate) fn is_ours(&self, interface: &str) -> bool {
        self.open.values().any(|open| open.nic.name() == interface)
    }

    fn publish(&self) {
        let all = self
            .open
            .iter()
            .map(|(network, open)| NicQueues {
                network: *network,
                queues: open.queues.clone(),
            })
            .collect();
        self.shared.nics.set(Arc::new(all));
        self.shared.wakers.iter().for_each(os::Waker::wake);
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
}

fn make(config: &NetworkConfig, without: Without) -> anyhow::Result<Nic> {
    let kind = match config.kind {
        NicKind::Ip => os::NicKind::Tun,
        NicKind::Ethernet => os::NicKind::Tap,
    };
    let nic = without.make_nic(&NicConfig {
        name: config.nic.clone(),
        mtu: config.mtu,
        queues: true,
        ..NicConfig::new(kind)
    })?;
    nic.set_up(config.mtu)?;
    for address in &config.addresses {
        nic.add_address(prefix(*address)?)?;
    }
    Ok(nic)
}

/// All queues of a NIC, the one that it has and others.
fn queues(nic: &Nic, workers: usize) -> anyhow::Result<Vec<Nic>> {
    let mut queues = vec![nic.clone()];
    for _ in 1..workers * workers::QUEUES {
        queues.push(nic.another_queue()?);
    }
    Ok(queues)
}

fn prefix(cidr: api::Cidr) -> anyhow::Result<Prefix> {
    Prefix::new(cidr.address, cidr.prefix).with_context(|| format!("{cidr} is no subnet"))
}
