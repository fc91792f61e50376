//! Finds out what a site really does, as a prober of RFC 5780 would, and whether two sites can punch holes to each other.
//!
//! Nothing of IPOP is in it: it is what the rig is held against.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::oracle::{Behaviour, Kind, Udp};
use crate::{Failure, Host};

/// A first port and another, on each of two addresses.
const PORTS: [u16; 2] = [4000, 4001];
const TCP_PORTS: [u16; 2] = [80, 443];
/// How long an answer may take. The wires have no length and nothing is lost: this is for a busy machine.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long two hosts try to reach each other before they are held to be unable to.
const PUNCH_PATIENCE: Duration = Duration::from_secs(3);

/// Where the answer is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Same = 0,
    OtherPort = 1,
    OtherAddress = 2,
}

/// Answers on both addresses and ports of each family of a server's site.
pub struct Echo {
    addresses: Vec<IpAddr>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _tcp: Vec<TcpListener>,
}

impl Echo {
    /// Starts on a host at `Site::Server`.
    pub fn start(host: &Host) -> Result<Self, Failure> {
        let failure = |e: io::Error| Failure::system("start the prober's server", e);
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut tcp) = (Vec::new(), Vec::new());
        for ipv4 in [true, false] {
            let addresses: Vec<IpAddr> = host
                .addresses()
                .iter()
                .copied()
                .filter(|a| a.is_ipv4() == ipv4)
                .collect();
            let bound = host.inside(|| bind_all(&addresses))?.map_err(failure)?;
            tcp.extend(host.inside(|| listen_all(&addresses))?.map_err(failure)?);
            let sockets = Arc::new(bound);
            for own in 0..sockets.len() {
                let (sockets, stop) = (Arc::clone(&sockets), Arc::clone(&stop));
                threads.push(std::thread::spawn(move || answer(&sockets, own, &stop)));
            }
        }
        Ok(Self {
            addresses: host.addresses().to_vec(),
            stop,
            threads,
            _tcp: tcp,
        })
    }

    fn at(&self, ipv4: bool, address: usize, port: usize) -> Option<SocketAddr> {
        let address = self.addresses.iter().filter(|a| a.is_ipv4() == ipv4).nth(address)?;
        Some(SocketAddr::new(*address, PORTS[port]))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bind_all(addresses: &[IpAddr]) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for address in addresses {
        for port in PORTS {
            let socket = UdpSocket::bind((*address, port))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

fn listen_all(addresses: &[IpAddr]) -> io::Result<Vec<TcpListener>> {
    let first = addresses.first().copied();
    first
        .into_iter()
        .flat_map(|address| TCP_PORTS.map(|port| TcpListener::bind((address, port))))
        .collect()
}

/// A request is a number that the answer repeats, and where the answer is to come from.
fn answer(sockets: &[UdpSocket], own: usize, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = sockets[own].recv_from(&mut buffer) else {
            continue;
        };
        let [number @ .., wish] = &buffer[..length] else {
            continue;
        };
        // Sockets stand in the order address 1 (port 1, port 2), address 2 (port 1, port 2).
        let through = own ^ [0, 1, 2][usize::from(*wish).min(2)];
        let reply = [number, from.to_string().as_bytes()].concat();
        // A site that lost its address meanwhile is no fault of the server's.
        let _ = sockets[through].send_to(&reply, from);
    }
}

/// One socket at the site in question.
struct Client(UdpSocket);

impl Client {
    fn bind(host: &Host, ipv4: bool) -> Result<Self, Failure> {
        let failure = |e: io::Error| Failure::system("open the prober's socket", e);
        let any: SocketAddr = if ipv4 {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let socket = host.inside(|| UdpSocket::bind(any))?.map_err(failure)?;
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .map_err(failure)?;
        Ok(Self(socket))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().map_or(0, |address| address.port())
    }

    /// The address that the server sees, if an answer comes.
    fn ask(&self, server: SocketAddr, from: From) -> Option<SocketAddr> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // A firewall of the kernel says EPERM, a missing route ENETUNREACH: no answer either way.
        self.0.send_to(&[&number[..], &[from as u8]].concat(), server).ok()?;
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 128];
        while Instant::now() < deadline {
            let Ok((length, _)) = self.0.recv_from(&mut buffer) else {
                continue;
            };
            if let Some(text) = buffer[..length].strip_prefix(&number[..]) {
                return std::str::from_utf8(text).ok()?.parse().ok();
            }
        }
        None
    }

    fn hears(&self, text: &[u8]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 128];
        while Instant::now() < deadline {
            if self
                .0
                .recv_from(&mut buffer)
                .is_ok_and(|(length, _)| &buffer[..length] == text)
            {
                return true;
            }
        }
        false
    }
}

