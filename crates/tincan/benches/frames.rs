//! Nanoseconds a frame takes, step by step: `cargo bench -p tincan --bench frames`.
//!
//! One thread, everything in the cache; what a system call or another core costs is not in here.

#[path = "../tests/ends/mod.rs"]
mod ends;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ends::{Ends, NETWORK, buffer, outside};
use tincan::fast::{HEADROOM, Inbound, inbound, outbound};
use tincan::frame::Frame;
use tincan::record::{Cipher, HEADER, Header, Lane};
use tincan::replay::Window;

const LENGTHS: [usize; 2] = [64, 1400];
/// Links in the tables beside the one in use.
const OTHERS: [u16; 2] = [0, 500];
/// Records sealed ahead, so that only opening is timed; the cache holds them.
const BATCH: u64 = 64;

fn ciphers() -> [(&'static str, Cipher); 2] {
    [
        ("aes-256-gcm", Cipher::Aes256Gcm),
        ("chacha20-poly1305", Cipher::ChaCha20Poly1305),
    ]
}

fn records(c: &mut Criterion) {
    for (name, cipher) in ciphers() {
        let mut group = c.benchmark_group(format!("record/{name}"));
        for length in LENGTHS {
            group.throughput(Throughput::Bytes(length as u64));
            let ends = Ends::new(cipher, 0);
            let sealer = ends.ann.links[0].as_ref().expect("a link").sealer.clone();
            let mut lane = Lane::new(1).expect("lane 1 exists");
            let mut room = buffer(length);
            group.bench_function(BenchmarkId::new("seal", length), |b| {
                b.iter(|| sealer.seal(&mut lane, black_box(&mut room[HEADROOM - HEADER..])));
            });
            let opener = ends.bob.receivers[0].keys.clone();
            group.bench_function(BenchmarkId::new("open", length), |b| {
                b.iter_custom(|count| {
                    let fill = |room: &mut Vec<u8>| {
                        sealer.seal(&mut lane, &mut room[HEADROOM - HEADER..]).expect("sealed");
                    };
                    in_batches(count, length, fill, |room| {
                        assert!(opener.open(black_box(&mut room[HEADROOM - HEADER..])).is_ok());
                    })
                });
            });
        }
        group.finish();
    }
}

fn ways(c: &mut Criterion) {
    for others in OTHERS {
        let mut group = c.benchmark_group(format!("way/{}-links", others + 1));
        for length in LENGTHS {
            group.throughput(Throughput::Bytes(length as u64));
            let mut ends = Ends::new(Cipher::Aes256Gcm, others);
            let fresh = buffer(length);
            let mut room = fresh.clone();
            group.bench_function(BenchmarkId::new("outbound", length), |b| {
                b.iter(|| {
                    // Sealing replaced the header that routing reads: 20 bytes are put back each time.
                    room[HEADROOM..HEADROOM + 20].copy_from_slice(&fresh[HEADROOM..HEADROOM + 20]);
                    outbound(&ends.ann, &mut ends.lanes, NETWORK, black_box(&mut room))
                });
            });
            let bob = ends.bob.clone();
            group.bench_function(BenchmarkId::new("inbound", length), |b| {
                b.iter_custom(|count| {
                    let fill = |room: &mut Vec<u8>| {
                        room.copy_from_slice(&fresh);
                        ends.seal(room);
                    };
                    in_batches(count, length, fill, |room| {
                        let opened = inbound(&bob, outside(1), black_box(&mut room[HEADROOM - HEADER..]));
                        assert!(matches!(opened, Inbound::Frame { .. }));
                    })
                });
            });
        }
        group.finish();
    }
}

/// Times `open` alone, over records that `fill` makes in between.
fn in_batches(
    count: u64,
    length: usize,
    mut fill: impl FnMut(&mut Vec<u8>),
    mut open: impl FnMut(&mut Vec<u8>),
) -> Duration {
    let mut rooms: Vec<_> = (0..BATCH).map(|_| buffer(length)).collect();
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let now = left.min(BATCH) as usize;
        rooms[..now].iter_mut().for_each(&mut fill);
        let start = Instant::now();
        rooms[..now].iter_mut().for_each(&mut open);
        time += start.elapsed();
        left -= now as u64;
    }
    time
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    let frame = buffer(64);
    group.bench_function("parse frame", |b| {
        b.iter(|| Frame::parse(black_box(&frame[HEADROOM..HEADROOM + 64])))
    });
    for others in OTHERS {
        let ends = Ends::new(Cipher::Aes256Gcm, others);
        let route = Frame::parse(&frame[HEADROOM..HEADROOM + 64])
            .expect("a frame")
            .destination;
        let net = ends.ann.network(NETWORK).expect("the network").clone();
        group.bench_function(BenchmarkId::new("route", others + 1), |b| {
            b.iter(|| net.route(black_box(route)))
        });
        let mut lane_ends = Ends::new(Cipher::Aes256Gcm, others);
        let mut room = buffer(64);
        let range = lane_ends.seal(&mut room);
        let index = Header::parse(&room[range]).expect("a record").receiver;
        group.bench_function(BenchmarkId::new("receiver", others + 1), |b| {
            b.iter(|| ends.bob.receiver(black_box(index)).is_some());
        });
    }
    let window = Window::new();
    let mut counter = 0;
    group.bench_function("replay, in order", |b| {
        b.iter(|| {
            counter += 1;
            window.may_accept(black_box(counter)) && window.mark(counter)
        });
    });
    group.bench_function("replay, refused", |b| b.iter(|| window.may_accept(black_box(counter))));
    group.finish();
}

criterion_group!(benches, steps, records, ways);
criterion_main!(benches);
