//! Questions to the embedded resolver, which every program of the machine and every member of the group can ask.

// The program is no library: the one file of it that reads what strangers send is taken in as it is.
#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/ipop/src/process/tincan/names.rs"]
mod names;

use api::NetworkId;
use api::link::{NameRecord, NamesConfig};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use names::{Names, answer};

/// Labels of at most 63 bytes and the answers' fixed parts: nothing a question can make longer than this.
const ANSWER_BYTES_MAX: usize = 1024;

fn known() -> Names {
    let names = Names::default();
    let addresses = vec!["10.5.0.2".parse().expect("v4"), "fd00::2".parse().expect("v6")];
    let records = vec![NameRecord {
        name: "bob".into(),
        addresses,
    }];
    let zone = "home.ipop".into();
    let network = NetworkId([1; 32]);
    names.set(NamesConfig { network, zone, records });
    names
}

/// One datagram to port 53.
pub(crate) fn question(bytes: &[u8]) {
    let Some(reply) = answer(&known(), bytes) else { return };
    assert!(reply.len() <= ANSWER_BYTES_MAX, "{} bytes", reply.len());
    let asked = Message::from_vec(bytes).expect("what is answered is a message");
    let reply = Message::from_vec(&reply).expect("our own answer reads back");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(
        (reply.metadata.id, reply.metadata.op_code),
        (asked.metadata.id, asked.metadata.op_code)
    );
    assert!(reply.answers.is_empty() || reply.metadata.response_code == ResponseCode::NoError);
}

/// Questions that our own resolver is asked.
pub(crate) fn questions() -> Vec<Vec<u8>> {
    let ask = |(name, kind): (&str, RecordType)| {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        query.to_vec().expect("a query")
    };
    [
        ("bob.home.ipop.", RecordType::A),
        ("bob.home.ipop.", RecordType::AAAA),
        ("home.ipop.", RecordType::ANY),
        ("eve.home.ipop.", RecordType::MX),
        ("2.0.5.10.in-addr.arpa.", RecordType::PTR),
        ("example.org.", RecordType::A),
    ]
    .map(ask)
    .to_vec()
}
