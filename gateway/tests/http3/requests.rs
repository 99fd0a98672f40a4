//! What works.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use towline_gateway::{
    proto::demo::EchoRequest,
    settings::{Backend, BackendKind, Route, Settings},
};

use crate::bed::{Bed, Peer, USER, get, got, post};

#[tokio::test]
async fn requests_reach_a_backend_and_bodies_stream_both_ways() {
    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("edge").await;
    let hello = peer.get("/hello").await;
    assert_eq!((hello.status, &hello.body[..]), (200, &b"hello from the demo backend\n"[..]));
    let body = Bytes::from(vec![7; 300_000]);
    let echo = peer.ask(post("/echo"), body.clone()).await;
    assert_eq!((echo.status, echo.body == body), (200, true));
    let large = peer.get("/bytes/3000000").await;
    assert_eq!((large.status, large.body.len()), (200, 3_000_000));
    let headers = String::from_utf8(peer.get("/headers").await.body).unwrap();
    assert!(headers.contains("3.0 towline") && headers.contains("https"), "{headers}");
    assert_eq!(peer.get("/nothing").await.status, 404);
}

#[tokio::test]
async fn grpc_has_its_status_in_trailers() {
    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("edge").await;
    let message = EchoRequest { text: "by h3".into(), ..EchoRequest::default() }.encode_to_vec();
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let mut request = post("/towline.demo.v1.Echo/Unary");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = peer.ask(request, body).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.windows(5).any(|window| window == b"by h3"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn many_requests_share_a_connection_and_each_is_counted() {
    let bed = Bed::start(|_| {}).await;
    let peer = bed.connect("edge").await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mut requests = peer.requests.clone();
        asking.spawn(async move {
            let mut stream = requests.send_request(post("/echo")).await.unwrap();
            stream.send_data(Bytes::from(format!("{number}"))).await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(got(&mut stream).await.body, format!("{number}").as_bytes());
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    let metrics = &bed.gateway().metrics;
    assert_eq!(metrics.requests.with_label_values(&["all", "ok"]).get(), 200);
    assert_eq!(metrics.connections_open.with_label_values(&["edge", "http3"]).get(), 1);
}

#[tokio::test]
async fn a_listener_with_passwords_asks_for_them() {
    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("door").await;
    let refused = peer.get("/hello").await;
    assert_eq!(refused.status, 401);
    assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    let mut request = get("/hello");
    let credential = BASE64.encode(format!("{}:{}", USER.0, USER.1));
    request.headers_mut().insert("authorization", format!("Basic {credential}").parse().unwrap());
    assert_eq!(peer.ask(request, Bytes::new()).await.status, 200);
}

/// Head and body of a GET over TLS and HTTP/1.1.
async fn over_tls(bed: &Bed, listener: &str) -> String {
    let tcp = TcpStream::connect(bed.address(listener)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(bed.client_config(b"http/1.1")));
    let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn earlier_versions_are_told_where_http3_is() {
    let bed = Bed::start(|settings| settings.listeners[1].alt_svc_port = Some(0)).await;
    let answer = over_tls(&bed, "edge").await;
    assert!(answer.contains("\r\nalt-svc: h3=\":8443\"; ma=86400\r\n"), "{answer}");
    assert!(!over_tls(&bed, "door").await.contains("alt-svc"), "port 0 tells nothing");
    let over_http3 = bed.connect("edge").await.get("/hello").await;
    assert!(!over_http3.headers.contains_key("alt-svc"), "who is there need not be told");
}

/// Routes everything to a backend that the test plays.
async fn played_backend() -> (TcpListener, impl FnOnce(&mut Settings)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let change = move |settings: &mut Settings| {
        settings.backends = vec![Backend::new("played", BackendKind::Http1, address)];
        settings.routes = vec![Route::new("all", "played")];
    };
    (listener, change)
}

#[tokio::test]
async fn a_drain_says_goaway_answers_what_runs_and_rejects_what_comes() {
    let (backend, change) = played_backend().await;
    let bed = Bed::start(change).await;
    let mut peer = bed.connect("edge").await;
    let mut running = peer.open(get("/slow")).await;
    running.finish().await.unwrap();
    let (mut asked, _) = backend.accept().await.unwrap();
    let mut head = [0; 1024];
    assert!(asked.read(&mut head).await.unwrap() > 0);

    let play = async {
        while !bed.gateway().drain.is_draining() {
            tokio::task::yield_now().await;
        }
        let mut late = peer.open(get("/late")).await;
        let error = late.recv_response().await.unwrap_err().to_string();
        assert!(error.contains("H3_REQUEST_REJECTED"), "{error}");
        asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        got(&mut running).await
    };
    let (left, answer) = tokio::join!(bed.serving.drain(), play);
    assert_eq!((left, answer.status, &answer.body[..]), (0, 200, &b"done"[..]));
    let why = peer.driver.await.unwrap();
    assert!(why.is_h3_no_error(), "{why}");
}

#[tokio::test]
async fn a_client_that_loses_interest_frees_the_backend() {
    let (backend, change) = played_backend().await;
    let bed = Bed::start(change).await;
    let mut peer = bed.connect("edge").await;
    let mut running = peer.open(get("/slow")).await;
    running.finish().await.unwrap();
    let (mut asked, _) = backend.accept().await.unwrap();
    let mut head = [0; 1024];
    assert!(asked.read(&mut head).await.unwrap() > 0);
    running.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    let end = tokio::time::timeout(Duration::from_secs(60), asked.read(&mut head)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the backend's connection is closed: {end:?}");
}

#[tokio::test]
async fn a_backend_that_reads_nothing_stops_the_client() {
    let (backend, change) = played_backend().await;
    let bed = Bed::start(|settings| {
        change(settings);
        settings.limits.message_bytes_max = 1 << 30;
    });
    let bed = bed.await;
    let mut peer = bed.connect("edge").await;
    let mut stream = peer.open(post("/upload")).await;
    let (_unread, _) = backend.accept().await.unwrap();
    let mut sent = 0;
    let piece = Bytes::from(vec![0; 64 << 10]);
    while let Ok(result) = tokio::time::timeout(Duration::from_secs(2), stream.send_data(piece.clone())).await
    {
        result.unwrap();
        sent += piece.len();
        assert!(sent < 64 << 20, "somebody keeps all of it");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_backend_and_then_is_given_up() {
    let bed = Bed::start(|settings| settings.limits.write_timeout = Duration::from_millis(300)).await;
    let mut peer = bed.connect("edge").await;
    let mut stream = peer.open(get("/bytes/60000000")).await;
    stream.finish().await.unwrap();
    bed.hit("limits.write_timeout", 1).await;
    let _head = stream.recv_response().await;
    let broke_off = loop {
        match stream.recv_data().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broke_off);
    assert_eq!(peer.get("/hello").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn the_link_and_http3_share_a_port() {
    let bed = Bed::start(|_| {}).await;
    let ca = std::fs::read(&bed.certificates.ca).unwrap();
    let endpoint = bed.address("edge").to_string().parse().unwrap();
    let mut config = towline_client::ClientConfig::new(vec![endpoint], ca);
    config.transports = towline_client::Transports::Quic;
    let client = towline_client::Client::start(config).unwrap();
    let message = EchoRequest { text: "by link".into(), ..EchoRequest::default() }.encode_to_vec();
    let call = towline_client::CallRequest::grpc("/towline.demo.v1.Echo/Unary", message);
    assert!(client.call(call).await.unwrap().into_grpc().is_ok());
    assert_eq!(bed.connect("edge").await.get("/hello").await.status, 200);
}

#[tokio::test]
async fn a_request_in_early_data_is_answered_when_its_sender_has_shown_to_be_there() {
    let bed = Bed::start(|_| {}).await;
    let mut tls = bed.client_config(b"h3");
    tls.enable_early_data = true;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connect = || endpoint.connect_with(config.clone(), bed.address("edge"), "localhost").unwrap();
    let mut first = Peer::on(connect().await.unwrap(), endpoint.clone()).await;
    assert_eq!(first.get("/hello").await.status, 200);
    let (quic, accepted) = connect().into_0rtt().expect("a ticket that offers early data");
    let mut second = Peer::on(quic, endpoint.clone()).await;
    let body = Bytes::from(vec![7; 20_000]);
    let echo = second.ask(post("/echo"), body.clone()).await;
    assert_eq!((echo.status, echo.body == body), (200, true));
    assert!(accepted.await);
    let early = |outcome| bed.gateway().metrics.early_data.with_label_values(&["edge", outcome]).get();
    assert_eq!((early("accepted"), early("served")), (1, 0), "its route is not idempotent");
}

/// A short connection of the link; gateway/tests/link/posts.rs has what it can do.
#[tokio::test]
async fn a_post_of_the_link_visits_its_session() {
    use std::sync::Arc;

    use bytes::BytesMut;
    use towline_protocols::link::{Config, Connection, Event, Hello};

    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("edge").await;
    let now = tokio::time::Instant::now().into_std();
    let secret = vec![7; 16].into();
    let hello = Hello { client_id: "phone".into(), session_secret: secret, epoch: 1, ..Hello::default() };
    let mut machine = Connection::short_client(Arc::new(Config::default()), hello, now);
    let mut body = BytesMut::new();
    machine.poll_transmit(now, &mut body, usize::MAX);
    let mut request = post("/towline/1");
    request.headers_mut().insert("content-type", "application/towline".parse().unwrap());
    let answer = peer.ask(request, body.freeze()).await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (200, &"application/towline".parse().unwrap())
    );
    machine.handle_bytes(now, &mut BytesMut::from(&answer.body[..])).unwrap();
    let Some(Event::Welcome(welcome)) = machine.poll_event() else { panic!("WELCOME comes first") };
    assert!(!welcome.resumed && welcome.session_id != 0);
    assert_eq!(bed.gateway().sessions.len(), 1);
}
