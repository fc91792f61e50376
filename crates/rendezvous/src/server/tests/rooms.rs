//! Rooms as groups use them.

use super::*;

const ROOM: &str = "garden@conference.family.test";
const NS_MUC_USER: &str = "http://jabber.org/protocol/muc#user";

impl Guest {
    async fn join(&mut self, nick: &str, extra: &str) {
        self.write(&format!(
            "<presence to='{ROOM}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/>{extra}</presence>"
        ))
        .await;
        self.find(|e| e.name() == "message" && e.find("subject", NS_CLIENT).is_some())
            .await;
    }

    async fn sees(&mut self, nick: &str) -> Element {
        let from = format!("{ROOM}/{nick}");
        self.find(|e| e.name() == "presence" && e.attr("from") == Some(&from))
            .await
    }
}

fn statuses(presence: &Element) -> Vec<String> {
    let x = presence.find("x", NS_MUC_USER).unwrap();
    x.elements()
        .filter(|e| e.name() == "status")
        .map(|e| e.attr("code").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn presence_with_any_child_reaches_those_inside_and_newcomers() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "<node xmlns='urn:ipop' id='1'/>").await;
    let own = ann.sees("a").await;
    assert_eq!(statuses(&own), ["110", "201"]);
    bob.join("b", "<node xmlns='urn:ipop' id='2'/>").await;
    let seen = bob.sees("a").await;
    assert_eq!(seen.find("node", "urn:ipop").unwrap().attr("id"), Some("1"));
    assert_eq!(statuses(&bob.sees("b").await), ["110"]);
    assert_eq!(
        ann.sees("b").await.find("node", "urn:ipop").unwrap().attr("id"),
        Some("2")
    );
    bob.write(&format!(
        "<presence to='{ROOM}/b'><node xmlns='urn:ipop' id='3'/></presence>"
    ))
    .await;
    assert_eq!(
        ann.sees("b").await.find("node", "urn:ipop").unwrap().attr("id"),
        Some("3")
    );
}

#[tokio::test]
async fn iqs_between_occupants_find_their_way_and_hide_addresses() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "").await;
    bob.join("b", "").await;
    ann.write(&format!(
        "<iq type='set' id='7' to='{ROOM}/b'><signal xmlns='urn:ipop'>c2VhbGVk</signal></iq>"
    ))
    .await;
    let signal = bob.find(|e| e.name() == "iq").await;
    assert_eq!(signal.attr("from"), Some("garden@conference.family.test/a"));
    assert_eq!(signal.find("signal", "urn:ipop").unwrap().text(), "c2VhbGVk");
    bob.write(&format!("<iq type='result' id='7' to='{ROOM}/a'/>")).await;
    let answer = ann.find(|e| e.name() == "iq").await;
    assert_eq!(
        (answer.attr("from"), answer.attr("id")),
        (Some("garden@conference.family.test/b"), Some("7"))
    );
    // Semi-anonymous: nothing that either was sent names the other's account.
    let everything: String = bob.waiting.iter().chain([&signal]).map(Element::to_text).collect();
    assert!(!everything.contains("ann@"));
}

#[tokio::test]
async fn messages_reach_everybody_or_one() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "").await;
    bob.join("b", "").await;
    ann.write(&format!(
        "<message type='groupchat' to='{ROOM}'><body>all</body></message>"
    ))
    .await;
    for guest in [&mut ann, &mut bob] {
        let said = guest.find(|e| e.name() == "message").await;
        assert_eq!(said.attr("from"), Some("garden@conference.family.test/a"));
    }
    ann.write(&format!(
        "<message type='chat' to='{ROOM}/b'><body>you</body></message>"
    ))
    .await;
    let said = bob.find(|e| e.name() == "message").await;
    assert_eq!(said.find("body", NS_CLIENT).unwrap().text(), "you");
}

#[tokio::test]
async fn those_outside_reach_nobody_inside() {
    let house = House::open().await;
    let (mut ann, mut eve) = (house.member("ann").await, house.member("eve").await);
    ann.join("a", "").await;
    let refused = eve.ask(&format!("{ROOM}/a"), "get", "<q xmlns='urn:x'/>").await;
    assert_eq!(condition(&refused), "not-acceptable");
    eve.write(&format!(
        "<message type='groupchat' id='m' to='{ROOM}'><body>spam</body></message>"
    ))
    .await;
    assert_eq!(condition(&eve.next().await), "not-acceptable");
    // Nor are rooms listed.
    let items = eve
        .ask(
            "conference.family.test",
            "get",
            "<query xmlns='http://jabber.org/protocol/disco#items'/>",
        )
        .await;
    assert_eq!(items.elements().next().unwrap().elements().count(), 0);
}

#[tokio::test]
async fn a_taken_nick_is_refused_and_a_new_one_is_told() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "").await;
    bob.write(&format!(
        "<presence to='{ROOM}/a'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    ))
    .await;
    assert_eq!(condition(&bob.next().await), "conflict");
    bob.join("b", "").await;
    ann.sees("b").await;
    bob.write(&format!("<presence to='{ROOM}/c'/>")).await;
    let gone = ann.sees("b").await;
    assert_eq!(
        (gone.attr("type"), statuses(&gone)),
        (Some("unavailable"), vec!["303".to_owned()])
    );
    ann.sees("c").await;
}

#[tokio::test]
async fn a_broken_stream_leaves_the_room() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "").await;
    bob.join("b", "").await;
    ann.sees("b").await;
    drop(bob);
    assert_eq!(ann.sees("b").await.attr("type"), Some("unavailable"));
}

#[tokio::test]
async fn an_occupant_cannot_speak_for_the_room() {
    let house = House::open().await;
    let (mut ann, mut eve) = (house.member("ann").await, house.member("eve").await);
    ann.join("a", "").await;
    let forged = "<x xmlns='http://jabber.org/protocol/muc#user'><status code='307'/></x>";
    eve.join("e", forged).await;
    assert!(statuses(&ann.sees("e").await).is_empty());
    eve.write(&format!(
        "<message type='groupchat' to='{ROOM}'>{forged}<body>x</body></message>"
    ))
    .await;
    let said = ann
        .find(|e| e.name() == "message" && e.find("body", NS_CLIENT).is_some())
        .await;
    assert!(said.find("x", NS_MUC_USER).is_none());
}

#[tokio::test]
async fn rejoining_replays_the_room() {
    let house = House::open().await;
    let (mut ann, mut bob) = (house.member("ann").await, house.member("bob").await);
    ann.join("a", "").await;
    bob.join("b", "").await;
    bob.sees("a").await;
    bob.join("b", "").await;
    bob.sees("a").await;
}
