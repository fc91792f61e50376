//! Keys and entries for tests.

use api::link::Purpose;
use api::{NetworkId, NodeId};

use crate::InviteKey;
use crate::entry::{Draft, Ejection, EntryId, Genesis, Grant, Leave, Request, Role, Verified};

/// When tests begin, Unix time.
pub(crate) const START: u64 = 1_800_000_000;

/// A key that can stand for a root, a node or an invite.
pub(crate) fn key(number: u8) -> InviteKey {
    InviteKey::from_seed([number; 32])
}

/// The node with that key.
pub(crate) fn node(number: u8) -> NodeId {
    NodeId(key(number).public())
}

/// A group whose root is key 200 and whose founder is node 1.
pub(crate) fn network() -> NetworkId {
    NetworkId(key(200).public())
}

/// Signs as the last role that an entry needs.
pub(crate) fn finish(draft: Draft, role: Role, signer: &InviteKey) -> Vec<u8> {
    let signature = signer.sign(Purpose::LogEntry, &draft.payload(role));
    draft.signed(&signature).into_bytes()
}

fn verified(bytes: &[u8]) -> Verified {
    Verified::parse(network(), bytes).expect("made for this network")
}

pub(crate) fn genesis_in(subnet: &str) -> Verified {
    let genesis = Genesis {
        created: START,
        subnet: subnet.parse().expect(subnet),
        founder: node(1),
        founder_name: "ann".into(),
        name: "home".into(),
    };
    verified(&finish(Draft::genesis(network(), &genesis), Role::Root, &key(200)))
}

pub(crate) fn genesis() -> Verified {
    genesis_in("10.5.0.0/16")
}

/// A grant whose one-time key has that number.
pub(crate) fn grant(number: u8, uses: u16) -> Verified {
    let grant = Grant {
        key: key(number).public(),
        uses,
        expires_at: START + 86_400,
    };
    verified(&finish(Draft::grant(network(), &grant), Role::Root, &key(200)))
}

pub(crate) fn request(invite: u8, joiner: u8, joined_at: u64, name: &str) -> Request {
    let draft = Draft::request(network(), &key(invite), node(joiner), START + joined_at, name);
    Request::parse(network(), &finish(draft, Role::Joiner, &key(joiner))).expect("well made")
}

/// Lets `joiner` in by the grant of `invite`; times are seconds after the start.
pub(crate) fn admission(invite: u8, joiner: u8, sponsor: u8, index: u16, at: u64, name: &str) -> Verified {
    let request = request(invite, joiner, at, name);
    let draft = Draft::admission(network(), &request, node(sponsor), index, START + at);
    verified(&finish(draft, Role::Sponsor, &key(sponsor)))
}

pub(crate) fn leave(number: u8, at: u64) -> Verified {
    let leave = Leave {
        node: node(number),
        left_at: START + at,
    };
    verified(&finish(Draft::leave(network(), &leave), Role::Leaver, &key(number)))
}

pub(crate) fn ejection(number: u8, at: u64, keeps: Vec<EntryId>) -> Verified {
    let ejection = Ejection {
        node: node(number),
        at: START + at,
        keeps,
    };
    verified(&finish(Draft::ejection(network(), &ejection), Role::Root, &key(200)))
}
