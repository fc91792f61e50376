//! What is wrong gets one sentence that names it and a code, and changes nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lab::{Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Site, binary, until};

/// Refused in one line that has these words; and the node is as it was.
fn refused(node: &Node, arguments: &[&str], words: &[&str]) -> Result<(), Failure> {
    let before = settled(node)?;
    let refusal = node.refused(arguments)?;
    let short: Vec<String> = arguments.iter().map(|a| a.chars().take(30).collect()).collect();
    let shown = format!("ipop {}: {}", short.join(" "), refusal.sentence);
    assert_eq!(refusal.code, 1, "{shown}");
    assert_eq!(refusal.sentence.lines().count(), 1, "{shown}");
    let secrets = arguments.iter().filter(|argument| argument.len() > 100);
    for secret in secrets {
        let part = &secret[60..100];
        assert!(!refusal.sentence.contains(part), "an invite is a secret: {shown}");
    }
    for word in words {
        assert!(refusal.sentence.contains(word), "{word} is not in: {shown}");
    }
    assert_eq!(settled(node)?, before, "{shown}");
    eprintln!("{shown}");
    Ok(())
}

/// Groups and members as the node knows them.
fn settled(node: &Node) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let groups = node.status()?.groups.into_iter();
    let members = |group: api::status::GroupStatus| (group.name, group.peers.into_iter().map(|p| p.name).collect());
    Ok(groups.map(members).collect())
}

fn server_and_ann(rig: &mut Rig) -> Result<(Rendezvous, Node), Failure> {
    let server = rig.host("server", Site::Server)?;
    let rendezvous = Rendezvous::embedded(&server)?;
    Ok((rendezvous, Node::start(&rig.host("ann", Site::PortRestricted)?)?))
}

#[test]
fn invites_that_are_no_good() {
    lab::run(|rig| {
        let (rendezvous, ann) = server_and_ann(rig)?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        let good = ann.create("home", rendezvous.address())?.invite;
        let middle = good.len() / 2;
        let swapped = if good.as_bytes()[middle] == b'A' { "B" } else { "A" };
        let changed = format!("{}{swapped}{}", &good[..middle], &good[middle + 1..]);
        let foreign = good.replace("ipop://", "http://");
        for bad in [
            "nonsense",
            "",
            "ipop://",
            "ipop://....",
            &good[..middle],
            &changed,
            &foreign,
        ] {
            refused(&bob, &["join", bad], &["invite"])?;
        }
        let once = ann.invite("home", 1)?.invite;
        bob.join(&once)?;
        refused(&bob, &["join", &good], &["home"])?;
        refused(&ann, &["join", &good], &["home"])?;
        let carol = Node::start(&rig.host("carol", Site::Public)?)?;
        refused(&carol, &["join", &once], &["invite", "used"])?;
        carol.join(&good)?;
        ann.wait_linked("carol", LINK_WITHIN)?;
        Ok(())
    });
}

#[test]
fn names_and_subnets_that_are_taken() {
    lab::run(|rig| {
        let (rendezvous, ann) = server_and_ann(rig)?;
        let server = rendezvous.address();
        // The home network itself, and one that holds it.
        for subnet in ["192.168.1.0/24", "192.168.0.0/16"] {
            refused(
                &ann,
                &["create", "home", "--subnet", subnet, "--server", server],
                &[subnet, "192.168.1.0/24"],
            )?;
        }
        for subnet in ["10.9.0.0/31", "10.0.0.0/4", "fd00::/64"] {
            refused(
                &ann,
                &["create", "home", "--subnet", subnet, "--server", server],
                &["subnet"],
            )?;
        }
        for name in ["no spaces", "", "-x", "a-name-that-is-longer-than-thirty-two-letters"] {
            let arguments = ["create", "--server", server, "--", name];
            refused(&ann, &arguments, &["name"])?;
        }
        ann.create("home", server)?;
        refused(&ann, &["create", "home", "--server", server], &["home"])?;
        refused(&ann, &["invite", "elsewhere"], &["elsewhere"])?;
        refused(&ann, &["leave", "elsewhere"], &["elsewhere"])?;
        refused(&ann, &["ping", "nobody", "-c", "1"], &["nobody"])?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        let invite = ann.invite("home", 5)?.invite;
        refused(&bob, &["join", &invite, "--name", "ann"], &["ann"])?;
        bob.join(&invite)?;
        assert_eq!(
            ann.output(&["create", "x", "--subnet", "10.0.0.0/33"])?.status.code(),
            Some(2)
        );
        assert_eq!(ann.output(&["no-such-command"])?.status.code(), Some(2));
        Ok(())
    });
}

