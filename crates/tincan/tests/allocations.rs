//! The way of a frame takes no memory: counted by an allocator that counts. (aws-lc has its own; it takes none for
//! an AEAD whose key is set up.)

mod ends;

use allocation_counter::measure;
use ends::{Ends, buffer, outside};
use tincan::fast::{Inbound, inbound};
use tincan::record::Cipher;

const FRAMES: usize = 1000;

#[test]
fn frames_take_no_memory_either_way() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        for length in [64, 1400, 9000] {
            let mut ends = Ends::new(cipher, 100);
            let mut buffers: Vec<_> = (0..FRAMES + 1).map(|_| buffer(length)).collect();
            // The first frame of a sender makes room for its link.
            ends.seal(&mut buffer(length));
            let sealing = measure(|| {
                for buffer in &mut buffers {
                    ends.seal(buffer);
                }
            });
            assert_eq!(sealing.count_total, 0, "{length} bytes out: {sealing:?}");
            let record = tincan::fast::HEADROOM - tincan::record::HEADER;
            let mut open = |buffer: &mut Vec<u8>| {
                let datagram = &mut buffer[record..];
                assert!(matches!(
                    inbound(&ends.bob, outside(1), datagram),
                    Inbound::Frame { .. }
                ));
            };
            // The first record of a lane in an epoch makes its replay window.
            open(&mut buffers[0]);
            let opening = measure(|| buffers[1..].iter_mut().for_each(&mut open));
            assert_eq!(opening.count_total, 0, "{length} bytes in: {opening:?}");
        }
    }
}

#[test]
fn refusing_takes_no_memory() {
    let mut ends = Ends::new(Cipher::Aes256Gcm, 100);
    let mut sealed = buffer(200);
    let range = ends.seal(&mut sealed);
    let record = sealed[range].to_vec();
    inbound(&ends.bob, outside(1), &mut record.clone());
    let mut forged = record.clone();
    forged[40] ^= 1;
    // A counter that was not seen yet, so that the forgery is found by its tag and not by the window.
    forged[11] = 9;
    let mut stranger = record.clone();
    stranger[1] ^= 0xFF;
    let mut nobody = buffer(200);
    nobody[tincan::fast::HEADROOM + 19] = 200;
    let mut spoofed = buffer(200);
    spoofed[tincan::fast::HEADROOM + 15] = 200;
    let mut replayed = record;
    let refusing = measure(|| {
        for _ in 0..FRAMES {
            for datagram in [&mut replayed, &mut forged, &mut stranger] {
                assert!(!matches!(
                    inbound(&ends.bob, outside(1), datagram),
                    Inbound::Frame { .. }
                ));
            }
            for frame in [&mut nobody, &mut spoofed] {
                let verdict = tincan::fast::outbound(&ends.ann, &mut ends.lanes, ends::NETWORK, frame);
                assert!(!matches!(verdict, tincan::fast::Outbound::Sealed { .. }));
            }
        }
    });
    assert_eq!(refusing.count_total, 0, "{refusing:?}");
}