/// Finds out what the host's site does, over IPv4 where it has it.
pub fn behaviour(host: &Host, echo: &Echo) -> Result<Behaviour, Failure> {
    let ipv4 = host.site().ipv4();
    let at = |address, port| {
        echo.at(ipv4, address, port)
            .ok_or_else(|| Failure::Unexpected("the server lacks an address".into()))
    };
    let (first, other_port, other_address) = (at(0, 0)?, at(0, 1)?, at(1, 0)?);
    let connects =
        |port| host.inside(|| TcpStream::connect_timeout(&SocketAddr::new(first.ip(), port), PATIENCE).is_ok());
    let (any_tcp, tcp_443) = (connects(TCP_PORTS[0])?, connects(TCP_PORTS[1])?);
    let client = Client::bind(host, ipv4)?;
    let Some(seen) = client.ask(first, From::Same) else {
        return Ok(Behaviour {
            udp: None,
            any_tcp,
            tcp_443,
        });
    };
    let mapping = match (
        client.ask(other_port, From::Same),
        client.ask(other_address, From::Same),
    ) {
        (Some(b), Some(c)) if b == seen && c == seen => Kind::EndpointIndependent,
        (Some(b), Some(_)) if b == seen => Kind::AddressDependent,
        _ => Kind::AddressAndPortDependent,
    };
    // A socket for each question, as each of its datagrams opens the NAT a bit further.
    let filtering = if Client::bind(host, ipv4)?.ask(first, From::OtherAddress).is_some() {
        Kind::EndpointIndependent
    } else if Client::bind(host, ipv4)?.ask(first, From::OtherPort).is_some() {
        Kind::AddressDependent
    } else {
        Kind::AddressAndPortDependent
    };
    let translated = !host.addresses().contains(&seen.ip());
    let port_kept = seen.port() == client.port();
    let text = b"to my own public address";
    let sent = Client::bind(host, ipv4)?.0.send_to(text, seen).is_ok();
    let hairpin = sent && client.hears(text);
    Ok(Behaviour {
        udp: Some(Udp {
            translated,
            mapping,
            filtering,
            port_kept,
            hairpin,
        }),
        any_tcp,
        tcp_443,
    })
}

/// Whether two hosts reach each other when both send at once, to all addresses of the other and whence it was heard.
pub fn punch(a: &Host, b: &Host, echo: &Echo) -> Result<bool, Failure> {
    for ipv4 in [true, false] {
        if !(a.site(), b.site()).0.has(ipv4) || !b.site().has(ipv4) {
            continue;
        }
        let server = echo
            .at(ipv4, 0, 0)
            .ok_or_else(|| Failure::Unexpected("the server lacks an address".into()))?;
        let (at_a, at_b) = (Client::bind(a, ipv4)?, Client::bind(b, ipv4)?);
        let (of_a, of_b) = (candidates(a, &at_a, server), candidates(b, &at_b, server));
        let answered = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| knock(&at_a, of_b, &answered));
            scope.spawn(|| knock(&at_b, of_a, &answered));
        });
        if answered.into_inner() == 2 {
            return Ok(true);
        }
    }
    Ok(false)
}

impl crate::Site {
    fn has(self, ipv4: bool) -> bool {
        if ipv4 { self.ipv4() } else { self.ipv6() }
    }
}

fn candidates(host: &Host, client: &Client, server: SocketAddr) -> BTreeSet<SocketAddr> {
    let own = host
        .addresses()
        .iter()
        .filter(|a| a.is_ipv4() == server.is_ipv4())
        .map(|a| SocketAddr::new(*a, client.port()));
    own.chain(client.ask(server, From::Same)).collect()
}

/// Sends to all and whoever answers, until both hosts have `answered` or their time is over.
fn knock(client: &Client, mut targets: BTreeSet<SocketAddr>, answered: &AtomicU32) {
    let deadline = Instant::now() + PUNCH_PATIENCE;
    let is_over = || answered.load(Ordering::Relaxed) == 2 || Instant::now() >= deadline;
    let mut was_answered = false;
    let mut buffer = [0; 16];
    while !is_over() {
        for target in &targets {
            let _ = client.0.send_to(b"knock", target);
        }
        // Its time-out is the pause between knocks.
        while let Ok((length, from)) = client.0.recv_from(&mut buffer) {
            targets.insert(from);
            match &buffer[..length] {
                b"knock" => _ = client.0.send_to(b"come in", from),
                b"come in" if !was_answered => {
                    was_answered = true;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
            if is_over() {
                break;
            }
        }
    }
}
