//! Where members meet: who sits where in the room, as far as signatures prove it, and what comes from there.
//!
//! The rendezvous is believed in nothing: a card proves its owner, not who shows it, so a node may seem to sit in several
//! places and is sent to at all of them, up to a bound; what arrives is sealed and proves its sender itself.

use std::collections::BTreeMap;

use api::link::{Delivered, Delivery, LinkCall, Purpose, ServersConfig, Signer, TurnServer};
use api::rendezvous::{Occupant, RendezvousCommand, RendezvousEvent, RendezvousFault, Service};
use api::rpc::ApiError;
use api::{Blob, NetworkId, NodeId};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rand::RngCore;

use crate::card::{Card, CardDraft};
use crate::crypto::hash;
use crate::limits::{OCCUPANTS_MAX, SEATS_PER_NODE, SERVERS_MAX, UNKNOWN_CARDS_MAX};
use crate::log::Source;
use crate::message::{Message, open_envelope};

use super::effects::{Cx, GroupCall};
use super::group::{Group, Link, Stage};
use super::inbox::Sender;

/// Whose place in the room this is.
#[derive(Clone, Copy, Debug)]
struct Seat {
    node: Option<NodeId>,
    /// Time in its card.
    time: u64,
    /// Something sealed by the node came from here.
    proven: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Meeting {
    pub(super) started: bool,
    pub(super) online: bool,
    /// A card is being signed.
    pub(super) signing: bool,
    pub(super) fault: Option<(RendezvousFault, String)>,
    seats: BTreeMap<Occupant, Seat>,
    /// Cards of nodes that the log does not tell of (yet).
    pub(super) unknown: BTreeMap<Occupant, Card>,
}

impl Meeting {
    /// Where a node sits: proven places first, then by the newest card.
    pub(super) fn seats_of(&self, node: NodeId) -> Vec<Occupant> {
        if !self.online {
            return Vec::new();
        }
        let mut seats: Vec<(&Occupant, &Seat)> = self.seats.iter().filter(|(_, s)| s.node == Some(node)).collect();
        seats.sort_by_key(|(_, seat)| (!seat.proven, std::cmp::Reverse(seat.time)));
        seats.into_iter().take(SEATS_PER_NODE).map(|(o, _)| o.clone()).collect()
    }

    /// Whether a node shows itself.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        self.online && self.seats.values().any(|s| s.node == Some(node))
    }

    /// Everybody who shows a card.
    pub(super) fn nodes(&self) -> std::collections::BTreeSet<NodeId> {
        self.seats.values().filter_map(|s| s.node).collect()
    }

    fn forget_occupants(&mut self) {
        self.seats.clear();
        self.unknown.clear();
    }

    fn set_seat(&mut self, occupant: Occupant, seat: Seat) {
        if self.seats.len() < OCCUPANTS_MAX || self.seats.contains_key(&occupant) {
            self.seats.insert(occupant, seat);
        }
    }
}

/// The room's name: the same for all members, telling nothing of the group to who does not know its id.
pub(super) fn room_name(network: NetworkId) -> String {
    let digest = hash("ipop room v1", &[&network.0]);
    BASE32_NOPAD.encode(&digest[..20]).to_ascii_lowercase()
}

impl Group {
    /// Logs in, with a card or (before we are in) without one.
    pub(super) fn start_meeting(&mut self, cx: &mut Cx<'_>, card: Vec<u8>) {
        self.meeting.started = true;
        let command = RendezvousCommand::Start {
            login: self.login.clone(),
            room: room_name(self.network),
            card,
        };
        cx.fx.rendezvous(self.network, command);
    }

    pub(super) fn stop_meeting(&mut self, cx: &mut Cx<'_>) {
        if self.meeting.started {
            cx.fx.rendezvous(self.network, RendezvousCommand::Stop);
        }
        self.meeting = Meeting::default();
    }

