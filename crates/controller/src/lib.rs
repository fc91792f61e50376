//! The control plane: who belongs to which group, where everybody is, and what tincan should therefore do.
//!
//! Promises: a pure machine; every claim about membership is checked against the group's root key, whoever brings it.
//! Refuses to know: keys, frames, sockets, clocks, files, and how a rendezvous works.
#![forbid(unsafe_code)]

pub mod addressing;
pub mod card;
mod crypto;
pub mod entry;
pub mod invite;
pub mod limits;
pub mod log;
mod machine;
pub mod membership;
pub mod message;
pub mod store;
mod wire;

#[cfg(test)]
mod fixture;

pub use crypto::InviteKey;
pub use machine::{CallId, Controller, ControllerConfig, Now, Output, RequestId};
pub use store::{Store, StoreError};
