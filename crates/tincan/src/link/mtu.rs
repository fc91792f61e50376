//! How large a frame the path in use carries: path MTU discovery by probes (DPLPMTUD, RFC 8899), one machine a link.
//!
//! A *size* is the length of an inner frame as a worker seals it (the RFC's PLPMTU less our own overhead). Probes leave
//! in *volleys*: some sizes, the largest first, and behind them a *marker*, a probe without padding. A size is missed
//! when the marker was answered and it was not: so neither a path that is wholly dead nor a slow one says anything about
//! sizes, and no round trip has to be guessed (RFC 8899 section 4.3 asks that black holes be told from dead paths).
//!
//! Hope: the usual size is used at once and asked for -> (missed) -> Search: what the path carries is narrowed down,
//! frames above the size in use are cut meanwhile -> Watch: while large frames flow the size is confirmed several times
//! a second -> (missed `MISSES` times in a row) -> Search from the base. The words of RFC 8899 section 5.2: Base and
//! Search are ours, Watch is Search Complete with the confirmation of section 5.1.4, Error is a size below `BASE`.
//!
//! Promises: a lost probe changes nothing; an idle link sends none; what is on its way is bounded.
//! Refuses to know: how probes are sealed and sent, which path is used, what an ICMP error says (a socket that sets
//! "don't fragment" and probes hears none; what the own kernel refuses comes to `on_refused`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits;

/// What an outer MTU of 1280 bytes (RFC 8200 section 5) leaves of a frame on the most costly way: IPv6 40, UDP 8,
/// channel data 4, record 28. RFC 8899 section 5.1.2 calls it BASE_PLPMTU.
const BASE: usize = 1200;
const _: () = assert!(limits::FRAME_SURE == BASE - crate::transit::OVERHEAD);
/// Used before anything is known: right on nearly every path, and nothing is lost where it is not (see `Hope`).
const USUAL: usize = 1400;
/// Less is not looked for: an outer MTU of about 576 bytes, the least that IPv4 knows (MIN_PLPMTU).
const FLOOR: usize = 480;
/// Outer MTUs that paths really have: tunnels, PPPoE, Ethernet, jumbo.
const OUTER: [usize; 17] = [
    1280, 1320, 1360, 1380, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 2000, 3000, 4000, 8000, 9000,
];
/// The search ends when the size is known this well.
const GRAIN: usize = 16;
/// Sizes of one volley.
const ROUND: usize = 6;
/// A size of the search is refused when it was missed so often (RFC 8899 section 5.1.2, MAX_PROBES).
const TRIES: u32 = 3;
/// Between the tries, each time so much more: a queue that overflows drops large datagrams before small ones.
const PAUSE: Duration = Duration::from_millis(50);
/// The size in use is given up when so many volleys missed it in a row; from the second on each asks twice.
const MISSES: u32 = 2;
/// What is sent before the marker may come so much after it, and by an eighth of the round trip.
const SLACK: Duration = Duration::from_millis(20);
/// A volley without an answer to its marker says nothing after two round trips and this, doubled each time.
const PATIENCE: Duration = Duration::from_millis(250);
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Larger sizes than the one found are tried again after this, while traffic flows, then less and less often: what was
/// found under heavy load may be wrong.
const RAISE_FIRST: Duration = Duration::from_secs(10);
/// At last so often (PMTU_RAISE_TIMER of RFC 8899 section 5.1.1: 600 s).
const RAISE_LAST: Duration = Duration::from_secs(300);
/// A relayed path is asked after this: until a channel is bound, the way there costs more bytes.
const RELAY_FIRST: Duration = Duration::from_secs(1);
/// Volleys that may leave without traffic: more than the longest search has.
const BUDGET: u32 = 30;
/// A round trip where none was measured yet.
const RTT: Duration = Duration::from_millis(200);

/// What a path is like, as far as sizes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) is_relayed: bool,
    pub(crate) is_v6: bool,
    /// Bytes that a member's link puts around a datagram.
    pub(crate) wrapping: usize,
    pub(crate) rtt: Option<Duration>,
}

