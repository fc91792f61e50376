//! Relays against a real TURN server (`turn-server-proto`) in memory: datagrams, byte streams and TLS.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use turn_client_proto::api::Transmit as Wire;
use turn_server_proto::api::{TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer as Server;
use turn_types::TransportType;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const CLIENT: &str = "10.0.0.2:5000";
const PEER: &str = "203.0.113.5:7000";
const UDP: &str = "198.51.100.9:3478";
const TCP: &str = "198.51.100.9:3479";
const TLS: &str = "198.51.100.9:5349";

#[derive(Debug)]
struct FixedClock;

impl TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

struct Identity {
    certificate: CertificateDer<'static>,
    config: Arc<ServerConfig>,
    pin: [u8; 32],
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["turn.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_details(provider, Arc::new(FixedClock));
    let builder = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let config = builder.with_single_cert(vec![certificate.clone()], key).unwrap();
    let parsed = ParsedCertificate::try_from(&certificate).unwrap();
    let pin = digest(&SHA256, parsed.subject_public_key_info().as_ref())
        .as_ref()
        .try_into()
        .unwrap();
    Identity {
        certificate,
        config: Arc::new(config),
        pin,
    }
}

/// A client's relays, one TURN server behind three listeners, and one peer.
struct Rig {
    start: Instant,
    now: Instant,
    relays: Relays,
    listeners: Vec<Server>,
    identity: Identity,
    tls: BTreeMap<StreamId, ServerConnection>,
    streams: BTreeMap<StreamId, SocketAddr>,
    udp_up: bool,
    next_port: u16,
    outputs: Vec<RelayOutput>,
    received: Vec<(RelayId, SocketAddr, Vec<u8>)>,
    at_peer: Vec<(SocketAddr, Vec<u8>)>,
    datagrams: usize,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        let identity = identity();
        let mut roots = RootCertStore::empty();
        roots.add(identity.certificate.clone()).unwrap();
        let trust = TlsTrust {
            roots: Arc::new(roots),
            clock: Arc::new(FixedClock),
        };
        let listen = |kind, address| {
            let mut server = Server::new(kind, at(address), "example".to_owned());
            server.add_user("ann".to_owned(), "secret".to_owned());
            server
        };
        Rig {
            start: now,
            now,
            relays: Relays::new(now, trust),
            listeners: vec![
                listen(TransportType::Udp, UDP),
                listen(TransportType::Tcp, TCP),
                listen(TransportType::Tcp, TLS),
            ],
            identity,
            tls: BTreeMap::new(),
            streams: BTreeMap::new(),
            udp_up: true,
            next_port: 50_000,
            outputs: Vec::new(),
            received: Vec::new(),
            at_peer: Vec::new(),
            datagrams: 0,
        }
    }

    fn ways(&self, password: &str, transports: &[TurnTransport]) -> Vec<TurnServer> {
        let way = |transport: &TurnTransport| TurnServer {
            address: at(match transport {
                TurnTransport::Udp => UDP,
                TurnTransport::Tcp => TCP,
                TurnTransport::Tls { .. } => TLS,
            }),
            label: "relay.example".to_owned(),
            transport: transport.clone(),
            username: "ann".to_owned(),
            password: Password::new(password),
        };
        transports.iter().map(way).collect()
    }

    fn use_ways(&mut self, password: &str, transports: &[TurnTransport]) {
        let ways = self.ways(password, transports);
        self.relays.set_servers(self.now, ways);
        self.settle();
    }

    fn server_now(&self) -> stun_proto::Instant {
        stun_proto::Instant::from_nanos((self.now - self.start).as_nanos() as i64)
    }

    /// Bytes from the client (or a peer) into a listener, and everything that follows.
    fn feed_server(&mut self, listener: usize, kind: TransportType, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.server_now();
        let reply = self.listeners[listener].recv(Wire::new(bytes.to_vec(), kind, from, to), now);
        if let Some(reply) = reply.map(|reply| reply.build()) {
            self.out_of_server(listener, reply.to, reply.from, &reply.data);
        }
        self.work_server(listener);
    }

    fn work_server(&mut self, listener: usize) {
        let now = self.server_now();
        for _ in 0..20 {
            let server = &mut self.listeners[listener];
            if let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
            } = server.poll(now)
            {
                self.next_port += 1;
                let ip = match family {
                    turn_types::AddressFamily::IPV4 => "198.51.100.9",
                    turn_types::AddressFamily::IPV6 => "2001:db8::9",
                };
                let address = SocketAddr::new(ip.parse().unwrap(), self.next_port);
                let kind = allocation_transport;
                server.allocated_socket(transport, listen_addr, client_addr, kind, family, Ok(address), now);
            }
            while let Some(transmit) = self.listeners[listener].poll_transmit(now) {
                self.out_of_server(listener, transmit.to, transmit.from, &transmit.data);
            }
        }
    }

    fn out_of_server(&mut self, listener: usize, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        if to == at(PEER) || to.ip() == at(PEER).ip() {
            self.at_peer.push((from, bytes.to_vec()));
        } else if to == at(CLIENT) {
            let bytes = bytes.to_vec();
            if let Handled::Data { relay, peer, range } = self.relays.handle_udp(self.now, at(UDP), &bytes) {
                self.received.push((relay, peer, bytes[range].to_vec()));
            }
        } else if let Some(stream) = self.streams.iter().find(|(_, own)| **own == to).map(|(id, _)| *id) {
            let wire = match self.tls.get_mut(&stream).filter(|_| listener == 2) {
                None => bytes.to_vec(),
                Some(tls) => {
                    tls.writer().write_all(bytes).unwrap();
                    drain_tls(tls)
                }
            };
            self.relays.handle_stream(self.now, stream, StreamInput::Data(&wire));
        }
    }

    fn settle(&mut self) {
        while let Some(output) = self.relays.poll_output() {
            match &output {
                RelayOutput::Udp { remote, bytes } => {
                    self.datagrams += 1;
                    if self.udp_up && *remote == at(UDP) {
                        self.feed_server(0, TransportType::Udp, at(CLIENT), at(UDP), bytes);
                    }
                }
                RelayOutput::Stream(stream, what) => self.stream_output(*stream, what),
                RelayOutput::Data { relay, peer, bytes } => self.received.push((*relay, *peer, bytes.clone())),
                _ => {}
            }
            self.outputs.push(output);
        }
    }

    fn stream_output(&mut self, stream: StreamId, what: &StreamOutput) {
        match what {
            StreamOutput::Connect(address) => {
                let own = SocketAddr::new(at(CLIENT).ip(), 6000 + stream.0 as u16);
                self.streams.insert(stream, own);
                if *address == at(TLS) {
                    let connection = ServerConnection::new(Arc::clone(&self.identity.config)).unwrap();
                    self.tls.insert(stream, connection);
                }
                self.relays.handle_stream(self.now, stream, StreamInput::Connected);
            }
            StreamOutput::Data(bytes) => self.stream_bytes(stream, bytes),
            StreamOutput::Close => {
                self.streams.remove(&stream);
            }
        }
    }

    fn stream_bytes(&mut self, stream: StreamId, bytes: &[u8]) {
        let Some(own) = self.streams.get(&stream).copied() else {
            return;
        };
        let Some(tls) = self.tls.get_mut(&stream) else {
            // Streams cut as they like: byte after byte is the worst.
            for byte in bytes {
                self.feed_server(1, TransportType::Tcp, own, at(TCP), &[*byte]);
            }
            return;
        };
        let mut clear = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            tls.read_tls(&mut rest).unwrap();
            if tls.process_new_packets().is_err() {
                break;
            }
            let _ = tls.reader().read_to_end(&mut clear);
        }
        let answer = drain_tls(tls);
        if !answer.is_empty() {
            self.relays.handle_stream(self.now, stream, StreamInput::Data(&answer));
        }
        if !clear.is_empty() {
            self.feed_server(2, TransportType::Tcp, own, at(TLS), &clear);
        }
    }

    /// Lets virtual time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.relays.poll_timeout().filter(|due| *due <= end).unwrap_or(end);
            self.now = self.now.max(next);
            for listener in 0..self.listeners.len() {
                self.work_server(listener);
            }
            self.relays.handle_timeout(self.now);
            self.settle();
            if next >= end {
                return;
            }
        }
    }

    fn allocated(&self) -> Vec<(RelayId, SocketAddr)> {
        let allocated = |output: &RelayOutput| match output {
            RelayOutput::Allocated { relay, address, .. } => Some((*relay, *address)),
            _ => None,
        };
        self.outputs.iter().filter_map(allocated).collect()
    }

    fn v4(&self) -> (RelayId, SocketAddr) {
        *self.allocated().iter().rfind(|(_, address)| address.is_ipv4()).unwrap()
    }

    fn sentences(&self) -> Vec<&str> {
        let sentence = |output| match output {
            &RelayOutput::Failed { ref reason, .. } | &RelayOutput::Lost { ref reason, .. } => Some(reason.as_str()),
            _ => None,
        };
        self.outputs.iter().filter_map(sentence).collect()
    }

    fn permitted(&self) -> usize {
        self.outputs
            .iter()
            .filter(|output| matches!(output, RelayOutput::Permitted { .. }))
            .count()
    }

    fn peer_sends(&mut self, listener: usize, relayed: SocketAddr, bytes: &[u8]) {
        self.feed_server(listener, TransportType::Udp, at(PEER), relayed, bytes);
        self.settle();
    }
}

