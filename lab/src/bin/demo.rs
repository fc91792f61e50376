//! The main job on one machine: three nodes behind NATs form a group, reach each other by name and leave nothing behind.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use api::status::Connection;
use lab::{Failure, Host, LINK_WITHIN, Node, Rendezvous, Rig, Site};
use os::Signal;

/// Control-C came: the thread that took it clears up and ends the program.
static STOPPED: AtomicBool = AtomicBool::new(false);
const GROUP: &str = "home";
const RUN_FOR: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nthe demo did not go through: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), Failure> {
    let began = Instant::now();
    let mut rig = Rig::new()?;
    let name = rig.name().to_owned();
    clear_when_interrupted(&rig)?;
    let shown = show(&mut rig);
    while STOPPED.load(Ordering::Acquire) {
        std::thread::park();
    }
    if shown.is_err() {
        rig.show_logs();
    }
    let folder = rig.folder().to_owned();
    drop(rig);
    shown?;
    let left = lab::namespaces_of(&name);
    if !left.is_empty() || folder.exists() {
        return Err(Failure::Unexpected(format!(
            "left behind: {left:?} {}",
            folder.display()
        )));
    }
    say("and on this machine no namespace and no file");
    println!("\ndone in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Control-C ends the demo as its last step would: nothing stays.
fn clear_when_interrupted(rig: &Rig) -> Result<(), Failure> {
    let (name, folder) = (rig.name().to_owned(), rig.folder().to_owned());
    let signals = os::Signals::install().map_err(|e| Failure::Unexpected(e.to_string()))?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait(None) {
            if matches!(signal, Some(Signal::Interrupt | Signal::Terminate | Signal::Hangup)) {
                STOPPED.store(true, Ordering::Release);
                lab::remove(&name, &folder);
                println!("\nstopped; nothing is left behind");
                std::process::exit(130);
            }
        }
    });
    Ok(())
}

fn show(rig: &mut Rig) -> Result<(), Failure> {
    step("An internet in network namespaces of this machine: nothing leaves it");
    let server = rig.host("rendezvous", Site::Server)?;
    let hosts = [
        place(
            rig,
            "ann",
            Site::PortRestricted,
            "behind a home router (port-restricted NAT)",
        )?,
        place(
            rig,
            "bob",
            Site::Symmetric,
            "behind a symmetric NAT, through which no hole can be punched",
        )?,
        place(rig, "carol", Site::Public, "on a public address")?,
    ];
    let before = settings(&hosts)?;

    step("A rendezvous: XMPP, STUN and TURN on one port");
    let rendezvous = Rendezvous::embedded(&server)?;
    command(&server, "server --domain rdv.lab --listen ...");
    say(rendezvous.address());

    step("Each host starts a node");
    let mut nodes = Vec::new();
    for host in &hosts {
        command(host, "daemon");
        nodes.push(Node::start(host)?);
    }
    form_group(&nodes, rendezvous.address())?;
    reach_each_other(&nodes)?;

    step("Who is reached how");
    for node in &nodes {
        command(node.host(), "status");
        print!("{}", indented(&node.ipop(&["status"])?));
    }
    throughput(&nodes)?;
    end(&mut nodes, &hosts, &before)
}

fn place(rig: &mut Rig, name: &str, site: Site, where_: &str) -> Result<Host, Failure> {
    let host = rig.host(name, site)?;
    say(&format!("{name} at {} {where_}", list(host.addresses())));
    Ok(host)
}

fn form_group(nodes: &[Node], server: &str) -> Result<(), Failure> {
    let [founder, others @ ..] = nodes else {
        return Ok(());
    };
    step("ann makes a group; its invite is all that the others need");
    let own = founder.host().name();
    command(
        founder.host(),
        &format!("create {GROUP} --host {own} --server '{server}'"),
    );
    let text = founder.ipop(&["create", GROUP, "--host", own, "--server", server])?;
    print!("{}", indented(&text));
    let invite = text.split_whitespace().find(|word| word.starts_with("ipop://"));
    let invite = invite.ok_or_else(|| Failure::Unexpected(format!("no invite in {text}")))?;
    for node in others {
        let name = node.host().name();
        step(&format!("{name} joins"));
        command(
            node.host(),
            &format!("join --name {name} {}...", &invite[..invite.len().min(40)]),
        );
        print!("{}", indented(&node.ipop(&["join", invite, "--name", name])?));
    }
    Ok(())
}

