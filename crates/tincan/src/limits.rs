//! Every bound of the crate with its reason.

// Handshake and control messages.

/// A signal's plaintext: an offer with all candidates is under 4 KiB, XMPP servers pass stanzas of 64 KiB at least.
pub const SIGNAL_BYTES: usize = 16 * 1024;
/// One control message over a link's stream: a membership log entry or a page of gossip is far smaller.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Control messages of a link that wait for the peer's window; beyond it `send_message` says so.
pub const MESSAGE_BACKLOG: usize = 256 * 1024;
/// Control messages received that the caller has not polled; beyond it the stream's window closes.
pub const MESSAGE_INBOX: usize = 256 * 1024;
/// Datagrams longer than this are no handshake datagrams of ours, which are at most 1200 bytes and a tag.
pub const HANDSHAKE_DATAGRAM: usize = 2048;

// ICE.

/// Candidates taken from one peer, and addresses learnt from its checks (RFC 8445 section 19: attack by candidates).
pub const ICE_REMOTE_CANDIDATES: usize = 32;
/// Own candidates: a host with more interfaces is a router, and the first ones do.
pub const ICE_LOCAL_CANDIDATES: usize = 32;
/// Candidates ever added to one ICE session; `is` never forgets one.
pub const ICE_LOCALS_EVER: usize = 256;
/// Mapped addresses that a peer may name before its answers are ignored; `is` keeps each.
pub const ICE_MAPPED_ADDRESSES: usize = 64;
/// Pairs of one agent: the RFC's default.
pub const ICE_PAIRS: usize = 100;
/// Checks a second of one agent: what a peer's candidates can make us send.
pub const ICE_CHECKS_PER_SECOND: u32 = 50;
/// Checks that may leave at Ta before the rate applies: a first round over the usual pairs.
pub const ICE_CHECK_BURST: u32 = 20;
/// Checks of the peer held until its credentials come.
pub const ICE_EARLY_CHECKS: usize = 8;
/// Checks whose answer is still looked for: 10 s at the full rate would be 500, retransmits need far less.
pub const ICE_ATTEMPTS: usize = 256;
/// Events not yet taken.
pub const ICE_EVENTS: usize = 64;
/// A check or its answer; ours are under 120 bytes.
pub const ICE_STUN_BYTES: usize = 1280;
/// Transactions of all links that wait for an answer.
pub const STUN_TRANSACTIONS: usize = 8192;

// TURN.

/// Hosts at which addresses are allocated: more candidates make checks slower, not links likelier.
pub const TURN_HOSTS: usize = 3;
/// Permissions, and channels, of one allocation: each is refreshed every four minutes while used.
pub const TURN_PERMISSIONS: usize = 256;
/// Datagrams to one peer that wait for its permission: a round of checks.
pub const TURN_HELD_EACH: usize = 16;
/// Datagrams that wait for permissions at one server.
pub const TURN_HELD: usize = 256;
/// Outputs not yet taken; beyond it data is dropped, never control.
pub const TURN_OUTPUTS: usize = 4096;
/// Rounds of one call into the client: far above what one input can cause.
pub const TURN_PUMP_ROUNDS: usize = 32;

// Gathering.

/// Host candidates: a host with more addresses is a router, and the first ones do.
pub const HOST_CANDIDATES: usize = 16;
/// STUN servers asked, of each family: two agree, the third is for when one is down.
pub const STUN_SERVERS: usize = 3;
/// Port mappings at once: one for each family and protocol, and their successors.
pub const PORT_MAPPINGS: usize = 6;
