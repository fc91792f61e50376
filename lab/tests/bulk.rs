//! Much data through the tunnel arrives as it was sent, over every kind of path and in both families.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lab::{Failure, LINK_WITHIN, Node, Rendezvous, Site, run};

const STREAM_BYTES: usize = 24 << 20;
/// Around every edge: of the record, of the NIC's MTU, of one and of many fragments, and the largest there is.
const DATAGRAMS: [usize; 16] = [
    0, 1, 2, 63, 64, 512, 1200, 1351, 1352, 1353, 1371, 1372, 1373, 4000, 20_000, 65_000,
];
/// Reasons for which nothing of an honest peer may be dropped.
const WRONG: [&str; 6] = ["forged", "replay", "bad_record", "malformed", "source", "unknown_epoch"];
const PATIENCE: Duration = Duration::from_secs(20);

fn failure(doing: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::Unexpected(format!("{doing}: {error}"))
}

/// Bytes that differ at every place, so that nothing can be swapped, lost or doubled unseen (xorshift).
fn fill(buffer: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for part in buffer.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
}

/// One TCP connection, full in both directions at the same time.
fn streams(from: &Node, to: &Node, address: IpAddr) -> Result<(), Failure> {
    let listener = to
        .host()
        .inside(|| TcpListener::bind((address, 0)))?
        .map_err(failure("listen"))?;
    let target = listener.local_addr().map_err(failure("listen"))?;
    let near = from
        .host()
        .inside(|| TcpStream::connect_timeout(&target, PATIENCE))?
        .map_err(failure("connect"))?;
    let (far, _) = listener.accept().map_err(failure("accept"))?;
    std::thread::scope(|scope| {
        let work = [(&near, 1, 2), (&far, 2, 1)];
        let threads = work.map(|(stream, own, other)| {
            (
                scope.spawn(move || write_all(stream, own)),
                scope.spawn(move || read_all(stream, other)),
            )
        });
        for (writer, reader) in threads {
            writer
                .join()
                .expect("a writer does not panic")
                .map_err(failure("write"))?;
            reader.join().expect("a reader does not panic")?;
        }
        Ok(())
    })
}

fn write_all(mut stream: &TcpStream, seed: u64) -> std::io::Result<()> {
    let mut bytes = vec![0; STREAM_BYTES];
    fill(&mut bytes, seed);
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&bytes)
}

fn read_all(mut stream: &TcpStream, seed: u64) -> Result<(), Failure> {
    let (mut expected, mut bytes) = (vec![0; STREAM_BYTES], vec![0; STREAM_BYTES]);
    fill(&mut expected, seed);
    stream.set_read_timeout(Some(PATIENCE)).map_err(failure("read"))?;
    stream.read_exact(&mut bytes).map_err(failure("read"))?;
    let differs = bytes.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the stream differs from what was sent at this byte");
    Ok(())
}

/// Each datagram there and back; again where one got lost, as UDP may lose.
fn datagrams(from: &Node, to: &Node, address: IpAddr) -> Result<(), Failure> {
    let bind = |node: &Node, ip: IpAddr| {
        let socket = node
            .host()
            .inside(|| UdpSocket::bind(SocketAddr::new(ip, 0)))?
            .map_err(failure("bind"))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .map_err(failure("bind"))?;
        Ok::<_, Failure>(socket)
    };
    let own = from
        .addresses()?
        .into_iter()
        .find(|own| own.is_ipv4() == address.is_ipv4());
    let own = own.ok_or_else(|| Failure::Unexpected("no address of that family".into()))?;
    let (near, far) = (bind(from, own)?, bind(to, address)?);
    let target = far.local_addr().map_err(failure("bind"))?;
    for length in DATAGRAMS {
        let mut sent = vec![0; length];
        fill(&mut sent, length as u64);
        let mut got = vec![0; 1 << 16];
        let arrived = (0..10).any(|_| {
            let there = near.send_to(&sent, target).is_ok()
                && far
                    .recv_from(&mut got)
                    .is_ok_and(|(n, back)| got[..n] == sent[..] && far.send_to(&got[..n], back).is_ok());
            there && near.recv(&mut got).is_ok_and(|n| got[..n] == sent[..])
        });
        assert!(arrived, "no datagram of {length} bytes came there and back unchanged");
    }
    Ok(())
}

fn bulk(sites: [Site; 2]) {
    run(|rig| {
        let rendezvous = Rendezvous::embedded(&rig.host("server", Site::Server)?)?;
        let ann = Node::start(&rig.host("ann", sites[0])?)?;
        let bob = Node::start(&rig.host("bob", sites[1])?)?;
        let invite = ann.create("home", rendezvous.address())?.invite;
        bob.join(&invite)?;
        for address in bob.addresses()? {
            ann.wait_ping(&address.to_string(), LINK_WITHIN)?;
            streams(&ann, &bob, address)?;
            datagrams(&ann, &bob, address)?;
        }
        for node in [&ann, &bob] {
            for peer in node.group()?.peers {
                let wrong = WRONG.iter().find(|reason| peer.drops.contains_key(**reason));
                assert_eq!(wrong, None, "{:?}", peer.drops);
            }
        }
        Ok(())
    });
}

#[test]
fn bulk_over_a_direct_path() {
    bulk([Site::Public, Site::PortRestricted]);
}

#[test]
fn bulk_over_ipv6_outside() {
    bulk([Site::Ipv6Only, Site::DualStack]);
}

#[test]
fn bulk_through_a_relay() {
    bulk([Site::Symmetric, Site::Symmetric]);
}

#[test]
fn bulk_through_a_relay_over_tcp() {
    bulk([Site::UdpBlocked, Site::Public]);
}
