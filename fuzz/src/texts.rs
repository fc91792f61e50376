//! What comes as text or from the kernel: API lines, addresses, ids, the NIC's header.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use api::control::ControlCall;
use api::link::LinkCall;
use api::rendezvous::ServerAddress;
use api::rpc::{ApiError, ErrorKind, Message};
use api::{Cidr, NetworkId, NodeId};
use os::{Cut, PartialChecksum, VNET_HEADER, VnetHeader};
use serde_json::{Value, json};

/// A line on the control socket.
pub(crate) fn control_line(bytes: &[u8]) {
    line(bytes, ControlCall::parse, |call| (call.method(), call.params()));
}

/// A line on the link socket.
pub(crate) fn link_line(bytes: &[u8]) {
    line(bytes, LinkCall::parse, |call| (call.method(), call.params()));
}

fn line<Call: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&str, Value) -> Result<Call, ApiError>,
    write: impl Fn(&Call) -> (&'static str, Value),
) {
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(error) => return told(&error),
    };
    let written = message.to_line();
    let feeds = written.iter().filter(|b| **b == b'\n').count();
    assert!(written.ends_with(b"\n") && feeds == 1, "one message is one line");
    assert_eq!(Message::parse(&written), Ok(message.clone()));
    let Message::Request { method, params, .. } = message else {
        return;
    };
    match parse(&method, params) {
        Ok(call) => {
            let (method, params) = write(&call);
            assert_eq!(parse(method, params), Ok(call));
        }
        Err(error) => told(&error),
    }
}

/// An error is a sentence that goes back over the wire unharmed.
fn told(error: &ApiError) {
    assert!(!error.message.is_empty());
    assert_eq!(&ApiError::from_value(&error.to_value()), error);
}

/// What stands after `--server` and in invites.
pub(crate) fn server_address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(address) = text.parse::<ServerAddress>() else {
        return;
    };
    assert!(!address.hosts.is_empty());
    assert!(!address.label().contains("token="));
    assert_eq!(address.to_string().parse(), Ok(address));
}

/// Ids and subnets.
pub(crate) fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for word in text.split_whitespace() {
        reads_back::<NodeId>(word);
        reads_back::<NetworkId>(word);
        reads_back::<Cidr>(word);
        if let Ok(cidr) = word.parse::<Cidr>() {
            assert!(cidr.contains(cidr.address) && cidr.contains(cidr.network().address));
            assert!(cidr.overlaps(cidr.network()));
        }
    }
}

fn reads_back<T: FromStr<Err: Debug + PartialEq> + Display + PartialEq + Debug>(word: &str) {
    if let Ok(value) = word.parse::<T>() {
        assert_eq!(value.to_string().parse(), Ok(value));
    }
}

/// What the kernel puts before a frame.
pub(crate) fn vnet_header(bytes: &[u8]) {
    let Ok((header, frame)) = VnetHeader::parse(bytes) else {
        return;
    };
    assert_eq!(frame.len() + VNET_HEADER, bytes.len());
    assert_eq!(VnetHeader::parse(&header.to_bytes()), Ok((header, &[][..])));
}

/// Requests, an answer and an error as a client of the control API meets them.
pub(crate) fn control_lines() -> Vec<Vec<u8>> {
    let calls = [
        ("controller.info", json!({})),
        (
            "group.create",
            json!({ "name": "home", "subnet": "10.5.0.0/16", "server": "example.org:5222", "host_name": "ann",
                    "account": { "jid": "ann@example.org", "password": "secret" } }),
        ),
        ("group.join", json!({ "invite": "ipop://AQ", "host_name": "bob" })),
        (
            "invite.create",
            json!({ "group": "home", "uses": 3, "expires_s": 86400 }),
        ),
        ("peer.ping", json!({ "node": "bob.home" })),
    ];
    let error = ApiError::new(ErrorKind::Limit, "too many").field("uses");
    let mut lines: Vec<_> = calls.into_iter().map(request).collect();
    for result in [Ok(json!({ "pid": 7 })), Err(error)] {
        let id = json!("a");
        lines.push(Message::Answer { id, result }.to_line());
    }
    lines
}

/// Requests as tincan gets them.
pub(crate) fn link_lines() -> Vec<Vec<u8>> {
    let (network, node) = (NetworkId([9; 32]), NodeId([7; 32]));
    let calls = [
        ("state.get", json!({})),
        (
            "network.create",
            json!({ "network": network, "kind": "ip", "nic": "ipop0", "mtu": 1400, "addresses": ["10.5.0.1/16"] }),
        ),
        (
            "network.names",
            json!({ "network": network, "zone": "home.ipop",
            "records": [{ "name": "bob", "addresses": ["10.5.0.2", "fd00::2"] }] }),
        ),
        (
            "servers.set",
            json!({ "network": network, "stun": ["192.0.2.1:3478"], "turn": [{ "address": "[::1]:5349",
            "transport": "tls", "name": "turn.example", "username": "u", "password": "p" }] }),
        ),
        (
            "peer.set",
            json!({ "network": network, "node": node, "addresses": ["10.5.0.2"], "name": "bob" }),
        ),
        (
            "identity.sign",
            json!({ "network": network, "signer": "node", "purpose": "presence", "payload": "AAEC" }),
        ),
        ("signal.deliver", json!({ "network": network, "blob": "AAEC" })),
    ];
    calls.into_iter().map(request).collect()
}

fn request((method, params): (&str, Value)) -> Vec<u8> {
    let (id, method) = (Some(json!(1)), method.to_owned());
    Message::Request { id, method, params }.to_line()
}

/// From bare to all options.
pub(crate) fn server_addresses() -> Vec<Vec<u8>> {
    let pin = "5a".repeat(32);
    let texts = [
        "example.org".to_owned(),
        "xmpp://a.example:5222,[2001:db8::1]:5223,192.0.2.1?domain=rdv.example".to_owned(),
        format!("203.0.113.1:5222?domain=rdv.example&pin={pin}&token=a-B_9"),
    ];
    texts.map(String::into_bytes).to_vec()
}

/// Ids and subnets.
pub(crate) fn some_words() -> Vec<Vec<u8>> {
    let ids = format!("{} {}", NodeId([7; 32]), NetworkId([0xf9; 32]));
    [ids.as_str(), "10.5.0.1/16 fd00::1/64 0.0.0.0/0 ::/128"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A whole frame, and one to be cut.
pub(crate) fn vnet_headers() -> Vec<Vec<u8>> {
    let whole = VnetHeader::default();
    let cut = VnetHeader {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        cut: Cut::TcpV4 { ecn: true },
        header_length: 40,
        segment_size: 1360,
        checksum_known_good: false,
    };
    [whole, cut]
        .map(|header| [&header.to_bytes()[..], b"frame"].concat())
        .to_vec()
}
