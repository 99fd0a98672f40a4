//! HTTP/1.1, HTTP/2 and gRPC clients reach backends through the gateway.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bed;

use std::{sync::Arc, time::Duration};

use bed::{AnyBody, Bed, backend, fed, got, listener, origin, route, settings, whole};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Version, header::HOST};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};
use towline_gateway::{
    control::reload,
    demo::{self, Demo},
    gateway::Gateway,
    http as front,
    proto::demo::{
        CreateOrderRequest, EchoRequest, GetOrderRequest, Reading, echo_client::EchoClient,
        orders_client::OrdersClient, telemetry_client::TelemetryClient,
    },
    settings::{Authentication, BackendKind, Limits, Listener, Route, Settings},
};

/// The demo backend behind gRPC, HTTP/2 and HTTP/1.1 routes.
async fn demo_settings() -> (Demo, Settings) {
    let demo = demo::start(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let backends = vec![
        backend("grpc", BackendKind::Grpc, demo.address),
        backend("h1", BackendKind::Http1, demo.address),
        backend("h2", BackendKind::Http2, demo.address),
    ];
    let over_h2 = Route { host: Some("*.h2.example".to_owned()), ..route("/*", "h2") };
    let routes = vec![route("/towline.demo.v1.*", "grpc"), over_h2, route("/*", "h1")];
    (demo, settings(backends, routes))
}

/// A gRPC client over one HTTP/2 connection to the gateway.
macro_rules! grpc {
    ($client:ident, $bed:expr) => {{
        let sender = $bed.http2::<tonic::body::Body>().await;
        let service = tower::service_fn(move |mut request: Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            *request.version_mut() = Version::HTTP_2;
            async move { sender.send_request(request).await }
        });
        let origin = "http://shop.example".parse().expect("a URI");
        $client::with_origin(service, origin)
    }};
}

fn text(text: &str) -> EchoRequest {
    EchoRequest { text: text.to_owned(), ..EchoRequest::default() }
}

#[tokio::test]
async fn a_path_that_a_backend_could_read_as_another_is_refused() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    for path in ["/bytes/../hello", "/%2e%2E/hello"] {
        let request = Request::get(path).header("host", "shop.example").body(Full::default());
        let answer = bed.request(request.expect("a request")).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn plain_http_goes_to_both_kinds_of_backend() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    for host in ["shop.example", "api.h2.example"] {
        let with_host = |request: http::request::Builder| request.header("host", host);
        let hello = with_host(Request::get("/hello")).body(Full::default()).expect("a request");
        let hello = bed.request(hello).await;
        assert_eq!((hello.status, hello.text()), (200, "hello from the demo backend\n"), "{host}");
        let body = Bytes::from(vec![7; 300_000]);
        let echo = with_host(Request::post("/echo")).body(Full::new(body.clone()));
        let echo = bed.request(echo.expect("a request")).await;
        assert_eq!((echo.status, echo.body == body), (200, true), "{host}");
        let missing = with_host(Request::get("/orders/7")).body(Full::default());
        assert_eq!(bed.request(missing.expect("a request")).await.status, 404, "the backend's own");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut sender = bed.http1().await;
    for count in [0, 1, 100_000] {
        sender.ready().await.expect("still open");
        let request = Request::get(format!("/bytes/{count}")).header("host", "shop.example");
        let request = request.body(Full::default()).expect("a request");
        let bytes = got(sender.send_request(request).await.expect("an answer")).await;
        assert_eq!((bytes.status, bytes.body.len()), (200, count));
    }
}

#[tokio::test]
async fn a_backend_learns_who_calls_and_nothing_forged() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let request = Request::get("/headers")
        .header("host", "shop.example")
        .header("x-towline-user", "root")
        .header("x-forwarded-for", "10.9.9.9")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-kept", "yes");
    let seen = bed.request(request.body(Full::default()).expect("a request")).await;
    let seen = seen.text();
    assert!(seen.contains("host: shop.example\n"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: http\n") && seen.contains("x-kept: yes\n"), "{seen}");
    assert!(!seen.contains("root") && !seen.contains("10.9.9.9") && !seen.contains("x-hop"), "{seen}");
}

#[tokio::test]
async fn a_grpc_client_calls_in_every_shape() {
    let (demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    let reply = echo.unary(text("hi")).await.expect("an answer").into_inner();
    assert_eq!(reply.text, "hi");
    let three = EchoRequest { repeat: 3, ..text("again") };
    let replies = echo.server_stream(three).await.expect("a stream").into_inner();
    let indexes: Vec<u64> = replies.map(|reply| reply.expect("a reply").index).collect().await;
    assert_eq!(indexes, [0, 1, 2]);
    let mut telemetry = grpc!(TelemetryClient, bed);
    let readings = stream::iter((0..500).map(|_| Reading::default()));
    let summary = telemetry.ingest(readings).await.expect("a summary").into_inner();
    assert_eq!(summary.readings, 500);
    let mut orders = grpc!(OrdersClient, bed);
    let order = CreateOrderRequest { order_id: "7".to_owned(), ..CreateOrderRequest::default() };
    orders.create_order(order).await.expect("placed");
    let found = orders.get_order(GetOrderRequest { order_id: "7".to_owned() }).await;
    assert_eq!(found.expect("found").into_inner().executions, 1);
    assert_eq!(demo.orders.get("7").expect("kept").executions, 1);
}

#[tokio::test]
async fn both_directions_of_a_call_stream_at_the_same_time() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    // Each request is sent only after the reply to the one before has come.
    let (say, said) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
    say.send(text("0")).await.expect("open");
    let mut replies = echo.bidi_echo(requests).await.expect("a stream").into_inner();
    for turn in 1..=20 {
        let reply = replies.message().await.expect("a reply").expect("not over");
        assert_eq!(reply.text, (turn - 1).to_string());
        say.send(text(&turn.to_string())).await.expect("open");
    }
    drop(say);
    assert_eq!(replies.message().await.expect("a reply").expect("the last").text, "20");
    assert!(replies.message().await.expect("status OK").is_none());
    let trailers = replies.trailers().await.expect("trailers");
    assert!(trailers.is_some());
}

#[tokio::test]
async fn a_backends_own_status_comes_through() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    let failing = EchoRequest { fail_with_code: 10, ..text("try later: \u{e9}") };
    let status = echo.unary(failing).await.expect_err("asked to fail");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "try later: \u{e9}"));
    let mut orders = grpc!(OrdersClient, bed);
    let status = orders.get_order(GetOrderRequest { order_id: "?".to_owned() }).await;
    assert_eq!(status.expect_err("none").code(), Code::NotFound);
}

