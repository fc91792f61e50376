//! One link of IPOP over paths of every kind, beside the same path without it.

use anyhow::Context;
use lab::{Host, Rig, Site};

use crate::compare::{PING, ROUNDS, STREAM, one_stream, pings};
use crate::node::{Pair, Reach, Wish};
use crate::peer::Way;
use crate::report::{Comparison, Metric, Report, Row};
use crate::settings::Settings;

/// The record, and IPv6 and UDP around it, on a path of 9000 bytes.
const JUMBO: u16 = 9000 - 100;

const METRICS: &[Metric] = &[STREAM[0], STREAM[1], STREAM[2], PING[0], PING[1]];

/// What lies between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    /// A wire.
    Wire,
    /// A wire without IPv4.
    Ipv6,
    /// NATs that only a relay joins.
    Relay,
    /// NATs that only a third member joins: an ordinary node, in public.
    Member,
    /// A wire that loses so many of a thousand datagrams each way.
    Lossy(u16),
    /// A wire of this MTU, and the NIC's MTU where it is not the usual one.
    Sized(u16, Option<u16>),
}

/// A path, and which inner addresses it is tried by.
struct Path {
    name: &'static str,
    between: Between,
    /// Names of the ways by the inner IPv4 and, where wanted, IPv6 address.
    ipop: &'static [&'static str],
    without: &'static str,
    has_bare: bool,
}

impl Path {
    const fn new(name: &'static str, between: Between, ipop: &'static [&'static str]) -> Self {
        Self {
            name,
            between,
            ipop,
            without: "",
            has_bare: true,
        }
    }
}

const PATHS: &[Path] = &[
    Path::new(
        "IPv4",
        Between::Wire,
        &["ipop, IPv4 inside IPv4", "ipop, IPv6 inside IPv4"],
    ),
    Path::new(
        "IPv6",
        Between::Ipv6,
        &["ipop, IPv4 inside IPv6", "ipop, IPv6 inside IPv6"],
    ),
    Path {
        without: "aes",
        has_bare: false,
        ..Path::new("ChaCha20-Poly1305", Between::Wire, &["ipop, ChaCha20-Poly1305"])
    },
    Path {
        has_bare: false,
        ..Path::new("TURN", Between::Relay, &["ipop, through TURN"])
    },
    Path {
        has_bare: false,
        ..Path::new("member", Between::Member, &["ipop, through a member"])
    },
    Path::new("0.1 % lost", Between::Lossy(1), &["ipop, 0.1 % lost"]),
    Path::new("1 % lost", Between::Lossy(10), &["ipop, 1 % lost"]),
    Path::new("1280 bytes", Between::Sized(1280, None), &["ipop, 1280 bytes"]),
    Path::new("9000 bytes", Between::Sized(9000, Some(JUMBO)), &["ipop, 9000 bytes"]),
];

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut rig = Rig::new()?;
    let (mut ways, mut pairs) = (Vec::new(), Vec::new());
    for (number, path) in PATHS.iter().enumerate() {
        match path.start(number, &mut rig, settings, &mut ways) {
            Ok(pair) => pairs.push(pair),
            Err(error) => report.fault(path.name, &error),
        }
    }
    let mut comparison = Comparison::new("paths", METRICS, ways.iter().map(|way| way.name.as_str()));
    let rounds = settings.rounds(ROUNDS, 1);
    let mut broken: Vec<&str> = Vec::new();
    for round in 1..=rounds {
        for way in &ways {
            if broken.contains(&way.name.as_str()) {
                continue;
            }
            eprintln!("  round {round} of {rounds}: {}", way.name);
            if let Err(error) = loads(way, settings, &mut comparison) {
                report.fault(&way.name, &error);
                broken.push(&way.name);
            }
        }
    }
    report.rows.extend(against_bare(&comparison));
    report.comparisons.push(comparison);
    Ok(())
}

fn loads(way: &Way, settings: &Settings, comparison: &mut Comparison) -> anyhow::Result<()> {
    pings(way, settings, comparison)?;
    one_stream(way, settings, comparison)
}

