//! Signals and the life of links: offers, glare, replacement, what links want done.
//!
//! Promises: only a peer that was set gets an answer; a signal that was replayed, overtaken, changed or meant for
//! another changes nothing but a counter; a live link is replaced only by a session that came about.

use std::time::Instant;

use api::link::{Delivered, Event};
use api::rpc::{ApiError, ErrorKind};
use api::{Blob, NetworkId, NodeId, SessionId};
use rand::RngCore;

use super::Node;
use crate::fast;
use crate::forward::DropReason;
use crate::ice::AddressPolicy;
use crate::keys;
use crate::limits;
use crate::link::{Link, LinkConfig, LinkId, LinkOutput};
use crate::session::Role;
use crate::signal::{Body, LinkSecret, Offer, Signal, Stamp};

/// Who with whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) network: NetworkId,
    pub(super) peer: NodeId,
}

impl Node {
    /// Acts on a blob that a rendezvous brought.
    pub(super) fn deliver(&mut self, now: Instant, network: NetworkId, blob: &[u8]) -> Result<Delivered, ApiError> {
        let net = self
            .networks
            .get(&network)
            .ok_or_else(|| super::calls::no_network(network))?;
        if blob.len() > limits::SIGNAL_BLOB {
            self.drops.count(DropReason::SignalForm);
            return Err(refused(format!("a signal is at most {} bytes", limits::SIGNAL_BLOB)));
        }
        let (from, plaintext) = keys::open_from(&net.key, blob).map_err(|error| {
            self.drops.count(DropReason::SignalSeal);
            refused(error.to_string())
        })?;
        let signal = Signal::parse(&plaintext).map_err(|error| {
            self.drops.count(DropReason::SignalForm);
            refused(error.to_string())
        })?;
        let Signal { stamp, body } = signal;
        if let Body::Message(data) = body {
            let data = Blob(data);
            return Ok(Delivered::Message { from, data });
        }
        let between = Between { network, peer: from };
        let Some(peer) = self.peer_mut(network, from) else {
            self.drops.count(DropReason::SignalStranger);
            return Ok(Delivered::Stranger { from });
        };
        let verdict = if !peer.signals.allows(now) {
            Err(DropReason::SignalRate)
        } else if !peer.heard.is_news(stamp) {
            Err(DropReason::SignalStale)
        } else {
            self.on_signal(now, between, stamp, body)
        };
        match verdict {
            Ok(()) => {
                if let Some(peer) = self.peer_mut(network, from) {
                    peer.heard.note(stamp);
                }
            }
            Err(reason) => self.drops.count(reason),
        }
        Ok(Delivered::Link { from })
    }

    fn on_signal(&mut self, now: Instant, between: Between, stamp: Stamp, body: Body) -> Result<(), DropReason> {
        match body {
            Body::Offer(offer) => self.on_offer(now, between, stamp, &offer),
            Body::Answer(answer) => {
                let id = self.link_of(between, answer.session).ok_or(DropReason::SignalSession)?;
                let taken = self.with_link(now, id, |link, cx| {
                    link.handle_answer(cx, &answer)?;
                    link.peer_instance = Some(stamp.instance);
                    Ok(())
                });
                taken.unwrap_or(Ok(()))
            }
            Body::Candidates(list) => {
                let id = self.link_of(between, list.session).ok_or(DropReason::SignalSession)?;
                let taken = self.with_link(now, id, |link, cx| link.handle_candidates(cx, &list));
                taken.unwrap_or(Ok(()))
            }
            Body::Restart(restart) => match self.link_of(between, restart.session) {
                Some(id) => {
                    let taken = self.with_link(now, id, |link, cx| link.handle_restart(cx, &restart));
                    taken.unwrap_or(Ok(()))
                }
                // The peer holds on to a link that we lost, in a restart perhaps: make a new one.
                None if self.has_no_link(between) && !restart.is_answer => self.open(now, between),
                None => Err(DropReason::SignalSession),
            },
            Body::Message(_) => Ok(()),
        }
    }

