//! `net.check`: what the network around this machine lets through, found out over the node's own sockets.
//!
//! Promises: one check at a time, over within `CHECK_TIME`; links and relays go on as they are.
//! Refuses to know: which servers are right to ask, who talks to the router about ports.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use api::link::{NatKind, NetReport, ServerReport, ServersConfig};
use api::rpc::{ApiError, ErrorKind};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::calls::{done, invalid, to_turn};
use super::{CallId, Node, Output};
use crate::ice::CandidateKind;
use crate::limits;
use crate::netcheck::{self, NetCheck};
use crate::turn::probe::TurnProbe;
use crate::turn::{RelayOutput, StreamId, StreamInput, TurnServer, TurnTransport};

/// The tests take ten seconds where everything is silent.
const CHECK_TIME: Duration = Duration::from_secs(15);
/// What a check sent to a server's other address may keep a filter open so long (RFC 4787 REQ-5: 5 minutes or more).
const FILTER_MEMORY: Duration = Duration::from_secs(600);

/// A check on its way.
pub(super) struct Check {
    call: CallId,
    stun: NetCheck,
    turn: Vec<TurnProbe>,
    until: Instant,
}

/// What a check found of the filter, before it sent anything to the server's other address.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    mapped: SocketAddr,
    kind: NatKind,
    at: Instant,
}

impl Node {
    /// Begins a check; the answer comes when it is over.
    pub(super) fn begin_check(&mut self, now: Instant, call: CallId, servers: ServersConfig) -> Result<(), ApiError> {
        if self.check.is_some() {
            let text = "a network check runs already: wait for its answer";
            return Err(ApiError::new(ErrorKind::State, text));
        }
        if servers.stun.len() > limits::SERVERS || servers.turn.len() > limits::SERVERS {
            let text = format!("at most {} servers of each kind", limits::SERVERS);
            return Err(invalid("turn", text));
        }
        let turn: Vec<TurnServer> = servers.turn.iter().map(to_turn).collect::<Result<_, _>>()?;
        let own = self.host_addresses();
        let rng = ChaCha12Rng::from_rng(&mut self.rng);
        self.check = Some(Check {
            call,
            stun: NetCheck::new(now, &servers.stun, &own, rng),
            turn: turn.into_iter().map(|server| self.probe(now, server, &own)).collect(),
            until: now + CHECK_TIME,
        });
        Ok(())
    }

    fn probe(&mut self, now: Instant, server: TurnServer, own: &[SocketAddr]) -> TurnProbe {
        let address = server.address;
        if server.transport != TurnTransport::Udp {
            let stream = self.relays.new_stream();
            return TurnProbe::allocate(now, server, stream);
        }
        if !netcheck::has_family(own, address) {
            return TurnProbe::refused(now, server, "this machine has no address of its family".to_owned());
        }
        if self.relays.is_server(address) {
            return TurnProbe::ask(now, server, &mut self.rng);
        }
        let no_stream = StreamId(u32::MAX);
        TurnProbe::allocate(now, server, no_stream)
    }

    fn host_addresses(&self) -> Vec<SocketAddr> {
        let candidates = self.gatherer.candidates().iter();
        let hosts = candidates.filter(|candidate| candidate.kind == CandidateKind::Host);
        hosts.map(|candidate| candidate.address).collect()
    }

    /// What the shell found when it asked the router to map ports: the protocols that answered (`pcp`, `nat_pmp`,
    /// `upnp`), none if it asked in vain. Until it is called `net.check` says that nobody tried.
    pub fn handle_mapping_protocols(&mut self, protocols: Vec<String>) {
        self.mapping_protocols = Some(protocols);
    }