#[test]
fn ports_and_rights_that_are_missing() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let rendezvous = Rendezvous::embedded(&server)?;
        let second = Node::new(&rig.host("second", Site::Public)?);
        let taken = SocketAddr::new(second.host().addresses()[0], 5222);
        let _listener = second.host().inside(|| TcpListener::bind(taken))?;
        let refusal = second.refused(&["server", "--listen", &taken.to_string()])?;
        assert!(
            refusal.code == 1 && refusal.sentence.contains(&taken.to_string()),
            "{refusal:?}"
        );

        let host = rig.host("weak", Site::Public)?;
        let state = host.folder().display().to_string();
        let mut command = host.command("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        command.arg(binary()?).args(["daemon", "--state", &state]);
        let _daemon = host.spawn("daemon", &mut command)?;
        let mut weak = Node::new(&host);
        weak.wait_running()?;
        let arguments = ["create", "home", "--server", rendezvous.address()];
        let refusal = weak.refused(&arguments)?;
        assert!(refusal.sentence.contains("CAP_NET_ADMIN"), "{refusal:?}");
        eprintln!("{}", refusal.sentence);
        assert_eq!(settled(&weak)?, []);
        Ok(())
    });
}

#[test]
fn state_directories_that_cannot_be_used() {
    lab::run(|rig| {
        let (rendezvous, mut ann) = server_and_ann(rig)?;
        let group = ann.create("home", rendezvous.address())?.group;
        ann.end("TERM")?;
        let state = ann.state().to_owned();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(state.join(name), bytes).map_err(|e| Failure::Unexpected(format!("{name}: {e}")))
        };
        for (text, word) in [("999\n", "newer"), ("\u{7}\u{0}", "corrupt"), ("", "corrupt")] {
            write("version", text.as_bytes())?;
            let refusal = ann.refused(&["daemon"])?;
            assert!(refusal.code == 1 && refusal.sentence.contains(word), "{refusal:?}");
            let kept = std::fs::read_to_string(state.join("version")).unwrap_or_default();
            assert_eq!(kept, text);
        }
        write("version", b"1\n")?;
        read_only(&ann)?;
        ann.start_daemon()?;
        ann.wait_running()?;
        assert_eq!(ann.group()?.network, group.network, "state was harmed");
        Ok(())
    });
}

fn read_only(node: &Node) -> Result<(), Failure> {
    let state = node.state().display().to_string();
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$1" daemon --state "$0""#;
    let program = binary()?.display().to_string();
    let output = node.host().output("sh", &["-c", script, &state, &program])?;
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    assert!(
        sentence.contains(&state) && sentence.to_lowercase().contains("read-only"),
        "{sentence}"
    );
    Ok(())
}

