//! What forwarding decides with: reasons to drop and their counters, routes, groups, rates, and frames that wait.
//!
//! Promises: every frame or datagram that is dropped is counted under one reason; every queue has a bound and drops
//! its oldest aloud.
//! Refuses to know: keys, paths, sockets. The way of a frame is told in `fast`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::Cidr;

use crate::limits;
use crate::record;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable name, as `state.get` shows it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// No IPv4 or IPv6 frame of the length it says.
    Malformed = "malformed",
    /// A frame of the NIC whose source is no address of ours in the network.
    OwnSource = "own_source",
    /// A peer's frame whose source is not its own.
    Source = "source",
    /// A peer's frame that is neither for us nor for all.
    Destination = "destination",
    /// Nobody in the network has that address.
    NoRoute = "no_route",
    /// It waited for a link, and newer frames pushed it out.
    StagedFull = "staged_full",
    /// It waited for a link that was not made.
    LinkFailed = "link_failed",
    /// More broadcast and multicast than the network allows.
    GroupRate = "group_rate",
    /// Larger than the path carries.
    TooBig = "too_big",
    /// Parts of a frame that was cut and of which the rest did not come.
    Incomplete = "incomplete",
    /// The session's keys are used up.
    Exhausted = "keys_exhausted",
    /// A record for nobody here.
    UnknownReceiver = "unknown_receiver",
    /// A record of an epoch without a key.
    UnknownEpoch = "unknown_epoch",
    /// A record that came before.
    Replay = "replay",
    /// A record that the peer did not seal.
    Forged = "forged",
    /// A record too short, or of a lane that does not exist.
    BadRecord = "bad_record",
    /// A control record that makes no sense, from an authenticated peer.
    BadControl = "bad_control",
    /// A control message over a link that makes no sense, from an authenticated peer.
    BadMessage = "bad_message",
    /// A transit payload that makes no sense, from an authenticated peer.
    TransitForm = "transit_form",
    /// A datagram in transit for, from or through somebody with whom there is no link that may carry it.
    TransitLink = "transit_link",
    /// A datagram in transit that came over a path which itself goes through a member.
    TransitNested = "transit_nested",
    /// A datagram in transit that was passed on as often as it may be.
    TransitHops = "transit_hops",
    /// A STUN message that belongs to no link.
    Stun = "stun",
    /// A handshake datagram from an address that ICE has not validated.
    Handshake = "handshake",
    /// A datagram of no protocol of ours.
    Nonsense = "nonsense",
    /// A signal that was not sealed to us, or not signed by its sender.
    SignalSeal = "signal_seal",
    /// A signal that cannot be read.
    SignalForm = "signal_form",
    /// A signal that was seen before, or overtaken by a newer one.
    SignalStale = "signal_stale",
    /// A signal for a link that does not exist.
    SignalSession = "signal_session",
    /// More signals than one peer may send.
    SignalRate = "signal_rate",
    /// A signal of a node that is no peer.
    SignalStranger = "signal_stranger",
}

impl From<record::DropReason> for DropReason {
    fn from(reason: record::DropReason) -> Self {
        match reason {
            record::DropReason::UnknownEpoch => Self::UnknownEpoch,
            record::DropReason::Replay => Self::Replay,
            record::DropReason::Forged => Self::Forged,
            record::DropReason::Exhausted => Self::Exhausted,
            record::DropReason::Short | record::DropReason::UnknownLane => Self::BadRecord,
        }
    }
}

/// Counts drops by reason; shared by all threads.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// To be called once for each thing dropped.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// The same for several at once.
    pub fn add(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Every reason that occurred.
    pub fn to_map(&self) -> BTreeMap<String, u64> {
        let all = DropReason::ALL.iter().map(|r| (r.name().to_owned(), self.get(*r)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

/// Whether a frame to `destination` is for everybody in a network with these subnets.
pub fn is_group(destination: IpAddr, subnets: &[Cidr]) -> bool {
    match destination {
        IpAddr::V6(ip) => ip.is_multicast(),
        IpAddr::V4(ip) => {
            ip.is_multicast() || ip.is_broadcast() || subnets.iter().any(|s| subnet_broadcast(*s) == Some(ip))
        }
    }
}

fn subnet_broadcast(subnet: Cidr) -> Option<Ipv4Addr> {
    let IpAddr::V4(ip) = subnet.address else {
        return None;
    };
    // RFC 3021: a /31 has no broadcast address; a /32 is one host.
    let host_bits = u32::MAX.checked_shr(u32::from(subnet.prefix)).unwrap_or(0);
    (host_bits > 1).then(|| (ip.to_bits() | host_bits).into())
}

/// Lets so many things a second pass.
#[derive(Debug)]
pub struct Rate {
    each: Duration,
    depth: Duration,
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self {
            each,
            depth: each * burst.max(1),
            full_at: None,
        }
    }

    /// Whether one more may pass now; if so, it is counted.
    pub fn allows(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.each;
        if full_at.saturating_duration_since(now) > self.depth {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }
}

/// Frames that wait for one peer's link.
#[derive(Debug, Default)]
pub struct Staged(VecDeque<Vec<u8>>);

impl Staged {
    /// Adds a frame; returns what was pushed out for it.
    pub fn push(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        self.0.push_back(frame);
        if self.0.len() > limits::STAGED_FRAMES {
            self.0.pop_front()
        } else {
            None
        }
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.0.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_known_in_both_families() {
        let subnets: Vec<Cidr> = ["10.5.0.7/16", "fd00::7/48", "10.9.0.0/31", "10.9.0.9/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (ip, group) in [
            ("255.255.255.255", true),
            ("10.5.255.255", true),
            ("224.0.0.251", true),
            ("239.255.255.250", true),
            ("ff02::fb", true),
            ("10.5.0.255", false),
            ("10.6.255.255", false),
            ("10.9.0.1", false),
            ("10.9.0.9", false),
            ("fd00::ffff", false),
        ] {
            assert_eq!(is_group(ip.parse().unwrap(), &subnets), group, "{ip}");
        }
    }

    #[test]
    fn rate_lets_a_burst_and_then_its_share_pass() {
        let start = Instant::now();
        let mut rate = Rate::new(10, 5);
        let passed = |rate: &mut Rate, at: Instant| (0..100).filter(|_| rate.allows(at)).count();
        assert_eq!(passed(&mut rate, start), 5);
        assert_eq!(passed(&mut rate, start), 0);
        assert_eq!(passed(&mut rate, start + Duration::from_millis(200)), 2);
        assert_eq!(passed(&mut rate, start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn a_full_queue_gives_up_its_oldest() {
        let mut staged = Staged::default();
        for n in 0..limits::STAGED_FRAMES {
            assert_eq!(staged.push(vec![n as u8]), None);
        }
        assert_eq!(staged.push(vec![99]), Some(vec![0]));
        assert_eq!(staged.len(), limits::STAGED_FRAMES);
    }

    #[test]
    fn drops_are_named_once_each() {
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        let drops = Drops::default();
        drops.add(DropReason::Source, 2);
        assert_eq!(drops.to_map(), BTreeMap::from([("source".to_owned(), 2)]));
    }
}
