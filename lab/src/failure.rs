//! Why something in the lab did not happen.

use std::fmt;
use std::time::Duration;

/// Why not; its `Debug` is the sentence, as that is what a failed test prints.
#[derive(thiserror::Error)]
pub enum Failure {
    /// Namespaces and NATs are for root.
    #[error("the lab needs root (network namespaces, nftables, /dev/net/tun): run it as root")]
    NotRoot,
    /// A program is not installed.
    #[error("the lab needs the program {0}: `.ci/install` installs it")]
    Missing(String),
    /// There is no binary to test.
    #[error("there is no ipop at {0}: `cargo build -p ipop` builds it, or IPOP_BIN names it")]
    NoBinary(String),
    /// A command failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// What was waited for did not come.
    #[error("not within {within:?}: {what}; last seen: {last}")]
    Timeout {
        /// What should have come.
        what: String,
        /// The bound.
        within: Duration,
        /// What there was instead.
        last: String,
    },
    /// The kernel or the file system refused.
    #[error("cannot {doing}: {cause}")]
    System {
        /// What was tried.
        doing: String,
        /// The reason.
        cause: String,
    },
    /// An answer that is not what it should be.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    pub(crate) fn system(doing: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::System {
            doing: doing.into(),
            cause: cause.to_string(),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
