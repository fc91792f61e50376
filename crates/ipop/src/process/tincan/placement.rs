//! Where workers run, and which of them a frame waits for.
//!
//! Little traffic stays on the core on which a program hands it over or the kernel takes it in: nobody waits there until another core
//! is started, which takes up to 70 us on a virtual machine, and three times in a ping. Much traffic is spread by flow over workers
//! that run wherever there is room.
//!
//! Promises: what changes hands in between loses nothing, at most it is overtaken; where the kernel takes no such program, all is
//! spread by flow, as if there were always much. Refuses to know: what much is, and what frames are.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use os::{Choice, Nic, PerCore, Steering, Thread};

use super::workers::{QUEUES, Shared, steering};

/// After so long without a rush there is little traffic again. A change costs some 0.1 ms of the engine's time.
const REST: Duration = Duration::from_millis(100);

/// What workers tell of it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// How often one had much to do.
    rushes: AtomicU64,
    /// There is little traffic, so it stays on its core. The first rush ends that, and is told to the engine.
    is_little: AtomicBool,
}

impl Load {
    /// A worker has much to do: whether the engine is to be told.
    pub(crate) fn on_rush(&self) -> bool {
        self.rushes.fetch_add(1, Ordering::Relaxed);
        self.is_little() && self.is_little.swap(false, Ordering::Relaxed)
    }

    /// Whether there is little: who looks on then, on the core of the program that is to answer, is in its way.
    pub(crate) fn is_little(&self) -> bool {
        self.is_little.load(Ordering::Relaxed)
    }

    /// From now on, or still, as the rush could not be told: the next one is.
    pub(crate) fn set_little(&self) {
        self.is_little.store(true, Ordering::Relaxed);
    }
}

/// How it is now.
enum Way {
    /// There is one worker, or the kernel takes no program, or it is left away.
    Fixed,
    ByCore,
    ByFlow {
        rushes: u64,
        look: Instant,
    },
}

/// Of all workers; the engine's.
pub(crate) struct Placement {
    shared: Shared,
    threads: Vec<Thread>,
    cores: Vec<usize>,
    way: Way,
    missing: Option<String>,
}

impl Placement {
    /// By flow, until there is a NIC.
    pub(crate) fn new(shared: Shared, threads: Vec<Thread>) -> Self {
        let cores = os::cores().unwrap_or_default();
        let can = threads.len() > 1 && cores.len() > 1 && !shared.without.cores();
        Self {
            shared,
            threads,
            cores,
            way: if can { Way::ByCore } else { Way::Fixed },
            missing: None,
        }
    }

