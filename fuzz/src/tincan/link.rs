//! Handshake datagrams and what comes over a link's stream.

use std::time::{Duration, Instant};

use api::{NetworkId, SessionId};
use tincan::handshake::{
    Deframer, GATE_TAG, Handshake, HandshakeConfig, HandshakeEvent, Hello, Kind, destination_id, fuzz_gate,
    is_first_flight,
};
use tincan::keys::NodeKey;
use tincan::limits;
use tincan::record::{Cipher, ReceiverIndex};

use super::signals::{ANN, BOB};
use crate::script::{START, Script, Writer};

static LINK_SECRET: [u8; 32] = [5; 32];
/// Datagrams after one step: a full congestion window and what a timer adds.
const ANSWERS_MAX: usize = 64;

/// What a node says of itself first.
pub(crate) fn hello(bytes: &[u8]) {
    let Ok(hello) = Hello::parse(bytes) else { return };
    let written = hello.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(Hello::parse(&written), Ok(hello));
}

/// Messages cut out of a stream: the same ones however it is cut.
pub(crate) fn control_stream(bytes: &[u8]) {
    let whole = messages(bytes, bytes.len().max(1));
    for cut in [1, 7] {
        assert_eq!(messages(bytes, cut), whole);
    }
    let (all, _) = whole;
    let cost = |(_, body): &(Kind, Vec<u8>)| {
        assert!(body.len() <= limits::MESSAGE_BYTES);
        body.len() + 5
    };
    assert!(all.iter().map(cost).sum::<usize>() <= bytes.len());
}

