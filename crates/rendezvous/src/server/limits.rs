//! Every bound of the server, each with its reason.

use std::time::Duration;

pub(super) use crate::xml::STANZA_BYTES_MAX;

/// One element before login: the longest honest one is a SCRAM message.
pub(super) const STANZA_BYTES_STRANGER: usize = 10 * 1024;
/// What is read from a socket at once.
pub(super) const READ_BYTES: usize = 8 * 1024;

/// From the first byte to the bound resource.
pub(super) const LOGIN_TIME: Duration = Duration::from_secs(10);
/// Silence after which a client is pinged.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long the answer to that ping may take.
pub(super) const PING_TIME: Duration = Duration::from_secs(30);
/// How long one write may stand still.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);

/// Connections of all kinds; a family or a lab, not a provider.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// Connections from one IPv4 address or IPv6 /64: a lab behind one NAT.
pub(super) const CONNECTIONS_PER_ADDRESS: usize = 64;
/// Stanzas waiting for one client.
pub(super) const OUTBOX_STANZAS: usize = 512;
/// Bytes waiting for one client.
pub(super) const OUTBOX_BYTES: usize = 1024 * 1024;

/// Accounts on this server.
pub(super) const ACCOUNTS_MAX: usize = 1_024;
/// Resources of one account.
pub(super) const SESSIONS_PER_ACCOUNT: usize = 16;
/// Contacts of one account.
pub(super) const ROSTER_ITEMS_MAX: usize = 256;
/// Subscription requests that wait for one account.
pub(super) const ROSTER_REQUESTS_MAX: usize = 64;
/// Groups and name of one contact, in bytes.
pub(super) const ROSTER_TEXT_MAX: usize = 1_024;
/// Addresses that get a client's unavailable presence because they got a directed one.
pub(super) const DIRECTED_MAX: usize = 256;
/// Rooms.
pub(super) const ROOMS_MAX: usize = 256;
/// Occupants of one room.
pub(super) const OCCUPANTS_MAX: usize = 256;
/// Rooms that one client is in.
pub(super) const ROOMS_PER_SESSION: usize = 32;
/// One occupant's presence: it is kept and sent to everybody who joins.
pub(super) const PRESENCE_BYTES_MAX: usize = 16 * 1024;

/// Wrong passwords and tokens from one address in [`FAILURE_WINDOW`].
pub(super) const FAILURES_MAX: u32 = 10;
/// The window for [`FAILURES_MAX`].
pub(super) const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered; the oldest is forgotten first.
pub(super) const FAILURE_ADDRESSES: usize = 1_024;
/// Wrong passwords on one connection.
pub(super) const FAILURES_PER_CONNECTION: u32 = 3;

/// The state file: accounts with full rosters stay below it.
pub(super) const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const _: () = assert!(STANZA_BYTES_MAX <= OUTBOX_BYTES);
const _: () = assert!(STANZA_BYTES_STRANGER <= STANZA_BYTES_MAX);
