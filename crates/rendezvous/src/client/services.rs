//! External services (XEP-0215): parsing, resolving, renewal.
//!
//! Promises: an unknown kind, transport or attribute spoils only its own entry. Refuses to know whether a service works.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::link::TurnTransport;
use api::rendezvous::Service;

use super::dial::resolve;
use super::limits;
use super::wire::NS_SERVICES;
use crate::xml::Element;

/// A service before its name is resolved.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Offered {
    /// `None`: STUN.
    transport: Option<TurnTransport>,
    host: String,
    port: u16,
    username: String,
    password: String,
    expires_s: Option<u64>,
}

/// The server whose services they are.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    pub(super) names: Vec<String>,
    pub(super) pin: Option<[u8; 32]>,
}

/// What of a list we can use.
pub(super) fn parse(list: &Element, now: SystemTime) -> Vec<Offered> {
    let services = list.elements().filter(|e| e.is("service", NS_SERVICES));
    services
        .filter_map(|e| offered(e, now))
        .take(limits::SERVICES_MAX)
        .collect()
}

/// When to ask again: well before the first credentials expire.
pub(super) fn renewal(offered: &[Offered]) -> Duration {
    let first = offered.iter().filter_map(|o| o.expires_s).min();
    let wait = first.map_or(limits::RENEW_MAX, |s| Duration::from_secs(s / 4 * 3));
    wait.clamp(limits::RENEW_MIN, limits::RENEW_MAX)
}

/// Looks up the names.
pub(super) async fn resolve_all(offered: Vec<Offered>, origin: Origin) -> Vec<Service> {
    let found = futures::future::join_all(offered.iter().map(|o| resolve_one(o, &origin))).await;
    let mut services = Vec::new();
    for service in found.into_iter().flatten() {
        if !services.contains(&service) {
            services.push(service);
        }
    }
    services
}

fn offered(service: &Element, now: SystemTime) -> Option<Offered> {
    let udp = !matches!(service.attr("transport"), Some("tcp"));
    if !matches!(service.attr("transport"), None | Some("udp" | "tcp")) || service.attr("action") == Some("delete") {
        return None;
    }
    let (transport, default_port) = match (service.attr("type")?, udp) {
        ("stun", true) => (None, 3478),
        ("turn", true) => (Some(TurnTransport::Udp), 3478),
        ("turn", false) => (Some(TurnTransport::Tcp), 3478),
        // XEP-0215 gives no transport for `turns` in many configurations; DTLS is what nobody runs.
        ("turns", false) => (Some(TurnTransport::Tls), 5349),
        ("turns", true) if service.attr("transport").is_none() => (Some(TurnTransport::Tls), 5349),
        _ => return None,
    };
    let port = match service.attr("port") {
        None => default_port,
        Some(text) => text.parse().ok().filter(|port| *port != 0)?,
    };
    let host = service.attr("host").unwrap_or_default();
    let text = |name| service.attr(name).unwrap_or_default().to_owned();
    let (username, password) = (text("username"), text("password"));
    let long = username.len() > limits::CREDENTIAL_BYTES || password.len() > limits::CREDENTIAL_BYTES;
    // Without credentials nobody relays for us.
    let bare = transport.is_some() && (username.is_empty() || password.is_empty());
    if host.len() > 253 || long || bare {
        return None;
    }
    let expires_s = match service.attr("expires") {
        Some(text) => Some(seconds_until(text, now)?),
        None => None,
    };
    Some(Offered {
        transport,
        host: host.to_owned(),
        port,
        username,
        password,
        expires_s,
    })
}

async fn resolve_one(offered: &Offered, origin: &Origin) -> Vec<Service> {
    // No host: the server's own.
    let own_name = offered.host.is_empty() || origin.names.iter().any(|n| n.eq_ignore_ascii_case(&offered.host));
    let mut addresses = match offered.host.is_empty() {
        true => vec![SocketAddr::new(origin.address.ip(), offered.port)],
        false => resolve(&offered.host, offered.port).await,
    };
    addresses.retain(|a| !a.ip().is_unspecified() && !a.ip().is_multicast());
    let six = addresses.iter().find(|a| a.is_ipv6()).copied();
    let four = addresses.iter().find(|a| a.is_ipv4()).copied();
    let service = |address: SocketAddr| match offered.transport {
        None => Service::Stun(address),
        Some(transport) => {
            let tls = transport == TurnTransport::Tls;
            let own = own_name || address.ip() == origin.address.ip();
            Service::Turn {
                address,
                transport,
                name: (tls && !offered.host.is_empty()).then(|| offered.host.clone()),
                pin: origin.pin.filter(|_| tls && own),
                username: offered.username.clone(),
                password: offered.password.clone(),
                expires_s: offered.expires_s,
            }
        }
    };
    four.into_iter().chain(six).map(service).collect()
}

