//! `ipop ping`: round trips over the link, with the path of each.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::control::{ControlCall, PeerPong, PingPeer};
use api::link::PathKind;
use clap::Args;

use super::{PATIENCE, text};
use crate::client::Client;
use crate::state::StateDir;

/// Exit code of `--until-direct` when answers came, but none of them directly.
const RELAYED_ONLY: u8 = 3;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 an answer came (with --until-direct: directly), 1 none came, 3 only relayed answers came with --until-direct.\n\nExamples:\n  ipop ping bob\n  ipop ping 10.5.0.2 -c 20\n  ipop ping bob.home --until-direct"
)]
pub(super) struct Ping {
    /// Name, name.group, address or id of a peer.
    node: String,
    /// How many pings.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Stop at the first answer that came directly.
    #[arg(long)]
    until_direct: bool,
    /// Milliseconds between pings.
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    interval: u64,
    /// Print one JSON object a ping.
    #[arg(long)]
    json: bool,
}

impl Ping {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let mut client = Client::connect(state)?;
        let (mut answers, mut direct) = (0, false);
        for round in 0..self.count {
            let sent = Instant::now();
            let call = ControlCall::PingPeer(PingPeer {
                node: self.node.clone(),
            });
            match client.call::<PeerPong>(&call, PATIENCE) {
                Ok(pong) => {
                    self.show(&pong)?;
                    answers += 1;
                    direct |= pong.path.kind == PathKind::Direct;
                }
                Err(error) => self.show_failure(&error)?,
            }
            if direct && self.until_direct {
                break;
            }
            if round + 1 < self.count {
                std::thread::sleep(Duration::from_millis(self.interval).saturating_sub(sent.elapsed()));
            }
        }
        self.verdict(answers, direct)
    }

    fn show(&self, pong: &PeerPong) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(pong).context("an answer has a JSON form")?);
        } else {
            println!(
                "pong from {} via {} in {}",
                pong.name,
                text::path(&pong.path),
                text::rtt(pong.rtt_us)
            );
        }
        Ok(())
    }

    /// A refusal that another try cannot mend ends the command; silence is only a lost ping.
    fn show_failure(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        use api::rpc::{ApiError, ErrorKind};
        match error.downcast_ref::<ApiError>() {
            Some(e) if matches!(e.kind, ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::State) => {
                eprintln!("no answer from {}: {e}", self.node);
                Ok(())
            }
            _ => anyhow::bail!("{error}"),
        }
    }

    fn verdict(&self, answers: u32, direct: bool) -> anyhow::Result<ExitCode> {
        if answers == 0 {
            anyhow::bail!("{} did not answer: `ipop status` tells how it is reached", self.node);
        }
        if self.until_direct && !direct {
            eprintln!(
                "ipop: {} answers, but no direct path was found: `ipop netcheck` at both ends tells why",
                self.node
            );
            return Ok(ExitCode::from(RELAYED_ONLY));
        }
        Ok(ExitCode::SUCCESS)
    }
}
