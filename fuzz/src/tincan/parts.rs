//! Frames that a peer cuts, or pretends to cut.

use std::time::Duration;

use tincan::limits;
use tincan::parts::{Joiner, Part, cut};

use crate::script::{START, Script, Writer};

/// Records as a peer seals them, one after the other, with pauses: what waits keeps its bounds, what is joined is not
/// longer than a frame. The first bytes are cut and joined again too.
pub(crate) fn parts(bytes: &[u8]) {
    let (mut script, mut now) = (Script(bytes), *START);
    let mut joiner = Joiner::default();
    for _ in 0..Script::STEPS * 4 {
        let Some(body) = script.chunk() else { break };
        now += Duration::from_millis(script.byte().map_or(0, u64::from));
        let Ok(part) = Part::parse(body) else { continue };
        if let Some(frame) = joiner.take(now, &part).frame {
            assert!(frame.len() <= limits::FRAME);
        }
        let (frames, bytes) = joiner.level();
        assert!(frames <= limits::JOINS && bytes <= limits::JOIN_BYTES);
    }
    joiner.expire(now + limits::JOIN_TIME);
    assert_eq!(joiner.level(), (0, 0));
    round_trip(bytes);
}

fn round_trip(bytes: &[u8]) {
    let Some((&[high, low], frame)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let frame = &frame[..frame.len().min(limits::FRAME)];
    let room = usize::from(u16::from_be_bytes([high, low]));
    let mut joiner = Joiner::default();
    let mut joined = None;
    for body in cut(1, frame, room).into_iter().flatten() {
        assert!(body.len() <= room && joined.is_none());
        let part = Part::parse(&body).expect("what we cut can be read");
        joined = joiner.take(*START, &part).frame;
    }
    assert!(joined.is_none_or(|joined| joined == frame));
    assert_eq!(joiner.level(), (0, 0));
}

/// A frame in parts: in order, backwards, with a part missing, with a number used twice.
pub(crate) fn some() -> Vec<Vec<u8>> {
    let frame: Vec<u8> = (0..1280).map(|at| at as u8).collect();
    let script = |bodies: &[Vec<u8>]| {
        let all = bodies
            .iter()
            .fold(Writer::default(), |writer, body| writer.chunk(body).bytes(&[1]));
        all.0
    };
    let bodies = |number, room| -> Vec<Vec<u8>> { cut(number, &frame, room).expect("few parts").collect() };
    let in_order = bodies(1, 1223);
    let backwards = bodies(2, 479).into_iter().rev().collect::<Vec<_>>();
    let missing = bodies(3, 479)[1..].to_vec();
    let twice = [&bodies(4, 479)[..2], &bodies(4, 1223)].concat();
    let room = [&1223u16.to_be_bytes()[..], &frame].concat();
    vec![
        script(&in_order),
        script(&backwards),
        script(&missing),
        script(&twice),
        room,
    ]
}