    /// A datagram that answers a question of the check. `false`: it does not.
    pub(super) fn check_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let Some(check) = &mut self.check else {
            return false;
        };
        check.stun.handle_udp(now, local, remote, bytes)
            || check.turn.iter_mut().any(|probe| probe.handle_udp(now, remote, bytes))
    }

    /// What happened to a stream of the check. `false`: it is none.
    pub(super) fn check_stream(&mut self, now: Instant, stream: StreamId, input: &StreamInput<'_>) -> bool {
        let trust = self.relays.trust();
        let probes = self.check.iter_mut().flat_map(|check| &mut check.turn);
        let mut probes = probes.map(|probe| probe.handle_stream(now, stream, input, trust));
        probes.any(|taken| taken)
    }

    /// The relays are about to talk to other servers, from the same socket.
    pub(super) fn check_gives_way(&mut self, now: Instant) {
        for probe in self.check.iter_mut().flat_map(|check| &mut check.turn) {
            probe.give_way(now);
        }
        self.drain_check(now);
    }

    pub(super) fn check_timeout(&mut self, now: Instant) {
        let Some(check) = &mut self.check else {
            return;
        };
        check.stun.handle_timeout(now);
        check.turn.iter_mut().for_each(|probe| probe.handle_timeout(now));
    }

    pub(super) fn check_due(&self) -> Option<Instant> {
        let check = self.check.as_ref()?;
        let turn = check.turn.iter().filter_map(TurnProbe::poll_timeout);
        turn.chain(check.stun.poll_timeout()).chain([check.until]).min()
    }

    /// Sends what the check wants sent, and answers when it is over.
    pub(super) fn drain_check(&mut self, now: Instant) {
        let Some(check) = &mut self.check else {
            return;
        };
        while let Some((remote, bytes)) = check.stun.poll_transmit() {
            let source = None;
            self.out.push_back(Output::Udp { source, remote, bytes });
        }
        for probe in &mut check.turn {
            probe.drain(now, |output| match output {
                RelayOutput::Udp { remote, bytes } => {
                    let source = None;
                    self.out.push_back(Output::Udp { source, remote, bytes });
                }
                RelayOutput::Stream(stream, output) => self.out.push_back(Output::Stream(stream, output)),
                _ => {}
            });
        }
        let is_over = check.stun.report().is_some() && check.turn.iter().all(|probe| probe.outcome().is_some());
        if is_over || now >= check.until {
            self.end_check(now);
        }
    }

    fn end_check(&mut self, now: Instant) {
        let Some(mut check) = self.check.take() else {
            return;
        };
        let answer = match check.stun.report().map(|report| self.report(now, report, &check.turn)) {
            Some(Some(report)) => done(report),
            _ => {
                // Only a machine that slept meanwhile gets here.
                for probe in &mut check.turn {
                    probe.abandon(now);
                    probe.drain(now, |output| {
                        if let RelayOutput::Stream(stream, output) = output {
                            self.out.push_back(Output::Stream(stream, output));
                        }
                    });
                }
                let text = format!("the check was not over within {} s: try again", CHECK_TIME.as_secs());
                Err(ApiError::new(ErrorKind::Timeout, text))
            }
        };
        self.out.push_back(Output::Reply(check.call, answer));
    }

    /// None while a server's answer is missing.
    fn report(&mut self, now: Instant, stun: &netcheck::NetReport, turn: &[TurnProbe]) -> Option<NetReport> {
        let servers = turn.iter().map(|probe| self.server_report(probe));
        let servers: Vec<ServerReport> = servers.collect::<Option<_>>()?;
        let mut report = stun.to_api(self.has_global_ipv6(), self.mapping_protocols.clone());
        report.udp |= servers.iter().any(|s| s.service == "turn udp" && s.rtt_us.is_some());
        if report.udp {
            // Some UDP does pass, if not to these STUN servers.
            for kind in [&mut report.mapping, &mut report.filtering] {
                if *kind == NatKind::Blocked {
                    *kind = NatKind::Unknown;
                }
            }
        }
        report.servers.extend(servers);
        self.remember_filter(now, &mut report);
        Some(report)
    }

    fn server_report(&self, probe: &TurnProbe) -> Option<ServerReport> {
        let outcome = probe.outcome()?;
        let fault = match outcome {
            Err(reason) => Some(format!("{}: {reason}", probe.name())),
            // The relays know more than the question could find out.
            Ok(_) if probe.was_nameless() => self.relay_fault(&probe.server.label),
            Ok(_) => None,
        };
        let service = match probe.server.transport {
            TurnTransport::Udp => "turn udp",
            TurnTransport::Tcp => "turn tcp",
            TurnTransport::Tls { .. } => "turn tls",
        };
        let rtt = outcome.as_ref().ok();
        Some(ServerReport {
            server: probe.server.address,
            service: service.to_owned(),
            rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            fault,
        })
    }

    fn relay_fault(&self, label: &str) -> Option<String> {
        self.relay_faults.get(label).cloned()
    }

    fn has_global_ipv6(&self) -> bool {
        let is_global = |address: &SocketAddr| match address.ip() {
            // RFC 4291 section 2.4 and IANA: what is given out is 2000::/3.
            IpAddr::V6(ip) => ip.octets()[0] & 0xE0 == 0x20,
            IpAddr::V4(_) => false,
        };
        self.host_addresses().iter().any(is_global)
    }

    /// A check leaves the filter open towards the server's other address, so that a second one soon after could take
    /// a strict filter for an open one: the stricter finding stays for a while.
    fn remember_filter(&mut self, now: Instant, report: &mut NetReport) {
        let Some(mapped) = report.ipv4.or(report.ipv6) else {
            return;
        };
        let strictness = |kind: NatKind| match kind {
            NatKind::EndpointIndependent => 1,
            NatKind::PortIndependent => 2,
            NatKind::AddressDependent => 3,
            NatKind::AddressAndPortDependent => 4,
            NatKind::Unknown | NatKind::None | NatKind::Blocked => 0,
        };
        let found = strictness(report.filtering);
        if found == 0 {
            return;
        }
        if let Some(before) = self.filter
            && before.mapped == mapped
            && now.saturating_duration_since(before.at) < FILTER_MEMORY
            && strictness(before.kind) > found
        {
            report.filtering = before.kind;
        }
        let kind = report.filtering;
        self.filter = Some(Filter { mapped, kind, at: now });
    }
}
