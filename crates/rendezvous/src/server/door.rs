//! The front door: takes connections, tells the protocols apart by their first byte, within time.
//!
//! | first byte | then | protocol |
//! |---|---|---|
//! | 0x16 | TLS, then as below | direct TLS (XEP-0368), TURN over TLS |
//! | 0x00, 0x01 | | STUN or TURN over TCP: no other byte begins a STUN request |
//! | anything else | | XMPP, which refuses what is not `<` |

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::guard::Origin;
use super::link::{Ended, Link, Wire};
use super::login::{self, Stranger};
use super::turn::StreamClient;
use super::{Shared, limits, outbox, session, tls, turn};

/// Takes connections until the server stops; returns when they have all ended.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            taken = listener.accept() => match taken {
                Ok((socket, peer)) => {
                    let origin = Origin::of(peer.ip());
                    if shared.guard().connected(origin) {
                        let visit = Visit { shared: shared.clone(), origin };
                        connections.spawn(visit.serve(socket, stopped.clone()));
                    }
                }
                // Out of descriptors, most likely: wait for one to be given back, never spin.
                Err(_) => tokio::select! {
                    _ = stopped.changed() => break,
                    _ = connections.join_next(), if !connections.is_empty() => {}
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                },
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection, counted while it lives.
struct Visit {
    shared: Arc<Shared>,
    origin: Origin,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.shared.guard().disconnected(self.origin);
    }
}

/// What the first byte promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tls,
    Turn,
    Xmpp,
}

fn protocol(first: u8) -> Protocol {
    match first {
        0x16 => Protocol::Tls,
        // RFC 8489 section 5: the two highest bits are zero; requests and indications of TURN are 0x00xx.
        0x00 | 0x01 => Protocol::Turn,
        _ => Protocol::Xmpp,
    }
}

impl Visit {
    async fn serve(self, socket: TcpStream, stopped: watch::Receiver<bool>) {
        let deadline = Instant::now() + self.shared.login_time;
        let _ = socket.set_nodelay(true);
        let mut first = [0u8];
        match timeout_at(deadline, socket.peek(&mut first)).await {
            Ok(Ok(1)) => {}
            _ => return,
        }
        let Some(client) = StreamClient::of(&socket) else {
            return;
        };
        match protocol(first[0]) {
            Protocol::Tls => self.tls(Box::new(socket), client, deadline, stopped).await,
            Protocol::Turn => turn::serve_stream(Box::new(socket), Vec::new(), client, &self.shared, stopped).await,
            Protocol::Xmpp => self.plain(Box::new(socket), client, deadline, stopped).await,
        }
    }

    async fn plain(self, wire: Box<dyn Wire>, client: StreamClient, deadline: Instant, stopped: watch::Receiver<bool>) {
        let mut link = Link::new(wire, Vec::new(), limits::STANZA_BYTES_STRANGER);
        let taken = timeout_at(deadline, login::starttls(&mut link, &self.shared)).await;
        if let Err(ended) = taken.unwrap_or(Err(Ended::Condition("connection-timeout"))) {
            return link.close(&ended).await;
        }
        if let Ok(wire) = link.into_wire() {
            self.tls(wire, client, deadline, stopped).await;
        }
    }

    async fn tls(self, wire: Box<dyn Wire>, client: StreamClient, deadline: Instant, stopped: watch::Receiver<bool>) {
        let accepted = timeout_at(deadline, self.shared.tls.accept(wire)).await;
        let Ok(Ok(mut stream)) = accepted else {
            return;
        };
        let binding = tls::exporter(stream.get_ref().1);
        let mut input = Vec::with_capacity(limits::READ_BYTES);
        match timeout_at(deadline, stream.read_buf(&mut input)).await {
            Ok(Ok(1..)) => {}
            _ => return,
        }
        match protocol(input[0]) {
            Protocol::Turn => turn::serve_stream(Box::new(stream), input, client, &self.shared, stopped).await,
            Protocol::Tls | Protocol::Xmpp => {
                let stranger = Stranger {
                    origin: self.origin,
                    binding,
                };
                let link = Link::new(Box::new(stream), input, limits::STANZA_BYTES_STRANGER);
                self.xmpp(link, stranger, client, deadline, stopped).await;
            }
        }
    }

    async fn xmpp(
        self,
        mut link: Link,
        stranger: Stranger,
        client: StreamClient,
        deadline: Instant,
        stopped: watch::Receiver<bool>,
    ) {
        let shared = &self.shared;
        let (outbox, mut drain) = outbox::pair();
        let login = timeout_at(deadline, async {
            let user = login::authenticate(&mut link, shared, &stranger).await?;
            link.restart(limits::STANZA_BYTES_MAX);
            login::bind(&mut link, shared, &user, &outbox, client.server.ip()).await
        });
        let bound = match login.await.unwrap_or(Err(Ended::Condition("connection-timeout"))) {
            Ok(bound) => bound,
            Err(ended) => return link.close(&ended).await,
        };
        // The hub holds the only other end: once it forgets the session, the drain ends too.
        drop(outbox);
        let ended = session::run(&mut link, shared, &bound.id, &mut drain, stopped).await;
        drop(bound);
        link.close(&ended).await;
    }
}
