//! What STUN and TURN servers answer, true ones and others.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rustls::RootCertStore;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use stun_types::attribute::MessageIntegrity;
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials};
use tincan::limits;
use tincan::netcheck::NetCheck;
use tincan::turn::{
    self, Handled, Password, RelayOutput, Relays, StreamInput, StreamOutput, TlsTrust, TurnServer, TurnTransport,
};

use crate::script::{START, Script, Writer};

/// The bytes of a TURN stream, cut anywhere.
pub(crate) fn turn_framer(bytes: &[u8]) {
    turn::fuzz_framer(bytes);
}

const SERVERS: [&str; 3] = ["198.51.100.1:3478", "198.51.100.2:3479", "[2001:db8::1]:3478"];
const HOST: &str = "10.0.0.2:5000";
const HOST_V6: &str = "[2001:db8::2]:5000";

/// Steps: a raw datagram, an answer (type and attributes from the script, transaction from the last question), time.
pub(crate) fn netcheck(bytes: &[u8]) {
    let servers = SERVERS.map(at);
    let mut now = *START;
    let mut check = NetCheck::new(now, &servers, &[HOST, HOST_V6].map(at), ChaCha12Rng::seed_from_u64(1));
    let mut asked: VecDeque<Vec<u8>> = VecDeque::new();
    let mut script = Script(bytes);
    for _ in 0..Script::STEPS {
        let Some(step) = script.byte() else { break };
        let from = servers[usize::from(step >> 4) % servers.len()];
        match step % 4 {
            0 => drop(check.handle_udp(now, at(HOST), from, script.chunk().unwrap_or_default())),
            1 | 2 => {
                let (kind, body) = (script.word().unwrap_or_default(), script.chunk().unwrap_or_default());
                if let Some(question) = asked.pop_front() {
                    check.handle_udp(now, at(HOST), from, &answer(kind, &question, body));
                }
            }
            _ => {
                now += script.wait().unwrap_or_default();
                check.handle_timeout(now);
            }
        }
        while let Some((_, question)) = check.poll_transmit() {
            asked.push_back(question);
        }
        // Six kinds of question, three times each, for each address that a server or its answers name.
        assert!(asked.len() <= 6 * 3 * 2 * servers.len());
    }
    for _ in 0..64 {
        let Some(due) = check.poll_timeout() else { break };
        check.handle_timeout(due);
    }
    let report = check.report().expect("a report comes whatever the network does");
    assert_eq!(report.servers.len(), servers.len());
}

