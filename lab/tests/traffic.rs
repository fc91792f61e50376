//! Every kind of traffic through a link, with the receiving kernel as judge: what frames carry arrives unharmed, and no
//! header or checksum was ever wrong; with all that the kernel does for the fast path, and with each part left away.
//!
//! `LAB_TRAFFIC_MB` is how much each TCP stream carries (8 without it): 200 makes some GB.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::{Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Site};

/// Streams of each family and direction, all at once.
const STREAMS: u64 = 3;
/// The sizes of datagrams, one flow each; both ends of what fits a frame, odd and even.
const SIZES: [usize; 5] = [1, 64, 333, 1200, 1352];
/// Datagrams of each flow.
const DATAGRAMS: usize = 2000;
/// A pause in which the first end of a datagram flow hears nothing more.
const QUIET: Duration = Duration::from_secs(1);

fn pair(rig: &mut Rig, left_away: &str) -> Result<(Rendezvous, Node, Node), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    let mut ann = Node::new(&rig.host("ann", Site::Public)?);
    ann.set_environment("IPOP_WITHOUT", left_away);
    ann.start_daemon()?;
    ann.wait_running()?;
    let bob = Node::start(&rig.host("bob", Site::Public)?)?;
    let created = ann.create("home", rendezvous.address())?;
    bob.join(&created.invite)?;
    for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
        node.wait_direct(peer, LINK_WITHIN)?;
    }
    Ok((rendezvous, ann, bob))
}

/// The stream's byte at a place: no two pieces of a frame's size are alike.
fn pattern(stream: u64, at: u64) -> u8 {
    let mixed = (at ^ stream << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

fn write_stream(mut to: TcpStream, stream: u64, bytes: u64) -> std::io::Result<()> {
    // Odd streams send what they have at once, in odd pieces.
    to.set_nodelay(stream % 2 == 1)?;
    let step = if stream % 2 == 1 { 7_777 } else { 1 << 18 };
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + step);
        let piece: Vec<u8> = (at..end).map(|at| pattern(stream, at)).collect();
        to.write_all(&piece)?;
        at = end;
    }
    Ok(())
}

fn read_stream(mut from: TcpStream, stream: u64, bytes: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        for byte in &buffer[..read] {
            assert_eq!(*byte, pattern(stream, at), "stream {stream}, byte {at}");
            at += 1;
        }
    }
    assert_eq!(at, bytes, "stream {stream}");
    Ok(())
}

/// Streams between the host that listens and the one that connects; both write as well as read.
fn streams(listening: &Host, address: IpAddr, connecting: &Host, bytes: u64) -> Result<Vec<JoinHandle<()>>, Failure> {
    let mut threads = Vec::new();
    for stream in 0..STREAMS {
        let listener = listening
            .inside(|| TcpListener::bind((address, 0)))?
            .expect("an address of our own");
        let to = listener.local_addr().expect("it is bound");
        let dialed = connecting
            .inside(|| TcpStream::connect(to))?
            .expect("the other is reached");
        let (accepted, _) = listener.accept().expect("it was connected to");
        for (socket, stream) in [(dialed, 2 * stream), (accepted, 2 * stream + 1)] {
            let reading = socket.try_clone().expect("a second handle");
            threads.push(std::thread::spawn(move || {
                write_stream(socket.try_clone().expect("another"), stream, bytes).expect("all is taken");
                socket.shutdown(std::net::Shutdown::Write).expect("it is open");
            }));
            threads.push(std::thread::spawn(move || {
                read_stream(reading, stream ^ 1, bytes).expect("all comes");
            }));
        }
    }
    Ok(threads)
}

/// One flow of datagrams, some joined by the sender's own system calls; gives how many arrived, each as it was sent.
fn datagrams(from: &Host, to: &Host, address: IpAddr, size: usize) -> Result<usize, Failure> {
    let receiver = to
        .inside(|| UdpSocket::bind((address, 0)))?
        .expect("an address of our own");
    let target = receiver.local_addr().expect("it is bound");
    receiver.set_read_timeout(Some(QUIET)).expect("a time");
    let sender = from
        .inside(|| os::UdpSockets::bind(&os::UdpConfig::default()))?
        .expect("sockets");
    let sending = std::thread::spawn(move || {
        for number in 0..DATAGRAMS / 20 {
            let bytes: Vec<u8> = (0..20).flat_map(|n| vec![(number + n) as u8; size]).collect();
            sender.send_segments(None, target, &bytes, size).expect("it is taken");
        }
    });
    let mut buffer = [0; 2000];
    let mut arrived = 0;
    while arrived < DATAGRAMS {
        let Ok(read) = receiver.recv(&mut buffer) else { break };
        assert_eq!(read, size);
        assert!(
            buffer[..read].iter().all(|byte| *byte == buffer[0]),
            "one datagram of {size}"
        );
        arrived += 1;
    }
    sending.join().expect("the sender is done");
    Ok(arrived)
}