    /// Signs a card and shows it.
    pub(super) fn show_card(&mut self, cx: &mut Cx<'_>) {
        let Some(node) = self.node.filter(|_| cx.fx.connected) else {
            return;
        };
        self.meeting.signing = true;
        let nonce = cx.fx.rng.next_u64();
        let chain = self.roster.chain_of(&self.log, node);
        let draft = CardDraft::new(self.network, node, cx.now.unix, nonce, &chain);
        let payload = draft.payload();
        cx.sign(
            self.network,
            Signer::Node,
            Purpose::Presence,
            payload,
            GroupCall::SignCard(draft),
        );
    }

    pub(super) fn card_signed(&mut self, cx: &mut Cx<'_>, draft: CardDraft, signature: Result<Vec<u8>, ApiError>) {
        self.meeting.signing = false;
        match signature {
            Ok(signature) => {
                let card = draft.signed(&signature);
                if self.meeting.started {
                    cx.fx.rendezvous(self.network, RendezvousCommand::Card(card));
                } else if cx.up && !matches!(self.stage, Stage::Gone) {
                    self.start_meeting(cx, card);
                }
            }
            Err(error) if matches!(self.stage, Stage::Creating(_)) => self.abort(cx, error),
            Err(_) => self.resync(cx),
        }
    }

    pub(super) fn rendezvous_event(&mut self, cx: &mut Cx<'_>, event: RendezvousEvent) {
        if !self.meeting.started {
            return;
        }
        match event {
            RendezvousEvent::Online => {
                self.meeting.online = true;
                self.meeting.fault = None;
                self.joining_online(true);
                self.created(cx);
            }
            RendezvousEvent::Offline { reason, fault, .. } => {
                self.meeting.online = false;
                self.meeting.forget_occupants();
                self.meeting.fault = Some((fault, reason.clone()));
                self.rendezvous_fault(cx, fault, &reason);
            }
            RendezvousEvent::Present { occupant, card } => self.present(cx, occupant, &card),
            RendezvousEvent::Absent { occupant } => {
                self.meeting.seats.remove(&occupant);
                self.meeting.unknown.remove(&occupant);
            }
            RendezvousEvent::Received { from, bytes } => match open_envelope(&bytes) {
                Ok(blob) => {
                    let blob = blob.to_vec();
                    self.receive(cx, Sender::Occupant(from), blob);
                }
                Err(_) => self.count("unknown envelope from the rendezvous"),
            },
            RendezvousEvent::Services(services) => {
                self.servers = servers(self.network, services);
                self.reconcile(cx);
            }
        }
    }

    /// Somebody is in the room, or changed the card.
    fn present(&mut self, cx: &mut Cx<'_>, occupant: Occupant, card: &[u8]) {
        self.meeting.unknown.remove(&occupant);
        let nobody = Seat {
            node: None,
            time: 0,
            proven: false,
        };
        if card.is_empty() {
            return self.meeting.set_seat(occupant, nobody);
        }
        match Card::parse(self.network, card) {
            Ok(card) if Some(card.node) == self.node => {}
            Ok(card) => {
                let proof = card.proof.clone();
                self.learn(cx, Source::Anybody, proof, None);
                self.seat(cx, occupant, card);
            }
            Err(_) => {
                self.count("forged card at the rendezvous");
                self.meeting.set_seat(occupant, nobody);
            }
        }
    }

    /// Gives a place to the owner of a card, if it is a member.
    pub(super) fn seat(&mut self, cx: &mut Cx<'_>, occupant: Occupant, card: Card) {
        if !self.roster.has(card.node) {
            if self.meeting.unknown.len() < UNKNOWN_CARDS_MAX {
                self.meeting.unknown.insert(occupant, card);
            }
            return;
        }
        let node = card.node;
        let known = self.meeting.seats.get(&occupant).copied();
        let proven = known.is_some_and(|seat| seat.proven && seat.node == Some(node));
        let new = known.is_none_or(|seat| seat.node != Some(node));
        let seat = Seat {
            node: Some(node),
            time: card.time,
            proven,
        };
        self.meeting.set_seat(occupant, seat);
        if new {
            self.appeared(cx, node);
        }
        self.ask(cx);
    }

