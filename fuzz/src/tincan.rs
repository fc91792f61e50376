//! What reaches the data plane from sockets, NICs and peers.

pub(crate) mod ice;
pub(crate) mod joined;
pub(crate) mod link;
pub(crate) mod node;
pub(crate) mod parts;
pub(crate) mod records;
pub(crate) mod servers;
pub(crate) mod signals;
pub(crate) mod transit;
