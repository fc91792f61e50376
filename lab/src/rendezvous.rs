//! Servers for groups of the lab: the embedded one, and Prosody with coturn.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::node::binary;
use crate::{Failure, Host, Process, until};

const START_WITHIN: Duration = Duration::from_secs(15);
/// The one port that every site lets out, also those that let out nothing else.
const PORT: u16 = 443;
const DOMAIN: &str = "rdv.lab";

/// A running rendezvous. Ends when dropped.
pub struct Rendezvous {
    address: String,
    processes: Vec<Process>,
}

impl Rendezvous {
    /// What goes after `--server`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's processes: the XMPP server first.
    pub fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    /// `ipop server` on all first addresses of a host, on the port that firewalls know.
    pub fn embedded(host: &Host) -> Result<Self, Failure> {
        let state = host.folder();
        let mut command = host.command(binary()?);
        command
            .args(["server", "-v", "--domain", DOMAIN, "--state"])
            .arg(&state);
        for address in addresses(host, 0) {
            command.arg("--listen").arg(SocketAddr::new(address, PORT).to_string());
        }
        let mut process = host.spawn("server", &mut command)?;
        let file = state.join("server/address");
        let address = until("the embedded rendezvous", START_WITHIN, || {
            alive(&mut process)?;
            fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))
        })?;
        Ok(Self {
            address: address.trim().to_owned(),
            processes: vec![process],
        })
    }
}

/// The first address of each family, or the second.
fn addresses(host: &Host, which: usize) -> Vec<IpAddr> {
    let of = |ipv4| host.addresses().iter().filter(move |a| a.is_ipv4() == ipv4);
    [of(true).nth(which), of(false).nth(which)]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

fn alive(process: &mut Process) -> Result<(), String> {
    if process.is_running() {
        Ok(())
    } else {
        Err(format!("it ended: {}", process.said()))
    }
}

/// Who may have an account at Prosody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// Everybody, by registering one.
    Open,
    /// ann, bob and carol, each with the password `NAME-secret`.
    Closed,
}

impl Rendezvous {
    /// On a host at `Site::Server`: Prosody with rooms, and coturn on the second addresses, which share a secret (XEP-0215).
    /// Direct TLS, a certificate of their own, known by pin.
    pub fn prosody_coturn(host: &Host, accounts: Accounts) -> Result<Self, Failure> {
        let folder = host.folder();
        fs::create_dir_all(&folder).map_err(|e| Failure::system("make a server's folder", e))?;
        let pin = certificate(host, &folder)?;
        let places = addresses(host, 0);
        let turn_places = addresses(host, 1);
        let prosody = Prosody {
            folder: &folder,
            places: &places,
            turn_places: &turn_places,
            accounts,
        };
        let mut processes = vec![prosody.start(host)?, coturn(host, &folder, &turn_places)?];
        for (which, addresses) in [&places, &turn_places].into_iter().enumerate() {
            for address in addresses {
                wait_listening(host, SocketAddr::new(*address, PORT), &mut processes[which])?;
            }
        }
        let hosts: Vec<String> = places.iter().map(|a| SocketAddr::new(*a, PORT).to_string()).collect();
        Ok(Self {
            address: format!("xmpp://{}?domain={DOMAIN}&pin={pin}", hosts.join(",")),
            processes,
        })
    }
}

/// STUN and TURN over UDP; over TCP coturn uses 443, with TLS and without.
const TURN_PORT: u16 = 3478;
const TURN_SECRET: &str = "shared by Prosody and coturn";

/// Makes a self-signed certificate; gives the SHA-256 of its public key.
fn certificate(host: &Host, folder: &Path) -> Result<String, Failure> {
    let script = format!(
        "cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={DOMAIN} \
         -addext subjectAltName=DNS:{DOMAIN} -keyout key.pem -out chain.pem 2>/dev/null && \
         openssl x509 -in chain.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum | cut -c1-64",
        folder.display()
    );
    Ok(host.run("sh", &["-c", &script])?.trim().to_owned())
}

struct Prosody<'a> {
    folder: &'a Path,
    places: &'a [IpAddr],
    turn_places: &'a [IpAddr],
    accounts: Accounts,
}

