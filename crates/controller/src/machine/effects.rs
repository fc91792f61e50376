//! What the machine wants done, in order, and what it waits for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use api::link::{LinkCall, PeerMessage, SignRequest, Signature, Signer};
use api::rendezvous::{Occupant, RendezvousCommand};
use api::rpc::{ApiError, ErrorKind};
use api::{Blob, NetworkId, NodeId};
use rand_chacha::ChaCha12Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::card::CardDraft;
use crate::entry::Draft;
use crate::store::Store;

use super::create::Founding;
use super::inbox::Sender;
use super::sponsor::Work;

/// Names a request of a client of the control API; chosen by the shell, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a call to tincan; never used twice by one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// The time, twice: for intervals and for what is signed.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub mono: Instant,
    /// Unix seconds by this machine's clock.
    pub unix: u64,
}

/// What the shell is to do, in this order: each before the next is polled.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Call tincan; the answer goes to `handle_reply`. Calls keep their order on one connection.
    Call(CallId, LinkCall),
    /// Tell the rendezvous adapter of a network.
    Rendezvous(NetworkId, RendezvousCommand),
    /// Answer a client of the control API.
    Reply(RequestId, Result<Value, ApiError>),
    /// Write this to disk (whole, atomically, mode 0600) before the next output is done; `handle_save_failed` if it cannot be.
    Save(Store),
}

/// What an answer of tincan is for.
#[derive(Debug)]
pub(super) enum Pending {
    /// Nothing depends on it.
    Nothing,
    Attach,
    Root(RequestId, Box<Founding>),
    StatusInfo(RequestId),
    StatusState(RequestId, Option<Box<api::link::TincanInfo>>),
    Ping(RequestId, NetworkId, NodeId),
    /// The answer goes to the client as it is.
    Pass(RequestId),
    Group(NetworkId, GroupCall),
}

/// The same, within a group.
#[derive(Debug)]
pub(super) enum GroupCall {
    Identity,
    SignGenesis(Draft),
    SignGrant(Box<super::create::Inviting>),
    SignCard(CardDraft),
    SignRequest(Draft),
    SignAdmission(Box<Work>, Draft),
    SignLeave(Draft),
    CreateNetwork,
    SetPeer(NodeId),
    OpenLink(NodeId),
    Names,
    Servers,
    Seal(Vec<Occupant>, AfterSeal),
    Deliver(Sender, Vec<u8>),
    Send,
    RemoveNetwork,
}

/// What follows a sealed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterSeal {
    Nothing,
    /// It was a join request: our offer goes right behind it.
    Offer(NodeId),
}

enum Queued {
    Out(Box<Output>),
    /// The store as it is when the shell gets here.
    Save,
}

/// Queues of the machine.
pub(super) struct Effects {
    queue: VecDeque<Queued>,
    pending: BTreeMap<CallId, Pending>,
    next: u64,
    durable: BTreeSet<RequestId>,
    pub(super) rng: ChaCha12Rng,
    /// Whether tincan is there to be called.
    pub(super) connected: bool,
}

impl Effects {
    pub(super) fn new(rng: ChaCha12Rng) -> Self {
        Self {
            queue: VecDeque::new(),
            pending: BTreeMap::new(),
            next: 0,
            durable: BTreeSet::new(),
            rng,
            connected: false,
        }
    }

    /// Calls tincan; without one the call is not made, and whoever waits learns it from `handle_tincan_down`.
    pub(super) fn call(&mut self, pending: Pending, call: LinkCall) -> CallId {
        self.next += 1;
        let id = CallId(self.next);
        if self.connected {
            self.pending.insert(id, pending);
            self.queue.push_back(Queued::Out(Box::new(Output::Call(id, call))));
        }
        id
    }

