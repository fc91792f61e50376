//! The command line: one file a command, with its arguments, its request, its rendering and their tests.

mod create;
mod daemon;
mod down;
mod invite;
mod join;
mod leave;
mod netcheck;
mod ping;
mod server;
mod status;
mod text;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use api::link::{MTU_MAX, MTU_MIN};
use clap::{Parser, Subcommand};

use crate::state::StateDir;

/// How long a command waits for an answer that needs no network.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command waits for one that does.
const PATIENCE_NETWORK: Duration = Duration::from_secs(45);
/// What a NIC's MTU may be.
const MTUS: std::ops::RangeInclusive<i64> = MTU_MIN as i64..=MTU_MAX as i64;

/// Private networks between your machines and your friends', straight from one to the other.
#[derive(Debug, Parser)]
#[command(name = "ipop", version, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  ipop up                      on the first machine: makes a group and prints an invite\n  ipop join ipop://...         on every other machine\n  ipop status                  who is there, and how it is reached\n  ping bob.home.ipop           like any other host"
)]
pub(crate) struct Arguments {
    /// Where this node keeps its keys and settings; another directory is another node.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/ipop")]
    state: PathBuf,
    /// Tell more; again for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring networks up, starting what is not running; on a new machine make a group and print an invite.
    Up(up::Up),
    /// Take NICs, routes and names of all networks away again; membership stays.
    Down(down::Down),
    /// Make a group here; this node holds its root key.
    Create(create::Create),
    /// Print an invite link: whoever has it can join.
    Invite(invite::Invite),
    /// Join a group by an invite link.
    Join(join::Join),
    /// Leave a group; nothing of it stays on this machine.
    Leave(leave::Leave),
    /// Show groups and peers, how each peer is reached, and what is wrong. Exit code 1 when not running.
    Status(status::Status),
    /// Measure round trips to a peer over its link, with the path of each.
    Ping(ping::Ping),
    /// Find out what the network around this machine allows.
    Netcheck(netcheck::Netcheck),
    /// Run the embedded rendezvous alone: XMPP, STUN and TURN on one port.
    Server(server::Server),
    /// Run tincan and controller in the foreground, restarting a dead one.
    Daemon(daemon::Daemon),
    /// Run the data plane by itself: NICs, sockets, keys, and the link API for any controller.
    Tincan(daemon::Tincan),
    /// Run the control plane by itself.
    Controller(daemon::Controller),
}

/// Does what was asked.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    crate::log::start(arguments.verbose);
    let state = StateDir::new(&arguments.state)?;
    match arguments.command {
        Command::Up(up) => up.run(&state),
        Command::Down(down) => down.run(&state),
        Command::Create(create) => create.run(&state),
        Command::Invite(invite) => invite.run(&state),
        Command::Join(join) => join.run(&state),
        Command::Leave(leave) => leave.run(&state),
        Command::Status(status) => status.run(&state),
        Command::Ping(ping) => ping.run(&state),
        Command::Netcheck(netcheck) => netcheck.run(&state),
        Command::Server(server) => server.run(&state),
        Command::Daemon(daemon) => daemon.run(&state, arguments.verbose),
        Command::Tincan(tincan) => tincan.run(&state),
        Command::Controller(controller) => controller.run(&state),
    }
}