impl Prosody<'_> {
    fn start(&self, host: &Host) -> Result<Process, Failure> {
        let config = self.folder.join("prosody.cfg.lua");
        let write = |path: PathBuf, text: String| fs::write(path, text);
        let accounts = self
            .folder
            .join("data")
            .join(DOMAIN.replace('.', "%2e"))
            .join("accounts");
        let written = fs::create_dir_all(&accounts)
            .and_then(|()| write(config.clone(), self.config()))
            .and_then(|()| match self.accounts {
                Accounts::Open => Ok(()),
                Accounts::Closed => ["ann", "bob", "carol"].into_iter().try_for_each(|user| {
                    let account = format!("return {{ [\"password\"] = \"{user}-secret\" }};\n");
                    write(accounts.join(format!("{user}.dat")), account)
                }),
            });
        written.map_err(|e| Failure::system("write Prosody's files", e))?;
        let mut command = host.command("prosody");
        host.spawn("prosody", command.args(["-F", "--config"]).arg(config))
    }

    fn config(&self) -> String {
        let folder = self.folder.display();
        let quoted = |a: &IpAddr| format!("\"{a}\"; ");
        let interfaces: String = self.places.iter().map(quoted).collect();
        let (registration, registering) = match self.accounts {
            Accounts::Open => (true, "\"register_ibr\""),
            Accounts::Closed => (false, ""),
        };
        format!(
            r#"run_as_root = true
pidfile = "{folder}/pid"
data_path = "{folder}/data"
log = {{ info = "*console" }}
modules_enabled = {{ "roster"; "saslauth"; "tls"; "disco"; "ping"; "smacks"; "external_services"; {registering} }}
modules_disabled = {{ "s2s"; "offline" }}
interfaces = {{ {interfaces} }}
c2s_ports = {{}}
c2s_direct_tls_ports = {{ {PORT} }}
http_ports = {{}}
https_ports = {{}}
c2s_require_encryption = true
authentication = "internal_plain"
allow_registration = {registration}
ssl = {{ certificate = "{folder}/chain.pem"; key = "{folder}/key.pem" }}
external_services = {{ {services} }}
VirtualHost "{DOMAIN}"
Component "conference.{DOMAIN}" "muc"
"#,
            services = self.services(),
        )
    }

    /// What XEP-0215 tells: coturn on the same addresses.
    fn services(&self) -> String {
        let service = |kind: &str, transport: &str, address: &IpAddr, port: u16| {
            let secret = match kind {
                "stun" => String::new(),
                _ => format!("secret = \"{TURN_SECRET}\"; ttl = 3600; algorithm = \"turn\";"),
            };
            format!(
                "{{ type = \"{kind}\"; transport = \"{transport}\"; host = \"{address}\"; port = {port}; {secret} }};\n"
            )
        };
        let at = |address: &IpAddr| {
            let all = [
                ("stun", "udp", TURN_PORT),
                ("turn", "udp", TURN_PORT),
                ("turn", "tcp", PORT),
            ];
            all.map(|(kind, transport, port)| service(kind, transport, address, port))
                .concat()
        };
        self.turn_places.iter().map(at).collect()
    }
}

fn coturn(host: &Host, folder: &Path, places: &[IpAddr]) -> Result<Process, Failure> {
    let mut command = host.command("turnserver");
    command.args([
        "-n",
        "--no-cli",
        "--fingerprint",
        "--use-auth-secret",
        "--log-file=stdout",
    ]);
    command.arg(format!("--static-auth-secret={TURN_SECRET}"));
    command.arg(format!("--realm={DOMAIN}"));
    command.arg(format!("--listening-port={TURN_PORT}"));
    command.arg(format!("--db={}", folder.join("turndb").display()));
    command.arg(format!("--pidfile={}", folder.join("turnserver.pid").display()));
    command.arg(format!("--tls-listening-port={PORT}"));
    command.arg(format!("--cert={}", folder.join("chain.pem").display()));
    command.arg(format!("--pkey={}", folder.join("key.pem").display()));
    command.arg("--no-dtls");
    for address in places {
        command.arg(format!("--listening-ip={address}"));
        command.arg(format!("--relay-ip={address}"));
    }
    host.spawn("turnserver", &mut command)
}

fn wait_listening(host: &Host, address: SocketAddr, process: &mut Process) -> Result<(), Failure> {
    until(&format!("a server on {address}"), START_WITHIN, || {
        alive(process)?;
        let tried = host.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        match tried {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(failure) => Err(failure.to_string()),
        }
    })
}
