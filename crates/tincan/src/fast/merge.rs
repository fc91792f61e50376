//! Joining frames of one flow for the NIC, the other way round of `slice`: one write then brings many frames.
//!
//! Promises: cutting what was joined gives exactly the frames that came (but the IPv4 identification of frames that may
//! not be fragmented, where all had the same, and unfinished checksums, which are finished then); frames of a flow stay in order;
//! only frames whose checksums are right or unfinished are joined, since the kernel is told that it need not look; frames are not
//! moved or copied; no allocation once the lists have grown to a batch's size; nothing panics, whatever the bytes are.
//! Refuses to know: where frames come from, what a NIC is.

use std::ops::Range;

use super::segment::{Segment, TCP_PROTOCOL, UDP_PROTOCOL, V4, V6, finish};
use super::slice::{Kind, Shape};
use super::sum::{Sum, pseudo_header};

/// Flows that are joined at a time; the one joined longest ago makes room.
const FLOWS: usize = 16;
/// Frames in one joined frame: a NIC takes 1023 pieces, UDP sockets cut at most 64 apart.
pub const FRAMES: usize = 64;
/// What the length field of an IP header can say.
const BYTES: usize = 65_535;

const DONT_FRAGMENT: u8 = 0x40;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
/// No joined frame goes on behind one of these.
const ENDS: u8 = FIN | PSH;

/// What a NIC takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// TCP segments, joined.
    pub tcp: bool,
    /// UDP datagrams, joined.
    pub udp: bool,
    /// Frames whose checksum it is to finish.
    pub unfinished: bool,
}

impl Takes {
    fn joins(self, kind: Kind) -> bool {
        match kind {
            Kind::Tcp => self.tcp,
            Kind::Udp => self.udp,
            Kind::Whole => false,
        }
    }
}

/// Frames of one batch, all in one memory, that wait to be given to NICs.
#[derive(Default)]
pub struct Merger {
    joined: Vec<Joined>,
    /// Pieces of all joined frames, each knowing the next of its own.
    pieces: Vec<Piece>,
    /// Places in `joined` that may still grow, the one that grew longest ago first.
    open: Vec<u32>,
    bytes: usize,
}

/// A frame, or several as one.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Which NIC it is for, as the caller said.
    pub nic: u32,
    /// Bytes of headers in the first piece; 0 where they do not matter.
    pub header_bytes: u16,
    shape: Shape,
    first: u32,
    last: u32,
    frames: u16,
    payload: u32,
    next_sequence: u32,
    last_flags: u8,
    flow: u32,
    is_checked: bool,
    finisher: Finisher,
}

