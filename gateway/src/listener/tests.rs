//! Connections of every kind, over real sockets.

mod proxied;

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    cli::{DevelopmentCertificates, development_certificates},
    control::reload,
    gateway::Gateway,
    run::{self, Serving},
    settings::*,
    transport::tls,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

/// A gateway with its certificates; the listeners are called after what they demand.
struct Scene {
    serving: Serving,
    certificates: DevelopmentCertificates,
    _folder: TempDir,
}

impl Scene {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = development_certificates(folder.path()).unwrap();
        let mut settings = Settings::side_by_side();
        settings.data_dir = folder.path().into();
        for (name, tls) in
            [("required", TlsMode::Required), ("optional", TlsMode::Optional), ("off", TlsMode::Off)]
        {
            let mut listener = Listener::plain(name, SocketAddr::from(([127, 0, 0, 1], 0)));
            listener.tls = tls;
            if tls != TlsMode::Off {
                listener.quic = tls == TlsMode::Required;
                listener.certificates = vec![files(&certificates)];
            }
            settings.listeners.push(listener);
        }
        change(&mut settings);
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, certificates, _folder: folder }
    }

    fn gateway(&self) -> &Arc<Gateway> {
        &self.serving.gateway
    }

    fn address(&self, listener: &str) -> SocketAddr {
        self.serving.address(listener).unwrap()
    }

    async fn tcp(&self, listener: &str) -> TcpStream {
        TcpStream::connect(self.address(listener)).await.unwrap()
    }

    async fn tls(&self, listener: &str, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let config = client_config(&self.certificates.ca, alpn);
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.tcp(listener).await).await
    }

    /// Waits until `refused{listener, reason}` is `count`: it is counted after the peer's close.
    async fn refused(&self, listener: &str, reason: &str, count: u64) {
        let counter = self.gateway().metrics.connections_refused.with_label_values(&[listener, reason]);
        eventually(|| counter.get() == count).await;
    }
}

/// Lets the other tasks run until `condition` holds; gives up on a broken gateway.
async fn eventually(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), holds).await.expect("the condition never held");
}

fn files(certificates: &DevelopmentCertificates) -> CertificateFiles {
    CertificateFiles::pem(&certificates.chain, &certificates.key)
}

fn client_config(ca: &Path, alpn: &[&[u8]]) -> ClientConfig {
    let chain = tls::read_certificates(ca).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    config
}

/// Sends, and reads what comes until the close. A reset counts as a close: the peer had unread bytes.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// No route is configured: an answer at all shows that HTTP was served.
#[track_caller]
fn assert_served(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
}

#[tokio::test]
async fn one_port_speaks_plaintext_and_tls_with_and_without_alpn() {
    let scene = Scene::start(|_| {}).await;
    assert_served(&exchange(scene.tcp("optional").await, GET).await);
    let offers: [&[&[u8]]; 3] = [&[], &[b"http/1.1"], &[b"h2", b"http/1.1"]];
    // An HTTP/2 connection speaks when it is spoken to: held open until its handshake is counted.
    let mut held = Vec::new();
    for alpn in offers {
        for listener in ["optional", "required"] {
            let stream = scene.tls(listener, alpn).await.unwrap();
            let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(agreed.as_deref(), alpn.first().copied());
            if agreed.as_deref() == Some(b"h2") {
                held.push(stream);
            } else {
                assert_served(&exchange(stream, GET).await);
            }
        }
    }
    let handshakes = scene.gateway().metrics.handshakes.with_label_values(&["required", "ok"]);
    eventually(|| handshakes.get() == 3).await;
}

#[tokio::test]
async fn plaintext_is_refused_where_tls_is_required_and_http_is_told_why() {
    let scene = Scene::start(|_| {}).await;
    let answer = exchange(scene.tcp("required").await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer:?}");
    assert!(body.contains("https://"), "{answer:?}");
    let connect_packet = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id";
    assert_eq!(exchange(scene.tcp("required").await, connect_packet).await, "");
    scene.refused("required", "plaintext", 2).await;
}

#[tokio::test]
async fn tls_is_refused_where_it_is_off() {
    let scene = Scene::start(|_| {}).await;
    assert!(scene.tls("off", &[]).await.is_err());
    scene.refused("off", "tls", 1).await;
    assert_served(&exchange(scene.tcp("off").await, GET).await);
}

#[tokio::test]
async fn tlcp_is_refused_in_its_own_words_where_it_is_not_spoken() {
    let scene = Scene::start(|_| {}).await;
    let client_hello = b"\x16\x01\x01\x00\x05\x01\x00\x00\x01\x01";
    for listener in ["off", "optional", "required"] {
        let mut stream = scene.tcp(listener).await;
        stream.write_all(client_hello).await.unwrap();
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).await.unwrap();
        assert_eq!(alert, [21, 1, 1, 0, 2, 2, 70], "fatal, protocol_version");
        scene.refused(listener, "tlcp", 1).await;
    }
}

