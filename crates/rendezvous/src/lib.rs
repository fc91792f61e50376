//! Where nodes find each other: adapters to rendezvous services and the embedded server.

pub mod client;
pub mod sasl;
pub mod server;
mod xml;
