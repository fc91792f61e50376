//! Changes of the host's network as data.

/// What has changed since the last answer. Look it up afresh: many changes make one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Interfaces appeared, vanished, went up or down.
    pub links: bool,
    /// Addresses came or went.
    pub addresses: bool,
    /// Routes came or went.
    pub routes: bool,
}

impl Changes {
    /// Whether anything changed.
    pub fn any(&self) -> bool {
        self.links || self.addresses || self.routes
    }
}
