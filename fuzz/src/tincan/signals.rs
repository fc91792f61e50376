//! Signals and the blobs that they travel in.

use std::net::SocketAddr;
use std::sync::LazyLock;

use api::{NetworkId, SessionId};
use tincan::ice::{Candidate, Credentials};
use tincan::keys::{self, DeviceSecret, NodeKey, SEALED_BYTES, open_from, seal_to};
use tincan::limits;
use tincan::signal::{Answer, Body, Candidates, LINK_VERSIONS, LinkSecret, Offer, Restart, Signal, Stamp};

/// Whose blobs they are, and from whom.
pub(crate) static ANN: LazyLock<NodeKey> = LazyLock::new(|| node_key(1));
pub(crate) static BOB: LazyLock<NodeKey> = LazyLock::new(|| node_key(2));
pub(crate) static CAROL: LazyLock<NodeKey> = LazyLock::new(|| node_key(3));

fn node_key(device: u8) -> NodeKey {
    NodeKey::derive(&DeviceSecret::from_bytes([device; 32]), NetworkId([9; 32]))
}

/// A signal, opened already.
pub(crate) fn signal(bytes: &[u8]) {
    let Ok(signal) = Signal::parse(bytes) else { return };
    let (candidates, members, credentials): (usize, usize, Option<&Credentials>) = match &signal.body {
        Body::Offer(offer) => (offer.candidates.len(), offer.members.len(), Some(&offer.credentials)),
        Body::Answer(answer) => (answer.candidates.len(), answer.members.len(), Some(&answer.credentials)),
        Body::Candidates(list) => (list.candidates.len(), list.members.len(), None),
        Body::Restart(restart) => (
            restart.candidates.len(),
            restart.members.len(),
            Some(&restart.credentials),
        ),
        Body::Message(data) => {
            assert!(data.len() <= limits::CONTROLLER_MESSAGE);
            (0, 0, None)
        }
    };
    assert!(candidates <= limits::CANDIDATES);
    assert!(members <= limits::LISTED_MEMBERS);
    if let Some(credentials) = credentials {
        assert!(
            !format!("{signal:?}").contains(credentials.password()),
            "no secret is printed"
        );
    }
    let written = signal.encode();
    assert_eq!(Signal::parse(&written), Ok(signal));
    assert!(written.len() <= limits::SIGNAL_BYTES, "what is read can be sent");
}

/// A blob from the rendezvous; and the same bytes sealed and opened again.
pub(crate) fn sealed_blob(bytes: &[u8]) {
    if let Ok((_, plaintext)) = open_from(&ANN, bytes) {
        assert!(plaintext.len() <= limits::SIGNAL_BYTES);
    }
    let plaintext = &bytes[..bytes.len().min(limits::SIGNAL_BYTES)];
    let blob = seal_to(&BOB, ANN.id(), plaintext).expect("short enough, and a node");
    assert!(blob.len() <= SEALED_BYTES);
    assert_eq!(open_from(&ANN, &blob), Ok((BOB.id(), plaintext.to_vec())));
    assert!(open_from(&BOB, &blob).is_err());
}

/// What a blob holds, as one who can seal may make it.
pub(crate) fn sealed_inside(bytes: &[u8]) {
    keys::fuzz_inner(bytes);
}

fn candidates() -> Vec<Candidate> {
    let [host, outer]: [SocketAddr; 2] = [([10, 0, 0, 2], 5000).into(), ([198, 51, 100, 7], 40_000).into()];
    vec![
        Candidate::host(host, 9),
        Candidate::server_reflexive(outer, host, 8),
        Candidate::relayed(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 3478)), 7),
    ]
}

fn bodies() -> Vec<Body> {
    let credentials = || Credentials::from_entropy([3; 32]);
    let session = SessionId(77);
    let offer = Offer {
        session,
        versions: LINK_VERSIONS.to_vec(),
        secret: LinkSecret::from_bytes([5; 32]),
        credentials: credentials(),
        candidates: candidates(),
        members: vec![CAROL.id()],
    };
    let answer = Answer {
        session,
        version: 1,
        credentials: credentials(),
        candidates: candidates(),
        members: vec![CAROL.id()],
    };
    let trickled = Candidates {
        session,
        generation: 0,
        candidates: candidates(),
        members: vec![CAROL.id()],
    };
    let restart = Restart {
        session,
        generation: 1,
        is_answer: false,
        credentials: credentials(),
        candidates: candidates(),
        members: vec![CAROL.id()],
    };
    vec![
        Body::Offer(offer),
        Body::Answer(answer),
        Body::Candidates(trickled),
        Body::Restart(restart),
        Body::Message(b"hello".to_vec()),
    ]
}

/// One of each kind.
pub(crate) fn signals() -> Vec<Vec<u8>> {
    let stamp = Stamp { instance: 1, number: 2 };
    let encode = |body| Signal { stamp, body }.encode().to_vec();
    bodies().into_iter().map(encode).collect()
}

/// What follows the stamp, one of each kind.
pub(crate) fn bodies_for() -> Vec<Vec<u8>> {
    signals().into_iter().map(|signal| signal[18..].to_vec()).collect()
}

/// One sealed for Ann, one for somebody else.
pub(crate) fn blobs() -> Vec<Vec<u8>> {
    let seal = |to: &NodeKey| seal_to(&BOB, to.id(), b"hello").expect("short enough, and a node");
    vec![seal(&ANN), seal(&BOB)]
}

/// Sender, signature, length, plaintext, padding.
pub(crate) fn insides() -> Vec<Vec<u8>> {
    let inside = |plaintext: &[u8]| {
        let length = u32::try_from(plaintext.len()).expect("it is short").to_be_bytes();
        let mut inside = [&BOB.id().0[..], &[6; 64], &length, plaintext].concat();
        inside.resize(inside.len().next_multiple_of(256), 0);
        inside
    };
    vec![inside(b""), inside(b"hello"), inside(&[1; 300])]
}
