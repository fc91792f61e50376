//! XMPP client: one adapter for one network.
//!
//! Promises: after `Start` it logs in, enters the room and stays there over every loss until `Stop`; a server that is
//! not reached, or is silent while it should speak, is told of within five seconds of each try; whatever a server
//! sends, memory stays bounded and nothing panics; nothing but "start TLS" is ever sent in clear. Refuses to know:
//! what cards and bytes mean, who is a member.
//!
//! Built on `rxml` directly: our stanzas are few, and `tokio-xmpp` would bring 70 more crates (a DNS resolver, caches,
//! date and Unicode tables) into the process that is to live in 8 MB.

mod backoff;
mod dial;
mod fault;
mod fuzzing;
mod limits;
mod login;
mod outbox;
mod room;
mod services;
mod session;
mod srv;
mod stream;
mod target;
mod tls;
mod wire;

use std::pin::Pin;
use std::time::{Duration, Instant};

use api::rendezvous::{Login, RendezvousCommand, RendezvousEvent, RendezvousFault, Service};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::xml::Incoming;
use backoff::Backoff;
use fault::Failure;
#[doc(hidden)]
pub use fuzzing::fuzz_session;
use outbox::Outbox;
use room::Place;
use services::Origin;
use session::Session;
use stream::Stream;
use target::{Memory, Target};
pub use tls::Roots;

/// What the machine gives to an adapter.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whose certificates are believed where a server's address has no pin.
    pub roots: Roots,
}

/// Serves one network until `commands` or `events` is closed. Dropping the future cuts the connection.
///
/// After `Stop` it has left and logged out and waits for the next `Start`; a second `Start` means "at once": it ends a
/// wait, or replaces login, room and card. `Send` without being in the room is dropped.
pub async fn connect(
    events: mpsc::Sender<RendezvousEvent>,
    commands: mpsc::Receiver<RendezvousCommand>,
    options: Options,
) {
    let mut adapter = Adapter {
        outbox: Outbox::new(events),
        commands,
        options,
        memory: Memory::default(),
        remembered: None,
    };
    let mut goal = None;
    loop {
        goal = match goal {
            Some(goal) => match adapter.pursue(goal).await {
                Turn::Started(next) => Some(*next),
                Turn::Stopped => None,
                Turn::Closed => return,
            },
            None => match adapter.idle().await {
                Some(next) => Some(next),
                None => return,
            },
        };
    }
}

/// What is wanted.
#[derive(Clone, PartialEq)]
struct Goal {
    login: Login,
    room: String,
    card: Vec<u8>,
}

/// Why a goal is pursued no longer.
enum Turn {
    Started(Box<Goal>),
    Stopped,
    Closed,
}

/// Why a try ended.
enum End {
    Turn(Turn),
    Failed { failure: Failure, stayed: Duration },
}

struct Adapter {
    outbox: Outbox,
    commands: mpsc::Receiver<RendezvousCommand>,
    options: Options,
    memory: Memory,
    /// The account that `memory` is about.
    remembered: Option<Login>,
}

/// A connection with its session.
struct Live {
    stream: Stream<TlsStream<TcpStream>>,
    session: Session,
    origin: Origin,
}

type Resolving = Pin<Box<dyn Future<Output = Vec<Service>> + Send>>;

impl Adapter {
    async fn idle(&mut self) -> Option<Goal> {
        loop {
            tokio::select! {
                () = self.outbox.deliver() => return None,
                command = self.commands.recv() => if let RendezvousCommand::Start { login, room, card } = command? {
                    return Some(Goal { login, room, card });
                }
            }
        }
    }

    /// Tries until something else is wanted.
    async fn pursue(&mut self, mut goal: Goal) -> Turn {
        let mut backoff = Backoff::default();
        if self.remembered.as_ref() != Some(&goal.login) {
            self.memory = Memory::default();
            self.remembered = Some(goal.login.clone());
        }
        loop {
            let (failure, stayed) = match self.attempt(&mut goal).await {
                End::Turn(Turn::Started(next)) if next.login == goal.login => {
                    (goal, backoff) = (*next, Backoff::default());
                    continue;
                }
                End::Turn(turn) => return turn,
                End::Failed { failure, stayed } => (failure, stayed),
            };
            let wait = backoff.next(failure.hopeless(), stayed);
            tracing::info!(reason = failure.reason, ?wait, "rendezvous is away");
            self.offline(failure, wait);
            match self.wait(&mut goal, wait).await {
                Some(Turn::Started(next)) if next.login == goal.login => {
                    (goal, backoff) = (*next, Backoff::default());
                }
                Some(turn) => return turn,
                None => {}
            }
        }
    }

