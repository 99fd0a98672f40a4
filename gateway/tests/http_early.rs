//! HTTP and MQTT in early data: what reaches a backend before the handshake is complete.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bed;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bed::{LISTENER, backend, got, origin, route, settings};
use bytes::Bytes;
use futures_util::{FutureExt, future::join};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    task::yield_now,
};
use towline_gateway::{
    gateway::Gateway,
    http as front, mqtt,
    request::{Origin, Protocol},
    settings::{Authentication, BackendKind, Route},
    transport::{Completion, Handshake},
};

/// Answers with the `Early-Data` that it was sent; 425 at `/idempotent/too-early`.
async fn counting_backend() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (address, seen) = (listener.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let count = count.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                count.fetch_add(1, Ordering::SeqCst);
                let marks: Vec<_> = request.headers().get_all("early-data").iter().collect();
                let marks =
                    marks.iter().map(|mark| mark.to_str().expect("text")).collect::<Vec<_>>().join(",");
                let mut answer = Response::new(Full::new(Bytes::from(marks)));
                if request.uri().path().ends_with("too-early") {
                    *answer.status_mut() = StatusCode::TOO_EARLY;
                }
                async { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, seen)
}

struct Bed {
    gateway: Arc<Gateway>,
    seen: Arc<AtomicUsize>,
}

impl Bed {
    async fn new(authentication: Authentication) -> Self {
        let (address, seen) = counting_backend().await;
        let idempotent = Route { idempotent: true, ..route("/idempotent/*", "b") };
        let mut settings =
            settings(vec![backend("b", BackendKind::Http1, address)], vec![idempotent, route("/*", "b")]);
        settings.listeners[0].authentication = authentication;
        Self { gateway: Gateway::build(settings).expect("settings in order"), seen }
    }

