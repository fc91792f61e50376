//! What people without an account can and cannot do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Reads until the server closes; how much it said.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> usize {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said))
        .await
        .expect("left open");
    said.len()
}

#[tokio::test]
async fn those_who_dawdle_are_cut_at_every_stage() {
    let short = |config: &mut ServerConfig| config.login_time = Duration::from_millis(200);
    let house = House::open_with(Scratch::new(), short).await;
    let mut silent = house.tcp().await;
    assert_eq!(until_closed(&mut silent).await, 0);
    let mut half_hello = house.tcp().await;
    half_hello.write_all(&[0x16, 3, 1]).await.unwrap();
    until_closed(&mut half_hello).await;
    let mut half_header = house.tcp().await;
    half_header
        .write_all(b"<?xml version='1.0'?><stream:str")
        .await
        .unwrap();
    until_closed(&mut half_header).await;
    let mut quiet_tls = house.tls_stream().await;
    assert_eq!(until_closed(&mut quiet_tls).await, 0);
    let mut idle = house.stranger().await;
    assert_eq!(idle.dismissed().await, "connection-timeout");
}

#[tokio::test]
async fn garbage_never_ends_the_server() {
    let house = House::open().await;
    let mut member = house.member("ann").await;
    let mut seed = 1u64;
    for first in 0..=255u8 {
        let mut garbage = vec![first];
        garbage.extend((0..64).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        }));
        let mut plain = house.tcp().await;
        let _ = plain.write_all(&garbage).await;
        let _ = plain.shutdown().await;
        until_closed(&mut plain).await;
        if first % 16 == 0 {
            let mut sealed = house.tls_stream().await;
            let _ = sealed.write_all(&garbage).await;
            let _ = sealed.shutdown().await;
            until_closed(&mut sealed).await;
        }
    }
    member.settle().await;
}

#[tokio::test]
async fn an_oversize_stanza_ends_only_its_own_stream() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    let large = "x".repeat(limits::STANZA_BYTES_MAX);
    // The server hangs up in the middle of it, so writing may fail.
    let _ = ann
        .link
        .write(&format!(
            "<message to='bob@family.test/dev'><body>{large}</body></message>"
        ))
        .await;
    // Its stream is over; the reason may be lost with the reset.
    while ann.try_next().await.is_ok() {}
    bob.settle().await;
    assert!(bob.waiting.is_empty());
}

#[tokio::test]
async fn strangers_may_say_less_than_members() {
    let house = House::open().await;
    let mut stranger = house.stranger().await;
    let large = "x".repeat(limits::STANZA_BYTES_STRANGER);
    let _ = stranger
        .link
        .write(&format!("<iq type='set' id='1'><a xmlns='urn:x'>{large}</a></iq>"))
        .await;
    assert_eq!(stranger.dismissed().await, "policy-violation");
}

#[tokio::test]
async fn stanzas_before_log_in_are_refused() {
    let house = House::open().await;
    house.member("ann").await;
    let mut stranger = house.stranger().await;
    stranger
        .write("<message to='ann@family.test'><body>spam</body></message>")
        .await;
    assert_eq!(stranger.dismissed().await, "not-authorized");
}

#[tokio::test]
async fn forbidden_xml_ends_the_stream() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    ann.write("<!DOCTYPE bomb [<!ENTITY a 'b'>]>").await;
    assert_eq!(ann.dismissed().await, "not-well-formed");
}

#[tokio::test]
async fn another_host_is_not_served() {
    let house = House::open().await;
    let stream = house.tls_stream().await;
    let mut link = Link::new(Box::new(stream), Vec::new(), limits::STANZA_BYTES_MAX);
    link.write(&format!(
        "<stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAM}' to='other.test' version='1.0'>"
    ))
    .await
    .unwrap();
    let mut guest = Guest {
        link,
        exporter: [0; 32],
        waiting: VecDeque::new(),
    };
    assert!(matches!(guest.link.next().await, Ok(Incoming::Open(_))));
    assert_eq!(guest.dismissed().await, "host-unknown");
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_and_holds_up_nobody() {
    let house = House::open().await;
    let (mut ann, mut slow) = (house.member("ann").await, house.member("slow").await);
    let text = "x".repeat(100_000);
    let flood = format!("<message type='chat' to='slow@family.test/dev'><body>{text}</body></message>");
    // More than every buffer on the way; the slow one reads nothing meanwhile.
    let mut refused = false;
    for _ in 0..400 {
        ann.write(&flood).await;
        ann.settle().await;
        refused = ann
            .waiting
            .iter()
            .any(|e| e.name() == "message" && condition(e) == "service-unavailable");
        if refused {
            break;
        }
    }
    assert!(refused, "the slow reader was never cut");
    while slow.try_next().await.is_ok() {}
}