fn drain_tls(tls: &mut ServerConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out).unwrap();
    }
    out
}

fn tls(pin: Option<[u8; 32]>) -> TurnTransport {
    TurnTransport::Tls {
        name: "turn.example".to_owned(),
        pin,
    }
}

fn carries_both_ways(rig: &mut Rig, listener: usize) {
    let (relay, address) = rig.v4();
    rig.relays.send(rig.now, relay, at(PEER), b"first");
    rig.relays.send(rig.now, relay, at(PEER), b"second!");
    assert!(rig.at_peer.is_empty(), "no permission yet");
    rig.pass(ms(300));
    assert_eq!(
        rig.at_peer,
        [(address, b"first".to_vec()), (address, b"second!".to_vec())]
    );
    assert_eq!(rig.permitted(), 1);
    rig.peer_sends(listener, address, b"answer");
    assert_eq!(rig.received, [(relay, at(PEER), b"answer".to_vec())]);
    assert_eq!(rig.relays.relay_of(address), Some(relay));
    assert_eq!(rig.relays.dropped(), 0);
}

#[test]
fn an_allocation_over_udp_carries_datagrams_both_ways() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Tcp, TurnTransport::Udp, tls(None)]);
    rig.pass(ms(2000));
    assert_eq!(
        rig.allocated().len(),
        2,
        "one address of each family: {:?}",
        rig.allocated()
    );
    assert!(rig.streams.is_empty(), "UDP works: nothing else is tried");
    assert!(rig.relays.is_server(at(UDP)));
    carries_both_ways(&mut rig, 0);
}

