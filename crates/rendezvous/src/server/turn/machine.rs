//! The TURN server (RFC 8656) and STUN server (RFC 8489) as a pure machine.
//!
//! Promises: a stranger leaves no state behind (nonces are MACs, names carry their expiry); every table is
//! bounded; an allocation belongs to the client's addresses and to the user that made it; data goes only to
//! peers with a permission, and permissions are given only for peers that the policy allows. Refuses to
//! know sockets and clocks. Not supported: TCP relaying (RFC 6062), reservation tokens, two families in one
//! allocation; clients are told so by the RFC's error codes.
//!
//! The ready-made `turn-server-proto` keeps every user and every stranger's nonce for ever, looks clients
//! up one by one, and cannot refuse a peer, so this is our own, on the same message types.
//!
//! 1. challenge; 2. allocate -> [`Action::Open`] -> [`Machine::opened`]; 3. permissions and channels;
//! 4. data both ways; 5. refresh until [`Action::Close`] or [`Machine::expired`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use stun_proto::types::AddressFamily;
use stun_proto::types::attribute::{ErrorCode, Nonce, Realm, Username, XorMappedAddress};
use stun_proto::types::attribute::{MessageIntegrity, MessageIntegritySha256};
use stun_proto::types::message::{
    BINDING, IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageClass, TransactionId,
};
use stun_proto::types::prelude::*;
use subtle::ConstantTimeEq;
use turn_types::attribute::{
    ChannelNumber, Data, DontFragment, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use super::binding::{self, Answer, Ports};
use super::peers::Policy;
use super::wire::Wrapping;
use super::{credentials, limits, wire};

/// How a client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    /// TCP or TLS over TCP.
    Stream,
}

/// The five-tuple of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) server: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// One relay socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelayId(u64);

/// What the driver has to do after a client's message.
pub(super) enum Action {
    Nothing,
    /// Send to the client.
    Reply(Vec<u8>),
    /// Send this part of the message from the relay socket.
    Send {
        relay: RelayId,
        to: SocketAddr,
        data: Range<usize>,
    },
    /// Open a relay socket and call [`Machine::opened`].
    Open(Box<Open>),
    /// Close the relay socket, and answer.
    Close {
        relay: RelayId,
        reply: Option<Vec<u8>>,
    },
}

/// An allocation that waits for its socket.
pub(super) struct Open {
    pub(super) client: Client,
    pub(super) family: AddressFamily,
    user: String,
    username: String,
    lifetime: Duration,
    request: Vec<u8>,
    key: IntegrityKey,
}

/// How much one user and all together may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quotas {
    pub(super) per_user: usize,
    pub(super) total: usize,
}

/// The machine.
pub(super) struct Machine {
    realm: String,
    secret: Vec<u8>,
    nonce_key: hmac::Key,
    started: Instant,
    policy: Policy,
    quotas: Quotas,
    allocations: HashMap<Client, Allocation>,
    relays: HashMap<RelayId, Client>,
    per_user: HashMap<String, usize>,
    next_relay: u64,
    challenges: Budget,
}

struct Allocation {
    relay: RelayId,
    /// As the peer sees it.
    relayed: SocketAddr,
    user: String,
    username: String,
    transaction: TransactionId,
    lifetime: Duration,
    expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, Channel>,
    by_peer: HashMap<SocketAddr, u16>,
}

struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

/// A request whose sender has proven its credentials.
struct Proven {
    user: String,
    username: String,
    key: IntegrityKey,
}

impl Machine {
    /// `secret` is what credentials are made with, `nonce_secret` fresh for each start.
    pub(super) fn new(
        realm: String,
        secret: Vec<u8>,
        nonce_secret: &[u8; 32],
        policy: Policy,
        quotas: Quotas,
        now: Instant,
    ) -> Self {
        Machine {
            realm,
            secret,
            nonce_key: hmac::Key::new(hmac::HMAC_SHA256, nonce_secret),
            started: now,
            policy,
            quotas,
            allocations: HashMap::new(),
            relays: HashMap::new(),
            per_user: HashMap::new(),
            next_relay: 0,
            challenges: Budget {
                left: limits::CHALLENGES_PER_SECOND,
                since: now,
            },
        }
    }

    pub(super) fn has_allocation(&self, client: &Client) -> bool {
        self.allocations.contains_key(client)
    }

