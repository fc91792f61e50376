//! The server's TLS key: made once, kept in the state directory, pinned by invites.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{ServerError, files};
use crate::sasl;

const FILE: &str = "server.pem";
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// SHA-256 of the key's SubjectPublicKeyInfo.
pub(super) type Pin = [u8; 32];

/// The TLS side of the server and the pin of its key.
pub(super) fn load_or_make(state_dir: &Path, domain: &str) -> Result<(Arc<ServerConfig>, Pin), ServerError> {
    let pem = match files::read_bounded(state_dir, FILE, FILE_BYTES_MAX).map_err(ServerError::State)? {
        Some(pem) => pem,
        None => {
            let pem = make(domain)?;
            files::replace_private(state_dir, FILE, pem.as_bytes()).map_err(ServerError::State)?;
            pem.into_bytes()
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| ServerError::TlsKey)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|_| ServerError::TlsKey)?;
    let pin = pin_of(&key)?;
    Ok((configure(certificates, key)?, pin))
}

fn make(domain: &str) -> Result<String, ServerError> {
    let key = rcgen::KeyPair::generate().map_err(|_| ServerError::TlsKey)?;
    let params = rcgen::CertificateParams::new(vec![domain.to_owned()]).map_err(|_| ServerError::Domain)?;
    let certificate = params.self_signed(&key).map_err(|_| ServerError::TlsKey)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

fn pin_of(key: &PrivateKeyDer<'_>) -> Result<Pin, ServerError> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(|_| ServerError::TlsKey)?;
    let spki = key.public_key().ok_or(ServerError::TlsKey)?;
    let mut pin = [0u8; 32];
    pin.copy_from_slice(digest::digest(&digest::SHA256, &spki).as_ref());
    Ok(pin)
}

fn configure(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, ServerError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ServerError::TlsKey)?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|_| ServerError::TlsKey)?;
    // XEP-0368 and RFC 7443 name them; clients without ALPN are told apart by their first byte.
    config.alpn_protocols = vec![
        b"xmpp-client".to_vec(),
        b"stun.turn".to_vec(),
        b"stun.nat-discovery".to_vec(),
    ];
    // Tens of clients that stay for days: tickets and a session cache would be memory for nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The `tls-exporter` value (RFC 9266) of a finished handshake; TLS 1.3 only, where it is always sound.
pub(super) fn exporter(connection: &rustls::ServerConnection) -> Option<[u8; sasl::BINDING_BYTES]> {
    if connection.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return None;
    }
    let out = [0u8; sasl::BINDING_BYTES];
    connection
        .export_keying_material(out, sasl::BINDING_LABEL, Some(b""))
        .ok()
}
