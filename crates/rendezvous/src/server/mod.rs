//! The embedded rendezvous server: XMPP, STUN and TURN for a family or a lab, on one port.
//!
//! TCP port P speaks XMPP with STARTTLS, XMPP over direct TLS, TURN over TCP and TURN over TLS, told apart by
//! the first byte; UDP port P speaks STUN and TURN, and the next free one (P + 1, if it can be had) STUN alone, for
//! clients that test their NATs.
//!
//! Promises: an ordinary XMPP client can register (with the token), meet others in rooms and find STUN
//! and TURN; strangers cost bounded memory and time ([`limits`]); nothing a client sends ends the server.
//! Refuses: other servers (no federation), offline messages, room history, plain passwords, anything
//! before TLS. Groups and signals are opaque to it: it only delivers.
//!
//! A connection's way: [`door`] tells the protocols apart; [`login`] proves an account; [`session`] reads
//! its stanzas; [`hub`] routes them, with [`muc`] and [`roster`]; [`outbox`] holds what waits for a client.

mod door;
mod files;
mod fuzzing;
mod guard;
mod hub;
mod limits;
mod link;
mod login;
mod muc;
mod outbox;
mod roster;
mod services;
mod session;
mod stanza;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod turn;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use jid::DomainPart;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

#[doc(hidden)]
pub use fuzzing::fuzz_hub;
#[doc(hidden)]
pub use turn::fuzz_relay;

pub use crate::xml::{XmlError, read_stream};
pub use turn::{
    Fragments, FrameError, RelayAddress, TurnConfig, answer_stranger, channel_data, frame_length, turn_user_of,
};

use crate::xml;
use guard::Guard;
use hub::Hub;
use services::TurnOffer;
use store::Store;

/// What the server is to be.
#[derive(Clone)]
pub struct ServerConfig {
    /// The XMPP domain; need not be known to any DNS.
    pub domain: String,
    /// TCP addresses; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where accounts, token and TLS key are kept; made if missing, closed to others.
    pub state_dir: PathBuf,
    /// The name or address that clients are told for STUN and TURN; without it, the address of this
    /// server that they reached by themselves.
    pub public_host: Option<String>,
    /// From the first byte to the bound resource.
    pub login_time: Duration,
    /// STUN and TURN.
    pub turn: TurnConfig,
}

impl ServerConfig {
    /// A server with the usual limits.
    pub fn new(domain: &str, listen: Vec<SocketAddr>, state_dir: PathBuf) -> Self {
        ServerConfig {
            domain: domain.to_owned(),
            turn: TurnConfig {
                listen: listen.clone(),
                ..TurnConfig::default()
            },
            listen,
            state_dir,
            public_host: None,
            login_time: limits::LOGIN_TIME,
        }
    }
}

/// What others need to find and trust this server. Holds the token: not for logs.
#[derive(Clone)]
pub struct Running {
    /// The XMPP domain.
    pub domain: String,
    /// SHA-256 of the SubjectPublicKeyInfo of the TLS key.
    pub pin: [u8; 32],
    /// Lets its holder make an account.
    pub token: String,
    /// TCP addresses as bound.
    pub tcp: Vec<SocketAddr>,
    /// UDP addresses as bound.
    pub udp: Vec<SocketAddr>,
    /// The UDP port for STUN alone beside the first of these, if one was free.
    pub udp_second: Option<u16>,
}

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory cannot be read or written.
    #[error("the state directory of the rendezvous server cannot be used: {0}")]
    State(#[source] io::Error),
    /// The state file is damaged or from a newer version.
    #[error(
        "server.json in the state directory cannot be read; restore it from a backup, or remove it and lose all accounts"
    )]
    StateContent,
    /// The TLS key cannot be made or read.
    #[error(
        "server.pem in the state directory is no usable TLS key; remove it to make a new one (invites with the old pin stop working)"
    )]
    TlsKey,
    /// The domain is not one.
    #[error("the domain of the rendezvous server is not a valid domain name; choose one like ipop.home.arpa")]
    Domain,
    /// An address cannot be listened on.
    #[error("the rendezvous server cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address at fault.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// An account cannot be made.
    #[error("the account {0} cannot be made: its name is taken or not allowed, or the server is full")]
    Account(String),
}

/// Everything that connections share.
struct Shared {
    domain: String,
    state_dir: PathBuf,
    login_time: Duration,
    tls: TlsAcceptor,
    hub: Mutex<Hub>,
    guard: Mutex<Guard>,
    turn: turn::Relay,
    saving: tokio::sync::Mutex<()>,
}

