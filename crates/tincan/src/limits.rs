//! Every bound of the data plane, each with its reason.

use std::time::Duration;

// Handshake and control messages.

/// A signal's plaintext: a controller's message and its head; an offer with all candidates is under 2 KiB.
pub const SIGNAL_BYTES: usize = CONTROLLER_MESSAGE + 64;
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
/// Ways through members that one link checks at a time: each costs checks on three machines.
pub const WAYS: usize = 4;
/// Ways ever given to one ICE session; `is` never forgets one.
pub const WAYS_EVER: usize = 64;
/// Members through which a node says that it can be reached: both sides list them in the same order of preference.
pub const LISTED_MEMBERS: usize = 8;
/// Members that links choose from, of one network: in a large group each link that comes up is news for all that have no path yet.
pub const MEMBERS_CONSIDERED: usize = 64;
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
/// STUN servers of one network check: the report lists each.
pub const NETCHECK_SERVERS: usize = 16;

// Networks, links, forwarding.

/// Networks on one node: every one has a NIC.
pub const NETWORKS: usize = 16;
/// Peers of one network: what a mesh with links on demand is meant for, many times over.
pub const PEERS: usize = 1024;
/// Links of this node, all networks and attempts together: a link to every peer of two large networks. A link at rest takes
/// about 60 kB, and 32 bytes in the table of each lane that is used.
pub const LINKS: usize = 2048;
/// Own addresses of a network.
pub const OWN_ADDRESSES: usize = 16;
/// Inner addresses of one peer.
pub const PEER_ADDRESSES: usize = 16;
/// Bytes of a peer's name.
pub const PEER_NAME: usize = 255;
/// Names of one network's zone.
pub const NAMES: usize = 4 * PEERS;
/// Root keys kept here.
pub const ROOTS: usize = 256;
/// STUN and TURN servers of one network, each kind.
pub const SERVERS: usize = 16;
/// Candidates in one signal.
pub const CANDIDATES: usize = ICE_LOCAL_CANDIDATES;
/// Longest inner frame: the largest NIC MTU.
pub const FRAME: usize = 9000;
/// Smallest NIC MTU: IPv6 demands it (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1280;
/// Frames up to this pass over every path of 1280 bytes, whatever carries it and through whom; larger ones are watched.
pub const FRAME_SURE: usize = 1159;
/// Frames in one record: as many of the shortest as `FRAME_SURE` has room for, so no honest sender has more.
pub const RECORD_FRAMES: usize = FRAME_SURE / 20;
/// Size probes of one link that may still be answered: four full volleys.
pub const SIZE_PROBES: usize = 32;
/// Parts of one frame: the longest over the smallest path is 19.
pub const PARTS: usize = 24;
/// Frames that are cut, a second, all links together: what one thread of a slow machine puts together again.
pub const CUT_FRAMES_PER_SECOND: u32 = 40_000;
/// See `CUT_FRAMES_PER_SECOND`: fewer than wait for the engine at either end.
pub const CUT_FRAMES_BURST: u32 = 500;
/// Frames of one link that miss parts: more than are on their way at once where one after the other is cut.
pub const JOINS: usize = 64;
/// Bytes of parts of one link that wait.
pub const JOIN_BYTES: usize = 128 * 1024;
/// How long parts wait for the others: longer than wires hold things back.
pub const JOIN_TIME: Duration = Duration::from_secs(1);
/// Longest datagram that is looked at.
pub const DATAGRAM: usize = 65_535;
/// Frames that wait for one peer's link.
pub const STAGED_FRAMES: usize = 64;
/// Bytes of frames that wait, all peers together.
pub const STAGED_BYTES: usize = 8 << 20;
/// A controller's message over a link or in a signal, as the link API promises.
pub const CONTROLLER_MESSAGE: usize = 32 * 1024;
/// What a controller may have signed.
pub const SIGNED_PAYLOAD: usize = 16 * 1024;
/// A signal as it comes from the rendezvous.
pub const SIGNAL_BLOB: usize = 64 * 1024;
/// ICE user name fragment and password: RFC 8839 section 5.4 allows 256, ours are 16 and 32.
pub const ICE_CREDENTIAL: usize = 64;
/// `link.ping` calls of one link that wait for an answer.
pub const PINGS: usize = 16;
/// How long `link.ping` waits.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// `network.create` and `root.create` calls that wait for the machine.
pub const PENDING_CALLS: usize = 64;
/// Starts of a peer that are remembered, so that none of them is believed again.
pub const RETIRED_INSTANCES: usize = 16;
/// Signals of one peer that may cost us work, a second and at once.
pub const SIGNALS_PER_SECOND: u32 = 20;
/// See `SIGNALS_PER_SECOND`: a set-up with trickled candidates is under ten.
pub const SIGNALS_BURST: u32 = 60;
/// Paths of one link: valid pairs and addresses roamed to.
pub const PATHS: usize = 24;
/// Handshake datagrams that came before their pair was validated.
pub const EARLY_DATAGRAMS: usize = 8;
/// Probes of one link that wait for an answer.
pub const PROBES: usize = 64;
/// Broadcast and multicast frames of one network a second; every one is copied to all links.
pub const GROUP_FRAMES_PER_SECOND: u32 = 200;
/// See `GROUP_FRAMES_PER_SECOND`: a screenful of mDNS at start.
pub const GROUP_FRAMES_BURST: u32 = 400;
/// ICMP errors to our own host a second: RFC 4443 section 2.4 (f) asks for a bound.
pub const ICMP_PER_SECOND: u32 = 50;
/// See `ICMP_PER_SECOND`.
pub const ICMP_BURST: u32 = 50;
/// Messages of one peer's controller that came ahead of a missing one, while two handshakes carry them.
pub const MESSAGES_AHEAD: usize = 64;

const _: () = assert!(STAGED_FRAMES * FRAME <= STAGED_BYTES);
const _: () = assert!(MTU_MIN as usize <= FRAME && FRAME < DATAGRAM);
const _: () = assert!(CONTROLLER_MESSAGE + 64 < SIGNAL_BLOB);
