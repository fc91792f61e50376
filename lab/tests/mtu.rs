//! Ways that carry less than they did, without a word, and ways that carry more: real kernels on both ends.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lab::{Failure, LINK_WITHIN, Node, Rendezvous, Rig, Site, run, until};

const STREAM_BYTES: usize = 96 << 20;
/// After so many the way shrinks.
const WIDE_BYTES: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Reasons for which nothing of an honest peer may be dropped.
const WRONG: [&str; 6] = ["forged", "replay", "bad_record", "malformed", "source", "bad_control"];

fn failure(doing: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::Unexpected(format!("{doing}: {error}"))
}

/// One TCP connection; `shrink` is called when some of it has arrived. The longest time without a byte, for people.
fn stream(
    from: &Node,
    to: &Node,
    address: IpAddr,
    shrink: impl FnOnce() -> Result<(), Failure>,
) -> Result<Duration, Failure> {
    let listener = to
        .host()
        .inside(|| TcpListener::bind((address, 0)))?
        .map_err(failure("listen"))?;
    let target = listener.local_addr().map_err(failure("listen"))?;
    let mut near = from
        .host()
        .inside(|| TcpStream::connect_timeout(&target, PATIENCE))?
        .map_err(failure("connect"))?;
    let (mut far, _) = listener.accept().map_err(failure("accept"))?;
    near.set_write_timeout(Some(PATIENCE)).map_err(failure("write"))?;
    far.set_read_timeout(Some(PATIENCE)).map_err(failure("read"))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || near.write_all(&pattern()));
        let (mut got, mut shrink) = (Vec::with_capacity(STREAM_BYTES), Some(shrink));
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        let mut buffer = vec![0; 1 << 16];
        while got.len() < STREAM_BYTES {
            let count = far.read(&mut buffer).map_err(failure("read"))?;
            if count == 0 {
                return Err(Failure::Unexpected(format!(
                    "the stream ends after {} bytes",
                    got.len()
                )));
            }
            longest = longest.max(last.elapsed());
            got.extend_from_slice(&buffer[..count]);
            if got.len() >= WIDE_BYTES
                && let Some(shrink) = shrink.take()
            {
                shrink()?;
            }
            last = Instant::now();
        }
        writer
            .join()
            .expect("a writer does not panic")
            .map_err(failure("write"))?;
        assert!(got == pattern(), "the stream differs from what was sent");
        Ok(longest)
    })
}

