//! The TURN machine, its clients, one of which has credentials, and the peers of its relays.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use stun_proto::types::attribute::{MessageIntegrity, Nonce};
use stun_proto::types::message::{IntegrityAlgorithm, LongTermKeyCredentials, Message};

use super::credentials;
use super::machine::{Action, Client, Machine, Quotas, RelayId, Transport};
use super::peers::Policy;

const REALM: &str = "rdv.example";
const SECRET: &[u8] = b"secret";
const UNIX: u64 = 1_800_000_000;
const STEPS: usize = 64;
const PER_USER: usize = 2;

/// Steps of three bytes (what, and a 16-bit number), some with as many bytes behind them as the number says.
#[doc(hidden)]
pub fn fuzz_relay(bytes: &[u8], start: Instant) {
    let mut bench = Bench::new(start);
    let mut rest = bytes;
    for _ in 0..STEPS {
        let Some((&[what, high, low], tail)) = rest.split_first_chunk::<3>() else {
            return;
        };
        let number = u16::from_be_bytes([high, low]);
        let (chunk, after) = tail.split_at(usize::from(number).min(tail.len()));
        let client = client(what >> 6);
        match what % 8 {
            0 | 1 => bench.hand_in(client, chunk),
            2 | 3 => bench.signed(client, chunk),
            4 => bench.peer_sends(chunk),
            _ => {
                bench.pass(Duration::from_secs(u64::from(number) / 16));
                rest = tail;
                continue;
            }
        }
        rest = after;
    }
}

struct Bench {
    machine: Machine,
    start: Instant,
    now: Instant,
    relays: BTreeSet<RelayId>,
    opened: u16,
}

impl Bench {
    fn new(now: Instant) -> Self {
        let policy = Policy {
            allow_loopback: false,
            deny_private: true,
        };
        let quotas = Quotas {
            per_user: PER_USER,
            total: 3,
        };
        Bench {
            machine: Machine::new(REALM.to_owned(), SECRET.to_vec(), &[1; 32], policy, quotas, now),
            start: now,
            now,
            relays: BTreeSet::new(),
            opened: 0,
        }
    }

    fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    fn hand_in(&mut self, client: Client, bytes: &[u8]) {
        let unix = self.unix();
        match self.machine.handle_client(client, bytes, self.now, unix) {
            Action::Nothing | Action::Reply(_) => {}
            Action::Send { relay, to, data } => {
                assert!(self.relays.contains(&relay) && bytes.get(data).is_some());
                let ip = to.ip().to_canonical();
                let inward = matches!(ip, IpAddr::V4(ip) if ip.is_private() || ip.is_loopback());
                assert!(!inward && !ip.is_loopback() && !ip.is_multicast(), "to {to}");
            }
            Action::Open(open) => {
                self.opened = self.opened.wrapping_add(1);
                let relayed = SocketAddr::from(([198, 51, 100, 1], 40_000 + self.opened % 20_000));
                let (relay, _) = self.machine.opened(*open, Some(relayed), self.now);
                self.relays.extend(relay);
                assert!(self.relays.len() <= PER_USER, "one account has so many, no more");
            }
            Action::Close { relay, .. } => assert!(self.relays.remove(&relay)),
        }
    }

    /// A message of the account's: the bytes, then name, realm, nonce and integrity as they should be.
    fn signed(&mut self, client: Client, bytes: &[u8]) {
        let Some((head, attributes)) = bytes.split_first_chunk::<2>() else {
            return;
        };
        let who = credentials::issue(SECRET, "ann", UNIX + 3600);
        let nonce = self.nonce(client);
        let mut message = [
            &[head[0] & 0x3f, head[1]][..],
            &[0, 0, 0x21, 0x12, 0xa4, 0x42],
            &[7; 12],
        ]
        .concat();
        message.extend_from_slice(&attributes[..attributes.len() / 4 * 4]);
        for (kind, value) in [(6_u16, &who.username), (0x14, &REALM.to_owned()), (0x15, &nonce)] {
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
            message.extend_from_slice(value.as_bytes());
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let Ok(length) = u16::try_from(message.len() - 20 + 24) else {
            return;
        };
        message[2..4].copy_from_slice(&length.to_be_bytes());
        let key = LongTermKeyCredentials::new(who.username, who.password, REALM.to_owned());
        let key = key.make_key(IntegrityAlgorithm::Sha1);
        if let Ok(tag) = MessageIntegrity::compute(&[&message], &key) {
            message.extend_from_slice(&[0, 8, 0, 20]);
            message.extend_from_slice(&tag);
            self.hand_in(client, &message);
        }
    }

    /// As the refusal of a bare Allocate tells it.
    fn nonce(&mut self, client: Client) -> String {
        let bare = [&[0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[6; 12]].concat();
        let unix = self.unix();
        let Action::Reply(reply) = self.machine.handle_client(client, &bare, self.now, unix) else {
            return String::new();
        };
        let message = Message::from_bytes(&reply).ok();
        let nonce = message.and_then(|message| Some(message.attribute::<Nonce>().ok()?.nonce().to_owned()));
        nonce.unwrap_or_default()
    }

    fn peer_sends(&mut self, bytes: &[u8]) {
        let from = SocketAddr::from(([203, 0, 113, 5], 7000));
        for relay in &self.relays {
            let wrapping = self.machine.wrapping(*relay, from, self.now);
            if let Some(wrapping) = wrapping {
                let mut carried = Vec::new();
                wrapping.write(bytes, &mut carried);
                assert!(carried.len() <= bytes.len() + 64);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let due = |relay: &RelayId| self.machine.expiry(*relay).is_none_or(|at| at <= self.now);
        let due: Vec<RelayId> = self.relays.iter().copied().filter(due).collect();
        for relay in due {
            self.machine.expired(relay, self.now);
            self.relays.remove(&relay);
        }
    }
}

fn client(number: u8) -> Client {
    let transport = if number == 3 { Transport::Stream } else { Transport::Udp };
    Client {
        transport,
        server: SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 3478)),
        peer: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1000 + u16::from(number))),
    }
}