/// What IPOP makes of each path.
fn against_bare(comparison: &Comparison) -> Vec<Row> {
    let rate = |way: &str| comparison.figure(way, "TCP 1 stream");
    let mut rows = Vec::new();
    for path in PATHS {
        let bare = if path.has_bare { path.name } else { PATHS[0].name };
        let aim = if matches!(path.between, Between::Wire | Between::Ipv6) && path.without.is_empty() {
            "at least 0.25"
        } else {
            ""
        };
        for way in path.ipop {
            let ratio = rate(way).zip(rate(&bare_name(bare))).map(|(own, bare)| own / bare);
            let what = format!("TCP 1 stream, {way}, as a multiple of {}", bare_name(bare));
            rows.extend(ratio.map(|ratio| Row::one(what, ratio, "x", aim)));
        }
    }
    rows
}

fn bare_name(path: &str) -> String {
    format!("bare, {path}")
}

impl Path {
    /// Makes the hosts, what lies between, and a link; adds the ways there are to go.
    fn start(&self, number: usize, rig: &mut Rig, settings: &Settings, ways: &mut Vec<Way>) -> anyhow::Result<Pair> {
        let [server, near, far] = self.hosts(number, rig)?;
        let hosts = [near, far];
        let prepared = match self.between {
            Between::Lossy(per_mille) => lose(&hosts, per_mille),
            Between::Sized(mtu, _) => hosts.iter().try_for_each(|host| set_mtu(host, mtu)),
            Between::Wire | Between::Ipv6 | Between::Relay | Between::Member => Ok(()),
        };
        prepared.context("cannot prepare the path")?;
        if self.has_bare {
            ways.push(Way::wire(bare_name(self.name), &hosts));
        }
        let member = match self.between {
            Between::Member => {
                lab::relay_nothing(&server)?;
                Some(rig.host(&format!("member{number}"), Site::Public)?)
            }
            _ => None,
        };
        let pair = Pair::start_with(&settings.ipop, &server, &hosts, member.as_ref(), self.wish())?;
        let daemons = pair.daemons()?;
        for (name, target) in self.ipop.iter().zip(pair.targets()?) {
            ways.push(Way::over(*name, &hosts, target, &daemons));
        }
        Ok(pair)
    }

    fn wish(&self) -> Wish {
        let usual = Wish {
            without: self.without,
            ..Wish::USUAL
        };
        match self.between {
            Between::Relay => Wish {
                reach: Reach::Relay,
                ..usual
            },
            Between::Member => Wish {
                reach: Reach::Member,
                ..usual
            },
            Between::Sized(_, mtu) => Wish { mtu, ..usual },
            Between::Wire | Between::Ipv6 | Between::Lossy(_) => usual,
        }
    }

    /// The rendezvous, and the two ends; neighbours have it on the second.
    fn hosts(&self, number: usize, rig: &mut Rig) -> anyhow::Result<[Host; 3]> {
        let name = |what: &str| format!("{what}{number}");
        let [near, far] = [name("near"), name("far")];
        let hosts = match self.between {
            Between::Relay | Between::Member => {
                let server = rig.host(&name("server"), Site::Server)?;
                let near = rig.host(&near, Site::Symmetric)?;
                return Ok([server, near, rig.host(&far, Site::Symmetric)?]);
            }
            Between::Ipv6 => rig.neighbours_by_ipv6([&near, &far])?,
            _ => rig.neighbours([&near, &far])?,
        };
        let [near, far] = hosts;
        Ok([far.clone(), near, far])
    }
}

/// Each end drops so many of what it receives. Datagrams are cut before the wire, so that each is lost alone, as on a real one.
fn lose(hosts: &[Host; 2], per_mille: u16) -> anyhow::Result<()> {
    for host in hosts {
        host.run("ip", &["link", "set", "lan0", "gso_max_segs", "1"])?;
        // What TCP may have on its way below itself; more overflows the queue behind a veth when each datagram is alone, which
        // would lose far more than is asked for.
        host.run("sysctl", &["-q", "-w", "net.ipv4.tcp_limit_output_bytes=262144"])?;
        // And what two cores send must stay in order, which each core's own queue would not keep; some kernels have no choice.
        let one_core = "echo 1 >/sys/class/net/lan0/queues/rx-0/rps_cpus || true";
        host.run("sh", &["-c", one_core])?;
        let rules = format!(
            "add table inet loss; add chain inet loss in {{ type filter hook prerouting priority -300; }}; \
             add rule inet loss in iifname lan0 numgen random mod 1000 < {per_mille} drop"
        );
        host.run("nft", &[&rules])?;
    }
    Ok(())
}

fn set_mtu(host: &Host, mtu: u16) -> anyhow::Result<()> {
    host.run("ip", &["link", "set", "lan0", "mtu", &mtu.to_string()])?;
    Ok(())
}
