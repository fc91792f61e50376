//! Bounds of everything that others can make us keep, and every waiting time: each with its reason.

use std::time::Duration;

/// Bytes of one log entry: an ejection that keeps 48 admissions is the largest thing that fits a purpose.
pub const ENTRY_BYTES_MAX: usize = 2048;
/// Entries in one log: a thousand members with four entries each.
pub const LOG_ENTRIES_MAX: usize = 4096;
/// Of these, kept free for what the root signs: a member that floods the log must not keep out its own ejection.
pub const LOG_ROOT_RESERVE: usize = 256;
/// Bytes in one log: 4096 admissions of 340 bytes would be more, but then the mesh is long past its size.
pub const LOG_BYTES_MAX: usize = 1 << 20;
/// Entries kept although what they build on has not come yet: a few parts of a gossip that arrive out of order.
pub const ORPHANS_MAX: usize = 256;
/// Admissions that one ejection can keep: fills an entry.
pub const EJECTION_KEEPS_MAX: usize = 48;
/// Letters of a host name: leaves room for a clash suffix in a DNS label of 63.
pub const HOST_NAME_MAX: usize = 40;
/// Letters of a group name, as the control API says.
pub const GROUP_NAME_MAX: usize = 32;
/// Uses of one invite, as the control API says.
pub const INVITE_USES_MAX: u32 = 1000;
/// Seconds an invite is good for, as the control API says.
pub const INVITE_SECONDS: std::ops::RangeInclusive<u64> = 60..=31_536_000;
/// Characters of an invite link that we read: eight long host names and a long token fit.
pub const INVITE_CHARS_MAX: usize = 4096;
/// Seconds by which clocks may differ before an invite counts as expired.
pub const CLOCK_TOLERANCE_S: u64 = 600;
/// Bytes of a presence card, as rendezvous adapters carry it.
pub const CARD_BYTES_MAX: usize = 4096;
/// Entries in a card: what 4 KiB can hold at all.
pub const CARD_ENTRIES_MAX: usize = 40;
/// Bytes of a message between controllers, as `peer.send` and `signal.seal` carry it.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Bytes of entries put into one message: leaves room for the frame around them.
pub const MESSAGE_ENTRY_BYTES: usize = 28 * 1024;
/// Entry names in one `Have` message: 16 bytes each, 24 KiB.
pub const HAVE_IDS_MAX: usize = 1500;
/// Bytes of a blob that comes over a rendezvous, as `signal.deliver` takes it.
pub const BLOB_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a blob that a member relays: fits a message with its frame.
pub const RELAY_BLOB_MAX: usize = 31 * 1024;
/// Characters of a refusal that we show.
pub const SENTENCE_MAX: usize = 300;
/// Bytes of the store file: 16 groups with full logs in base64 would be 22 MiB; ten full ones are more than anybody has.
pub const STORE_BYTES_MAX: usize = 16 << 20;
/// Groups on one machine: each costs a NIC and a rendezvous connection.
pub const GROUPS_MAX: usize = 16;
/// Members up to which everybody is linked to everybody.
pub const FULL_MESH_MAX: usize = 32;
/// Occupants of a room that we remember: the members of the largest group, twice.
pub const OCCUPANTS_MAX: usize = 2048;
/// Cards kept whose chain we do not know yet.
pub const UNKNOWN_CARDS_MAX: usize = 64;
/// Occupants that we send to for one node: copies of a card must not hide its owner.
pub const SEATS_PER_NODE: usize = 3;
/// Senders whose blobs wait for a delivery.
pub const INBOX_SENDERS_MAX: usize = 256;
/// Blobs that wait per sender: an offer with its trickled candidates, twice.
pub const INBOX_BLOBS_MAX: usize = 64;
/// Offers of nodes that we do not know yet, kept until the log tells of them.
pub const STRANGER_BLOBS_MAX: usize = 32;
/// How long those are kept: gossip takes less, an offer lives little longer.
pub const STRANGER_KEPT: Duration = Duration::from_secs(10);
/// Join requests that wait while one is being signed.
pub const JOIN_QUEUE_MAX: usize = 32;
/// How long one sender's blobs wait for its join request to be answered.
pub const SPONSOR_WAIT: Duration = Duration::from_secs(5);
/// Sponsors that a joiner asks.
pub const SPONSORS_MAX: usize = 3;
/// After this without an answer the joiner asks one more.
pub const SPONSOR_PATIENCE: Duration = Duration::from_secs(2);
/// Names that a joiner tries whose user chose none; each costs a round trip.
pub const JOIN_NAMES_MAX: usize = 16;
/// How long a join may take.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a creation waits for its rendezvous.
pub const CREATE_DEADLINE: Duration = Duration::from_secs(10);
/// How long an unreachable rendezvous may go on retrying before `create` and `join` give up: said within five seconds.
pub const UNREACHABLE_GRACE: Duration = Duration::from_secs(3);
/// How long a leaver waits for members to hear of it.
pub const LEAVE_LINGER: Duration = Duration::from_millis(800);
/// How long a ping waits for a link.
pub const PING_LINK_WAIT: Duration = Duration::from_secs(5);
/// The node with the higher id lets the other open for so long.
pub const OPEN_COURTESY: Duration = Duration::from_secs(1);
/// An opening that says nothing for so long is asked for again.
pub const OPEN_PATIENCE: Duration = Duration::from_secs(15);
/// Waiting times before a lost link is opened again, milliseconds; the last repeats.
pub const REOPEN_MS: [u64; 8] = [200, 500, 1000, 2000, 4000, 8000, 16_000, 30_000];
/// A peer that was linked so lately is tried although no rendezvous shows it.
pub const LINKED_LATELY: Duration = Duration::from_secs(300);
/// After a call of ours failed, what should be is compared with what is again.
pub const RESYNC: Duration = Duration::from_secs(3);
/// Signals that a member relays for another at once, and the rate after that (per second).
pub const RELAY_BURST: f64 = 60.0;
/// See [`RELAY_BURST`].
pub const RELAY_RATE: f64 = 10.0;
/// Relaying members asked for one signal.
pub const RELAYS_PER_SIGNAL: usize = 2;
/// STUN and TURN servers taken from one rendezvous, each.
pub const SERVERS_MAX: usize = 16;
/// Control requests that may be outstanding.
pub const REQUESTS_MAX: usize = 256;
