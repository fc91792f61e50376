//! What servers, clients and strangers say on a rendezvous' port.

use rendezvous::client::fuzz_session;
use rendezvous::sasl::{Client, Hash, Mechanism, Offered, Opening, SaslError, StoredKeys};
use rendezvous::server::{answer_stranger, channel_data, frame_length, fuzz_hub, fuzz_relay, read_stream};

use crate::script::{START, Writer};

/// More iterations than this are allowed, but would slow the fuzzer down.
const ITERATIONS_TRIED: u32 = 5_000;
/// Realm, nonce, software and a fingerprint.
const AMPLIFICATION_MAX: usize = 256;
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// A stream of XML, whole.
pub(crate) fn xml_stream(bytes: &[u8]) {
    if let Ok(stanzas) = read_stream(bytes) {
        // The shortest stanza is "<a/>".
        assert!(stanzas <= bytes.len() / 4);
    }
}

/// A server's challenge, a line feed, its last word.
pub(crate) fn scram_client(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, last) = text.split_once('\n').unwrap_or((text, ""));
    if first.split(',').any(is_slow) {
        return;
    }
    for hash in [Hash::Sha1, Hash::Sha256] {
        let client = Client::new("user", "pencil", Mechanism::new(hash, false), None, NONCE.into());
        let client = client.expect("the user, password and nonce are good");
        match client.answer(first) {
            Ok((answer, verify)) => {
                assert!(answer.starts_with("c=biws,r=") && first.contains(NONCE));
                // Nothing in the fuzzer knows the password's server key but the seed that was made with it.
                if verify.check(last).is_ok() {
                    assert!(last.starts_with("v="));
                }
            }
            Err(error) => assert_ne!(error, SaslError::WrongPassword, "the server proves nothing here"),
        }
    }
}

fn is_slow(attribute: &str) -> bool {
    let count = attribute.strip_prefix("i=").and_then(|text| text.parse().ok());
    count.is_some_and(|count: u32| count > ITERATIONS_TRIED)
}

/// A client's first message, a line feed, its proof.
pub(crate) fn scram_server(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, last) = text.split_once('\n').unwrap_or((text, ""));
    let offers = [
        (false, Offered::NoBinding),
        (true, Offered::Exporter(&[7; 32])),
        (false, Offered::Exporter(&[7; 32])),
    ];
    for (plus, offered) in offers {
        let Ok(opening) = Opening::parse(first, plus, offered) else {
            continue;
        };
        assert!(!opening.user.is_empty());
        // Keys of nobody: no proof may ever fit.
        let keys = StoredKeys::decoy(b"server secret", &opening.user);
        let (challenge, challenged) = opening.challenge(&keys, NONCE).expect("the nonce is good");
        assert!(challenge.contains(NONCE));
        assert!(challenged.verify(last).is_err());
    }
}

/// TURN on a stream: frames cut out, channel data read.
pub(crate) fn turn_wire(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(length)) = frame_length(rest) {
        assert!(length >= 4);
        let Some((frame, tail)) = rest.split_at_checked(length) else {
            break;
        };
        if let Some((number, data)) = channel_data(frame) {
            assert!((0x4000..=0x4fff).contains(&number));
            assert!(data.len() + 4 <= frame.len() && frame.len() - data.len() < 8);
        }
        rest = tail;
    }
    let _ = channel_data(bytes);
}

/// A server's stanzas at a client that is in its room.
pub(crate) fn xmpp_client(bytes: &[u8]) {
    fuzz_session(bytes, *START);
}