    fn offline(&mut self, failure: Failure, wait: Duration) {
        let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let Failure { fault, reason } = failure;
        self.outbox.push(RendezvousEvent::Offline {
            reason,
            fault,
            retry_ms,
        });
    }

    async fn wait(&mut self, goal: &mut Goal, wait: Duration) -> Option<Turn> {
        let over = sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return None,
                () = self.outbox.deliver() => return Some(Turn::Closed),
                command = self.commands.recv() => if let Some(turn) = aside(command, goal) {
                    return Some(turn);
                }
            }
        }
    }

    async fn attempt(&mut self, goal: &mut Goal) -> End {
        let started = Instant::now();
        let live = match self.log_in(goal, started).await {
            Ok(live) => live,
            Err(end) => return end,
        };
        self.live(live, goal, started).await
    }

    /// Connects and logs in, listening to commands meanwhile.
    async fn log_in(&mut self, goal: &mut Goal, started: Instant) -> Result<Live, End> {
        let failed = |failure| End::Failed {
            failure,
            stayed: Duration::ZERO,
        };
        let target = Target::new(&goal.login).map_err(failed)?;
        let place = Place::new(&goal.room, &target.domain, self.memory.rooms.clone()).map_err(failed)?;
        let card = goal.card.clone();
        let Adapter {
            outbox,
            commands,
            options,
            memory,
            ..
        } = self;
        let (heard, mut hears) = watch::channel(started);
        let work = timeout(
            limits::LOGIN_TIME,
            reach(&target, place, card, memory, &options.roots, heard),
        );
        tokio::pin!(work);
        let silence = silence(started, &mut hears);
        tokio::pin!(silence);
        let mut told = false;
        let mut live = loop {
            tokio::select! {
                outcome = &mut work => break outcome.map_err(|_| failed(slow(&target.label)))?.map_err(failed)?,
                () = &mut silence, if !told => {
                    told = true;
                    outbox.push(silent(&target.label));
                }
                () = outbox.deliver() => return Err(End::Turn(Turn::Closed)),
                command = commands.recv() => if let Some(turn) = aside(command, goal) {
                    return Err(End::Turn(turn));
                }
            }
        };
        if live.session.card != goal.card {
            live.session.show_card(goal.card.clone(), Instant::now());
        }
        Ok(live)
    }

    /// Stays.
    async fn live(&mut self, mut live: Live, goal: &mut Goal, started: Instant) -> End {
        let mut inside: Option<Instant> = None;
        let mut told = false;
        let mut resolving: Option<Resolving> = None;
        let failure = loop {
            let out = live.session.take_out();
            live.stream.queue(&out);
            for event in live.session.take_events() {
                self.outbox.push(event);
            }
            if let Some(offered) = live.session.take_offered() {
                resolving = Some(Box::pin(services::resolve_all(offered, live.origin.clone())));
            }
            if inside.is_none() && live.session.place.inside {
                inside = Some(Instant::now());
                self.memory.rooms = Some(live.session.place.service.clone());
            }
            let full = self.outbox.waiting() >= limits::EVENTS_WAITING;
            if full {
                live.session.forgive(Instant::now());
            }
            let silent_at = silent_at(started, live.stream.heard());
            let deadline = match inside {
                Some(_) => live.session.deadline(),
                None if told => live.session.deadline().min(started + limits::LOGIN_TIME),
                None => live.session.deadline().min(silent_at),
            };
            let outcome = tokio::select! {
                incoming = live.stream.next_if(!full) => match incoming {
                    Ok(Incoming::Stanza(stanza)) => live.session.handle(&stanza, Instant::now()),
                    Ok(_) => Err(Failure::broken(&live.session.label, stream::Broken::Closed)),
                    Err(broken) => Err(Failure::broken(&live.session.label, broken)),
                },
                taken = self.outbox.deliver_one() => match taken {
                    true => Ok(()),
                    false => return End::Turn(Turn::Closed),
                },
                command = self.commands.recv(), if live.stream.waiting() < limits::OUT_BYTES => {
                    match self.command(&mut live, goal, command).await {
                        Some(turn) => return End::Turn(turn),
                        None => Ok(()),
                    }
                }
                services = resolved(&mut resolving) => {
                    resolving = None;
                    live.session.tell(RendezvousEvent::Services(services));
                    Ok(())
                }
                () = sleep_until(deadline.into()), if !full => {
                    let now = Instant::now();
                    if inside.is_none() && started + limits::LOGIN_TIME <= now {
                        Err(live.session.not_entered())
                    } else {
                        if inside.is_none() && !told && silent_at <= now {
                            told = true;
                            live.session.tell(silent(&live.session.label));
                        }
                        live.session.handle_timeout(now)
                    }
                }
            };
            if let Err(failure) = outcome {
                break failure;
            }
        };
        // What came before the end is told before it.
        for event in live.session.take_events() {
            self.outbox.push(event);
        }
        End::Failed {
            failure,
            stayed: inside.map_or(Duration::ZERO, |at| at.elapsed()),
        }
    }

    async fn command(&mut self, live: &mut Live, goal: &mut Goal, command: Option<RendezvousCommand>) -> Option<Turn> {
        let now = Instant::now();
        match command {
            Some(RendezvousCommand::Start { login, room, card }) if login == goal.login && room == goal.room => {
                goal.card.clone_from(&card);
                live.session.show_card(card, now);
                None
            }
            Some(RendezvousCommand::Card(card)) => {
                goal.card.clone_from(&card);
                live.session.show_card(card, now);
                None
            }
            Some(RendezvousCommand::Send { to, bytes }) => {
                live.session.send_bytes(&to, bytes, now);
                None
            }
            other => {
                live.farewell().await;
                aside(other, goal)
            }
        }
    }
}

