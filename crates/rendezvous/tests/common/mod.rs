//! Real servers for tests: each in its own directory and on its own ports of 127.0.0.1, gone when dropped.
#![allow(dead_code, unreachable_pub)]

pub mod adapter;
pub mod prosody;
pub mod scripted;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

/// The XMPP domain of all test servers; nobody resolves it.
pub const DOMAIN: &str = "rdv.test";

/// How long anything may take on a loaded machine before a test gives up; never a measure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes away.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let unique = format!("ipop-{name}-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority and a certificate for [`DOMAIN`] by it.
pub struct Certificate {
    pub ca_pem: String,
    pub chain_pem: String,
    pub key_pem: String,
    /// SHA-256 of the public key (SPKI).
    pub pin: [u8; 32],
}

impl Certificate {
    pub fn make(domain: &str) -> Self {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec![domain.to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let mut pin = [0; 32];
        pin.copy_from_slice(digest::digest(&digest::SHA256, &spki).as_ref());
        Certificate {
            ca_pem,
            chain_pem: leaf.pem(),
            key_pem: key.serialize_pem(),
            pin,
        }
    }
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until `address` takes connections or `child` has died.
pub fn wait_listening(address: SocketAddr, child: &mut Child) {
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if let Ok(Some(status)) = child.try_wait() {
            panic!("the server ended at once: {status}");
        }
        assert!(start.elapsed() < PATIENCE, "the server does not listen at {address}");
        std::thread::yield_now();
    }
}