    pub(super) fn answered(&mut self, id: CallId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// Everything that waited for a tincan that is gone.
    pub(super) fn lost(&mut self) -> Vec<Pending> {
        self.queue
            .retain(|q| !matches!(q, Queued::Out(out) if matches!(**out, Output::Call(..))));
        std::mem::take(&mut self.pending).into_values().collect()
    }

    pub(super) fn is_pending(&self, wanted: impl Fn(&Pending) -> bool) -> bool {
        self.pending.values().any(wanted)
    }

    pub(super) fn rendezvous(&mut self, network: NetworkId, command: RendezvousCommand) {
        self.queue
            .push_back(Queued::Out(Box::new(Output::Rendezvous(network, command))));
    }

    pub(super) fn save(&mut self) {
        if !matches!(self.queue.back(), Some(Queued::Save)) {
            self.queue.push_back(Queued::Save);
        }
    }

    pub(super) fn reply(&mut self, request: RequestId, result: Result<impl Serialize, ApiError>) {
        let result = result.and_then(|value| {
            serde_json::to_value(value).map_err(|e| ApiError::new(ErrorKind::Internal, format!("no JSON form: {e}")))
        });
        self.queue
            .push_back(Queued::Out(Box::new(Output::Reply(request, result))));
    }

    pub(super) fn refuse(&mut self, request: RequestId, error: ApiError) {
        self.reply(request, Err::<(), _>(error));
    }

    /// An answer that promises that the store holds it.
    pub(super) fn reply_saved(&mut self, request: RequestId, value: impl Serialize) {
        self.save();
        self.durable.insert(request);
        self.reply(request, Ok(value));
    }

    /// Turns the promises not yet given into an error.
    pub(super) fn break_promises(&mut self, reason: &str) {
        for queued in &mut self.queue {
            if let Queued::Out(output) = queued
                && let Output::Reply(id, result) = &mut **output
                && self.durable.remove(id)
            {
                *result = Err(ApiError::new(ErrorKind::Internal, reason));
            }
        }
    }

    /// The next output; `store` makes the document when one is to be saved.
    pub(super) fn poll(&mut self, store: impl FnOnce() -> Store) -> Option<Output> {
        match self.queue.pop_front()? {
            Queued::Save => Some(Output::Save(store())),
            Queued::Out(output) => {
                if let Output::Reply(id, _) = &*output {
                    self.durable.remove(id);
                }
                Some(*output)
            }
        }
    }
}

/// What a group needs of its surroundings to act.
pub(super) struct Cx<'a> {
    pub(super) fx: &'a mut Effects,
    pub(super) now: Now,
    /// Whether networks are wanted up.
    pub(super) up: bool,
    /// Whether tincan is there and its state known.
    pub(super) attached: bool,
}

impl Cx<'_> {
    pub(super) fn call(&mut self, network: NetworkId, then: GroupCall, call: LinkCall) -> CallId {
        self.fx.call(Pending::Group(network, then), call)
    }

    pub(super) fn sign(
        &mut self,
        network: NetworkId,
        signer: Signer,
        purpose: api::link::Purpose,
        payload: Vec<u8>,
        then: GroupCall,
    ) {
        let request = SignRequest {
            network,
            signer,
            purpose,
            payload: Blob(payload),
        };
        self.call(network, then, LinkCall::Sign(request));
    }

    pub(super) fn send(&mut self, network: NetworkId, node: NodeId, data: Vec<u8>) {
        let data = Blob(data);
        let message = PeerMessage { network, node, data };
        self.call(network, GroupCall::Send, LinkCall::SendMessage(message));
    }
}

/// Reads an answer of tincan; a wrong form is tincan's fault and said so.
pub(super) fn read<T: DeserializeOwned>(result: Result<Value, ApiError>) -> Result<T, ApiError> {
    serde_json::from_value(result?).map_err(|e| {
        let text = format!("tincan gave an answer of a wrong form ({e}): is it of the same version?");
        ApiError::new(ErrorKind::Internal, text)
    })
}

/// Reads a signature.
pub(super) fn signature(result: Result<Value, ApiError>) -> Result<Vec<u8>, ApiError> {
    Ok(read::<Signature>(result)?.signature.0)
}
