//! The link API, method by method.
//!
//! Promises: a call that is refused changed nothing, and its sentence names the field and the remedy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use api::link::{
    Event, LinkCall, NamesConfig, NetworkConfig, NetworkRef, NicInfo, NicKind, NodeRef, PeerConfig, PeerMessage,
    Purpose, SealedMessage, ServersConfig, SignRequest, Signature, Signer, TurnServer,
};
use api::rpc::{ApiError, Empty, ErrorKind};
use api::{Blob, NetworkId};
use rand::RngCore;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::peers::{Network, Peer};
use super::signals::Between;
use super::{CallId, NamesEffect, NicEffect, Node, Output, RootEffect};
use crate::handshake::MessageError;
use crate::keys::{self, NodeKey, RootKey};
use crate::limits;
use crate::link::LinkId;
use crate::signal::{Body, Signal};
use crate::turn;

type Answer = Result<Value, ApiError>;

impl Node {
    /// A controller asks for something; the answer comes as `Output::Reply`, at once or when it is there.
    pub fn handle_call(&mut self, now: Instant, id: CallId, call: LinkCall) {
        if let Some(answer) = self.call(now, id, call) {
            self.out.push_back(Output::Reply(id, answer));
        }
        self.settle(now);
    }

    /// None where the answer comes later.
    fn call(&mut self, now: Instant, id: CallId, call: LinkCall) -> Option<Answer> {
        Some(match call {
            LinkCall::State(_) => done(self.state(now)),
            LinkCall::CreateRoot(_) => return self.create_root(id).err().map(Err),
            LinkCall::RemoveRoot(network) => self.remove_root(network),
            LinkCall::Identity(NetworkRef { network }) => {
                let node = NodeKey::derive(&self.device, network).id();
                done(NodeRef { network, node })
            }
            LinkCall::Sign(request) => self.sign(&request),
            LinkCall::CreateNetwork(config) => return self.create_network(now, id, config).err().map(Err),
            LinkCall::RemoveNetwork(network) => self.remove_network(now, network),
            LinkCall::SetNames(names) => self.set_names(names),
            LinkCall::SetServers(servers) => self.set_servers(now, servers),
            LinkCall::SetPeer(peer) => self.set_peer(now, peer),
            LinkCall::RemovePeer(node) => self.remove_peer(now, node),
            LinkCall::SendMessage(message) => self.send_message(now, &message),
            LinkCall::OpenLink(node) => self.open_link(now, node),
            LinkCall::CloseLink(node) => self.close_link(now, node),
            LinkCall::Ping(node) => return self.ping(now, id, node).err().map(Err),
            LinkCall::SealMessage(message) => self.seal_message(&message),
            LinkCall::Deliver(delivery) => {
                let delivered = self.deliver(now, delivery.network, &delivery.blob.0);
                delivered.and_then(done)
            }
            LinkCall::Info(_) | LinkCall::Subscribe(_) => Err(ApiError::new(
                ErrorKind::NotSupported,
                "the process around the engine answers this, not the engine",
            )),
            LinkCall::CheckNetwork(servers) => return self.begin_check(now, id, servers).err().map(Err),
        })
    }

    // --- keys ---

    fn create_root(&mut self, call: CallId) -> Result<(), ApiError> {
        if self.roots.len() + self.pending_roots.len() >= limits::ROOTS {
            return Err(limit(format!(
                "at most {} root keys are kept here: remove one",
                limits::ROOTS
            )));
        }
        let mut seed = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(&mut *seed);
        let root = RootKey::from_seed(&seed);
        let network = root.network_id();
        self.pending_roots.insert(call, root);
        self.out
            .push_back(Output::Root(RootEffect::Store { call, network, seed }));
        Ok(())
    }

    /// What came of `RootEffect::Store`: nothing, or a sentence.
    pub fn handle_root_stored(&mut self, now: Instant, call: CallId, result: Result<(), String>) {
        if let Some(root) = self.pending_roots.remove(&call) {
            let network = root.network_id();
            let answer = match result {
                Ok(()) => {
                    self.roots.insert(network, root);
                    done(NetworkRef { network })
                }
                Err(sentence) => Err(ApiError::new(ErrorKind::Permission, sentence)),
            };
            self.out.push_back(Output::Reply(call, answer));
        }
        self.settle(now);
    }

