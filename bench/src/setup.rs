//! Link set-up: from `link.open` until both ends say that frames can flow.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use api::Cidr;
use lab::{Host, Rig, Site};

use crate::join::HALF_WAY;
use crate::report::{Report, Row};
use crate::settings::Settings;
use crate::stats::Samples;
use crate::switchboard::Switchboard;

const SET_UPS: usize = 100;
/// A node takes 20 signals a second from a peer, a set-up needs one or two.
const PAUSE: Duration = Duration::from_millis(100);
const AIM: &str = "p50 at most 300 ms, p99 at most 1 s";

pub(crate) fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let count = settings.rounds(SET_UPS, 10);
    {
        let rig = Rig::new()?;
        let hosts = rig.neighbours(["ann", "bob"])?;
        let samples = set_up(&settings.ipop, &hosts, Duration::ZERO, count).context("on a LAN")?;
        report.rows.push(Row::times("link set-up, LAN", samples, AIM));
    }
    let mut rig = Rig::new()?;
    let hosts = [
        rig.distant_host("ann", Site::PortRestricted, HALF_WAY)?,
        rig.distant_host("bob", Site::Public, HALF_WAY)?,
    ];
    // Ann's site to bob's, as signals through a rendezvous between them would go.
    let samples = set_up(&settings.ipop, &hosts, HALF_WAY.one_way * 2, count).context("over 20 ms")?;
    report
        .rows
        .push(Row::times("link set-up, 20 ms one way, one NAT", samples, AIM));
    Ok(())
}

fn set_up(ipop: &Path, hosts: &[Host; 2], signal_delay: Duration, count: usize) -> anyhow::Result<Samples> {
    let mut switchboard = Switchboard::new(ipop, signal_delay);
    let a = switchboard.start(&hosts[0], inner(1))?;
    let b = switchboard.start(&hosts[1], inner(2))?;
    switchboard.introduce(a, b)?;
    for who in [a, b] {
        switchboard.wait_for_candidates(who)?;
    }
    let mut samples = Samples::default();
    for _ in 0..count {
        let [here, there] = switchboard.open(a, b)?;
        samples.push(here.max(there).as_secs_f64() * 1000.0);
        switchboard.close(a, b)?;
        sleep(PAUSE);
    }
    Ok(samples)
}

fn inner(last: u8) -> Cidr {
    Cidr {
        address: Ipv4Addr::new(10, 99, 0, last).into(),
        prefix: 24,
    }
}