    /// A blob for tincan came.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, sender: Sender, blob: Vec<u8>) {
        if !cx.attached {
            return self.count("signal while tincan is away");
        }
        if self.inbox.push(&sender, blob) {
            self.pump(cx, &sender);
        } else {
            self.count("signal beyond what may wait");
        }
    }

    /// Delivers the next blob of a sender, if its turn has come.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>, sender: &Sender) {
        let Some(blob) = self.inbox.next(sender) else {
            return;
        };
        let delivery = Delivery {
            network: self.network,
            blob: Blob(blob.clone()),
        };
        let then = GroupCall::Deliver(sender.clone(), blob);
        cx.call(self.network, then, LinkCall::Deliver(delivery));
    }

    pub(super) fn delivered(
        &mut self,
        cx: &mut Cx<'_>,
        sender: &Sender,
        blob: Vec<u8>,
        result: Result<Delivered, ApiError>,
    ) {
        self.inbox.release(sender);
        match result {
            Ok(Delivered::Link { from }) => {
                self.prove(sender, from);
                if let Some(peer) = self.peers.get_mut(&from)
                    && peer.link == Link::Idle
                {
                    peer.link = Link::Opening(cx.now.mono);
                    peer.open_at = None;
                }
            }
            Ok(Delivered::Message { from, data }) => {
                self.prove(sender, from);
                self.sealed_message(cx, from, sender, &data.0);
            }
            Ok(Delivered::Stranger { from }) => {
                self.inbox.keep_stranger(from, sender.clone(), blob, cx.now.mono);
            }
            Err(_) => self.count("signal that tincan refused"),
        }
        self.pump(cx, sender);
    }

    /// A blob was proven to be of this node: answers can go back the same way.
    fn prove(&mut self, sender: &Sender, node: NodeId) {
        let Sender::Occupant(occupant) = sender else {
            return;
        };
        match self.meeting.seats.get_mut(occupant) {
            Some(seat) if seat.node.is_none_or(|n| n == node) => {
                seat.node = Some(node);
                seat.proven = true;
            }
            // Shows one node's card and passes on what another sealed: no place of either.
            Some(_) => {}
            None => {
                let seat = Seat {
                    node: Some(node),
                    time: 0,
                    proven: true,
                };
                self.meeting.set_seat(occupant.clone(), seat);
            }
        }
    }

    /// A message that came sealed over the rendezvous.
    fn sealed_message(&mut self, cx: &mut Cx<'_>, from: NodeId, sender: &Sender, data: &[u8]) {
        let Ok(message) = Message::parse(data) else {
            return self.count("unknown sealed message");
        };
        match message {
            Message::Join { grant, request } => self.join_asked(cx, from, sender, grant, request),
            Message::Welcome { tag, entries } => self.welcomed(cx, from, tag, &entries),
            Message::Refused { tag, refusal, reason } => self.refused(cx, from, tag, refusal, reason),
            Message::Entries(entries) if self.roster.has(from) => self.entries_came(cx, from, &entries),
            // These may be replayed by whoever carries them, so they count over links alone.
            Message::Entries(_)
            | Message::Digest { .. }
            | Message::Have { .. }
            | Message::Relay { .. }
            | Message::Relayed { .. } => self.count("sealed message that only comes over a link"),
        }
    }
}

/// STUN and TURN servers as tincan takes them.
fn servers(network: NetworkId, services: Vec<Service>) -> ServersConfig {
    let mut config = ServersConfig {
        network: Some(network),
        ..ServersConfig::default()
    };
    for service in services {
        match service {
            Service::Stun(address) if config.stun.len() < SERVERS_MAX => config.stun.push(address),
            Service::Turn {
                address,
                transport,
                name,
                pin,
                username,
                password,
                expires_s: _,
            } if config.turn.len() < SERVERS_MAX => config.turn.push(TurnServer {
                address,
                transport,
                name,
                pin: pin.map(|pin| HEXLOWER.encode(&pin)),
                username,
                password,
            }),
            Service::Stun(_) | Service::Turn { .. } => {}
        }
    }
    config
}
