use std::net::UdpSocket;

use super::*;
use crate::netns::run_in_new;
use crate::{Nic, NicConfig, NicKind, Prefix};

fn open() -> UdpSockets {
    UdpSockets::bind(&UdpConfig::default()).unwrap()
}

fn loopback(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

/// Waits for what either family brings next.
fn recv(sockets: &UdpSockets, batch: &mut Batch) {
    let families = [Family::V4, Family::V6];
    let waits: Vec<_> = families.iter().filter_map(|f| sockets.descriptor(*f, 0)).collect();
    while !families.iter().any(|f| sockets.try_recv(*f, 0, batch).unwrap()) {
        crate::wait_readable(&waits, None).unwrap();
    }
}

/// (local, remote, length, first byte) of the next `count` datagrams.
fn collect(sockets: &UdpSockets, count: usize) -> Vec<(SocketAddr, SocketAddr, usize, u8)> {
    let mut batch = Batch::new(4);
    let mut all = Vec::new();
    while all.len() < count {
        recv(sockets, &mut batch);
        all.extend(
            batch
                .datagrams()
                .map(|d| (d.local, d.remote, d.bytes.len(), d.bytes[0])),
        );
    }
    all
}

#[test]
fn both_families_share_a_port_and_tell_both_addresses() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        assert!(a.missing(Family::V4).is_none() && a.missing(Family::V6).is_none());
        for family in [Family::V4, Family::V6] {
            let (from, to) = (loopback(family, a.port()), loopback(family, b.port()));
            a.send(None, to, b"hello").unwrap();
            assert_eq!(collect(&b, 1), [(to, from, 5, b'h')]);
            b.send(Some(to.ip()), from, b"answer").unwrap();
            assert_eq!(collect(&a, 1), [(from, to, 6, b'a')]);
        }
    })
    .unwrap();
}

#[test]
fn a_batch_of_segments_arrives_as_the_same_datagrams() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        for family in [Family::V4, Family::V6] {
            assert_eq!(a.max_segments(family), 64);
            let to = loopback(family, b.port());
            // More than one send holds: 150 segments, the last a short one.
            let bytes: Vec<u8> = (0..150u32).flat_map(|i| vec![i as u8; 1200]).chain([150; 7]).collect();
            a.send_segments(None, to, &bytes, 1200).unwrap();
            let found = collect(&b, 151);
            let expected: Vec<_> = (0..=150u8).map(|i| (if i == 150 { 7 } else { 1200 }, i)).collect();
            assert_eq!(found.iter().map(|d| (d.2, d.3)).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|d| d.0 == to && d.1 == loopback(family, a.port())));
        }
        assert_eq!(a.counts(), UdpCounts::default());
    })
    .unwrap();
}

#[test]
fn one_receive_brings_many_datagrams_of_one_sender() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        for family in [Family::V4, Family::V6] {
            a.send_segments(None, loopback(family, b.port()), &[5; 40 * 1300], 1300)
                .unwrap();
            let mut batch = Batch::new(1);
            recv(&b, &mut batch);
            assert_eq!(batch.datagrams().count(), 40);
            assert!(batch.datagrams().all(|d| d.bytes == [5; 1300]));
        }
    })
    .unwrap();
}

#[test]
fn the_source_address_can_be_chosen() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        let to = loopback(Family::V4, b.port());
        for last in [1, 9, 200] {
            let source: IpAddr = Ipv4Addr::new(127, 0, 0, last).into();
            a.send(Some(source), to, b"x").unwrap();
            assert_eq!(collect(&b, 1)[0].1, SocketAddr::new(source, a.port()));
        }
        let other = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 77).into(), b.port());
        a.send(None, other, b"x").unwrap();
        assert_eq!(collect(&b, 1)[0].0, other);
    })
    .unwrap();
}

#[test]
fn a_wrong_source_address_is_an_error_and_segmentation_stays_on() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        let sources = [(Family::V4, "192.0.2.1"), (Family::V6, "2001:db8::1")];
        for (family, source) in sources {
            let to = loopback(family, b.port());
            assert!(a.send_segments(source.parse().ok(), to, &[1; 3000], 1000).is_err());
            assert_eq!(a.max_segments(family), 64);
            a.send_segments(None, to, &[2; 3000], 1000).unwrap();
            assert_eq!(collect(&b, 3).iter().map(|d| d.3).collect::<Vec<_>>(), [2; 3]);
        }
        assert_eq!((a.counts().gso_failures, a.counts().send_errors), (0, 2));
    })
    .unwrap();
}

