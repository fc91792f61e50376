//! Datagrams as QUIC programs send them: many of one size with one system call, which the kernel keeps together as far as it can.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lab::Host;

use super::DRAIN;
use super::search::{Trial, best, paced};
use crate::datagrams::{Datagrams, Room};

/// Bytes of each: what QUIC begins with (RFC 9000 section 14.1).
const DATAGRAM: usize = 1200;
/// Datagrams of one system call: 19 kB, as quinn and others send.
const TOGETHER: usize = 16;
/// Flows, each with a port of its own, that take turns.
const FLOWS: usize = 4;
/// More than any veth carries, datagrams a second: the first try of a search.
const MOST: f64 = 4.0e6;

/// Gigabit of payload a second that arrive when as much is sent as can be with no more than 1 % lost.
pub(crate) fn flows(hosts: &[Host; 2], target: IpAddr, span: Duration) -> anyhow::Result<f64> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let sink = Datagrams::bind(&hosts[1], SocketAddr::new(target, 0))?;
    let target = SocketAddr::new(target, sink.port()?);
    let sources = (0..FLOWS)
        .map(|_| Datagrams::bind(&hosts[0], SocketAddr::new(any, 0)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let datagrams = best(MOST, |offered| at(&sources, &sink, target, offered, span))?;
    Ok(datagrams * DATAGRAM as f64 * 8.0 / 1e9)
}

fn at(
    sources: &[Datagrams],
    sink: &Datagrams,
    target: SocketAddr,
    offered: f64,
    span: Duration,
) -> anyhow::Result<Trial> {
    let (over, bytes) = (AtomicBool::new(false), vec![0; TOGETHER * DATAGRAM]);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| count(sink, &over));
        let start = Instant::now();
        let sent = paced(offered / TOGETHER as f64, span, 1, |number| {
            sources[number as usize % FLOWS].send(None, target, &bytes, DATAGRAM)
        });
        let elapsed = start.elapsed();
        over.store(true, Relaxed);
        let Ok(received) = receiver.join() else {
            bail!("a receiver failed");
        };
        let received = received.context("cannot receive")?;
        Ok(Trial::new(sent? * TOGETHER as u64, received, elapsed))
    })
}

/// Counts what arrives until a while after the end.
fn count(sink: &Datagrams, over: &AtomicBool) -> io::Result<u64> {
    let (mut room, mut received) = (Room::new(), 0);
    loop {
        if sink.try_receive(&mut room)? {
            received += room
                .datagrams()
                .filter(|datagram| datagram.bytes.len() == DATAGRAM)
                .count() as u64;
        } else if os::wait_readable(&[sink.as_fd()], Some(DRAIN))?.is_empty() && over.load(Relaxed) {
            return Ok(received);
        }
    }
}