    /// A whole message of a client. `unix` is the wall clock in seconds, for the expiry of names.
    pub(super) fn handle_client(&mut self, client: Client, bytes: &[u8], now: Instant, unix: u64) -> Action {
        if let Some((number, data)) = wire::channel_data(bytes) {
            return self.channel_send(&client, number, 4..4 + data.len(), now);
        }
        let Ok(message) = Message::from_bytes(bytes) else {
            return Action::Nothing;
        };
        match (message.class(), message.method()) {
            (MessageClass::Request, BINDING) => match binding::answer(client.peer, &message, Ports::One) {
                Some(Answer::FromHere(bytes) | Answer::FromOtherPort(bytes)) => Action::Reply(bytes),
                None => Action::Nothing,
            },
            (MessageClass::Request, _) => self.request(client, &message, now, unix),
            (MessageClass::Indication, SEND) => self.send(&client, &message, now).unwrap_or(Action::Nothing),
            _ => Action::Nothing,
        }
    }

    // --- 1. challenge ---

    fn request(&mut self, client: Client, message: &Message<'_>, now: Instant, unix: u64) -> Action {
        let proven = match self.prove(&client, message, now, unix) {
            Ok(proven) => proven,
            Err(refused) => {
                let free = client.transport == Transport::Stream || self.has_allocation(&client);
                let allowed = free || self.challenges.take(now);
                return if allowed {
                    Action::reply(refused)
                } else {
                    Action::Nothing
                };
            }
        };
        if let Some(unknown) = wire::unknown(message, wire::KNOWN) {
            return Action::Reply(unknown);
        }
        if self.allocations.get(&client).is_some_and(|a| a.user != proven.user) {
            return refuse(message, ErrorCode::WRONG_CREDENTIALS, &proven);
        }
        match message.method() {
            ALLOCATE => self.allocate(client, message, proven, now),
            _ if self.alive(&client, now).is_none() => refuse(message, ErrorCode::ALLOCATION_MISMATCH, &proven),
            REFRESH => self.refresh(&client, message, &proven, now),
            CREATE_PERMISSION => self.create_permission(&client, message, &proven, now),
            CHANNEL_BIND => self.channel_bind(&client, message, &proven, now),
            _ => refuse(message, ErrorCode::BAD_REQUEST, &proven),
        }
    }

    /// RFC 8489 section 9.2.4. The error is the whole answer.
    fn prove(
        &self,
        client: &Client,
        message: &Message<'_>,
        now: Instant,
        unix: u64,
    ) -> Result<Proven, Option<Vec<u8>>> {
        let challenge = |code| wire::challenge(message, code, &self.realm, &self.nonce(client, now));
        let signed =
            message.has_attribute(MessageIntegrity::TYPE) || message.has_attribute(MessageIntegritySha256::TYPE);
        if !signed {
            return Err(challenge(ErrorCode::UNAUTHORIZED));
        }
        let username = message.attribute::<Username>();
        let (Ok(username), Ok(nonce), true) = (
            username,
            message.attribute::<Nonce>(),
            message.has_attribute(Realm::TYPE),
        ) else {
            return Err(wire::error(message, ErrorCode::BAD_REQUEST, None));
        };
        if !self.nonce_is_good(client, nonce.nonce(), now) {
            return Err(challenge(ErrorCode::STALE_NONCE));
        }
        let username = username.username();
        // An allocation outlives the name that made it: the name only has to be valid at the start.
        let known = self
            .allocations
            .get(client)
            .filter(|a| a.username == username)
            .map(|a| a.user.as_str());
        let Some(user) = known.or_else(|| credentials::user_of(username, unix)) else {
            return Err(challenge(ErrorCode::UNAUTHORIZED));
        };
        let password = credentials::password(&self.secret, username);
        let key = LongTermKeyCredentials::new(username.to_owned(), password, self.realm.clone())
            .make_key(IntegrityAlgorithm::Sha1);
        if message.validate_integrity_with_key(&key).is_err() {
            return Err(challenge(ErrorCode::UNAUTHORIZED));
        }
        Ok(Proven {
            user: user.to_owned(),
            username: username.to_owned(),
            key,
        })
    }

    /// Time of making and a MAC over it and the client's addresses: nothing to remember.
    fn nonce(&self, client: &Client, now: Instant) -> String {
        self.nonce_at(client, now.saturating_duration_since(self.started).as_secs())
    }

