use super::*;
use crate::kind::Kind;
use crate::oracle::{Verdict, verdict};
use crate::server::{CHANGE_IP, CHANGE_PORT, OTHER_PORT, PORT, Servers};
use stun_types::attribute::{AttributeType, RawAttribute, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageWriteVec};
use stun_types::prelude::{MessageWrite, MessageWriteExt};

const LOCAL_PORT: u16 = 5000;

struct Bench {
    net: Net,
    servers: Servers,
}

impl Bench {
    fn new() -> Self {
        let mut net = Net::new(Seed(7));
        let servers = Servers::new(&mut net, Wire::delay(10));
        Bench { net, servers }
    }

    /// Lets three seconds pass; what reached hosts that are not servers.
    fn settle(&mut self) -> Vec<Arrival> {
        let end = self.net.now() + Duration::from_secs(3);
        let mut seen = Vec::new();
        while let Some(arrival) = self.net.advance(end) {
            let (Arrival::Datagram(host, _) | Arrival::Stream(host, ..)) = &arrival;
            if self.servers.owns(*host) {
                self.servers.handle(&mut self.net, arrival);
            } else {
                seen.push(arrival);
            }
        }
        seen
    }

    fn local(&self, host: HostId, like: SocketAddr) -> SocketAddr {
        let ip = self
            .net
            .addresses(host)
            .iter()
            .find(|ip| ip.is_ipv4() == like.is_ipv4());
        SocketAddr::new(*ip.expect("a host of this family"), LOCAL_PORT)
    }

    /// Asks a STUN server; the address it saw and where the answer came from.
    fn ask(&mut self, host: HostId, server: SocketAddr, change: u8) -> Option<(SocketAddr, SocketAddr)> {
        let mut question = Message::builder_request(BINDING, MessageWriteVec::new());
        let flags = [0, 0, 0, change];
        let change = RawAttribute::new(AttributeType::new(3), &flags);
        question.add_attribute(&change).unwrap();
        let source = self.local(host, server);
        let bytes = question.finish();
        self.net.send(
            host,
            Datagram {
                source,
                target: server,
                bytes,
            },
        );
        self.settle().into_iter().find_map(|arrival| match arrival {
            Arrival::Datagram(_, datagram) => {
                let answer = Message::from_bytes(&datagram.bytes).ok()?;
                let seen = answer.attribute::<XorMappedAddress>().ok()?;
                Some((seen.addr(answer.transaction_id()), datagram.source))
            }
            Arrival::Stream(..) => None,
        })
    }
}

/// RFC 5780 sections 4.3 to 4.5, and whether TCP gets out: mapping, filtering, port kept, hairpin, TCP.
fn probe(kind: Kind) -> String {
    let mut bench = Bench::new();
    let host = kind.build(&mut bench.net, Wire::delay(5));
    let v4 = bench.net.addresses(host)[0].is_ipv4();
    let [stun4, stun6] = bench.servers.stun(&bench.net);
    let server = if v4 { stun4 } else { stun6 };
    let tcp = tcp_out(&mut bench, host, server);
    let Some((first, _)) = bench.ask(host, server, 0) else {
        return format!("blocked - - - {tcp}");
    };
    let other_ip = if v4 {
        bench.net.addresses(bench_stun(&bench))[2]
    } else {
        server.ip()
    };
    // Filtering first, while nothing else was sent to.
    let filtering = if v4 && bench.ask(host, server, CHANGE_IP | CHANGE_PORT).is_some() {
        "EI"
    } else if bench.ask(host, server, CHANGE_PORT).is_some() {
        // IPv6 has one server address here: what passes a change of port passes for independent.
        if v4 { "AD" } else { "EI" }
    } else {
        "APD"
    };
    let hairpin = hairpin(&mut bench, host, first);
    let second = bench.ask(host, SocketAddr::new(other_ip, PORT), 0).unwrap().0;
    let third = bench.ask(host, SocketAddr::new(other_ip, OTHER_PORT), 0).unwrap().0;
    let mapping = match (first == second, second == third) {
        (true, true) => "EI",
        (false, true) => "AD",
        _ => "APD",
    };
    let kept = if first.port() == LOCAL_PORT { "kept" } else { "drawn" };
    format!("{mapping} {filtering} {kept} {hairpin} {tcp}")
}

