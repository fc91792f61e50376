//! A controller of the benchmark's own: holds many tincans by the link API and carries the signals between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use api::link::{Delivery, Event, LinkCall, NetworkConfig, NicInfo, NicKind, NodeRef, PeerConfig, State, default_mtu};
use api::rpc::{ApiError, Empty, Message};
use api::{Cidr, NetworkId, NodeId};
use lab::{Host, Process, until};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::crowd::{Crowd, Hub};

/// Longer than anything here takes; only a fault waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The one network of the benchmark.
pub(crate) const NETWORK: NetworkId = NetworkId([0xbe; 32]);

/// Links of a crowd that are being made at a time.
const AT_A_TIME: usize = 16;
const CROWD_LINKED_WITHIN: Duration = Duration::from_secs(120);
/// How soon what the crowd says is looked for again.
const CARRY_EVERY: Duration = Duration::from_millis(5);

/// An answer that somebody may wait for.
type Answered = Option<(u64, Result<Value, ApiError>)>;

/// Tincans and the wires between their controllers.
pub(crate) struct Switchboard {
    binary: PathBuf,
    tincans: Vec<Tincan>,
    said: Receiver<Said>,
    mouth: Sender<Said>,
    /// How long a signal is on its way.
    signal_delay: Duration,
    /// By the time at which it arrives, then by order.
    signals: BTreeMap<(Instant, u64), Signal>,
    /// Requests whose answers nobody waits for.
    deliveries: BTreeSet<u64>,
    events: VecDeque<Happened>,
    last_id: u64,
    crowd: Option<(Crowd, Receiver<Delivery>, usize)>,
}

struct Tincan {
    process: Process,
    socket: UnixStream,
    node: NodeId,
    address: IpAddr,
}

struct Signal {
    to: usize,
    delivery: Delivery,
}

/// A line from a tincan, none when it hung up, with the time of its arrival.
struct Said {
    who: usize,
    at: Instant,
    message: Option<Message>,
}

/// An event of one of the tincans.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    /// Which tincan.
    pub(crate) who: usize,
    /// When its line arrived.
    pub(crate) at: Instant,
    /// What.
    pub(crate) event: Event,
}

impl Switchboard {
    pub(crate) fn new(binary: &Path, signal_delay: Duration) -> Self {
        let (mouth, said) = channel();
        let binary = binary.to_owned();
        let (signals, deliveries) = (BTreeMap::new(), BTreeSet::new());
        Self {
            binary,
            tincans: Vec::new(),
            said,
            mouth,
            signal_delay,
            signals,
            deliveries,
            events: VecDeque::new(),
            last_id: 0,
            crowd: None,
        }
    }

    /// Starts a tincan on a host with a NIC of this address; gives its number.
    pub(crate) fn start(&mut self, host: &Host, address: Cidr) -> anyhow::Result<usize> {
        let state = host.folder();
        let mut command = host.command(&self.binary);
        let process = host.spawn("tincan", command.arg("tincan").arg("--state").arg(&state))?;
        let path = state.join("tincan.sock");
        let socket = until("tincan serves its link API", PATIENCE, || {
            UnixStream::connect(&path).map_err(|error| format!("{error}; it said: {}", process.said().trim()))
        })?;
        let who = self.tincans.len();
        self.listen(who, socket.try_clone().context("cannot share a socket")?);
        let unknown = NodeId([0; 32]);
        self.tincans.push(Tincan {
            process,
            socket,
            node: unknown,
            address: address.address,
        });
        let _: Empty = self.call(who, &LinkCall::Subscribe(Empty {}))?;
        let config = NetworkConfig {
            network: NETWORK,
            kind: NicKind::Ip,
            nic: None,
            mtu: default_mtu(),
            addresses: vec![address],
        };
        let made: NicInfo = self.call(who, &LinkCall::CreateNetwork(config))?;
        self.tincans[who].node = made.node;
        Ok(who)
    }

