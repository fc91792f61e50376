//! Names of our networks and what the embedded resolver answers of them; reads no socket.
//!
//! A question about any other name is refused. Both glibc and musl then ask the next name server of resolv.conf, so that the
//! user's own resolvers keep all other names to themselves and nothing is forwarded or taken over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use api::NetworkId;
use api::link::{NameRecord, NamesConfig};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Seconds that an answer may be kept: members come and go.
const TTL: u32 = 10;

/// Names of all networks: zone, then name within it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<BTreeMap<NetworkId, Zone>>>);

#[derive(Clone, Debug, Default)]
struct Zone {
    domain: String,
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl Names {
    /// Replaces the names of a network.
    pub(crate) fn set(&self, config: NamesConfig) {
        let host = |record: NameRecord| (record.name.to_ascii_lowercase(), record.addresses);
        let zone = Zone {
            domain: config.zone.trim_matches('.').to_ascii_lowercase(),
            hosts: config.records.into_iter().map(host).collect(),
        };
        self.lock().insert(config.network, zone);
    }

    /// Forgets a network.
    pub(crate) fn remove(&self, network: NetworkId) {
        self.lock().remove(&network);
    }

    fn find(&self, name: &str) -> Found {
        for zone in self.lock().values() {
            if name == zone.domain {
                return Found::Addresses(Vec::new());
            }
            let Some(host) = name.strip_suffix(&zone.domain).and_then(|rest| rest.strip_suffix('.')) else {
                continue;
            };
            return zone
                .hosts
                .get(host)
                .map_or(Found::NoSuchName, |addresses| Found::Addresses(addresses.clone()));
        }
        Found::NotOurs
    }

    /// The full name that an address has.
    fn find_name(&self, address: IpAddr) -> Option<String> {
        self.lock().values().find_map(|zone| {
            let (host, _) = zone.hosts.iter().find(|(_, addresses)| addresses.contains(&address))?;
            Some(format!("{host}.{}.", zone.domain))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NetworkId, Zone>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

enum Found {
    NotOurs,
    NoSuchName,
    Addresses(Vec<IpAddr>),
}

/// The answer to one question; none to what is no question.
pub(crate) fn answer(names: &Names, question: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(question).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.authoritative = true;
    reply.metadata.response_code = match (query.metadata.op_code, query.queries.as_slice()) {
        (OpCode::Query, [one]) if one.query_class() == DNSClass::IN => {
            reply.add_query(one.clone());
            let (code, answers) = look_up(names, one);
            for data in answers {
                reply.add_answer(Record::from_rdata(one.name().clone(), TTL, data));
            }
            code
        }
        _ => ResponseCode::NotImp,
    };
    reply.to_vec().ok()
}

fn look_up(names: &Names, question: &Query) -> (ResponseCode, Vec<RData>) {
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    if let Some(address) = address_of(question.name()) {
        let found = names.find_name(address).and_then(|name| Name::from_ascii(name).ok());
        return match found {
            Some(name) if question.query_type() == RecordType::PTR => {
                (ResponseCode::NoError, vec![RData::PTR(PTR(name))])
            }
            Some(_) => (ResponseCode::NoError, Vec::new()),
            None => (ResponseCode::Refused, Vec::new()),
        };
    }
    match names.find(&name) {
        Found::NotOurs => (ResponseCode::Refused, Vec::new()),
        Found::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
        Found::Addresses(addresses) => {
            let wanted = addresses
                .into_iter()
                .filter(|address| asked(question.query_type(), *address));
            (ResponseCode::NoError, wanted.map(RData::from).collect())
        }
    }
}

/// The address whose name is asked for under `in-addr.arpa` or `ip6.arpa`; without an answer `ping` and `ssh` wait for the
/// user's own servers, which know nothing of our addresses.
fn address_of(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn asked(kind: RecordType, address: IpAddr) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let names = Names::default();
        let addresses = vec!["10.5.0.2".parse().expect("v4"), "fd00::2".parse().expect("v6")];
        let records = vec![NameRecord {
            name: "bob".into(),
            addresses,
        }];
        names.set(NamesConfig {
            network: NetworkId([1; 32]),
            zone: "home.ipop".into(),
            records,
        });
        names
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let reply = answer(&names(), &query.to_vec().expect("a query")).expect("a reply");
        let reply = Message::from_vec(&reply).expect("a message");
        (
            reply.metadata.response_code,
            reply.answers.iter().map(|r| r.data.to_string()).collect(),
        )
    }

    #[test]
    fn own_names_are_answered_and_all_others_refused() {
        for (name, kind, code, answers) in [
            ("bob.home.ipop.", RecordType::A, ResponseCode::NoError, vec!["10.5.0.2"]),
            (
                "BOB.Home.ipop.",
                RecordType::AAAA,
                ResponseCode::NoError,
                vec!["fd00::2"],
            ),
            ("bob.home.ipop.", RecordType::MX, ResponseCode::NoError, vec![]),
            ("eve.home.ipop.", RecordType::A, ResponseCode::NXDomain, vec![]),
            ("home.ipop.", RecordType::A, ResponseCode::NoError, vec![]),
            ("evilhome.ipop.", RecordType::A, ResponseCode::Refused, vec![]),
            (
                "2.0.5.10.in-addr.arpa.",
                RecordType::PTR,
                ResponseCode::NoError,
                vec!["bob.home.ipop."],
            ),
            ("3.0.5.10.in-addr.arpa.", RecordType::PTR, ResponseCode::Refused, vec![]),
            ("5.10.in-addr.arpa.", RecordType::PTR, ResponseCode::Refused, vec![]),
            ("example.org.", RecordType::A, ResponseCode::Refused, vec![]),
        ] {
            let answers: Vec<String> = answers.into_iter().map(str::to_owned).collect();
            assert_eq!(ask(name, kind), (code, answers), "{name} {kind}");
        }
    }

    #[test]
    fn nonsense_is_not_answered() {
        for bytes in [&[][..], &[0; 11], &[0xff; 40]] {
            assert_eq!(answer(&names(), bytes), None);
        }
    }
}
