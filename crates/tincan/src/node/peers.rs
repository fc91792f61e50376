//! A network and its peers as the engine keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use api::NodeId;
use api::link::{NetworkConfig, PeerConfig, ServersConfig};

use super::CallId;
use crate::forward::{Drops, Rate, Staged};
use crate::keys::NodeKey;
use crate::limits;
use crate::link::LinkId;
use crate::signal::Stamp;
use crate::transit::PeerNumber;

/// One network.
pub(super) struct Network {
    pub(super) config: NetworkConfig,
    pub(super) key: NodeKey,
    pub(super) nic: Nic,
    pub(super) servers: ServersConfig,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Which peer has an inner address.
    pub(super) owners: BTreeMap<IpAddr, NodeId>,
    pub(super) drops: Arc<Drops>,
    /// Orders our signals; an instance of its own, so that two networks cannot tell one device by it.
    pub(super) stamp: Stamp,
    pub(super) group_rate: Rate,
    pub(super) icmp_rate: Rate,
}

/// How a network's NIC stands.
#[derive(Default)]
pub(super) struct Nic {
    pub(super) name: Option<String>,
    pub(super) fault: Option<String>,
    /// `network.create` calls that wait for it, in the order of their effects.
    pub(super) waiting: VecDeque<CallId>,
}

impl Network {
    pub(super) fn new(config: NetworkConfig, key: NodeKey, instance: u64) -> Self {
        Self {
            config,
            key,
            nic: Nic::default(),
            servers: ServersConfig::default(),
            peers: BTreeMap::new(),
            owners: BTreeMap::new(),
            drops: Arc::default(),
            stamp: Stamp { instance, number: 0 },
            group_rate: Rate::new(limits::GROUP_FRAMES_PER_SECOND, limits::GROUP_FRAMES_BURST),
            icmp_rate: Rate::new(limits::ICMP_PER_SECOND, limits::ICMP_BURST),
        }
    }

    /// Our inner addresses.
    pub(super) fn own(&self) -> Vec<IpAddr> {
        self.config.addresses.iter().map(|cidr| cidr.address).collect()
    }

    pub(super) fn next_stamp(&mut self) -> Stamp {
        self.stamp.number += 1;
        self.stamp
    }
}

/// One peer.
pub(super) struct Peer {
    pub(super) config: PeerConfig,
    pub(super) number: PeerNumber,
    pub(super) allowed: Arc<[IpAddr]>,
    /// The link that is up.
    pub(super) current: Option<LinkId>,
    /// The link that is being made, beside the other where there is one.
    pub(super) attempt: Option<LinkId>,
    pub(super) staged: Staged,
    pub(super) wanted: Rate,
    pub(super) signals: Rate,
    pub(super) heard: StampBook,
}

impl Peer {
    pub(super) fn new(config: PeerConfig, number: PeerNumber) -> Self {
        Self {
            number,
            allowed: config.addresses.iter().copied().collect(),
            config,
            current: None,
            attempt: None,
            staged: Staged::default(),
            wanted: Rate::new(1, 1),
            signals: Rate::new(limits::SIGNALS_PER_SECOND, limits::SIGNALS_BURST),
            heard: StampBook::default(),
        }
    }
}

/// Which signals of a peer are news.
///
/// A start of the peer is believed in for good only when a session with it came about: a rendezvous that kept an offer
/// back cannot use it to make us deaf to the peer as it is now.
#[derive(Debug, Default)]
pub(super) struct StampBook {
    confirmed: Option<Stamp>,
    tentative: Option<Stamp>,
    retired: VecDeque<u64>,
}

impl StampBook {
    /// Whether a signal with this stamp was not overtaken.
    pub(super) fn is_news(&self, stamp: Stamp) -> bool {
        let overtaken = |known: Option<Stamp>| {
            known.is_some_and(|known| known.instance == stamp.instance && stamp.number <= known.number)
        };
        !self.retired.contains(&stamp.instance) && !overtaken(self.confirmed) && !overtaken(self.tentative)
    }

    /// The signal was acted upon.
    pub(super) fn note(&mut self, stamp: Stamp) {
        match &mut self.confirmed {
            Some(confirmed) if confirmed.instance == stamp.instance => *confirmed = stamp,
            _ => self.tentative = Some(stamp),
        }
    }

    /// A session with this start of the peer came about; earlier ones are over for good.
    pub(super) fn confirm(&mut self, instance: u64) {
        if self.confirmed.is_some_and(|known| known.instance == instance) {
            return;
        }
        if let Some(old) = self.confirmed.take() {
            self.retired.push_back(old.instance);
            if self.retired.len() > limits::RETIRED_INSTANCES {
                self.retired.pop_front();
            }
        }
        let tentative = self.tentative.take_if(|stamp| stamp.instance == instance);
        self.confirmed = Some(tentative.unwrap_or(Stamp { instance, number: 0 }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(instance: u64, number: u64) -> Stamp {
        Stamp { instance, number }
    }

    #[test]
    fn replayed_overtaken_and_retired_signals_are_no_news() {
        let mut book = StampBook::default();
        assert!(book.is_news(stamp(1, 5)));
        book.note(stamp(1, 5));
        assert!(!book.is_news(stamp(1, 5)) && !book.is_news(stamp(1, 4)) && book.is_news(stamp(1, 6)));
        book.confirm(1);
        // A later start is heard before it is confirmed, and the confirmed one still is.
        assert!(book.is_news(stamp(2, 1)));
        book.note(stamp(2, 1));
        assert!(book.is_news(stamp(1, 6)) && !book.is_news(stamp(1, 5)) && !book.is_news(stamp(2, 1)));
        book.confirm(2);
        assert!(!book.is_news(stamp(1, 7)) && book.is_news(stamp(2, 2)));
    }
}