fn bench_stun(bench: &Bench) -> HostId {
    let [stun, _] = bench.servers.stun(&bench.net);
    match bench.net.holder(PUBLIC, stun.ip()) {
        Some(Holder::Host(host)) => host,
        _ => panic!("the STUN server is public"),
    }
}

/// Whether a datagram from another port to one's own outer address comes back.
fn hairpin(bench: &mut Bench, host: HostId, outer: SocketAddr) -> &'static str {
    let mut source = bench.local(host, outer);
    source.set_port(LOCAL_PORT + 1);
    let bytes = b"hairpin".to_vec();
    bench.net.send(
        host,
        Datagram {
            source,
            target: outer,
            bytes,
        },
    );
    if bench.settle().is_empty() { "no" } else { "yes" }
}

fn tcp_out(bench: &mut Bench, host: HostId, like: SocketAddr) -> &'static str {
    let [v4, v6] = bench.servers.turn(&bench.net, stun_types::TransportType::Tcp)[0];
    let server = if like.is_ipv4() { v4 } else { v6 };
    let plain = SocketAddr::new(server.ip(), 8080);
    bench.net.listen(plain);
    let mut opens = |target| {
        bench.net.connect(host, target);
        let seen = bench.settle();
        seen.iter()
            .any(|arrival| matches!(arrival, Arrival::Stream(_, _, StreamEvent::Open { .. })))
    };
    match (opens(plain), opens(server)) {
        (true, true) => "all",
        (false, true) => "443",
        _ => "none",
    }
}

#[test]
fn a_prober_measures_what_nftables_measured() {
    let table = [
        (Kind::Public, "EI EI kept yes all"),
        (Kind::Firewall, "EI APD kept yes all"),
        (Kind::FullCone, "EI EI kept yes all"),
        (Kind::AddressRestricted, "EI AD kept no all"),
        (Kind::PortRestricted, "EI APD kept no all"),
        (Kind::Symmetric, "APD APD drawn no all"),
        (Kind::Cgnat, "EI APD kept no all"),
        (Kind::CgnatSymmetric, "APD APD drawn no all"),
        (Kind::UdpBlocked, "blocked - - - 443"),
        (Kind::V6, "EI EI kept yes all"),
        (Kind::FirewalledV6, "EI APD kept yes all"),
    ];
    for (kind, expected) in table {
        assert_eq!(probe(kind), expected, "{kind:?}");
    }
}

/// The simplest puncher: each side sends to every address of the other that it knows or learns, and says what it got.
fn punch(bench: &mut Bench, hosts: [HostId; 2]) -> bool {
    let mut known: [BTreeSet<SocketAddr>; 2] = Default::default();
    for (side, host) in hosts.into_iter().enumerate() {
        for server in bench.servers.stun(&bench.net) {
            let Some(ip) = bench
                .net
                .addresses(host)
                .iter()
                .find(|ip| ip.is_ipv4() == server.is_ipv4())
            else {
                continue;
            };
            known[1 - side].insert(SocketAddr::new(*ip, LOCAL_PORT));
            known[1 - side].extend(bench.ask(host, server, 0).map(|(seen, _)| seen));
        }
    }
    for _ in 0..4 {
        for (side, host) in hosts.into_iter().enumerate() {
            for target in known[side].clone() {
                if bench
                    .net
                    .addresses(host)
                    .iter()
                    .any(|ip| ip.is_ipv4() == target.is_ipv4())
                {
                    let source = bench.local(host, target);
                    let bytes = [b"ping".as_slice(), &[side as u8], target.to_string().as_bytes()].concat();
                    bench.net.send(host, Datagram { source, target, bytes });
                }
            }
        }
        for arrival in bench.settle() {
            let Arrival::Datagram(host, datagram) = arrival else {
                continue;
            };
            let side = (host == hosts[1]) as usize;
            let from_peer = datagram.bytes[4] as usize != side;
            match &datagram.bytes[..4] {
                b"ping" if from_peer => {
                    known[side].insert(datagram.source);
                    let bytes = [b"pong".as_slice(), &[side as u8], &datagram.bytes[5..]].concat();
                    let (source, target) = (datagram.target, datagram.source);
                    bench.net.send(host, Datagram { source, target, bytes });
                }
                // An answer counts when it comes from where the question went (RFC 8445 section 7.2.5.2.1).
                b"pong" if from_peer && datagram.source.to_string().as_bytes() == &datagram.bytes[5..] => return true,
                _ => {}
            }
        }
    }
    false
}

