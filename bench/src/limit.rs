//! What the kernel allows: frames between a NIC and a neighbour, cut and joined as IPOP does it, and nothing sealed or checked.
//!
//! Promises: the functions, buffers and system calls of a node's workers, in the plainest shape: a thread each way, one queue, one
//! socket. Refuses to know: who else is there. It protects nothing, so it exists in the benchmark alone.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, bail};
use os::{Batch, Family, Nic, NicConfig, NicKind, Prefix, Train, UdpConfig, UdpSockets};
use os::{VNET_HEADER, VnetHeader};
use tincan::fast::FastPath;
use tincan::fast::merge::{Merger, Takes};
use tincan::fast::slice::Slices;
use tincan::fast::trains::Trains;

#[path = "../../crates/ipop/src/process/tincan/workers/vnet.rs"]
mod vnet;
use vnet::{header, shape};

/// The word on the command line that makes this program nothing else.
pub(crate) const COMMAND: &str = "limit";

const FRAME_BYTES_MAX: usize = 40 + 65_535;
const TRAINS_BYTES: usize = 128 << 10;
const SEND_AT: usize = 56 << 10;
const MERGE_AT: usize = 64 << 10;
const RECEIVE_BUFFERS: usize = 8;

/// Carries frames until it is killed. Takes the NIC's address with its prefix, and the neighbour, which has the same port.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [address, remote] = arguments else {
        bail!("{COMMAND} takes ADDRESS/PREFIX and REMOTE:PORT");
    };
    let address: Prefix = address
        .parse()
        .context("the first argument is an address with prefix")?;
    let remote: SocketAddr = remote.parse().context("the second argument is an address with port")?;
    let nic = Nic::create(&NicConfig {
        offload: true,
        ..NicConfig::new(NicKind::Tun)
    })?;
    nic.set_up(NicConfig::new(NicKind::Tun).mtu)?;
    nic.add_address(address)?;
    let sockets = Arc::new(UdpSockets::bind(&UdpConfig {
        port: remote.port(),
        ..UdpConfig::default()
    })?);
    let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
    let (other, into) = (sockets.clone(), nic.clone());
    std::thread::Builder::new()
        .name("udp".into())
        .spawn(move || receive(&other, family, &into).map_err(|error| eprintln!("bench: {error:#}")))
        .context("cannot start a thread")?;
    send(&nic, &sockets, family, remote)
}

fn send(nic: &Nic, sockets: &UdpSockets, family: Family, remote: SocketAddr) -> anyhow::Result<()> {
    let path = FastPath::Direct { source: None, remote };
    let mut frame = vec![0; VNET_HEADER + FRAME_BYTES_MAX];
    let mut trains = Trains::new(TRAINS_BYTES);
    trains.set_records_max(sockets.max_segments(family));
    loop {
        let Some(read) = nic.try_recv(&mut frame).context("cannot read the NIC")? else {
            send_all(sockets, &mut trains);
            os::wait_readable(&[nic.as_fd()], None).context("cannot wait for the NIC")?;
            continue;
        };
        let (header, bytes) = VnetHeader::parse(&frame[..read])?;
        let Ok(mut slices) = Slices::new(&shape(&header), bytes) else {
            continue;
        };
        while let Some(length) = slices.next_len() {
            if !trains.has_room(length) {
                send_all(sockets, &mut trains);
            }
            let room = trains.room(length).context("a frame is larger than all room")?;
            slices.write(room);
            trains.take(path, length);
        }
        if trains.bytes() >= SEND_AT {
            send_all(sockets, &mut trains);
        }
    }
}

fn send_all(sockets: &UdpSockets, trains: &mut Trains) {
    let all = trains.iter().filter_map(|(path, bytes, segment)| match path {
        FastPath::Direct { source, remote } => Some(Train {
            source,
            remote,
            bytes,
            segment,
        }),
        FastPath::Channel { .. } | FastPath::Member(_) | FastPath::Engine => None,
    });
    // What the network does not take is lost, as on any wire.
    sockets.send_trains(all, |_, _| {});
    trains.clear();
}

fn receive(sockets: &UdpSockets, family: Family, nic: &Nic) -> anyhow::Result<()> {
    let descriptor = sockets
        .descriptor(family, 0)
        .context("the host lacks this address family")?;
    let mut batch = Batch::new(RECEIVE_BUFFERS);
    let mut merger = Merger::default();
    let takes = Takes {
        tcp: nic.offload().tcp,
        udp: nic.offload().udp,
        unfinished: true,
    };
    loop {
        if !sockets
            .try_recv(family, 0, &mut batch)
            .context("cannot read the UDP socket")?
        {
            os::wait_readable(&[descriptor], None).context("cannot wait for datagrams")?;
            continue;
        }
        for number in 0.. {
            let Some(part) = batch.part(number) else { break };
            for start in part.bytes.clone().step_by(part.stride) {
                let end = part.bytes.end.min(start + part.stride);
                merger.push(batch.memory(), start..end, 0, takes);
                if merger.bytes() >= MERGE_AT {
                    give(nic, &mut merger, batch.memory());
                }
            }
        }
        give(nic, &mut merger, batch.memory());
    }
}

fn give(nic: &Nic, merger: &mut Merger, memory: &mut [u8]) {
    merger.flush(memory, |joined, pieces| {
        // A NIC that is full drops, as a wire does.
        let _ = nic.send_pieces(&header(joined), pieces);
    });
}
