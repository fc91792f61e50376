//! Bounds of the relay.

use std::time::Duration;

/// RFC 8656 section 3.2: what an allocation lives without being refreshed.
pub(super) const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);
/// RFC 8656 section 7.2: and at most.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// RFC 8656 section 9.
pub(super) const PERMISSION_TIME: Duration = Duration::from_secs(300);
/// RFC 8656 section 12.
pub(super) const CHANNEL_TIME: Duration = Duration::from_secs(600);
/// How long a nonce is good.
pub(super) const NONCE_TIME: Duration = Duration::from_secs(3600);
/// Peers of one allocation: links of one node.
pub(super) const PERMISSIONS_MAX: usize = 256;
/// Channels of one allocation.
pub(super) const CHANNELS_MAX: usize = 256;
/// Addresses in one CreatePermission request.
pub(super) const PEERS_PER_REQUEST: usize = 16;
/// Challenges to strangers over UDP a second: they are larger than what they answer, and the sender may
/// be forged.
pub(super) const CHALLENGES_PER_SECOND: u32 = 200;
/// One message of a client without allocation.
pub(super) const STRANGER_BYTES: usize = 2 * 1024;
/// One message of any client: the largest UDP payload with its header.
pub(super) const MESSAGE_BYTES: usize = 65_535 + 64;
/// Datagrams, or trains of them, that wait for one TCP or TLS client; more are lost, as datagrams may be.
pub(super) const STREAM_QUEUE: usize = 128;
/// And their bytes.
pub(super) const STREAM_BYTES: usize = 1 << 20;
/// How long a TCP or TLS client may be without allocation.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(10);
/// Ports after the main one that are tried for the second: near, so that a firewall rule can name both.
pub(super) const SECOND_PORT_TRIES: u16 = 32;
/// Tries to find a free port in the configured range.
pub(super) const PORT_TRIES: u32 = 32;
/// What one buffer takes: the largest datagram, or as much as the kernel joins.
pub(super) const TRAIN_BYTES: usize = 65_535;
/// Buffers that one system call fills. All of them are one turn: then others have theirs.
pub(super) const BATCH: usize = 4;
/// Room in the kernel for what waits at the socket that all clients send to: what 10 Gbit/s bring in 3 ms.
pub(super) const DOOR_ROOM: usize = 4 << 20;
/// The same at the socket of one allocation.
pub(super) const PEER_ROOM: usize = 4 << 20;