    fn remove_root(&mut self, NetworkRef { network }: NetworkRef) -> Answer {
        if self.roots.remove(&network).is_none() {
            return Err(
                ApiError::new(ErrorKind::NotFound, format!("no root key of {network} is kept here")).field("network"),
            );
        }
        self.out.push_back(Output::Root(RootEffect::Erase(network)));
        done(Empty {})
    }

    fn sign(&self, request: &SignRequest) -> Answer {
        bounded(&request.payload, limits::SIGNED_PAYLOAD, "payload")?;
        // Written out: what may be signed is decided here, not by what the caller can name.
        let context = match request.purpose {
            Purpose::LogEntry => Purpose::LogEntry.context(),
            Purpose::Presence => Purpose::Presence.context(),
        };
        let payload = &request.payload.0;
        let signature = match request.signer {
            Signer::Node => NodeKey::derive(&self.device, request.network).sign(context, payload),
            Signer::Root => {
                let root = self.roots.get(&request.network).ok_or_else(|| {
                    let text = format!(
                        "the root key of {} is not kept here: sign on its founder's machine",
                        request.network
                    );
                    ApiError::new(ErrorKind::NotFound, text).field("network")
                })?;
                root.sign(context, payload)
            }
        };
        done(Signature {
            signature: Blob(signature.to_vec()),
        })
    }

    // --- networks ---

