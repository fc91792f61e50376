//! What the server itself answers: discovery (XEP-0030), ping (XEP-0199), STUN and TURN (XEP-0215).

use std::net::IpAddr;

use super::muc::NS_MUC;
use super::roster::NS_ROSTER;
use super::turn::credentials;
use super::xml::Element;

pub(super) const NS_DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
pub(super) const NS_DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
pub(super) const NS_PING: &str = "urn:xmpp:ping";
pub(super) const NS_EXTDISCO: &str = "urn:xmpp:extdisco:2";
pub(super) const NS_MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
pub(super) const NS_DATA: &str = "jabber:x:data";

/// Who is asked for a description of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entity {
    Server,
    Conference,
    Room,
}

/// XEP-0030: what it is and what it can do.
pub(super) fn disco_info(entity: Entity) -> Element {
    let (category, kind, features): (_, _, &[&'static str]) = match entity {
        Entity::Server => (
            "server",
            "im",
            &[NS_DISCO_INFO, NS_DISCO_ITEMS, NS_PING, NS_EXTDISCO, NS_ROSTER],
        ),
        Entity::Conference => ("conference", "text", &[NS_DISCO_INFO, NS_DISCO_ITEMS, NS_MUC]),
        Entity::Room => (
            "conference",
            "text",
            &[
                NS_DISCO_INFO,
                NS_MUC,
                "muc_hidden",
                "muc_open",
                "muc_semianonymous",
                "muc_temporary",
                "muc_unmoderated",
            ],
        ),
    };
    let identity = Element::new("identity", NS_DISCO_INFO)
        .with("category", category)
        .with("type", kind);
    let features = features
        .iter()
        .map(|f| Element::new("feature", NS_DISCO_INFO).with("var", *f));
    Element::new("query", NS_DISCO_INFO)
        .child(identity.with("name", "IPOP"))
        .children_from(features)
}

/// XEP-0030: what belongs to it. Rooms are not listed: knowing a room's name is what lets members meet.
pub(super) fn disco_items(entity: Entity, conference: &str) -> Element {
    let query = Element::new("query", NS_DISCO_ITEMS);
    match entity {
        Entity::Server => query.child(Element::new("item", NS_DISCO_ITEMS).with("jid", conference)),
        Entity::Conference | Entity::Room => query,
    }
}

/// Where STUN and TURN are, and how credentials are made.
pub(super) struct TurnOffer {
    /// The name to be used by clients; without it, the address that they connected to.
    pub(super) host: Option<String>,
    /// STUN and TURN over UDP.
    pub(super) udp: Option<u16>,
    /// STUN alone, over UDP: with the other port clients can test NATs.
    pub(super) udp_second: Option<u16>,
    /// TURN over TCP and TLS.
    pub(super) tcp: Option<u16>,
    pub(super) secret: Vec<u8>,
    pub(super) lifetime_secs: u64,
}

/// Who asks, where and when.
pub(super) struct Asker<'a> {
    pub(super) user: &'a str,
    /// The server's address that the client reached.
    pub(super) server_ip: IpAddr,
    /// Seconds since 1970.
    pub(super) now: u64,
}

impl TurnOffer {
    /// XEP-0215 section 3.1, all or only one type.
    pub(super) fn services(&self, asker: &Asker<'_>, only: Option<&str>) -> Element {
        let kinds = [("stun", "udp"), ("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")];
        let kinds = kinds
            .into_iter()
            .filter(|(kind, _)| only.is_none_or(|only| only == *kind));
        let services =
            kinds.flat_map(|(kind, transport)| self.ports(kind, transport).map(move |port| (kind, transport, port)));
        let services = services.map(|(kind, transport, port)| self.service(asker, kind, transport, port));
        let mut query = Element::new("services", NS_EXTDISCO).children_from(services);
        if let Some(only) = only {
            query.set("type", only);
        }
        query
    }

    /// XEP-0215 section 3.3: fresh credentials for one service.
    pub(super) fn credentials(&self, asker: &Asker<'_>, asked: &Element) -> Option<Element> {
        let transport = asked.attr("transport");
        let kind = asked.attr("type")?;
        let transports = ["udp", "tcp"]
            .into_iter()
            .filter(|t| transport.is_none_or(|asked| asked == *t));
        let mut ports = transports.flat_map(|t| self.ports(kind, t).map(move |port| (t, port)));
        let (transport, port) = ports.next()?;
        let service = self.service(asker, kind, transport, port);
        Some(Element::new("credentials", NS_EXTDISCO).child(service))
    }

    fn ports(&self, kind: &str, transport: &str) -> impl Iterator<Item = u16> + use<> {
        let ports = match (kind, transport) {
            ("stun", "udp") => [self.udp, self.udp_second],
            ("turn", "udp") => [self.udp, None],
            ("turn" | "turns", "tcp") => [self.tcp, None],
            _ => [None, None],
        };
        ports.into_iter().flatten()
    }

    fn service(&self, asker: &Asker<'_>, kind: &str, transport: &str, port: u16) -> Element {
        let host = self
            .host
            .clone()
            .unwrap_or_else(|| asker.server_ip.to_canonical().to_string());
        let service = Element::new("service", NS_EXTDISCO)
            .with("type", kind)
            .with("transport", transport)
            .with("host", host)
            .with("port", port.to_string());
        if kind == "stun" {
            return service;
        }
        let expiry = asker.now.saturating_add(self.lifetime_secs);
        let made = credentials::issue(&self.secret, asker.user, expiry);
        let service = service.with("username", made.username).with("password", made.password);
        service.with("expires", timestamp(expiry)).with("restricted", "true")
    }
}

/// XEP-0082 date and time in UTC (civil-from-days by Howard Hinnant's algorithm).
fn timestamp(unix: u64) -> String {
    let (days, secs) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        secs / 3_600,
        secs / 60 % 60,
        secs % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_xep_0082_has_them() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