impl Way {
    /// Bytes of the outer IP datagram beside the frame.
    fn overhead(self) -> usize {
        let ip = if self.is_v6 { 40 } else { 20 };
        let channel = if self.is_relayed { crate::fast::CHANNEL } else { 0 };
        ip + 8 + channel + self.wrapping + crate::record::OVERHEAD
    }
}

/// A probe to be sent: `size` bytes of payload on lane 0, kind and token included; 0: as short as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeProbe {
    pub(crate) token: u64,
    pub(crate) size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The path is new: does what is hoped for pass?
    Hope,
    /// What passes is narrowed down; the round was sent so often already.
    Search { tries: u32 },
    /// The size is found; it was missed so often in a row.
    Watch { misses: u32 },
}

/// Probes on their way together.
#[derive(Debug)]
struct Volley {
    /// Not answered yet.
    sizes: Vec<usize>,
    marker: u64,
    /// Without an answer to the marker it is over then; with one, so is the time of stragglers.
    until: Instant,
    is_answered: bool,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// The NIC's MTU: nothing larger is ever wanted.
    top: usize,
    overhead: usize,
    /// What passes nearly everywhere: `BASE`, less on a way through a member.
    base: usize,
    size: usize,
    /// The largest size known to pass.
    low: usize,
    /// The smallest size known not to.
    high: usize,
    aim: Aim,
    /// Sizes of the present round of the search that were not answered.
    round: Vec<usize>,
    is_settled: bool,
    volley: Option<Volley>,
    /// Nothing is sent before.
    rest_until: Option<Instant>,
    raise_at: Option<Instant>,
    raise_after: Duration,
    budget: u32,
    patience: Duration,
    rtt: Duration,
    recent: VecDeque<(SizeProbe, Instant)>,
    next_token: u64,
    out: VecDeque<SizeProbe>,
    is_news: bool,
}

impl Mtu {
    /// For a link whose NIC has this MTU; nothing happens before `start`.
    pub(crate) fn new(top: usize) -> Self {
        Self {
            top,
            overhead: 0,
            base: BASE,
            size: top.min(USUAL),
            low: FLOOR,
            high: top + 1,
            aim: Aim::Hope,
            round: Vec::new(),
            is_settled: false,
            volley: None,
            rest_until: None,
            raise_at: None,
            raise_after: RAISE_FIRST,
            budget: 0,
            patience: PATIENCE,
            rtt: RTT,
            recent: VecDeque::new(),
            next_token: 0,
            out: VecDeque::new(),
            is_news: false,
        }
    }

    /// The largest frame to be sent whole.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether `size` is what the path carries; if not, larger frames are better cut than refused, as a host remembers
    /// a refusal for minutes.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Probes that may still be answered.
    pub(crate) fn probes_out(&self) -> usize {
        self.recent.len()
    }

    /// Whether size or certainty changed since this was asked last.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    /// The next probe to send.
    pub(crate) fn poll_probe(&mut self) -> Option<SizeProbe> {
        self.out.pop_front()
    }

    /// Another path is in use: what was known of the one before is forgotten.
    pub(crate) fn start(&mut self, now: Instant, way: Way) {
        let next_token = self.next_token;
        *self = Self {
            overhead: way.overhead(),
            base: BASE - way.wrapping,
            rest_until: Some(if way.is_relayed { now + RELAY_FIRST } else { now }),
            budget: BUDGET,
            rtt: way.rtt.unwrap_or(RTT),
            next_token,
            is_news: true,
            ..Self::new(self.top)
        };
        self.handle_timeout(now);
    }

    /// The NIC's MTU is another one.
    pub(crate) fn set_top(&mut self, now: Instant, top: usize) {
        if self.top == top {
            return;
        }
        self.top = top;
        self.size = self.size.min(top);
        self.low = self.low.min(top);
        self.is_settled = false;
        self.is_news = true;
        self.high = top + 1;
        // A path that was not asked yet will be.
        if self.aim != Aim::Hope {
            self.begin(now);
        }
    }