impl Live {
    /// Leaves the room and the server, without waiting for long.
    async fn farewell(&mut self) {
        self.session.leave(Instant::now());
        let out = self.session.take_out();
        self.stream.queue(&out);
        self.stream.queue("</stream:stream>");
        let _ = timeout(limits::FAREWELL_TIME, self.stream.flush()).await;
    }
}

/// From nothing to a bound session.
async fn reach(
    target: &Target,
    place: Place,
    card: Vec<u8>,
    memory: &mut Memory,
    roots: &Roots,
    heard: watch::Sender<Instant>,
) -> Result<Live, Failure> {
    let secure = dial::dial(target, memory, roots).await?;
    memory.way = Some((secure.address, secure.way));
    let mut stream = Stream::new(secure.tls, heard);
    let mut session = Session::new(&target.label, &target.domain, place, card, Instant::now());
    let pipelined = session.take_out();
    let logged_in = login::log_in(&mut stream, target, memory, secure.binding, &pipelined).await?;
    let now = Instant::now();
    session.bound(logged_in.jid, logged_in.acks, now);
    for stanza in &logged_in.early {
        session.handle(stanza, now)?;
    }
    let mut names: Vec<String> = target.hosts.iter().map(|host| host.name.clone()).collect();
    names.push(target.domain.clone());
    let origin = Origin {
        address: secure.address,
        names,
        pin: target.pin,
    };
    Ok(Live {
        stream,
        session,
        origin,
    })
}

/// A command that needs no session; `None` if it changes nothing but the goal.
fn aside(command: Option<RendezvousCommand>, goal: &mut Goal) -> Option<Turn> {
    match command {
        None => Some(Turn::Closed),
        Some(RendezvousCommand::Stop) => Some(Turn::Stopped),
        Some(RendezvousCommand::Start { login, room, card }) => {
            Some(Turn::Started(Box::new(Goal { login, room, card })))
        }
        Some(RendezvousCommand::Card(card)) => {
            goal.card = card;
            None
        }
        Some(RendezvousCommand::Send { to, .. }) => {
            tracing::debug!(to = to.0, "not sent: not in the room");
            None
        }
    }
}

async fn resolved(resolving: &mut Option<Resolving>) -> Vec<Service> {
    match resolving {
        Some(resolving) => resolving.await,
        None => std::future::pending().await,
    }
}

/// Returns when the server has been silent for too long.
async fn silence(started: Instant, heard: &mut watch::Receiver<Instant>) {
    loop {
        let at = silent_at(started, *heard.borrow_and_update());
        tokio::select! {
            () = sleep_until(at.into()) => return,
            Ok(()) = heard.changed() => {}
        }
    }
}

/// When a login that is not over is told of: it may take its time as long as the server speaks.
fn silent_at(started: Instant, heard: Instant) -> Instant {
    (started + limits::VERDICT_TIME).max(heard + limits::SILENCE_TIME)
}

fn silent(label: &str) -> RendezvousEvent {
    RendezvousEvent::Offline {
        reason: format!(
            "{label} does not go on with the login; it is still tried: check the network, or the server's load"
        ),
        fault: RendezvousFault::Unreachable,
        retry_ms: 0,
    }
}

fn slow(label: &str) -> Failure {
    Failure::unreachable(format!(
        "{label} did not finish the login in {} seconds; check the network, or the server's load",
        limits::LOGIN_TIME.as_secs()
    ))
}
