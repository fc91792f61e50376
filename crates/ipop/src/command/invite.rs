//! `ipop invite`: prints the link that lets others in.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use api::control::{ControlCall, CreateInvite};
use clap::Args;

use super::PATIENCE;
use crate::client::Client;
use crate::state::StateDir;

#[derive(Debug, Args)]
#[command(
    after_help = "Whoever has the link can join: send it as you would a key.\n\nExamples:\n  ipop invite\n  ipop invite home --uses 5 --expires 7d\n  ipop invite --qr"
)]
pub(super) struct Invite {
    /// The group; may be left out where there is only one.
    group: Option<String>,
    /// How many machines may join by it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// How long it is good for: 30m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = duration)]
    expires: Duration,
    /// Draw it as a QR code too.
    #[arg(long)]
    qr: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Invite {
    pub(super) fn run(self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let call = CreateInvite {
            group: self.group,
            uses: self.uses,
            expires_s: self.expires.as_secs(),
        };
        let invite: api::control::Invite = Client::connect(state)?.call(&ControlCall::CreateInvite(call), PATIENCE)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&invite)?);
        } else {
            println!("{}", invite.invite);
        }
        if self.qr {
            println!("{}", picture(&invite.invite)?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// An invite for a group that was just made.
pub(super) fn first(client: &mut Client, group: &str) -> anyhow::Result<String> {
    let call = CreateInvite {
        group: Some(group.to_owned()),
        uses: 10,
        expires_s: 86_400,
    };
    let invite: api::control::Invite = client.call(&ControlCall::CreateInvite(call), PATIENCE)?;
    Ok(invite.invite)
}

fn picture(text: &str) -> anyhow::Result<String> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L)
        .context("the invite does not fit a QR code")?;
    Ok(code.render::<qrcode::render::unicode::Dense1x2>().build())
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    let Some(unit) = text.chars().last() else {
        bail!("expected something like 30m, 24h or 7d")
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => bail!("\"{text}\" has no unit: expected something like 30m, 24h or 7d"),
    };
    let number: u64 = text[..text.len() - 1]
        .parse()
        .context("expected something like 30m, 24h or 7d")?;
    let seconds = number.checked_mul(factor).filter(|s| (60..=31_536_000).contains(s));
    seconds
        .map(Duration::from_secs)
        .context("an invite lasts from one minute to 365 days")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, seconds) in [
            ("30m", Some(1800)),
            ("24h", Some(86_400)),
            ("7d", Some(604_800)),
            ("60s", Some(60)),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["", "h", "24", "1s", "400d", "-1h", "99999999999999999999h", "5\u{20ac}"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_invite_fits_a_qr_code() {
        assert!(picture(&format!("ipop://{}", "a".repeat(900))).is_ok());
    }
}
