//! The rig: an internet with sites around it, each a host behind what its kind has before it.

mod width;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::namespace::{self, Namespace};
use crate::rules::{Nat, Router, host_firewall};
use crate::wire::{Delay, Wire};
use crate::{Failure, Site, until};

/// The networks for documentation (RFC 5737), which nobody else has.
const PUBLIC: [[u8; 3]; 3] = [[203, 0, 113], [198, 51, 100], [192, 0, 2]];
/// As many sites as a /24 has /29 networks.
const SITES_PER_NETWORK: u8 = 32;
const SITES_MAX: u8 = SITES_PER_NETWORK * PUBLIC.len() as u8;
/// Every home has the same network inside, as homes do.
const HOME: [u8; 3] = [192, 168, 1];
const CARRIER: [u8; 3] = [100, 64, 1];
/// As many hosts as a switch takes.
const SEGMENT_MAX: usize = 200;
/// Lines of each log that a failure shows.
const LOG_LINES: usize = 120;

/// An internet of one's own; gone when dropped.
pub struct Rig {
    name: String,
    folder: Arc<Path>,
    internet: Namespace,
    sites: u8,
    wires: Vec<Wire>,
}

/// A host at a site. Lives as long as its rig.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    site: Site,
    namespace: Namespace,
    folder: Arc<Path>,
    addresses: Vec<IpAddr>,
    uplink: String,
}

/// Makes a rig, runs a test in it and, should it fail, shows what every process said.
pub fn run(test: impl FnOnce(&mut Rig) -> Result<(), Failure>) {
    let mut rig = Rig::new().unwrap_or_else(|failure| panic!("{failure}"));
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&mut rig)));
    if !matches!(outcome, Ok(Ok(()))) {
        rig.show_logs();
    }
    drop(rig);
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => panic!("{failure}"),
        Err(panic) => resume_unwind(panic),
    }
}

impl Rig {
    /// An internet without sites. Clears what dead runs have left.
    pub fn new() -> Result<Self, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if os::own_identity().uid != 0 {
            return Err(Failure::NotRoot);
        }
        namespace::sweep();
        let name = namespace::rig_name(NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(folder.join("logs")).map_err(|e| Failure::system("make the rig's folder", e))?;
        let internet = Namespace::add(&name, "internet")?;
        forwarding(&internet)?;
        // Who asks for what is not there hears nothing.
        internet.ip("route add blackhole default\nroute add blackhole ::/0\n")?;
        internet.nft("table inet loss {\n chain forward {\n type filter hook forward priority 0\n }\n}\n")?;
        Ok(Self {
            name,
            folder: folder.into(),
            internet,
            sites: 0,
            wires: Vec::new(),
        })
    }

    /// Adds a site with a host.
    pub fn host(&mut self, name: &str, site: Site) -> Result<Host, Failure> {
        self.add(name, site, None)
    }

    /// Adds a site with a host, this far from the internet.
    pub fn distant_host(&mut self, name: &str, site: Site, delay: Delay) -> Result<Host, Failure> {
        self.add(name, site, Some(delay))
    }

    /// Two hosts with one wire between them and nothing else: no switch, no router, no internet.
    pub fn neighbours(&self, names: [&str; 2]) -> Result<[Host; 2], Failure> {
        self.wired([self.segment_host(names[0], 0)?, self.segment_host(names[1], 1)?])
    }