#[test]
fn without_udp_the_other_ways_start_after_half_a_second() {
    for transports in [
        vec![TurnTransport::Udp, TurnTransport::Tcp],
        vec![TurnTransport::Udp, tls(None)],
    ] {
        let mut rig = Rig::new();
        rig.udp_up = false;
        rig.use_ways("secret", &transports);
        rig.pass(ms(800));
        assert_eq!(rig.allocated().len(), 2, "{:?}", rig.outputs);
        let listener = if transports[1] == TurnTransport::Tcp { 1 } else { 2 };
        carries_both_ways(&mut rig, listener);
        assert!(!rig.relays.is_server(at(UDP)), "UDP is given up");
    }
}

#[test]
fn a_pinned_key_replaces_the_roots_and_another_key_is_refused() {
    let mut rig = Rig::new();
    let pin = rig.identity.pin;
    rig.relays.trust.roots = Arc::new(RootCertStore::empty());
    rig.use_ways("secret", &[tls(Some(pin))]);
    rig.pass(ms(300));
    carries_both_ways(&mut rig, 2);
    for transport in [tls(Some([7; 32])), tls(None)] {
        let mut rig = Rig::new();
        rig.relays.trust.roots = Arc::new(RootCertStore::empty());
        rig.use_ways("secret", &[transport]);
        rig.pass(ms(300));
        assert!(rig.allocated().is_empty());
        assert!(rig.sentences()[0].starts_with("TURN server relay.example (TLS 198.51.100.9:5349): TLS failed"));
    }
}