fn reach_each_other(nodes: &[Node]) -> Result<(), Failure> {
    step("Each pings the others by name, as any program would");
    for node in nodes {
        for other in nodes.iter().filter(|other| other.host().name() != node.host().name()) {
            let name = format!("{}.{GROUP}.ipop", other.host().name());
            node.wait_linked(other.host().name(), LINK_WITHIN)?;
            node.wait_ping(&name, LINK_WITHIN)?;
            let text = node.host().run("ping", &["-c", "5", "-i", "0.2", &name])?;
            let told: Vec<&str> = text.lines().rev().take(2).collect();
            let own = node.host().name();
            say(&format!(
                "{own}$ ping -c 5 {name}\n       {}\n       {}",
                told[1], told[0]
            ));
        }
    }
    Ok(())
}

fn throughput(nodes: &[Node]) -> Result<(), Failure> {
    step("How fast: one TCP stream through the tunnel, three seconds each");
    let [ann, bob, carol] = nodes else { return Ok(()) };
    for (from, to) in [(ann, carol), (ann, bob)] {
        let way = match from.wait_linked(to.host().name(), LINK_WITHIN)?.connection {
            Connection::Relay { via } => format!("through the relay {via}"),
            _ => "directly".to_owned(),
        };
        let bits = stream(from, to)?;
        say(&format!(
            "{} to {} {way}: {:.0} Mbit/s",
            from.host().name(),
            to.host().name(),
            bits / 1e6
        ));
    }
    Ok(())
}

/// Sends as fast as it goes; gives what arrived in bits a second.
fn stream(from: &Node, to: &Node) -> Result<f64, Failure> {
    let failure = |e| Failure::Unexpected(format!("the throughput run: {e}"));
    let address = *to
        .addresses()?
        .first()
        .ok_or_else(|| Failure::Unexpected("no inner address".into()))?;
    let listener = to.host().inside(|| TcpListener::bind((address, 0)))?.map_err(failure)?;
    let target = listener.local_addr().map_err(failure)?;
    let stream = from
        .host()
        .inside(|| TcpStream::connect_timeout(&target, LINK_WITHIN))?
        .map_err(failure)?;
    let sender = std::thread::spawn(move || send(stream));
    let (mut sink, _) = listener.accept().map_err(failure)?;
    let (mut buffer, mut count, began) = (vec![0; 1 << 17], 0usize, Instant::now());
    loop {
        match sink.read(&mut buffer).map_err(failure)? {
            0 => break,
            length => count += length,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    sender.join().unwrap_or(Ok(())).map_err(failure)?;
    Ok(count as f64 * 8.0 / seconds)
}

fn send(mut stream: TcpStream) -> std::io::Result<()> {
    let (block, began) = (vec![0; 1 << 17], Instant::now());
    while began.elapsed() < RUN_FOR {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn end(nodes: &mut [Node], hosts: &[Host], before: &[String]) -> Result<(), Failure> {
    step("The end: every daemon gets SIGTERM");
    for node in nodes {
        let code = node.end("TERM")?;
        if code != Some(0) {
            return Err(Failure::Unexpected(format!(
                "the daemon of {} ended with {code:?}",
                node.host().name()
            )));
        }
    }
    for (host, (before, after)) in hosts.iter().zip(before.iter().zip(settings(hosts)?)) {
        if *before != after {
            return Err(Failure::Unexpected(format!(
                "{} is not as before: {before}\n{after}",
                host.name()
            )));
        }
        let running = host.processes();
        if !running.is_empty() {
            return Err(Failure::Unexpected(format!(
                "processes {running:?} still run on {}",
                host.name()
            )));
        }
    }
    say("checked: no NIC, address, route, resolver entry or process is left on ann, bob and carol");
    Ok(())
}

fn settings(hosts: &[Host]) -> Result<Vec<String>, Failure> {
    hosts.iter().map(Host::network_settings).collect()
}

fn step(text: &str) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    println!("\n{number}. {text}");
}

fn command(host: &Host, text: &str) {
    say(&format!("{}$ ipop {text}", host.name()));
}

fn say(text: &str) {
    println!("   {text}");
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("     {line}\n")).collect()
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}
