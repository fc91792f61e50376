//! The contract between the processes of IPOP and with everybody else who wants to drive it.
//!
//! Promises: plain data with a JSON form that is additive within a major version, held by a golden contract file.
//! Refuses to know: how any of it is done.
#![forbid(unsafe_code)]

pub mod cidr;
pub mod contract;
pub mod control;
pub mod ids;
pub mod link;
pub mod rendezvous;
pub mod rpc;
pub mod status;

pub use cidr::Cidr;
pub use ids::{Blob, NetworkId, NodeId, SessionId};
