//! The way of a frame takes no memory: counted by an allocator that counts. (aws-lc has its own; it takes none for
//! an AEAD whose key is set up.)

mod ends;

use allocation_counter::measure;
use ends::{Ends, buffer, outside};
use tincan::fast::trains::Trains;
use tincan::fast::transit::pass_on;
use tincan::fast::{self, HEADROOM, Inbound, Lanes, LinkSlot, Outbound, TAILROOM, inbound};
use tincan::record::Cipher;
use tincan::transit::onward;

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
                    Inbound::Frames { .. }
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
fn passing_on_takes_no_memory() {
    for length in [64, 1400] {
        let mut ends = Ends::new(Cipher::Aes256Gcm, 100);
        let (mut trains, mut lanes) = (Trains::new(1 << 16), Lanes::new(2).expect("lane 2 exists"));
        let link = ends.ann.links[0].as_ref().expect("the link to bob");
        let datagrams: Vec<Vec<u8>> = (0..=FRAMES)
            .map(|_| {
                let mut payload = onward(ends::name(1).short).to_vec();
                payload.resize(length, 0x81);
                let mut room = [&[0; HEADROOM][..], &payload, &[0; TAILROOM]].concat();
                let sealed = fast::seal(link, &mut ends.lanes, LinkSlot::new(0).expect("the first"), &mut room);
                match sealed {
                    Outbound::Sealed { range, .. } => room[range].to_vec(),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let mut datagrams = datagrams.into_iter();
        let mut pass = |datagram: &mut Vec<u8>| {
            let Inbound::PassOn { passing, payload, .. } = inbound(&ends.bob, outside(1), datagram) else {
                panic!("it is for somebody else");
            };
            pass_on(
                &ends.bob,
                &mut lanes,
                passing,
                &datagram[payload],
                &mut trains,
                Trains::clear,
            );
        };
        // The first makes a replay window, and room for its link.
        pass(&mut datagrams.next().expect("one more than are counted"));
        let mut others: Vec<Vec<u8>> = datagrams.collect();
        let passing = measure(|| others.iter_mut().for_each(&mut pass));
        assert_eq!(passing.count_total, 0, "{length} bytes: {passing:?}");
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
                    Inbound::Frames { .. }
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