    fn nonce_at(&self, client: &Client, made: u64) -> String {
        let text = format!("{made} {} {} {:?}", client.server, client.peer, client.transport);
        let mac = hmac::sign(&self.nonce_key, text.as_bytes());
        // 96 bits: forging a nonce gains nothing without the credentials anyway.
        format!("{}-{made}", BASE64URL_NOPAD.encode(&mac.as_ref()[..12]))
    }

    fn nonce_is_good(&self, client: &Client, nonce: &str, now: Instant) -> bool {
        let made = nonce.rsplit_once('-').and_then(|(_, made)| made.parse::<u64>().ok());
        let Some(made) = made else {
            return false;
        };
        let age = now.saturating_duration_since(self.started).as_secs().checked_sub(made);
        let fresh = age.is_some_and(|age| age <= limits::NONCE_TIME.as_secs());
        fresh && bool::from(self.nonce_at(client, made).as_bytes().ct_eq(nonce.as_bytes()))
    }

    // --- 2. allocate ---

    fn allocate(&mut self, client: Client, message: &Message<'_>, proven: Proven, now: Instant) -> Action {
        if let Some(allocation) = self.alive(&client, now) {
            // RFC 8656 section 7.2: the same request again gets the same answer.
            return match allocation.transaction == message.transaction_id() {
                true => Action::reply(allocated(&client, message, allocation, &proven.key)),
                false => refuse(message, ErrorCode::ALLOCATION_MISMATCH, &proven),
            };
        }
        if let Some(stale) = self.remove(&client) {
            // Its socket goes first; the client tries again.
            return Action::Close {
                relay: stale,
                reply: None,
            };
        }
        let Ok(transport) = message.attribute::<RequestedTransport>() else {
            return refuse(message, ErrorCode::BAD_REQUEST, &proven);
        };
        if transport.protocol() != RequestedTransport::UDP {
            return refuse(message, ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL, &proven);
        }
        if message.has_attribute(EvenPort::TYPE) || message.has_attribute(ReservationToken::TYPE) {
            return refuse(message, ErrorCode::INSUFFICIENT_CAPACITY, &proven);
        }
        let family = match message.attribute::<RequestedAddressFamily>() {
            Ok(requested) => requested.family(),
            Err(_) if message.has_attribute(RequestedAddressFamily::TYPE) => {
                return refuse(message, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED, &proven);
            }
            Err(_) => AddressFamily::IPV4,
        };
        if self
            .per_user
            .get(&proven.user)
            .is_some_and(|n| *n >= self.quotas.per_user)
        {
            return refuse(message, ErrorCode::ALLOCATION_QUOTA_REACHED, &proven);
        }
        if self.allocations.len() >= self.quotas.total {
            return refuse(message, ErrorCode::INSUFFICIENT_CAPACITY, &proven);
        }
        Action::Open(Box::new(Open {
            client,
            family,
            lifetime: lifetime(message),
            user: proven.user,
            username: proven.username,
            request: message.as_bytes().to_vec(),
            key: proven.key,
        }))
    }

    /// The socket is open at `relayed` (as peers see it), or could not be opened. Gives the answer for the
    /// client and, on success, the relay's id.
    pub(super) fn opened(
        &mut self,
        open: Open,
        relayed: Option<SocketAddr>,
        now: Instant,
    ) -> (Option<RelayId>, Option<Vec<u8>>) {
        let Ok(request) = Message::from_bytes(&open.request) else {
            return (None, None);
        };
        let Some(relayed) = relayed else {
            return (
                None,
                wire::error(&request, ErrorCode::INSUFFICIENT_CAPACITY, Some(&open.key)),
            );
        };
        self.next_relay += 1;
        let relay = RelayId(self.next_relay);
        let allocation = Allocation {
            relay,
            relayed,
            user: open.user.clone(),
            username: open.username,
            transaction: request.transaction_id(),
            lifetime: open.lifetime,
            expires: now + open.lifetime,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            by_peer: HashMap::new(),
        };
        let reply = allocated(&open.client, &request, &allocation, &open.key);
        self.allocations.insert(open.client, allocation);
        self.relays.insert(relay, open.client);
        *self.per_user.entry(open.user).or_default() += 1;
        (Some(relay), reply)
    }

    // --- 3. permissions and channels ---

