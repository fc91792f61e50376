use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::netns::run_in_new;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Needs root and /dev/net/tun; says so where they are missing.
fn make(config: &NicConfig) -> Nic {
    match Nic::create(config) {
        Ok(nic) => nic,
        Err(error) => panic!("these tests make real NICs: {error}"),
    }
}

fn tun_up() -> Nic {
    let nic = make(&NicConfig::new(NicKind::Tun));
    nic.add_address(prefix("10.77.0.1/24")).unwrap();
    nic.set_up(1400).unwrap();
    nic
}

/// Waits for what the NIC gives next.
pub(crate) fn recv(nic: &Nic, buffer: &mut [u8]) -> usize {
    loop {
        if let Some(length) = nic.try_recv(buffer).unwrap() {
            return length;
        }
        crate::wait_readable(&[nic.as_fd()], None).unwrap();
    }
}

/// The next frame that satisfies `wanted`; the kernel also sends its own (router solicitations).
fn next(nic: &Nic, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    loop {
        let length = recv(nic, &mut buffer);
        if wanted(&buffer[..length]) {
            return buffer[..length].to_vec();
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn echo_request(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    icmp.extend_from_slice(payload);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let total = (20 + icmp.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&from);
    ip.extend_from_slice(&to);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    [ip, icmp].concat()
}

#[test]
fn the_host_answers_a_ping_that_comes_through_the_tun() {
    run_in_new(|| {
        let nic = tun_up();
        nic.send(&echo_request([10, 77, 0, 9], [10, 77, 0, 1], b"hello"))
            .unwrap();
        let answer = next(&nic, |f| f[0] >> 4 == 4 && f[9] == 1);
        assert_eq!(answer[12..20], [10, 77, 0, 1, 10, 77, 0, 9]);
        assert_eq!(answer[20], 0, "an echo reply");
        assert_eq!(&answer[28..], b"hello");
    })
    .unwrap();
}

#[test]
fn the_host_sends_what_it_routes_to_the_tun_and_nothing_else() {
    run_in_new(|| {
        let nic = tun_up();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let far = (Ipv4Addr::new(172, 20, 1, 2), 7);
        assert!(socket.send_to(b"x", far).is_err(), "no route yet");
        nic.add_route(prefix("172.20.0.0/16")).unwrap();
        nic.add_route(prefix("172.20.0.0/16")).unwrap();
        socket.send_to(b"through the route", far).unwrap();
        let frame = next(&nic, |f| f[0] >> 4 == 4 && f[9] == 17);
        assert_eq!(frame[12..20], [10, 77, 0, 1, 172, 20, 1, 2]);
        assert_eq!(&frame[28..], b"through the route");
        nic.remove_route(prefix("172.20.0.0/16")).unwrap();
        nic.remove_route(prefix("172.20.0.0/16")).unwrap();
        assert!(socket.send_to(b"x", far).is_err(), "no route any more");
    })
    .unwrap();
}

#[test]
fn addresses_of_both_families_come_and_go() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            mtu: 1280,
            ..NicConfig::new(NicKind::Tun)
        });
        let (v4, v6) = (prefix("10.77.0.1/24"), prefix("fd00:77::1/64"));
        let held = |nic: &Nic| {
            let all = crate::interfaces().unwrap();
            let interface = all.into_iter().find(|i| i.index == nic.index()).unwrap();
            assert_eq!((interface.name.as_str(), interface.mtu), (nic.name(), 1280));
            interface
                .addresses
                .into_iter()
                .filter(|a| !a.tentative)
                .map(|a| a.prefix)
                .collect::<Vec<_>>()
        };
        nic.set_up(1280).unwrap();
        for address in [v4, v6, v4, v6] {
            nic.add_address(address).unwrap();
        }
        assert!(held(&nic).contains(&v4) && held(&nic).contains(&v6), "{:?}", held(&nic));
        let routed = |to: &Prefix| crate::routes().unwrap().iter().any(|r| r.destination == to.network());
        assert!(routed(&v4) && routed(&v6));
        nic.add_route(prefix("fd00:99::/48")).unwrap();
        assert!(routed(&prefix("fd00:99::/48")));
        for address in [v4, v6, v4, v6] {
            nic.remove_address(address).unwrap();
        }
        assert!(
            !held(&nic).contains(&v4) && !held(&nic).contains(&v6),
            "{:?}",
            held(&nic)
        );
    })
    .unwrap();
}