    fn on_offer(&mut self, now: Instant, between: Between, stamp: Stamp, offer: &Offer) -> Result<(), DropReason> {
        let own = self.networks.get(&between.network).map(|net| net.key.id());
        let attempt = self
            .peer_mut(between.network, between.peer)
            .and_then(|peer| peer.attempt);
        if let Some(id) = attempt
            && let Some(entry) = self.links.get(&id)
        {
            if entry.link.config.session == offer.session {
                // Our answer may have been lost.
                self.with_link(now, id, |link, _| link.send_answer());
                return Ok(());
            }
            if entry.link.is_offered() && own.is_some_and(|own| own < between.peer) {
                // Glare: the offer of the lower id wins. Ours may not have arrived yet, so once more.
                self.with_link(now, id, |link, _| link.send_offer());
                return Ok(());
            }
        }
        if self.link_of(between, offer.session).is_some() {
            return Err(DropReason::SignalStale);
        }
        if !offer.versions.iter().any(|v| crate::signal::LINK_VERSIONS.contains(v)) {
            return Err(DropReason::SignalForm);
        }
        if let Some(id) = attempt {
            self.end_link(now, id, false);
        }
        let config = self.link_config(between, offer.session, offer.secret.clone(), Some(&offer.members));
        let config = config.ok_or(DropReason::SignalRate)?;
        self.make_link(now, config, |config, cx| {
            let mut link = Link::answer(config, offer, cx);
            link.peer_instance = Some(stamp.instance);
            link
        });
        Ok(())
    }

    /// Begins a link to a peer, unless there is one.
    pub(super) fn open(&mut self, now: Instant, between: Between) -> Result<(), DropReason> {
        if !self.has_no_link(between) {
            return Ok(());
        }
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        let session = SessionId(self.rng.next_u64());
        let config = self.link_config(between, session, LinkSecret::from_bytes(secret), None);
        let config = config.ok_or(DropReason::LinkFailed)?;
        self.make_link(now, config, Link::offer);
        Ok(())
    }

    fn has_no_link(&self, between: Between) -> bool {
        let peer = self
            .networks
            .get(&between.network)
            .and_then(|net| net.peers.get(&between.peer));
        peer.is_some_and(|peer| peer.current.is_none() && peer.attempt.is_none())
    }

    fn link_of(&self, between: Between, session: SessionId) -> Option<LinkId> {
        let peer = self.networks.get(&between.network)?.peers.get(&between.peer)?;
        let mut ids = [peer.attempt, peer.current].into_iter().flatten();
        ids.find(|id| {
            self.links
                .get(id)
                .is_some_and(|entry| entry.link.config.session == session)
        })
    }

    fn link_config(
        &mut self,
        between: Between,
        session: SessionId,
        secret: LinkSecret,
        offered: Option<&[NodeId]>,
    ) -> Option<LinkConfig> {
        let Between { network, peer } = between;
        let net = self.networks.get(&network)?;
        let (own, mtu) = (net.key.id(), net.config.mtu);
        let slot = self.free_slot()?;
        let members = self.members_to_name(between, offered.unwrap_or_default());
        let id = LinkId(self.next_link);
        self.next_link += 1;
        Some(LinkConfig {
            id,
            slot,
            network,
            peer,
            session,
            secret,
            role: if own < peer { Role::Client } else { Role::Server },
            is_offerer: offered.is_none(),
            policy: self.policy(),
            mtu,
            members,
        })
    }

    /// Where links may go: nowhere inside our own networks.
    pub(super) fn policy(&self) -> AddressPolicy {
        let addresses = self.networks.values().flat_map(|net| &net.config.addresses);
        AddressPolicy {
            allow_loopback: self.allow_loopback,
            own_tunnels: addresses.map(|cidr| (cidr.address, cidr.prefix)).collect(),
        }
    }