#[test]
fn segments_go_one_by_one_where_segmentation_fails() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        // Linux refuses (EIO) to segment for a socket that sends without checksums.
        let v4 = a.v4.as_ref().unwrap();
        set_option(&v4.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        a.send_segments(None, loopback(Family::V4, b.port()), &[3; 2500], 1000)
            .unwrap();
        assert_eq!(
            collect(&b, 3).iter().map(|d| d.2).collect::<Vec<_>>(),
            [1000, 1000, 500]
        );
        assert_eq!((a.counts().gso_failures, a.max_segments(Family::V4)), (1, 1));
        a.send_segments(None, loopback(Family::V4, b.port()), &[3; 2500], 1000)
            .unwrap();
        assert_eq!(collect(&b, 3).len(), 3);
        assert_eq!(a.max_segments(Family::V6), 64);
    })
    .unwrap();
}

#[test]
fn too_big_for_the_way_is_an_error_and_never_a_fragment() {
    run_in_new(|| {
        let nic = crate::Nic::create(&crate::NicConfig::new(crate::NicKind::Tun)).unwrap();
        nic.add_address("10.77.0.1/24".parse().unwrap()).unwrap();
        nic.add_address("fd00:77::1/64".parse().unwrap()).unwrap();
        nic.set_up(1280).unwrap();
        let sockets = open();
        for (to, headers) in [("10.77.0.2:9", 28), ("[fd00:77::2]:9", 48)] {
            let to = to.parse().unwrap();
            sockets.send(None, to, &vec![0; 1280 - headers]).unwrap();
            let refusal = sockets.send(None, to, &vec![0; 1281 - headers]).unwrap_err();
            assert!(is_too_big(&refusal), "{refusal}");
        }
        assert!(!is_too_big(&io::ErrorKind::WouldBlock.into()));
    })
    .unwrap();
}

#[test]
fn a_taken_port_is_named() {
    run_in_new(|| {
        for address in ["0.0.0.0:7777", "[::1]:7777"] {
            let taken = UdpSocket::bind(address).unwrap();
            let refusal = UdpSockets::bind(&UdpConfig {
                port: 7777,
                ..UdpConfig::default()
            })
            .err()
            .unwrap();
            assert!(matches!(refusal, Error::PortInUse { port: 7777 }), "{refusal}");
            drop(taken);
        }
        assert_eq!(
            UdpSockets::bind(&UdpConfig {
                port: 7777,
                ..UdpConfig::default()
            })
            .unwrap()
            .port(),
            7777
        );
    })
    .unwrap();
}

#[test]
fn unreachable_remotes_are_errors_of_that_send_only() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        assert!(a.send(None, "192.0.2.1:9".parse().unwrap(), b"x").is_err(), "no route");
        assert!(
            a.send(None, "[2001:db8::1]:9".parse().unwrap(), b"x").is_err(),
            "no route"
        );
        a.send(None, loopback(Family::V4, 9), b"nobody listens there").unwrap();
        a.send(None, loopback(Family::V4, b.port()), b"still fine").unwrap();
        assert_eq!(collect(&b, 1)[0].2, 10);
        b.send(None, loopback(Family::V4, a.port()), b"back").unwrap();
        assert_eq!(collect(&a, 1)[0].2, 4);
        assert_eq!(a.counts().send_errors, 2);
    })
    .unwrap();
}

#[test]
fn buffers_and_marks_are_set() {
    run_in_new(|| {
        let config = UdpConfig {
            mark: Some(0x1909),
            ..UdpConfig::default()
        };
        let sockets = UdpSockets::bind(&config).unwrap();
        for family in [Family::V4, Family::V6] {
            let sizes = sockets.buffers(family).unwrap();
            assert!(sizes.receive >= 7 << 20 && sizes.send >= 7 << 20, "{sizes:?}");
            let socket = sockets.socket(family).as_ref().unwrap();
            assert_eq!(socket.socket.mark().unwrap(), 0x1909);
        }
    })
    .unwrap();
}

