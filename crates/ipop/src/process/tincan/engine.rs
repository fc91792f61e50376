//! The engine's thread: hands everything heard to the machine and carries out what it wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::link::{API_VERSION, LinkCall, Port, TincanInfo};
use api::rpc::{ApiError, ErrorKind, Message};
use os::Family;
use serde_json::{Value, json};
use tincan::keys::DeviceSecret;
use tincan::node::{CallId, IfAddr, NamesEffect, NicEffect, Node, NodeConfig, Output, RootEffect};
use zeroize::Zeroizing;

use super::api::{ClientId, Clients, FromClient};
use super::keys::{KeyFiles, random};
use super::mapping::{Mapper, Outcome, Place};
use super::nics::Nics;
use super::placement::Placement;
use super::streams::{FromStream, Streams};
use super::workers::Shared;
use super::{Wake, abilities};

/// How soon a client that did not take all of an answer is tried again.
const FLUSH_AGAIN: Duration = Duration::from_millis(20);

/// The machine and everything that it acts through.
pub(crate) struct Engine {
    node: Node,
    shared: Shared,
    keys: KeyFiles,
    nics: Nics,
    placement: Placement,
    streams: Streams,
    mapper: Mapper,
    clients: Clients,
    calls: BTreeMap<CallId, (ClientId, Value)>,
    next_call: u64,
    instance: u64,
    flush_again: bool,
}

impl Engine {
    pub(crate) fn new(shared: Shared, placement: Placement, keys: KeyFiles) -> anyhow::Result<Self> {
        let seed = random()?;
        let instance = u64::from_be_bytes(random()?[..8].try_into().expect("eight of 32 bytes")) >> 12;
        let config = NodeConfig {
            device: DeviceSecret::from_bytes(keys.device()?),
            roots: keys.roots()?.into_iter().map(Zeroizing::new).collect(),
            seed,
            instance,
            aes: shared.without.has_aes(),
            allow_loopback: false,
            trust: super::trust::system(),
        };
        // This thread's: transaction ids of STUN come from it.
        tincan::ice::seed_transactions(u64::from_be_bytes(
            random()?[..8].try_into().expect("eight of 32 bytes"),
        ));
        let mut engine = Self {
            node: Node::new(config, Instant::now()),
            nics: Nics::new(shared.clone()),
            placement,
            streams: Streams::new(shared.wakes.clone()),
            mapper: Mapper::start(shared.wakes.clone())?,
            shared,
            keys,
            clients: Clients::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            instance,
            flush_again: false,
        };
        engine.look_at_addresses();
        Ok(engine)
    }