    /// The peer sent a token back.
    pub(crate) fn on_answer(&mut self, now: Instant, token: u64) {
        let Some(at) = self.recent.iter().position(|(probe, _)| probe.token == token) else {
            return;
        };
        let Some((probe, sent)) = self.recent.remove(at) else {
            return;
        };
        if probe.size == 0 {
            self.rtt = now.saturating_duration_since(sent);
            self.patience = PATIENCE;
            let slack = SLACK + self.rtt / 8;
            if let Some(volley) = self.volley.as_mut().filter(|volley| volley.marker == token) {
                volley.is_answered = true;
                volley.until = now + slack;
            }
        } else {
            self.on_pass(probe.size);
        }
        if self.volley.as_ref().is_some_and(|volley| volley.sizes.is_empty()) {
            self.conclude(now);
        }
    }

    fn on_pass(&mut self, size: usize) {
        self.low = self.low.max(size);
        if self.high <= self.low {
            self.high = self.top + 1;
        }
        if self.low > self.size {
            self.set_size(self.low);
        }
        let low = self.low;
        self.round.retain(|size| *size > low);
        if let Some(volley) = &mut self.volley {
            volley.sizes.retain(|size| *size > low);
        }
        if let Aim::Watch { misses } = &mut self.aim
            && size >= self.size
        {
            *misses = 0;
        }
    }

    /// The kernel refused a frame of this size: the way out of this very machine is too small.
    pub(crate) fn on_refused(&mut self, now: Instant, size: usize) {
        if size >= self.high || size <= FLOOR {
            return;
        }
        self.high = size;
        self.round.retain(|other| *other < size);
        if let Some(volley) = &mut self.volley {
            volley.sizes.retain(|other| *other < size);
        }
        if size <= self.size {
            self.fall(now, size);
        }
    }