#[test]
fn trains_to_several_places_arrive_as_their_datagrams_with_and_without_the_kernels_help() {
    for (gso, gro) in [(true, true), (false, true), (true, false), (false, false)] {
        run_in_new(|| {
            let config = UdpConfig {
                gso,
                gro,
                ..UdpConfig::default()
            };
            let open = || UdpSockets::bind(&config).unwrap();
            let (a, b, c) = (open(), open(), open());
            assert_eq!(a.max_segments(Family::V4) > 1, gso);
            assert_eq!(a.joins_received(Family::V6), gro);
            let bytes: Vec<u8> = (0..5020u32).map(|at| (at / 1000) as u8).collect();
            let source: IpAddr = Ipv4Addr::new(127, 0, 0, 9).into();
            // More trains than one system call takes, of both families, with a source of their own or not.
            let trains: Vec<Train<'_>> = (0..40)
                .map(|number| {
                    let family = if number % 5 == 4 { Family::V6 } else { Family::V4 };
                    let to = if number % 2 == 0 { &b } else { &c };
                    Train {
                        source: (family == Family::V4 && number % 3 == 0).then_some(source),
                        remote: loopback(family, to.port()),
                        bytes: &bytes,
                        segment: 1000,
                    }
                })
                .collect();
            a.send_trains(trains.iter().copied(), |train, error| panic!("{train:?}: {error}"));
            for (sockets, parity) in [(&b, 0), (&c, 1)] {
                let found = collect(sockets, 20 * 6);
                for family in [Family::V4, Family::V6] {
                    let of_family = |address: &SocketAddr| address.is_ipv4() == (family == Family::V4);
                    let found: Vec<_> = found.iter().filter(|d| of_family(&d.0)).collect();
                    let sent = trains.iter().skip(parity).step_by(2).filter(|t| of_family(&t.remote));
                    let expected: Vec<_> = sent.flat_map(|train| (0..6u8).map(move |n| (train, n))).collect();
                    assert_eq!(found.len(), expected.len());
                    for (got, (train, n)) in found.iter().zip(expected) {
                        assert_eq!((got.2, got.3), (if n == 5 { 20 } else { 1000 }, n));
                        assert_eq!(got.1.ip(), train.source.unwrap_or(loopback(family, 0).ip()));
                    }
                }
            }
            assert_eq!(a.counts(), UdpCounts::default());
        })
        .unwrap();
    }
}

#[test]
fn a_train_that_cannot_leave_is_told_and_the_others_leave() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        let to = loopback(Family::V4, b.port());
        let nowhere: SocketAddr = "203.0.113.9:7".parse().unwrap();
        let train = |remote, bytes| Train {
            source: None,
            remote,
            bytes,
            segment: 10,
        };
        let trains = [train(to, &[1; 25][..]), train(nowhere, &[2; 25]), train(to, &[3; 10])];
        let mut failed = Vec::new();
        a.send_trains(trains.into_iter(), |train, error| {
            failed.push((train.remote, error.kind()))
        });
        assert_eq!(failed, [(nowhere, io::ErrorKind::NetworkUnreachable)]);
        let found: Vec<_> = collect(&b, 4).iter().map(|d| (d.2, d.3)).collect();
        assert_eq!(found, [(10, 1), (10, 1), (5, 1), (10, 3)]);
        assert_eq!(a.counts().send_errors, 1);
    })
    .unwrap();
}

#[test]
fn parts_are_the_datagrams_side_by_side() {
    run_in_new(|| {
        let (a, b) = (open(), open());
        let to = loopback(Family::V4, b.port());
        a.send_segments(None, to, &[5; 2500], 1000).unwrap();
        let mut batch = Batch::new(4);
        recv(&b, &mut batch);
        let part = batch.part(0).unwrap();
        assert_eq!((part.local, part.stride, part.bytes.len()), (to, 1000, 2500));
        assert_eq!(batch.memory()[part.bytes], [5; 2500]);
        assert_eq!(batch.part(1), None);
    })
    .unwrap();
}

#[test]
fn what_the_kernel_drops_for_want_of_room_is_counted() {
    run_in_new(|| {
        let a = open();
        let b = UdpSockets::bind(&UdpConfig {
            buffer: 4096,
            ..UdpConfig::default()
        })
        .unwrap();
        for _ in 0..100 {
            a.send(None, loopback(Family::V4, b.port()), &[0; 1000]).unwrap();
        }
        assert!((1..100).contains(&b.counts().kernel_drops), "{:?}", b.counts());
    })
    .unwrap();
}

const STEERING: Steering = Steering {
    mask: 0xc0,
    value: 0x80,
    shards: 5,
    choice: Choice::Number(0x3f),
};

fn open_shards(port: u16) -> Result<UdpSockets, Error> {
    UdpSockets::bind(&UdpConfig {
        port,
        steering: Some(STEERING),
        ..UdpConfig::default()
    })
}

#[test]
fn datagrams_wait_at_the_socket_that_their_first_byte_names() {
    run_in_new(|| {
        let (a, b) = (open(), open_shards(0).unwrap());
        for family in [Family::V4, Family::V6] {
            for (first, shard) in [
                (0x80, 0),
                (0x81, 1),
                (0x84, 4),
                (0x85, 0),
                (0x87, 2),
                (0x00, 0),
                (0x43, 0),
                (0xc3, 0),
            ] {
                let mut batch = Batch::new(1);
                a.send(None, loopback(family, b.port()), &[first, 1, 2]).unwrap();
                let came = (0..6).find(|shard| b.try_recv(family, *shard, &mut batch).unwrap());
                assert_eq!(came, Some(shard), "{first:#x}");
            }
            // Joined ones too, and the answer comes from the port.
            a.send_segments(None, loopback(family, b.port()), &[0x83; 40], 10)
                .unwrap();
            let mut batch = Batch::new(4);
            assert!(b.try_recv(family, 3, &mut batch).unwrap());
            assert_eq!(batch.datagrams().count(), 4);
        }
    })
    .unwrap();
}

