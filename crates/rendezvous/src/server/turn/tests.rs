//! The machine by itself: time is ours, nothing is a socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun_proto::types::AddressFamily;
use stun_proto::types::attribute::{ErrorCode, Nonce, Realm, Username};
use stun_proto::types::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageWriteVec, Method,
};
use stun_proto::types::prelude::*;
use turn_types::attribute::{
    ChannelNumber, Data, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use super::credentials::{self, Credentials};
use super::limits;
use super::machine::{Action, Client, Machine, Quotas, RelayId, Transport};
use super::peers::Policy;

const SECRET: &[u8] = b"north";
const UNIX: u64 = 1_000;

struct Bench {
    machine: Machine,
    now: Instant,
    unix: u64,
    sockets: u16,
}

impl Bench {
    fn new() -> Self {
        let policy = Policy {
            allow_loopback: false,
            deny_private: false,
        };
        let quotas = Quotas { per_user: 2, total: 3 };
        let now = Instant::now();
        let machine = Machine::new("family.test".into(), SECRET.to_vec(), &[1; 32], policy, quotas, now);
        Bench {
            machine,
            now,
            unix: UNIX,
            sockets: 0,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.unix += time.as_secs();
    }

    fn raw(&mut self, client: Client, bytes: &[u8]) -> Action {
        self.machine.handle_client(client, bytes, self.now, self.unix)
    }

    /// A reply's bytes, opening a socket on the way if asked.
    fn reply(&mut self, client: Client, bytes: &[u8]) -> (Option<RelayId>, Vec<u8>) {
        match self.raw(client, bytes) {
            Action::Reply(reply) => (None, reply),
            Action::Close { relay, reply } => (Some(relay), reply.unwrap()),
            Action::Open(open) => {
                self.sockets += 1;
                let relayed = SocketAddr::new("198.51.100.1".parse().unwrap(), 50_000 + self.sockets);
                let (relay, reply) = self.machine.opened(*open, Some(relayed), self.now);
                (relay, reply.unwrap())
            }
            Action::Nothing | Action::Send { .. } => panic!("no reply"),
        }
    }

    fn nonce(&mut self, client: Client) -> String {
        let request = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
        let (_, reply) = self.reply(client, &request);
        let reply = Message::from_bytes(&reply).unwrap();
        assert_eq!(reply.attribute::<ErrorCode>().unwrap().code(), 401);
        reply.attribute::<Nonce>().unwrap().nonce().to_owned()
    }

    /// Sends a signed request; gives 0 for success or the error's code.
    fn ask(
        &mut self,
        client: Client,
        who: &Credentials,
        method: Method,
        attributes: &[&dyn AttributeWrite],
    ) -> (Option<RelayId>, u16) {
        let nonce = self.nonce(client);
        let request = signed(who, &nonce, method, attributes);
        let (relay, reply) = self.reply(client, &request);
        (relay, code(&reply))
    }

    fn allocate(&mut self, client: Client, who: &Credentials) -> (Option<RelayId>, u16) {
        self.ask(
            client,
            who,
            ALLOCATE,
            &[&RequestedTransport::new(RequestedTransport::UDP)],
        )
    }

    fn permit(&mut self, client: Client, who: &Credentials, peer: &str) -> u16 {
        let nonce = self.nonce(client);
        let request = with_peer(who, &nonce, CREATE_PERMISSION, peer, None);
        let (_, reply) = self.reply(client, &request);
        code(&reply)
    }

    fn bind(&mut self, client: Client, who: &Credentials, number: u16, peer: &str) -> u16 {
        let nonce = self.nonce(client);
        let request = with_peer(who, &nonce, CHANNEL_BIND, peer, Some(number));
        let (_, reply) = self.reply(client, &request);
        code(&reply)
    }
}

fn code(reply: &[u8]) -> u16 {
    let reply = Message::from_bytes(reply).unwrap();
    match reply.class() {
        MessageClass::Success => 0,
        _ => reply.attribute::<ErrorCode>().unwrap().code(),
    }
}

fn sign(mut message: MessageWriteVec, who: &Credentials, nonce: &str) -> Vec<u8> {
    message.add_attribute(&Username::new(&who.username).unwrap()).unwrap();
    message.add_attribute(&Realm::new("family.test").unwrap()).unwrap();
    message.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
    let key = LongTermKeyCredentials::new(who.username.clone(), who.password.clone(), "family.test".into());
    message
        .add_message_integrity_with_key(&key.make_key(IntegrityAlgorithm::Sha1), IntegrityAlgorithm::Sha1)
        .unwrap();
    message.finish()
}

fn signed(who: &Credentials, nonce: &str, method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
    let mut message = Message::builder_request(method, MessageWriteVec::new());
    attributes.iter().for_each(|a| message.add_attribute(*a).unwrap());
    sign(message, who, nonce)
}

fn with_peer(who: &Credentials, nonce: &str, method: Method, peer: &str, channel: Option<u16>) -> Vec<u8> {
    let mut message = Message::builder_request(method, MessageWriteVec::new());
    let transaction = message.transaction_id();
    message
        .add_attribute(&XorPeerAddress::new(peer.parse().unwrap(), transaction))
        .unwrap();
    channel
        .iter()
        .for_each(|n| message.add_attribute(&ChannelNumber::new(*n)).unwrap());
    sign(message, who, nonce)
}

fn send_indication(peer: &str, data: &[u8]) -> Vec<u8> {
    let mut message = Message::builder_indication(SEND, MessageWriteVec::new());
    let transaction = message.transaction_id();
    message
        .add_attribute(&XorPeerAddress::new(peer.parse().unwrap(), transaction))
        .unwrap();
    message.add_attribute(&Data::new(data)).unwrap();
    message.finish()
}

fn client(port: u16) -> Client {
    let server = "203.0.113.1:3478".parse().unwrap();
    Client {
        transport: Transport::Udp,
        server,
        peer: SocketAddr::new("192.0.2.7".parse().unwrap(), port),
    }
}

fn ann() -> Credentials {
    credentials::issue(SECRET, "ann", UNIX + 100)
}

#[test]
fn expired_and_forged_credentials_are_refused() {
    let mut bench = Bench::new();
    let expired = credentials::issue(SECRET, "ann", UNIX);
    assert_eq!(bench.allocate(client(1), &expired).1, 401);
    let forged = Credentials {
        password: "guess".into(),
        ..ann()
    };
    assert_eq!(bench.allocate(client(1), &forged).1, 401);
    let prolonged = Credentials {
        username: "999999:ann".into(),
        ..ann()
    };
    assert_eq!(bench.allocate(client(1), &prolonged).1, 401);
    assert_eq!(bench.allocate(client(1), &ann()).1, 0);
}

#[test]
fn strangers_leave_nothing_behind_and_are_rationed() {
    let mut bench = Bench::new();
    let request = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
    let answered = (0..10_000u16)
        .filter(|port| matches!(bench.raw(client(*port), &request), Action::Reply(_)))
        .count();
    assert_eq!(answered, limits::CHALLENGES_PER_SECOND as usize);
    assert!((0..10_000).all(|port| !bench.machine.has_allocation(&client(port))));
}

#[test]
fn a_nonce_is_bound_to_its_client_and_ends() {
    let mut bench = Bench::new();
    let nonce = bench.nonce(client(1));
    let request = signed(&ann(), &nonce, ALLOCATE, &[&RequestedTransport::new(17)]);
    let (_, reply) = bench.reply(client(2), &request);
    assert_eq!(code(&reply), 438);
    bench.now += limits::NONCE_TIME + Duration::from_secs(1);
    let (_, reply) = bench.reply(client(1), &request);
    assert_eq!(code(&reply), 438);
}

#[test]
fn quotas_hold_and_are_given_back() {
    let mut bench = Bench::new();
    let bob = credentials::issue(SECRET, "bob", UNIX + 100);
    assert_eq!(bench.allocate(client(1), &ann()).1, 0);
    assert_eq!(bench.allocate(client(2), &ann()).1, 0);
    assert_eq!(bench.allocate(client(3), &ann()).1, 486);
    assert_eq!(bench.allocate(client(4), &bob).1, 0);
    assert_eq!(bench.allocate(client(5), &bob).1, 508);
    let (closed, code) = bench.ask(client(1), &ann(), REFRESH, &[&Lifetime::new(0)]);
    assert_eq!((closed.is_some(), code), (true, 0));
    assert_eq!(bench.allocate(client(5), &bob).1, 0);
    bench.machine.disconnected(&client(2)).unwrap();
    assert_eq!(bench.allocate(client(3), &ann()).1, 0);
}

#[test]
fn an_allocation_ends_unless_refreshed_and_outlives_the_name() {
    let mut bench = Bench::new();
    let relay = bench.allocate(client(1), &ann()).0.unwrap();
    bench.pass(Duration::from_secs(500));
    // The name expired after 100 s, yet its owner may go on with what it has.
    assert_eq!(bench.ask(client(1), &ann(), REFRESH, &[]).1, 0);
    bench.pass(Duration::from_secs(500));
    assert!(!bench.machine.expired(relay, bench.now));
    // Fresh credentials of the same user do as well; those of another do not.
    let fresh = credentials::issue(SECRET, "ann", bench.unix + 100);
    let other = credentials::issue(SECRET, "bob", bench.unix + 100);
    assert_eq!(bench.ask(client(1), &other, REFRESH, &[]).1, 441);
    assert_eq!(bench.ask(client(1), &fresh, REFRESH, &[]).1, 0);
    bench.pass(Duration::from_secs(601));
    assert!(bench.machine.expired(relay, bench.now));
    assert_eq!(bench.ask(client(1), &fresh, REFRESH, &[]).1, 401, "expired meanwhile");
}

#[test]
fn the_same_request_again_gets_the_same_answer() {
    let mut bench = Bench::new();
    let nonce = bench.nonce(client(1));
    let request = signed(&ann(), &nonce, ALLOCATE, &[&RequestedTransport::new(17)]);
    let first = bench.reply(client(1), &request).1;
    assert_eq!(bench.reply(client(1), &request).1, first);
    assert_eq!(bench.allocate(client(1), &ann()).1, 437);
}

#[test]
fn unsupported_wishes_are_refused_by_name() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.ask(client(1), &ann(), ALLOCATE, &[&RequestedTransport::new(6)]).1,
        442
    );
    assert_eq!(bench.ask(client(1), &ann(), ALLOCATE, &[]).1, 400);
    assert_eq!(bench.ask(client(1), &ann(), REFRESH, &[]).1, 437);
    let v6 = RequestedAddressFamily::new(AddressFamily::IPV6);
    let nonce = bench.nonce(client(1));
    let request = signed(&ann(), &nonce, ALLOCATE, &[&RequestedTransport::new(17), &v6]);
    let Action::Open(open) = bench.raw(client(1), &request) else {
        panic!("no socket asked for");
    };
    assert_eq!(open.family, AddressFamily::IPV6);
    // No socket to be had: an error, and nothing is kept.
    let (relay, reply) = bench.machine.opened(*open, None, bench.now);
    assert_eq!((relay, code(&reply.unwrap())), (None, 508));
    assert!(!bench.machine.has_allocation(&client(1)));
}

