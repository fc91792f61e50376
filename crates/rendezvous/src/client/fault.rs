//! Faults as people read them: what, whose fault, what to do, in one sentence.

use api::rendezvous::RendezvousFault;

use super::stream::Broken;

/// Why there is no rendezvous now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) fault: RendezvousFault,
    pub(super) reason: String,
}

impl Failure {
    pub(super) fn new(fault: RendezvousFault, reason: impl Into<String>) -> Self {
        Failure {
            fault,
            reason: reason.into(),
        }
    }

    pub(super) fn unreachable(reason: impl Into<String>) -> Self {
        Self::new(RendezvousFault::Unreachable, reason)
    }

    pub(super) fn impostor(reason: impl Into<String>) -> Self {
        Self::new(RendezvousFault::Impostor, reason)
    }

    pub(super) fn unsuitable(reason: impl Into<String>) -> Self {
        Self::new(RendezvousFault::Unsuitable, reason)
    }

    pub(super) fn protocol(reason: impl Into<String>) -> Self {
        Self::new(RendezvousFault::Protocol, reason)
    }

    pub(super) fn lost(reason: impl Into<String>) -> Self {
        Self::new(RendezvousFault::Lost, reason)
    }

    /// What a broken stream to `label` means.
    pub(super) fn broken(label: &str, broken: Broken) -> Self {
        match broken {
            Broken::Closed => Self::lost(format!(
                "{label} closed the connection; it may be restarting, nothing needs to be done"
            )),
            Broken::Io(error) => Self::lost(format!(
                "the connection to {label} broke ({error}); check the network if it stays so"
            )),
            Broken::Xml(error) => Self::protocol(format!(
                "{label} is not a usable XMPP server: {error}; check host and port"
            )),
            Broken::Refused(condition) => Self::refused(label, &condition),
        }
    }

    fn refused(label: &str, condition: &str) -> Self {
        match condition {
            "host-unknown" | "host-gone" => Self::unsuitable(format!(
                "{label} does not serve this XMPP domain; check the domain in the server's address"
            )),
            "conflict" => Self::lost(format!(
                "{label} ended the connection because the same account logged in as the same client; it is tried again"
            )),
            "policy-violation" | "resource-constraint" => Self::lost(format!(
                "{label} ended the connection because of its limits ({condition}); ask its operator if it stays so"
            )),
            "not-authorized" => Self::unsuitable(format!(
                "{label} refused what was asked before login ({condition}); ask its operator"
            )),
            _ => Self::lost(format!("{label} ended the connection ({condition}); it is tried again")),
        }
    }

    /// How much it tells: of several addresses' failures the most telling one is shown.
    pub(super) fn weight(&self) -> u8 {
        match self.fault {
            RendezvousFault::Impostor => 3,
            RendezvousFault::Unsuitable => 2,
            RendezvousFault::Protocol | RendezvousFault::Lost => 1,
            _ => 0,
        }
    }

    /// Whether only a person can change the outcome.
    pub(super) fn hopeless(&self) -> bool {
        !matches!(
            self.fault,
            RendezvousFault::Unreachable | RendezvousFault::Lost | RendezvousFault::Protocol
        )
    }
}
