//! A server that follows a script, for what honest servers never do.

use std::sync::Arc;

use api::rendezvous::ServerAddress;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Certificate, DOMAIN};

/// The header that an honest server sends.
pub const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='1' from='rdv.test'>";

/// Listens; the script decides what is said.
pub struct Scripted {
    listener: TcpListener,
    tls: TlsAcceptor,
    pin: [u8; 32],
}

impl Scripted {
    pub async fn listen() -> Self {
        let certificate = Certificate::make(DOMAIN);
        let chain = CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a certificate");
        Scripted {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            tls: TlsAcceptor::from(Arc::new(config)),
            pin: certificate.pin,
        }
    }

    pub fn address(&self, pinned: bool) -> ServerAddress {
        let port = self.listener.local_addr().expect("an address").port();
        let mut address: ServerAddress = format!("127.0.0.1:{port}?domain={DOMAIN}").parse().expect("an address");
        address.pin = pinned.then_some(self.pin);
        address
    }

    pub async fn tcp(&self) -> TcpStream {
        self.listener.accept().await.expect("a client").0
    }

    /// The next client, with TLS from the first byte.
    pub async fn tls(&self) -> TlsStream<TcpStream> {
        let tcp = self.tcp().await;
        self.tls.accept(tcp).await.expect("TLS")
    }
}

/// Reads until the client has said `mark`.
pub async fn hear(stream: &mut (impl AsyncRead + Unpin), mark: &str) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains(mark) {
        let read = stream.read(&mut buffer).await.expect("the client speaks");
        assert!(
            read > 0,
            "the client left before {mark}: {}",
            String::from_utf8_lossy(&heard)
        );
        heard.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(heard).expect("text")
}

/// Says something; whether the client still listens is its own affair.
pub async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.flush().await;
}