#[test]
fn a_store_that_is_corrupt_is_told_and_kept() {
    lab::run(|rig| {
        let (rendezvous, mut ann) = server_and_ann(rig)?;
        ann.create("home", rendezvous.address())?;
        ann.end("TERM")?;
        let store = ann.state().join("controller/store.json");
        let good = std::fs::read(&store).map_err(|e| Failure::Unexpected(format!("the store: {e}")))?;
        let bad = &good[..good.len() / 2];
        std::fs::write(&store, bad).map_err(|e| Failure::Unexpected(format!("the store: {e}")))?;
        ann.start_daemon()?;
        until("a sentence about the store", LINK_WITHIN, || {
            let said = ann.daemon().map(|daemon| daemon.said()).unwrap_or_default();
            let told = said.contains("store.json") && said.contains("corrupt");
            if told { Ok(()) } else { Err(said) }
        })?;
        assert_eq!(ann.output(&["status"])?.status.code(), Some(1));
        ann.end("TERM")?;
        assert!(
            std::fs::read(&store).is_ok_and(|now| now == bad),
            "the broken store was overwritten"
        );
        std::fs::write(&store, &good).map_err(|e| Failure::Unexpected(format!("the store: {e}")))?;
        ann.start_daemon()?;
        ann.wait_running()?;
        assert_eq!(ann.group()?.name, "home");
        Ok(())
    });
}

#[test]
fn nonsense_on_every_socket() {
    lab::run(|rig| {
        let (rendezvous, ann) = server_and_ann(rig)?;
        let bob = Node::start(&rig.host("bob", Site::Public)?)?;
        let invite = ann.create("home", rendezvous.address())?.invite;
        bob.join(&invite)?;
        ann.wait_direct("bob", LINK_WITHIN)?;
        let before = settled(&bob)?;
        for socket in [bob.control_socket(), bob.tincan_socket()] {
            shout(&socket)?;
        }
        let stranger = rig.host("stranger", Site::Public)?;
        flood(&stranger, &bob)?;
        let target = bob.addresses()?[0].to_string();
        ann.wait_ping(&target, LINK_WITHIN)?;
        assert_eq!(settled(&bob)?, before);
        let peer = bob.wait_linked("ann", LINK_WITHIN)?;
        assert!(
            peer.drops.is_empty(),
            "a stranger's datagrams are nobody's drops: {peer:?}"
        );
        Ok(())
    });
}

/// Each kind of nonsense on a connection of its own: an answer or a hang-up, and the next one is served.
fn shout(socket: &std::path::Path) -> Result<(), Failure> {
    let failure = |e| Failure::Unexpected(format!("{}: {e}", socket.display()));
    let endless = vec![b'['; 4 << 20];
    let deep = [vec![b'['; 60_000], b"\n".to_vec()].concat();
    let bad: [&[u8]; 7] = [
        b"nonsense\n",
        b"\n",
        b"\x00\xff\xfe\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no.such\",\"params\":{}}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"group.create\",\"params\":[1,2]}\n",
        &deep,
        &endless,
    ];
    for bytes in bad {
        let mut stream = UnixStream::connect(socket).map_err(failure)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .map_err(failure)?;
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .map_err(failure)?;
        // A hang-up in the middle of it is an answer.
        let _ = stream.write_all(bytes);
        let mut answer = [0; 4096];
        let length = match stream.read(&mut answer) {
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(e) => return Err(failure(e)),
        };
        let text = String::from_utf8_lossy(&answer[..length]);
        assert!(length == 0 || text.contains("\"error\""), "{text}");
    }
    Ok(())
}

/// Datagrams of every first byte and many lengths to every UDP port of a node.
fn flood(from: &Host, to: &Node) -> Result<(), Failure> {
    let text = to.host().run("cat", &["/proc/net/udp"])?;
    let ports = text.lines().skip(1).filter_map(|line| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    });
    let ports: Vec<u16> = ports.collect();
    assert!(!ports.is_empty(), "{text}");
    let address = to.host().addresses()[0];
    let sent = from.inside(move || {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        for port in ports {
            for first in 0..=255u8 {
                for length in [1usize, 4, 12, 20, 28, 100, 1200] {
                    let mut bytes: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(first)).collect();
                    bytes[0] = first;
                    socket.send_to(&bytes, (address, port))?;
                }
            }
        }
        Ok::<_, std::io::Error>(())
    })?;
    sent.map_err(|e| Failure::Unexpected(format!("cannot send: {e}")))
}