    fn create_network(&mut self, now: Instant, call: CallId, config: NetworkConfig) -> Result<(), ApiError> {
        self.check_network(&config)?;
        let id = config.network;
        if let Some(net) = self.networks.get_mut(&id) {
            net.config = config.clone();
        } else {
            let key = NodeKey::derive(&self.device, id);
            let instance = self.rng.next_u64();
            self.networks.insert(id, Network::new(config.clone(), key, instance));
        }
        if let Some(net) = self.networks.get_mut(&id) {
            net.nic.waiting.push_back(call);
        }
        let links = self.links.iter().filter(|(_, entry)| entry.link.config.network == id);
        for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.with_link(now, link, |link, cx| link.set_mtu(cx, config.mtu));
        }
        let policy = self.policy();
        self.gatherer.set_policy(policy);
        self.drain_gatherer(now);
        self.is_dirty = true;
        self.out.push_back(Output::Nic(NicEffect::Set(config)));
        Ok(())
    }

    fn check_network(&self, config: &NetworkConfig) -> Result<(), ApiError> {
        if config.kind == NicKind::Ethernet {
            let text = "networks of kind \"ethernet\" are not supported by this build: use \"ip\"";
            return Err(ApiError::new(ErrorKind::NotSupported, text).field("kind"));
        }
        let mtus = limits::MTU_MIN..=u16::try_from(limits::FRAME).unwrap_or(u16::MAX);
        if !mtus.contains(&config.mtu) {
            return Err(invalid("mtu", format!("an MTU is {} to {}", mtus.start(), mtus.end())));
        }
        if config.addresses.is_empty() || config.addresses.len() > limits::OWN_ADDRESSES {
            return Err(invalid(
                "addresses",
                format!("a network has 1 to {} addresses", limits::OWN_ADDRESSES),
            ));
        }
        if let Some(bad) = config.addresses.iter().find(|cidr| !is_host(cidr.address)) {
            return Err(invalid(
                "addresses",
                format!("{} is not the address of a host", bad.address),
            ));
        }
        if config
            .nic
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > 15 || name.contains(['/', ' ', ':']))
        {
            return Err(invalid(
                "nic",
                "a NIC's name is 1 to 15 bytes without '/', ':' and space",
            ));
        }
        match self.networks.get(&config.network) {
            None if self.networks.len() >= limits::NETWORKS => {
                Err(limit(format!("at most {} networks: remove one", limits::NETWORKS)))
            }
            Some(net) if net.nic.waiting.len() >= limits::PENDING_CALLS => Err(limit(
                "too many changes of this network wait for its NIC: wait for their answers".into(),
            )),
            Some(net) => {
                let taken = config
                    .addresses
                    .iter()
                    .find(|cidr| net.owners.contains_key(&cidr.address));
                taken.map_or(Ok(()), |cidr| Err(owned(cidr.address)))
            }
            None => Ok(()),
        }
    }

    /// What came of `NicEffect::Set`: the NIC's name, or a sentence; or, unasked, that the NIC is gone.
    pub fn handle_nic(&mut self, now: Instant, network: NetworkId, result: Result<String, String>) {
        let Some(net) = self.networks.get_mut(&network) else {
            return;
        };
        let node = net.key.id();
        let waiting = net.nic.waiting.pop_front();
        (net.nic.name, net.nic.fault) = match result.clone() {
            Ok(name) => (Some(name), None),
            Err(fault) => (None, Some(fault)),
        };
        match (waiting, result) {
            (Some(call), Ok(nic)) => self.out.push_back(Output::Reply(call, done(NicInfo { nic, node }))),
            (Some(call), Err(sentence)) => {
                let error = ApiError::new(ErrorKind::Permission, sentence);
                self.out.push_back(Output::Reply(call, Err(error)));
            }
            (None, Err(reason)) => self.event(Event::NicLost { network, reason }),
            (None, Ok(_)) => {}
        }
        self.settle(now);
    }

    fn remove_network(&mut self, now: Instant, NetworkRef { network }: NetworkRef) -> Answer {
        let net = self.networks.get(&network).ok_or_else(|| no_network(network))?;
        let peers: Vec<_> = net.peers.keys().copied().collect();
        for peer in peers {
            self.cut(now, Between { network, peer });
        }
        self.numbers.retain(|_, whose| whose.network != network);
        if let Some(mut net) = self.networks.remove(&network) {
            while let Some(call) = net.nic.waiting.pop_front() {
                let error = ApiError::new(ErrorKind::State, "the network was removed meanwhile");
                self.out.push_back(Output::Reply(call, Err(error)));
            }
        }
        self.apply_servers(now);
        let policy = self.policy();
        self.gatherer.set_policy(policy);
        self.is_dirty = true;
        self.out.push_back(Output::Names(NamesEffect::Remove(network)));
        self.out.push_back(Output::Nic(NicEffect::Remove(network)));
        done(Empty {})
    }

    fn set_names(&mut self, names: NamesConfig) -> Answer {
        self.known(names.network)?;
        if names.records.len() > limits::NAMES {
            return Err(invalid(
                "records",
                format!("a network has at most {} names", limits::NAMES),
            ));
        }
        self.out.push_back(Output::Names(NamesEffect::Set(names)));
        done(Empty {})
    }

    fn set_servers(&mut self, now: Instant, servers: ServersConfig) -> Answer {
        let network = servers
            .network
            .ok_or_else(|| invalid("network", "name the network that uses these servers"))?;
        self.known(network)?;
        if servers.stun.len() > limits::SERVERS || servers.turn.len() > limits::SERVERS {
            return Err(invalid(
                "turn",
                format!("at most {} servers of each kind", limits::SERVERS),
            ));
        }
        for server in &servers.turn {
            to_turn(server)?;
        }
        if let Some(net) = self.networks.get_mut(&network) {
            net.servers = servers;
        }
        self.apply_servers(now);
        done(Empty {})
    }

    /// All networks share sockets, so they share what servers say of these.
    fn apply_servers(&mut self, now: Instant) {
        let stun: BTreeSet<_> = self
            .networks
            .values()
            .flat_map(|net| net.servers.stun.iter().copied())
            .collect();
        self.gatherer.set_servers(now, &stun.into_iter().collect::<Vec<_>>());
        let mut servers: Vec<turn::TurnServer> = Vec::new();
        for server in self.networks.values().flat_map(|net| &net.servers.turn) {
            if let Ok(server) = to_turn(server)
                && !servers.contains(&server)
            {
                servers.push(server);
            }
        }
        self.relay_faults
            .retain(|label, _| servers.iter().any(|server| server.label == *label));
        self.check_gives_way(now);
        self.relays.set_servers(now, servers);
        self.is_dirty = true;
    }

    // --- peers and links ---

    fn set_peer(&mut self, now: Instant, config: PeerConfig) -> Answer {
        let Between { network, peer } = Between {
            network: config.network,
            peer: config.node,
        };
        let net = self.networks.get_mut(&network).ok_or_else(|| no_network(network))?;
        if peer == net.key.id() {
            return Err(invalid("node", "that is this node itself"));
        }
        if config.addresses.len() > limits::PEER_ADDRESSES {
            return Err(invalid(
                "addresses",
                format!("a peer has at most {} addresses", limits::PEER_ADDRESSES),
            ));
        }
        if config.name.as_ref().is_some_and(|name| name.len() > limits::PEER_NAME) {
            return Err(invalid(
                "name",
                format!("a name has at most {} bytes", limits::PEER_NAME),
            ));
        }
        if !net.peers.contains_key(&peer) && net.peers.len() >= limits::PEERS {
            return Err(limit(format!(
                "at most {} peers in a network: remove one",
                limits::PEERS
            )));
        }
        let own = net.own();
        for ip in &config.addresses {
            let foreign = net.owners.get(ip).is_some_and(|owner| *owner != peer);
            if !is_host(*ip) {
                return Err(invalid("addresses", format!("{ip} is not the address of a host")));
            }
            if foreign || own.contains(ip) {
                return Err(owned(*ip));
            }
        }
        net.owners.retain(|_, owner| *owner != peer);
        net.owners.extend(config.addresses.iter().map(|ip| (*ip, peer)));
        match net.peers.get_mut(&peer) {
            Some(known) => {
                known.allowed = config.addresses.iter().copied().collect();
                known.config = config;
            }
            None => {
                let number = self.next_number(Between { network, peer });
                if let Some(net) = self.networks.get_mut(&network) {
                    net.peers.insert(peer, Peer::new(config, number));
                }
            }
        }
        self.is_dirty = true;
        self.last_now = now;
        done(Empty {})
    }

    fn remove_peer(&mut self, now: Instant, node: NodeRef) -> Answer {
        let between = self.between(node)?;
        self.cut(now, between);
        self.numbers.retain(|_, whose| *whose != between);
        if let Some(net) = self.networks.get_mut(&between.network) {
            net.peers.remove(&between.peer);
            net.owners.retain(|_, owner| *owner != between.peer);
        }
        self.is_dirty = true;
        done(Empty {})
    }

    /// Ends all links to a peer and what waits for them.
    fn cut(&mut self, now: Instant, between: Between) {
        let links = self
            .peer_mut(between.network, between.peer)
            .map(|peer| [peer.attempt, peer.current]);
        for id in links.into_iter().flatten().flatten() {
            self.end_link(now, id, true);
        }
        self.drop_staged(between);
    }

    fn open_link(&mut self, now: Instant, node: NodeRef) -> Answer {
        let between = self.between(node)?;
        self.open(now, between)
            .map_err(|_| limit(format!("at most {} links: close one that is not used", limits::LINKS)))?;
        done(Empty {})
    }

    fn close_link(&mut self, now: Instant, node: NodeRef) -> Answer {
        let between = self.between(node)?;
        let peer = self.peer_mut(between.network, between.peer);
        let had = peer.is_some_and(|peer| peer.current.is_some() || peer.attempt.is_some());
        self.cut(now, between);
        if had {
            let (network, node) = (between.network, between.peer);
            let reason = "closed here".to_owned();
            self.event(Event::LinkDown { network, node, reason });
        }
        done(Empty {})
    }

    fn send_message(&mut self, now: Instant, message: &PeerMessage) -> Answer {
        bounded(&message.data, limits::CONTROLLER_MESSAGE, "data")?;
        let id = self.current_link(message.network, message.node)?;
        let sent = self.with_link(now, id, |link, cx| link.send_message(cx, &message.data.0));
        match sent {
            Some(Ok(())) => done(Empty {}),
            Some(Err(error @ MessageError::Backlog)) => Err(limit(error.to_string())),
            Some(Err(error)) => Err(ApiError::new(ErrorKind::State, error.to_string())),
            None => Err(ApiError::new(ErrorKind::State, "the link is gone: open it again")),
        }
    }

    pub(super) fn current_link(&self, network: NetworkId, node: api::NodeId) -> Result<LinkId, ApiError> {
        let between = self.between(NodeRef { network, node })?;
        let peer = self
            .networks
            .get(&between.network)
            .and_then(|net| net.peers.get(&between.peer));
        peer.and_then(|peer| peer.current).ok_or_else(|| {
            ApiError::new(
                ErrorKind::State,
                format!("there is no link to {node}: open it and wait for link_up"),
            )
            .field("node")
        })
    }

    fn seal_message(&self, message: &PeerMessage) -> Answer {
        bounded(&message.data, limits::CONTROLLER_MESSAGE, "data")?;
        let net = self.networks.get(&message.network);
        let derived;
        let key = match net {
            Some(net) => &net.key,
            None => {
                // Before a network is made here: an invite is redeemed by messages.
                derived = NodeKey::derive(&self.device, message.network);
                &derived
            }
        };
        let stamp = net.map_or(crate::signal::Stamp { instance: 0, number: 0 }, |net| net.stamp);
        let body = Body::Message(message.data.0.clone());
        let blob = keys::seal_to(key, message.node, &Signal { stamp, body }.encode());
        let blob = blob.map_err(|error| invalid("node", error.to_string()))?;
        done(SealedMessage { blob: Blob(blob) })
    }

    // --- look-ups ---

    fn known(&self, network: NetworkId) -> Result<(), ApiError> {
        self.networks
            .contains_key(&network)
            .then_some(())
            .ok_or_else(|| no_network(network))
    }

    fn between(&self, NodeRef { network, node }: NodeRef) -> Result<Between, ApiError> {
        let net = self.networks.get(&network).ok_or_else(|| no_network(network))?;
        if !net.peers.contains_key(&node) {
            let text = format!("{node} is no peer in this network: set it with peer.set first");
            return Err(ApiError::new(ErrorKind::NotFound, text).field("node"));
        }
        Ok(Between { network, peer: node })
    }
}

