//! Prosody from the system's packages.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use api::rendezvous::ServerAddress;

use super::{Certificate, DOMAIN, Scratch, free_port, wait_listening};

/// What a test wants of Prosody.
pub struct Setup {
    /// Accounts with passwords.
    pub accounts: Vec<(&'static str, &'static str)>,
    /// Strangers may register.
    pub registration: bool,
    /// The part before [`DOMAIN`] under which rooms are, if any.
    pub rooms: Option<&'static str>,
    /// Lua for `external_services`.
    pub services: &'static str,
    /// Further modules.
    pub modules: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            accounts: vec![("ann", "ann-secret"), ("bob", "bob-secret")],
            registration: false,
            rooms: Some("conference"),
            services: "",
            modules: &["smacks"],
        }
    }
}

/// A running Prosody; `None` of it is left after the drop.
pub struct Prosody {
    child: Option<Child>,
    dir: Scratch,
    pub certificate: Certificate,
    pub port: u16,
    pub direct_port: u16,
}

impl Prosody {
    /// `None` where Prosody is not installed.
    pub fn start(setup: &Setup) -> Option<Self> {
        // Not by running it: Prosody takes any unknown argument for an order to serve.
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join("prosody").exists()) {
            eprintln!("skipped: Prosody is not installed");
            return None;
        }
        let mut server = Prosody {
            child: None,
            dir: Scratch::new("prosody"),
            certificate: Certificate::make(DOMAIN),
            port: free_port(),
            direct_port: free_port(),
        };
        server.write_files(setup);
        server.revive();
        Some(server)
    }

    /// Ends it without a word, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it (again) on the same ports with the same accounts.
    pub fn revive(&mut self) {
        let log = fs::File::create(self.dir.path().join("console")).expect("a log");
        let mut child = Command::new("prosody")
            .arg("-F")
            .arg("--config")
            .arg(self.dir.path().join("prosody.cfg.lua"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("Prosody starts");
        for port in [self.port, self.direct_port] {
            wait_listening(([127, 0, 0, 1], port).into(), &mut child);
        }
        self.child = Some(child);
    }

    /// By pin, on the port with direct TLS.
    pub fn pinned(&self) -> ServerAddress {
        self.address(self.direct_port, Some(self.certificate.pin))
    }

    /// By pin, on the port with STARTTLS.
    pub fn pinned_starttls(&self) -> ServerAddress {
        self.address(self.port, Some(self.certificate.pin))
    }

    /// By certificate, on the port with STARTTLS.
    pub fn certified(&self) -> ServerAddress {
        self.address(self.port, None)
    }

    pub fn address(&self, port: u16, pin: Option<[u8; 32]>) -> ServerAddress {
        let mut address: ServerAddress = format!("127.0.0.1:{port}?domain={DOMAIN}").parse().expect("an address");
        address.pin = pin;
        address
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What Prosody logged, for the eyes of who mends a test.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("prosody.log")).unwrap_or_default()
    }

    fn write_files(&self, setup: &Setup) {
        let dir = self.dir.path();
        fs::write(dir.join("ca.pem"), &self.certificate.ca_pem).expect("a file");
        fs::write(dir.join("chain.pem"), &self.certificate.chain_pem).expect("a file");
        fs::write(dir.join("key.pem"), &self.certificate.key_pem).expect("a file");
        let accounts = dir.join("data").join(DOMAIN.replace('.', "%2e")).join("accounts");
        fs::create_dir_all(&accounts).expect("a directory");
        for (user, password) in &setup.accounts {
            let account = format!("return {{ [\"password\"] = \"{password}\" }};\n");
            fs::write(accounts.join(format!("{user}.dat")), account).expect("a file");
        }
        fs::write(dir.join("prosody.cfg.lua"), self.config(setup)).expect("a file");
    }

    fn config(&self, setup: &Setup) -> String {
        let dir = self.dir.path().display();
        let mut modules: String = setup.modules.iter().map(|m| format!("\"{m}\"; ")).collect();
        if setup.registration {
            modules.push_str("\"register_ibr\"; ");
        }
        let (port, direct_port) = (self.port, self.direct_port);
        let mut config = format!(
            r#"
run_as_root = true
pidfile = "{dir}/pid"
data_path = "{dir}/data"
log = {{ debug = "{dir}/prosody.log" }}
modules_enabled = {{ "roster"; "saslauth"; "tls"; "disco"; "ping"; "external_services"; {modules} }}
modules_disabled = {{ "s2s"; "offline" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
c2s_direct_tls_ports = {{ {direct_port} }}
http_ports = {{}}
https_ports = {{}}
c2s_require_encryption = true
authentication = "internal_plain"
allow_registration = {registration}
ssl = {{ certificate = "{dir}/chain.pem"; key = "{dir}/key.pem" }}
external_services = {{ {services} }}
VirtualHost "{DOMAIN}"
"#,
            registration = setup.registration,
            services = setup.services,
        );
        if let Some(rooms) = setup.rooms {
            writeln!(config, "Component \"{rooms}.{DOMAIN}\" \"muc\"").expect("a string");
        }
        config
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("SHOW_SERVER_LOG").is_some() {
            eprintln!("{}", self.log());
        }
        self.kill();
    }
}
