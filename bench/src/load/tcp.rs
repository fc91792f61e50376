//! TCP: streams that carry all they can, and requests with answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lab::Host;

/// How much a stream gives the kernel in one call.
const CHUNK: usize = 256 << 10;
/// A stream runs so long before it counts: slow start is over by then.
const WARM_UP: Duration = Duration::from_millis(700);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What some streams carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) span: Duration,
}

impl Carried {
    pub(crate) fn gigabit_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.span.as_secs_f64()
    }
}

/// TCP streams from the first host to the second: what they carried while `meanwhile` ran, and what that gave.
pub(crate) fn streams<T>(
    hosts: &[Host; 2],
    target: IpAddr,
    count: usize,
    meanwhile: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Carried, T)> {
    let pairs = (0..count)
        .map(|_| connection(hosts, target))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (received, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for (source, sink) in &pairs {
            scope.spawn(|| send_on(source, &over));
            scope.spawn(|| receive_on(sink, &received));
        }
        sleep(WARM_UP);
        let (start, before) = (Instant::now(), received.load(Relaxed));
        let given = meanwhile();
        let carried = Carried {
            bytes: received.load(Relaxed) - before,
            span: start.elapsed(),
        };
        over.store(true, Relaxed);
        for (source, sink) in &pairs {
            // A stream that is closed already has no end to be closed.
            let _ = (source.shutdown(Shutdown::Both), sink.shutdown(Shutdown::Both));
        }
        if carried.bytes == 0 {
            bail!("nothing came through");
        }
        Ok((carried, given?))
    })
}

fn send_on(mut stream: &TcpStream, over: &AtomicBool) {
    let chunk = vec![0; CHUNK];
    while !over.load(Relaxed) && stream.write_all(&chunk).is_ok() {}
}

fn receive_on(mut stream: &TcpStream, received: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => received.fetch_add(count as u64, Relaxed),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
    }
}

/// Segments that a host has sent again so far (proc_pid_net(5): snmp shows those of the thread's namespace).
pub(crate) fn retransmits(host: &Host) -> anyhow::Result<u64> {
    let text = host.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let text = text.context("read the kernel's counts of TCP")?;
    retransmitted(&text).context("the kernel counts no TCP segments that were sent again")
}

fn retransmitted(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == "RetransSegs")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// A connection from the first host to the second: its two ends.
fn connection(hosts: &[Host; 2], target: IpAddr) -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = hosts[1]
        .inside(|| TcpListener::bind((target, 0)))?
        .context("cannot listen")?;
    let address = listener.local_addr().context("a listener has an address")?;
    let client = hosts[0].inside(|| TcpStream::connect_timeout(&address, CONNECT_WITHIN))?;
    let client = client.with_context(|| format!("cannot connect to {address}"))?;
    let (server, _) = listener.accept().context("cannot accept")?;
    Ok((client, server))
}

/// Requests of one byte that were answered by one byte, each after the other, in a second.
pub(crate) fn requests(hosts: &[Host; 2], target: IpAddr, span: Duration) -> anyhow::Result<f64> {
    let (mut client, mut server) = connection(hosts, target)?;
    for end in [&client, &server] {
        end.set_nodelay(true)
            .and_then(|()| end.set_read_timeout(Some(CONNECT_WITHIN)))
            .context("cannot set up")?;
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            while server.read_exact(&mut byte).is_ok() && server.write_all(&byte).is_ok() {}
        });
        let (start, mut count, mut byte) = (Instant::now(), 0u64, [0]);
        while start.elapsed() < span {
            client
                .write_all(&byte)
                .and_then(|()| client.read_exact(&mut byte))
                .context("no answer")?;
            count += 1;
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        drop(client);
        Ok(rate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_sent_again_are_found_by_name() {
        let text =
            "Ip: Forwarding\nIp: 1\nTcp: InSegs OutSegs RetransSegs InErrs\nTcp: 10 20 7 0\nUdp: InErrors\nUdp: 9\n";
        assert_eq!(retransmitted(text), Some(7));
        assert_eq!(retransmitted("Udp: InErrors\nUdp: 9\n"), None);
    }
}
