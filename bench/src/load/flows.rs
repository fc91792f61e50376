//! Datagrams as QUIC programs send them: many of one size with one system call, which the kernel keeps together as far as it can.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lab::Host;
use os::{Batch, UdpConfig, UdpSockets};

use super::search::{Trial, best, paced};
use super::{DRAIN, RECEIVE_BUFFER};

/// Bytes of each: what QUIC begins with (RFC 9000 section 14.1).
const DATAGRAM: usize = 1200;
/// Datagrams of one system call: 19 kB, as quinn and others send.
const TOGETHER: usize = 16;
/// Flows, each with a port of its own, that take turns.
const FLOWS: usize = 4;
/// More than any veth carries, datagrams a second: the first try of a search.
const MOST: f64 = 4.0e6;
/// Buffers of 64 KiB for one receiving system call.
const BUFFERS: usize = 8;

/// Gigabit of payload a second that arrive when as much is sent as can be with no more than 1 % lost.
pub(crate) fn flows(hosts: &[Host; 2], target: IpAddr, span: Duration) -> anyhow::Result<f64> {
    let config = UdpConfig {
        buffer: RECEIVE_BUFFER,
        ..UdpConfig::default()
    };
    let sink = hosts[1].inside(|| UdpSockets::bind(&config))?.context("cannot bind")?;
    let sources = (0..FLOWS)
        .map(|_| hosts[0].inside(|| UdpSockets::bind(&config))?.context("cannot bind"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let target = SocketAddr::new(target, sink.port());
    let datagrams = best(MOST, |offered| at(&sources, &sink, target, offered, span))?;
    Ok(datagrams * DATAGRAM as f64 * 8.0 / 1e9)
}

fn at(
    sources: &[UdpSockets],
    sink: &UdpSockets,
    target: SocketAddr,
    offered: f64,
    span: Duration,
) -> anyhow::Result<Trial> {
    let (over, bytes) = (AtomicBool::new(false), vec![0; TOGETHER * DATAGRAM]);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| count(sink, &over));
        let start = Instant::now();
        let sent = paced(offered / TOGETHER as f64, span, 1, |number| {
            sources[number as usize % FLOWS].send_segments(None, target, &bytes, DATAGRAM)
        });
        let elapsed = start.elapsed();
        over.store(true, Relaxed);
        let Ok(received) = receiver.join() else {
            bail!("a receiver failed");
        };
        Ok(Trial::new(sent? * TOGETHER as u64, received?, elapsed))
    })
}

/// Counts what arrives until a while after the end.
fn count(sink: &UdpSockets, over: &AtomicBool) -> io::Result<u64> {
    let (mut batch, mut received) = (Batch::new(BUFFERS), 0);
    loop {
        if sink.recv_batch(&mut batch, Some(DRAIN))? {
            received += batch
                .datagrams()
                .filter(|datagram| datagram.bytes.len() == DATAGRAM)
                .count() as u64;
        } else if over.load(Relaxed) {
            return Ok(received);
        }
    }
}