/// What the host's kernel has counted as wrong in headers and checksums.
fn faults(host: &Host) -> Result<BTreeMap<String, u64>, Failure> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = host.inside(|| (read("/proc/thread-self/net/snmp"), read("/proc/thread-self/net/snmp6")))?;
    let mut counts = BTreeMap::new();
    let lines: Vec<&str> = v4.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let name = names.split(':').next().unwrap_or_default();
        let fields = names.split_whitespace().zip(values.split_whitespace()).skip(1);
        counts.extend(fields.filter_map(|(field, value)| Some((format!("{name}{field}"), value.parse().ok()?))));
    }
    counts.extend(v6.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    }));
    assert!(
        counts.contains_key("TcpInCsumErrors") && counts.contains_key("Udp6InCsumErrors"),
        "{counts:?}"
    );
    let is_fault = |name: &str| {
        ["InCsumErrors", "InHdrErrors", "InErrs"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    Ok(counts
        .into_iter()
        .filter(|(name, count)| is_fault(name) && *count > 0)
        .collect())
}

fn carry_everything(rig: &mut Rig, left_away: &str) -> Result<(), Failure> {
    let (_rendezvous, ann, bob) = pair(rig, left_away)?;
    carry_everything_between(&ann, &bob)
}

fn carry_everything_between(ann: &Node, bob: &Node) -> Result<(), Failure> {
    let named = std::env::var("LAB_TRAFFIC_MB")
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    let bytes = named.unwrap_or(8) << 20;
    let mut threads = Vec::new();
    for address in bob.addresses()? {
        threads.extend(streams(bob.host(), address, ann.host(), bytes)?);
    }
    for address in bob.addresses()? {
        for size in SIZES {
            let arrived = datagrams(ann.host(), bob.host(), address, size)?;
            assert!(arrived > 0, "of datagrams of {size} bytes");
        }
    }
    for address in ann.addresses()? {
        let arrived = datagrams(bob.host(), ann.host(), address, 1200)?;
        assert!(arrived > 0);
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_| Failure::Unexpected("a stream ended early".into()))?;
    }
    for node in [ann, bob] {
        assert_eq!(faults(node.host())?, BTreeMap::new(), "of {}", node.host().name());
    }
    Ok(())
}

#[test]
fn nothing_is_wrong_with_frames_cut_and_joined() {
    lab::run(|rig| carry_everything(rig, ""));
}

#[test]
fn nothing_is_wrong_without_headers_from_the_nic() {
    lab::run(|rig| carry_everything(rig, "vnet"));
}

#[test]
fn nothing_is_wrong_without_joined_datagrams_from_the_nic() {
    lab::run(|rig| carry_everything(rig, "uso"));
}

#[test]
fn nothing_is_wrong_without_segmentation_by_the_kernel() {
    lab::run(|rig| carry_everything(rig, "gso"));
}

#[test]
fn nothing_is_wrong_without_joining_by_the_kernel() {
    lab::run(|rig| carry_everything(rig, "gro"));
}

#[test]
fn nothing_is_wrong_without_instructions_for_aes() {
    lab::run(|rig| carry_everything(rig, "aes"));
}

#[test]
fn nothing_is_wrong_with_one_worker() {
    lab::run(|rig| carry_everything(rig, "workers"));
}

#[test]
fn nothing_is_wrong_where_little_traffic_does_not_stay_on_its_core() {
    lab::run(|rig| carry_everything(rig, "cores"));
}

#[test]
fn nothing_is_wrong_without_any_help() {
    lab::run(|rig| carry_everything(rig, "vnet,uso,gso,gro,aes,workers,cores"));
}

#[test]
fn nothing_is_wrong_with_what_a_member_passes_on() {
    lab::run(|rig| {
        let (_rendezvous, [ann, bob, carol]) = lab::joined_by_a_member(rig)?;
        carry_everything_between(&ann, &bob)?;
        let through_carol = carol.group()?.peers.into_iter().map(|peer| peer.relayed_bytes);
        assert!(through_carol.min() > Some(8 << 20), "both ways, and all of it");
        assert_eq!(faults(carol.host())?, BTreeMap::new());
        Ok(())
    });
}
