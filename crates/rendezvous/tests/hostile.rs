//! The client against servers that no honest person runs.

mod common;

use std::time::Duration;

use api::rendezvous::RendezvousFault;
use rendezvous::client::Options;
use tokio::io::AsyncReadExt;

use common::adapter::{Adapter, login};
use common::scripted::{HEADER, Scripted, hear, say};

const MECHANISMS: &str = "urn:ietf:params:xml:ns:xmpp-sasl";

async fn ann(server: &Scripted, pinned: bool) -> Adapter {
    let login = login(server.address(pinned), "ann", "ann-secret");
    Adapter::start(login, "room1", b"card", Options::default()).await
}

/// What the client says of a server that speaks `text` once the client has opened its stream under TLS.
async fn verdict_on(text: &str) -> (RendezvousFault, String) {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, true).await;
    let mut stream = server.tls().await;
    hear(&mut stream, "<stream:stream").await;
    let text = text.to_owned();
    let saying = tokio::spawn(async move {
        say(&mut stream, &text).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    });
    let (fault, reason, _) = ann.offline().await;
    let heard = saying.await.expect("a script");
    assert!(!heard.contains("ann-secret") && !heard.contains("PLAIN"), "{heard}");
    (fault, reason)
}

#[tokio::test]
async fn nonsense_under_tls_is_named() {
    for nonsense in [
        "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
        "<html><body>hello</body></html>".into(),
        "\u{0}\u{1}\u{2}".into(),
        format!("{HEADER}<!DOCTYPE x [<!ENTITY a 'b'>]>"),
        format!("{HEADER}<message/>"),
        format!("{HEADER}{}", "<a>".repeat(1_000)),
        format!("{HEADER}<a x='{}'/>", "x".repeat(100_000)),
        format!("{HEADER}<a>{}", "x".repeat(300_000)),
    ] {
        let (fault, reason) = verdict_on(&nonsense).await;
        let start: String = nonsense.chars().take(200).collect();
        assert_eq!(fault, RendezvousFault::Protocol, "{start}: {reason}");
    }
}

#[tokio::test]
async fn a_server_with_plain_passwords_only_never_gets_one() {
    let offer = format!(
        "{HEADER}<stream:features><mechanisms xmlns='{MECHANISMS}'><mechanism>PLAIN</mechanism></mechanisms>\
         </stream:features>"
    );
    assert_eq!(verdict_on(&offer).await.0, RendezvousFault::Unsuitable);
}

#[tokio::test]
async fn success_without_proof_is_no_success() {
    let offer = format!(
        "{HEADER}<stream:features><mechanisms xmlns='{MECHANISMS}'><mechanism>SCRAM-SHA-256-PLUS</mechanism>\
         </mechanisms></stream:features><success xmlns='{MECHANISMS}'/>"
    );
    assert_eq!(verdict_on(&offer).await.0, RendezvousFault::Protocol);
}

#[tokio::test]
async fn without_tls_nothing_is_said() {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, false).await;
    let script = tokio::spawn(async move {
        let mut heard = String::new();
        // STARTTLS first, then direct TLS: neither is had.
        for _ in 0..2 {
            let mut stream = server.tcp().await;
            say(&mut stream, &format!("{HEADER}<stream:features/>")).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            heard.push_str(&String::from_utf8_lossy(&rest));
        }
        heard
    });
    let (fault, reason, _) = ann.offline().await;
    assert_eq!(fault, RendezvousFault::Unsuitable, "{reason}");
    let heard = script.await.expect("a script");
    assert!(
        heard.contains("<starttls") && !heard.contains("<auth") && !heard.contains("ann"),
        "{heard}"
    );
}

#[tokio::test]
async fn words_in_clear_behind_the_go_ahead_are_an_attack() {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, false).await;
    let mut stream = server.tcp().await;
    hear(&mut stream, "<starttls").await;
    let tls = "urn:ietf:params:xml:ns:xmpp-tls";
    let injected = format!(
        "{HEADER}<stream:features><starttls xmlns='{tls}'/></stream:features><proceed xmlns='{tls}'/><message/>"
    );
    say(&mut stream, &injected).await;
    assert_eq!(ann.offline().await.0, RendezvousFault::Impostor);
}

#[tokio::test]
async fn a_server_that_says_nothing_gets_a_verdict() {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, true).await;
    let _mute = server.tcp().await;
    let (fault, reason, _) = ann.offline().await;
    assert_eq!(fault, RendezvousFault::Unreachable, "{reason}");
}

#[tokio::test]
async fn a_mute_server_under_tls_is_told_of_while_it_is_tried() {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, true).await;
    let _mute = server.tls().await;
    let (fault, reason, retry_ms) = ann.offline().await;
    assert_eq!((fault, retry_ms), (RendezvousFault::Unreachable, 0), "{reason}");
    // Then it is given up.
    let (_, reason, retry_ms) = ann.offline().await;
    assert!(retry_ms > 0, "{reason}");
}

#[tokio::test]
async fn a_slow_server_is_not_called_silent_while_it_speaks() {
    let server = Scripted::listen().await;
    let mut ann = ann(&server, true).await;
    let mut stream = server.tls().await;
    let script = tokio::spawn(async move {
        let offer = format!(
            "{HEADER}<stream:features><mechanisms xmlns='{MECHANISMS}'><mechanism>PLAIN</mechanism></mechanisms>\
             </stream:features>"
        );
        // One piece in half a second: longer than the whole of an ordinary login may take in silence.
        for piece in offer.as_bytes().chunks(offer.len().div_ceil(10)) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            say(&mut stream, std::str::from_utf8(piece).expect("ASCII")).await;
        }
        stream
    });
    let (fault, reason, _) = ann.offline().await;
    assert_eq!(fault, RendezvousFault::Unsuitable, "{reason}");
    drop(script.await.expect("a script"));
}
