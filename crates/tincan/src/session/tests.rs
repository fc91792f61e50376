//! Two sessions from the same keys, and the records between them.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER as HEX;

use super::*;
use crate::record::{DropReason, HEADER, Header, Lane, OVERHEAD, SealError};

const EXPORTED: [u8; 32] = [0x11; 32];
const SECRET: [u8; 32] = [0x22; 32];

fn index(number: u32) -> ReceiverIndex {
    ReceiverIndex::new(number).expect("24 bits")
}

fn keys(cipher: Cipher, role: Role) -> SessionKeys {
    SessionKeys::new(&EXPORTED, &SECRET, cipher, role)
}

fn pair(now: Instant) -> (Session, Session) {
    let end = |role, peer, own| Session::new(keys(Cipher::Aes256Gcm, role), index(peer), index(own), now);
    (end(Role::Client, 2, 1), end(Role::Server, 1, 2))
}

fn seal(session: &Session, lane: &mut Lane, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0; payload.len() + OVERHEAD];
    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    session.sealer().seal(lane, &mut record).expect("sealed");
    record
}

/// Opens as a receiver does: tells the session of an epoch's first record.
fn open(session: &mut Session, record: &[u8], now: Instant) -> Result<Vec<u8>, DropReason> {
    let mut record = record.to_vec();
    let opener = session.opener();
    let opened = opener.open(&mut record)?;
    let payload = opened.payload.to_vec();
    if opened.first_of_epoch {
        session.on_opened(opened.epoch, now);
    }
    Ok(payload)
}

fn lane() -> Lane {
    Lane::new(1).expect("a lane")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Lets `from` send one record and enter its next epoch.
fn next_epoch(from: &mut Session, lane: &mut Lane, now: &mut Instant) -> Vec<u8> {
    let record = seal(from, lane, b"x");
    let epoch = from.sealer().epoch();
    from.sending.peer_alive = true;
    *now += EPOCH_TIME;
    assert_eq!(from.handle_timeout(*now), Ok(true));
    assert_eq!(from.sealer().epoch(), epoch + 1);
    record
}

#[test]
fn both_directions_work_and_are_apart() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    let record = seal(&client, &mut lane(), b"to the server");
    assert_eq!(open(&mut client, &record, now), Err(DropReason::Forged), "reflected");
    assert_eq!(open(&mut server, &record, now), Ok(b"to the server".to_vec()));
    let record = seal(&server, &mut lane(), b"to the client");
    assert_eq!(open(&mut client, &record, now), Ok(b"to the client".to_vec()));
}

#[test]
fn other_secrets_make_other_keys() {
    let now = Instant::now();
    let (client, _) = pair(now);
    let record = seal(&client, &mut lane(), b"x");
    let variants = [
        SessionKeys::new(&[0x12; 32], &SECRET, Cipher::Aes256Gcm, Role::Server),
        SessionKeys::new(&EXPORTED, &[0x23; 32], Cipher::Aes256Gcm, Role::Server),
        SessionKeys::new(&EXPORTED, &SECRET, Cipher::ChaCha20Poly1305, Role::Server),
    ];
    for keys in variants {
        let mut other = Session::new(keys, index(1), index(2), now);
        assert_eq!(open(&mut other, &record, now), Err(DropReason::Forged));
    }
}

#[test]
fn rekey_keeps_frames_in_flight() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut lane = lane();
    let mut flight: Vec<_> = (0..100u8).map(|n| seal(&client, &mut lane, &[n])).collect();
    flight.push(next_epoch(&mut client, &mut lane, &mut now));
    flight.extend((100..200u8).map(|n| seal(&client, &mut lane, &[n])));
    // The new epoch's records overtake all of the old one's.
    flight.reverse();
    for record in &flight {
        assert!(open(&mut server, record, now).is_ok());
        let _ = server.handle_timeout(now + GRACE - Duration::from_millis(1));
    }
    // Windows go on across the change: no replay gets in.
    for record in &flight {
        assert_eq!(open(&mut server, record, now), Err(DropReason::Replay));
    }
}

