//! Accounts, log-in, direct delivery, contacts, discovery.

use super::*;

#[tokio::test]
async fn an_account_needs_the_token() {
    let house = House::open().await;
    let mut guest = house.stranger().await;
    let refused = guest.register_bare("ann", "password").await.unwrap_err();
    assert_eq!(condition(&refused), "forbidden");
    let refused = guest.register("wrong", "ann", "password").await.unwrap_err();
    assert_eq!(condition(&refused), "item-not-found");
    guest.register(&house.running.token, "ann", "password").await.unwrap();
    // The token was used up by that account.
    let refused = guest.register_bare("bob", "password").await.unwrap_err();
    assert_eq!(condition(&refused), "forbidden");
    let refused = guest
        .register(&house.running.token, "Ann", "password")
        .await
        .unwrap_err();
    assert_eq!(condition(&refused), "conflict");
    guest.log_in("ann", "password", true).await.unwrap();
    assert_eq!(guest.bind("home").await, "ann@family.test/home");
}

#[tokio::test]
async fn accounts_survive_a_restart_and_passwords_are_not_kept() {
    let house = House::open().await;
    house.member("ann").await;
    let (pin, token) = (house.running.pin, house.running.token.clone());
    let scratch = house.close().await;
    let state = std::fs::read_to_string(scratch.0.join(store::FILE)).unwrap();
    assert!(state.contains("\"ann\"") && !state.contains("a long enough password"));
    let house = House::open_with(scratch, |_| {}).await;
    assert_eq!((house.running.pin, house.running.token.clone()), (pin, token));
    let mut guest = house.stranger().await;
    guest.log_in("ann", "a long enough password", true).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn secrets_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::open().await;
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(house.scratch.0.clone()), 0o700);
    assert_eq!(mode(house.scratch.0.join("server.pem")), 0o600);
    assert_eq!(mode(house.scratch.0.join("server.json")), 0o600);
}

#[tokio::test]
async fn the_wrong_password_is_refused_like_an_unknown_name() {
    let house = House::open().await;
    house.member("ann").await;
    let mut guest = house.stranger().await;
    let wrong = guest.log_in("ann", "wrong", true).await.unwrap_err();
    let unknown = guest.log_in("nobody", "wrong", true).await.unwrap_err();
    assert_eq!(wrong, unknown);
    assert_eq!(condition(&wrong), "not-authorized");
    let plain = BASE64.encode(b"\0ann\0a long enough password");
    guest
        .write(&format!("<auth xmlns='{NS_SASL}' mechanism='PLAIN'>{plain}</auth>"))
        .await;
    assert_eq!(condition(&guest.next().await), "invalid-mechanism");
    assert_eq!(guest.dismissed().await, "policy-violation");
}

#[tokio::test]
async fn guessing_is_stopped_by_address() {
    let house = House::open().await;
    house.member("ann").await;
    for _ in 0..limits::FAILURES_MAX {
        let mut guest = house.stranger().await;
        guest.log_in("ann", "wrong", true).await.unwrap_err();
    }
    let mut guest = house.stranger().await;
    let refused = guest.log_in("ann", "a long enough password", true).await.unwrap_err();
    assert_eq!(condition(&refused), "temporary-auth-failure");
}

#[tokio::test]
async fn starttls_offers_nothing_else_before() {
    let house = House::open().await;
    house.member("ann").await;
    let link = Link::new(Box::new(house.tcp().await), Vec::new(), limits::STANZA_BYTES_MAX);
    let mut plain = Guest {
        link,
        exporter: [0; 32],
        waiting: VecDeque::new(),
    };
    let features = plain.open().await;
    assert_eq!(features.elements().map(Element::name).collect::<Vec<_>>(), ["starttls"]);
    plain.write("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    assert_eq!(plain.next().await.name(), "proceed");
    let wire = plain.link.into_wire().unwrap();
    let stream = house
        .tls()
        .connect(ServerName::try_from(DOMAIN).unwrap(), wire)
        .await
        .unwrap();
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0u8; 32], sasl::BINDING_LABEL, Some(b""))
        .unwrap();
    let link = Link::new(Box::new(stream), Vec::new(), limits::STANZA_BYTES_MAX);
    let mut guest = Guest {
        link,
        exporter,
        waiting: VecDeque::new(),
    };
    let features = guest.open().await;
    let mechanisms = features.find("mechanisms", NS_SASL).unwrap();
    let names: Vec<_> = mechanisms.elements().map(Element::text).collect();
    assert_eq!(names, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    guest.log_in("ann", "a long enough password", true).await.unwrap();
}

#[tokio::test]
async fn auth_before_tls_is_refused() {
    let house = House::open().await;
    let link = Link::new(Box::new(house.tcp().await), Vec::new(), limits::STANZA_BYTES_MAX);
    let mut plain = Guest {
        link,
        exporter: [0; 32],
        waiting: VecDeque::new(),
    };
    plain.open().await;
    plain
        .write(&format!(
            "<auth xmlns='{NS_SASL}' mechanism='SCRAM-SHA-256'>AAAA</auth>"
        ))
        .await;
    assert_eq!(plain.dismissed().await, "policy-violation");
}

#[tokio::test]
async fn stanzas_arrive_with_the_sender_that_the_server_stamped() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.write("<iq type='get' id='1' to='bob@family.test/dev' from='eve@family.test/x'><q xmlns='urn:x'/></iq>")
        .await;
    let asked = bob.next().await;
    assert_eq!(asked.attr("from"), Some("ann@family.test/dev"));
    assert!(asked.find("q", "urn:x").is_some());
    bob.write("<iq type='result' id='1' to='ann@family.test/dev'/>").await;
    assert_eq!(ann.next().await.attr("from"), Some("bob@family.test/dev"));
    ann.write("<message type='chat' to='bob@family.test/dev'><body>hello</body></message>")
        .await;
    assert_eq!(bob.next().await.find("body", NS_CLIENT).unwrap().text(), "hello");
}

