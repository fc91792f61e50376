//! TLS towards a server: a pinned key, or a certificate for the XMPP domain.
//!
//! Promises: nothing is said to a server before one of both holds. With a pin nothing else is asked of the
//! certificate; the handshake's signature is always verified.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use subtle::ConstantTimeEq;

use super::fault::Failure;
use crate::sasl;

/// Whose certificates are believed where there is no pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    #[default]
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// A configuration for one login; made anew each time, so that the roots cost no memory meanwhile.
pub(super) fn config(pin: Option<[u8; 32]>, roots: &Roots, direct: bool) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(provider::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match pin {
        Some(pin) => Arc::new(Pinned {
            pin,
            algorithms: provider.signature_verification_algorithms,
        }),
        None => webpki(roots, provider.clone())?,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::unsuitable(format!("TLS cannot be set up on this machine: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if direct {
        // XEP-0368 section 3; a web server on the same port tells us apart by it.
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    }
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the certificate must bear.
pub(super) fn name(domain: &str) -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(domain.to_owned())
        .map_err(|_| Failure::unsuitable(format!("\"{domain}\" is not a name that a certificate can bear")))
}

/// What a failed handshake with `label` means; `None` if the peer does not speak TLS at all.
pub(super) fn failure(label: &str, domain: &str, pinned: bool, error: &rustls::Error) -> Option<Failure> {
    match error {
        rustls::Error::InvalidCertificate(_) if pinned => Some(Failure::impostor(format!(
            "{label} shows another key than the one in its address (pin): somebody sits between, or the server was \
             set up anew; ask its owner for a new address"
        ))),
        rustls::Error::InvalidCertificate(why) => Some(Failure::impostor(format!(
            "{label} shows no valid certificate for {domain} ({}): somebody sits between, or its operator must mend \
             the certificate",
            in_words(why)
        ))),
        rustls::Error::InvalidMessage(_) => None,
        other => Some(Failure::unsuitable(format!(
            "{label} and this node found no common TLS ({other}); ask its operator"
        ))),
    }
}

/// The `tls-exporter` value (RFC 9266); only under TLS 1.3, where it is always sound.
pub(super) fn binding(connection: &rustls::ClientConnection) -> Option<[u8; sasl::BINDING_BYTES]> {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let out = [0; sasl::BINDING_BYTES];
    connection
        .export_keying_material(out, sasl::BINDING_LABEL, Some(b""))
        .ok()
}

fn in_words(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?"
        }
        CertificateError::UnknownIssuer => "nobody whom this system trusts has signed it",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "it is for another name",
        CertificateError::Revoked => "it was revoked",
        _ => "it is malformed or unfit",
    }
}

fn webpki(roots: &Roots, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Failure> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        Roots::File(path) => {
            let unreadable =
                |_| Failure::unsuitable(format!("the file of roots {} is not readable PEM", path.display()));
            let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
            store.add_parsable_certificates(found.map_err(unreadable)?)
        }
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
    Ok(verifier.map_err(|_| {
        Failure::unsuitable(
            "this machine trusts no certificate authority; install its ca-certificates or use a server address with a pin",
        )
    })?)
}

/// Believes one key.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let spki = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let shown = digest::digest(&digest::SHA256, &spki);
        match bool::from(shown.as_ref().ct_eq(&self.pin)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