    /// How long nothing is due; none: until something is heard.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let due = self
            .node
            .poll_timeout()
            .into_iter()
            .chain(self.placement.poll_timeout());
        let next = due.min().map(|at| at.saturating_duration_since(Instant::now()));
        let flush = self.flush_again.then_some(FLUSH_AGAIN);
        next.into_iter().chain(flush).min()
    }

    pub(crate) fn handle_timeout(&mut self) {
        self.flush_again = self.clients.flush();
        let now = Instant::now();
        self.node.handle_timeout(now);
        self.placement.handle_timeout(now, self.nics.iter());
    }

    pub(crate) fn handle(&mut self, wake: Wake) {
        let now = Instant::now();
        match wake {
            Wake::Udp {
                local,
                remote,
                mut bytes,
            } => self.node.handle_udp(now, local, remote, &mut bytes),
            Wake::Inside(receiver, payload) => self.node.handle_inside(now, receiver, &payload),
            Wake::Frame(network, bytes) => self.node.handle_frame(now, network, &bytes),
            Wake::Traffic(slot) => self.node.handle_wake(now, slot),
            Wake::Opened(tell) => self.node.handle_opened(now, tell),
            Wake::TooBig(remote, bytes) => self.node.handle_too_big(now, remote, bytes),
            Wake::Stream(id, report) => self.handle_stream(now, id, &report),
            Wake::Client(id, report) => self.handle_client(now, id, report),
            Wake::Addresses => self.look_at_addresses(),
            Wake::Mapping(outcome) => self.handle_mapping(now, outcome),
            Wake::NicLost(network, reason) => {
                self.nics.remove(network);
                self.node
                    .handle_nic(now, network, Err(format!("its NIC cannot be read any more: {reason}")));
            }
            Wake::Rush => self.placement.on_rush(now, self.nics.iter()),
            Wake::Stop => {}
        }
    }

    /// Carries out everything that the machine wants.
    pub(crate) fn obey(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Udp { source, remote, bytes } => self.send(source, remote, &bytes),
                Output::Frame { network, bytes } => self.nics.send(network, &bytes),
                Output::Stream(id, output) => self.stream(id, output),
                Output::Reply(id, result) => self.reply(id, result),
                Output::Event(event) => self.publish(&event),
                Output::Nic(effect) => self.nic(effect),
                Output::Names(NamesEffect::Set(config)) => {
                    if let Err(error) = self.nics.set_names(config) {
                        tracing::warn!("names do not resolve by themselves: {error:#}");
                    }
                }
                Output::Names(NamesEffect::Remove(network)) => self.nics.remove_names(network),
                Output::Root(effect) => self.root(effect),
                Output::Snapshot(snapshot) => self.shared.snapshot.set(snapshot),
            }
        }
    }

    /// Tells the peers, and takes away what was made on this machine.
    pub(crate) fn end(&mut self) {
        self.node.shutdown(Instant::now());
        self.obey();
        self.nics.remove_all();
    }

    fn send(&mut self, source: Option<std::net::IpAddr>, remote: SocketAddr, bytes: &[u8]) {
        if let Err(error) = self.shared.sockets.send(source, remote, bytes)
            && os::is_too_big(&error)
        {
            self.node.handle_too_big(Instant::now(), remote, bytes.len());
        }
    }

    fn handle_stream(&mut self, now: Instant, id: tincan::turn::StreamId, report: &FromStream) {
        if let Some(input) = self.streams.take(id, report) {
            self.node.handle_stream(now, id, input);
        }
    }

    fn stream(&mut self, id: tincan::turn::StreamId, output: tincan::turn::StreamOutput) {
        match output {
            tincan::turn::StreamOutput::Connect(remote) => self.streams.connect(id, remote),
            tincan::turn::StreamOutput::Data(bytes) => {
                if self.streams.send(id, bytes) {
                    let behind = tincan::turn::StreamInput::Congested(true);
                    self.node.handle_stream(Instant::now(), id, behind);
                }
            }
            tincan::turn::StreamOutput::Close => self.streams.close(id),
        }
    }

    fn handle_client(&mut self, now: Instant, id: ClientId, report: FromClient) {
        match report {
            FromClient::Opened(stream) => self.clients.open(id, stream),
            FromClient::Closed => self.clients.close(id),
            FromClient::Line(Err(error)) => self.clients.send(
                id,
                &Message::Answer {
                    id: Value::Null,
                    result: Err(error),
                },
            ),
            FromClient::Line(Ok(Message::Request {
                id: name,
                method,
                params,
            })) => {
                let name = name.unwrap_or(Value::Null);
                match LinkCall::parse(&method, params) {
                    Ok(call) => self.call(now, id, name, call),
                    Err(error) => self.clients.send(
                        id,
                        &Message::Answer {
                            id: name,
                            result: Err(error),
                        },
                    ),
                }
            }
            FromClient::Line(Ok(Message::Answer { id: name, .. })) => {
                let error = ApiError::new(
                    ErrorKind::InvalidRequest,
                    "nothing was asked of you: send requests only",
                );
                self.clients.send(
                    id,
                    &Message::Answer {
                        id: name,
                        result: Err(error),
                    },
                );
            }
        }
    }

    fn call(&mut self, now: Instant, client: ClientId, name: Value, call: LinkCall) {
        match call {
            LinkCall::Info(_) => {
                let result = Ok(json!(self.info()));
                self.clients.send(client, &Message::Answer { id: name, result });
            }
            LinkCall::Subscribe(_) => {
                self.clients.subscribe(client);
                self.clients.send(
                    client,
                    &Message::Answer {
                        id: name,
                        result: Ok(json!({})),
                    },
                );
            }
            call => {
                self.next_call += 1;
                let id = CallId(self.next_call);
                self.calls.insert(id, (client, name));
                self.node.handle_call(now, id, call);
            }
        }
    }

    fn info(&self) -> TincanInfo {
        let sockets = &self.shared.sockets;
        let families = [(Family::V4, 4), (Family::V6, 6)];
        let ports = families.iter().filter(|(family, _)| sockets.missing(*family).is_none());
        let missing = families
            .iter()
            .filter_map(|(family, number)| Some((number, sockets.missing(*family)?)));
        let mut notes: Vec<String> = missing
            .map(|(number, why)| format!("no IPv{number} socket: {why}"))
            .collect();
        notes.extend(abilities::notes(sockets, self.nics.iter()));
        notes.extend(self.placement.note());
        let overflow = self.shared.overflow.load(Ordering::Relaxed);
        if overflow > 0 {
            notes.push(format!(
                "{overflow} frames and datagrams were dropped because the engine did not keep up"
            ));
        }
        TincanInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            api: API_VERSION,
            pid: std::process::id(),
            instance: self.instance,
            memory_bytes: os::memory_in_use().unwrap_or(0),
            ports: ports
                .map(|(_, family)| Port {
                    family: *family,
                    port: sockets.port(),
                })
                .collect(),
            notes,
        }
    }

    fn reply(&mut self, id: CallId, result: Result<Value, ApiError>) {
        if let Some((client, name)) = self.calls.remove(&id) {
            self.clients.send(client, &Message::Answer { id: name, result });
            self.flush_again = true;
        }
    }

    fn publish(&mut self, event: &api::link::Event) {
        let message = Message::Request {
            id: None,
            method: "event".into(),
            params: json!(event),
        };
        self.clients.publish(&message);
        self.flush_again = true;
    }

    fn nic(&mut self, effect: NicEffect) {
        match effect {
            NicEffect::Set(config) => {
                let made = self.nics.set(&config).map_err(|error| format!("{error:#}"));
                self.node.handle_nic(Instant::now(), config.network, made);
                self.placement.on_nic(self.nics.iter());
                self.look_for_router();
            }
            NicEffect::Remove(network) => self.nics.remove(network),
        }
    }

    fn root(&mut self, effect: RootEffect) {
        match effect {
            RootEffect::Store { call, network, seed } => {
                let stored = self
                    .keys
                    .store_root(network, &seed)
                    .map_err(|error| format!("{error:#}"));
                self.node.handle_root_stored(Instant::now(), call, stored);
            }
            RootEffect::Erase(network) => {
                if let Err(error) = self.keys.erase_root(network) {
                    tracing::error!("{error:#}");
                }
            }
        }
    }

    /// Asks the router of this place for a port, as soon as there is a network to be reached in.
    fn look_for_router(&mut self) {
        let place = Place::now(self.shared.sockets.port()).filter(|_| !self.nics.is_empty());
        self.mapper.set_place(place);
    }

    fn handle_mapping(&mut self, now: Instant, outcome: Outcome) {
        match outcome {
            Outcome::Mapped {
                external,
                internal,
                lifetime,
                protocol,
            } => {
                self.node.handle_mapping_protocols(vec![protocol.to_owned()]);
                self.node.handle_mapping(now, external, internal, lifetime);
            }
            Outcome::None => self.node.handle_mapping_protocols(Vec::new()),
        }
    }

    /// Tells the machine which addresses this host has now, but those of our own NICs.
    fn look_at_addresses(&mut self) {
        let interfaces = os::interfaces().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list network interfaces");
            Vec::new()
        });
        let (v4, v6) = os::default_sources();
        let outside = interfaces
            .iter()
            .filter(|i| i.up && !i.loopback && !self.nics.is_ours(&i.name));
        let addresses = outside
            .flat_map(|interface| &interface.addresses)
            .filter(|a| !a.tentative);
        let addresses: Vec<IfAddr> = addresses
            .map(|address| {
                let ip = address.prefix.address();
                let default_route = [v4, v6].contains(&Some(ip));
                IfAddr {
                    ip,
                    default_route,
                    deprecated: address.deprecated,
                }
            })
            .collect();
        let sockets = &self.shared.sockets;
        let port = |family| sockets.missing(family).is_none().then(|| sockets.port());
        self.node
            .handle_addresses(Instant::now(), port(Family::V4), port(Family::V6), &addresses);
        self.look_for_router();
    }
}