/// A STUN message of this type and these attributes about the question's transaction.
fn answer(kind: u16, question: &[u8], attributes: &[u8]) -> Vec<u8> {
    let whole = attributes.len() - attributes.len() % 4;
    let length = u16::try_from(whole).unwrap_or_default();
    let mut message = Vec::with_capacity(20 + whole);
    message.extend_from_slice(&(kind & 0x3fff).to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(question.get(4..20).unwrap_or(&[0; 16]));
    message.extend_from_slice(&attributes[..usize::from(length)]);
    message
}

const TURN: &str = "198.51.100.9:3478";
const PEER: &str = "203.0.113.5:7000";
const USER: &str = "ann";
const REALM: &str = "example";
const SECRET: &str = "secret";

/// Steps: raw datagrams, answers with and without the right integrity, the same on a stream, sending, time.
pub(crate) fn relays(bytes: &[u8]) {
    let mut script = Script(bytes);
    let Some(first) = script.byte() else { return };
    let transport = if first & 1 == 0 {
        TurnTransport::Udp
    } else {
        TurnTransport::Tcp
    };
    let mut client = TurnClient::new(transport);
    for _ in 0..Script::STEPS {
        let Some(step) = script.byte() else { break };
        client.step(step, &mut script);
        client.collect();
    }
}

struct TurnClient {
    now: Instant,
    relays: Relays,
    questions: VecDeque<Vec<u8>>,
    stream: Option<turn::StreamId>,
    own: Vec<turn::RelayId>,
    key: IntegrityKey,
}

#[derive(Debug)]
struct FixedClock;

impl TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

/// Nobody is trusted, and it is always 2027.
pub(crate) fn trust() -> TlsTrust {
    TlsTrust {
        roots: Arc::new(RootCertStore::empty()),
        clock: Arc::new(FixedClock),
    }
}

impl TurnClient {
    fn new(transport: TurnTransport) -> Self {
        let mut relays = Relays::new(*START, trust());
        let server = TurnServer {
            address: at(TURN),
            label: "relay.example".to_owned(),
            transport,
            username: USER.to_owned(),
            password: Password::new(SECRET),
        };
        relays.set_servers(*START, vec![server]);
        let credentials = LongTermKeyCredentials::new(USER.to_owned(), SECRET.to_owned(), REALM.to_owned());
        let mut client = TurnClient {
            now: *START,
            relays,
            questions: VecDeque::new(),
            stream: None,
            own: Vec::new(),
            key: credentials.make_key(IntegrityAlgorithm::Sha1),
        };
        client.collect();
        client
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 8 {
            0 => self.hand_in(script.chunk().unwrap_or_default()),
            1..=3 => {
                let (kind, body) = (script.word().unwrap_or_default(), script.chunk().unwrap_or_default());
                if let Some(question) = self.questions.pop_front() {
                    let mut message = answer(kind, &question, body);
                    if step & 8 != 0 {
                        self.sign(&mut message);
                    }
                    self.hand_in(&message);
                }
            }
            4 => {
                self.now += script.wait().unwrap_or_default();
                self.relays.handle_timeout(self.now);
            }
            5 => {
                if let Some(relay) = self.own.last().copied() {
                    self.relays
                        .send(self.now, relay, at(PEER), script.chunk().unwrap_or_default());
                }
            }
            6 => {
                if let Some(relay) = self.own.last().copied() {
                    self.relays.bind_channel(self.now, relay, at(PEER));
                }
            }
            _ => self.stream_event(step),
        }
    }

    fn stream_event(&mut self, step: u8) {
        let Some(stream) = self.stream else { return };
        let input = match step >> 4 & 3 {
            0 => StreamInput::Connected,
            1 => StreamInput::Congested(true),
            2 => StreamInput::Congested(false),
            _ => StreamInput::Closed,
        };
        self.relays.handle_stream(self.now, stream, input);
    }

    fn hand_in(&mut self, bytes: &[u8]) {
        if let Some(stream) = self.stream {
            return self.relays.handle_stream(self.now, stream, StreamInput::Data(bytes));
        }
        let relays = &mut self.relays;
        match relays.handle_udp(self.now, at(TURN), bytes) {
            Handled::Data { relay, range, .. } => {
                assert!(bytes.get(range).is_some(), "the data lies inside");
                assert!(relays.address_of(relay).is_some());
            }
            Handled::Consumed => {}
            Handled::NotMine => assert!(!relays.is_server(at(TURN))),
        }
        assert_eq!(relays.handle_udp(self.now, at(PEER), bytes), Handled::NotMine);
    }

    /// MESSAGE-INTEGRITY as the server would make it (RFC 8489 section 14.5).
    fn sign(&self, message: &mut Vec<u8>) {
        let signed_length = u16::try_from(message.len() - 20 + 24).unwrap_or_default();
        message[2..4].copy_from_slice(&signed_length.to_be_bytes());
        let tag = MessageIntegrity::compute(&[message], &self.key).expect("HMAC takes any bytes");
        message.extend_from_slice(&[0, 8, 0, 20]);
        message.extend_from_slice(&tag);
    }

    fn collect(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.relays.poll_output() {
            outputs += 1;
            assert!(outputs <= limits::TURN_OUTPUTS);
            match output {
                RelayOutput::Udp { remote, bytes } => {
                    assert_eq!(remote, at(TURN), "nobody else is sent to");
                    self.questions.push_back(bytes);
                }
                RelayOutput::Stream(stream, StreamOutput::Connect(address)) => {
                    assert_eq!(address, at(TURN));
                    self.stream = Some(stream);
                }
                RelayOutput::Stream(_, StreamOutput::Data(bytes)) => self.questions.push_back(bytes),
                RelayOutput::Stream(_, StreamOutput::Close) => self.stream = None,
                RelayOutput::Allocated { relay, address, .. } => {
                    assert_eq!(self.relays.relay_of(address), Some(relay));
                    self.own.push(relay);
                }
                RelayOutput::Lost { relay, reason } => {
                    assert!(!reason.contains(SECRET));
                    self.own.retain(|own| *own != relay);
                }
                RelayOutput::Failed { reason, .. } => assert!(!reason.contains(SECRET)),
                RelayOutput::Permitted { relay, .. } | RelayOutput::Data { relay, .. } => {
                    assert!(self.relays.address_of(relay).is_some());
                }
            }
        }
        // Questions that nobody answers are the same few, sent again.
        self.questions.truncate(limits::TURN_OUTPUTS);
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// Mapped addresses, the other address, an error, silence.
pub(crate) fn netcheck_scripts() -> Vec<Vec<u8>> {
    let mapped = [0, 0x20, 0, 8, 0, 1, 0x21, 0x13, 0xe1, 0x12, 0xa4, 0x43];
    let other = [0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 51, 100, 2];
    let mut open = Writer::default();
    for _ in 0..12 {
        open = open
            .bytes(&[1])
            .word(0x0101)
            .chunk(&[mapped, other].concat())
            .bytes(&[3])
            .word(50);
    }
    let refused = [0, 9, 0, 4, 0, 0, 4, 20];
    let closed = Writer::default()
        .bytes(&[1])
        .word(0x0111)
        .chunk(&refused)
        .bytes(&[0])
        .chunk(&[1, 1, 0, 0]);
    vec![open.0, closed.bytes(&[3]).word(60_000).0]
}

/// An allocation, a permission, a channel and data, over UDP and over TCP; a server that refuses.
pub(crate) fn relay_scripts() -> Vec<Vec<u8>> {
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(value.len()).expect("it is short");
        let mut bytes = [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let refusal = |code: u8| {
        [
            attribute(9, &[0, 0, 4, code]),
            attribute(0x14, REALM.as_bytes()),
            attribute(0x15, b"n"),
        ]
    };
    let address = |kind| attribute(kind, &[0, 1, 0x21, 0x12, 0xe1, 0xba, 0xa5, 0x61]);
    let granted = [address(0x16), address(0x20), attribute(0x0d, &[0, 0, 2, 0x58])].concat();
    let allocate = |first: &[u8]| {
        let asked = Writer::default()
            .bytes(first)
            .bytes(&[1])
            .word(0x0113)
            .chunk(&refusal(1).concat());
        asked.bytes(&[9]).word(0x0103).chunk(&granted)
    };
    let sent = |script: Writer| {
        let script = script
            .bytes(&[5])
            .chunk(b"hello")
            .bytes(&[9])
            .word(0x0108)
            .chunk(&[])
            .bytes(&[6]);
        let script = script.bytes(&[9]).word(0x0109).chunk(&[]).bytes(&[5]).chunk(b"again");
        script
            .bytes(&[0])
            .chunk(&[0x40, 0, 0, 3, 1, 2, 3, 0])
            .bytes(&[4])
            .word(60_000)
    };
    let refused = Writer::default()
        .bytes(&[0, 1])
        .word(0x0113)
        .chunk(&refusal(38).concat())
        .bytes(&[4])
        .word(5_000);
    vec![sent(allocate(&[0])).0, sent(allocate(&[1, 7])).0, refused.0]
}