#[test]
fn the_epoch_before_is_forgotten_after_the_grace() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut lane = lane();
    let late = seal(&client, &mut lane, b"late");
    next_epoch(&mut client, &mut lane, &mut now);
    let first = seal(&client, &mut lane, b"new");
    assert!(open(&mut server, &first, now).is_ok());
    assert_eq!(server.handle_timeout(now), Ok(false), "its own epoch is unused");
    assert_eq!(server.poll_timeout(), Some(now + GRACE));
    assert_eq!(server.handle_timeout(now + GRACE), Ok(true));
    assert_eq!(open(&mut server, &late, now), Err(DropReason::UnknownEpoch));
}

#[test]
fn an_epoch_that_was_lost_whole_is_no_harm() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut lane = lane();
    let mut lost = Vec::new();
    for _ in 0..2 {
        lost.push(next_epoch(&mut client, &mut lane, &mut now));
    }
    assert_eq!(client.sealer().epoch(), 2);
    let record = seal(&client, &mut lane, b"epoch 2");
    assert!(open(&mut server, &record, now).is_ok());
    // The first frame of epoch n+2 ends epoch n at once; n+1 has its grace.
    assert_eq!(open(&mut server, &lost[0], now), Err(DropReason::UnknownEpoch));
    assert!(open(&mut server, &lost[1], now).is_ok());
    // And again two ahead.
    for _ in 0..2 {
        next_epoch(&mut client, &mut lane, &mut now);
    }
    let record = seal(&client, &mut lane, b"epoch 4");
    assert!(open(&mut server, &record, now).is_ok());
}

#[test]
fn the_receiver_follows_even_if_it_is_not_told() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut lane = lane();
    for epoch in 0..6u16 {
        let mut record = seal(&client, &mut lane, b"x");
        assert!(server.opener().open(&mut record).is_ok(), "epoch {epoch}");
        next_epoch(&mut client, &mut lane, &mut now);
        let _ = server.handle_timeout(now);
        assert_eq!(server.receiving.current, epoch);
    }
}

#[test]
fn a_forged_or_unproved_epoch_moves_nothing() {
    let now = Instant::now();
    let (client, mut server) = pair(now);
    let mut record = seal(&client, &mut lane(), b"x");
    record[5] = 2;
    assert_eq!(open(&mut server, &record, now), Err(DropReason::Forged));
    for epoch in [0, 1, 2, 3, 500] {
        assert!(!server.on_opened(epoch, now), "nothing of epoch {epoch} was opened");
    }
    assert_eq!(server.receiving.current, 0);
}

#[test]
fn an_idle_session_stays_in_its_epoch() {
    let mut now = Instant::now();
    let (mut client, _) = pair(now);
    let begin = now;
    let mut looks = 0;
    while now < begin + seconds(3600) {
        now = client.poll_timeout().expect("it looks again");
        assert_eq!(client.handle_timeout(now), Ok(false));
        assert!(client.poll_timeout() > Some(now), "it does not spin");
        looks += 1;
    }
    assert_eq!(client.sealer().epoch(), 0);
    assert!(looks <= 121, "{looks}");
}

#[test]
fn a_sender_does_not_run_away_from_a_silent_peer() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut lane = lane();
    // Ten minutes of probes that nobody answers.
    for _ in 0..600 {
        let _lost = seal(&client, &mut lane, b"probe");
        now += seconds(1);
        let _ = client.handle_timeout(now);
    }
    assert_eq!(client.sealer().epoch(), 0);
    let record = seal(&client, &mut lane, b"back");
    assert!(open(&mut server, &record, now).is_ok());
    // Any sign of life, and the epoch that is long over ends.
    let answer = seal(&server, &mut self::lane(), b"answer");
    assert!(open(&mut client, &answer, now).is_ok());
    now = client.poll_timeout().expect("it looks again");
    assert_eq!(client.handle_timeout(now), Ok(true));
    assert_eq!(client.sealer().epoch(), 1);
}

#[test]
fn a_sign_of_life_is_seen_without_being_told() {
    let mut now = Instant::now();
    let (mut client, server) = pair(now);
    seal(&client, &mut lane(), b"x");
    let mut answers = lane();
    let mut first = seal(&server, &mut answers, b"1");
    assert!(client.opener().open(&mut first).is_ok());
    now += EPOCH_TIME;
    assert_eq!(client.handle_timeout(now), Ok(true));
}

#[test]
fn a_key_that_is_worn_is_replaced_at_once() {
    let now = Instant::now();
    let (mut client, _) = pair(now);
    let old = client.sealer();
    assert_eq!(client.handle_timeout(now), Ok(false));
    old.wear_out();
    assert_eq!(client.handle_timeout(now), Ok(true));
    assert_eq!(client.sealer().epoch(), 1);
    assert!(!client.sealer().is_worn());
}

