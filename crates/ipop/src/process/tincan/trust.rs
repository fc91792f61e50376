//! Whom TURN servers over TLS are judged by where their address bears no pin: the system's certificate authorities.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tincan::turn::TlsTrust;

/// The system's authorities and clock; a system without authorities trusts pinned servers only.
pub(super) fn system() -> TlsTrust {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate authority cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    TlsTrust {
        roots: Arc::new(roots),
        clock: Arc::new(WallClock),
    }
}

#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since))
    }
}