#[test]
fn a_wrong_password_is_told_at_once() {
    for transport in [TurnTransport::Udp, TurnTransport::Tcp, tls(None)] {
        let mut rig = Rig::new();
        rig.use_ways("wrong", &[transport]);
        rig.pass(ms(500));
        assert!(rig.allocated().is_empty());
        let told = rig.sentences();
        assert!(told[0].contains("refuses user \"ann\""), "{told:?}");
        assert!(!told[0].contains("wrong\""), "{told:?}");
        rig.pass(Duration::from_secs(20));
        assert_eq!(rig.sentences().len(), 1, "the account is not hammered");
    }
}

#[test]
fn a_silent_server_is_told_within_five_seconds_and_tried_again_less_and_less() {
    let mut rig = Rig::new();
    rig.udp_up = false;
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(5000));
    assert_eq!(
        rig.sentences(),
        ["TURN server relay.example (UDP 198.51.100.9:3478): it does not answer"]
    );
    rig.datagrams = 0;
    rig.pass(Duration::from_secs(3600));
    assert!(rig.datagrams < 200, "{}", rig.datagrams);
    rig.udp_up = true;
    rig.pass(Duration::from_secs(125));
    assert!(!rig.allocated().is_empty());
}

#[test]
fn a_channel_lets_the_fast_path_write_to_the_server_itself() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    let (relay, address) = rig.v4();
    assert_eq!(rig.relays.channel(relay, at(PEER)), None);
    // Asked for twice before the answer is there, it is one all the same.
    rig.relays.bind_channel(rig.now, relay, at(PEER));
    rig.relays.bind_channel(rig.now, relay, at(PEER));
    rig.pass(ms(300));
    let (server, number) = rig.relays.channel(relay, at(PEER)).unwrap();
    assert_eq!(server, at(UDP));
    let [high, low] = number.to_be_bytes();
    let frame = [&[high, low, 0, 5][..], b"quick"].concat();
    rig.feed_server(0, TransportType::Udp, at(CLIENT), server, &frame);
    assert_eq!(rig.at_peer.last().unwrap(), &(address, b"quick".to_vec()));
    rig.peer_sends(0, address, b"back");
    assert_eq!(rig.received, [(relay, at(PEER), b"back".to_vec())]);
    // In use it stays for hours, through changing nonces; unused it lapses.
    rig.listeners[0].set_nonce_expiry_duration(Duration::from_secs(700));
    for _ in 0..60 {
        rig.relays.bind_channel(rig.now, relay, at(PEER));
        rig.pass(Duration::from_secs(120));
        assert_eq!(rig.relays.channel(relay, at(PEER)), Some((server, number)));
    }
    assert!(rig.sentences().is_empty(), "{:?}", rig.sentences());
    rig.pass(Duration::from_secs(1900));
    assert_eq!(rig.relays.channel(relay, at(PEER)), None);
    assert_eq!(rig.relays.relay_of(address), Some(relay), "the allocation itself stays");
}

#[test]
fn an_unused_permission_lapses_and_comes_back_with_the_next_datagram() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    carries_both_ways(&mut rig, 0);
    rig.pass(Duration::from_secs(1500));
    let (relay, address) = rig.v4();
    rig.received.clear();
    rig.peer_sends(0, address, b"late");
    assert!(rig.received.is_empty());
    rig.relays.send(rig.now, relay, at(PEER), b"again");
    rig.pass(ms(300));
    assert_eq!(rig.permitted(), 2);
    assert_eq!(rig.at_peer.last().unwrap().1, b"again");
}

