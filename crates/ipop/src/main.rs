//! The binary: command line, the processes behind it, and nothing that decides how IPOP works.
//!
//! `command/` holds one file a command; `process/` the processes that `ipop daemon` runs: tincan (NICs, sockets, keys), controller
//! (membership, rendezvous) and the embedded server.
#![forbid(unsafe_code)]

mod client;
mod command;
mod log;
mod process;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = command::Arguments::parse();
    match command::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ipop: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of causes as one sentence: `outer: inner`, without a cause that the outer one already tells.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
    }
    text
}