#[test]
fn a_tap_asks_by_arp_and_takes_the_answer() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            name: Some("lab-tap".into()),
            ..NicConfig::new(NicKind::Tap)
        });
        nic.set_ethernet_address([2, 0, 0, 0, 0, 1]).unwrap();
        nic.add_address(prefix("10.78.0.1/24")).unwrap();
        nic.set_up(1500).unwrap();
        assert_eq!(nic.name(), "lab-tap");
        UdpSocket::bind("0.0.0.0:0")
            .unwrap()
            .send_to(b"over ethernet", (Ipv4Addr::new(10, 78, 0, 2), 7))
            .unwrap();
        let question = next(&nic, |f| f[12..14] == [0x08, 0x06]);
        assert_eq!(question[..6], [0xFF; 6]);
        assert_eq!(question[38..42], [10, 78, 0, 2]);
        let mut answer = question.clone();
        answer[..6].copy_from_slice(&question[6..12]);
        answer[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        answer[21] = 2;
        answer[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        answer[28..32].copy_from_slice(&[10, 78, 0, 2]);
        answer[32..42].copy_from_slice(&question[22..32]);
        nic.send(&answer).unwrap();
        let frame = next(&nic, |f| f[12..14] == [0x08, 0x00] && f[23] == 17);
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 2]);
        assert_eq!(&frame[42..55], b"over ethernet");
    })
    .unwrap();
}

#[test]
fn offload_gives_datagrams_of_one_send_as_one_super_frame() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            offload: true,
            ..NicConfig::new(NicKind::Tun)
        });
        nic.add_address(prefix("10.77.0.1/24")).unwrap();
        nic.set_up(1400).unwrap();
        assert!(nic.offload().header && nic.offload().tcp, "{:?}", nic.offload());
        nic.send(&echo_request([10, 77, 0, 9], [10, 77, 0, 1], b"plain"))
            .unwrap();
        let mut buffer = vec![0; 70_000];
        let answered = (0..20).any(|_| {
            let length = recv(&nic, &mut buffer);
            let (header, frame) = VnetHeader::parse(&buffer[..length]).unwrap();
            header.cut == Cut::Whole && frame.ends_with(b"plain")
        });
        assert!(answered);
        if nic.offload().udp {
            let sockets = crate::UdpSockets::bind(&crate::UdpConfig::default()).unwrap();
            let to = "10.77.0.2:7".parse().unwrap();
            sockets.send_segments(None, to, &[7; 5 * 1000], 1000).unwrap();
            let (header, frame) = loop {
                let length = recv(&nic, &mut buffer);
                let (header, frame) = VnetHeader::parse(&buffer[..length]).unwrap();
                if frame[0] >> 4 == 4 {
                    break (header, frame.to_vec());
                }
            };
            assert_eq!((header.cut, header.segment_size), (Cut::Udp, 1000));
            assert_eq!(frame.len(), 28 + 5000);
            assert!(header.checksum.is_some());
        }
    })
    .unwrap();
}

#[test]
fn as_many_frames_wait_as_it_says_and_no_more() {
    run_in_new(|| {
        let nic = tun_up();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let far = (Ipv4Addr::new(10, 77, 0, 2), 7);
        let frames = queue_frames(memory());
        for _ in 0..frames + 100 {
            socket.send_to(b"x", far).unwrap();
        }
        let mut buffer = vec![0; 2000];
        let waited = std::iter::from_fn(|| nic.try_recv(&mut buffer).unwrap()).count();
        assert_eq!(waited, frames as usize);
    })
    .unwrap();
}

#[test]
fn full_queues_leave_small_machines_their_memory() {
    let mb = |megabytes: u64| queue_frames(megabytes << 20);
    assert_eq!(
        [64, 256, 512, 1024, 2048, 4096, 1 << 20].map(mb),
        [500, 500, 910, 1820, 3640, 4000, 4000]
    );
    assert_eq!(queue_frames(u64::MAX), 4000);
}