#[test]
fn datagrams_wait_at_the_socket_of_the_core_that_handles_them() {
    run_in_new(|| {
        let (a, b) = (open(), open_shards(0).unwrap());
        let by_core = Steering {
            choice: Choice::Core(PerCore {
                first: 2,
                step: 2,
                cores: 2,
            }),
            ..STEERING
        };
        b.steer(&by_core).unwrap();
        let mut batch = Batch::new(1);
        for family in [Family::V4, Family::V6] {
            for core in crate::cores().unwrap() {
                // Over loopback the sender's core handles what it sent.
                crate::Thread::current().keep_to(&[core]).unwrap();
                for (first, shard) in [(0x81, 2 + 2 * (core % 2)), (0x01, 0)] {
                    a.send(None, loopback(family, b.port()), &[first, 1, 2]).unwrap();
                    let came = (0..6).find(|shard| b.try_recv(family, *shard, &mut batch).unwrap());
                    assert_eq!(came, Some(shard), "{first:#x} on core {core}");
                }
            }
        }
        b.steer(&STEERING).unwrap();
        a.send(None, loopback(Family::V4, b.port()), &[0x83, 1]).unwrap();
        assert!(b.try_recv(Family::V4, 3, &mut batch).unwrap());
    })
    .unwrap();
}

#[test]
fn a_shared_port_is_shared_with_no_other() {
    run_in_new(|| {
        let first = open_shards(0).unwrap();
        let second = open_shards(first.port());
        assert!(matches!(second, Err(Error::PortInUse { .. })), "{:?}", second.err());
        let plain = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first.port()));
        assert_eq!(plain.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    })
    .unwrap();
}

#[test]
fn a_datagram_that_is_too_large_is_cut_where_that_is_allowed_and_trains_are_not() {
    run_in_new(|| {
        let nic = Nic::create(&NicConfig::new(NicKind::Tun)).unwrap();
        nic.set_up(1400).unwrap();
        for (address, far) in [("10.9.0.1/24", "10.9.0.2:5000"), ("fd09::1/64", "[fd09::2]:5000")] {
            let address: Prefix = address.parse().unwrap();
            nic.add_address(address).unwrap();
            let far: SocketAddr = far.parse().unwrap();
            let any = match far {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = bind_one(any, 0).unwrap();
            let state = UdpSocketState::new((&socket).into()).unwrap();
            allow_fragments(&socket, false).unwrap();
            let refused = socket.send_to(&[7; 3000], &far.into()).unwrap_err();
            assert!(is_too_big(&refused));
            let train = Transmit {
                destination: far,
                ecn: None,
                contents: &[7; 3000],
                segment_size: Some(1000),
                src_ip: None,
            };
            state.try_send((&socket).into(), &train).unwrap();
            assert_eq!(frames_to(&nic, far.ip(), 3), [(1008, false); 3]);
            allow_fragments(&socket, true).unwrap();
            socket.send_to(&[7; 3000], &far.into()).unwrap();
            let parts = frames_to(&nic, far.ip(), 3);
            assert!(parts.iter().all(|(_, may_be_cut)| *may_be_cut), "{parts:?}");
            assert_eq!(parts.iter().map(|(bytes, _)| bytes).sum::<usize>(), 3008);
        }
    })
    .unwrap();
}

/// What the NIC gives next for this address: bytes behind the IP headers, and whether routers may cut or it was cut.
fn frames_to(nic: &Nic, to: IpAddr, count: usize) -> Vec<(usize, bool)> {
    let mut all = Vec::new();
    let mut frame = [0; 2000];
    while all.len() < count {
        let length = crate::nic::tests::recv(nic, &mut frame);
        match to {
            IpAddr::V4(to) if frame[0] >> 4 == 4 && frame[16..20] == to.octets() => {
                all.push((length - 20, frame[6] & DONT_FRAGMENT == 0));
            }
            IpAddr::V6(to) if frame[0] >> 4 == 6 && frame[24..40] == to.octets() => {
                let is_part = frame[6] == FRAGMENT;
                all.push((length - 40 - if is_part { 8 } else { 0 }, is_part));
            }
            _ => {}
        }
    }
    all
}

/// A flag in the seventh byte of an IPv4 header (RFC 791 section 3.1).
const DONT_FRAGMENT: u8 = 0x40;
/// The next header that says that this is a part (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
