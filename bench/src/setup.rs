//! Link set-up: from `link.open` until both ends say that frames can flow.

use std::path::Path;
use std::time::Duration;

use lab::{Delay, Host, Rig, Site};

use crate::report::Row;
use crate::stats::Samples;
use crate::switchboard::Switchboard;
use crate::tunnel;

const SET_UPS: usize = 100;
/// Two sites this far from the internet are twice as far from each other.
const HALF_WAY: Duration = Duration::from_millis(10);

pub(crate) fn measure(binary: &Path) -> anyhow::Result<Vec<Row>> {
    let aim = "p50 at most 300 ms, p99 at most 1 s";
    let mut rows = Vec::new();
    {
        let rig = Rig::new()?;
        let hosts = rig.neighbours(["ann", "bob"])?;
        let samples = set_up(binary, &hosts, Duration::ZERO)?;
        rows.push(Row::times("link set-up on a LAN", &samples, &[50, 99, 100]).aim(aim));
    }
    let mut rig = Rig::new()?;
    let delay = Delay { one_way: HALF_WAY, jitter: Duration::ZERO };
    let hosts = [
        rig.distant_host("ann", Site::PortRestricted, delay)?,
        rig.distant_host("bob", Site::Public, delay)?,
    ];
    let samples = set_up(binary, &hosts, 2 * HALF_WAY)?;
    rows.push(Row::times("link set-up over 20 ms one way, one NAT", &samples, &[50, 99, 100]).aim(aim));
    Ok(rows)
}

fn set_up(binary: &Path, hosts: &[Host; 2], signal_delay: Duration) -> anyhow::Result<Samples> {
    let mut switchboard = Switchboard::new(binary, signal_delay);
    let [a, b] = tunnel::start(&mut switchboard, hosts)?;
    let mut times = Vec::new();
    for _ in 0..SET_UPS {
        let [here, there] = switchboard.open(a, b)?;
        times.push(here.max(there).as_secs_f64() * 1000.0);
        switchboard.close(a, b)?;
    }
    anyhow::Context::context(Samples::new(times), "no link was made")
}