    fn make_link(
        &mut self,
        now: Instant,
        config: LinkConfig,
        make: impl FnOnce(LinkConfig, &mut crate::link::Cx<'_>) -> Link,
    ) {
        self.gatherer.set_active(now, true);
        let (id, network, peer) = (config.id, config.network, config.peer);
        let Some(net) = self.networks.get(&network) else {
            return;
        };
        let relays = &self.relays;
        let mut cx = crate::link::Cx {
            now,
            rng: &mut self.rng,
            key: &net.key,
            lane: self.lanes.lane(config.slot),
            indices: &mut self.indices,
            ciphers: self.ciphers,
            candidates: self.gatherer.candidates(),
            relayed: &|local| relays.relay_of(local).is_some(),
        };
        let link = make(config, &mut cx);
        self.insert_link(link);
        if let Some(peer) = self.peer_mut(network, peer) {
            peer.attempt = Some(id);
        }
        self.drain_link(now, id);
    }

    // --- what links want done ---

    /// Does everything that a link wants done.
    pub(super) fn drain_link(&mut self, now: Instant, id: LinkId) {
        while let Some(entry) = self.links.get_mut(&id)
            && let Some(output) = entry.link.poll_output()
        {
            let between = Between {
                network: entry.link.config.network,
                peer: entry.link.config.peer,
            };
            self.on_link_output(now, id, between, output);
        }
        self.index_link(id);
    }

    fn on_link_output(&mut self, now: Instant, id: LinkId, between: Between, output: LinkOutput) {
        let Between { network, peer: node } = between;
        match output {
            LinkOutput::Datagram { ends, bytes, is_stun } => {
                if is_stun {
                    self.transactions.note(now, &bytes, id);
                }
                self.transmit(now, ends.local, ends.remote, bytes);
            }
            LinkOutput::Signal(body) => self.send_signal(between, body),
            LinkOutput::Frame { index, bytes } => {
                self.publish();
                let receiver = self.snapshot.receiver(index);
                if let Some(Ok(accepted)) = receiver.map(|receiver| fast::accept(receiver, &bytes)) {
                    self.give_nic(network, &bytes[..accepted]);
                }
            }
            LinkOutput::Message(data) => {
                let data = Blob(data);
                self.event(Event::PeerMessage(api::link::PeerMessage { network, node, data }));
            }
            LinkOutput::Pong { ping, rtt } => self.on_pong(id, ping, rtt),
            LinkOutput::Transit(payload) => self.on_transit(now, id, between, &payload),
            LinkOutput::Members => self.tell_members_to(now, id),
            LinkOutput::Permit(remote) => self.permit(now, remote),
            LinkOutput::VerifyRelays => self.relays.verify(now),
            LinkOutput::Channel => self.keep_channel(now, id),
            LinkOutput::Changed => self.is_dirty = true,
            LinkOutput::Up => self.on_up(now, id, between),
            LinkOutput::PathChanged => {
                self.note_members(now);
                self.tell_room(now, id);
                self.keep_channel(now, id);
                let path = self.path_state(id);
                let has_path = path.is_some();
                if self.is_current(id, between) {
                    self.event(Event::PathChanged { network, node, path });
                }
                if has_path {
                    self.flush_staged(now, between);
                }
            }
            LinkOutput::Down(reason) => self.on_down(now, id, between, reason),
        }
    }

    fn is_current(&self, id: LinkId, between: Between) -> bool {
        let peer = self
            .networks
            .get(&between.network)
            .and_then(|net| net.peers.get(&between.peer));
        peer.is_some_and(|peer| peer.current == Some(id))
    }

    fn send_signal(&mut self, between: Between, body: Body) {
        let Between { network, peer: to } = between;
        let Some(net) = self.networks.get_mut(&network) else {
            return;
        };
        let stamp = net.next_stamp();
        let bytes = Signal { stamp, body }.encode();
        match keys::seal_to(&net.key, to, &bytes) {
            Ok(blob) => {
                let blob = Blob(blob);
                self.event(Event::SignalOut { network, to, blob });
            }
            Err(error) => tracing::warn!(%to, %error, "a signal could not be sealed"),
        }
    }

    /// A link is up: it replaces what was there, and what waited goes out.
    fn on_up(&mut self, now: Instant, id: LinkId, between: Between) {
        let Between { network, peer: node } = between;
        let instance = self.links.get(&id).and_then(|entry| entry.link.peer_instance);
        let Some(peer) = self.peer_mut(network, node) else {
            return;
        };
        if let Some(instance) = instance {
            peer.heard.confirm(instance);
        }
        peer.attempt.take_if(|attempt| *attempt == id);
        let before = peer.current.replace(id);
        if let Some(before) = before.filter(|before| *before != id) {
            self.end_link(now, before, false);
        }
        self.is_dirty = true;
        self.note_members(now);
        self.tell_room(now, id);
        self.keep_channel(now, id);
        if let Some(path) = self.path_state(id) {
            self.event(Event::LinkUp { network, node, path });
        }
        self.flush_staged(now, between);
    }

    fn on_down(&mut self, now: Instant, id: LinkId, between: Between, reason: String) {
        let Between { network, peer: node } = between;
        let was_current = self.is_current(id, between);
        self.end_link(now, id, false);
        let replaced = self.peer_mut(network, node).is_none_or(|peer| peer.current.is_some());
        if was_current || !replaced {
            self.drop_staged(between);
            self.event(Event::LinkDown { network, node, reason });
        }
    }
}

fn refused(sentence: String) -> ApiError {
    ApiError::new(ErrorKind::InvalidParams, sentence).field("blob")
}
