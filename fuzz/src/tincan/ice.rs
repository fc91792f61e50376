//! STUN between peers, and an agent whose wire belongs to the fuzzer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tincan::ice::{
    AddressPolicy, Agent, BindingAnswer, Candidate, ChangeRequest, Credentials, IceTransmit, StunClass,
    binding_request, is_stun, seed_transactions, stun_class, stun_transaction, stun_username,
};
use tincan::limits;

use crate::script::{START, Script, Writer};

/// One candidate after another.
pub(crate) fn candidate(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok((candidate, tail)) = Candidate::parse(rest) {
        let mut written = Vec::new();
        candidate.encode(&mut written);
        assert_eq!(written, rest[..rest.len() - tail.len()]);
        assert_eq!(candidate.base, candidate.address, "a peer's base is not its to tell");
        let _ = AddressPolicy::default().check(candidate.address);
        rest = tail;
    }
}

/// What the socket reader looks at.
pub(crate) fn stun(bytes: &[u8]) {
    let (class, transaction) = (stun_class(bytes), stun_transaction(bytes));
    assert_eq!(transaction.is_some(), is_stun(bytes));
    assert!(class.is_none() || transaction.is_some_and(|id| bytes[8..20] == id));
    if let Some((ours, theirs)) = stun_username(bytes) {
        assert_eq!(class, Some(StunClass::Request));
        assert!(!ours.is_empty() && !theirs.is_empty() && !ours.contains(':'));
    }
}

/// What a STUN server answers.
pub(crate) fn binding_answer(bytes: &[u8]) {
    let Ok(answer) = BindingAnswer::parse(bytes) else {
        return;
    };
    assert_eq!(stun_transaction(bytes), Some(answer.transaction));
    assert_eq!(stun_class(bytes), Some(StunClass::Success));
    assert_ne!(answer.other.map(|other| other.port()), Some(0));
}

/// Two agents. The script says which of their checks arrive, how often, from where, how damaged, and when.
pub(crate) fn agent(bytes: &[u8]) {
    seed_transactions(1);
    let mut world = World::new();
    let mut script = Script(bytes);
    for _ in 0..Script::STEPS {
        let Some(step) = script.byte() else { break };
        if world.step(step, &mut script).is_none() {
            break;
        }
        world.collect();
    }
}

const HOSTS: [&str; 2] = ["192.0.2.1:1000", "192.0.2.2:2000"];
const STRANGERS: [&str; 4] = ["203.0.113.1:9", "127.0.0.1:9", "224.0.0.1:9", "[fe80::1]:9"];
/// What the wire keeps.
const WIRE: usize = 256;

struct World {
    now: Instant,
    agents: [Agent; 2],
    /// What each has sent and may still arrive.
    wires: [Vec<IceTransmit>; 2],
    restarts: u8,
}

impl World {
    fn new() -> Self {
        let agent = |number: u8| {
            let credentials = Credentials::from_entropy([number; 32]);
            let policy = AddressPolicy::default();
            Agent::new(credentials, number == 0, u64::from(number), policy, *START)
        };
        let mut world = World {
            now: *START,
            agents: [agent(0), agent(1)],
            wires: [Vec::new(), Vec::new()],
            restarts: 2,
        };
        for (own, address) in HOSTS.iter().enumerate() {
            let host = Candidate::host(at(address), 9);
            let added = world.agents[own].add_local(world.now, host);
            added.expect("a public address");
            let added = world.agents[1 - own].add_remote(world.now, host);
            added.expect("a public address");
        }
        for own in 0..2 {
            let credentials = world.agents[1 - own].credentials().clone();
            world.agents[own].set_remote(world.now, credentials);
        }
        world
    }

    /// One thing that happens; none when the script is over.
    fn step(&mut self, step: u8, script: &mut Script<'_>) -> Option<()> {
        let to = usize::from(step >> 7);
        match step % 8 {
            0 | 1 => self.deliver(to, script.byte()?, None, None),
            2 => self.deliver(to, script.byte()?, Some((script.byte()?, script.byte()?)), None),
            3 => self.deliver(to, script.byte()?, None, Some(script.byte()?)),
            4 => self.now += script.wait()?,
            5 => self.stranger(to, script.byte()?, script.chunk()?),
            6 => self.candidate(to, script.chunk()?),
            _ => self.change(to, script.byte()?),
        }
        for agent in &mut self.agents {
            agent.handle_timeout(self.now);
        }
        Some(())
    }

    /// A message of the other agent arrives: perhaps with a byte changed, perhaps from elsewhere.
    fn deliver(&mut self, to: usize, which: u8, damage: Option<(u8, u8)>, from: Option<u8>) {
        let wire = &self.wires[1 - to];
        let Some(sent) = wire.get(usize::from(which) % wire.len().max(1)) else {
            return;
        };
        let mut sent = sent.clone();
        if let Some((place, value)) = damage {
            let place = usize::from(place) % sent.bytes.len();
            sent.bytes[place] = value;
        }
        let source = from.map_or(sent.local, stranger);
        self.hand_in(to, source, &sent.bytes);
    }