#[test]
fn a_tap_takes_offload_too() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            offload: true,
            ..NicConfig::new(NicKind::Tap)
        });
        nic.set_ethernet_address([2, 0, 0, 0, 0, 1]).unwrap();
        nic.add_address(prefix("10.78.0.1/24")).unwrap();
        nic.set_up(1400).unwrap();
        assert!(nic.offload().tcp, "{:?}", nic.offload());
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", (Ipv4Addr::new(10, 78, 0, 2), 7)).unwrap();
        let mut buffer = vec![0; 70_000];
        loop {
            let length = recv(&nic, &mut buffer);
            let (header, frame) = VnetHeader::parse(&buffer[..length]).unwrap();
            assert_eq!(header.cut, Cut::Whole);
            if frame[12..14] == [0x08, 0x06] {
                break;
            }
        }
    })
    .unwrap();
}

#[test]
fn a_removed_interface_is_gone_though_somebody_holds_it() {
    run_in_new(|| {
        let nic = tun_up();
        let holder = nic.clone();
        nic.remove().unwrap();
        assert_eq!(crate::net::index_of(holder.name()).unwrap(), None);
        holder.remove().unwrap();
    })
    .unwrap();
}

#[test]
fn names_are_picked_refused_and_freed() {
    run_in_new(|| {
        let first = make(&NicConfig::new(NicKind::Tun));
        let second = make(&NicConfig::new(NicKind::Tap));
        assert_eq!((first.name(), second.name()), ("ipop0", "ipop1"));
        let named = |name: &str| NicConfig {
            name: Some(name.into()),
            ..NicConfig::new(NicKind::Tun)
        };
        for taken in ["ipop0", "ipop1", "lo"] {
            let refusal = Nic::create(&named(taken)).err().unwrap();
            assert!(
                matches!(&refusal, Error::NicNameInUse { name } if name == taken),
                "{refusal}"
            );
        }
        for bad in ["", "a name", "sixteen-letters-", "a/b", "x%d", ".."] {
            let refusal = Nic::create(&named(bad)).err().unwrap();
            assert!(matches!(refusal, Error::NicNameInvalid { .. }), "{bad}: {refusal}");
        }
        drop(first);
        make(&named("ipop0"));
    })
    .unwrap();
}

#[test]
fn only_an_unused_persistent_nic_is_stale() {
    run_in_new(|| {
        assert!(!Nic::remove_stale("ipop0").unwrap());
        for kind in [NicKind::Tun, NicKind::Tap] {
            let nic = make(&NicConfig::new(kind));
            device::set_persistent(&nic.0.queue, true).unwrap();
            assert!(matches!(Nic::remove_stale("ipop0"), Err(Error::NicNameInUse { .. })));
            drop(nic);
            assert!(
                Nic::create(&NicConfig {
                    name: Some("ipop0".into()),
                    ..NicConfig::new(kind)
                })
                .is_err()
            );
            assert!(Nic::remove_stale("ipop0").unwrap());
            assert!(!Nic::remove_stale("ipop0").unwrap());
        }
        assert!(matches!(Nic::remove_stale("lo"), Err(Error::NicNameInUse { .. })));
    })
    .unwrap();
}

#[test]
fn more_queues_attach_to_a_nic_made_for_them() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            queues: true,
            offload: true,
            ..NicConfig::new(NicKind::Tun)
        });
        let more = nic.another_queue().unwrap();
        assert_eq!((more.name(), more.index()), (nic.name(), nic.index()));
        let single = make(&NicConfig::new(NicKind::Tun));
        assert!(matches!(single.another_queue(), Err(Error::NotSupported { .. })));
    })
    .unwrap();
}

/// An unfinished checksum's field: the sum of the pseudo-header, over IPv4.
fn pseudo_sum(ends: &[u8], protocol: u8, length: u16) -> [u8; 2] {
    let rest = [[0, protocol], length.to_be_bytes()].concat();
    checksum(&[ends, &rest[..]].concat()).map(|byte| !byte)
}