    fn connect(&self) -> (DuplexStream, Completion) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (completion, handshake) = Handshake::pending();
        let origin = Arc::new(Origin { handshake, ..origin() });
        tokio::spawn(front::serve(self.gateway.clone(), origin, far));
        (near, completion)
    }

    async fn http1(&self) -> (http1::SendRequest<Full<Bytes>>, Completion) {
        let (near, completion) = self.connect();
        let (sender, driver) = http1::handshake(TokioIo::new(near)).await.expect("HTTP/1.1");
        tokio::spawn(driver);
        (sender, completion)
    }

    async fn http2(&self) -> (http2::SendRequest<Full<Bytes>>, Completion) {
        let (near, completion) = self.connect();
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await;
        let (sender, driver) = connected.expect("HTTP/2");
        tokio::spawn(driver);
        (sender, completion)
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    fn counted(&self, outcome: &str) -> u64 {
        self.gateway.metrics.early_data.with_label_values(&[LISTENER, outcome]).get()
    }

    /// Runs everything until `count` requests or connections wait.
    async fn until_waiting(&self, count: usize) {
        let all = towline_gateway::early::WaitingRoom::new().free();
        while all - self.gateway.early.free() < count {
            yield_now().await;
        }
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://shop.example{path}");
    Request::get(uri).header("host", "shop.example").body(Full::default()).expect("a request")
}

#[tokio::test]
async fn an_idempotent_route_is_served_at_once_and_its_backend_is_told() {
    let bed = Bed::new(Authentication::None).await;
    let (mut sender, completion) = bed.http1().await;
    let early = got(sender.send_request(get("/idempotent/a")).await.expect("an answer")).await;
    assert_eq!((early.status, early.text(), bed.counted("served")), (200, "1", 1));
    completion.complete();
    let late = got(sender.send_request(get("/idempotent/a")).await.expect("an answer")).await;
    assert_eq!((late.text(), bed.seen()), ("", 2));
    let (mut sender, _completion) = bed.http2().await;
    let early = got(sender.send_request(get("/idempotent/a")).await.expect("an answer")).await;
    assert_eq!(early.text(), "1");
}

#[tokio::test]
async fn a_backends_too_early_reaches_the_client() {
    let bed = Bed::new(Authentication::None).await;
    let (mut sender, _completion) = bed.http1().await;
    let answer = got(sender.send_request(get("/idempotent/too-early")).await.expect("an answer")).await;
    assert_eq!((answer.status, bed.seen()), (425, 1));
}

#[tokio::test]
async fn the_mark_of_an_intermediary_before_the_gateway_stays() {
    let bed = Bed::new(Authentication::None).await;
    let (mut sender, completion) = bed.http1().await;
    let said = |path, mark| {
        let mut request = get(path);
        request.headers_mut().insert("early-data", HeaderValue::from_static(mark));
        // RFC 8470, section 5.1: it is no option of one connection, whatever a client says.
        request.headers_mut().insert("connection", HeaderValue::from_static("early-data"));
        request
    };
    for mark in ["1", "0"] {
        let early = sender.send_request(said("/idempotent/a", mark)).await.expect("an answer");
        assert_eq!(got(early).await.text(), "1", "once, whatever the client says");
    }
    completion.complete();
    let late = got(sender.send_request(said("/a", "1")).await.expect("an answer")).await;
    assert_eq!(late.text(), "1", "its own client's handshake may be under way");
}

#[tokio::test]
async fn any_other_route_waits_for_the_handshake() {
    let bed = Bed::new(Authentication::None).await;
    let (mut one, one_completion) = bed.http1().await;
    let (mut two, two_completion) = bed.http2().await;
    let answers = join(one.send_request(get("/a")), two.send_request(get("/a")));
    let complete = async {
        bed.until_waiting(2).await;
        assert_eq!(bed.seen(), 0);
        one_completion.complete();
        two_completion.complete();
    };
    let ((one, two), ()) = join(answers, complete).await;
    assert_eq!(got(one.expect("an answer")).await.text(), "");
    assert_eq!(got(two.expect("an answer")).await.text(), "");
    assert_eq!((bed.seen(), bed.counted("waited"), bed.counted("served")), (2, 2, 0));
}

#[tokio::test]
async fn a_handshake_that_breaks_drops_what_waited() {
    let bed = Bed::new(Authentication::None).await;
    let (mut sender, completion) = bed.http2().await;
    let broken = async {
        bed.until_waiting(1).await;
        drop(completion);
    };
    let (answer, ()) = join(sender.send_request(get("/a")), broken).await;
    let answer = got(answer.expect("an answer")).await;
    assert_eq!((answer.status, answer.header("towline-execution")), (425, "not-run"));
    assert_eq!((bed.seen(), bed.counted("broken")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_in_time() {
    let bed = Bed::new(Authentication::None).await;
    let (mut sender, _completion) = bed.http1().await;
    let answer = got(sender.send_request(get("/a")).await.expect("an answer")).await;
    assert_eq!((answer.status, bed.seen()), (425, 0));
    let hits = bed.gateway.metrics.limit_hits.with_label_values(&["limits.handshake_timeout"]).get();
    assert_eq!((hits, bed.counted("broken")), (1, 1));
}

#[tokio::test]
async fn where_a_password_is_demanded_everything_waits() {
    let bed = Bed::new(Authentication::Password).await;
    let (mut sender, completion) = bed.http1().await;
    let complete = async {
        bed.until_waiting(1).await;
        completion.complete();
    };
    let (answer, ()) = join(sender.send_request(get("/idempotent/a")), complete).await;
    assert_eq!((answer.expect("an answer").status(), bed.seen()), (StatusCode::UNAUTHORIZED, 0));
}

#[tokio::test]
async fn mqtt_connect_waits_for_the_handshake() {
    let bed = Bed::new(Authentication::None).await;
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let (completion, handshake) = Handshake::pending();
    let origin = Origin { handshake, protocol: Protocol::Mqtt, ..origin() };
    tokio::spawn(mqtt::serve(bed.gateway.clone(), Arc::new(origin), far, Bytes::new()));
    near.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01d").await.expect("sent");
    bed.until_waiting(1).await;
    let mut connack = [0; 4];
    assert!(near.read(&mut connack).now_or_never().is_none() && bed.gateway.hub.clients() == 0);
    completion.complete();
    near.read_exact(&mut connack).await.expect("CONNACK");
    assert_eq!((connack, bed.gateway.hub.clients()), ([0x20, 2, 0, 0], 1));
}
