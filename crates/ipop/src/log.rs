//! Logs: to standard error, quiet unless asked; no secret, key or invite is ever logged.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much a process tells: warnings by default, more with each `-v`; `IPOP_LOG` overrides it in the syntax of `tracing`.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // What other crates call an error is a stranger's nonsense or a repeated question, which ours judge themselves.
    let ours = ["api", "controller", "ipop", "os", "rendezvous", "tincan"].map(|name| format!("{name}={level}"));
    let wanted = std::env::var("IPOP_LOG").unwrap_or_else(|_| ours.join(","));
    let (filter, fault) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(tracing::Level::WARN), Some(error)),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(error) = fault {
        tracing::warn!(%error, "IPOP_LOG is not of the form target=level,target=level");
    }
}