#[test]
fn data_flows_only_where_it_is_permitted() {
    let mut bench = Bench::new();
    let relay = bench.allocate(client(1), &ann()).0.unwrap();
    let peer: SocketAddr = "192.0.2.99:5000".parse().unwrap();
    let message = send_indication("192.0.2.99:5000", b"data");
    assert!(matches!(bench.raw(client(1), &message), Action::Nothing));
    assert!(bench.machine.wrapping(relay, peer, bench.now).is_none());
    assert_eq!(bench.permit(client(1), &ann(), "192.0.2.99:1"), 0);
    let Action::Send { to, data, .. } = bench.raw(client(1), &message) else {
        panic!("not sent");
    };
    assert_eq!((to, &message[data]), (peer, &b"data"[..]));
    assert!(bench.machine.wrapping(relay, peer, bench.now).is_some());
    // Another client cannot use it.
    assert!(matches!(bench.raw(client(2), &message), Action::Nothing));
    bench.pass(limits::PERMISSION_TIME);
    assert!(matches!(bench.raw(client(1), &message), Action::Nothing));
    assert!(bench.machine.wrapping(relay, peer, bench.now).is_none());
}

#[test]
fn forbidden_peers_are_refused_everywhere() {
    let mut bench = Bench::new();
    bench.allocate(client(1), &ann());
    for peer in [
        "127.0.0.1:5000",
        "0.0.0.0:5000",
        "224.0.0.1:5000",
        "[::ffff:127.0.0.1]:5000",
    ] {
        assert_eq!(bench.permit(client(1), &ann(), peer), 403, "{peer}");
        assert_eq!(bench.bind(client(1), &ann(), 0x4000, peer), 403, "{peer}");
    }
    assert_eq!(bench.permit(client(1), &ann(), "[2001:db8::1]:5000"), 443);
    // An allowed host's own services stay out of reach.
    assert_eq!(bench.bind(client(1), &ann(), 0x4000, "192.0.2.99:53"), 403);
    assert_eq!(bench.permit(client(1), &ann(), "192.0.2.99:53"), 0);
    assert!(matches!(
        bench.raw(client(1), &send_indication("192.0.2.99:53", b"x")),
        Action::Nothing
    ));
}