/// Who finishes the checksum of a frame that stays alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finisher {
    /// It is finished, or is no such frame.
    Nobody,
    Nic,
    Merger,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    end: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl Merger {
    /// Takes the frame `memory[frame]`, for NIC `nic`, which takes joined frames of these kinds.
    pub fn push(&mut self, memory: &[u8], frame: Range<usize>, nic: u32, takes: Takes) {
        let Some(bytes) = memory.get(frame.clone()) else {
            return;
        };
        let (Ok(start), Ok(end)) = (u32::try_from(frame.start), u32::try_from(frame.end)) else {
            return;
        };
        self.bytes += bytes.len();
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece { start, end, next: NONE });
        let parsed = Segment::parse(bytes);
        let Some(segment) = parsed.filter(|segment| takes.joins(segment.kind)) else {
            // It may belong to any flow, and must not be overtaken.
            self.open.clear();
            self.begin(piece, nic, parsed.map(|segment| (segment, bytes)), takes);
            return;
        };
        let found = self
            .open
            .iter()
            .position(|at| self.joined[*at as usize].is_flow(memory, &self.pieces, nic, &segment, bytes));
        if let Some(found) = found {
            let at = self.open.remove(found);
            if self.join(memory, at as usize, piece, &segment, bytes) {
                return;
            }
        }
        let at = self.begin(piece, nic, Some((segment, bytes)), takes);
        if segment.may_lead(bytes) {
            if self.open.len() == FLOWS {
                self.open.remove(0);
            }
            self.open.push(at);
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives everything to `take` in order, and forgets it: what it is, and its pieces in `memory`, of which the first
    /// begins with the headers.
    pub fn flush<'m>(&mut self, memory: &'m mut [u8], mut take: impl FnMut(&Joined, Pieces<'_, 'm>)) {
        for joined in &self.joined {
            if joined.frames > 1 {
                joined.write_headers(memory, &self.pieces);
            } else if joined.finisher == Finisher::Merger {
                finish(&mut memory[self.pieces[joined.first as usize].range()]);
            }
        }
        let memory = &*memory;
        for joined in &self.joined {
            let pieces = Pieces {
                pieces: &self.pieces,
                next: joined.first,
                memory,
            };
            take(joined, pieces);
        }
        self.joined.clear();
        self.pieces.clear();
        self.open.clear();
        self.bytes = 0;
    }

    fn begin(&mut self, piece: u32, nic: u32, lead: Option<(Segment, &[u8])>, takes: Takes) -> u32 {
        let at = self.joined.len() as u32;
        let mut joined = Joined {
            nic,
            shape: Shape::default(),
            header_bytes: 0,
            first: piece,
            last: piece,
            frames: 1,
            payload: 0,
            next_sequence: 0,
            last_flags: 0,
            flow: 0,
            is_checked: false,
            finisher: Finisher::Nobody,
        };
        if let Some((segment, bytes)) = lead {
            joined.lead(&segment);
            if segment.is_unfinished(bytes) {
                joined.finisher = if takes.unfinished {
                    Finisher::Nic
                } else {
                    Finisher::Merger
                };
            }
        }
        self.joined.push(joined);
        at
    }

    /// Adds a frame to the joined one of its flow; `false` if it must begin another.
    fn join(&mut self, memory: &[u8], at: usize, piece: u32, segment: &Segment, bytes: &[u8]) -> bool {
        let joined = &mut self.joined[at];
        let lead = &memory[self.pieces[joined.first as usize].range()];
        if !joined.goes_on(lead, segment, bytes) {
            return false;
        }
        if !joined.is_checked {
            if !segment.is_right(lead) {
                return false;
            }
            joined.is_checked = true;
        }
        if !segment.is_right(bytes) {
            return false;
        }
        joined.frames += 1;
        joined.payload += segment.payload as u32;
        joined.next_sequence = joined.next_sequence.wrapping_add(segment.payload as u32);
        joined.last_flags = segment.flags;
        self.pieces[joined.last as usize].next = piece;
        joined.last = piece;
        // Only the first piece keeps its headers.
        self.pieces[piece as usize].start += segment.headers as u32;
        let is_last = segment.payload < usize::from(joined.shape.segment) || segment.flags & ENDS != 0;
        if !is_last && joined.frames() < FRAMES {
            self.open.push(at as u32);
        }
        true
    }
}

/// The pieces of a frame, to be written one behind the other.
pub struct Pieces<'p, 'm> {
    pieces: &'p [Piece],
    next: u32,
    memory: &'m [u8],
}

impl<'m> Iterator for Pieces<'_, 'm> {
    type Item = &'m [u8];

    fn next(&mut self) -> Option<&'m [u8]> {
        let piece = self.pieces.get(self.next as usize)?;
        self.next = piece.next;
        self.memory.get(piece.range())
    }
}

impl Piece {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Joined {
    /// What to tell the NIC.
    pub fn shape(&self) -> Shape {
        match self.finisher {
            _ if self.frames > 1 => self.shape,
            Finisher::Nic => Shape {
                partial: self.shape.partial,
                ..Shape::default()
            },
            Finisher::Nobody | Finisher::Merger => Shape::default(),
        }
    }

    /// How many frames it is.
    pub fn frames(&self) -> usize {
        usize::from(self.frames)
    }

    /// A number that tells most flows apart; 0 for what is never joined, being neither TCP nor UDP.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    fn lead(&mut self, segment: &Segment) {
        self.shape.kind = segment.kind;
        self.shape.segment = segment.payload as u16;
        self.shape.partial = Some(segment.partial());
        self.header_bytes = segment.headers as u16;
        self.payload = segment.payload as u32;
        self.next_sequence = segment.sequence.wrapping_add(segment.payload as u32);
        self.last_flags = segment.flags;
        self.flow = segment.flow;
    }