#[test]
fn a_broken_stream_loses_the_relay_and_is_opened_anew() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Tcp]);
    rig.pass(ms(300));
    let (old, _) = rig.v4();
    let stream = *rig.streams.keys().next().unwrap();
    rig.relays.handle_stream(rig.now, stream, StreamInput::Closed);
    rig.settle();
    assert!(rig.sentences()[0].ends_with("the connection broke"));
    rig.relays.send(rig.now, old, at(PEER), b"into the void");
    assert_eq!(rig.relays.dropped(), 1);
    rig.pass(ms(3000));
    let (new, _) = rig.v4();
    assert_ne!(old, new);
}

#[test]
fn a_server_taken_off_the_list_gives_its_addresses_back() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    let before = rig.allocated().len();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    assert_eq!(rig.allocated().len(), before, "the same list changes nothing");
    rig.relays.set_servers(rig.now, Vec::new());
    rig.pass(ms(300));
    assert_eq!(rig.sentences().len(), before);
    assert_eq!(rig.relays.poll_timeout(), None);
    assert!(!rig.relays.is_server(at(UDP)));
}

#[test]
fn datagrams_that_wait_for_a_permission_are_bounded() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    let (relay, _) = rig.v4();
    rig.udp_up = false;
    for n in 0..1000u16 {
        let peer = SocketAddr::new(Ipv4Addr::from(u32::from(n) + 0x0b00_0000).into(), 9);
        for _ in 0..3 {
            rig.relays.send(rig.now, relay, peer, &[0; 100]);
        }
    }
    assert_eq!(rig.relays.dropped(), 3000 - limits::TURN_HELD as u64);
    // A peer of the other family cannot be reached through this address.
    rig.relays.send(rig.now, relay, at("[2001:db8::5]:9"), b"x");
    assert_eq!(rig.relays.dropped(), 3001 - limits::TURN_HELD as u64);
}

#[test]
fn garbage_from_the_server_changes_nothing() {
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Udp]);
    rig.pass(ms(300));
    assert_eq!(
        rig.relays.handle_udp(rig.now, at("198.51.100.9:1"), b"x"),
        Handled::NotMine
    );
    for length in 0..200 {
        for first in [0u8, 1, 0x40, 0x80, 0xff] {
            let bytes: Vec<u8> = std::iter::once(first).chain(std::iter::repeat_n(7, length)).collect();
            assert_eq!(rig.relays.handle_udp(rig.now, at(UDP), &bytes), Handled::Consumed);
        }
    }
    let (relay, _) = rig.v4();
    assert!(rig.relays.address_of(relay).is_some());
    carries_both_ways(&mut rig, 0);
    let mut rig = Rig::new();
    rig.use_ways("secret", &[TurnTransport::Tcp]);
    let stream = *rig.streams.keys().next().unwrap();
    rig.relays.handle_stream(rig.now, stream, StreamInput::Data(&[0xff; 9]));
    rig.settle();
    assert!(rig.sentences()[0].ends_with("it does not speak TURN on this port"));
}

#[test]
fn a_stream_that_is_not_connected_yet_asks_for_no_time() {
    let mut rig = Rig::new();
    let ways = rig.ways("secret", &[TurnTransport::Tcp]);
    rig.relays.set_servers(rig.now, ways);
    assert!(matches!(
        rig.relays.poll_output(),
        Some(RelayOutput::Stream(_, StreamOutput::Connect(_)))
    ));
    let mut calls = 0;
    while let Some(due) = rig.relays.poll_timeout().filter(|_| rig.sentences().is_empty()) {
        calls += 1;
        assert!(calls < 10, "busy");
        rig.now = rig.now.max(due);
        rig.relays.handle_timeout(rig.now);
        rig.outputs.extend(std::iter::from_fn(|| rig.relays.poll_output()));
    }
    assert!(rig.now - rig.start <= ms(5000));
}
