//! Small datagrams, one a system call, one way or both ways at once.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lab::Host;

use super::DRAIN;
use super::search::{Trial, best, paced};

/// Bytes of each.
const DATAGRAM: usize = 64;
/// As large a receive buffer as a program can have without asking the administrator.
const RECEIVE_BUFFER: usize = 4 << 20;
/// More than any veth carries: the first try of a search.
const MOST: f64 = 2.0e6;
/// A look at the clock costs as much as a datagram: so many of those that are due go out after each.
const AT_ONCE: u64 = 16;
/// Tries to get a first datagram through.
const GREETINGS: usize = 20;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The first host.
    There,
    /// Both at once, at the same rate.
    Both,
}

/// Datagrams a second that arrive, of both directions together, when as many are sent as can be with no more than 1 % lost
/// in either.
pub(crate) fn flood(hosts: &[Host; 2], target: IpAddr, direction: Direction, span: Duration) -> anyhow::Result<f64> {
    let [near, far] = pair(hosts, target)?;
    best(MOST, |offered| match direction {
        Direction::There => at(&near, &far, offered, span),
        Direction::Both => thread::scope(|scope| {
            let back = scope.spawn(|| at(&far, &near, offered / 2.0, span));
            let there = at(&near, &far, offered / 2.0, span)?;
            let Ok(back) = back.join() else {
                bail!("a sender failed");
            };
            let back = back?;
            Ok(Trial {
                delivered: there.delivered + back.delivered,
                lost: there.lost.max(back.lost),
            })
        }),
    })
}

/// Two sockets, each connected to the other.
fn pair(hosts: &[Host; 2], target: IpAddr) -> anyhow::Result<[UdpSocket; 2]> {
    let far = hosts[1]
        .inside(|| UdpSocket::bind((target, 0)))?
        .context("cannot bind")?;
    let address = far.local_addr().context("a socket has an address")?;
    let any: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let near = hosts[0].inside(|| UdpSocket::bind(any))?.context("cannot bind")?;
    near.connect(address)
        .with_context(|| format!("cannot reach {address}"))?;
    for socket in [&near, &far] {
        socket2::SockRef::from(socket)
            .set_recv_buffer_size(RECEIVE_BUFFER)
            .context("cannot set a buffer's size")?;
        socket.set_read_timeout(Some(DRAIN)).context("cannot set a timeout")?;
    }
    // The first to arrive tells whence the others will come.
    for _ in 0..GREETINGS {
        near.send(&[0; DATAGRAM]).context("cannot send a datagram")?;
        if let Ok((_, whence)) = far.recv_from(&mut [0; 2048]) {
            far.connect(whence)
                .with_context(|| format!("cannot answer to {whence}"))?;
            return Ok([near, far]);
        }
    }
    bail!("no datagram comes through")
}

fn at(source: &UdpSocket, sink: &UdpSocket, offered: f64, span: Duration) -> anyhow::Result<Trial> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| count(sink, &over));
        let start = Instant::now();
        let sent = paced(offered, span, AT_ONCE, |_| source.send(&[0; DATAGRAM]).map(|_| ()));
        let elapsed = start.elapsed();
        over.store(true, Relaxed);
        let received = receiver.join().unwrap_or_default();
        Ok(Trial::new(sent?, received, elapsed))
    })
}

/// Counts what arrives until a while after the end.
fn count(sink: &UdpSocket, over: &AtomicBool) -> u64 {
    let (mut buffer, mut received) = ([0; 2048], 0);
    loop {
        match sink.recv(&mut buffer) {
            Ok(_) => received += 1,
            Err(_) if over.load(Relaxed) => return received,
            Err(_) => {}
        }
    }
}