#[tokio::test]
async fn a_grpc_deadline_is_kept_and_told_to_the_backend() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    let mut slow = tonic::Request::new(EchoRequest { delay_ms: 20_000, ..text("late") });
    slow.metadata_mut().insert("grpc-timeout", "50m".parse().expect("a value"));
    let status: Status = echo.unary(slow).await.expect_err("too late");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    // A stream that has begun is bounded too.
    let mut slow = tonic::Request::new(EchoRequest { delay_ms: 50, repeat: 1000, ..text("x") });
    slow.metadata_mut().insert("grpc-timeout", "300m".parse().expect("a value"));
    let mut replies = echo.server_stream(slow).await.expect("begins").into_inner();
    let status = loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("50 s of replies within 300 ms"),
            Err(status) => break status,
        }
    };
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert_eq!(echo.unary(text("next")).await.expect("unharmed").into_inner().text, "next");
}

#[tokio::test]
async fn what_no_route_matches_is_told_in_the_callers_language() {
    let (_demo, mut settings) = demo_settings().await;
    settings.routes.truncate(1);
    let bed = Bed::start(settings).await;
    let problem = bed.get("/nowhere").await;
    assert_eq!((problem.status, problem.header("content-type")), (404, "application/problem+json"));
    assert!(problem.text().contains("\"kind\":\"no_route\""), "{}", problem.text());
    assert!(problem.text().contains("\"execution\":\"not-run\""), "{}", problem.text());
    let mut sender = bed.http2::<Full<Bytes>>().await;
    let request = Request::post("http://x/not.a.Service/Call").header("content-type", "application/grpc");
    let request = request.body(Full::default()).expect("a request");
    let refused = got(sender.send_request(request).await.expect("an answer")).await;
    assert_eq!((refused.status, refused.header("grpc-status")), (200, "12"));
    assert_eq!(refused.header("towline-execution"), "not-run");
}

#[tokio::test]
async fn a_route_for_encrypted_transports_refuses_others() {
    let (_demo, mut settings) = demo_settings().await;
    settings.routes = vec![Route { encrypted_only: true, ..route("/*", "h1") }];
    let bed = Bed::start(settings).await;
    let got = bed.get("/hello").await;
    assert_eq!(got.status, 426);
    assert!(got.text().contains("encryption_required"), "{}", got.text());
}