/// Bytes that differ from place to place.
fn pattern() -> Vec<u8> {
    (0..STREAM_BYTES)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

/// Sends ICMP echo requests that may not be fragmented; what ping says.
fn ping(from: &Node, to: IpAddr, payload: usize, count: u32) -> Result<String, Failure> {
    let (count, payload, to) = (count.to_string(), payload.to_string(), to.to_string());
    let arguments = [
        "-M", "do", "-n", "-i", "0.3", "-W", "1", "-c", &count, "-s", &payload, &to,
    ];
    let output = from.host().output("ping", &arguments)?;
    Ok([output.stdout, output.stderr]
        .map(|said| String::from_utf8_lossy(&said).into_owned())
        .concat())
}

/// Pings that may not be fragmented until one is answered.
fn wait_whole(from: &Node, to: IpAddr, payload: usize) -> Result<(), Failure> {
    until(
        &format!("a ping of {payload} bytes passes whole"),
        LINK_WITHIN,
        || match ping(from, to, payload, 1) {
            Ok(said) if said.contains("1 received") => Ok(()),
            Ok(said) => Err(said),
            Err(failure) => Err(failure.to_string()),
        },
    )
}

/// Ann, Bob, whose way to the internet can shrink, and what carries their signals and relays.
fn pair(rig: &mut Rig, sites: [Site; 2]) -> Result<(Rendezvous, [Node; 2]), Failure> {
    let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
    let ann = Node::start(&rig.host("ann", sites[0])?)?;
    let bob = Node::start(&rig.host("bob", sites[1])?)?;
    let invite = ann.create("home", rendezvous.address())?.invite;
    bob.join(&invite)?;
    Ok((rendezvous, [ann, bob]))
}

/// The way shrinks in mid-transfer; `fits` is what it then carries of a frame.
fn shrinks(sites: [Site; 2], is_v6: bool, fits: std::ops::RangeInclusive<u16>) {
    run(|rig| {
        let (_rendezvous, [ann, bob]) = pair(rig, sites)?;
        let address = bob.addresses()?.into_iter().find(|own| own.is_ipv6() == is_v6);
        let address = address.ok_or_else(|| Failure::Unexpected("no address of that family".into()))?;
        ann.wait_ping(&address.to_string(), LINK_WITHIN)?;
        let head = if is_v6 { 48 } else { 28 };
        wait_whole(&ann, address, 1400 - head)?;

        let longest = stream(&ann, &bob, address, || rig.set_mtu(bob.host(), 1280))?;
        println!("longest time without a byte: {longest:?}");

        for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
            // Who sends little notices nothing; a full frame is asked for first.
            let peer = node.wait_peer(peer, "over a narrow path", PATIENCE, |peer| {
                let [there, own] = [address, ann_address(&ann, is_v6)];
                let target = if peer.name == "bob" { there } else { own };
                let _ = ping(node, target, 1400 - head, 1);
                peer.path_mtu.is_some_and(|mtu| fits.contains(&mtu))
            })?;
            let wrong = WRONG.iter().find(|reason| peer.drops.contains_key(**reason));
            assert_eq!(wrong, None, "{:?}", peer.drops);
        }
        // The kernel was told, and tells who asks. IPv6 is never told less than it may rely on (RFC 8200 section 5).
        let said = ping(&ann, address, 1400 - head, 3)?.replace("mtu: ", "mtu=");
        assert!(said.contains("essage too long"), "{said}");
        let number = said
            .split_once("mtu=")
            .map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
        let told: u16 = number.flatten().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let least = if is_v6 { 1280 } else { 0 };
        let may_be_told = least.max(*fits.start())..=least.max(*fits.end());
        assert!(may_be_told.contains(&told), "{told} is not in {may_be_told:?}: {said}");
        wait_whole(&ann, address, usize::from(told) - head)?;
        Ok(())
    });
}

fn ann_address(ann: &Node, is_v6: bool) -> IpAddr {
    let own = ann.addresses().unwrap_or_default();
    own.into_iter()
        .find(|own| own.is_ipv6() == is_v6)
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

#[test]
fn a_direct_way_shrinks_under_ipv4() {
    shrinks([Site::Public, Site::PortRestricted], false, 1224..=1224);
}

#[test]
fn a_direct_way_shrinks_under_ipv6() {
    shrinks([Site::Public, Site::PortRestricted], true, 1224..=1224);
}

#[test]
fn a_way_over_ipv6_shrinks() {
    shrinks([Site::Ipv6Only, Site::DualStack], true, 1204..=1204);
}

#[test]
fn a_relayed_way_shrinks() {
    shrinks([Site::Symmetric, Site::Symmetric], false, 1150..=1220);
}

#[test]
fn a_wide_way_carries_large_frames_where_the_nic_has_them() {
    run(|rig| {
        let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
        let ann = Node::start(&rig.host("ann", Site::Public)?)?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        for node in [&ann, &bob] {
            rig.set_mtu(node.host(), 9000)?;
        }
        let refusal = ann.refused(&["create", "home", "--server", rendezvous.address(), "--mtu", "9001"])?;
        assert!(
            refusal.sentence.contains("9001 is not in 1280..=9000"),
            "{}",
            refusal.sentence
        );
        ann.ipop(&[
            "create",
            "home",
            "--server",
            rendezvous.address(),
            "--host",
            "ann",
            "--mtu",
            "8900",
        ])?;
        let invite = ann.invite("home", 1)?.invite;
        bob.ipop(&["join", &invite, "--name", "bob", "--mtu", "8900"])?;
        for address in bob.addresses()? {
            ann.wait_ping(&address.to_string(), LINK_WITHIN)?;
            wait_whole(&ann, address, 8800)?;
            stream(&ann, &bob, address, || Ok(()))?;
        }
        assert_eq!(ann.wait_linked("bob", PATIENCE)?.path_mtu, Some(8900));
        Ok(())
    });
}