    /// The counters of the link were looked at: whether they moved, and whether frames above `BASE` left.
    pub(crate) fn on_look(&mut self, now: Instant, moved: bool, large: bool) {
        if !moved {
            return;
        }
        self.budget = BUDGET;
        if self.volley.is_some() || self.rest_until.is_some() {
            return;
        }
        match self.aim {
            Aim::Hope | Aim::Search { .. } => self.go_on(now),
            Aim::Watch { .. } if self.raise_at.is_some_and(|at| now >= at) => {
                self.high = self.top + 1;
                self.search(now);
            }
            Aim::Watch { .. } if large && self.size > self.base => self.send(now, vec![self.size]),
            Aim::Watch { .. } => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.rest_until.or(self.volley.as_ref().map(|volley| volley.until))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.rest_until.take_if(|at| now >= *at).is_some() {
            self.go_on(now);
        } else if let Some(volley) = self.volley.as_ref().filter(|volley| now >= volley.until) {
            if volley.is_answered {
                self.conclude(now);
            } else {
                self.volley = None;
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
                self.go_on(now);
            }
        }
    }

    /// What the volley says.
    fn conclude(&mut self, now: Instant) {
        let missed = self.volley.take().map(|volley| volley.sizes).unwrap_or_default();
        match self.aim {
            Aim::Hope if self.low >= self.top => self.settle(now),
            Aim::Hope => {
                // It costs little to cut for a round trip what may be too large.
                if self.low < self.size {
                    self.set_size(self.base.min(self.size));
                }
                self.search(now);
            }
            Aim::Search { .. } if missed.is_empty() => self.search(now),
            Aim::Search { tries } => self.on_missed(now, tries + 1, missed),
            Aim::Watch { .. } if missed.is_empty() => self.aim = Aim::Watch { misses: 0 },
            Aim::Watch { misses } if misses + 1 < MISSES => {
                self.aim = Aim::Watch { misses: misses + 1 };
                self.go_on(now);
            }
            Aim::Watch { .. } => self.fall(now, self.top + 1),
        }
    }

    /// Of the present round these were missed; it was sent so often.
    fn on_missed(&mut self, now: Instant, tries: u32, missed: Vec<usize>) {
        let (above, base): (Vec<usize>, Vec<usize>) = missed.into_iter().partition(|size| *size > self.base);
        // That less than the base passes is so unlikely that it is asked twice as often.
        let is_base_new = self.high > self.base;
        let is_base_alone = is_base_new && above.is_empty();
        let is_over = tries >= if is_base_alone { 2 * TRIES } else { TRIES };
        self.round = [above, base].concat();
        if !is_over {
            self.aim = Aim::Search { tries };
            self.rest_until = Some(now + PAUSE * tries);
            return;
        }
        self.round.retain(|size| {
            let stays = *size <= self.base && is_base_new && tries < 2 * TRIES;
            if !stays {
                self.high = self.high.min(*size);
            }
            stays
        });
        if self.round.is_empty() {
            return self.search(now);
        }
        self.aim = Aim::Search { tries };
        self.go_on(now);
    }

    /// The size in use does not pass any more: a black hole (RFC 8899 section 4.3). Tried again with the rest: it may
    /// have been chance.
    fn fall(&mut self, now: Instant, high: usize) {
        self.low = FLOOR;
        self.high = high;
        let base = if self.base < high { self.base } else { FLOOR };
        self.set_size(self.size.min(base));
        self.is_settled = false;
        self.raise_after = RAISE_FIRST;
        self.begin(now);
    }

    /// Searches at once, whatever is on its way.
    fn begin(&mut self, now: Instant) {
        self.budget = BUDGET;
        self.volley = None;
        self.rest_until = None;
        self.search(now);
    }

    /// The next round between what passes and what does not, if they are not close enough.
    fn search(&mut self, now: Instant) {
        self.round = round(self.low, self.high, (self.base, self.top), self.overhead);
        if self.round.is_empty() {
            return self.settle(now);
        }
        self.aim = Aim::Search { tries: 0 };
        self.go_on(now);
    }

    fn settle(&mut self, now: Instant) {
        self.aim = Aim::Watch { misses: 0 };
        self.set_size(self.low);
        self.raise_at = (self.low < self.top).then(|| now + self.raise_after);
        self.raise_after = (self.raise_after * 2).min(RAISE_LAST);
        self.is_news |= !self.is_settled;
        self.is_settled = true;
    }

    fn set_size(&mut self, size: usize) {
        self.is_news |= self.size != size;
        self.size = size;
    }

    /// Sends what is to be asked now, if anything.
    fn go_on(&mut self, now: Instant) {
        let sizes = match self.aim {
            Aim::Hope => {
                let mut sizes = vec![self.top, self.size];
                sizes.retain(|size| *size > self.low && *size < self.high);
                sizes.dedup();
                sizes
            }
            // All of it was answered late, or refused by the kernel.
            Aim::Search { .. } if self.round.is_empty() => return self.search(now),
            Aim::Search { .. } => self.round.clone(),
            Aim::Watch { misses: 0 } => Vec::new(),
            Aim::Watch { .. } => vec![self.size; 2],
        };
        if !sizes.is_empty() {
            self.send(now, sizes);
        }
    }

    fn send(&mut self, now: Instant, sizes: Vec<usize>) {
        if self.volley.is_some() || self.rest_until.is_some() || self.budget == 0 {
            return;
        }
        self.budget -= 1;
        for size in &sizes {
            self.probe(now, *size);
        }
        let marker = self.probe(now, 0);
        self.volley = Some(Volley {
            sizes,
            marker,
            until: now + self.patience + self.rtt * 2,
            is_answered: false,
        });
    }

    fn probe(&mut self, now: Instant, size: usize) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let probe = SizeProbe { token, size };
        if self.recent.len() >= limits::SIZE_PROBES {
            self.recent.pop_front();
        }
        self.recent.push_back((probe, now));
        self.out.push_back(probe);
        token
    }
}

/// What to try between a size that passes and one that does not, the largest first; nothing where they are close.
fn round(low: usize, high: usize, (base, top): (usize, usize), overhead: usize) -> Vec<usize> {
    let usual = OUTER.iter().filter_map(|outer| outer.checked_sub(overhead));
    let mut sizes: Vec<usize> = usual
        .chain([base, USUAL, top])
        .filter(|size| low < *size && *size < high && *size <= top)
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    if sizes.is_empty() {
        let gap = high.saturating_sub(low);
        return if gap > GRAIN {
            [3, 2, 1].map(|quarters| low + gap * quarters / 4).to_vec()
        } else {
            Vec::new()
        };
    }
    let count = sizes.len();
    if count <= ROUND {
        return sizes;
    }
    (0..ROUND).map(|at| sizes[at * (count - 1) / (ROUND - 1)]).collect()
}

#[cfg(test)]
mod tests;
