//! The UDP sockets that clients and STUN's strangers send to.
//!
//! What a client sends on a channel is the bulk: consecutive datagrams on one channel are looked up once and leave for the
//! peer as they came, in trains. One batch is handled at a time, then every other task has its turn: a client that fills the
//! socket is in the way of others only as far as the socket's queue is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use quinn_udp::EcnCodepoint;
use tokio::sync::watch;

use super::super::{ServerError, Shared};
use super::binding::{self, Answer, Ports};
use super::machine::{Client, Transport};
use super::socket::{Arrived, Batch, Fragments, Socket};
use super::train::Train;
use super::{Back, Relay, limits, wire};

/// The UDP sockets of one address: one for STUN and TURN, and where a port was free one for STUN alone, so that clients
/// can find out whether their NATs tell ports apart.
pub(in super::super) struct UdpDoor {
    main: Arc<Socket>,
    second: Option<Arc<Socket>>,
}

impl UdpDoor {
    /// Binds both. `wished` is the second port of another address: one port for all is what XEP-0215 can tell.
    pub(in super::super) fn bind(
        address: SocketAddr,
        wished: Option<u16>,
        fragments: Fragments,
    ) -> Result<Self, ServerError> {
        let main = Socket::bind(address, limits::DOOR_ROOM, fragments);
        let main = main.map_err(|source| ServerError::Listen { address, source })?;
        let second = main
            .local_addr()
            .ok()
            .and_then(|main| second_socket(main, wished, fragments));
        Ok(UdpDoor {
            main: Arc::new(main),
            second: second.map(Arc::new),
        })
    }

    /// The address for STUN and TURN.
    pub(in super::super) fn address(&self) -> Option<SocketAddr> {
        self.main.local_addr().ok()
    }

    /// The port for STUN alone.
    pub(in super::super) fn second_port(&self) -> Option<u16> {
        Some(self.second.as_ref()?.local_addr().ok()?.port())
    }

    /// Serves clients until the server stops.
    pub(in super::super) async fn serve(self, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
        let main = Desk::new(self.main.clone(), self.second.clone(), true, shared.clone());
        let second = self
            .second
            .and_then(|second| Desk::new(second, Some(self.main), false, shared));
        let serve = async |desk: Option<Desk>| {
            if let Some(desk) = desk {
                desk.serve(stopped.clone()).await;
            }
        };
        tokio::join!(serve(main), serve(second));
    }
}

/// A socket at a port above the main one: of several STUN ports at one address clients keep talking to the lowest, so that
/// their NATs have not heard of the others when that is what they test.
fn second_socket(main: SocketAddr, wished: Option<u16>, fragments: Fragments) -> Option<Socket> {
    let next = (1..=limits::SECOND_PORT_TRIES).filter_map(|step| main.port().checked_add(step));
    let ports = wished.into_iter().filter(|port| *port > main.port()).chain(next);
    let mut sockets =
        ports.filter_map(|port| Socket::bind(SocketAddr::new(main.ip(), port), limits::PEER_ROOM, fragments).ok());
    sockets.next()
}

/// One socket and what it answers.
struct Desk {
    socket: Arc<Socket>,
    server: SocketAddr,
    /// Where answers leave from that have to come from another port.
    other: Option<Arc<Socket>>,
    has_turn: bool,
    shared: Arc<Shared>,
}

impl Desk {
    fn new(socket: Arc<Socket>, other: Option<Arc<Socket>>, has_turn: bool, shared: Arc<Shared>) -> Option<Self> {
        Some(Desk {
            server: socket.local_addr().ok()?,
            socket,
            other,
            has_turn,
            shared,
        })
    }

    async fn serve(&self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopped.changed() => return,
                () = self.socket.readable() => {}
            }
            self.shared.turn.with_room(|batch, train| {
                self.socket.receive(batch);
                self.handle(batch, train);
            });
            tokio::task::yield_now().await;
        }
    }

    fn handle(&self, batch: &Batch, train: &mut Train) {
        let mut outward = Outward {
            relay: &self.shared.turn,
            now: Instant::now(),
            train,
            way: None,
        };
        for arrived in batch.arrived() {
            let client = self.client(arrived.from);
            for datagram in arrived.datagrams() {
                match wire::channel_data(datagram).filter(|_| self.has_turn) {
                    Some((number, data)) => outward.push(client, number, arrived.ecn, data),
                    None => {
                        outward.end();
                        self.answer(client, &arrived, datagram);
                    }
                }
            }
        }
        outward.end();
    }

    fn client(&self, peer: SocketAddr) -> Client {
        Client {
            transport: Transport::Udp,
            server: self.server,
            peer,
        }
    }

    /// Everything but channels' data.
    fn answer(&self, client: Client, arrived: &Arrived<'_>, datagram: &[u8]) {
        let ports = if self.other.is_some() { Ports::Two } else { Ports::One };
        let back = Back::Udp(self.socket.clone(), arrived.from);
        match binding::answer_datagram(arrived.from, datagram, ports) {
            Some(Answer::FromHere(answer)) => back.send(&answer),
            Some(Answer::FromOtherPort(answer)) => {
                let other = self.other.as_ref().unwrap_or(&self.socket);
                Back::Udp(other.clone(), arrived.from).send(&answer);
            }
            None if self.has_turn => self.shared.turn.handle(&self.shared, client, datagram, &back),
            None => {}
        }
    }
}

/// Channels' data on its way to peers.
struct Outward<'a> {
    relay: &'a Relay,
    now: Instant,
    train: &'a mut Train,
    way: Option<Way>,
}

/// Where the last datagram went, and so the next one like it.
struct Way {
    client: Client,
    number: u16,
    ecn: Option<EcnCodepoint>,
    /// The relay's socket and the peer; nowhere if the channel is none.
    to: Option<(Arc<Socket>, SocketAddr)>,
}

impl Outward<'_> {
    fn push(&mut self, client: Client, number: u16, ecn: Option<EcnCodepoint>, data: &[u8]) {
        let is_same = |way: &Way| way.number == number && way.client == client && way.ecn == ecn;
        if !self.way.as_ref().is_some_and(is_same) {
            self.end();
            self.way = Some(Way {
                client,
                number,
                ecn,
                to: self.relay.channel(&client, number, self.now),
            });
        }
        if self.way.as_ref().is_none_or(|way| way.to.is_none()) {
            return;
        }
        if !self.train.takes(data.len()) {
            self.leave();
        }
        self.train.push(|out| out.extend_from_slice(data));
    }

    /// Sends what waits, and forgets the way: the next message may change it.
    fn end(&mut self) {
        self.leave();
        self.way = None;
    }

    fn leave(&mut self) {
        let way = self.way.as_ref().and_then(|way| Some((way.to.as_ref()?, way.ecn)));
        self.train.leave(|bytes, segment| {
            if let Some(((socket, peer), ecn)) = way {
                socket.send(*peer, ecn, bytes, segment);
            }
        });
    }
}
