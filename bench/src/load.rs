//! Loads: what a pair of hosts is made to carry, and what came through.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
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
/// Bytes of each datagram of a flood.
const DATAGRAM: usize = 64;
/// As large a receive buffer as a program can have without asking the administrator.
const RECEIVE_BUFFER: usize = 4 << 20;
/// More than any veth carries: the first try of a search.
const FLOOD_MAX: f64 = 2.0e6;
/// What may be lost of a flood.
const LOSS: f64 = 0.01;
/// A search ends when the rates that pass and fail are this close.
const CLOSE: f64 = 1.06;
/// Tries of a search at most.
const TRIES: usize = 10;
/// When nothing came for so long, nothing is on the way any more.
const DRAIN: Duration = Duration::from_millis(200);

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

/// Small datagrams a second that arrive when as many are sent as can be with no more than 1 % lost.
pub(crate) fn flood(hosts: &[Host; 2], target: IpAddr, span: Duration) -> anyhow::Result<f64> {
    let sink = hosts[1]
        .inside(|| UdpSocket::bind((target, 0)))?
        .context("cannot bind")?;
    socket2::SockRef::from(&sink)
        .set_recv_buffer_size(RECEIVE_BUFFER)
        .context("cannot set a buffer's size")?;
    let address = sink.local_addr().context("a socket has an address")?;
    let any: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let source = hosts[0].inside(|| UdpSocket::bind(any))?.context("cannot bind")?;
    source
        .connect(address)
        .with_context(|| format!("cannot reach {address}"))?;
    let mut failure = None;
    let rate = search(|offered| {
        flood_at(&source, &sink, offered, span).unwrap_or_else(|error| {
            failure = Some(error);
            Trial {
                delivered: 0.0,
                lost: 1.0,
            }
        })
    });
    match (failure, rate) {
        (Some(error), _) => Err(error),
        (None, Some(rate)) => Ok(rate),
        (None, None) => bail!("at every rate more than 1 % is lost"),
    }
}

/// What came of a flood.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// A second.
    delivered: f64,
    /// 0 to 1.
    lost: f64,
}

/// The most that is delivered at an offered rate with little loss.
fn search(mut trial: impl FnMut(f64) -> Trial) -> Option<f64> {
    let (mut good, mut best) = (None::<f64>, None::<f64>);
    let (mut bad, mut offered) = (FLOOD_MAX * CLOSE, FLOOD_MAX);
    for _ in 0..TRIES {
        let seen = trial(offered);
        if seen.lost <= LOSS {
            best = Some(best.map_or(seen.delivered, |best| best.max(seen.delivered)));
            // A sender at its own limit offers no more, whatever it is asked.
            if seen.delivered < offered * 0.9 {
                break;
            }
            good = Some(offered);
        } else {
            bad = offered;
        }
        offered = match good {
            None => (seen.delivered * 0.95).min(bad * 0.7).max(1.0),
            Some(good) if bad / good < CLOSE => break,
            Some(good) => (good * bad).sqrt(),
        };
    }
    best
}

fn flood_at(source: &UdpSocket, sink: &UdpSocket, offered: f64, span: Duration) -> anyhow::Result<Trial> {
    sink.set_read_timeout(Some(DRAIN)).context("cannot set a timeout")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| count(sink, &over));
        let start = Instant::now();
        let sent = send_paced(source, offered, span);
        let elapsed = start.elapsed();
        over.store(true, Relaxed);
        let received = receiver.join().unwrap_or_default();
        let sent = sent?;
        Ok(Trial {
            delivered: received as f64 / elapsed.as_secs_f64(),
            lost: 1.0 - received as f64 / sent.max(1) as f64,
        })
    })
}

fn send_paced(source: &UdpSocket, offered: f64, span: Duration) -> anyhow::Result<u64> {
    let (datagram, start, mut sent) = ([0; DATAGRAM], Instant::now(), 0u64);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= span {
            return Ok(sent);
        }
        let due = (offered * elapsed.as_secs_f64()) as u64;
        if sent >= due {
            sleep(Duration::from_micros(50));
            continue;
        }
        // A look at the clock costs as much as a datagram: a few of those that are due go out after each.
        for _ in 0..(due - sent).min(16) {
            match source.send(&datagram) {
                Ok(_) => sent += 1,
                // Full queues lose, as they do for any program.
                Err(error) if matches!(error.raw_os_error(), Some(ENOBUFS)) => sent += 1,
                Err(error) => return Err(error).context("cannot send a datagram"),
            }
        }
    }
}

/// No buffer space available, on Linux.
const ENOBUFS: i32 = 105;

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

/// Round trips of pings with pauses between them, milliseconds.
pub(crate) fn round_trips(host: &Host, target: IpAddr, count: usize) -> anyhow::Result<Vec<f64>> {
    let text = host.run(
        "ping",
        &["-n", "-c", &count.to_string(), "-i", "0.005", &target.to_string()],
    )?;
    Ok(times(&text))
}

/// The times in what ping prints.
fn times(text: &str) -> Vec<f64> {
    text.lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_what_a_path_carries() {
        // A path of 300,000 a second, which loses what is more.
        let path = |offered: f64| {
            let delivered = offered.min(300_000.0);
            Trial {
                delivered,
                lost: 1.0 - delivered / offered,
            }
        };
        let found = search(path).unwrap();
        assert!((280_000.0..=303_000.0).contains(&found), "{found}");
    }

    #[test]
    fn a_search_stops_where_the_sender_does() {
        let mut tries = 0;
        let found = search(|_| {
            tries += 1;
            Trial {
                delivered: 700_000.0,
                lost: 0.0,
            }
        });
        assert_eq!((found, tries), (Some(700_000.0), 1));
    }

    #[test]
    fn a_path_that_always_loses_has_no_rate() {
        assert_eq!(
            search(|offered| Trial {
                delivered: offered * 0.9,
                lost: 0.1
            }),
            None
        );
    }

    #[test]
    fn pings_lines_are_read() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.045 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=40.1 ms\n\n\
                    --- 10.0.0.2 ping statistics ---\n\
                    2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n";
        assert_eq!(times(text), [0.045, 40.1]);
    }
}