    /// There is another NIC.
    pub(crate) fn on_nic<'a>(&mut self, nics: impl Iterator<Item = &'a Nic> + Clone) {
        if matches!(self.way, Way::ByCore) {
            self.by_core(nics);
        }
    }

    /// A worker has much to do.
    pub(crate) fn on_rush<'a>(&mut self, now: Instant, nics: impl Iterator<Item = &'a Nic>) {
        if matches!(self.way, Way::ByCore) {
            self.by_flow(nics);
            self.way = Way::ByFlow {
                rushes: self.rushes(),
                look: now + REST,
            };
        }
    }

    /// When `handle_timeout` wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.way {
            Way::ByFlow { look, .. } => Some(look),
            Way::Fixed | Way::ByCore => None,
        }
    }

    /// Looks whether there is little traffic again.
    pub(crate) fn handle_timeout<'a>(&mut self, now: Instant, nics: impl Iterator<Item = &'a Nic> + Clone) {
        let Way::ByFlow { rushes: before, look } = self.way else {
            return;
        };
        if now < look {
            return;
        }
        let rushes = self.rushes();
        if rushes == before {
            self.by_core(nics);
        } else {
            let look = now + REST;
            self.way = Way::ByFlow { rushes, look };
        }
    }

    /// What is missing, and what it costs.
    pub(crate) fn note(&self) -> Option<String> {
        let why = self.missing.as_ref()?;
        Some(format!(
            "frames may wait for another core, some 0.1 ms each way: the kernel does not let them stay on theirs ({why})"
        ))
    }

    fn rushes(&self) -> u64 {
        self.shared.load.rushes.load(Ordering::Relaxed)
    }

    fn by_core<'a>(&mut self, nics: impl Iterator<Item = &'a Nic> + Clone) {
        match self.try_by_core(nics.clone()) {
            Ok(()) => {
                self.way = Way::ByCore;
                self.shared.load.set_little();
            }
            Err(error) => {
                self.missing = Some(format!("{error:#}"));
                self.by_flow(nics);
                self.way = Way::Fixed;
            }
        }
    }

    fn try_by_core<'a>(&self, nics: impl Iterator<Item = &'a Nic>) -> anyhow::Result<()> {
        let workers = self.threads.len();
        let per_core = |first: usize| PerCore {
            first: first as u16,
            step: QUEUES as u16,
            cores: workers as u16,
        };
        for nic in nics {
            nic.wait_by_core(per_core(0)).context("no program for the NIC")?;
        }
        let by_core = Steering {
            choice: Choice::Core(per_core(1)),
            ..steering(workers)
        };
        let steered = self.shared.sockets.steer(&by_core);
        steered.context("no program for the sockets")?;
        for (number, thread) in self.threads.iter().enumerate() {
            let own: Vec<usize> = self
                .cores
                .iter()
                .copied()
                .filter(|core| core % workers == number)
                .collect();
            if !own.is_empty() {
                thread.keep_to(&own).context("a thread cannot keep to a core")?;
            }
        }
        Ok(())
    }

    fn by_flow<'a>(&self, nics: impl Iterator<Item = &'a Nic>) {
        let threads = self.threads.iter().map(|thread| thread.keep_to(&self.cores));
        let nics = nics.map(Nic::wait_by_flow);
        let sockets = std::iter::once(self.shared.sockets.steer(&steering(self.threads.len())));
        let failed = |outcome: io::Result<()>| outcome.err();
        if let Some(error) = threads.chain(nics).chain(sockets).filter_map(failed).last() {
            tracing::warn!(%error, "frames are not spread over all cores");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel, sync_channel};

    use os::{NicConfig, NicKind, UdpSockets};

    use super::super::abilities::Without;
    use super::*;

    /// A thread that tells which cores it may use, for each answer that is wanted.
    fn teller() -> (Thread, Sender<Sender<Vec<usize>>>) {
        let (says, hears) = sync_channel(1);
        let (asks, asked) = channel::<Sender<Vec<usize>>>();
        std::thread::spawn(move || {
            says.send(Thread::current()).unwrap();
            while let Ok(answer) = asked.recv() {
                answer.send(os::cores().unwrap()).unwrap();
            }
        });
        (hears.recv().unwrap(), asks)
    }

    fn cores_of(asks: &Sender<Sender<Vec<usize>>>) -> Vec<usize> {
        let (answer, answered) = channel();
        asks.send(answer).unwrap();
        answered.recv().unwrap()
    }

    fn shared(without: Without, workers: usize) -> Shared {
        Shared {
            snapshot: Arc::default(),
            nics: Arc::default(),
            sockets: Arc::new(UdpSockets::bind(&without.udp(0, workers)).unwrap()),
            without,
            wakers: Arc::new([]),
            wakes: sync_channel(1).0,
            overflow: Arc::default(),
            load: Arc::default(),
            full_sources: Arc::default(),
        }
    }

    #[test]
    fn workers_keep_to_their_cores_until_there_is_much_to_do() {
        os::netns::run_in_new(|| {
            let all = os::cores().unwrap();
            let (one, two) = (teller(), teller());
            let shared = shared(Without::default(), 2);
            let load = shared.load.clone();
            let mut placement = Placement::new(shared, vec![one.0, two.0]);
            if all.len() < 2 {
                assert!(matches!(placement.way, Way::Fixed));
                return;
            }
            let nic = Nic::create(&NicConfig {
                queues: true,
                ..NicConfig::new(NicKind::Tun)
            })
            .unwrap();
            let nics = || [&nic].into_iter();
            let own = |number| {
                all.iter()
                    .copied()
                    .filter(|core| core % 2 == number)
                    .collect::<Vec<_>>()
            };

            placement.on_nic(nics());
            assert_eq!(placement.note(), None);
            assert_eq!((cores_of(&one.1), cores_of(&two.1)), (own(0), own(1)));
            assert!(load.is_little() && placement.poll_timeout().is_none());

            let start = Instant::now();
            assert!(load.on_rush(), "the first is told");
            assert!(!load.on_rush() && !load.is_little());
            placement.on_rush(start, nics());
            assert_eq!((cores_of(&one.1), cores_of(&two.1)), (all.clone(), all.clone()));

            load.on_rush();
            placement.handle_timeout(start + REST, nics());
            assert_eq!(cores_of(&one.1), all, "there was another meanwhile");
            placement.handle_timeout(start + REST * 2, nics());
            assert_eq!((cores_of(&one.1), cores_of(&two.1)), (own(0), own(1)));
            assert!(load.is_little() && placement.poll_timeout().is_none());
        })
        .unwrap();
    }

    #[test]
    fn it_can_be_left_away() {
        os::netns::run_in_new(|| {
            let all = os::cores().unwrap();
            let (one, two) = (teller(), teller());
            let without = Without::parse("cores").unwrap();
            let mut placement = Placement::new(shared(without, 2), vec![one.0, two.0]);
            let nic = Nic::create(&NicConfig::new(NicKind::Tun)).unwrap();
            placement.on_nic([&nic].into_iter());
            assert_eq!((cores_of(&one.1), placement.note()), (all, None));
            assert!(placement.poll_timeout().is_none());
        })
        .unwrap();
    }

    #[test]
    fn where_the_kernel_takes_no_program_all_is_spread_and_said() {
        os::netns::run_in_new(|| {
            let all = os::cores().unwrap();
            if all.len() < 2 {
                return;
            }
            let (one, two) = (teller(), teller());
            let mut placement = Placement::new(shared(Without::default(), 2), vec![one.0, two.0]);
            let nic = Nic::create(&NicConfig::new(NicKind::Tun)).unwrap();
            let gone = nic.clone();
            nic.remove().unwrap();
            placement.on_nic([&gone].into_iter());
            assert_eq!(cores_of(&one.1), all);
            assert!(matches!(placement.way, Way::Fixed));
            assert!(placement.note().unwrap().contains("no program for the NIC"));
        })
        .unwrap();
    }
}