/// Seconds until an XEP-0082 date; zero if it is past, `None` if it is none.
fn seconds_until(text: &str, now: SystemTime) -> Option<u64> {
    let at = unix_seconds(text)?;
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    u64::try_from(at.saturating_sub(now).max(0)).ok()
}

/// `2026-11-21T12:00:00[.123](Z|+01:00)`.
fn unix_seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())
            .flatten()
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| text.as_bytes().get(*at) == Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" => 0,
        _ => {
            let (sign, digits) = zone.split_at_checked(1)?;
            let (hours, minutes) = digits.split_once(':')?;
            let minutes = hours.parse::<u8>().ok()? as i64 * 60 + minutes.parse::<u8>().ok()? as i64;
            match sign {
                "+" => minutes * 60,
                "-" => -minutes * 60,
                _ => return None,
            }
        }
    };
    // Days from civil, after Howard Hinnant: the year begins in March.
    let year = year - i64::from(month <= 2);
    let (era, in_era) = (year.div_euclid(400), year.rem_euclid(400));
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::{Incoming, Reader};

    fn services(entries: &str) -> Vec<Offered> {
        let text = format!(
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>\
             <services xmlns='{NS_SERVICES}'>{entries}</services>"
        );
        let mut reader = Reader::new(10_000);
        let mut input = text.as_bytes();
        reader.next(&mut input).unwrap();
        match reader.next(&mut input).unwrap() {
            Some(Incoming::Stanza(list)) => parse(&list, UNIX_EPOCH + Duration::from_secs(1_000)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_strange_entry_spoils_no_other() {
        let found = services(
            "<service type='gopher' host='a'/><service type='stun' host='a' port='70000'/><service/>\
             <service type='turns' transport='udp' host='d' username='u' password='p'/>\
             <service type='turn' host='no-credentials'/>\
             <service type='turn' host='x' username='u' password='p' expires='tomorrow'/>\
             <service type='stun' host='a' extra='1'><x xmlns='urn:x'/></service>\
             <service type='turn' transport='udp' host='b' port='1' username='u' password='p' \
              expires='1970-01-01T01:16:40+01:00'/>\
             <service type='turns' transport='tcp' host='c' username='u' password='p'/>",
        );
        let short: Vec<_> = found
            .iter()
            .map(|o| (o.transport, o.host.as_str(), o.port, o.expires_s))
            .collect();
        assert_eq!(
            short,
            [
                (None, "a", 3478, None),
                (Some(TurnTransport::Udp), "b", 1, Some(0)),
                (Some(TurnTransport::Tls), "c", 5349, None),
            ]
        );
    }

    #[test]
    fn dates_of_xep_0082_are_understood() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00.123Z", Some(951_825_600)),
            ("2026-11-21T12:00:00Z", Some(1_795_262_400)),
            ("2026-11-21T12:00:00-05:30", Some(1_795_282_200)),
            ("2026-11-21 12:00:00Z", None),
            ("2026-13-21T12:00:00Z", None),
            ("2026-11-21T12:00:00", None),
            ("\u{e9}026-11-21T12:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(unix_seconds(text), seconds, "{text}");
        }
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let offer = |expires_s| Offered {
            transport: None,
            host: "a".into(),
            port: 1,
            username: String::new(),
            password: String::new(),
            expires_s,
        };
        assert_eq!(renewal(&[offer(None), offer(Some(4_000))]), Duration::from_secs(3_000));
        assert_eq!(renewal(&[offer(Some(0))]), limits::RENEW_MIN);
        assert_eq!(renewal(&[]), limits::RENEW_MAX);
    }
}
