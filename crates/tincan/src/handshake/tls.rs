//! TLS 1.3 and QUIC as IPOP uses them: raw Ed25519 keys both ways, the hybrid key exchange alone, nothing resumed.
//!
//! Promises: the one key that is accepted is fixed before the first byte; time and QUIC's own chance come from outside.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use api::NodeId;
use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, ConnectionId, EndpointConfig, ServerConfig, TimeSource, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs as provider;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, version};

use super::SessionError;
use super::ids::{OwnIds, OwnTag};
use crate::keys::{NodeKey, hkdf as derive};

/// Not sent (SNI is off) and not checked: keys say who is who.
pub(super) const SERVER_NAME: &str = "ipop";
const ALPN: &[u8] = b"ipop/1";
/// Crypto data that may wait out of order: the whole of either flight is under 4 KiB.
const CRYPTO_BUFFER: usize = 8 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const LINK_WINDOW: u32 = 128 * 1024;
/// QUIC sends first copies again after three of these: not sooner than 60 ms, not later than 3 s.
const RTT_RANGE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Accepts exactly one key.
pub(super) struct OnlyKey {
    spki: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Set when the other end showed another key, or could not prove the right one.
    refused: Arc<AtomicBool>,
}

impl OnlyKey {
    pub(super) fn new(peer: NodeId, refused: Arc<AtomicBool>) -> Self {
        Self {
            spki: spki(peer),
            algorithms: provider::default_provider().signature_verification_algorithms,
            refused,
        }
    }

    fn check_key(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if shown.as_ref() == self.spki && more.is_empty() {
            return Ok(());
        }
        self.refused.store(true, Ordering::Relaxed);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn check_proof(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_key(shown, &[])?;
        rustls::crypto::verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(shown.as_ref()),
            proof,
            &self.algorithms,
        )
        .inspect_err(|_| self.refused.store(true, Ordering::Relaxed))
    }
}

impl fmt::Debug for OnlyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyKey")
    }
}

impl ServerCertVerifier for OnlyKey {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(shown, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_proof(message, shown, proof)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for OnlyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(shown, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_proof(message, shown, proof)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The client's side; its first datagrams bear `first_flight` as connection id.
pub(super) fn client_config(
    key: &NodeKey,
    peer: OnlyKey,
    initial_rtt: Duration,
    first_flight: ConnectionId,
) -> Result<ClientConfig, SessionError> {
    let mut tls = rustls::ClientConfig::builder_with_details(suites(), Arc::new(NoClock))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(library)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(peer))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own_key(key)?)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    tls.enable_sni = false;
    let quic = QuicClientConfig::try_from(tls).map_err(library)?;
    let mut config = ClientConfig::new(Arc::new(quic));
    config
        .transport_config(Arc::new(transport(initial_rtt)))
        .token_store(Arc::new(quinn_proto::NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || first_flight));
    Ok(config)
}

/// The server's side.
pub(super) fn server_config(
    key: &NodeKey,
    peer: OnlyKey,
    initial_rtt: Duration,
    seed: &[u8; 32],
) -> Result<ServerConfig, SessionError> {
    let mut tls = rustls::ServerConfig::builder_with_details(suites(), Arc::new(NoClock))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(library)?
        .with_client_cert_verifier(Arc::new(peer))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own_key(key)?)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let quic = QuicServerConfig::try_from(tls).map_err(library)?;
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ipop quic token v1").extract(seed);
    let mut config = ServerConfig::new(Arc::new(quic), Arc::new(token_key));
    config
        .transport_config(Arc::new(transport(initial_rtt)))
        .time_source(Arc::new(NoClock))
        .migration(false)
        .max_incoming(1);
    config.validation_token.sent(0);
    Ok(config)
}

/// What both sides share.
pub(super) fn endpoint_config(tag: OwnTag, seed: &[u8; 32]) -> EndpointConfig {
    let reset_key = derive(b"ipop quic reset v1", seed, &[b"reset"]);
    let ids = *derive(b"ipop quic ids v1", seed, &[b"ids"]);
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &*reset_key)));
    config
        // A greased first byte looks like STUN, or like one of our records.
        .grease_quic_bit(false)
        .supported_versions(vec![1])
        .rng_seed(Some(*derive(b"ipop quic rng v1", seed, &[b"rng"])))
        .cid_generator(move || Box::new(OwnIds::new(tag, ids)));
    config
}

fn transport(initial_rtt: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .initial_rtt(initial_rtt.clamp(RTT_RANGE.0, RTT_RANGE.1))
        .initial_mtu(1200)
        .min_mtu(1200)
        .mtu_discovery_config(None)
        .max_idle_timeout(None)
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(LINK_WINDOW))
        .send_window(u64::from(LINK_WINDOW))
        .crypto_buffer_size(CRYPTO_BUFFER)
        .allow_spin(false)
        .enable_segmentation_offload(false);
    config
}

/// AES-128 is there because QUIC's Initial datagrams are made with it; TLS settles on the first that both have.
fn suites() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![provider::kx_group::X25519MLKEM768],
        ..provider::default_provider()
    })
}

fn own_key(key: &NodeKey) -> Result<Arc<CertifiedKey>, SessionError> {
    let pkcs8 = key.to_pkcs8();
    let signer = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..])).map_err(library)?;
    let public = CertificateDer::from(spki(key.id()));
    Ok(Arc::new(CertifiedKey::new(vec![public], signer)))
}

/// RFC 8410 section 4: SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING }.
fn spki(node: NodeId) -> Vec<u8> {
    const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    [&PREFIX[..], &node.0].concat()
}

fn library(error: impl fmt::Display) -> SessionError {
    SessionError::Library(error.to_string())
}

/// Nothing in these handshakes expires, so no clock is read.
#[derive(Debug)]
struct NoClock;

impl TimeSource for NoClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

impl rustls::time_provider::TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::ZERO))
    }
}