#[test]
fn naive_punching_ends_as_the_oracle_says() {
    for (row, a) in Kind::ALL.into_iter().enumerate() {
        for b in Kind::ALL.into_iter().skip(row) {
            let mut bench = Bench::new();
            let one = a.build(&mut bench.net, Wire::delay(20));
            let two = b.build(&mut bench.net, Wire::delay(30));
            let said = verdict(&bench.net, one, two, None) == Verdict::Direct;
            assert_eq!(punch(&mut bench, [one, two]), said, "{a:?} {b:?}");
        }
    }
}

/// The same for every combination of mapping, filtering and hairpin, apart, in one home and behind one carrier.
#[test]
fn the_oracle_holds_for_every_rfc_4787_combination() {
    use Dependence::{Address, AddressAndPort, Independent};
    let all = [Independent, Address, AddressAndPort];
    let nats: Vec<Nat> = all
        .into_iter()
        .flat_map(|mapping| all.map(|filtering| (mapping, filtering)))
        .map(|(mapping, filtering)| Nat {
            mapping,
            filtering,
            ..Nat::SYMMETRIC
        })
        .collect();
    for a in &nats {
        for b in &nats {
            for carrier in [None, Some(false), Some(true)] {
                let mut bench = Bench::new();
                let parent = match carrier {
                    None => PUBLIC,
                    Some(hairpin) => {
                        let nat = Nat {
                            hairpin,
                            ..Nat::PORT_RESTRICTED
                        };
                        let prefix = [100, 64, 7];
                        bench.net.add_realm(
                            PUBLIC,
                            Gateway {
                                prefix,
                                ..Gateway::nat(nat)
                            },
                        )
                    }
                };
                let [one, two] = [a, b].map(|nat| {
                    let realm = bench.net.add_realm(parent, Gateway::nat(*nat));
                    bench.net.add_host(realm, true, false, Wire::delay(10))
                });
                let said = verdict(&bench.net, one, two, None) == Verdict::Direct;
                assert_eq!(punch(&mut bench, [one, two]), said, "{a:?} {b:?} {carrier:?}");
            }
        }
    }
}

#[test]
fn streams_bring_every_byte_in_order_through_loss_and_where_udp_is_blocked() {
    let mut bench = Bench::new();
    let host = Kind::UdpBlocked.build(&mut bench.net, Wire::delay(30).losing(0.1));
    let server = bench.net.add_host(PUBLIC, true, false, Wire::delay(5));
    let target = SocketAddr::new(bench.net.addresses(server)[0], 443);
    bench.net.listen(target);
    let conn = bench.net.connect(host, target);
    bench.settle();
    let sent: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
    for piece in sent.chunks(700) {
        bench.net.write(conn, Side::Client, piece.to_vec());
    }
    let mut got = Vec::new();
    for _ in 0..10 {
        for arrival in bench.settle() {
            if let Arrival::Stream(_, _, StreamEvent::Data(bytes)) = arrival {
                got.extend(bytes);
            }
        }
    }
    assert_eq!(got, sent);
}