    /// The same without IPv4.
    pub fn neighbours_by_ipv6(&self, names: [&str; 2]) -> Result<[Host; 2], Failure> {
        let mut hosts = [self.segment_host(names[0], 0)?, self.segment_host(names[1], 1)?];
        for (host, last) in hosts.iter_mut().zip(1..) {
            host.addresses = vec![Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, last).into()];
        }
        self.wired(hosts)
    }

    fn wired(&self, hosts: [Host; 2]) -> Result<[Host; 2], Failure> {
        let other = hosts[1].namespace.name();
        let veth = format!("link add lan0 type veth peer name lan0 netns {other}\n");
        hosts[0].namespace.ip(&veth)?;
        for host in &hosts {
            host.join_segment()?;
        }
        Ok(hosts)
    }

    /// Hosts on one Ethernet switch and nothing else: no router, no internet.
    pub fn lan(&self, names: &[&str]) -> Result<Vec<Host>, Failure> {
        if names.len() > SEGMENT_MAX {
            return Err(Failure::Unexpected(format!(
                "a segment has room for {SEGMENT_MAX} hosts"
            )));
        }
        let switch = self.namespace("switch")?;
        switch.ip("link add br0 type bridge\nlink set br0 up\n")?;
        let mut hosts = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let host = self.segment_host(name, number)?;
            let own = host.namespace.name();
            switch.ip(&format!(
                "link add port{number} type veth peer name lan0 netns {own}\n\
                 link set port{number} master br0\nlink set port{number} up\n"
            ))?;
            host.join_segment()?;
            hosts.push(host);
        }
        Ok(hosts)
    }

    fn segment_host(&self, name: &str, number: usize) -> Result<Host, Failure> {
        let namespace = self.namespace(name)?;
        self.resolver_of(name)?;
        let [a, b, c] = HOME;
        let address = Ipv4Addr::new(a, b, c, 10 + u8::try_from(number).unwrap_or(u8::MAX));
        Ok(Host {
            name: name.to_owned(),
            site: Site::Public,
            namespace,
            folder: Arc::clone(&self.folder),
            addresses: vec![address.into()],
            uplink: "none".into(),
        })
    }

    fn resolver_of(&self, name: &str) -> Result<(), Failure> {
        let resolver = self.folder.join(format!("{name}.resolv.conf"));
        std::fs::write(resolver, "# of the lab\n").map_err(|e| Failure::system("write a resolver file", e))
    }

    /// Drops this many of a thousand datagrams to the host's site and as many from it.
    pub fn loss(&self, host: &Host, per_mille: u16) -> Result<(), Failure> {
        let uplink = &host.uplink;
        // nft takes no bound above the generator's largest number, 999.
        let Some(last) = per_mille.min(1000).checked_sub(1) else {
            return Ok(());
        };
        self.internet.nft(&format!(
            "add rule inet loss forward iifname {uplink} numgen random mod 1000 <= {last} drop\n\
             add rule inet loss forward oifname {uplink} numgen random mod 1000 <= {last} drop\n"
        ))
    }

    /// What a reboot does to a router: it forgets who was mapped where. For hosts with one router.
    pub fn forget_mappings(&self, host: &Host) -> Result<(), Failure> {
        let router = format!("{}-{}-router", self.name, host.name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &router, "conntrack", "-F"]);
        namespace::run(&mut command, "")
    }

    /// What the names of all its namespaces start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where hosts keep things.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn add(&mut self, name: &str, site: Site, delay: Option<Delay>) -> Result<Host, Failure> {
        if self.sites == SITES_MAX {
            return Err(Failure::Unexpected(format!("a rig has room for {SITES_MAX} sites")));
        }
        let plan = Plan {
            number: self.sites,
            site,
        };
        self.sites += 1;
        let host = self.namespace(name)?;
        let outer = if site.has_router() {
            self.namespace(&format!("{name}-router"))?
        } else {
            host.clone()
        };
        self.connect(&outer, &plan, delay)?;
        if site.has_router() {
            self.put_behind(&outer, &host, name, &plan)?;
        } else if matches!(site, Site::Firewall | Site::Ipv6Firewall) {
            host.nft(&host_firewall())?;
        }
        self.resolver_of(name)?;
        let addresses = plan.host_addresses();
        let (name, folder, uplink) = (name.to_owned(), Arc::clone(&self.folder), plan.uplink());
        Ok(Host {
            name,
            site,
            namespace: host,
            folder,
            addresses,
            uplink,
        })
    }

    fn namespace(&self, name: &str) -> Result<Namespace, Failure> {
        let namespace = Namespace::add(&self.name, name)?;
        // Duplicate detection would keep each IPv6 address from use for a second.
        let quiet = [
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ];
        namespace.sysctl(&quiet)?;
        Ok(namespace)
    }

    /// Joins a site's outermost namespace to the internet, with addresses and routes both ways.
    fn connect(&mut self, outer: &Namespace, plan: &Plan, delay: Option<Delay>) -> Result<(), Failure> {
        let uplink = plan.uplink();
        match delay {
            None => self.internet.ip(&format!(
                "link add {uplink} type veth peer name wan0 netns {}\n",
                outer.name()
            ))?,
            Some(delay) => self
                .wires
                .push(Wire::start((&self.internet, &uplink), (outer, "wan0"), delay)?),
        }
        let mut inet = format!("link set {uplink} up\n");
        let mut own = "link set wan0 up\n".to_owned();
        if plan.site.ipv4() {
            inet += &format!("addr add {}/29 dev {uplink}\n", plan.ipv4(1));
            let count = if plan.site == Site::Server { 3 } else { 2 };
            for last in 2..=count {
                own += &format!("addr add {}/29 dev wan0\n", plan.ipv4(last));
            }
            own += &format!("route add default via {}\n", plan.ipv4(1));
        }
        if plan.site.ipv6() {
            inet += &format!("addr add {}/64 dev {uplink} nodad\n", plan.ipv6(0, 1));
            inet += &format!("route add {}/64 via {}\n", plan.ipv6(1, 0), plan.ipv6(0, 2));
            own += &format!("addr add {}/64 dev wan0 nodad\n", plan.ipv6(0, 2));
            if plan.site == Site::Server {
                own += &format!("addr add {}/64 dev wan0 nodad\n", plan.ipv6(0, 3));
            }
            own += &format!("route add ::/0 via {}\n", plan.ipv6(0, 1));
        }
        self.internet.ip(&inet)?;
        outer.ip(&own)
    }

    /// Puts the host behind its router, or behind a home router behind that one.
    fn put_behind(&self, outer: &Namespace, host: &Namespace, name: &str, plan: &Plan) -> Result<(), Failure> {
        let public = plan.ipv4(2);
        let nat = match plan.site {
            Site::FullCone => Nat::FullCone,
            Site::AddressRestricted => Nat::AddressRestricted,
            Site::Symmetric | Site::CgnatSymmetric => Nat::Symmetric,
            _ => Nat::PortRestricted,
        };
        let udp_blocked = plan.site == Site::UdpBlocked;
        forwarding(outer)?;
        if plan.site.has_carrier() {
            let home = self.namespace(&format!("{name}-home"))?;
            forwarding(&home)?;
            let inside = below(outer, &home, "wan0", CARRIER, None)?;
            outer.nft(
                &Router {
                    nat,
                    udp_blocked,
                    public,
                    host: inside,
                }
                .rules(),
            )?;
            let inside_home = below(&home, host, "eth0", HOME, None)?;
            return home.nft(
                &Router {
                    nat: Nat::PortRestricted,
                    udp_blocked,
                    public: inside,
                    host: inside_home,
                }
                .rules(),
            );
        }
        let ipv6 = plan.site.ipv6().then(|| (plan.ipv6(1, 1), plan.ipv6(1, 2)));
        let inside = below(outer, host, "eth0", HOME, ipv6)?;
        outer.nft(
            &Router {
                nat,
                udp_blocked,
                public,
                host: inside,
            }
            .rules(),
        )
    }

    /// What every process said, for a failed test.
    pub fn show_logs(&self) {
        let entries = std::fs::read_dir(self.folder.join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            eprintln!("---- {name} ({} lines)", lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.wires.clear();
        namespace::remove(&self.name, &self.folder);
    }
}

/// Joins a host to the router above it by `lan0` there and an interface of this name here; gives the host's address.
fn below(
    router: &Namespace,
    host: &Namespace,
    interface: &str,
    net: [u8; 3],
    ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
) -> Result<Ipv4Addr, Failure> {
    let [a, b, c] = net;
    let (gateway, own) = (Ipv4Addr::new(a, b, c, 1), Ipv4Addr::new(a, b, c, 2));
    let mut above = format!("link add lan0 type veth peer name {interface} netns {}\n", host.name());
    above += &format!("addr add {gateway}/24 dev lan0\nlink set lan0 up\n");
    let mut inside =
        format!("addr add {own}/24 dev {interface}\nlink set {interface} up\nroute add default via {gateway}\n");
    if let Some((gateway, own)) = ipv6 {
        above += &format!("addr add {gateway}/64 dev lan0 nodad\n");
        inside += &format!("addr add {own}/64 dev {interface} nodad\nroute add ::/0 via {gateway}\n");
    }
    router.ip(&above)?;
    host.ip(&inside)?;
    Ok(own)
}

fn forwarding(namespace: &Namespace) -> Result<(), Failure> {
    namespace.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
    ])
}

