//! How fast datagrams move between two socket pairs over loopback, in a namespace of its own.
//!
//! `cargo run --release -p os --example throughput [SEGMENT_SIZE] [SEGMENTS]` (as root).

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use os::{Batch, UdpConfig, UdpSockets};

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|n| n.parse::<usize>());
    let size = numbers.next().transpose()?.unwrap_or(1350);
    let segments = numbers.next().transpose()?.unwrap_or(48);
    os::netns::run_in_new(|| measure(size, segments).map_err(|e| e.to_string()))??;
    Ok(())
}

fn measure(size: usize, segments: usize) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = (
        UdpSockets::bind(&UdpConfig::default())?,
        UdpSockets::bind(&UdpConfig::default())?,
    );
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.port()));
    let bytes = vec![0; size * segments];
    let start = Instant::now();
    let sent = std::thread::scope(|scope| {
        let received = scope.spawn(|| receive(&receiver));
        let mut sent = 0;
        while start.elapsed() < Duration::from_secs(2) && sender.send_segments(None, to, &bytes, size).is_ok() {
            sent += bytes.len();
        }
        let seconds = start.elapsed().as_secs_f64();
        receiver.waker().wake();
        let received = received.join().unwrap_or(0);
        println!(
            "{segments} x {size} B: sent {:.1} Gbit/s, received {:.1} Gbit/s",
            gbit(sent, seconds),
            gbit(received, seconds)
        );
        sent
    });
    println!(
        "{:?}, {} MB sent, memory {} kB",
        sender.counts(),
        sent / 1_000_000,
        os::memory_in_use()? / 1024
    );
    Ok(())
}

fn receive(sockets: &UdpSockets) -> usize {
    let mut batch = Batch::new(8);
    let mut received = 0;
    while sockets.recv_batch(&mut batch, None).is_ok() {
        received += batch.datagrams().map(|d| d.bytes.len()).sum::<usize>();
    }
    received
}

fn gbit(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 * 8.0 / seconds / 1e9
}
