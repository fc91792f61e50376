//! What reaches the control plane: invites, membership entries, cards, messages, the stored state.

use api::link::Purpose;
use api::rendezvous::Login;
use api::{Blob, NetworkId, NodeId};
use controller::card::{Card, CardDraft};
use controller::entry::{Draft, Ejection, Genesis, Grant, Leave, Request, Role, Verified};
use controller::invite::Invite;
use controller::log::{Digest, Log, Source};
use controller::membership::Roster;
use controller::message::{Message, Refusal, open_envelope, seal_envelope};
use controller::store::{STORE_VERSION, StoredGroup};
use controller::{InviteKey, Store, limits};
use tincan::keys::RootKey;

use crate::script::Script;

const TIME: u64 = 1_800_000_000;
/// Keys of the group: the root, an invite's; nodes have small numbers, the founder 1.
const ROOT: u8 = 200;
const INVITE: u8 = 100;

fn key(number: u8) -> RootKey {
    RootKey::from_seed(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    key(number).network_id().0
}

fn network() -> NetworkId {
    NetworkId(public(ROOT))
}

fn sign(number: u8, payload: &[u8]) -> [u8; 64] {
    key(number).sign(Purpose::LogEntry.context(), payload)
}

fn finish(draft: Draft, role: Role, number: u8) -> Vec<u8> {
    let signature = sign(number, &draft.payload(role));
    draft.signed(&signature).into_bytes()
}

fn genesis() -> Vec<u8> {
    let genesis = Genesis {
        created: TIME,
        subnet: "10.5.0.0/16".parse().expect("a subnet"),
        founder: NodeId(public(1)),
        founder_name: "ann".into(),
        name: "home".into(),
    };
    finish(Draft::genesis(network(), &genesis), Role::Root, ROOT)
}

fn grant(uses: u16) -> Vec<u8> {
    let grant = Grant {
        key: public(INVITE),
        uses,
        expires_at: TIME + 86_400,
    };
    finish(Draft::grant(network(), &grant), Role::Root, ROOT)
}

fn request(joiner: u8) -> Vec<u8> {
    let invite = InviteKey::from_seed([INVITE; 32]);
    let draft = Draft::request(network(), &invite, NodeId(public(joiner)), TIME + 10, "bob");
    finish(draft, Role::Joiner, joiner)
}

fn admission(joiner: u8, sponsor: u8, index: u16) -> Vec<u8> {
    let request = Request::parse(network(), &request(joiner)).expect("well made");
    let draft = Draft::admission(network(), &request, NodeId(public(sponsor)), index, TIME + 20);
    finish(draft, Role::Sponsor, sponsor)
}

fn leave(number: u8, at: u64) -> Vec<u8> {
    let node = NodeId(public(number));
    let leave = Leave {
        node,
        left_at: TIME + at,
    };
    finish(Draft::leave(network(), &leave), Role::Leaver, number)
}

fn ejection(number: u8, at: u64) -> Vec<u8> {
    let node = NodeId(public(number));
    let ejection = Ejection {
        node,
        at: TIME + at,
        keeps: Vec::new(),
    };
    finish(Draft::ejection(network(), &ejection), Role::Root, ROOT)
}

/// An entry as it is, and signed at its end by the root, or by whom it may name, in every role.
pub(crate) fn entry(bytes: &[u8]) {
    check_entry(bytes);
    let _ = Request::parse(network(), bytes);
    for (role, number) in (0_u8..).zip([ROOT, INVITE, 2, 1, 2]) {
        let payload = [&[role][..], &network().0, bytes].concat();
        check_entry(&[bytes, &sign(number, &payload)].concat());
    }
}

fn check_entry(bytes: &[u8]) {
    let Ok(entry) = Verified::parse(network(), bytes) else {
        return;
    };
    assert_eq!(entry.bytes(), bytes);
    assert!(bytes.len() <= limits::ENTRY_BYTES_MAX);
    let other = NetworkId(public(ROOT + 1));
    assert!(Verified::parse(other, bytes).is_err(), "it belongs to one group");
    let mut log = Log::new(network());
    log.insert(Source::Member, [entry.clone()]);
    log.insert(Source::Anybody, [entry]);
    assert!(log.len() <= 1);
    let _ = Roster::evaluate(&log);
}

/// Entries whole, and without their last signature: what the target signs itself.
pub(crate) fn entries() -> Vec<Vec<u8>> {
    let whole = [genesis(), grant(3), admission(2, 1, 1), ejection(2, 50), leave(2, 30)];
    let bare = whole.iter().map(|entry| {
        assert!(Verified::parse(network(), entry).is_ok(), "seeds are good");
        entry[..entry.len() - 64].to_vec()
    });
    let bare: Vec<_> = bare.collect();
    whole.into_iter().chain([request(2)]).chain(bare).collect()
}

/// A set of good entries, in two orders of arrival: everybody comes to the same members.
pub(crate) fn log(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut all = vec![genesis()];
    while all.len() < 24
        && let (Some(what), Some(number)) = (script.byte(), script.word())
    {
        let (one, other) = ((number % 7) as u8 + 1, (number / 7 % 7) as u8 + 1);
        let at = u64::from(number % 64);
        match what % 4 {
            0 => all.push(grant(number % 4 + 1)),
            1 if one != other => all.push(admission(one, other, number / 49 % 5 + 1)),
            2 => all.push(leave(one, at)),
            3 => all.push(ejection(one, at)),
            _ => {}
        }
    }
    let entry = |bytes: &Vec<u8>| Verified::parse(network(), bytes).expect("well made");
    let (mut at_once, mut backwards) = (Log::new(network()), Log::new(network()));
    at_once.insert(Source::Member, all.iter().map(entry));
    for bytes in all.iter().rev() {
        backwards.insert(Source::Member, [entry(bytes)]);
    }
    assert_eq!(at_once.digest(), backwards.digest(), "the set decides, not the order");
    let roster = Roster::evaluate(&at_once);
    assert_eq!(roster, Roster::evaluate(&backwards));
    let mut again = Log::new(network());
    again.insert(Source::Anybody, at_once.in_order().into_iter().cloned());
    assert_eq!(again.digest(), at_once.digest(), "in order, nothing needs to wait");
    let names: std::collections::BTreeSet<_> = roster.members.values().map(|member| &member.name).collect();
    assert_eq!(names.len(), roster.members.len(), "every member has a name of its own");
    let addresses: std::collections::BTreeSet<_> = roster.members.values().flat_map(|m| m.addresses()).collect();
    assert_eq!(addresses.len(), 2 * roster.members.len(), "and addresses of its own");
}

/// Joins, a chain of sponsors, leaves and ejections.
pub(crate) fn log_scripts() -> Vec<Vec<u8>> {
    let step = |what: u8, number: u16| [&[what][..], &number.to_be_bytes()].concat();
    let admit = |one: u16, other: u16, index: u16| step(1, (one - 1) + 7 * (other - 1) + 49 * (index - 1));
    let chain = [step(0, 3), admit(2, 1, 1), admit(3, 2, 2), admit(4, 3, 3), step(2, 2)].concat();
    let cut = [chain.clone(), step(3, 1), admit(5, 1, 1), step(0, 1)].concat();
    vec![chain, cut]
}

fn invite_of() -> Invite {
    Invite {
        network: network(),
        genesis: Verified::parse(network(), &genesis()).expect("well made"),
        grant: Verified::parse(network(), &grant(3)).expect("well made"),
        key: InviteKey::from_seed([INVITE; 32]),
        server: "rdv.example:5222?token=abc".parse().expect("an address"),
    }
}

/// A link from anywhere.
pub(crate) fn invite(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Invite::parse(text) {
        Ok(invite) => {
            let link = invite.to_link();
            let again = Invite::parse(&link).expect("what is written is read");
            assert_eq!((again.network, &again.server), (invite.network, &invite.server));
            assert_eq!(again.to_link(), link);
            let _ = (
                invite.facts(),
                invite.right(),
                invite.subnets(),
                invite.check_time(TIME),
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Whole, and cut short.
pub(crate) fn invites() -> Vec<Vec<u8>> {
    let link = invite_of().to_link();
    assert!(Invite::parse(&link).is_ok(), "seeds are good");
    vec![
        link.clone().into_bytes(),
        link.as_bytes()[..60].to_vec(),
        b"ipop://AgAA".to_vec(),
    ]
}

/// What a member shows of itself; and the same bytes signed by a member.
pub(crate) fn card(bytes: &[u8]) {
    check_card(bytes);
    for number in [1, 2] {
        let payload = [&network().0[..], bytes].concat();
        let signature = key(number).sign(Purpose::Presence.context(), &payload);
        check_card(&[bytes, &signature].concat());
    }
}

fn check_card(bytes: &[u8]) {
    if let Ok(card) = Card::parse(network(), bytes) {
        assert!(bytes.len() <= limits::CARD_BYTES_MAX && card.proof.len() <= limits::CARD_ENTRIES_MAX);
        let mut log = Log::new(network());
        log.insert(Source::Anybody, card.proof);
        let _ = Roster::evaluate(&log).chain_of(&log, card.node).len();
    }
}

/// The founder's and Bob's, signed and not.
pub(crate) fn cards() -> Vec<Vec<u8>> {
    let proof = [genesis(), grant(3), admission(2, 1, 1)];
    let proof = proof.map(|bytes| Verified::parse(network(), &bytes).expect("well made"));
    let proof: Vec<&Verified> = proof.iter().collect();
    let card = |number: u8, proof: &[&Verified]| {
        let draft = CardDraft::new(network(), NodeId(public(number)), TIME, 7, proof);
        let signature = key(number).sign(Purpose::Presence.context(), &draft.payload());
        draft.signed(&signature)
    };
    let (ann, bob) = (card(1, &[]), card(2, &proof));
    assert!(Card::parse(network(), &bob).is_ok(), "seeds are good");
    let bare = bob[..bob.len() - 64].to_vec();
    vec![ann, bob, bare]
}

/// What controllers tell each other, and what a rendezvous carries for them.
pub(crate) fn message(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
    }
    if let Ok(blob) = open_envelope(bytes) {
        assert_eq!(seal_envelope(blob), bytes);
    }
}

/// One of each kind, and an envelope.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let entries = vec![genesis(), grant(3)];
    let digest = Digest {
        count: 3,
        hash: [7; 32],
    };
    let mut first = Message::Digest { digest, time: TIME }.to_bytes();
    first[1] = 4;
    let tag = Default::default();
    let reason = "this invite is used up".to_owned();
    let all = [
        Message::Join {
            grant: grant(3),
            request: request(2),
        },
        Message::Welcome {
            tag,
            entries: entries.clone(),
        },
        Message::Refused {
            tag,
            refusal: Refusal::Invite,
            reason,
        },
        Message::Have {
            from: Default::default(),
            to: [9; 16],
            ids: vec![[1; 16], [2; 16]],
        },
        Message::Entries(entries),
        Message::Relay {
            to: NodeId(public(2)),
            blob: vec![1, 2, 3],
        },
        Message::Relayed {
            from: NodeId(public(1)),
            blob: vec![1, 2, 3],
        },
    ];
    let all = all.iter().map(Message::to_bytes);
    all.chain([first, seal_envelope(b"sealed")]).collect()
}

/// The state directory's file.
pub(crate) fn store(bytes: &[u8]) {
    match Store::parse("controller.json", bytes) {
        Ok(store) => {
            let again = Store::parse("controller.json", &store.to_bytes());
            assert_eq!(again, Ok(store));
        }
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.contains("controller.json") && !sentence.contains(PASSWORD));
        }
    }
}

const PASSWORD: &str = "hush-hush-hush";

/// One group with its log.
pub(crate) fn stored() -> Store {
    let login = Login {
        server: "rdv.example:5222".parse().expect("an address"),
        user: "n123".into(),
        password: PASSWORD.into(),
        register: true,
    };
    let group = StoredGroup {
        network: network(),
        node: NodeId(public(1)),
        founder: true,
        login,
        mtu: 1400,
        log: [genesis(), grant(3), admission(2, 1, 1)].map(Blob).to_vec(),
    };
    Store {
        version: STORE_VERSION,
        up: true,
        groups: vec![group],
    }
}

/// Full, empty, from a later version.
pub(crate) fn stores() -> Vec<Vec<u8>> {
    let later = br#"{"version":9,"up":true,"groups":[]}"#;
    vec![stored().to_bytes(), Store::default().to_bytes(), later.to_vec()]
}
