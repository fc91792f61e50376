//! The lab: the real binary on real interfaces, in network namespaces behind real NATs.
//!
//! Promises: nothing leaves the namespaces; what a run makes it takes away again, and what a killed run left the next one
//! clears. Refuses to know: how IPOP works inside; it sees what a person sees, and what goes over the wires.

mod failure;
mod member;
mod namespace;
mod node;
pub mod oracle;
pub mod probe;
mod rendezvous;
mod rig;
mod rules;
mod site;
mod wait;
mod wire;

pub use failure::Failure;
pub use member::{is_through, joined_by_a_member, relay_nothing};
pub use namespace::{namespaces_of, remove};
pub use node::{Created, LINK_WITHIN, Node, Refusal, Role, binary, is_linked};
pub use rendezvous::{Accounts, Rendezvous};
pub use rig::{Host, Process, Rig, run, signal};
pub use site::Site;
pub use wait::until;
pub use wire::Delay;