    fn create_permission(&mut self, client: &Client, message: &Message<'_>, proven: &Proven, now: Instant) -> Action {
        let policy = self.policy;
        let peers = wire::peers(message).filter(|p| !p.is_empty());
        let (Some(allocation), Some(peers)) = (self.allocations.get_mut(client), peers) else {
            return refuse(message, ErrorCode::BAD_REQUEST, proven);
        };
        if peers.iter().any(|p| p.is_ipv4() != allocation.relayed.is_ipv4()) {
            return refuse(message, ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH, proven);
        }
        if !peers.iter().all(|p| policy.allows_ip(p.ip())) {
            return refuse(message, ErrorCode::FORBIDDEN, proven);
        }
        match peers.iter().all(|p| allocation.permit(p.ip(), now)) {
            true => Action::reply(wire::success(message, &[], Some(&proven.key))),
            false => refuse(message, ErrorCode::INSUFFICIENT_CAPACITY, proven),
        }
    }

    fn channel_bind(&mut self, client: &Client, message: &Message<'_>, proven: &Proven, now: Instant) -> Action {
        let policy = self.policy;
        let peers = wire::peers(message).unwrap_or_default();
        let number = message
            .attribute::<ChannelNumber>()
            .map(|n| n.channel())
            .unwrap_or_default();
        let (Some(allocation), [peer], 0x4000..=0x4fff) = (self.allocations.get_mut(client), peers.as_slice(), number)
        else {
            return refuse(message, ErrorCode::BAD_REQUEST, proven);
        };
        if peer.is_ipv4() != allocation.relayed.is_ipv4() {
            return refuse(message, ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH, proven);
        }
        if !policy.allows(*peer) {
            return refuse(message, ErrorCode::FORBIDDEN, proven);
        }
        match allocation.bind(number, *peer, now) {
            Ok(()) => Action::reply(wire::success(message, &[], Some(&proven.key))),
            Err(code) => refuse(message, code, proven),
        }
    }

    // --- 4. data ---

    fn send(&self, client: &Client, message: &Message<'_>, now: Instant) -> Option<Action> {
        let allocation = self.alive(client, now)?;
        // RFC 8656 section 11.2: what we cannot honour is not sent at all.
        if message.has_attribute(DontFragment::TYPE) {
            return None;
        }
        let peers = wire::peers(message)?;
        let [peer] = peers.as_slice() else {
            return None;
        };
        let (offset, attribute) = message.raw_attribute_and_offset(Data::TYPE)?;
        let start = offset + 4;
        let data = start..start + attribute.value.len();
        let permitted = allocation.permits(peer.ip(), now) && self.policy.allows(*peer);
        permitted.then_some(Action::Send {
            relay: allocation.relay,
            to: *peer,
            data,
        })
    }

    fn channel_send(&self, client: &Client, number: u16, data: Range<usize>, now: Instant) -> Action {
        match self.channel(client, number, now) {
            Some((relay, to)) => Action::Send { relay, to, data },
            None => Action::Nothing,
        }
    }

    /// Where what a client sends on a channel goes, if anywhere.
    pub(super) fn channel(&self, client: &Client, number: u16, now: Instant) -> Option<(RelayId, SocketAddr)> {
        let allocation = self.alive(client, now)?;
        let channel = allocation.channels.get(&number).filter(|c| c.expires > now)?;
        let permitted = allocation.permits(channel.peer.ip(), now);
        permitted.then_some((allocation.relay, channel.peer))
    }

    /// How the client is given what this peer sends to a relay socket; `None`: not at all.
    pub(super) fn wrapping(&self, relay: RelayId, from: SocketAddr, now: Instant) -> Option<Wrapping> {
        let client = self.relays.get(&relay)?;
        let allocation = self.alive(client, now)?;
        let from = wire::canonical(from);
        if !allocation.permits(from.ip(), now) {
            return None;
        }
        let channel = allocation.by_peer.get(&from).copied();
        let alive = |number: &u16| allocation.channels.get(number).is_some_and(|c| c.expires > now);
        Some(match channel.filter(alive) {
            Some(number) => Wrapping::Channel {
                number,
                is_padded: client.transport == Transport::Stream,
            },
            None => Wrapping::Indication { from },
        })
    }

    // --- 5. the end ---