#[tokio::test]
async fn an_unknown_protocol_is_disconnected_and_counted() {
    let scene = Scene::start(|_| {}).await;
    assert_eq!(exchange(scene.tcp("off").await, b"\x00\x01\x02\x03").await, "");
    assert_eq!(exchange(scene.tcp("optional").await, b"SSH-2.0-x\r\n").await, "");
    let inside_tls = scene.tls("required", &[]).await.unwrap();
    assert_eq!(exchange(inside_tls, b"\x00\x01\x02\x03").await, "");
    for listener in ["off", "optional", "required"] {
        scene.refused(listener, "unknown_protocol", 1).await;
    }
}

#[tokio::test]
async fn a_protocol_that_the_listener_does_not_admit_is_disconnected() {
    let scene = Scene::start(|settings| {
        for listener in &mut settings.listeners {
            listener.protocols = vec![ListenerProtocol::Mqtt, ListenerProtocol::Link];
        }
    });
    let scene = scene.await;
    assert_eq!(exchange(scene.tcp("off").await, GET).await, "");
    scene.refused("off", "not_admitted", 1).await;
    let error = scene.tls("required", &[b"h2"]).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    scene.refused("required", "handshake", 1).await;
}

#[tokio::test]
async fn a_listeners_bound_on_connections_leaves_the_others_unharmed() {
    let scene = Scene::start(|settings| {
        settings.listeners.iter_mut().for_each(|listener| listener.connections_max = 2);
    });
    let scene = scene.await;
    let mut first = scene.tcp("off").await;
    let second = scene.tcp("off").await;
    let slots = || scene.gateway().slots.open();
    eventually(|| slots() == 2).await;
    assert_eq!(exchange(scene.tcp("off").await, GET).await, "", "the third is closed");
    scene.refused("off", "full", 1).await;
    assert!(
        scene.gateway().metrics.render().contains("limit_hits_total{limit=\"listeners.connections_max\"} 1")
    );
    assert_served(&exchange(scene.tcp("optional").await, GET).await);
    assert_served(&exchange(&mut first, GET).await);
    drop((first, second));
    eventually(|| slots() == 0).await;
    assert_served(&exchange(scene.tcp("off").await, GET).await);
}

#[tokio::test]
async fn the_bound_on_all_connections_holds_over_listeners() {
    let scene = Scene::start(|settings| settings.limits.connections_max = 1).await;
    let first = scene.tcp("off").await;
    eventually(|| scene.gateway().slots.open() == 1).await;
    assert_eq!(exchange(scene.tcp("optional").await, GET).await, "");
    scene.refused("optional", "full", 1).await;
    assert_served(&exchange(first, GET).await);
}

#[tokio::test]
async fn truncated_and_random_bytes_leave_every_listener_in_service() {
    let scene = Scene::start(|_| {}).await;
    let mut random = fastrand::Rng::with_seed(7);
    let starts: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xf4TWL",
        b"\x10\xff\xff\xff\x7f\x00\x04MQTT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
    ];
    for listener in ["required", "optional", "off"] {
        for round in 0..60 {
            let mut bytes = starts[round % starts.len()].to_vec();
            bytes.extend((0..random.usize(..600)).map(|_| random.u8(..)));
            let mut stream = scene.tcp(listener).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..60 {
            let datagram: Vec<u8> = (0..random.usize(1..1400)).map(|_| random.u8(..)).collect();
            let _ = udp.send_to(&datagram, scene.address(listener)).await;
        }
    }
    assert_served(&exchange(scene.tls("required", &[]).await.unwrap(), GET).await);
    assert_served(&exchange(scene.tcp("optional").await, GET).await);
    assert_served(&exchange(scene.tcp("off").await, GET).await);
    eventually(|| scene.gateway().slots.open() == 0).await;
}

#[tokio::test]
async fn quic_shares_the_port_number_and_speaks_what_the_listener_admits() {
    let scene = Scene::start(|_| {}).await;
    let connect = async |alpn: &[u8]| {
        let config = client_config(&scene.certificates.ca, &[alpn]);
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        endpoint.connect_with(config, scene.address("required"), "localhost").unwrap().await
    };
    assert!(connect(tls::ALPN_LINK).await.is_ok());
    assert!(connect(tls::ALPN_HTTP2).await.is_err());
    let outcomes =
        |outcome| scene.gateway().metrics.handshakes.with_label_values(&["required", outcome]).get();
    eventually(|| (outcomes("ok"), outcomes("failed")) == (1, 1)).await;
}

