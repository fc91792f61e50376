//! From a server's address to one verified TLS connection: names, addresses side by side, STARTTLS.
//!
//! Promises: a verdict within [`limits::VERDICT_TIME`]; the first address whose TLS is verified wins, so a stranger
//! at a private address of another network does no harm; nothing is said in clear but "start TLS" (S-X05).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Instant;

use api::rendezvous::{Host, RendezvousFault};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fault::Failure;
use super::stream::Stream;
use super::target::{Memory, Target};
use super::tls::{self, Roots};
use super::{limits, srv};
use crate::sasl;
use crate::xml::Element;

const NS_TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";

/// How TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With the first byte (XEP-0368).
    Direct,
    /// After the stream's features (RFC 6120 section 5).
    StartTls,
}

/// A verified connection.
pub(super) struct Secure {
    pub(super) tls: TlsStream<TcpStream>,
    pub(super) binding: Option<[u8; sasl::BINDING_BYTES]>,
    pub(super) address: SocketAddr,
    pub(super) way: Way,
}

/// One address to try.
struct Candidate {
    address: SocketAddr,
    label: String,
    ways: Vec<Way>,
}

enum Step {
    Found(Vec<Candidate>),
    Unknown(Failure),
    Ended(Result<Box<Secure>, Failure>),
}

type Steps<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Step> + Send + 'a>>>;

/// Connects; says why not.
pub(super) async fn dial(target: &Target, memory: &Memory, roots: &Roots) -> Result<Secure, Failure> {
    let mut worst = None;
    match timeout(limits::VERDICT_TIME, race(target, memory, roots, &mut worst)).await {
        Ok(Some(secure)) => Ok(*secure),
        Ok(None) | Err(_) => Err(worst.unwrap_or_else(|| {
            Failure::unreachable(format!(
                "{} does not answer; check the network, or whether the server runs",
                target.label
            ))
        })),
    }
}

async fn race(target: &Target, memory: &Memory, roots: &Roots, worst: &mut Option<Failure>) -> Option<Box<Secure>> {
    let mut steps: Steps<'_> = FuturesUnordered::new();
    for host in &target.hosts {
        steps.push(Box::pin(look_up(host, target)));
    }
    let mut waiting: VecDeque<Candidate> = VecDeque::new();
    let mut started = 0;
    let mut next_now = true;
    loop {
        if next_now
            && started < limits::CANDIDATES_MAX
            && let Some(candidate) = waiting.pop_front()
        {
            steps.push(Box::pin(attempt(candidate, target, memory, roots)));
            started += 1;
            next_now = false;
        }
        tokio::select! {
            step = steps.next() => match step {
                Some(Step::Found(found)) => waiting.extend(found),
                Some(Step::Ended(Ok(secure))) => return Some(secure),
                Some(Step::Ended(Err(failure))) => {
                    keep_worst(worst, failure);
                    next_now = true;
                }
                Some(Step::Unknown(failure)) => keep_worst(worst, failure),
                None if waiting.is_empty() || started >= limits::CANDIDATES_MAX => return None,
                None => next_now = true,
            },
            () = sleep(limits::STAGGER_TIME), if !waiting.is_empty() => next_now = true,
        }
    }
}

fn keep_worst(worst: &mut Option<Failure>, failure: Failure) {
    tracing::debug!(reason = failure.reason, "address failed");
    if worst.as_ref().is_none_or(|w| failure.weight() > w.weight()) {
        *worst = Some(failure);
    }
}

async fn look_up(host: &Host, target: &Target) -> Step {
    let places = match host.port {
        Some(port) => vec![(host.name.clone(), port, ways(target.pin.is_some(), port))],
        None if target.pin.is_some() || host.name.parse::<IpAddr>().is_ok() => {
            vec![(host.name.clone(), 5222, ways(target.pin.is_some(), 5222))]
        }
        None => srv::places(&host.name).await,
    };
    let mut found = Vec::new();
    for (name, port, ways) in places {
        let addresses = resolve(&name, port).await;
        found.extend(addresses.into_iter().map(|address| Candidate {
            address,
            label: format!(
                "{}",
                Host {
                    name: name.clone(),
                    port: Some(port)
                }
            ),
            ways: ways.clone(),
        }));
    }
    match found.is_empty() {
        true => Step::Unknown(Failure::unreachable(format!(
            "no address is known for {}; check the name, or the name service of this machine",
            host.name
        ))),
        false => Step::Found(found),
    }
}

/// Addresses of a name, IPv6 and IPv4 by turns (RFC 8305 section 4).
pub(super) async fn resolve(name: &str, port: u16) -> Vec<SocketAddr> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return vec![SocketAddr::new(address, port)];
    }
    let Ok(Ok(found)) = timeout(limits::LOOKUP_TIME, tokio::net::lookup_host((name, port))).await else {
        return Vec::new();
    };
    let (mut six, mut four): (VecDeque<_>, VecDeque<_>) = found.partition(SocketAddr::is_ipv6);
    let mut out = Vec::new();
    while !(six.is_empty() && four.is_empty()) {
        out.extend(six.pop_front());
        out.extend(four.pop_front());
    }
    out.truncate(limits::CANDIDATES_MAX);
    out
}