/// Addresses of a site.
struct Plan {
    number: u8,
    site: Site,
}

impl Plan {
    fn uplink(&self) -> String {
        format!("site{}", self.number)
    }

    fn ipv4(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = PUBLIC[usize::from(self.number / SITES_PER_NETWORK)];
        Ipv4Addr::new(a, b, c, self.number % SITES_PER_NETWORK * 8 + last)
    }

    fn ipv6(&self, subnet: u16, last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), subnet, 0, 0, 0, last)
    }

    /// The host's own, public or not.
    fn host_addresses(&self) -> Vec<IpAddr> {
        let [a, b, c] = HOME;
        match self.site {
            Site::Server => {
                let ipv4 = [2, 3].map(|last| IpAddr::from(self.ipv4(last)));
                ipv4.into_iter()
                    .chain([2, 3].map(|last| IpAddr::from(self.ipv6(0, last))))
                    .collect()
            }
            Site::Public | Site::Firewall => vec![self.ipv4(2).into()],
            Site::Ipv6Only | Site::Ipv6Firewall => vec![self.ipv6(0, 2).into()],
            Site::DualStack => vec![Ipv4Addr::new(a, b, c, 2).into(), self.ipv6(1, 2).into()],
            _ => vec![Ipv4Addr::new(a, b, c, 2).into()],
        }
    }
}