#[test]
fn a_joined_frame_in_pieces_is_cut_by_the_kernel() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            offload: true,
            ..NicConfig::new(NicKind::Tun)
        });
        nic.add_address(prefix("10.77.0.1/24")).unwrap();
        nic.set_up(1400).unwrap();
        if !nic.offload().udp {
            return;
        }
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        let payload = [&[1u8; 1000][..], &[2; 1000], &[3; 70]];
        let udp_bytes = 8 + 2070u16;
        let mut headers = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 9, 10, 77, 0, 1];
        headers[2..4].copy_from_slice(&(20 + udp_bytes).to_be_bytes());
        let sum = checksum(&headers);
        headers[10..12].copy_from_slice(&sum);
        let port = socket.local_addr().unwrap().port();
        let partial = pseudo_sum(&headers[12..20], 17, udp_bytes);
        headers.extend_from_slice(&[[0, 7], port.to_be_bytes(), udp_bytes.to_be_bytes(), partial].concat());
        let header = VnetHeader {
            checksum: Some(PartialChecksum { start: 20, offset: 6 }),
            cut: Cut::Udp,
            header_length: 28,
            segment_size: 1000,
            checksum_known_good: false,
        };
        let pieces = std::iter::once(&headers[..]).chain(payload);
        nic.send_pieces(&header, pieces).unwrap();
        let mut buffer = [0; 2000];
        for piece in payload {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], piece);
        }
        let too_many = std::iter::repeat_n(&headers[..], PIECES + 1);
        assert_eq!(
            nic.send_pieces(&header, too_many).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    })
    .unwrap();
}

#[test]
fn a_nic_without_offload_takes_pieces_of_ordinary_frames_only() {
    run_in_new(|| {
        let nic = tun_up();
        let frame = echo_request([10, 77, 0, 9], [10, 77, 0, 1], b"hello");
        let (head, tail) = frame.split_at(20);
        nic.send_pieces(&VnetHeader::default(), [head, tail].into_iter())
            .unwrap();
        next(&nic, |f| f[0] >> 4 == 4 && f[9] == 1 && f.ends_with(b"hello"));
        let joined = VnetHeader {
            cut: Cut::Udp,
            ..VnetHeader::default()
        };
        let refusal = nic.send_pieces(&joined, [head, tail].into_iter()).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::Unsupported);
    })
    .unwrap();
}

#[test]
fn joined_datagrams_can_be_declined() {
    run_in_new(|| {
        let nic = make(&NicConfig {
            offload: true,
            joined_udp: false,
            ..NicConfig::new(NicKind::Tun)
        });
        assert!(nic.offload().tcp && !nic.offload().udp);
    })
    .unwrap();
}

#[test]
fn frames_wait_at_the_queue_of_the_core_that_hands_them_over() {
    run_in_new(|| {
        let first = make(&NicConfig {
            queues: true,
            ..NicConfig::new(NicKind::Tun)
        });
        let queues: Vec<Nic> = std::iter::once(first.clone())
            .chain((0..4).map(|_| first.another_queue().unwrap()))
            .collect();
        first.add_address(prefix("10.77.0.1/24")).unwrap();
        first.set_up(1400).unwrap();
        let per_core = PerCore {
            first: 1,
            step: 2,
            cores: 2,
        };
        first.wait_by_core(per_core).unwrap();
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        let is_ours = |frame: &[u8]| frame[0] >> 4 == 4 && frame.ends_with(b"hello");
        let mut frame = [0; 2000];
        for core in crate::cores().unwrap() {
            crate::Thread::current().keep_to(&[core]).unwrap();
            socket.send_to(b"hello", "10.77.0.9:7").unwrap();
            let at = 1 + 2 * (core % 2);
            assert!(is_ours(&next(&queues[at], is_ours)), "core {core}");
        }
        first.wait_by_flow().unwrap();
        socket.send_to(b"hello", "10.77.0.9:7").unwrap();
        let came = queues.iter().filter(|queue| {
            std::iter::from_fn(|| {
                queue
                    .try_recv(&mut frame)
                    .unwrap()
                    .map(|bytes| is_ours(&frame[..bytes]))
            })
            .any(|ours| ours)
        });
        assert_eq!(came.count(), 1);
    })
    .unwrap();
}
