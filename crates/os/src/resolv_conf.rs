//! The text of `/etc/resolv.conf` with and without our names. Pure.
//!
//! Our nameserver goes to the top (the C library asks in order), our search line to the end (the
//! last one counts) and repeats the domains that were searched before. Everything between stays byte
//! for byte, and comes back whole when the last of our entries is taken out. Several networks may
//! have an entry.

use std::net::IpAddr;

/// What one NIC adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) nic: String,
    pub(crate) server: IpAddr,
    pub(crate) domains: Vec<String>,
}

const NIC: &str = "# ipop: nic ";
const BEGIN: &str = " begin (taken out again when the network goes down)";
const DOMAINS: &str = " domains";
const END: &str = " end";
const SEARCH_BEGIN: &str = "# ipop: search begin";
const SEARCH_BEGIN_JOINED: &str = "# ipop: search begin (the line above had no end)";
const SEARCH_END: &str = "# ipop: search end";

/// The text with this entry, in place of an older one of the same NIC.
pub(crate) fn add(text: &[u8], entry: Entry) -> Vec<u8> {
    let mut parsed = parse(text);
    parsed.entries.retain(|e| e.nic != entry.nic);
    parsed.entries.push(entry);
    render(&parsed)
}

/// The text without the entry of this NIC; `None` when it has none.
pub(crate) fn remove(text: &[u8], nic: &str) -> Option<Vec<u8>> {
    sweep(text, |other| other == nic)
}

/// The text without the entries of NICs that are gone; `None` when it has none.
pub(crate) fn sweep(text: &[u8], gone: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let mut parsed = parse(text);
    let before = parsed.entries.len();
    parsed.entries.retain(|e| !gone(&e.nic));
    (parsed.entries.len() < before).then(|| render(&parsed))
}

/// The nameservers that are not ours: where everything else is to be asked.
pub(crate) fn foreign_nameservers(text: &[u8]) -> Vec<IpAddr> {
    let parsed = parse(text);
    let lines = parsed
        .foreign
        .split(|b| *b == b'\n')
        .filter_map(|line| words(line, "nameserver"));
    let servers: Vec<IpAddr> = lines.filter_map(|words| words.first()?.parse().ok()).collect();
    let ours = |server: &IpAddr| parsed.entries.iter().any(|e| e.server == *server);
    servers.into_iter().filter(|server| !ours(server)).collect()
}

struct Parsed {
    foreign: Vec<u8>,
    entries: Vec<Entry>,
}

fn render(parsed: &Parsed) -> Vec<u8> {
    let mut text = Vec::new();
    for Entry { nic, server, domains } in &parsed.entries {
        let domains: String = domains.iter().map(|d| format!(" {d}")).collect();
        let head = format!("{NIC}{nic}{BEGIN}\nnameserver {server}\n{NIC}{nic}{DOMAINS}{domains}\n{NIC}{nic}{END}\n");
        text.extend_from_slice(head.as_bytes());
    }
    text.extend_from_slice(&parsed.foreign);
    let mut search = searched(&parsed.foreign);
    let before = search.len();
    for domain in parsed.entries.iter().flat_map(|e| &e.domains) {
        if !search.contains(domain) {
            search.push(domain.clone());
        }
    }
    if search.len() > before {
        let joined = !parsed.foreign.is_empty() && !parsed.foreign.ends_with(b"\n");
        let begin = if joined {
            format!("\n{SEARCH_BEGIN_JOINED}")
        } else {
            SEARCH_BEGIN.to_owned()
        };
        let tail = format!("{begin}\nsearch {}\n{SEARCH_END}\n", search.join(" "));
        text.extend_from_slice(tail.as_bytes());
    }
    text
}

/// The domains searched without us: the last `search` or `domain` line counts (resolv.conf(5)).
fn searched(foreign: &[u8]) -> Vec<String> {
    let lines = foreign.split(|b| *b == b'\n');
    lines
        .filter_map(|line| words(line, "search").or_else(|| words(line, "domain")))
        .next_back()
        .unwrap_or_default()
}

/// The words after `keyword`, where the line starts with it.
fn words(line: &[u8], keyword: &str) -> Option<Vec<String>> {
    let rest = line.strip_prefix(keyword.as_bytes())?;
    if !rest.first()?.is_ascii_whitespace() {
        return None;
    }
    Some(
        String::from_utf8_lossy(rest)
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
    )
}