    fn listen(&self, who: usize, socket: UnixStream) {
        let mouth = self.mouth.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(socket).split(b'\n') {
                let message = line.ok().and_then(|line| Message::parse(&line).ok());
                let ended = message.is_none();
                if mouth
                    .send(Said {
                        who,
                        at: Instant::now(),
                        message,
                    })
                    .is_err()
                    || ended
                {
                    return;
                }
            }
            // Nobody may listen any more, which is no fault.
            let _ = mouth.send(Said {
                who,
                at: Instant::now(),
                message: None,
            });
        });
    }

    /// Waits until a tincan has addresses to offer: the kernel calls a fresh interface down for up to a second.
    pub(crate) fn wait_for_candidates(&mut self, who: usize) -> anyhow::Result<()> {
        until("a node has candidates", PATIENCE, || {
            let state: State = self
                .call(who, &LinkCall::State(Empty {}))
                .map_err(|error| format!("{error:#}"))?;
            if state.candidates.is_empty() {
                Err("none".into())
            } else {
                Ok(())
            }
        })?;
        Ok(())
    }

    /// Tells two tincans of each other.
    pub(crate) fn introduce(&mut self, a: usize, b: usize) -> anyhow::Result<()> {
        for (who, other) in [(a, b), (b, a)] {
            let other = &self.tincans[other];
            let peer = PeerConfig {
                network: NETWORK,
                node: other.node,
                addresses: vec![other.address],
                name: None,
            };
            let _: Empty = self.call(who, &LinkCall::SetPeer(peer))?;
        }
        Ok(())
    }

    /// Its process.
    pub(crate) fn process(&self, who: usize) -> u32 {
        self.tincans[who].process.id()
    }

    /// Makes a crowd on a host, and tells a tincan of all its members.
    pub(crate) fn gather_crowd(&mut self, host: &Host, count: usize, hub: usize) -> anyhow::Result<()> {
        let IpAddr::V4(inner) = self.tincans[hub].address else {
            bail!("the hub of a crowd has an IPv4 address");
        };
        let place = Hub {
            network: NETWORK,
            node: self.tincans[hub].node,
            inner,
        };
        let (signals, said) = channel();
        let crowd = Crowd::start(host, count, place, signals)?;
        for member in crowd.members() {
            let peer = PeerConfig {
                network: NETWORK,
                node: member.node,
                addresses: vec![member.inner],
                name: None,
            };
            let _: Empty = self.call(hub, &LinkCall::SetPeer(peer))?;
        }
        self.crowd = Some((crowd, said, hub));
        Ok(())
    }

    /// Links all of the crowd to their hub, a few at a time.
    pub(crate) fn link_crowd(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut asked = 0;
        loop {
            let (crowd, ..) = self.crowd.as_ref().context("no crowd was gathered")?;
            let (linked, count) = (crowd.linked(), crowd.members().len());
            if linked == count {
                return Ok(());
            }
            if start.elapsed() > CROWD_LINKED_WITHIN {
                bail!("only {linked} of {count} nodes of the crowd have a link");
            }
            while asked < count.min(linked + AT_A_TIME) {
                crowd.open(asked);
                asked += 1;
            }
            self.run(CARRY_EVERY)?;
            self.events.clear();
        }
    }

    /// The crowd, where there is one.
    pub(crate) fn crowd(&self) -> Option<&Crowd> {
        self.crowd.as_ref().map(|(crowd, ..)| crowd)
    }

    /// Carries signals for a while.
    pub(crate) fn run(&mut self, span: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.carry_from_crowd()?;
            self.step(end)?;
        }
        Ok(())
    }

    fn carry_from_crowd(&mut self) -> anyhow::Result<()> {
        let Some((_, said, hub)) = &self.crowd else {
            return Ok(());
        };
        let (hub, deliveries) = (*hub, said.try_iter().collect::<Vec<_>>());
        for delivery in deliveries {
            let id = self.send(hub, &LinkCall::Deliver(delivery))?;
            self.deliveries.insert(id);
        }
        Ok(())
    }

    /// Makes a link; gives how long it took until each end, opener first, said that frames can flow.
    pub(crate) fn open(&mut self, opener: usize, other: usize) -> anyhow::Result<[Duration; 2]> {
        let start = Instant::now();
        let _: Empty = self.call(opener, &LinkCall::OpenLink(self.reference(other)))?;
        self.both("link_up", [opener, other], start, |event| match event {
            Event::LinkUp { node, .. } => Some(*node),
            _ => None,
        })
    }

    /// Ends a link; done when both ends say so.
    pub(crate) fn close(&mut self, closer: usize, other: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        let _: Empty = self.call(closer, &LinkCall::CloseLink(self.reference(other)))?;
        let down = |event: &Event| match event {
            Event::LinkDown { node, .. } => Some(*node),
            _ => None,
        };
        self.both("link_down", [closer, other], start, down).map(|_| ())
    }

    fn both(
        &mut self,
        what: &str,
        ends: [usize; 2],
        start: Instant,
        about: fn(&Event) -> Option<NodeId>,
    ) -> anyhow::Result<[Duration; 2]> {
        let nodes = ends.map(|end| self.tincans[end].node);
        let mut times = [None; 2];
        while times.contains(&None) {
            let happened = self
                .event(start + PATIENCE)
                .with_context(|| format!("no {what} from both ends"))?;
            for (end, time) in times.iter_mut().enumerate() {
                if happened.who == ends[end] && about(&happened.event) == Some(nodes[1 - end]) {
                    *time = Some(happened.at.saturating_duration_since(start));
                }
            }
        }
        Ok(times.map(|time| time.unwrap_or_default()))
    }

    fn reference(&self, who: usize) -> NodeRef {
        NodeRef {
            network: NETWORK,
            node: self.tincans[who].node,
        }
    }

    /// The next event but signals, which are carried on the way.
    pub(crate) fn event(&mut self, deadline: Instant) -> anyhow::Result<Happened> {
        loop {
            if let Some(happened) = self.events.pop_front() {
                return Ok(happened);
            }
            self.wait(deadline)?;
        }
    }

    /// Asks a tincan and waits for its answer.
    pub(crate) fn call<T: DeserializeOwned>(&mut self, who: usize, call: &LinkCall) -> anyhow::Result<T> {
        let id = self.send(who, call)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = self.wait(deadline)?.filter(|(answered, _)| *answered == id) {
                let value = result
                    .1
                    .map_err(|error| anyhow!(error))
                    .with_context(|| call.method())?;
                return serde_json::from_value(value)
                    .with_context(|| format!("{} gave an unknown answer", call.method()));
            }
        }
    }

    fn send(&mut self, who: usize, call: &LinkCall) -> anyhow::Result<u64> {
        self.last_id += 1;
        let request = Message::Request {
            id: Some(json!(self.last_id)),
            method: call.method().into(),
            params: call.params(),
        };
        self.tincans[who]
            .socket
            .write_all(&request.to_line())
            .context("a tincan hung up")?;
        Ok(self.last_id)
    }

    /// `step` until a deadline, which is an error.
    fn wait(&mut self, deadline: Instant) -> anyhow::Result<Answered> {
        if Instant::now() >= deadline {
            bail!("nothing more came within {} s", PATIENCE.as_secs());
        }
        self.step(deadline)
    }

    /// Takes one line or delivers what is due; gives an answer, should it be one.
    fn step(&mut self, deadline: Instant) -> anyhow::Result<Answered> {
        let now = Instant::now();
        self.deliver_due(now)?;
        let next = self
            .signals
            .keys()
            .next()
            .map_or(deadline, |(due, _)| *due.min(&deadline));
        let said = match self.said.recv_timeout(next.saturating_duration_since(now)) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("no tincan is left"),
        };
        match said.message {
            None => bail!("tincan {} hung up", said.who),
            Some(Message::Answer { id, result }) => self.answered(id.as_u64().unwrap_or_default(), result),
            Some(Message::Request { params, .. }) => {
                let event = serde_json::from_value(params).context("an unknown event")?;
                self.happened(Happened {
                    who: said.who,
                    at: said.at,
                    event,
                });
                Ok(None)
            }
        }
    }

    fn answered(&mut self, id: u64, result: Result<Value, ApiError>) -> anyhow::Result<Answered> {
        if self.deliveries.remove(&id) {
            result.map_err(|error| anyhow!(error)).context("a signal was refused")?;
            return Ok(None);
        }
        Ok(Some((id, result)))
    }

    fn happened(&mut self, happened: Happened) {
        let Event::SignalOut { network, to, blob } = happened.event else {
            self.events.push_back(happened);
            return;
        };
        if let Some(to) = self.tincans.iter().position(|tincan| tincan.node == to) {
            self.last_id += 1;
            let due = (happened.at + self.signal_delay, self.last_id);
            self.signals.insert(
                due,
                Signal {
                    to,
                    delivery: Delivery { network, blob },
                },
            );
        } else if let Some((crowd, ..)) = &self.crowd {
            // Who is nobody here is told nothing, as at any rendezvous.
            crowd.deliver(to, Delivery { network, blob });
        }
    }

    fn deliver_due(&mut self, now: Instant) -> anyhow::Result<()> {
        while let Some(entry) = self.signals.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let signal = entry.remove();
            let id = self.send(signal.to, &LinkCall::Deliver(signal.delivery))?;
            self.deliveries.insert(id);
        }
        Ok(())
    }
}