#[test]
fn a_channel_belongs_to_one_peer() {
    let mut bench = Bench::new();
    let relay = bench.allocate(client(1), &ann()).0.unwrap();
    let (one, two) = ("192.0.2.99:5000", "192.0.2.99:5001");
    assert_eq!(bench.bind(client(1), &ann(), 0x3fff, one), 400);
    assert_eq!(bench.bind(client(1), &ann(), 0x5000, one), 400);
    assert_eq!(bench.bind(client(1), &ann(), 0x4000, one), 0);
    assert_eq!(bench.bind(client(1), &ann(), 0x4000, two), 400);
    assert_eq!(bench.bind(client(1), &ann(), 0x4001, one), 400);
    assert_eq!(bench.bind(client(1), &ann(), 0x4000, one), 0);
    let message = [&[0x40, 0, 0, 4][..], b"data"].concat();
    assert!(
        matches!(bench.raw(client(1), &message), Action::Send { to, data, .. } if to == one.parse().unwrap() && data == (4..8))
    );
    let wrapping = bench.machine.wrapping(relay, one.parse().unwrap(), bench.now).unwrap();
    let mut carried = Vec::new();
    wrapping.write(b"data", &mut carried);
    assert_eq!(carried, message);
}

#[test]
fn every_table_of_an_allocation_is_bounded() {
    let mut bench = Bench::new();
    bench.allocate(client(1), &ann());
    for n in 0..limits::PERMISSIONS_MAX {
        assert_eq!(
            bench.permit(client(1), &ann(), &format!("10.0.{}.{}:5000", n / 256, n % 256)),
            0
        );
    }
    assert_eq!(bench.permit(client(1), &ann(), "10.9.9.9:5000"), 508);
    bench.pass(limits::PERMISSION_TIME);
    assert_eq!(bench.permit(client(1), &ann(), "10.9.9.9:5000"), 0);
}

#[test]
fn every_byte_of_a_signed_request_is_covered() {
    let mut bench = Bench::new();
    let nonce = bench.nonce(client(1));
    let request = signed(&ann(), &nonce, ALLOCATE, &[&RequestedTransport::new(17)]);
    for index in 0..request.len() {
        let mut altered = request.clone();
        altered[index] ^= 1;
        assert!(
            !matches!(bench.raw(client(1), &altered), Action::Open(_)),
            "byte {index}"
        );
        bench.now += Duration::from_secs(1);
    }
    assert!(matches!(bench.raw(client(1), &request), Action::Open(_)));
}

#[test]
fn binding_is_answered_without_state() {
    let mut bench = Bench::new();
    let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    let (_, reply) = bench.reply(client(1), &request);
    assert_eq!(code(&reply), 0);
    assert!(reply.len() <= 2 * request.len());
}