    fn is_flow(&self, memory: &[u8], pieces: &[Piece], nic: u32, segment: &Segment, frame: &[u8]) -> bool {
        if self.flow != segment.flow || self.nic != nic || self.shape.kind != segment.kind {
            return false;
        }
        let lead = &memory[pieces[self.first as usize].range()];
        let transport = segment.transport;
        // One protocol and one length of the IP header is one IP version.
        let addresses = if transport == V4 { 12..V4 } else { 8..V6 };
        self.transport() == transport
            && lead[addresses.clone()] == frame[addresses]
            && lead[transport..transport + 4] == frame[transport..transport + 4]
    }

    /// Whether `frame`, of the same flow, is what cutting would give next.
    fn goes_on(&self, lead: &[u8], segment: &Segment, frame: &[u8]) -> bool {
        let fits = usize::from(self.header_bytes) + self.payload as usize + segment.payload <= BYTES;
        let sizes = segment.headers == usize::from(self.header_bytes)
            && segment.payload > 0
            && segment.payload <= usize::from(self.shape.segment);
        fits && sizes && self.is_same_network(lead, frame) && self.is_same_transport(lead, segment, frame)
    }

    fn is_same_network(&self, lead: &[u8], frame: &[u8]) -> bool {
        if self.transport() == V6 {
            // Class and flow label; hop limit.
            return lead[..4] == frame[..4] && lead[7] == frame[7];
        }
        let id = |bytes: &[u8]| u16::from_be_bytes([bytes[4], bytes[5]]);
        // RFC 6864 section 4.1: the identification of what is never fragmented means nothing; many senders leave it at zero.
        let is_atomic = lead[6] & DONT_FRAGMENT != 0;
        let counts_on = id(frame) == id(lead).wrapping_add(self.frames) || (is_atomic && id(frame) == id(lead));
        // Type of service, flags, time to live.
        lead[1] == frame[1] && lead[6..9] == frame[6..9] && counts_on
    }

    fn is_same_transport(&self, lead: &[u8], segment: &Segment, frame: &[u8]) -> bool {
        let at = self.transport();
        if segment.kind == Kind::Udp {
            return frame[at + 6..at + 8] != [0, 0];
        }
        let (lead, tcp) = (&lead[at..], &frame[at..segment.headers]);
        let flags_differ = lead[13] ^ tcp[13];
        segment.sequence == self.next_sequence
            && flags_differ & !ENDS == 0
            // Acknowledgement number, length and reserved bits, window, urgent pointer, options.
            && lead[8..13] == tcp[8..13]
            && lead[14..16] == tcp[14..16]
            && lead[18..tcp.len()] == tcp[18..]
    }

    fn transport(&self) -> usize {
        self.shape.partial.map_or(0, |partial| usize::from(partial.start))
    }

    /// Makes the first frame's headers those of the whole.
    fn write_headers(&self, memory: &mut [u8], pieces: &[Piece]) {
        let lead = pieces[self.first as usize];
        let headers = &mut memory[lead.start as usize..lead.start as usize + usize::from(self.header_bytes)];
        let total = headers.len() + self.payload as usize;
        let (network, transport) = headers.split_at_mut(self.transport());
        let transport_bytes = total - network.len();
        let protocol = if self.shape.kind == Kind::Tcp {
            TCP_PROTOCOL
        } else {
            UDP_PROTOCOL
        };
        if network.len() == V4 {
            network[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            network[10..12].fill(0);
            let checksum = Sum::default().bytes(network).header_checksum();
            network[10..12].copy_from_slice(&checksum);
        } else {
            network[4..6].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
        }
        let partial = pseudo_header(network, protocol).word(transport_bytes as u16).partial();
        if self.shape.kind == Kind::Tcp {
            transport[13] |= self.last_flags & ENDS;
            transport[16..18].copy_from_slice(&partial);
        } else {
            transport[4..6].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
            transport[6..8].copy_from_slice(&partial);
        }
    }
}

#[cfg(test)]
mod tests;
