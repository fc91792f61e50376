//! The real server over loopback sockets, with hand-made clients.

mod people;
mod rooms;
mod strangers;
mod turn;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::link::{Ended, Link};
use super::xml::{Element, Incoming, NS_CLIENT, NS_STREAM};
use super::{Running, Server, ServerConfig, ServerError, limits, store};
use crate::sasl::{self, Hash, Mechanism};

const DOMAIN: &str = "family.test";
const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = data_encoding::HEXLOWER.encode(&store::random::<8>().unwrap());
        Scratch(std::env::temp_dir().join(format!("ipop-server-test-{name}")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server.
struct House {
    running: Running,
    scratch: Scratch,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl House {
    async fn open() -> Self {
        Self::open_with(Scratch::new(), |_| {}).await
    }

    async fn open_with(scratch: Scratch, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig::new(DOMAIN, vec![any], scratch.0.clone());
        change(&mut config);
        let server = Server::bind(config).await.unwrap();
        let running = server.running().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        House {
            running,
            scratch,
            stop: Some(stop),
            task,
        }
    }

    async fn close(mut self) -> Scratch {
        drop(self.stop.take());
        self.task.await.unwrap().unwrap();
        self.scratch
    }

    fn tls(&self) -> TlsConnector {
        let pem = std::fs::read(self.scratch.0.join("server.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.running.tcp[0]).await.unwrap()
    }

    async fn tls_stream(&self) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(DOMAIN).unwrap();
        self.tls().connect(name, self.tcp().await).await.unwrap()
    }

    /// Direct TLS, header exchanged.
    async fn stranger(&self) -> Guest {
        let stream = self.tls_stream().await;
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0u8; 32], sasl::BINDING_LABEL, Some(b""));
        let link = Link::new(Box::new(stream), Vec::new(), limits::STANZA_BYTES_MAX);
        let mut guest = Guest {
            link,
            exporter: exporter.unwrap(),
            waiting: VecDeque::new(),
        };
        guest.open().await;
        guest
    }

    /// Registers, logs in, binds.
    async fn member(&self, name: &str) -> Guest {
        let mut guest = self.stranger().await;
        guest
            .register(&self.running.token, name, "a long enough password")
            .await
            .unwrap();
        guest.log_in(name, "a long enough password", true).await.unwrap();
        guest.bind("dev").await;
        guest
    }
}

/// A client.
struct Guest {
    link: Link,
    exporter: [u8; 32],
    waiting: VecDeque<Element>,
}

impl Guest {
    /// Sends the header, reads header and features; gives the features.
    async fn open(&mut self) -> Element {
        self.link.restart(limits::STANZA_BYTES_MAX);
        self.write(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAM}' to='{DOMAIN}' version='1.0'>"
        ))
        .await;
        assert!(matches!(self.link.next().await, Ok(Incoming::Open(_))));
        self.next().await
    }

    async fn write(&mut self, text: &str) {
        self.link.write(text).await.unwrap();
    }

    async fn try_next(&mut self) -> Result<Element, Ended> {
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, self.link.next_stanza())
            .await
            .expect("the server says nothing")
    }

    async fn next(&mut self) -> Element {
        match self.waiting.pop_front() {
            Some(element) => element,
            None => self.try_next().await.unwrap(),
        }
    }

    /// The next element that fits; others wait.
    async fn find(&mut self, fits: impl Fn(&Element) -> bool) -> Element {
        if let Some(index) = self.waiting.iter().position(&fits) {
            return self.waiting.remove(index).unwrap();
        }
        loop {
            let element = self.try_next().await.unwrap();
            if fits(&element) {
                return element;
            }
            self.waiting.push_back(element);
        }
    }

    /// Sends an IQ and gives its answer.
    async fn ask(&mut self, to: &str, kind: &str, payload: &str) -> Element {
        let id = data_encoding::HEXLOWER.encode(&store::random::<8>().unwrap());
        let to = if to.is_empty() {
            String::new()
        } else {
            format!(" to='{to}'")
        };
        self.write(&format!("<iq type='{kind}' id='{id}'{to}>{payload}</iq>"))
            .await;
        self.find(|e| e.name() == "iq" && e.attr("id") == Some(&id)).await
    }

    async fn register(&mut self, token: &str, name: &str, password: &str) -> Result<(), Element> {
        let answer = self
            .ask(
                "",
                "set",
                &format!("<preauth xmlns='urn:xmpp:pars:0' token='{token}'/>"),
            )
            .await;
        fine(answer)?;
        self.register_bare(name, password).await
    }

    async fn register_bare(&mut self, name: &str, password: &str) -> Result<(), Element> {
        let query = format!(
            "<query xmlns='jabber:iq:register'><username>{name}</username><password>{password}</password></query>"
        );
        fine(self.ask("", "set", &query).await)
    }

    async fn log_in(&mut self, name: &str, password: &str, plus: bool) -> Result<(), Element> {
        let mechanism = Mechanism::new(Hash::Sha256, plus);
        let binding = plus.then_some(&self.exporter[..]);
        let nonce = sasl::fresh_nonce().unwrap();
        let client = sasl::Client::new(name, password, mechanism, binding, nonce).unwrap();
        let first = BASE64.encode(client.first().as_bytes());
        self.write(&format!(
            "<auth xmlns='{NS_SASL}' mechanism='{mechanism}'>{first}</auth>"
        ))
        .await;
        let challenge = self.next().await;
        if challenge.name() != "challenge" {
            return Err(challenge);
        }
        let (answer, verify) = client.answer(&text_of(&challenge)).unwrap();
        self.write(&format!(
            "<response xmlns='{NS_SASL}'>{}</response>",
            BASE64.encode(answer.as_bytes())
        ))
        .await;
        let success = self.next().await;
        if success.name() != "success" {
            return Err(success);
        }
        verify.check(&text_of(&success)).unwrap();
        self.open().await;
        Ok(())
    }

    async fn bind(&mut self, resource: &str) -> String {
        let answer = self
            .ask(
                "",
                "set",
                &format!("<bind xmlns='{NS_BIND}'><resource>{resource}</resource></bind>"),
            )
            .await;
        answer
            .find("bind", NS_BIND)
            .and_then(|b| b.find("jid", NS_BIND))
            .unwrap()
            .text()
    }

    /// Reads until the server has answered everything sent before.
    async fn settle(&mut self) {
        let answer = self.ask(DOMAIN, "get", "<ping xmlns='urn:xmpp:ping'/>").await;
        assert_eq!(answer.attr("type"), Some("result"));
    }

    /// The stream error's condition that ends the stream.
    async fn dismissed(&mut self) -> String {
        let error = self.find(|e| e.is("error", NS_STREAM)).await;
        let condition = error.elements().next().unwrap().name().to_owned();
        assert!(matches!(self.try_next().await, Err(Ended::ByPeer)));
        condition
    }
}

fn text_of(element: &Element) -> String {
    String::from_utf8(BASE64.decode(element.text().as_bytes()).unwrap()).unwrap()
}

fn fine(answer: Element) -> Result<(), Element> {
    if answer.attr("type") == Some("result") {
        Ok(())
    } else {
        Err(answer)
    }
}

/// The defined condition of an error stanza or SASL failure.
fn condition(element: &Element) -> String {
    let inner = element.find("error", NS_CLIENT).unwrap_or(element);
    inner.elements().next().map(|e| e.name().to_owned()).unwrap_or_default()
}