#[test]
fn the_last_epoch_is_the_end() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    client.sending.chain.next = Some(u16::MAX);
    server.receiving.chain.next = Some(u16::MAX);
    client.sealer().wear_out();
    assert_eq!(client.handle_timeout(now), Ok(true));
    let last = client.sealer();
    assert_eq!(last.epoch(), u16::MAX);
    last.wear_out();
    let later = now + EPOCH_TIME;
    assert_eq!(client.handle_timeout(later), Err(KeysExhausted));
    assert!(client.poll_timeout() > Some(later), "it does not spin");
    assert_eq!(client.sealer().epoch(), u16::MAX, "never wraps");
    last.use_up();
    let refused = last.seal(&mut lane(), &mut [0; OVERHEAD]);
    assert_eq!(refused, Err(SealError::Key));
    assert!(server.receiving.chain.step().is_some());
    assert!(server.receiving.chain.step().is_none());
}

#[test]
fn no_key_and_nonce_twice_over_epochs_and_lanes() {
    let mut now = Instant::now();
    let (mut client, mut server) = pair(now);
    let mut seen = BTreeSet::new();
    let mut lanes: Vec<_> = (0..4).filter_map(Lane::new).collect();
    for _ in 0..12 {
        for lane in &mut lanes {
            for _ in 0..50 {
                let record = seal(&client, lane, b"same content always");
                let header = Header::parse(&record).expect("a header");
                assert!(seen.insert((header.epoch, header.lane, header.counter)));
                assert!(seen.len() < 3000);
                assert!(open(&mut server, &record, now).is_ok());
            }
        }
        next_epoch(&mut client, &mut lanes[0], &mut now);
        server.handle_timeout(now).expect("epochs are left");
    }
}

#[test]
fn epochs_have_keys_of_their_own() {
    let mut chain = Chain::new(Zeroizing::new([1; 32]), Cipher::Aes256Gcm);
    let roots: BTreeSet<[u8; 32]> = (0..100)
        .map(|_| {
            chain.step();
            *chain.root
        })
        .collect();
    assert_eq!(roots.len(), 100);
}

#[test]
fn a_fresh_handshake_is_wanted_after_half_an_hour_or_by_force() {
    let now = Instant::now();
    let (mut client, _) = pair(now);
    let almost = now + FRESH_AFTER - Duration::from_millis(1);
    assert!(!client.wants_fresh_handshake(almost));
    assert!(client.wants_fresh_handshake(now + FRESH_AFTER));
    client.force_fresh_handshake();
    assert!(client.wants_fresh_handshake(now));
}

/// The key schedule and the record form as `docs/vectors/session.py` computes them anew.
#[test]
fn vector() {
    let now = Instant::now();
    let rows = [
        (Cipher::Aes256Gcm, Role::Client, VECTOR_AES),
        (Cipher::ChaCha20Poly1305, Role::Server, VECTOR_CHACHA),
    ];
    for (cipher, role, expected) in rows {
        let mut session = Session::new(keys(cipher, role), index(0x010203), index(9), now);
        let mut lane = Lane::new(5).expect("a lane");
        let mut found = vec![HEX.encode(&seal(&session, &mut lane, b"first"))];
        found.push(HEX.encode(&seal(&session, &mut lane, b"second")));
        session.sealer().wear_out();
        assert_eq!(session.handle_timeout(now), Ok(true));
        found.push(HEX.encode(&seal(&session, &mut lane, b"next epoch")));
        assert_eq!(found, expected);
    }
}

const VECTOR_AES: [&str; 3] = [
    "850102030000000000000000d4b15d317b8ed2cdc477cfff37e1d75073c2405a6a",
    "8501020300000000000000011d51de03838e9928ed6bf2c63742343737f1deeb88a2",
    "8501020300010000000000001ae31b781b241cebf7ea11450b460ccdeb36359995cd0874beb4",
];
const VECTOR_CHACHA: [&str; 3] = [
    "850102030000000000000000d563365cce812b36aaea52f021f18ea163f606e306",
    "850102030000000000000001eeecd8deb3ef50e581df81bb12eff57c8d35da0ea196",
    "8501020300010000000000005b78fd8168cc31f71bd73b712cab70b238133ee7798588f8c57a",
];