/// Takes our lines out. A block that somebody has cut short ends where it no longer looks like ours.
fn parse(text: &[u8]) -> Parsed {
    let mut parsed = Parsed {
        foreign: Vec::new(),
        entries: Vec::new(),
    };
    let mut joined_at = None;
    let mut lines = text.split_inclusive(|b| *b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let stripped = trim(line);
        let mut take =
            |wanted: &dyn Fn(&str) -> bool| lines.next_if(|l| wanted(&trim(l))).map(trim).unwrap_or_default();
        if stripped == SEARCH_BEGIN || stripped == SEARCH_BEGIN_JOINED {
            if stripped == SEARCH_BEGIN_JOINED {
                joined_at = Some(parsed.foreign.len());
            }
            take(&|l| l.starts_with("search "));
            take(&|l| l == SEARCH_END);
        } else if let Some(nic) = stripped.strip_prefix(NIC).and_then(|l| l.strip_suffix(BEGIN)) {
            let (domains_line, end_line) = (format!("{NIC}{nic}{DOMAINS}"), format!("{NIC}{nic}{END}"));
            let server = take(&|l| l.starts_with("nameserver "));
            let domains = take(&|l| l.starts_with(&domains_line));
            take(&|l| l == end_line);
            parsed.entries.push(Entry {
                nic: nic.to_owned(),
                server: server
                    .trim_start_matches("nameserver ")
                    .parse()
                    .unwrap_or(IpAddr::from([0, 0, 0, 0])),
                domains: domains
                    .trim_start_matches(&domains_line)
                    .split_ascii_whitespace()
                    .map(str::to_owned)
                    .collect(),
            });
        } else {
            parsed.foreign.extend_from_slice(line);
        }
    }
    // The line end is ours only while nobody has written behind us.
    if joined_at == Some(parsed.foreign.len()) && parsed.foreign.ends_with(b"\n") {
        parsed.foreign.pop();
    }
    parsed
}

fn trim(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINALS: &[&[u8]] = &[
        b"",
        b"\n",
        b"nameserver 192.168.1.1\n",
        b"nameserver 192.168.1.1",
        b"search corp.example lan\nnameserver 192.168.1.1\noptions edns0\n",
        b"domain lan\r\n# comment \xFF\xFE\nnameserver ::1\n\n\n",
        b"# ipop: nic\n# ipop: search\nnameserver 1.1.1.1",
    ];

    fn entry(nic: &str, server: &str, domains: &[&str]) -> Entry {
        let domains = domains.iter().map(|d| (*d).to_owned()).collect();
        Entry {
            nic: nic.into(),
            server: server.parse().unwrap(),
            domains,
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn ours_comes_first_and_searches_last_with_what_was_searched() {
        let with = add(ORIGINALS[4], entry("ipop0", "10.1.2.3", &["lab.ipop", "lan"]));
        assert_eq!(
            text(&with),
            "# ipop: nic ipop0 begin (taken out again when the network goes down)\n\
             nameserver 10.1.2.3\n\
             # ipop: nic ipop0 domains lab.ipop lan\n\
             # ipop: nic ipop0 end\n\
             search corp.example lan\nnameserver 192.168.1.1\noptions edns0\n\
             # ipop: search begin\n\
             search corp.example lan lab.ipop\n\
             # ipop: search end\n"
        );
    }

    #[test]
    fn taking_out_gives_back_every_byte_in_any_order() {
        for original in ORIGINALS {
            let (a, b) = (
                entry("a", "10.0.0.1", &["a.ipop"]),
                entry("b", "fd00::1", &["b.ipop", "c.ipop"]),
            );
            let one = add(original, a.clone());
            let two = add(&one, b.clone());
            assert_eq!(add(&two, b.clone()), two, "adding twice");
            assert_eq!(text(&remove(&two, "b").unwrap()), text(&one));
            assert_eq!(remove(&two, "a").unwrap(), add(original, b));
            assert_eq!(remove(&one, "a").unwrap(), *original, "{}", text(original));
            assert_eq!(remove(&remove(&two, "a").unwrap(), "b").unwrap(), *original);
            assert_eq!(remove(original, "a"), None);
            assert_eq!(remove(&one, "b"), None);
        }
    }

    #[test]
    fn no_domain_means_no_search_line() {
        let with = add(b"nameserver 1.1.1.1", entry("a", "10.0.0.1", &[]));
        assert!(!text(&with).contains("search"), "{}", text(&with));
        assert_eq!(remove(&with, "a").unwrap(), b"nameserver 1.1.1.1");
    }

    #[test]
    fn lines_that_others_added_meanwhile_stay() {
        let with = add(b"nameserver 1.1.1.1", entry("a", "10.0.0.1", &["a.ipop"]));
        let edited = [b"# top\n", &with[..], b"options rotate\n"].concat();
        assert_eq!(
            text(&remove(&edited, "a").unwrap()),
            "# top\nnameserver 1.1.1.1\noptions rotate\n"
        );
    }

    #[test]
    fn blocks_cut_short_take_nothing_else_with_them() {
        let cut = b"# ipop: nic a begin (taken out again when the network goes down)\n\
                    nameserver 10.0.0.1\noptions rotate\n# ipop: search begin\noptions edns0\n";
        assert_eq!(text(&remove(cut, "a").unwrap()), "options rotate\noptions edns0\n");
    }

    #[test]
    fn only_foreign_nameservers_are_upstream() {
        let with = add(
            b"nameserver 1.1.1.1\n nameserver 2.2.2.2\nnameserver\t::1\n",
            entry("a", "10.0.0.1", &[]),
        );
        let expected: Vec<IpAddr> = vec!["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(foreign_nameservers(&with), expected);
    }
}
