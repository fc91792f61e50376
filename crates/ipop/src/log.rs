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
    let quiet = format!(
        "{level},quinn_proto=warn,rustls=warn,is=warn,turn_client_proto=warn,turn_server_proto=warn,stun_proto=warn"
    );
    let filter = EnvFilter::try_from_env("IPOP_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