#[tokio::test]
async fn basic_credentials_are_demanded_checked_and_consumed() {
    let (_demo, mut settings) = demo_settings().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    let line = towline_gateway::auth::password_line("ann", b"s3cret").expect("a line");
    std::fs::write(&file, line).expect("written");
    settings.auth.password_file = Some(file);
    settings.listeners = vec![Listener { authentication: Authentication::Password, ..listener() }];
    let bed = Bed::start(settings).await;
    let refused = bed.get("/headers").await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").starts_with("Basic "));
    let with = |credential: &str| {
        let request = Request::get("/headers").header("authorization", credential);
        request.body(Full::default()).expect("a request")
    };
    assert_eq!(bed.request(with("Basic YW5uOndyb25n")).await.status, 401);
    let admitted = bed.request(with("Basic YW5uOnMzY3JldA==")).await;
    assert_eq!(admitted.status, 200);
    assert!(admitted.text().contains("x-towline-user: ann\n"), "{}", admitted.text());
    assert!(!admitted.text().contains("authorization"), "{}", admitted.text());
}

#[tokio::test]
async fn a_password_that_a_reload_took_away_is_refused_on_an_open_connection() {
    let (_demo, mut settings) = demo_settings().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    let line = |password: &[u8]| towline_gateway::auth::password_line("ann", password).expect("a line");
    std::fs::write(&file, line(b"s3cret")).expect("written");
    settings.auth.password_file = Some(file.clone());
    settings.listeners = vec![Listener { authentication: Authentication::Password, ..listener() }];
    let bed = Bed::start(settings.clone()).await;
    let mut sender = bed.http1().await;
    let request = || {
        let request =
            Request::get("/hello").header("host", "a").header("authorization", "Basic YW5uOnMzY3JldA==");
        request.body(Full::default()).expect("a request")
    };
    for (password, status) in [(b"s3cret", 200), (b"0ther.", 401)] {
        std::fs::write(&file, line(password)).expect("written");
        reload::apply(&bed.gateway, settings.clone()).expect("in order");
        sender.ready().await.expect("open");
        assert_eq!(got(sender.send_request(request()).await.expect("an answer")).await.status, status);
    }
}

#[tokio::test]
async fn a_request_names_one_host_and_nobody_within() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    for (head, status) in [
        ("GET /hello HTTP/1.1\r\nhost: a\r\n", "200"),
        ("GET /hello HTTP/1.0\r\n", "200"),
        ("GET /hello HTTP/1.1\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: a@b\r\n", "400"),
        ("GET http://a@b/hello HTTP/1.1\r\nhost: b\r\n", "400"),
    ] {
        let mut socket = tokio::net::TcpStream::connect(bed.address).await.expect("listens");
        let request = format!("{head}connection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("closed");
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head}");
    }
    let mut sender = bed.http2::<Full<Bytes>>().await;
    for (hosts, status) in [(&["a"][..], 200), (&["a", "b"], 400)] {
        let mut request = Request::get("http://a/hello").body(Full::default()).expect("a request");
        request.headers_mut().extend(hosts.iter().map(|host| (HOST, HeaderValue::from_static(host))));
        let answer = got(sender.send_request(request).await.expect("an answer")).await;
        assert_eq!(answer.status, status, "{hosts:?}");
    }
}

#[tokio::test]
async fn a_body_over_its_bound_is_refused_and_neighbours_go_on() {
    let (_demo, mut settings) = demo_settings().await;
    settings.limits = Limits { message_bytes_max: 10_000, ..Limits::default() };
    let bed = Bed::start(settings).await;
    assert_eq!(bed.post("/echo", vec![0; 10_000]).await.status, 200);
    let declared = bed.post("/echo", vec![0; 10_001]).await;
    assert_eq!((declared.status, declared.header("towline-execution")), (413, "not-run"));
    // Without a declared length, beside a neighbour on the same connection.
    let mut sender = bed.http2::<AnyBody>().await;
    let (feed, body) = fed();
    let request = Request::post("http://api.h2.example/echo").body(body).expect("a request");
    let answer = sender.send_request(request).await.expect("a head");
    let mut taken = 0;
    while feed.send(Bytes::from_static(&[0; 1000])).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "an upload without an end");
    }
    assert!(answer.into_body().collect().await.is_err(), "the echo is cut, not ended");
    let neighbour = Request::get("http://api.h2.example/hello").body(whole(""));
    let answer = sender.send_request(neighbour.expect("a request")).await.expect("unharmed");
    assert_eq!(got(answer).await.status, 200);
}

