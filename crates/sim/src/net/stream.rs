//! TCP streams to servers: reliable, in order, cut into other pieces than they were written in; loss shows as delay.
//!
//! Promises: a stream goes out where every gateway on the way allows TCP, also where UDP is blocked; a dead one says
//! nothing until it is given up. Refuses to know: congestion, windows; streams between two NATs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use super::{Family, Holder, Hop, HostId, Net, RealmId, TcpOut};

/// A stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected.
    Client,
    /// Who listened.
    Server,
}

/// News of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Connected; on the server's side with both addresses as they are there.
    Open {
        /// Own address.
        local: SocketAddr,
        /// The other side's address as seen from here.
        remote: SocketAddr,
    },
    /// Bytes.
    Data(Vec<u8>),
    /// Over, or never came to be.
    Closed,
}

/// A SYN unanswered for this long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A stream whose other end vanished is given up this long after.
const DEAD_AFTER: Duration = Duration::from_secs(15);

pub(super) struct Stream {
    client: HostId,
    server: HostId,
    client_local: SocketAddr,
    client_seen: SocketAddr,
    server_local: SocketAddr,
    way: Vec<RealmId>,
    last: [Instant; 2],
    dead: bool,
}

impl Stream {
    pub(super) fn host(&self, side: Side) -> HostId {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }
}

pub(super) struct StreamHop {
    conn: ConnId,
    to: Side,
    event: StreamEvent,
}

impl Net {
    /// Lets a server take streams at an address.
    pub fn listen(&mut self, address: SocketAddr) {
        self.listening.insert(address);
    }