impl Shared {
    fn domain(&self) -> &str {
        &self.domain
    }

    /// Held for one stanza at a time, never across a wait.
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the state; returns when it is safe against a power cut.
    async fn save(&self) -> Result<(), ServerError> {
        let _one_at_a_time = self.saving.lock().await;
        let content = self.hub().store.to_bytes();
        let dir = self.state_dir.clone();
        let write = move || files::replace_private(&dir, store::FILE, &content);
        let written = tokio::task::spawn_blocking(write).await;
        written
            .unwrap_or_else(|_| Err(io::Error::other("the writing task ended")))
            .map_err(ServerError::State)
    }
}

/// A server whose sockets are bound.
pub struct Server {
    shared: Arc<Shared>,
    running: Running,
    listeners: Vec<TcpListener>,
    udp: Vec<turn::UdpDoor>,
}

impl Server {
    /// Makes or reads the state and binds every socket. Needs a tokio runtime with IO and time.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let domain = DomainPart::new(&config.domain)
            .map_err(|_| ServerError::Domain)?
            .as_str()
            .to_owned();
        // It stands in stream headers as it is.
        if !domain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
        {
            return Err(ServerError::Domain);
        }
        files::make_private_dir(&config.state_dir).map_err(ServerError::State)?;
        let store = Store::load_or_make(&config.state_dir)?;
        let (tls, pin) = tls::load_or_make(&config.state_dir, &domain)?;
        let listeners = config
            .listen
            .iter()
            .map(|a| listen(*a))
            .collect::<Result<Vec<_>, _>>()?;
        let mut udp: Vec<turn::UdpDoor> = Vec::new();
        for address in &config.turn.listen {
            let wished = udp.first().and_then(turn::UdpDoor::second_port);
            udp.push(turn::UdpDoor::bind(*address, wished, config.turn.fragments)?);
        }
        let running = Running {
            domain: domain.clone(),
            pin,
            token: store.token().to_owned(),
            tcp: listeners.iter().filter_map(|l| l.local_addr().ok()).collect(),
            udp: udp.iter().filter_map(turn::UdpDoor::address).collect(),
            udp_second: udp.first().and_then(turn::UdpDoor::second_port),
        };
        let secret = BASE64.encode(&store.secret("turn")).into_bytes();
        let offer = TurnOffer {
            host: config.public_host.clone(),
            udp: running.udp.first().map(SocketAddr::port),
            udp_second: running.udp_second,
            tcp: running.tcp.first().map(SocketAddr::port),
            secret: secret.clone(),
            lifetime_secs: config.turn.credential_lifetime.as_secs(),
        };
        let shared = Shared {
            state_dir: config.state_dir,
            login_time: config.login_time,
            tls: TlsAcceptor::from(tls),
            turn: turn::Relay::new(config.turn, domain.clone(), secret)?,
            hub: Mutex::new(Hub::new(store, domain.clone(), offer)),
            guard: Mutex::new(Guard::default()),
            saving: tokio::sync::Mutex::new(()),
            domain,
        };
        Ok(Server {
            shared: Arc::new(shared),
            running,
            listeners,
            udp,
        })
    }

    /// Addresses, pin and token, for invites.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Makes an account without the token, for the node that runs the server.
    pub async fn add_account(&self, user: &str, password: &str) -> Result<(), ServerError> {
        let refused = || ServerError::Account(user.to_owned());
        let name = login::account_name(user).ok_or_else(refused)?;
        let keys = crate::sasl::StoredKeys::from_password(password).map_err(|_| refused())?;
        self.shared
            .hub()
            .store
            .add_account(&name, &keys)
            .map_err(|_| refused())?;
        self.shared.save().await
    }

    /// Serves until `shutdown` is ready, then ends every stream properly.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(door::accept(listener, self.shared.clone(), stopped.clone()));
        }
        for door in self.udp {
            tasks.spawn(door.serve(self.shared.clone(), stopped.clone()));
        }
        shutdown.await;
        let _ = stop.send(true);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// Binds and serves in one step.
pub async fn serve(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
    Server::bind(config).await?.run(shutdown).await
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listen = || {
        let socket = bound_socket(address, socket2::Type::STREAM)?;
        socket.listen(128)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| ServerError::Listen { address, source })
}

/// IPv6 sockets take no IPv4: so `0.0.0.0` and `[::]` can both be given, and addresses mean what they say.
fn bound_socket(address: SocketAddr, kind: socket2::Type) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    #[cfg(unix)]
    if kind == socket2::Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