#[tokio::test]
async fn what_nobody_can_answer_is_answered_with_an_error() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    for (to, expected) in [
        ("", "service-unavailable"),
        ("family.test", "service-unavailable"),
        ("nobody@family.test/x", "service-unavailable"),
        ("ann@elsewhere.test", "remote-server-not-found"),
        ("a@b@c", "jid-malformed"),
        ("room@conference.family.test/nick", "item-not-found"),
    ] {
        let answer = ann.ask(to, "get", "<q xmlns='urn:unknown'/>").await;
        assert_eq!(condition(&answer), expected, "{to}");
    }
    assert_eq!(condition(&ann.ask("family.test", "get", "").await), "bad-request");
    // Errors and results never get an answer: the next thing is the ping's.
    ann.write("<iq type='result' id='x' to='nobody@family.test/x'/><message type='error' to='nobody@family.test'/>")
        .await;
    ann.settle().await;
    assert!(ann.waiting.is_empty());
}

#[tokio::test]
async fn discovery_names_rooms_and_turn() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    let items = ann
        .ask(DOMAIN, "get", "<query xmlns='http://jabber.org/protocol/disco#items'/>")
        .await;
    let query = items.elements().next().unwrap();
    assert_eq!(
        query.elements().next().unwrap().attr("jid"),
        Some("conference.family.test")
    );
    let answer = ann.ask(DOMAIN, "get", "<services xmlns='urn:xmpp:extdisco:2'/>").await;
    let services = answer.find("services", "urn:xmpp:extdisco:2").unwrap();
    let all: Vec<_> = services
        .elements()
        .map(|s| {
            format!(
                "{} {} {}",
                s.attr("type").unwrap(),
                s.attr("transport").unwrap(),
                s.attr("host").unwrap()
            )
        })
        .collect();
    assert_eq!(
        all,
        [
            "stun udp 127.0.0.1",
            "stun udp 127.0.0.1",
            "turn udp 127.0.0.1",
            "turn tcp 127.0.0.1",
            "turns tcp 127.0.0.1"
        ]
    );
}

#[tokio::test]
async fn the_same_resource_again_replaces_the_old_stream() {
    let house = House::open().await;
    let mut old = house.member("ann").await;
    let mut new = house.stranger().await;
    new.log_in("ann", "a long enough password", false).await.unwrap();
    new.bind("dev").await;
    assert_eq!(old.dismissed().await, "conflict");
    new.settle().await;
}

#[tokio::test]
async fn contacts_see_each_other_come_and_go() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    for guest in [&mut ann, &mut bob] {
        guest.ask("", "get", "<query xmlns='jabber:iq:roster'/>").await;
        guest.write("<presence/>").await;
        guest.settle().await;
    }
    ann.write("<presence type='subscribe' to='bob@family.test'/>").await;
    let asked = bob.find(|e| e.attr("type") == Some("subscribe")).await;
    assert_eq!(asked.attr("from"), Some("ann@family.test"));
    bob.write("<presence type='subscribed' to='ann@family.test'/><presence type='subscribe' to='ann@family.test'/>")
        .await;
    ann.find(|e| e.attr("type") == Some("subscribed")).await;
    let seen = ann.find(|e| e.name() == "presence" && e.attr("type").is_none()).await;
    assert_eq!(seen.attr("from"), Some("bob@family.test/dev"));
    ann.find(|e| e.attr("type") == Some("subscribe")).await;
    ann.write("<presence type='subscribed' to='bob@family.test'/>").await;
    bob.find(|e| e.attr("type") == Some("subscribed")).await;
    let roster = bob.ask("", "get", "<query xmlns='jabber:iq:roster'/>").await;
    let item = roster.elements().next().unwrap().elements().next().unwrap();
    assert_eq!(
        (item.attr("jid"), item.attr("subscription")),
        (Some("ann@family.test"), Some("both"))
    );
    drop(bob);
    let gone = ann.find(|e| e.attr("type") == Some("unavailable")).await;
    assert_eq!(gone.attr("from"), Some("bob@family.test/dev"));
}

#[tokio::test]
async fn nobody_is_seen_without_leave() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.write("<presence/>").await;
    // A permission that nobody asked for, and a request that nobody granted, show nothing.
    ann.write("<presence type='subscribed' to='bob@family.test'/>").await;
    ann.settle().await;
    bob.write("<presence/><presence type='subscribe' to='ann@family.test'/>")
        .await;
    bob.settle().await;
    ann.write("<presence><show>away</show></presence>").await;
    ann.settle().await;
    bob.settle().await;
    assert!(bob.waiting.iter().all(|e| e.name() != "presence"), "{:?}", bob.waiting);
}

#[tokio::test]
async fn acknowledgements_count_what_was_handled() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    ann.write("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    let enabled = ann.next().await;
    assert!(enabled.is("enabled", "urn:xmpp:sm:3") && enabled.attr("resume").is_none());
    ann.write("<message to='family.test' type='error'/><presence/><r xmlns='urn:xmpp:sm:3'/>")
        .await;
    let ack = ann.find(|e| e.name() == "a").await;
    assert_eq!(ack.attr("h"), Some("2"));
}

#[tokio::test]
async fn stopping_says_goodbye() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    let closing = tokio::spawn(house.close());
    assert_eq!(ann.dismissed().await, "system-shutdown");
    drop(ann);
    closing.await.unwrap();
}