    /// Opens a stream to a server; `Open` or `Closed` comes later.
    pub fn connect(&mut self, client: HostId, target: SocketAddr) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let found = self.tcp_way(client, target);
        let here = &self.hosts[client.0];
        let own = here.addresses.iter().find(|ip| ip.is_ipv4() == target.is_ipv4());
        let (Some(&own), Some((server, way))) = (own, found) else {
            let refused = self.closed_hop(conn, Side::Client);
            self.orphan(conn, client, target);
            self.queue.push(self.now + CONNECT_TIMEOUT, refused);
            return conn;
        };
        let port = 10_000 + (self.next_conn % 50_000) as u16;
        let outer = way.iter().rev().find_map(|realm| self.outer(*realm));
        let seen = outer.filter(|_| target.is_ipv4()).unwrap_or(own);
        let stream = Stream {
            client,
            server,
            client_local: SocketAddr::new(own, port),
            client_seen: SocketAddr::new(seen, port),
            server_local: target,
            way,
            last: [self.now; 2],
            dead: false,
        };
        self.streams.insert(conn, stream);
        if self.listening.contains(&target) {
            let open = StreamEvent::Open {
                local: target,
                remote: SocketAddr::new(seen, port),
            };
            self.push_stream(conn, Side::Server, open);
        } else {
            self.push_stream(conn, Side::Client, StreamEvent::Closed);
        }
        conn
    }

    /// Writes bytes from one side.
    pub fn write(&mut self, conn: ConnId, from: Side, bytes: Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = if self.rng.random_bool(0.2) {
                self.rng.random_range(1..=rest.len())
            } else {
                rest.len()
            };
            let tail = rest.split_off(cut);
            self.push_stream(conn, other(from), StreamEvent::Data(rest));
            rest = tail;
        }
    }

    /// Closes a stream from one side.
    pub fn close(&mut self, conn: ConnId, from: Side) {
        self.push_stream(conn, other(from), StreamEvent::Closed);
    }

    /// The stream that a server sees at two addresses.
    pub fn conn_at(&self, server_local: SocketAddr, client_seen: SocketAddr) -> Option<ConnId> {
        let of = |stream: &Stream| stream.server_local == server_local && stream.client_seen == client_seen;
        self.streams
            .iter()
            .find(|(_, stream)| of(stream))
            .map(|(conn, _)| *conn)
    }

    pub(super) fn stream_hop(&mut self, hop: StreamHop) -> Option<super::Arrival> {
        let StreamHop { conn, to, event } = hop;
        let stream = self.streams.get(&conn)?;
        let host = stream.host(to);
        if event == StreamEvent::Closed {
            self.streams.remove(&conn);
        } else if stream.dead || !self.hosts[host.0].up {
            return None;
        }
        if let (Side::Server, StreamEvent::Open { .. }) = (to, &event) {
            let stream = self.streams.get(&conn)?;
            let open = StreamEvent::Open {
                local: stream.client_local,
                remote: stream.server_local,
            };
            self.push_stream(conn, Side::Client, open);
        }
        Some(super::Arrival::Stream(host, conn, event))
    }

    /// Both ends of a host's streams learn that it is gone.
    pub(super) fn reset_streams(&mut self, host: HostId) {
        let of = |stream: &Stream| stream.client == host || stream.server == host;
        let conns: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| of(s))
            .map(|(conn, s)| (*conn, s.server))
            .collect();
        for (conn, server) in conns {
            let to = if server == host { Side::Client } else { Side::Server };
            self.push_stream(conn, to, StreamEvent::Closed);
        }
    }

    /// Streams whose way is gone: nothing passes any more, and both ends give up after a while.
    pub(super) fn orphan_streams(&mut self, which: impl Fn(&Stream) -> bool) {
        let conns: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| which(s))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            if let Some(stream) = self.streams.get_mut(&conn) {
                stream.dead = true;
            }
            let closed = self.closed_hop(conn, Side::Client);
            self.queue.push(self.now + DEAD_AFTER, closed);
        }
    }

    /// A stream that never comes to be, so that its end can be told.
    fn orphan(&mut self, conn: ConnId, client: HostId, target: SocketAddr) {
        let stream = Stream {
            client,
            server: client,
            client_local: target,
            client_seen: target,
            server_local: target,
            way: Vec::new(),
            last: [self.now; 2],
            dead: true,
        };
        self.streams.insert(conn, stream);
    }

    fn closed_hop(&self, conn: ConnId, to: Side) -> Hop {
        let event = StreamEvent::Closed;
        Hop::Stream(StreamHop { conn, to, event })
    }

    fn push_stream(&mut self, conn: ConnId, to: Side, event: StreamEvent) {
        let Some(stream) = self.streams.get(&conn).filter(|stream| !stream.dead) else {
            return;
        };
        let (client, server, way) = (stream.client, stream.server, stream.way.clone());
        let mut late = Duration::ZERO;
        for host in [client, server] {
            let line = &mut self.hosts[host.0].line;
            late += line.up.pass_reliably(&line.wire, &mut self.rng);
        }
        for realm in way {
            let line = &mut self.realms[realm.0].line;
            late += line.up.pass_reliably(&line.wire, &mut self.rng);
        }
        let due = self.now + late;
        if let Some(stream) = self.streams.get_mut(&conn) {
            let last = &mut stream.last[(to == Side::Server) as usize];
            *last = due.max(*last);
            self.queue.push(*last, Hop::Stream(StreamHop { conn, to, event }));
        }
    }

    /// The server at an address and the gateways on the way to it, where all of them let TCP out.
    fn tcp_way(&self, client: HostId, target: SocketAddr) -> Option<(HostId, Vec<RealmId>)> {
        let mut way = Vec::new();
        let mut realm = self.hosts[client.0].realm;
        loop {
            let here = &self.realms[realm.0];
            match here.attached.get(&target.ip()) {
                Some(Holder::Host(host)) => return self.hosts[host.0].up.then_some((*host, way)),
                Some(Holder::Gateway(_)) => return None,
                None => {}
            }
            let parent = here.parent?;
            let family = if target.is_ipv4() {
                here.gateway.v4
            } else {
                here.gateway.v6
            };
            let allowed = match here.gateway.tcp {
                TcpOut::All => true,
                TcpOut::Only443 => target.port() == 443,
                TcpOut::None => false,
            };
            if family == Family::Absent || !allowed {
                return None;
            }
            way.push(realm);
            realm = parent;
        }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}