/// Before a command starts on a host: a resolver file of its own, and no way to name services of the machine below.
const PREPARE: &str = r#"mount --bind "$0" /etc/resolv.conf || exit 125
for folder in /run/dbus /run/systemd /run/nscd; do [ ! -d $folder ] || mount -t tmpfs none $folder || exit 125; done
exec "$@""#;

impl Host {
    fn join_segment(&self) -> Result<(), Failure> {
        let own = self.addresses[0];
        let prefix = if own.is_ipv4() { 24 } else { 64 };
        self.namespace
            .ip(&format!("addr add {own}/{prefix} dev lan0\nlink set lan0 up\n"))
    }

    /// Its name in the rig.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands.
    pub fn site(&self) -> Site {
        self.site
    }

    /// Its own addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// A folder of its own, as short as a socket's path must be.
    pub fn folder(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What its resolver is told.
    pub fn resolver_file(&self) -> PathBuf {
        self.folder.join(format!("{}.resolv.conf", self.name))
    }

    /// A command that will run on it; its process id stays the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace.name(), "sh", "-c", PREPARE]);
        command.arg(self.resolver_file()).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs to the end, whatever that is.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = self.command(program);
        command
            .args(arguments)
            .output()
            .map_err(|e| Failure::system(format!("run {program}"), e))
    }

    /// Runs to a good end; gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let output = self.output(program, arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(Failure::Command {
            command: format!("{}: {program} {}", self.name, arguments.join(" ")),
            status: output.status.to_string(),
            output: format!("{text}{}", String::from_utf8_lossy(&output.stderr))
                .trim()
                .to_owned(),
        })
    }

    /// Starts a process; what it says goes to a log of this title, which a failed test shows.
    pub fn spawn(&self, title: &str, command: &mut Command) -> Result<Process, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.join(format!("logs/{number:02}-{}-{title}.log", self.name));
        let failure = |e| Failure::system(format!("start {title} on {}", self.name), e);
        let file = File::create(&log).map_err(failure)?;
        command.stdout(file.try_clone().map_err(failure)?).stderr(file);
        let child = command.spawn().map_err(failure)?;
        Ok(Process {
            title: format!("{} on {}", title, self.name),
            child,
            log,
        })
    }

    /// Ids of all processes on it.
    pub fn processes(&self) -> Vec<u32> {
        self.namespace.processes()
    }

    /// Runs `body` on a thread in its namespace: sockets made there stay there.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        self.namespace.inside(body)
    }

    /// Interfaces, addresses and routes as `ip` tells them: the same text before and after is a host left as it was.
    pub fn network_settings(&self) -> Result<String, Failure> {
        let mut text = String::new();
        for arguments in [&["-o", "addr"][..], &["route"], &["-6", "route"], &["rule"]] {
            text += &self.run("ip", arguments)?;
        }
        let file = std::fs::read_to_string(self.resolver_file());
        Ok(text + &file.map_err(|e| Failure::system("read a resolver file", e))?)
    }

    /// Pings from it, and gives an error if nothing answers.
    pub fn ping(&self, target: &str) -> Result<(), Failure> {
        self.run("ping", &["-c", "1", "-W", "5", target]).map(|_| ())
    }
}

/// A running process, killed when dropped.
pub struct Process {
    title: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) -> Result<(), Failure> {
        signal(self.child.id(), name)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; gives the exit code, none where a signal ended it.
    pub fn wait(&mut self, within: Duration) -> Result<Option<i32>, Failure> {
        let title = format!("the end of {}", self.title);
        until(&title, within, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            Ok(None) => Err("it runs".into()),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name to a process.
pub fn signal(process: u32, name: &str) -> Result<(), Failure> {
    namespace::run(
        Command::new("kill").arg(format!("-{name}")).arg(process.to_string()),
        "",
    )
}
