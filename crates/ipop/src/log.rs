//! Logs: to standard error, quiet unless asked; no secret, key or invite is ever logged.

use tracing_subscriber::EnvFilter;

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
    let filter = EnvFilter::try_from_env("IPOP_LOG").unwrap_or_else(|_| EnvFilter::new(ours.join(",")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
