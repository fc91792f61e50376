//! What the tincans of the world answer and do.

use super::*;

impl World {
    pub(super) fn state(&self, machine: usize) -> State {
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        let networks = tincan.networks.values().map(|network| NetworkState {
            config: network.config.clone(),
            node: self.node(machine, network.config.network),
            nic: network.fault.is_none().then(|| "ipop0".into()),
            fault: network.fault.clone(),
            peers: network
                .peers
                .values()
                .map(|peer| {
                    let phase = network.links.get(&peer.node).copied().unwrap_or(LinkPhase::Idle);
                    PeerState {
                        node: peer.node,
                        addresses: peer.addresses.clone(),
                        name: peer.name.clone(),
                        phase,
                        path: (phase == LinkPhase::Up).then(some_path),
                        traffic: Traffic::default(),
                        drops: BTreeMap::new(),
                        up_ms: None,
                        last_received_ms: None,
                        session: None,
                    }
                })
                .collect(),
            drops: BTreeMap::new(),
        });
        State {
            instance: tincan.instance,
            networks: networks.collect(),
            ..State::default()
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each call")]
    pub(super) fn tincan(&mut self, machine: usize, call: LinkCall) -> Result<Value, ApiError> {
        let not_found = || ApiError::new(ErrorKind::NotFound, "no such network or peer");
        let number = self.machines[machine].number;
        let signs = |network: NetworkId| node_key(number, network);
        match call {
            LinkCall::State(_) => return Ok(serde_json::to_value(self.state(machine)).expect("JSON")),
            LinkCall::Info(_) => return Ok(serde_json::to_value(info(0)).expect("JSON")),
            LinkCall::Deliver(delivery) => return self.deliver(machine, &delivery),
            LinkCall::OpenLink(link) => return self.open(machine, link),
            LinkCall::RemovePeer(peer) => self.cut(machine, peer.network, peer.node, true),
            LinkCall::RemoveNetwork(NetworkRef { network }) => {
                let tincan = self.machines[machine].tincan.as_ref().expect("runs");
                let links = tincan
                    .networks
                    .get(&network)
                    .map(|n| n.links.keys().copied().collect::<Vec<_>>());
                for node in links.unwrap_or_default() {
                    self.cut(machine, network, node, true);
                }
            }
            LinkCall::SendMessage(ref message) => return self.send(machine, message),
            _ => {}
        }
        let random = self.rng.next_u64();
        let me = |network| self.node(machine, network);
        let own = |call: &LinkCall| match call {
            LinkCall::SealMessage(m) => Some(me(m.network)),
            LinkCall::Identity(n) => Some(me(n.network)),
            LinkCall::CreateNetwork(c) => Some(me(c.network)),
            _ => None,
        };
        let own = own(&call);
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        let no_nic = tincan.no_nic.then_some("no permission for TUN: run as root");
        match call {
            LinkCall::CreateRoot(_) => {
                let root = InviteKey::from_seed(crate::crypto::hash("test root", &[&random.to_be_bytes()]));
                let network = NetworkId(root.public());
                tincan.roots.insert(network, root);
                Ok(json!({ "network": network }))
            }
            LinkCall::RemoveRoot(root) => {
                tincan.roots.remove(&root.network);
                Ok(json!({}))
            }
            LinkCall::Identity(NetworkRef { network }) => Ok(json!({ "network": network, "node": own })),
            LinkCall::Sign(request) => {
                let key = match request.signer {
                    Signer::Node => signs(request.network),
                    Signer::Root => tincan.roots.get(&request.network).cloned().ok_or_else(not_found)?,
                };
                let signature = key.sign(request.purpose, &request.payload.0).to_vec();
                Ok(json!({ "signature": Blob(signature) }))
            }
            LinkCall::CreateNetwork(config) => {
                let network = tincan.networks.entry(config.network).or_insert_with(|| FakeNetwork {
                    config: config.clone(),
                    peers: BTreeMap::new(),
                    links: BTreeMap::new(),
                    fault: None,
                });
                network.config = config;
                network.fault = no_nic.map(str::to_owned);
                match no_nic {
                    Some(sentence) => Err(ApiError::new(ErrorKind::Permission, sentence)),
                    None => Ok(json!({ "nic": "ipop0", "node": own })),
                }
            }
            LinkCall::RemoveNetwork(NetworkRef { network }) => {
                tincan.networks.remove(&network);
                Ok(json!({}))
            }
            LinkCall::SetPeer(peer) => {
                let network = tincan.networks.get_mut(&peer.network).ok_or_else(not_found)?;
                network.peers.insert(peer.node, peer);
                Ok(json!({}))
            }
            LinkCall::RemovePeer(peer) => {
                let network = tincan.networks.get_mut(&peer.network).ok_or_else(not_found)?;
                network.peers.remove(&peer.node);
                Ok(json!({}))
            }
            LinkCall::Ping(NodeRef { network, node }) => {
                let links = &tincan.networks.get(&network).ok_or_else(not_found)?.links;
                match links.get(&node) {
                    Some(LinkPhase::Up) => Ok(json!({ "rtt_us": 7, "path": some_path() })),
                    _ => Err(ApiError::new(ErrorKind::State, "no link")),
                }
            }
            LinkCall::SealMessage(message) => {
                let from = own.expect("a network");
                let body = [
                    &from.0[..],
                    &message.node.0,
                    &random.to_be_bytes(),
                    b"m",
                    &message.data.0,
                ]
                .concat();
                let signature = signs(message.network).sign(Purpose::Presence, &body);
                Ok(json!({ "blob": Blob([&signature[..], &body].concat()) }))
            }
            LinkCall::Subscribe(_) | LinkCall::SetNames(_) | LinkCall::SetServers(_) => Ok(json!({})),
            _ => Err(ApiError::new(ErrorKind::NotSupported, "not in this test")),
        }
    }

    /// An offer or answer: like a sealed message, of another kind.
    pub(super) fn signal(&mut self, machine: usize, network: NetworkId, to: NodeId, kind: &[u8; 1]) {
        let from = self.node(machine, network);
        let random = self.rng.next_u64().to_be_bytes();
        let body = [&from.0[..], &to.0, &random, kind].concat();
        let number = self.machines[machine].number;
        let signature = node_key(number, network).sign(Purpose::Presence, &body);
        let blob = Blob([&signature[..], &body].concat());
        self.event(machine, Event::SignalOut { network, to, blob });
    }

    pub(super) fn open(&mut self, machine: usize, link: NodeRef) -> Result<Value, ApiError> {
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        let network = tincan.networks.get_mut(&link.network);
        let network = network.filter(|n| n.peers.contains_key(&link.node));
        let Some(network) = network else {
            return Err(ApiError::new(ErrorKind::NotFound, "no such peer"));
        };
        if network
            .links
            .get(&link.node)
            .is_none_or(|phase| *phase != LinkPhase::Up)
        {
            network.links.insert(link.node, LinkPhase::Offered);
            self.signal(machine, link.network, link.node, b"o");
        }
        Ok(json!({}))
    }

    pub(super) fn send(&mut self, machine: usize, message: &PeerMessage) -> Result<Value, ApiError> {
        let network = message.network;
        let tincan = self.machines[machine].tincan.as_ref().expect("runs");
        let up = tincan.networks.get(&network).and_then(|n| n.links.get(&message.node)) == Some(&LinkPhase::Up);
        let other = self.machine_of(network, message.node).filter(|_| up);
        let Some(other) = other else {
            return Err(ApiError::new(ErrorKind::State, "no link"));
        };
        assert!(message.data.0.len() <= 32 * 1024);
        let message = PeerMessage {
            network,
            node: self.node(machine, network),
            data: message.data.clone(),
        };
        self.event(other, Event::PeerMessage(message));
        Ok(json!({}))
    }

    /// Ends a link at both ends.
    pub(in super::super) fn cut(&mut self, machine: usize, network: NetworkId, node: NodeId, quiet: bool) {
        let me = self.node(machine, network);
        let mut ends = vec![(machine, node)];
        ends.extend(self.machine_of(network, node).map(|other| (other, me)));
        for (end, far) in ends {
            let tincan = self.machines[end].tincan.as_mut().expect("runs");
            let link = tincan.networks.get_mut(&network).and_then(|n| n.links.remove(&far));
            if link == Some(LinkPhase::Up) && !(quiet && end == machine) {
                let reason = "the other side closed it".to_owned();
                self.event(
                    end,
                    Event::LinkDown {
                        network,
                        node: far,
                        reason,
                    },
                );
            }
        }
    }

    pub(super) fn deliver(&mut self, machine: usize, delivery: &Delivery) -> Result<Value, ApiError> {
        let bad = |text: &str| Err(ApiError::new(ErrorKind::InvalidParams, text));
        let network = delivery.network;
        let me = self.node(machine, network);
        let blob = &delivery.blob.0;
        if blob.len() < 64 + 73 {
            return bad("too short");
        }
        let (signature, body) = blob.split_at(64);
        let from: [u8; 32] = body[..32].try_into().expect("32 bytes");
        if !crate::crypto::verify(&from, Purpose::Presence, body, signature) {
            return bad("not sealed");
        }
        if body[32..64] != me.0 {
            return bad("not for us");
        }
        let from = NodeId(from);
        let data = body[73..].to_vec();
        let tincan = self.machines[machine].tincan.as_mut().expect("runs");
        if body[72] == b'm' {
            return Ok(json!({ "kind": "message", "from": from, "data": Blob(data) }));
        }
        let known = tincan
            .networks
            .get_mut(&network)
            .filter(|n| n.peers.contains_key(&from));
        let Some(known) = known else {
            return Ok(json!({ "kind": "stranger", "from": from }));
        };
        if !tincan.seen_blobs.insert(blob.clone()) {
            return bad("seen before");
        }
        if body[72] == b'o' {
            known.links.insert(from, LinkPhase::Checking);
            self.signal(machine, network, from, b"a");
        } else if !self.walls.contains(&(me, from)) && !self.walls.contains(&(from, me)) {
            self.bring_up(machine, network, from);
        }
        Ok(json!({ "kind": "link", "from": from }))
    }

    pub(super) fn bring_up(&mut self, machine: usize, network: NetworkId, node: NodeId) {
        let me = self.node(machine, network);
        let other = self.machine_of(network, node).expect("signed by a machine");
        for (end, far) in [(machine, node), (other, me)] {
            let tincan = self.machines[end].tincan.as_mut().expect("runs");
            if let Some(network) = tincan.networks.get_mut(&network) {
                network.links.insert(far, LinkPhase::Up);
            }
            let path = some_path();
            self.event(
                end,
                Event::LinkUp {
                    network,
                    node: far,
                    path,
                },
            );
        }
    }
}
