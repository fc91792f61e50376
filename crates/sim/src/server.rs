//! The servers of a world: STUN with RFC 5780 on two addresses and two ports, TURN over UDP and TCP. Real messages.
//!
//! Promises: answers are what real servers answer; the TURN server is `turn-server-proto`, behind a framing for TCP
//! that it lacks: version 0.7.3 neither sends nor takes the padding of channel data (RFC 8656 section 12.5).
//! Refuses to know: TLS. TURN over TLS is TURN over TCP to everything that this crate models.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sans_io_time::Instant as ServerTime;
use stun_types::TransportType;
use stun_types::attribute::{AttributeType, MappedSocketAddr, RawAttribute, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::{MessageWrite, MessageWriteExt};
use turn_server_proto::api::{Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_types::AddressFamily;

use crate::clock::origin;
use crate::net::{Arrival, ConnId, Datagram, HostId, Net, PUBLIC, Side, StreamEvent};
use crate::oracle::Turn;
use crate::wire::Wire;

/// User name at the TURN server.
pub const USER: &str = "ann";
/// Password at the TURN server.
pub const PASSWORD: &str = "a world apart";
/// STUN's first port, and TURN's over UDP.
pub const PORT: u16 = 3478;
/// STUN's second port.
pub const OTHER_PORT: u16 = 3479;
/// TURN over TCP.
pub const TCP_PORT: u16 = 443;

/// RFC 5780 section 7.2.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
/// RFC 5780 section 7.3.
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
/// RFC 5780 section 7.4.
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
/// CHANGE-REQUEST: answer from the other address.
pub const CHANGE_IP: u8 = 0x04;
/// CHANGE-REQUEST: answer from the other port.
pub const CHANGE_PORT: u8 = 0x02;

/// A client's stream.
struct Conn {
    local: SocketAddr,
    remote: SocketAddr,
    /// The beginning of a message.
    buffer: Vec<u8>,
}

/// A STUN server and one or more TURN servers, all public and with both families.
pub struct Servers {
    stun: HostId,
    turn: Vec<HostId>,
    turns: Vec<Option<TurnServer>>,
    relayed: BTreeMap<SocketAddr, usize>,
    conns: BTreeMap<ConnId, Conn>,
    next_port: u16,
    due: Option<Instant>,
}

impl Servers {
    /// What the oracle needs to know of the TURN server.
    pub const TURN: Turn = Turn {
        v4: true,
        v6: true,
        tcp: &[TCP_PORT],
    };

    /// Puts both into the public realm.
    pub fn new(net: &mut Net, wire: Wire) -> Self {
        let stun = net.add_host(PUBLIC, true, true, wire);
        net.add_address(stun);
        let mut servers = Servers {
            stun,
            turn: Vec::new(),
            turns: Vec::new(),
            relayed: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_port: 50_000,
            due: None,
        };
        servers.add_turn(net, wire);
        servers
    }

    /// One more TURN server.
    pub fn add_turn(&mut self, net: &mut Net, wire: Wire) {
        let host = net.add_host(PUBLIC, true, true, wire);
        self.turn.push(host);
        self.start_turn(net, host);
    }

    /// Where STUN is asked: IPv4, IPv6.
    pub fn stun(&self, net: &Net) -> [SocketAddr; 2] {
        let ips = net.addresses(self.stun);
        [SocketAddr::new(ips[0], PORT), SocketAddr::new(ips[1], PORT)]
    }

    /// Where TURN listens, server by server: over UDP or TCP, for IPv4 and IPv6.
    pub fn turn(&self, net: &Net, transport: TransportType) -> Vec<[SocketAddr; 2]> {
        self.turn.iter().map(|host| listens(net, *host, transport)).collect()
    }

    /// Changes the wires of all.
    pub fn set_wire(&self, net: &mut Net, wire: Wire) {
        for host in self.turn.iter().chain([&self.stun]) {
            net.set_wire(*host, wire);
        }
    }

    /// Whether a host is one of these.
    pub fn owns(&self, host: HostId) -> bool {
        host == self.stun || self.turn.contains(&host)
    }

    /// Kills a TURN server, counted from 0; each of its allocations is gone.
    pub fn kill_turn(&mut self, net: &mut Net, which: usize) {
        let host = self.turn[which];
        let gone = net.addresses(host).to_vec();
        net.set_up(host, false);
        // The others keep their places, by which what they lend is found.
        for (index, slot) in self.turns.iter_mut().enumerate() {
            let is_gone = slot
                .as_ref()
                .is_some_and(|turn| gone.contains(&turn.listen_address().ip()));
            if is_gone {
                *slot = None;
                self.relayed.retain(|_, at| *at != index);
            }
        }
        self.conns.retain(|_, conn| !gone.contains(&conn.local.ip()));
    }

    /// Starts it again, empty.
    pub fn restart_turn(&mut self, net: &mut Net, which: usize) {
        let host = self.turn[which];
        net.set_up(host, true);
        self.start_turn(net, host);
    }

    /// Takes what reached one of the servers.
    pub fn handle(&mut self, net: &mut Net, arrival: Arrival) {
        match arrival {
            Arrival::Datagram(host, datagram) if host == self.stun => self.answer_stun(net, &datagram),
            Arrival::Datagram(_, datagram) => {
                let relayed = self.relayed.get(&datagram.target).copied();
                let listening = || self.listener(TransportType::Udp, datagram.target);
                if let Some(index) = relayed.or_else(listening) {
                    let Datagram { source, target, bytes } = datagram;
                    self.receive(net, index, Transmit::new(bytes, TransportType::Udp, source, target));
                }
            }
            Arrival::Stream(_, conn, event) => self.handle_stream(net, conn, event),
        }
    }

    /// Lets the TURN server do what is due.
    pub fn handle_timeout(&mut self, net: &mut Net) {
        if self.due.is_some_and(|due| due <= net.now()) {
            for index in 0..self.turns.len() {
                self.drain(net, index);
            }
            self.plan(net.now());
        }
    }

    /// When to call [`Servers::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn start_turn(&mut self, net: &mut Net, host: HostId) {
        for transport in [TransportType::Udp, TransportType::Tcp] {
            for address in listens(net, host, transport) {
                let mut server = TurnServer::new(transport, address, "sim".to_owned());
                server.add_user(USER.to_owned(), PASSWORD.to_owned());
                self.turns.push(Some(server));
                if transport == TransportType::Tcp {
                    net.listen(address);
                }
            }
        }
        self.plan(net.now());
    }

    fn listener(&self, transport: TransportType, address: SocketAddr) -> Option<usize> {
        let of = |server: &TurnServer| server.transport() == transport && server.listen_address() == address;
        self.turns.iter().position(|server| server.as_ref().is_some_and(of))
    }

    fn handle_stream(&mut self, net: &mut Net, conn: ConnId, event: StreamEvent) {
        match event {
            StreamEvent::Open { local, remote } => {
                let buffer = Vec::new();
                self.conns.insert(conn, Conn { local, remote, buffer });
            }
            StreamEvent::Data(bytes) => {
                let Some(open) = self.conns.get_mut(&conn) else {
                    return;
                };
                open.buffer.extend_from_slice(&bytes);
                let (local, remote) = (open.local, open.remote);
                for message in messages(&mut open.buffer) {
                    self.receive_tcp(net, local, remote, message);
                }
            }
            // An empty read is how the TURN server learns that a stream ended.
            StreamEvent::Closed => {
                if let Some(Conn { local, remote, .. }) = self.conns.remove(&conn) {
                    self.receive_tcp(net, local, remote, Vec::new());
                }
            }
        }
    }

    fn receive_tcp(&mut self, net: &mut Net, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        if let Some(index) = self.listener(TransportType::Tcp, local) {
            self.receive(net, index, Transmit::new(bytes, TransportType::Tcp, remote, local));
        }
    }

    fn receive(&mut self, net: &mut Net, index: usize, transmit: Transmit<Vec<u8>>) {
        let now = server_time(net.now());
        let reply = self.turns[index].as_mut().and_then(|turn| turn.recv(transmit, now));
        if let Some(reply) = reply.map(|reply| reply.build()) {
            self.transmit(net, reply);
        }
        self.drain(net, index);
        self.plan(net.now());
    }

    fn drain(&mut self, net: &mut Net, index: usize) {
        let now = server_time(net.now());
        loop {
            while let Some(transmit) = self.turns[index].as_mut().and_then(|turn| turn.poll_transmit(now)) {
                self.transmit(net, transmit);
            }
            let Some(polled) = self.turns[index].as_mut().map(|turn| turn.poll(now)) else {
                return;
            };
            match polled {
                TurnServerPollRet::WaitUntil(_) => return,
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    let lent = self.lend(net, index, listen_addr, family);
                    if let Some(server) = &mut self.turns[index] {
                        server.allocated_socket(
                            transport,
                            listen_addr,
                            client_addr,
                            allocation_transport,
                            family,
                            Ok(lent),
                            now,
                        );
                    }
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    self.relayed.remove(&listen_addr);
                }
                TurnServerPollRet::TcpClose {
                    local_addr,
                    remote_addr,
                } => {
                    if let Some(conn) = net.conn_at(local_addr, remote_addr) {
                        net.close(conn, Side::Server);
                    }
                }
                // TCP allocations (RFC 6062) are not lent: nobody asks for them.
                TurnServerPollRet::TcpConnect { .. } => {}
            }
        }
    }

    fn lend(&mut self, net: &Net, index: usize, listen: SocketAddr, family: AddressFamily) -> SocketAddr {
        let host = self.host_at(net, listen.ip()).expect("a server listens where it is");
        let [v4, v6] = listens(net, host, TransportType::Udp);
        let ip: IpAddr = if family == AddressFamily::IPV4 {
            v4.ip()
        } else {
            v6.ip()
        };
        self.next_port = self.next_port.checked_add(1).unwrap_or(50_000);
        let address = SocketAddr::new(ip, self.next_port);
        self.relayed.insert(address, index);
        address
    }

    fn host_at(&self, net: &Net, ip: IpAddr) -> Option<HostId> {
        let mut hosts = self.turn.iter().copied();
        hosts.find(|host| net.addresses(*host).contains(&ip))
    }

    fn transmit(&self, net: &mut Net, transmit: Transmit<Vec<u8>>) {
        let Transmit {
            data,
            transport,
            from,
            to,
        } = transmit;
        if transport == TransportType::Udp {
            let datagram = Datagram {
                source: from,
                target: to,
                bytes: data,
            };
            if let Some(host) = self.host_at(net, from.ip()) {
                net.send(host, datagram);
            }
        } else if let Some(conn) = net.conn_at(from, to) {
            net.write(conn, Side::Server, padded(data));
        }
    }

    /// Asks nothing of the servers, only of the clock: expiry is looked at every ten seconds while something is lent.
    fn plan(&mut self, now: Instant) {
        self.due = (!self.relayed.is_empty()).then(|| now + std::time::Duration::from_secs(10));
    }

    fn answer_stun(&self, net: &mut Net, datagram: &Datagram) {
        let Ok(question) = Message::from_bytes(&datagram.bytes) else {
            return;
        };
        let asked = question.has_class(MessageClass::Request) && question.has_method(BINDING);
        let served = [PORT, OTHER_PORT].contains(&datagram.target.port());
        if !asked || !served {
            return;
        }
        let change = question.raw_attribute(CHANGE_REQUEST);
        let change = change.and_then(|raw| raw.value.get(3).copied()).unwrap_or(0);
        let other = self.other(net, datagram.target);
        let origin = SocketAddr::new(
            if change & CHANGE_IP != 0 {
                other.ip()
            } else {
                datagram.target.ip()
            },
            if change & CHANGE_PORT != 0 {
                other.port()
            } else {
                datagram.target.port()
            },
        );
        let bytes = stun_answer(&question, datagram.source, origin, other);
        let answer = Datagram {
            source: origin,
            target: datagram.source,
            bytes,
        };
        net.send(self.stun, answer);
    }

    /// The address that differs in both parts; IPv6 has one IP address only.
    fn other(&self, net: &Net, asked: SocketAddr) -> SocketAddr {
        let ips = net.addresses(self.stun);
        let ip = match asked.ip() {
            ip if ip == ips[0] => ips[2],
            ip if ip == ips[2] => ips[0],
            ip => ip,
        };
        let port = if asked.port() == PORT { OTHER_PORT } else { PORT };
        SocketAddr::new(ip, port)
    }
}

