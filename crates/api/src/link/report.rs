//! The answer of `net.check`.
//!
//! Promises: what was not found out is said to be unknown. Refuses to know: how it was found out.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the network around this machine allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetReport {
    /// Whether any UDP answer came.
    pub udp: bool,
    /// Own public IPv4 address as servers see it.
    pub ipv4: Option<SocketAddr>,
    /// Own public IPv6 address as servers see it.
    pub ipv6: Option<SocketAddr>,
    /// Whether a global IPv6 address is configured.
    pub ipv6_configured: bool,
    /// How the NAT maps (RFC 4787 section 4.1).
    pub mapping: NatKind,
    /// How the NAT filters (RFC 4787 section 5).
    pub filtering: NatKind,
    /// Whether the NAT turns datagrams to our own public address back; none: not known.
    pub hairpin: Option<bool>,
    /// Protocols by which the router maps ports for us: `pcp`, `nat_pmp`, `upnp`; none answered: empty; not tried: none.
    pub port_mapping: Option<Vec<String>>,
    /// Every server with what came of it.
    pub servers: Vec<ServerReport>,
}

/// RFC 4787 kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    /// Not found out: too few servers, or the server cannot help.
    #[default]
    Unknown,
    /// There is no NAT: own address equals public address.
    None,
    /// Same for every destination.
    EndpointIndependent,
    /// Same for every port of one destination; only a server at a second address could tell whether for every destination.
    PortIndependent,
    /// By destination address.
    AddressDependent,
    /// By destination address and port.
    AddressAndPortDependent,
    /// Nothing comes through at all.
    Blocked,
}

/// One server in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerReport {
    /// The server.
    pub server: SocketAddr,
    /// `stun`, `turn udp`, `turn tcp`, `turn tls`.
    pub service: String,
    /// Round trip, microseconds; none where it did not answer.
    pub rtt_us: Option<u64>,
    /// What went wrong, one sentence.
    pub fault: Option<String>,
}