#[tokio::test]
async fn a_reload_changes_certificates_and_a_bad_one_changes_nothing() {
    let scene = Scene::start(|_| {}).await;
    let settings = || scene.gateway().snapshot().settings.clone();
    let other_folder = tempfile::tempdir().unwrap();
    let other = development_certificates(other_folder.path()).unwrap();

    let mut broken = settings();
    broken.listeners[0].certificates = vec![CertificateFiles::pem("gone", "gone")];
    let error = reload::apply(scene.gateway(), broken).unwrap_err();
    assert!(error.to_string().starts_with("gone: "), "{error}");
    assert_served(&exchange(scene.tls("required", &[]).await.unwrap(), GET).await);

    let mut mismatched = settings();
    mismatched.listeners[0].certificates = vec![CertificateFiles::pem(&other.chain, &scene.certificates.key)];
    let error = reload::apply(scene.gateway(), mismatched).unwrap_err();
    assert!(error.to_string().contains("is not the key of the first certificate"), "{error}");

    let mut renewed = settings();
    renewed.listeners[0].certificates = vec![files(&other)];
    renewed.listeners[2].connections_max = 0;
    reload::apply(scene.gateway(), renewed).unwrap();
    assert!(scene.tls("required", &[]).await.is_err(), "the old CA did not sign the new certificate");
    assert!(scene.tls("optional", &[]).await.is_ok(), "the other listener kept its own");
    assert_eq!(exchange(scene.tcp("off").await, GET).await, "", "the new bound holds");
}

#[tokio::test]
async fn a_reload_keeps_addresses_until_a_restart() {
    let scene = Scene::start(|_| {}).await;
    let mut moved = scene.gateway().snapshot().settings.clone();
    moved.listeners.pop();
    moved.listeners[0].connections_max = 0;
    // The hub keeps the depth of its tree, and is not shown as if it had changed.
    moved.mqtt.topic_levels_max += 1;
    moved.limits.message_bytes_max += 1;
    let before = scene.gateway().snapshot().settings.clone();
    reload::apply(scene.gateway(), moved).unwrap();
    let after = scene.gateway().snapshot().settings.clone();
    assert_eq!(after.listeners.len(), 3);
    assert_eq!(after.mqtt.topic_levels_max, before.mqtt.topic_levels_max);
    assert_eq!(after.limits.message_bytes_max, before.limits.message_bytes_max + 1, "others change at once");
    assert_served(&exchange(scene.tcp("off").await, GET).await);
}

/// A backend that answers when it is told to.
async fn slow_backend() -> (SocketAddr, tokio::sync::oneshot::Receiver<()>, tokio::sync::oneshot::Sender<()>)
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, when_asked) = tokio::sync::oneshot::channel();
    let (answer, when_told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await;
        asked.send(()).unwrap();
        if when_told.await.is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        }
    });
    (address, when_asked, answer)
}

fn route_to(settings: &mut Settings, backend: SocketAddr) {
    settings.backends.push(Backend::new("slow", BackendKind::Http1, backend.to_string()));
    settings.routes.push(Route::new("all", "slow"));
}

#[tokio::test]
async fn a_drain_lets_running_requests_finish_and_takes_no_new_ones() {
    let (backend, when_asked, answer) = slow_backend().await;
    let scene = Scene::start(|settings| route_to(settings, backend)).await;
    let running = tokio::spawn(exchange(scene.tcp("off").await, GET));
    let detecting = scene.tcp("off").await;
    when_asked.await.unwrap();

    let finish = async {
        assert_eq!(exchange(detecting, b"").await, "", "a connection without a request is closed");
        while TcpStream::connect(scene.address("off")).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let ready = exchange(TcpStream::connect(scene.serving.admin).await.unwrap(), READY).await;
        assert!(ready.starts_with("HTTP/1.1 503"), "load balancers are told: {ready:?}");
        answer.send(()).unwrap();
    };
    let (left, ()) = tokio::join!(scene.serving.drain(), finish);
    assert_eq!(left, 0);
    let answered = running.await.unwrap();
    assert!(answered.starts_with("HTTP/1.1 200") && answered.ends_with("done"), "{answered:?}");
}

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_drain_ends_at_its_bound_with_a_request_still_running() {
    let (backend, when_asked, _never) = slow_backend().await;
    let scene = Scene::start(|settings| {
        route_to(settings, backend);
        settings.drain_timeout = std::time::Duration::ZERO;
    });
    let scene = scene.await;
    let running = tokio::spawn(exchange(scene.tcp("off").await, GET));
    when_asked.await.unwrap();
    scene.serving.drain().await;
    assert!(!running.await.unwrap().contains("200"), "the connection was cut");
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = Settings::side_by_side();
    settings.listeners.push(Listener::plain("front", taken.local_addr().unwrap()));
    let error = run::serve(Gateway::build(settings).unwrap()).await.err().unwrap().to_string();
    let address = taken.local_addr().unwrap();
    assert!(error.starts_with(&format!("listener \"front\": cannot bind TCP {address}: ")), "{error}");
    assert!(error.contains("choose another port"), "{error}");
}