/// In which order TLS is begun. Behind a pin is most likely our own server, which takes direct TLS on any port.
pub(super) fn ways(pinned: bool, port: u16) -> Vec<Way> {
    match port {
        _ if pinned => vec![Way::Direct, Way::StartTls],
        5223 | 443 => vec![Way::Direct],
        5222 => vec![Way::StartTls],
        _ => vec![Way::StartTls, Way::Direct],
    }
}

async fn attempt(candidate: Candidate, target: &Target, memory: &Memory, roots: &Roots) -> Step {
    let Candidate {
        address,
        label,
        mut ways,
    } = candidate;
    if let Some((known, way)) = memory.way
        && known == address
        && ways.len() > 1
    {
        ways = vec![way];
        ways.push(if way == Way::Direct { Way::StartTls } else { Way::Direct });
    }
    let mut outcome = Failure::unreachable(String::new());
    for way in ways {
        let tcp = match connect(address, &label).await {
            Ok(tcp) => tcp,
            Err(failure) => return Step::Ended(Err(failure)),
        };
        let secured = match way {
            Way::Direct => handshake(tcp, &label, target, roots, true).await,
            Way::StartTls => start_tls(tcp, &label, target, roots).await,
        };
        match secured {
            Ok(tls) => {
                let binding = tls::binding(tls.get_ref().1);
                return Step::Ended(Ok(Box::new(Secure {
                    tls,
                    binding,
                    address,
                    way,
                })));
            }
            // It spoke TLS, or is an honest server without it: the other way would tell nothing new.
            Err(failure) if failure.fault == RendezvousFault::Impostor => return Step::Ended(Err(failure)),
            Err(failure) if failure.weight() > outcome.weight() => outcome = failure,
            Err(_) => {}
        }
    }
    Step::Ended(Err(outcome))
}

async fn connect(address: SocketAddr, label: &str) -> Result<TcpStream, Failure> {
    let tcp = match timeout(limits::CONNECT_TIME, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => {
            return Err(Failure::unreachable(format!(
                "{label} ({address}) is not reached ({}); check the network, or whether the server runs",
                error.kind()
            )));
        }
        Err(_) => {
            return Err(Failure::unreachable(format!(
                "{label} ({address}) does not answer; check the network and firewalls, or whether the server runs"
            )));
        }
    };
    // One stanza is one write: waiting for company costs 40 ms a round trip.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    Ok(tcp)
}

async fn handshake(
    tcp: TcpStream,
    label: &str,
    target: &Target,
    roots: &Roots,
    direct: bool,
) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(tls::config(target.pin, roots, direct)?);
    connector
        .connect(tls::name(&target.domain)?, tcp)
        .await
        .map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let told = inner.and_then(|inner| tls::failure(label, &target.domain, target.pin.is_some(), inner));
            told.unwrap_or_else(|| match inner {
                Some(_) => Failure::protocol(format!("{label} does not speak TLS; check host and port")),
                None => Failure::protocol(format!(
                    "{label} broke the connection before TLS was up ({}); check host and port",
                    error.kind()
                )),
            })
        })
}

async fn start_tls(
    tcp: TcpStream,
    label: &str,
    target: &Target,
    roots: &Roots,
) -> Result<TlsStream<TcpStream>, Failure> {
    let broken = |broken| match Failure::broken(label, broken) {
        failure if failure.fault == RendezvousFault::Lost => {
            Failure::protocol(format!("{label} closed the connection before TLS; check host and port"))
        }
        failure => failure,
    };
    let mut stream = Stream::new(tcp, watch::Sender::new(Instant::now()));
    stream.open(&target.domain, limits::STANZA_BYTES_STRANGER);
    // Both at once: one round trip less. A server that offers no TLS refuses the second, and then we leave.
    stream.queue(&Element::new("starttls", NS_TLS).to_text());
    let features = stream.features().await.map_err(broken)?;
    if features.find("starttls", NS_TLS).is_none() {
        return Err(Failure::unsuitable(format!(
            "{label} offers no TLS, and nothing is sent to it in clear; ask its operator for TLS"
        )));
    }
    let answer = stream.stanza().await.map_err(broken)?;
    if !answer.is("proceed", NS_TLS) {
        return Err(Failure::unsuitable(format!(
            "{label} refused to start TLS; ask its operator"
        )));
    }
    let tcp = stream.into_inner().ok_or_else(|| {
        Failure::impostor(format!(
            "{label} sent data in clear that belongs under TLS: somebody sits between; try another network"
        ))
    })?;
    handshake(tcp, label, target, roots, false).await
}