/// A room that lets us in, members that come, speak and go; one that is elsewhere; errors and silence.
pub(crate) fn server_streams() -> Vec<Vec<u8>> {
    let room = "home@conference.rdv.example";
    let muc = "http://jabber.org/protocol/muc#user";
    let error = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    let entered = format!(
        "<enabled xmlns='urn:xmpp:sm:3'/><presence from='{room}/bob'><card xmlns='urn:ipop:card:1'>AAEC</card>\
         <x xmlns='{muc}'><item role='participant'/></x></presence><presence from='?own'><x xmlns='{muc}'>\
         <status code='110'/><status code='201'/></x></presence>"
    );
    let data = "<data xmlns='urn:ipop:signal:1'>AAEC</data>";
    let spoken = format!(
        "{entered}<iq type='set' id='1' from='{room}/bob'>{data}</iq><message from='{room}/bob' type='normal'>{data}\
         </message><iq type='error' id='?data' from='{room}/bob'>{error}</iq><r xmlns='urn:xmpp:sm:3'/>\
         <iq type='get' id='x&lt;' from='rdv.example'><ping xmlns='urn:xmpp:ping'/></iq>\
         <presence type='unavailable' from='{room}/bob'/>"
    );
    let services = format!(
        "{entered}<iq type='result' id='?settings' from='{room}'/><iq type='result' id='?services' from='rdv.example'>\
         <services xmlns='urn:xmpp:extdisco:2'><service type='turn' transport='udp' host='192.0.2.1' port='3478' \
         username='u' password='p' expires='2027-01-01T00:00:00Z'/></services></iq><wait id='29'/><wait id='2'/>\
         <a xmlns='urn:xmpp:sm:3' h='3'/><wait id='400'/>"
    );
    let elsewhere = format!(
        "<presence type='error' from='?own'>{error}</presence><iq type='result' id='?components' from='rdv.example'>\
         <query xmlns='http://jabber.org/protocol/disco#items'><item jid='rooms.rdv.example'/></query></iq>\
         <iq type='result' id='?component' from='rooms.rdv.example'><query xmlns='http://jabber.org/protocol/disco#info'>\
         <identity category='conference' type='text'/><feature var='http://jabber.org/protocol/muc'/></query></iq>"
    );
    [entered, spoken, services, elsewhere].map(String::into_bytes).to_vec()
}

/// Clients that are logged in, at the server.
pub(crate) fn xmpp_server(bytes: &[u8]) {
    fuzz_hub(bytes);
}

/// Rooms, rosters, questions, messages, and addresses that are none.
pub(crate) fn client_streams() -> Vec<Vec<u8>> {
    let room = "home@conference.rdv.example";
    let muc = "<x xmlns='http://jabber.org/protocol/muc'/>";
    let data = "<data xmlns='urn:ipop:signal:1'>AAEC</data>";
    let rooms = format!(
        "<presence to='{room}/a'>{muc}</presence><presence by='bob' to='{room}/b'><card xmlns='urn:ipop:card:1'>AAEC</card>\
         {muc}</presence><iq type='set' id='1' to='{room}/b'>{data}</iq><iq by='bob' type='result' id='1' to='{room}/a'/>\
         <message type='groupchat' to='{room}'><body>hi</body></message><iq type='get' id='2' to='{room}'>\
         <query xmlns='http://jabber.org/protocol/disco#info'/></iq><presence type='unavailable' to='{room}/a'/>"
    );
    let roster = "<presence/><iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq><iq type='set' id='2'>\
         <query xmlns='jabber:iq:roster'><item jid='bob@rdv.example' name='Bob'><group>g</group></item></query></iq>\
         <presence type='subscribe' to='bob@rdv.example'/><presence by='bob' type='subscribed' to='ann@rdv.example'/>\
         <presence by='bob'/><iq type='set' id='3'><query xmlns='jabber:iq:roster'><item jid='bob@rdv.example' \
         subscription='remove'/></query></iq>";
    let questions = "<iq type='get' id='1' to='rdv.example'><services xmlns='urn:xmpp:extdisco:2'/></iq>\
         <iq type='get' id='2' to='conference.rdv.example'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>\
         <iq type='get' id='3'><ping xmlns='urn:xmpp:ping'/></iq><message to='bob@rdv.example/ipop'><body>&amp;</body>\
         </message><message to='a@b@c'/><iq type='set' id='4' to='ann@else.where'><x xmlns='y'/></iq><iq/>";
    vec![rooms.into_bytes(), roster.into(), questions.into()]
}

/// The TURN server, a client with credentials, strangers and peers.
pub(crate) fn turn_server(bytes: &[u8]) {
    fuzz_relay(bytes, *START);
}