    fn refresh(&mut self, client: &Client, message: &Message<'_>, proven: &Proven, now: Instant) -> Action {
        let zero = message.attribute::<Lifetime>().is_ok_and(|l| l.seconds() == 0);
        if zero {
            let reply = wire::success(message, &[&Lifetime::new(0)], Some(&proven.key));
            return match self.remove(client) {
                Some(relay) => Action::Close { relay, reply },
                None => Action::reply(reply),
            };
        }
        let granted = lifetime(message);
        if let Some(allocation) = self.allocations.get_mut(client) {
            allocation.lifetime = granted;
            allocation.expires = now + granted;
        }
        let seconds = u32::try_from(granted.as_secs()).unwrap_or(u32::MAX);
        Action::reply(wire::success(message, &[&Lifetime::new(seconds)], Some(&proven.key)))
    }

    /// When the relay's allocation ends, unless it is refreshed; `None` if it has ended.
    pub(super) fn expiry(&self, relay: RelayId) -> Option<Instant> {
        self.relays
            .get(&relay)
            .and_then(|client| self.allocations.get(client))
            .map(|a| a.expires)
    }

    /// Ends the relay's allocation if its time is over; true if there is none any more.
    pub(super) fn expired(&mut self, relay: RelayId, now: Instant) -> bool {
        match self.expiry(relay) {
            Some(expires) if expires > now => return false,
            Some(_) => {
                let client = self.relays.get(&relay).copied();
                client.and_then(|client| self.remove(&client));
            }
            None => {}
        }
        true
    }

    /// The client's connection ended, and so does its allocation (RFC 8656 section 3.1).
    pub(super) fn disconnected(&mut self, client: &Client) -> Option<RelayId> {
        self.remove(client)
    }

    fn remove(&mut self, client: &Client) -> Option<RelayId> {
        let allocation = self.allocations.remove(client)?;
        self.relays.remove(&allocation.relay);
        match self.per_user.get_mut(&allocation.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.per_user.remove(&allocation.user);
            }
        }
        Some(allocation.relay)
    }

    fn alive(&self, client: &Client, now: Instant) -> Option<&Allocation> {
        self.allocations.get(client).filter(|a| a.expires > now)
    }
}

impl Action {
    fn reply(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Action::Nothing, Action::Reply)
    }
}

impl Allocation {
    fn permits(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.get(&ip).is_some_and(|expires| *expires > now)
    }

    fn permit(&mut self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.retain(|_, expires| *expires > now);
        if self.permissions.len() >= limits::PERMISSIONS_MAX && !self.permissions.contains_key(&ip) {
            return false;
        }
        self.permissions.insert(ip, now + limits::PERMISSION_TIME);
        true
    }

    /// RFC 8656 section 12.1: a number and a peer belong together until the channel expires.
    fn bind(&mut self, number: u16, peer: SocketAddr, now: Instant) -> Result<(), u16> {
        self.channels.retain(|_, channel| channel.expires > now);
        self.by_peer.retain(|_, number| self.channels.contains_key(number));
        let other_peer = self.channels.get(&number).is_some_and(|c| c.peer != peer);
        let other_number = self.by_peer.get(&peer).is_some_and(|n| *n != number);
        if other_peer || other_number {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let full = self.channels.len() >= limits::CHANNELS_MAX && !self.channels.contains_key(&number);
        if full || !self.permit(peer.ip(), now) {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        self.channels.insert(
            number,
            Channel {
                peer,
                expires: now + limits::CHANNEL_TIME,
            },
        );
        self.by_peer.insert(peer, number);
        Ok(())
    }
}

/// Answers to strangers, a second at a time.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Budget {
                left: limits::CHALLENGES_PER_SECOND,
                since: now,
            };
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

fn allocated(client: &Client, request: &Message<'_>, allocation: &Allocation, key: &IntegrityKey) -> Option<Vec<u8>> {
    let transaction = request.transaction_id();
    let relayed = XorRelayedAddress::new(allocation.relayed, transaction);
    let mapped = XorMappedAddress::new(wire::canonical(client.peer), transaction);
    let seconds = u32::try_from(allocation.lifetime.as_secs()).unwrap_or(u32::MAX);
    wire::success(request, &[&relayed, &Lifetime::new(seconds), &mapped], Some(key))
}

fn refuse(message: &Message<'_>, code: u16, proven: &Proven) -> Action {
    Action::reply(wire::error(message, code, Some(&proven.key)))
}

fn lifetime(message: &Message<'_>) -> Duration {
    let asked = message
        .attribute::<Lifetime>()
        .map(|l| Duration::from_secs(l.seconds().into()));
    asked
        .unwrap_or(limits::LIFETIME_DEFAULT)
        .clamp(limits::LIFETIME_DEFAULT, limits::LIFETIME_MAX)
}
