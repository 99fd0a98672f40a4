//! A gateway with the demo backend behind it, and a client of HTTP/3 that is not its own: h3 on h3-quinn.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use http::{HeaderMap, Request};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use towline_gateway::{
    auth,
    cli::DevelopmentCertificates,
    demo::{self, Demo},
    gateway::Gateway,
    run::{self, Serving},
    settings::{
        Authentication, Backend, BackendKind, CertificateFiles, Listener, ListenerProtocol, Route, Settings,
        TlsMode,
    },
    transport::tls,
};

/// The user that the listener `door` admits.
pub const USER: (&str, &str) = ("ada", "correct horse");

pub struct Bed {
    pub serving: Serving,
    _demo: Demo,
    pub certificates: DevelopmentCertificates,
    _folder: TempDir,
}

pub type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// One connection of a client.
pub struct Peer {
    pub requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    /// Ends with the connection; says why.
    pub driver: tokio::task::JoinHandle<h3::error::ConnectionError>,
    _endpoint: quinn::Endpoint,
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Bed {
    pub async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = towline_gateway::cli::development_certificates(folder.path()).unwrap();
        let demo = demo::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let files = CertificateFiles::pem(&certificates.chain, &certificates.key);
        let edge = Listener {
            quic: true,
            protocols: vec![ListenerProtocol::Link, ListenerProtocol::Http],
            tls: TlsMode::Required,
            certificates: vec![files],
            alt_svc_port: Some(8443),
            ..Listener::plain("edge", ([127, 0, 0, 1], 0).into())
        };
        let door = Listener { name: "door".into(), authentication: Authentication::Password, ..edge.clone() };
        let users = folder.path().join("users");
        std::fs::write(&users, auth::password_line(USER.0, USER.1.as_bytes()).unwrap()).unwrap();
        let address = demo.address.to_string();
        let mut settings = Settings {
            listeners: vec![edge, door],
            backends: vec![
                Backend::new("grpc", BackendKind::Grpc, &address),
                Backend::new("h1", BackendKind::Http1, &address),
            ],
            routes: vec![
                Route { path: Some("/towline.demo.v1.*".into()), ..Route::new("grpc", "grpc") },
                Route::new("all", "h1"),
            ],
            ..Settings::side_by_side()
        };
        settings.auth.password_file = Some(users);
        change(&mut settings);
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, _demo: demo, certificates, _folder: folder }
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.serving.gateway
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.serving.address(listener).unwrap()
    }

    pub fn client_config(&self, alpn: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(tls::read_certificates(&self.certificates.ca).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    /// A QUIC connection on which nothing was said yet.
    pub async fn quic(&self, listener: &str, alpn: &[u8]) -> (quinn::Endpoint, quinn::Connection) {
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(self.client_config(alpn)).unwrap();
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connecting = endpoint.connect_with(config, self.address(listener), "localhost").unwrap();
        let connection = connecting.await.unwrap();
        (endpoint, connection)
    }

    pub async fn connect(&self, listener: &str) -> Peer {
        let (endpoint, quic) = self.quic(listener, b"h3").await;
        Peer::on(quic, endpoint).await
    }

    /// How often the bound was met.
    pub fn hits(&self, limit: &str) -> u64 {
        self.gateway().metrics.limit_hits.with_label_values(&[limit]).get()
    }

    /// Waits until the bound was met so often: it is counted after the peer is told.
    pub async fn hit(&self, limit: &str, count: u64) {
        while self.hits(limit) < count {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.hits(limit), count, "{limit}");
    }
}

impl Peer {
    /// A client on a connection.
    pub async fn on(quic: quinn::Connection, endpoint: quinn::Endpoint) -> Self {
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(quic)).await.unwrap();
        let driver = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Self { requests, driver, _endpoint: endpoint }
    }

    /// Sends a head; the body follows on the stream.
    pub async fn open(&mut self, request: Request<()>) -> Stream {
        self.requests.send_request(request).await.unwrap()
    }

    /// One whole request and its answer.
    pub async fn ask(&mut self, request: Request<()>, body: impl Into<Bytes>) -> Got {
        let mut stream = self.open(request).await;
        let body = body.into();
        if !body.is_empty() {
            stream.send_data(body).await.unwrap();
        }
        stream.finish().await.unwrap();
        got(&mut stream).await
    }

    pub async fn get(&mut self, path: &str) -> Got {
        self.ask(get(path), Bytes::new()).await
    }
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("https://localhost{path}")).body(()).unwrap()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("https://localhost{path}")).body(()).unwrap()
}

/// The whole answer.
pub async fn got(stream: &mut Stream) -> Got {
    let (head, ()) = stream.recv_response().await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.recv_data().await.unwrap() {
        body.extend_from_slice(data.chunk());
    }
    let trailers = stream.recv_trailers().await.unwrap();
    Got { status: head.status.as_u16(), headers: head.headers, body, trailers }
}