/// An allocation, a permission, a channel and data; two allocations, a third, and their end.
pub(crate) fn turn_scripts() -> Vec<Vec<u8>> {
    let step = |what: u8, bytes: &[u8]| Writer::default().bytes(&[what]).chunk(bytes).0;
    let wait = |seconds: u16| Writer::default().bytes(&[5]).word(seconds * 16).0;
    let allocate = [&[0, 3][..], &[0, 0x19, 0, 4, 17, 0, 0, 0]].concat();
    let peer = [0, 0x12, 0, 8, 0, 1, 0x3a, 0x4a, 0xea, 0x12, 0xd5, 0x47];
    let permit = [&[0, 8][..], &peer].concat();
    let bind = [&[0, 9][..], &[0, 0x0c, 0, 4, 0x40, 1, 0, 0], &peer].concat();
    let send = [
        &[0, 0x16, 0, 20, 0x21, 0x12, 0xa4, 0x42][..],
        &[7; 12],
        &peer,
        &[0, 0x13, 0, 4, 1, 2, 3, 4],
    ]
    .concat();
    let refresh = [0, 4, 0, 0x0d, 0, 4, 0, 0, 0, 0];
    let carried = [
        step(2, &allocate),
        step(2, &permit),
        step(0, &send),
        step(2, &bind),
        step(0, &[0x40, 1, 0, 3, 1, 2, 3, 0]),
        step(4, b"from the peer"),
        wait(299),
        step(4, b"again"),
        step(2, &refresh),
    ];
    let many = [0x02, 0x42, 0x82, 0xc2].map(|what| step(what, &allocate)).concat();
    let refused: Vec<u8> = requests().iter().flat_map(|request| step(0, request)).collect();
    vec![
        carried.concat(),
        [many, wait(700), step(0x42, &permit), wait(3000)].concat(),
        refused,
    ]
}

/// A stranger's datagram at the TURN server.
pub(crate) fn stranger(bytes: &[u8]) {
    if let Some(answer) = answer_stranger(bytes) {
        // An answer that is much longer than its question would be a gift to attackers with forged addresses.
        assert!(answer.len() <= bytes.len() + AMPLIFICATION_MAX);
        assert_eq!(answer[8..20], bytes[8..20], "it answers that question");
    }
}

/// RFC 5802 section 5, and one with what is refused.
pub(crate) fn challenges() -> Vec<Vec<u8>> {
    let good = format!("r={NONCE}3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096\nv=rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    let bad = format!("r={NONCE}x,s=QSXCR+Q6sek8bf92,i=1\ne=invalid-proof");
    vec![good.into_bytes(), bad.into_bytes()]
}

/// What clients say, with and without channel binding.
pub(crate) fn openings() -> Vec<Vec<u8>> {
    let proof = "p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
    let texts = [
        format!("n,,n=user,r=abcdefgh\nc=biws,r=abcdefgh{NONCE},{proof}"),
        format!("y,,n=us=3Der,r=abcdefgh\nc=eSws,r=abcdefgh{NONCE},{proof}"),
        format!("p=tls-exporter,,n=user,r=abcdefgh\nc=cD10bHMtZXhwb3J0ZXIsLA==,r=abcdefgh{NONCE},{proof}"),
    ];
    texts.map(String::into_bytes).to_vec()
}

/// STUN and TURN requests without credentials.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    let request = |kind: u16, attributes: &[u8]| {
        let length = u16::try_from(attributes.len()).expect("it is short");
        let head = [
            &kind.to_be_bytes()[..],
            &length.to_be_bytes(),
            &[0x21, 0x12, 0xa4, 0x42],
            &[7; 12],
        ]
        .concat();
        [&head, attributes].concat()
    };
    let udp = [0, 0x19, 0, 4, 17, 0, 0, 0];
    vec![
        request(1, &[]),
        request(3, &udp),
        request(3, &[&udp[..], &[0, 6, 0, 3, b'a', b'n', b'n', 0]].concat()),
        request(4, &[0, 0x0d, 0, 4, 0, 0, 2, 0x58]),
        request(
            0x16,
            &[0, 0x12, 0, 8, 0, 1, 0x5e, 0x12, 0xe1, 0xba, 0xa5, 0x43, 0, 0x13, 0, 0],
        ),
    ]
}

/// STUN and channel data behind each other, the last one cut short.
pub(crate) fn turn_frames() -> Vec<Vec<u8>> {
    let channel = [0x40, 1, 0, 5, b'h', b'e', b'l', b'l', b'o', 0, 0, 0];
    let requests = requests();
    let all = [&requests[0][..], &channel, &requests[1], &channel[..7]].concat();
    vec![all, channel.to_vec(), requests[1].clone()]
}

/// A client from its stream header on.
pub(crate) fn xml_streams() -> Vec<Vec<u8>> {
    let head = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' to='rdv.example' version='1.0' \
                xmlns:stream='http://etherx.jabber.org/streams'>";
    let stanzas = [
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>biwsbj11c2VyLHI9YWJj</auth>",
        "<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq> <presence \
         to='room@muc.rdv.example/ann'><x xmlns='http://jabber.org/protocol/muc'/></presence>",
        "<message to='a@b/c' xml:lang='en'><body>&lt;&amp;&#65;<![CDATA[<x>]]></body></message></stream:stream>",
    ];
    stanzas.map(|stanza| format!("{head}{stanza}").into_bytes()).to_vec()
}
