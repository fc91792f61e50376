//! What a record must survive.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
const RECEIVER: ReceiverIndex = ReceiverIndex(0x0A0B0C);

fn material(cipher: Cipher) -> KeyMaterial {
    KeyMaterial::new(cipher, &[7; 44])
}

fn seal_key(cipher: Cipher, epoch: u16) -> SealKey {
    SealKey::new(&material(cipher), RECEIVER, epoch)
}

fn open_keys(cipher: Cipher, epoch: u16) -> OpenKeys {
    OpenKeys::new(vec![None, Some(Arc::new(OpenEpoch::new(&material(cipher), epoch)))])
}

fn lane(id: u8) -> Lane {
    Lane::new(id).expect("a lane")
}

fn sealed(key: &SealKey, lane: &mut Lane, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0; payload.len() + OVERHEAD];
    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    key.seal(lane, &mut record).expect("sealed");
    record
}

fn opens(keys: &OpenKeys, record: &[u8]) -> Result<Vec<u8>, DropReason> {
    keys.open(&mut record.to_vec()).map(|opened| opened.payload.to_vec())
}

#[test]
fn what_was_sealed_is_opened_once() {
    for cipher in CIPHERS {
        let (seal, open) = (seal_key(cipher, 3), open_keys(cipher, 3));
        let mut lane = lane(1);
        for length in [0, 1, 15, 16, 17, 1400, 9000] {
            let payload = vec![0xA5; length];
            let record = sealed(&seal, &mut lane, &payload);
            assert_eq!(record.len(), length + OVERHEAD);
            assert_eq!(opens(&open, &record), Ok(payload));
            assert_eq!(opens(&open, &record), Err(DropReason::Replay));
        }
    }
}

#[test]
fn the_header_is_as_written_down() {
    let header = Header {
        lane: 5,
        receiver: RECEIVER,
        epoch: 0x0102,
        counter: 0x0000_0304_0506_0708,
    };
    let bytes = [0x85, 0x0A, 0x0B, 0x0C, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(header.encode(), bytes);
    let mut record = bytes.to_vec();
    record.resize(OVERHEAD, 0);
    assert_eq!(Header::parse(&record), Ok(header));
    assert_eq!(Header::parse(&record[..27]), Err(DropReason::Short));
    for first in (0..0x80).chain(0xBF..=0xFF) {
        record[0] = first;
        assert_eq!(Header::parse(&record), Err(DropReason::UnknownLane));
    }
}

#[test]
fn a_damaged_record_is_wiped_and_changes_nothing() {
    for cipher in CIPHERS {
        let (seal, open) = (seal_key(cipher, 0), open_keys(cipher, 0));
        let record = sealed(&seal, &mut lane(0), b"payload");
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 0x01;
            let reason = open.open(&mut damaged).expect_err("damaged");
            // Bytes 4 and 5 are the epoch, without a key; 6 and 7 the counter's top, beyond what a key seals.
            let expected = if at == 4 || at == 5 {
                DropReason::UnknownEpoch
            } else if at == 6 || at == 7 {
                DropReason::Exhausted
            } else {
                DropReason::Forged
            };
            assert_eq!(reason, expected, "byte {at}");
            if reason == DropReason::Forged {
                assert!(damaged.iter().all(|byte| *byte == 0), "plaintext is left");
            }
        }
        let made = open.epochs[1].as_ref().expect("an epoch");
        let windows = made.windows.iter().filter(|w| w.get().is_some()).count();
        assert_eq!(windows, 0, "forged lanes get no window");
        assert!(!made.is_heard() && !open.take_sign_of_life());
        assert_eq!(opens(&open, &record), Ok(b"payload".to_vec()));
        assert!(made.is_heard() && open.take_sign_of_life());
    }
}

#[test]
fn a_record_of_another_key_direction_or_cipher_is_forged() {
    let record = sealed(&seal_key(Cipher::Aes256Gcm, 0), &mut lane(1), b"x");
    let other_key = KeyMaterial::new(Cipher::Aes256Gcm, &[8; 44]);
    let other = OpenKeys::new(vec![Some(Arc::new(OpenEpoch::new(&other_key, 0)))]);
    assert_eq!(opens(&other, &record), Err(DropReason::Forged));
    let other = open_keys(Cipher::ChaCha20Poly1305, 0);
    assert_eq!(opens(&other, &record), Err(DropReason::Forged));
}

#[test]
fn lanes_have_windows_of_their_own() {
    let (seal, open) = (seal_key(Cipher::Aes256Gcm, 0), open_keys(Cipher::Aes256Gcm, 0));
    for id in 0..LANES {
        let record = sealed(&seal, &mut lane(id), &[id]);
        assert_eq!(opens(&open, &record), Ok(vec![id]));
        assert_eq!(opens(&open, &record), Err(DropReason::Replay));
    }
    assert!(Lane::new(LANES).is_none());
}

/// S-C11: reordered by thousands, each once; no replay ever.
#[test]
fn reordering_by_4096_loses_nothing() {
    let (seal, open) = (seal_key(Cipher::Aes256Gcm, 0), open_keys(Cipher::Aes256Gcm, 0));
    let mut lane = lane(1);
    let mut records: Vec<_> = (0..8192u32)
        .map(|n| sealed(&seal, &mut lane, &n.to_be_bytes()))
        .collect();
    for chunk in records.chunks_mut(4096) {
        chunk.reverse();
    }
    assert!(records.iter().all(|r| opens(&open, r).is_ok()));
    assert!(records.iter().all(|r| opens(&open, r) == Err(DropReason::Replay)));
}