    fn stranger(&mut self, to: usize, from: u8, bytes: &[u8]) {
        self.hand_in(to, stranger(from), bytes);
    }

    fn hand_in(&mut self, to: usize, source: SocketAddr, bytes: &[u8]) {
        let agent = &mut self.agents[to];
        let (accepted, pairs) = (agent.accepts(bytes), agent.pairs());
        let taken = agent.handle_stun(self.now, at(HOSTS[to]), source, bytes);
        assert!(accepted || !taken, "what does not authenticate is not taken");
        if !taken {
            assert_eq!(agent.pairs(), pairs, "and changes nothing");
        }
    }

    fn candidate(&mut self, to: usize, bytes: &[u8]) {
        if let Ok((candidate, _)) = Candidate::parse(bytes) {
            let allowed = AddressPolicy::default().check(candidate.address).is_ok();
            let added = self.agents[to].add_remote(self.now, candidate);
            assert!(allowed || added.is_err());
        }
    }

    fn change(&mut self, which: usize, how: u8) {
        match how % 3 {
            0 => self.agents[which].probe(self.now),
            1 if self.restarts > 0 => {
                self.restarts -= 1;
                let credentials = Credentials::from_entropy([how; 32]);
                self.agents[which].restart(self.now, credentials.clone(), u64::from(how));
                self.agents[1 - which].set_remote(self.now, credentials);
            }
            _ => self.agents[which].remove_local(self.now, &Candidate::host(at(HOSTS[which]), 9)),
        }
    }

    fn collect(&mut self) {
        for own in 0..2 {
            let agent = &mut self.agents[own];
            assert!(agent.remote_candidates().len() <= limits::ICE_REMOTE_CANDIDATES);
            let mut sent = 0;
            while let Some(transmit) = agent.poll_transmit() {
                let allowed = AddressPolicy::default().check(transmit.remote);
                assert_eq!(allowed, Ok(()), "checks go nowhere else");
                assert!(is_stun(&transmit.bytes) && transmit.bytes.len() <= limits::ICE_STUN_BYTES);
                sent += 1;
                if self.wires[own].len() < WIRE {
                    self.wires[own].push(transmit);
                }
            }
            assert!(sent <= limits::ICE_CHECK_BURST + 2 * limits::ICE_EARLY_CHECKS as u32);
            while agent.poll_event().is_some() {}
        }
    }
}

fn stranger(which: u8) -> SocketAddr {
    at(STRANGERS[usize::from(which) % STRANGERS.len()])
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// A host's, a mapped and a relayed one, in a row and alone.
pub(crate) fn candidates() -> Vec<Vec<u8>> {
    let (host, v6) = (at("10.0.0.2:5000"), at("[2001:db8::1]:6000"));
    let all = [
        Candidate::host(host, 9),
        Candidate::server_reflexive(at("198.51.100.7:40000"), host, 8),
        Candidate::relayed(v6, 7),
    ];
    let mut row = Vec::new();
    all.iter().for_each(|candidate| candidate.encode(&mut row));
    let mut alone = Vec::new();
    all[2].encode(&mut alone);
    vec![row, alone]
}

/// Questions of a client, checks of an agent, answers of a server.
pub(crate) fn stun_messages() -> Vec<Vec<u8>> {
    seed_transactions(1);
    let mut world = World::new();
    world.now += Duration::from_millis(100);
    for agent in &mut world.agents {
        agent.handle_timeout(world.now);
    }
    world.collect();
    let check = world.wires[0].first().expect("checks leave within 100 ms").clone();
    world.hand_in(1, check.local, &check.bytes);
    world.collect();
    let sent = world.wires.into_iter().flatten().map(|transmit| transmit.bytes);
    let mut messages: Vec<Vec<u8>> = sent.take(6).collect();
    messages.push(binding_request([7; 12], Some(ChangeRequest::Port)));
    let mut answer = vec![1, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42];
    answer.extend_from_slice(&[7; 12]);
    // XOR-MAPPED-ADDRESS and OTHER-ADDRESS.
    answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1, 0x21, 0x13, 0xe1, 0x12, 0xa4, 0x43]);
    answer.extend_from_slice(&[0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 51, 100, 2]);
    messages.push(answer);
    messages
}

/// A link that comes up; the same with damage, strangers, a restart, and candidates from a peer.
pub(crate) fn agent_scripts() -> Vec<Vec<u8>> {
    let wait = |script: Writer, ms: u16| script.bytes(&[4]).word(ms);
    let mut up = wait(Writer::default(), 60);
    for which in 0..6 {
        up = wait(up.bytes(&[0x80, which, 0, which]), 60);
    }
    let candidate = &candidates()[1];
    let more = Writer(up.0.clone()).bytes(&[6]).chunk(candidate).bytes(&[7, 0, 7, 1]);
    let more = wait(more, 500)
        .bytes(&[2, 0, 9, 0xff, 0x83, 1, 0, 5, 0])
        .chunk(&stun_messages()[0]);
    vec![up.0, wait(more, 60_000).0]
}