fn messages(bytes: &[u8], cut: usize) -> (Vec<(Kind, Vec<u8>)>, bool) {
    let mut deframer = Deframer::default();
    let mut all = Vec::new();
    for piece in bytes.chunks(cut) {
        deframer.push(piece);
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => all.push(message),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    (all, false)
}

/// Two ends of a handshake. The script says which of their datagrams arrive, when, how damaged, and what somebody
/// who holds the link secret sends beside them. TLS draws keys of its own, so lengths repeat and bytes do not.
pub(crate) fn handshake(bytes: &[u8]) {
    let _ = destination_id(bytes);
    let mut world = World::new(bytes);
    let mut script = Script(bytes);
    for _ in 0..Script::STEPS {
        let Some(step) = script.byte() else { break };
        if world.step(step, &mut script).is_none() {
            break;
        }
        world.collect();
    }
}

/// What the wire keeps.
const WIRE: usize = 64;

struct World {
    now: Instant,
    configs: [HandshakeConfig<'static>; 2],
    ends: [Handshake; 2],
    /// What each end has sent.
    wires: [Vec<Vec<u8>>; 2],
    /// Messages handed in at each end, and how many of them came out at the other.
    told: [Vec<Vec<u8>>; 2],
    heard: [usize; 2],
}

impl World {
    fn new(bytes: &[u8]) -> Self {
        let (low, high) = if ANN.id() < BOB.id() {
            (&*ANN, &*BOB)
        } else {
            (&*BOB, &*ANN)
        };
        let configs = [config(low, high), config(high, low)];
        assert!(!is_first_flight(&configs[1], bytes), "a stranger's bytes pass no gate");
        let end = |config: &HandshakeConfig<'static>| Handshake::new(config, *START).expect("a handshake begins");
        let mut world = World {
            now: *START,
            ends: [end(&configs[0]), end(&configs[1])],
            configs,
            wires: Default::default(),
            told: Default::default(),
            heard: [0; 2],
        };
        world.collect();
        world
    }

    /// One thing that happens; none when the script is over.
    fn step(&mut self, step: u8, script: &mut Script<'_>) -> Option<()> {
        let to = usize::from(step >> 7);
        match step % 8 {
            0..=2 => self.deliver(to, script.byte()?),
            3 => self.damaged(to, script.byte()?, script.word()?, script.byte()?),
            4 => self.insider(to, script.byte()?, script.chunk()?),
            5 => self.stranger(to, script.chunk()?),
            6 => self.tell(to, script.chunk()?),
            _ => {
                self.now += script.wait()?;
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
        }
        Some(())
    }

    fn sent(&self, to: usize, which: u8) -> Vec<u8> {
        let wire = &self.wires[1 - to];
        let found = wire.get(usize::from(which) % wire.len().max(1));
        found.cloned().unwrap_or_default()
    }

    fn deliver(&mut self, to: usize, which: u8) {
        let datagram = self.sent(to, which);
        self.ends[to].handle_datagram(self.now, &datagram);
    }

    /// The peer's datagram with a byte changed behind the gate.
    fn damaged(&mut self, to: usize, which: u8, place: u16, value: u8) {
        let mut datagram = self.sent(to, which);
        datagram.truncate(datagram.len().saturating_sub(GATE_TAG));
        if let Some(byte) = datagram.get_mut(usize::from(place)) {
            *byte = value;
        }
        fuzz_gate(&self.configs[to], &mut datagram);
        self.ends[to].handle_datagram(self.now, &datagram);
    }

    /// Bytes that bear the connection id of the peer's datagrams and pass the gate.
    fn insider(&mut self, to: usize, which: u8, chunk: &[u8]) {
        let genuine = self.sent(to, which);
        let id = destination_id(&genuine).unwrap_or_default();
        let (&first, rest) = chunk.split_first().unwrap_or((&0x40, &[]));
        let mut datagram = vec![first];
        if first & 0x80 == 0 {
            datagram.extend_from_slice(id);
        } else {
            let (version, _) = rest.split_at(rest.len().min(4));
            datagram.extend_from_slice(version);
            datagram.resize(5, 0);
            datagram.push(u8::try_from(id.len()).unwrap_or_default());
            datagram.extend_from_slice(id);
        }
        datagram.extend_from_slice(rest.get(4..).unwrap_or_default());
        datagram.truncate(limits::HANDSHAKE_DATAGRAM - GATE_TAG);
        fuzz_gate(&self.configs[to], &mut datagram);
        self.ends[to].handle_datagram(self.now, &datagram);
    }

    fn stranger(&mut self, to: usize, chunk: &[u8]) {
        let before = self.ends[to].poll_timeout();
        self.ends[to].handle_datagram(self.now, chunk);
        assert_eq!(self.ends[to].poll_timeout(), before, "a stranger changes nothing");
    }

    fn tell(&mut self, from: usize, message: &[u8]) {
        let fits = self.told[from].iter().map(Vec::len).sum::<usize>() + message.len() < limits::MESSAGE_BACKLOG / 2;
        if fits && self.ends[from].send_message(message).is_ok() {
            self.told[from].push(message.to_vec());
        }
    }

    fn collect(&mut self) {
        for own in 0..2 {
            let mut out = Vec::new();
            let mut sent = 0;
            while self.ends[own].poll_transmit(self.now, &mut out) {
                assert!(out.len() <= limits::HANDSHAKE_DATAGRAM);
                sent += 1;
                assert!(sent <= ANSWERS_MAX, "one step is answered within bounds");
                if self.wires[own].len() < WIRE {
                    self.wires[own].push(out.clone());
                }
            }
            while let Some(event) = self.ends[own].poll_event() {
                if let HandshakeEvent::Message(message) = event {
                    let told = self.told[1 - own].get(self.heard[own]);
                    assert_eq!(Some(&message), told, "messages come whole and in order");
                    self.heard[own] += 1;
                }
            }
        }
    }
}

fn config(own: &'static NodeKey, peer: &NodeKey) -> HandshakeConfig<'static> {
    HandshakeConfig {
        key: own,
        peer: peer.id(),
        network: NetworkId([9; 32]),
        session: SessionId(77),
        link_secret: &LINK_SECRET,
        own_index: ReceiverIndex::new(3).expect("24 bits"),
        ciphers: Cipher::preferred(true),
        capabilities: 0,
        initial_rtt: Duration::from_millis(50),
        seed: own.id().0,
    }
}

/// One of today, and one of a later version.
pub(crate) fn hellos() -> Vec<Vec<u8>> {
    let hello = Hello {
        version: 1,
        receiver_index: ReceiverIndex::new(0x0001_0203).expect("24 bits"),
        capabilities: 0,
        ciphers: Cipher::preferred(true).to_vec(),
    };
    let later = vec![2, 1, 2, 3, 0, 0, 0, 1, 3, 9, 2, 1, 0xff];
    vec![hello.encode(), later]
}

/// A Hello, Ready, two messages and one of a kind that nobody knows; one too long.
pub(crate) fn control_streams() -> Vec<Vec<u8>> {
    let message = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    };
    let messages = [
        message(1, &hellos()[0]),
        message(2, &[]),
        message(3, b"a"),
        message(200, b"?"),
        message(3, b"bc"),
    ];
    vec![messages.concat(), vec![3, 0, 1, 0, 1]]
}

/// A handshake that succeeds and carries messages; the same with damage, an insider and silence.
pub(crate) fn handshake_scripts() -> Vec<Vec<u8>> {
    let mut up = Writer::default();
    for which in 0..8 {
        up = up.bytes(&[0x80, which, 0, which]);
    }
    let told = Writer(up.0.clone())
        .bytes(&[6])
        .chunk(b"hello")
        .bytes(&[0x86])
        .chunk(b"");
    let told = told.bytes(&[0x80, 8, 0, 8, 7]).word(300).bytes(&[0x80, 9, 0, 9]);
    let hurt = Writer::default()
        .bytes(&[0x80, 0, 3, 0])
        .word(40)
        .bytes(&[0xff, 0x84, 1])
        .chunk(b"\xc0\0\0\0\x01abc");
    let hurt = hurt
        .bytes(&[4, 0])
        .chunk(b"\x40abcdefgh")
        .bytes(&[5])
        .chunk(&[0x40; 40])
        .bytes(&[7])
        .word(60_000);
    vec![up.0, told.0, hurt.0]
}
