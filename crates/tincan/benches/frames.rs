//! Nanoseconds a frame takes, step by step: `cargo bench -p tincan --bench frames`.
//!
//! One thread, everything in the cache; what a system call or another core costs is not in here.

#[path = "../tests/ends/mod.rs"]
mod ends;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ends::{Ends, NETWORK, buffer, outside};
use tincan::fast::merge::{Merger, Takes};
use tincan::fast::slice::{Kind, Partial, Shape, Slices};
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
                        assert!(matches!(opened, Inbound::Frames { .. }));
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

/// What a NIC with an MTU of 1400 is given at a time: frames of one flow, with 12 bytes of TCP options as with time stamps.
const SEGMENT: usize = 1400 - 52;
const UDP_SEGMENT: usize = 1400 - 28;
const JOINED: usize = 45;

/// A joined frame of a flow, and how it is to be cut.
fn joined(kind: Kind) -> (Shape, Vec<u8>) {
    let (segment, headers, protocol, offset) = match kind {
        Kind::Tcp => (SEGMENT, 52, 6, 16),
        Kind::Udp | Kind::Whole => (UDP_SEGMENT, 28, 17, 6),
    };
    let mut frame = vec![0x5a; headers + JOINED * segment];
    frame[..headers].fill(0);
    let length = u16::try_from(frame.len()).expect("it fits an IPv4 frame");
    frame[0] = 0x45;
    frame[2..4].copy_from_slice(&length.to_be_bytes());
    frame[8..10].copy_from_slice(&[64, protocol]);
    frame[12..20].copy_from_slice(&[10, 5, 0, 1, 10, 5, 0, 2]);
    frame[20..24].copy_from_slice(&[0x30, 0x39, 0x01, 0xbb]);
    match kind {
        // 32 bytes of header, ACK; two NOPs and a time stamp.
        Kind::Tcp => {
            frame[32..34].copy_from_slice(&[0x80, 0x10]);
            frame[40..44].copy_from_slice(&[1, 1, 8, 10]);
        }
        Kind::Udp | Kind::Whole => frame[24..26].copy_from_slice(&(length - 20).to_be_bytes()),
    }
    let shape = Shape {
        kind,
        segment: u16::try_from(segment).expect("less than a frame"),
        partial: Some(Partial { start: 20, offset }),
    };
    (shape, frame)
}

/// The pieces, side by side, and the bytes of each.
fn cut((shape, frame): &(Shape, Vec<u8>), out: &mut Vec<u8>) -> usize {
    let mut slices = Slices::new(shape, frame).expect("a joined frame");
    let each = slices.largest();
    out.resize(JOINED * each, 0);
    for piece in out.chunks_mut(each) {
        slices.write(piece);
    }
    each
}

/// Time of as many frames as asked for, when `work` does a whole joined frame and `prepare`, untimed, goes before.
fn a_frame(count: u64, mut prepare: impl FnMut(), mut work: impl FnMut()) -> Duration {
    let times = count.div_ceil(JOINED as u64);
    let mut time = Duration::ZERO;
    for _ in 0..times {
        prepare();
        let start = Instant::now();
        work();
        time += start.elapsed();
    }
    time.mul_f64(count as f64 / (times * JOINED as u64) as f64)
}

/// Of a frame among the 45 that are one: cutting and joining, checksums unfinished.
fn cutting(c: &mut Criterion) {
    for (name, kind) in [("tcp", Kind::Tcp), ("udp", Kind::Udp)] {
        let mut group = c.benchmark_group(format!("cut/{name}"));
        let whole = joined(kind);
        let mut pieces = Vec::new();
        let each = cut(&whole, &mut pieces);
        group.throughput(Throughput::Bytes(each as u64));
        group.bench_function(BenchmarkId::new("slice", each), |b| {
            b.iter_custom(|count| {
                a_frame(
                    count,
                    || (),
                    || {
                        cut(black_box(&whole), &mut pieces);
                    },
                )
            });
        });
        let takes = Takes {
            tcp: true,
            udp: true,
            unfinished: true,
        };
        let mut merger = Merger::default();
        let mut memory = pieces.clone();
        group.bench_function(BenchmarkId::new("merge", each), |b| {
            let memory = std::cell::RefCell::new(&mut memory);
            b.iter_custom(|count| {
                // Joining wrote the headers of the first.
                let prepare = || memory.borrow_mut()[..each].copy_from_slice(&pieces[..each]);
                a_frame(count, prepare, || {
                    let mut memory = memory.borrow_mut();
                    for start in (0..JOINED * each).step_by(each) {
                        merger.push(&memory, start..start + each, 0, takes);
                    }
                    let mut counts = [0; 2];
                    merger.flush(&mut memory, |_, pieces| counts = [counts[0] + 1, pieces.count()]);
                    assert_eq!(counts, [1, JOINED]);
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, steps, records, cutting, ways);
criterion_main!(benches);
