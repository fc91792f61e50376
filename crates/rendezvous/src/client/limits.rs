//! Every bound of the client, each with its reason.

use std::time::Duration;

/// One element before login: features with many mechanisms, a SCRAM message.
pub(super) const STANZA_BYTES_STRANGER: usize = 10 * 1024;
/// What is read from the socket at once.
pub(super) const READ_BYTES: usize = 4 * 1024;
/// Bytes waiting for the socket before commands wait too: two of the longest blobs.
pub(super) const OUT_BYTES: usize = 300 * 1024;
/// Events waiting for the controller before the stream waits too.
pub(super) const EVENTS_WAITING: usize = 64;

/// One TCP connection attempt.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(3);
/// All names, addresses and TLS handshakes together, and the moment at which a slow login is told to people, who are promised a
/// word within five seconds.
pub(super) const VERDICT_TIME: Duration = Duration::from_millis(3_500);
/// Silence of a server after which a login that takes long is told of: on a line that loses, TCP sends again three times in it.
pub(super) const SILENCE_TIME: Duration = Duration::from_millis(2_500);
/// From the connection to the room, on the slowest line.
pub(super) const LOGIN_TIME: Duration = Duration::from_secs(20);
/// The next address is tried beside the first after this (RFC 8305 section 5).
pub(super) const STAGGER_TIME: Duration = Duration::from_millis(250);
/// One name look-up.
pub(super) const LOOKUP_TIME: Duration = Duration::from_millis(2_500);
/// Addresses tried for one login.
pub(super) const CANDIDATES_MAX: usize = 16;
/// Leaving politely.
pub(super) const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// First and longest wait between tries.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// See [`BACKOFF_FIRST`]; where only a person can help, the first wait is [`BACKOFF_HOPELESS`].
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A wrong password does not become right: servers lock out who hammers.
pub(super) const BACKOFF_HOPELESS: Duration = Duration::from_secs(15);
/// A stay of this length forgets earlier failures.
pub(super) const STAY_COUNTS: Duration = Duration::from_secs(30);

/// Silence after which the server is asked whether it lives (F-02: found within 45 s when idle).
pub(super) const IDLE_TIME: Duration = Duration::from_secs(30);
/// How long the answer may take (F-02: 10 s with something pending).
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How often the room is asked whether it still knows us (XEP-0410).
pub(super) const ROOM_CHECK_TIME: Duration = Duration::from_secs(300);
/// The lock of a room that its maker still sets up lasts a round trip or two.
pub(super) const LOCKED_RETRY: Duration = Duration::from_millis(400);
/// Tries to enter a locked room.
pub(super) const JOIN_TRIES: u32 = 8;
/// Unanswered questions of all kinds.
pub(super) const ASKED_MAX: usize = 256;
/// Copies of blobs kept for a second way (room refuses IQ).
pub(super) const COPIES_BYTES: usize = 512 * 1024;
/// How long an occupant may take to answer; it costs only a table entry.
pub(super) const PEER_ANSWER_TIME: Duration = Duration::from_secs(30);
/// Components of a server asked whether they are rooms.
pub(super) const COMPONENTS_MAX: usize = 16;

/// Bytes of one card.
pub(super) const CARD_BYTES: usize = 4 * 1024;
/// Bytes of one blob.
pub(super) const BLOB_BYTES: usize = 96 * 1024;
/// Occupants remembered; about 100 bytes each.
pub(super) const OCCUPANTS_MAX: usize = 4_096;
/// A JID's longest resource (RFC 7622 section 3.4).
pub(super) const RESOURCE_BYTES: usize = 1_023;
/// External services looked at.
pub(super) const SERVICES_MAX: usize = 16;
/// Length of a service's credentials (RFC 8489: user names under 509 bytes).
pub(super) const CREDENTIAL_BYTES: usize = 508;
/// Services are asked for again at least this often and at most this rarely.
pub(super) const RENEW_MIN: Duration = Duration::from_secs(60);
/// See [`RENEW_MIN`].
pub(super) const RENEW_MAX: Duration = Duration::from_secs(12 * 3600);