pub(super) fn done<T: Serialize>(value: T) -> Answer {
    serde_json::to_value(value).map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))
}

pub(super) fn invalid(field: &str, sentence: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidParams, sentence).field(field)
}

pub(super) fn limit(sentence: String) -> ApiError {
    ApiError::new(ErrorKind::Limit, sentence)
}

fn owned(ip: IpAddr) -> ApiError {
    ApiError::new(
        ErrorKind::Taken,
        format!("{ip} belongs to another node of this network: take it away there first"),
    )
    .field("addresses")
}

pub(super) fn no_network(network: NetworkId) -> ApiError {
    ApiError::new(
        ErrorKind::NotFound,
        format!("there is no network {network} here: make it with network.create"),
    )
    .field("network")
}

fn bounded(blob: &Blob, most: usize, field: &str) -> Result<(), ApiError> {
    if blob.0.len() > most {
        return Err(invalid(
            field,
            format!("{} bytes are too many: the most is {most}", blob.0.len()),
        ));
    }
    Ok(())
}

/// Whether one host can have this address; IPv4 in IPv6 is refused so that an address has one spelling.
fn is_host(ip: IpAddr) -> bool {
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || mapped || broadcast)
}

/// Ways to one host have one label.
pub(super) fn label_of(server: &TurnServer) -> String {
    server.name.clone().unwrap_or_else(|| server.address.ip().to_string())
}

pub(super) fn to_turn(server: &TurnServer) -> Result<turn::TurnServer, ApiError> {
    let transport = match server.transport {
        api::link::TurnTransport::Udp => turn::TurnTransport::Udp,
        api::link::TurnTransport::Tcp => turn::TurnTransport::Tcp,
        api::link::TurnTransport::Tls => turn::TurnTransport::Tls {
            name: label_of(server),
            pin: server.pin.as_deref().map(pin).transpose()?,
        },
    };
    Ok(turn::TurnServer {
        address: server.address,
        label: label_of(server),
        transport,
        username: server.username.clone(),
        password: turn::Password::new(server.password.clone()),
    })
}

fn pin(text: &str) -> Result<[u8; 32], ApiError> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let pin = bytes.and_then(|bytes| bytes.try_into().ok());
    pin.ok_or_else(|| invalid("turn", "a pin is the SHA-256 of a server's key: 64 hexadecimal digits"))
}
