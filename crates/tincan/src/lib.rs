//! The data plane as pure state machines: links (ICE, handshake, session, paths), the record layer, forwarding.
//!
//! Promises: no clock, randomness, socket, task or file inside; time is an argument, effects are returned values.
//! Refuses to know: XML, XMPP, who is a member and why, names of interfaces beyond the one it asks for.
#![forbid(unsafe_code)]

pub mod fast;
pub mod forward;
pub mod frame;
pub mod gather;
pub mod gauge;
pub mod handshake;
pub mod ice;
pub mod keys;
pub mod limits;
pub mod link;
pub mod netcheck;
pub mod node;
pub mod parts;
pub mod record;
pub mod replay;
pub mod session;
pub mod signal;
pub mod transit;
pub mod turn;