fn listens(net: &Net, host: HostId, transport: TransportType) -> [SocketAddr; 2] {
    let ips = net.addresses(host);
    let port = if transport == TransportType::Udp {
        PORT
    } else {
        TCP_PORT
    };
    [SocketAddr::new(ips[0], port), SocketAddr::new(ips[1], port)]
}

/// Takes whole messages out of a stream, without padding.
fn messages(buffer: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    while let [first, _, high, low, ..] = buffer[..] {
        let body = usize::from(u16::from_be_bytes([high, low]));
        let length = if is_channel(first) { 4 + body } else { 20 + body };
        if buffer.len() < length.next_multiple_of(4) {
            break;
        }
        let rest = buffer.split_off(length.next_multiple_of(4));
        let mut message = std::mem::replace(buffer, rest);
        message.truncate(length);
        whole.push(message);
    }
    whole
}

fn padded(mut message: Vec<u8>) -> Vec<u8> {
    if message.first().is_some_and(|first| is_channel(*first)) {
        message.resize(message.len().next_multiple_of(4), 0);
    }
    message
}

/// RFC 8656 section 12: channel numbers begin with 0x40 to 0x4F, STUN messages with 0x00 to 0x3F.
fn is_channel(first: u8) -> bool {
    (0x40..=0x4F).contains(&first)
}

fn stun_answer(question: &Message<'_>, seen: SocketAddr, from: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let mut answer = Message::builder_success(question, MessageWriteVec::new());
    let mapped = XorMappedAddress::new(seen, question.transaction_id());
    answer.add_attribute(&mapped).expect("the buffer grows");
    for (kind, address) in [(RESPONSE_ORIGIN, from), (OTHER_ADDRESS, other)] {
        let mut bytes = [0; 20];
        let value = MappedSocketAddr::new(address);
        value.write_into_unchecked(&mut bytes);
        let raw = RawAttribute::new(kind, &bytes[..value.length() as usize]);
        answer.add_attribute(&raw).expect("the buffer grows");
    }
    answer.add_fingerprint().expect("the buffer grows");
    answer.finish()
}

fn server_time(now: Instant) -> ServerTime {
    let since = now.saturating_duration_since(origin());
    ServerTime::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