#[test]
fn no_nonce_twice_over_lanes_epochs_and_counters() {
    let iv = [0x33; NONCE_LEN];
    let mut seen = BTreeSet::new();
    for epoch in [0, 1, 0x0100, u16::MAX] {
        for lane in 0..LANES {
            for counter in [0, 1, 255, 256, 1 << 16, 1 << 32, (1 << 48) - 1] {
                let header = Header {
                    lane,
                    receiver: RECEIVER,
                    epoch,
                    counter,
                };
                assert!(seen.insert(*header.nonce(&iv).as_ref()));
            }
        }
    }
}

#[test]
fn a_second_lane_of_the_same_id_cannot_seal() {
    let key = seal_key(Cipher::Aes256Gcm, 0);
    let (mut first, mut second) = (lane(4), lane(4));
    let mut record = [0; OVERHEAD];
    assert_eq!(key.seal(&mut first, &mut record), Ok(()));
    let taken = Err(SealError::LaneTaken(4));
    assert_eq!(key.seal(&mut second, &mut record), taken);
    // A lane that moved on to another key and comes back would count from 0 again: refused.
    let next = seal_key(Cipher::Aes256Gcm, 1);
    assert_eq!(next.seal(&mut first, &mut record), Ok(()));
    assert_eq!(key.seal(&mut first, &mut record), taken);
    assert_eq!(key.seal(&mut lane(5), &mut record), Ok(()));
}

#[test]
fn counters_begin_anew_with_a_key_and_only_then() {
    let (one, two) = (seal_key(Cipher::Aes256Gcm, 0), seal_key(Cipher::Aes256Gcm, 1));
    let mut lane = lane(1);
    let mut counters = Vec::new();
    for key in [&one, &one, &one, &two, &two] {
        let record = sealed(key, &mut lane, b"");
        counters.push(Header::parse(&record).expect("a header").counter);
    }
    assert_eq!(counters, [0, 1, 2, 0, 1]);
}

/// S-C15: the key is worn at half its allowance and dead at all of it; nothing wraps.
#[test]
fn a_key_stops_hard() {
    let key = seal_key(Cipher::Aes256Gcm, 0);
    let mut record = [0; OVERHEAD];
    let (mut one, mut two) = (lane(1), lane(2));
    assert_eq!(key.seal(&mut one, &mut record), Ok(()));
    assert!(key.is_used() && !key.is_worn());
    key.chunks_taken.store(SOFT_CHUNKS, Ordering::Relaxed);
    assert!(key.is_worn());
    assert_eq!(key.seal(&mut two, &mut record), Ok(()), "worn keys still work");

    key.chunks_taken.store(HARD_CHUNKS - 1, Ordering::Relaxed);
    one.frames_left = 1;
    for _ in 0..=CHUNK_FRAMES {
        assert_eq!(key.seal(&mut one, &mut record), Ok(()));
    }
    for _ in 0..3 {
        assert_eq!(key.seal(&mut one, &mut record), Err(SealError::Key));
    }
    assert_eq!(key.chunks_taken.load(Ordering::Relaxed), HARD_CHUNKS);
}

#[test]
fn long_frames_use_a_key_up_sooner() {
    let key = seal_key(Cipher::Aes256Gcm, 0);
    let mut lane = lane(1);
    let mut record = vec![0; 65_536 + OVERHEAD];
    let _ = key.seal(&mut lane, &mut record);
    lane.blocks_left = 4096;
    let _ = key.seal(&mut lane, &mut record);
    assert_eq!(key.chunks_taken.load(Ordering::Relaxed), 2);
    assert_eq!(lane.blocks_left, CHUNK_BLOCKS - 4098);
}

#[test]
fn a_buffer_without_room_is_refused() {
    let key = seal_key(Cipher::Aes256Gcm, 0);
    let refused = key.seal(&mut lane(1), &mut [0; OVERHEAD - 1]);
    assert_eq!(refused, Err(SealError::Buffer));
}

#[test]
fn of_many_receiving_threads_one_delivers() {
    let (seal, open) = (seal_key(Cipher::Aes256Gcm, 0), open_keys(Cipher::Aes256Gcm, 0));
    let mut lane = lane(9);
    let records: Vec<_> = (0..3000u32)
        .map(|n| sealed(&seal, &mut lane, &n.to_be_bytes()))
        .collect();
    let delivered: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| records.iter().filter(|r| opens(&open, r).is_ok()).count()))
            .collect();
        threads.into_iter().map(|t| t.join().expect("it ends")).sum()
    });
    assert_eq!(delivered, records.len());
}

#[test]
fn the_first_record_of_an_epoch_says_so() {
    let (seal, open) = (seal_key(Cipher::Aes256Gcm, 0), open_keys(Cipher::Aes256Gcm, 0));
    let mut lane = lane(1);
    let firsts: Vec<_> = (0..3)
        .map(|_| {
            let mut record = sealed(&seal, &mut lane, b"");
            open.open(&mut record).map(|opened| opened.first_of_epoch)
        })
        .collect();
    assert_eq!(firsts, [Ok(true), Ok(false), Ok(false)]);
}

proptest! {
    #[test]
    fn headers_read_back(lane in 0..LANES, index in 0u32..1 << 24, epoch: u16, counter in 0u64..1 << 48) {
        let receiver = ReceiverIndex::new(index).expect("24 bits");
        let header = Header { lane, receiver, epoch, counter };
        let mut record = header.encode().to_vec();
        record.resize(OVERHEAD, 0);
        prop_assert_eq!(Header::parse(&record), Ok(header));
    }

    #[test]
    fn outside_bytes_do_no_harm(mut datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
        let open = open_keys(Cipher::Aes256Gcm, 0);
        prop_assert!(open.open(&mut datagram).is_err());
    }
}