#[tokio::test]
async fn a_grpc_message_over_its_bound_ends_its_call_only() {
    let (_demo, mut settings) = demo_settings().await;
    settings.limits = Limits { message_bytes_max: 10_000, ..Limits::default() };
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    let large = EchoRequest { payload: vec![0; 20_000].into(), ..text("") };
    let status = echo.unary(large).await.expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    // A stream of messages within the bound has none.
    let many = stream::iter((0..100).map(|_| EchoRequest { payload: vec![0; 5_000].into(), ..text("") }));
    let replies = echo.bidi_echo(many).await.expect("a stream").into_inner();
    assert_eq!(replies.filter(|reply| std::future::ready(reply.is_ok())).count().await, 100);
}

#[tokio::test]
async fn a_head_over_its_bound_is_refused() {
    let (_demo, mut settings) = demo_settings().await;
    settings.limits = Limits { header_list_bytes_max: 16_384, ..Limits::default() };
    let bed = Bed::start(settings).await;
    let request = Request::get("/hello").header("host", "a").header("x-big", "b".repeat(40_000));
    let mut sender = bed.http1().await;
    let answer = sender.send_request(request.body(Full::default()).expect("a request")).await;
    assert_eq!(answer.expect("an answer").status(), 431);
    let mut sender = bed.http2::<Full<Bytes>>().await;
    let request = Request::get("http://a/hello").header("x-big", "b".repeat(40_000));
    let answer = sender.send_request(request.body(Full::default()).expect("a request")).await;
    assert!(answer.map_or(true, |answer| answer.status() == 431));
    assert_eq!(bed.get("/hello").await.status, 200);
}

#[tokio::test]
async fn a_drain_lets_what_runs_finish() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    let mut echo = grpc!(EchoClient, bed);
    let (say, said) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
    say.send(text("before")).await.expect("open");
    let mut replies = echo.bidi_echo(requests).await.expect("a stream").into_inner();
    replies.message().await.expect("a reply").expect("one");
    bed.gateway.drain.begin(tokio::time::Instant::now() + Duration::from_secs(60));
    say.send(text("after")).await.expect("open");
    assert_eq!(replies.message().await.expect("a reply").expect("one").text, "after");
    drop(say);
    assert!(replies.message().await.expect("status OK").is_none());
}

/// The bytes that a silent or stuck peer gets until it is closed, and how long that took.
async fn fate(limits: Limits, say: &[u8], read: bool) -> (usize, Duration) {
    let settings = Settings { limits, ..demo_settings().await.1 };
    let gateway = Gateway::build(settings).expect("settings in order");
    let (mut client, server) = tokio::io::duplex(1024);
    let began = tokio::time::Instant::now();
    let serving = tokio::spawn(front::serve(gateway, Arc::new(origin()), server));
    client.write_all(say).await.expect("taken");
    let mut bytes = Vec::new();
    if read {
        client.read_to_end(&mut bytes).await.expect("closed");
    }
    serving.await.expect("no panic");
    (bytes.len(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn silent_and_stuck_peers_run_into_named_limits() {
    let limits = Limits {
        first_message_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(20),
        ..Limits::default()
    };
    let (_, silent) = fate(limits.clone(), b"", true).await;
    assert_eq!(silent, Duration::from_secs(3));
    let (_, half_a_head) = fate(limits.clone(), b"GET / HT", true).await;
    assert_eq!(half_a_head, Duration::from_secs(3));
    let unmatched = b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n";
    let (answered, idle) = fate(limits.clone(), unmatched, true).await;
    assert!(answered > 0 && idle == Duration::from_secs(60), "{answered} bytes, {idle:?}");
    let pipelined = unmatched.repeat(20);
    let (_, stuck) = fate(limits, &pipelined, false).await;
    assert_eq!(stuck, Duration::from_secs(20));
}

#[tokio::test]
async fn an_upload_and_its_echo_stream_through() {
    let (_demo, settings) = demo_settings().await;
    let bed = Bed::start(settings).await;
    for host in ["shop.example", "api.h2.example"] {
        let mut sender = bed.http2::<AnyBody>().await;
        let (feed, body) = fed();
        let request = Request::post(format!("http://{host}/echo")).body(body).expect("a request");
        let answer = tokio::spawn(sender.send_request(request));
        for turn in 0..10 {
            feed.send(Bytes::from(vec![turn; 1000])).await.expect("open");
        }
        let mut echo = answer.await.expect("no panic").expect("a head").into_body();
        // The tenth piece has been echoed before the body ends.
        let mut length = 0;
        while length < 10_000 {
            let frame = echo.frame().await.expect("not over").expect("a frame");
            length += frame.into_data().expect("data").len();
        }
        drop(feed);
        let rest = echo.collect().await.expect("a whole body").to_bytes();
        assert!(rest.is_empty(), "{host}");
    }
}
