//! Backends that refuse, break, stall and overload, and what callers are told of them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bed;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bed::{AnyBody, Bed, backend, fed, got, origin, route, settings, topic_route, whole};
use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use towline_gateway::{
    backend::{Reply, publish},
    demo,
    error::{Execution, RpcErrorKind},
    hub::Message,
    settings::{Backend, BackendKind, Route},
};

/// A backend that treats its n-th connection, from 0, as `script` says.
async fn scripted<F, Fut>(script: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(script(count.fetch_add(1, Ordering::Relaxed), socket));
        }
    });
    (address, connections)
}

/// Reads one HTTP/1.1 request's head.
async fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a request"));
    }
}

/// Serves HTTP/2, each stream as `answer` says.
async fn serve_http2<F>(socket: TcpStream, streams_max: u32, answer: F)
where
    F: Fn(Request<h2::RecvStream>, SendResponse<Bytes>),
{
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams_max);
    let mut connection = builder.handshake::<_, Bytes>(socket).await.expect("HTTP/2");
    while let Some(Ok((request, respond))) = connection.accept().await {
        answer(request, respond);
    }
}

fn ok(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).expect("open");
    body.send_data(Bytes::from_static(b"done"), true).expect("open");
}

async fn bed(kind: BackendKind, address: SocketAddr) -> Bed {
    Bed::start(settings(vec![backend("b", kind, address)], vec![route("/*", "b")])).await
}

#[tokio::test]
async fn a_backend_that_is_not_there_ran_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    for kind in [BackendKind::Http1, BackendKind::Http2, BackendKind::Grpc] {
        let bed = bed(kind, address).await;
        let refused = bed.post("/x", "body").await;
        assert_eq!((refused.status, refused.header("towline-execution")), (503, "not-run"));
        assert_eq!(refused.header("retry-after"), "1");
        assert!(refused.text().contains("backend_unavailable"), "{}", refused.text());
        assert!(!refused.text().contains(&address.port().to_string()), "where it is: {}", refused.text());
    }
}

#[tokio::test]
async fn a_backend_that_dies_after_it_was_asked_may_have_run() {
    let (address, connections) = scripted(|_, mut socket| async move {
        read_head(&mut socket).await;
    })
    .await;
    let bed = bed(BackendKind::Http1, address).await;
    let failed = bed.post("/pay", "body").await;
    assert_eq!((failed.status, failed.header("towline-execution")), (502, "may-have-run"));
    assert_eq!(connections.load(Ordering::Relaxed), 1, "a payment is not sent twice");
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_again_once() {
    let (address, connections) = scripted(|turn, mut socket| async move {
        read_head(&mut socket).await;
        if turn > 0 {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
            socket.write_all(answer).await.expect("open");
        }
    })
    .await;
    let safe = bed(BackendKind::Http1, address).await;
    assert_eq!(safe.get("/x").await.text(), "done");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    let (address, connections) = scripted(|_, mut socket| async move {
        read_head(&mut socket).await;
    })
    .await;
    let idempotent = Route { idempotent: true, ..route("/*", "b") };
    let backends = vec![backend("b", BackendKind::Http1, address)];
    let bed = Bed::start(settings(backends, vec![idempotent])).await;
    assert_eq!(bed.post("/x", "body").await.status, 502);
    assert_eq!(connections.load(Ordering::Relaxed), 2, "once, not for ever");
}

#[tokio::test]
async fn a_second_attempt_that_finds_nobody_says_nothing_of_the_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        drop(listener);
        read_head(&mut socket).await;
    });
    let bed = bed(BackendKind::Http1, address).await;
    let failed = bed.get("/x").await;
    assert_eq!((failed.status, failed.header("towline-execution")), (503, "may-have-run"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let (address, _) = scripted(|turn, mut socket| async move {
        read_head(&mut socket).await;
        let length = if turn == 0 { 100 } else { 4 };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhalf");
        socket.write_all(answer.as_bytes()).await.expect("open");
    })
    .await;
    let bed = bed(BackendKind::Http1, address).await;
    let mut sender = bed.http2::<AnyBody>().await;
    let mut call = async || {
        let request = Request::get("http://a/x").body(whole("")).expect("a request");
        let answer = sender.send_request(request).await?;
        answer.into_body().collect().await.map(Collected::to_bytes)
    };
    // The break may overtake the head: the stream is reset either way, never ended.
    assert!(call().await.is_err());
    assert_eq!(call().await.expect("the connection is unharmed"), "half");
}

#[tokio::test]
async fn a_pooled_connection_that_went_stale_is_replaced() {
    let (address, connections) = scripted(|_, mut socket| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
        socket.write_all(answer).await.expect("open");
        // Kept by the gateway, closed here.
    })
    .await;
    let bed = bed(BackendKind::Http1, address).await;
    for turn in 1..=3 {
        assert_eq!(bed.get("/x").await.text(), "done");
        assert!(connections.load(Ordering::Relaxed) >= turn);
    }
}

#[tokio::test]
async fn a_stream_refused_unseen_is_sent_again() {
    let (address, _) = scripted(|_, socket| async move {
        let turn = AtomicUsize::new(0);
        serve_http2(socket, 100, |_, mut respond| match turn.fetch_add(1, Ordering::Relaxed) {
            0 => respond.send_reset(Reason::REFUSED_STREAM),
            _ => ok(respond),
        })
        .await;
    })
    .await;
    let bed = bed(BackendKind::Http2, address).await;
    let answer = bed.post("/pay", "body").await;
    assert_eq!((answer.status, answer.text()), (200, "done"));
}

#[tokio::test]
async fn a_stream_reset_for_another_reason_may_have_run() {
    let (address, connections) = scripted(|_, socket| async move {
        serve_http2(socket, 100, |_, mut respond| respond.send_reset(Reason::INTERNAL_ERROR)).await;
    })
    .await;
    let bed = bed(BackendKind::Http2, address).await;
    for _ in 0..2 {
        let failed = bed.post("/pay", "body").await;
        assert_eq!((failed.status, failed.header("towline-execution")), (502, "may-have-run"));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "the connection is not to blame");
}

#[tokio::test]
async fn a_backend_that_goes_away_is_dialled_again() {
    let (address, connections) = scripted(|_, socket| async move {
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        if let Some(Ok((_, respond))) = connection.accept().await {
            ok(respond);
        }
        connection.graceful_shutdown();
        while let Some(Ok((_, respond))) = connection.accept().await {
            ok(respond);
        }
    })
    .await;
    let bed = bed(BackendKind::Http2, address).await;
    for _ in 0..5 {
        let answer = bed.post("/pay", "body").await;
        assert_eq!((answer.status, answer.text()), (200, "done"));
    }
    assert!(connections.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn a_backends_stream_limit_is_kept_and_shared() {
    let (address, connections) = scripted(|_, socket| async move {
        serve_http2(socket, 1, |_, respond| {
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                ok(respond);
            });
        })
        .await;
    })
    .await;
    let one = Backend { connections_max: 1, ..backend("b", BackendKind::Http2, address) };
    let bed = Arc::new(Bed::start(settings(vec![one], vec![route("/*", "b")])).await);
    assert_eq!(bed.get("/first").await.status, 200, "the limit is known now");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let bed = bed.clone();
            tokio::spawn(async move { bed.get("/x").await.status })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_full_pool_says_that_nothing_ran_and_spares_other_backends() {
    let demo = demo::start(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let (asked, mut questions) = mpsc::unbounded_channel();
    let (address, _) = scripted(move |_, mut socket| {
        let asked = asked.clone();
        async move {
            read_head(&mut socket).await;
            asked.send(()).expect("the test runs");
            std::future::pending::<()>().await;
        }
    })
    .await;
    let stuck = Backend { connections_max: 1, ..backend("stuck", BackendKind::Http1, address) };
    let backends = vec![stuck, backend("demo", BackendKind::Http1, demo.address)];
    let brief = Route { timeout: Some(Duration::from_millis(100)), ..route("/brief", "stuck") };
    let routes = vec![brief, route("/stuck", "stuck"), route("/*", "demo")];
    let bed = Arc::new(Bed::start(settings(backends, routes)).await);
    let holder = bed.clone();
    let holder = tokio::spawn(async move { holder.get("/stuck").await });
    questions.recv().await.expect("the only connection is taken");
    let waited = bed.get("/brief").await;
    assert_eq!((waited.status, waited.header("towline-execution")), (504, "not-run"));
    assert_eq!(bed.get("/hello").await.status, 200, "the neighbour is unharmed");
    holder.abort();
    let _cancelled = holder.await;
    // The caller's end closed its connection, which made room: now the backend itself is too slow.
    let late = bed.get("/brief").await;
    assert_eq!((late.status, late.header("towline-execution")), (504, "may-have-run"));
}

#[tokio::test]
async fn a_caller_that_leaves_ends_its_call_at_the_backend() {
    let (reset, mut resets) = mpsc::unbounded_channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let (address, _) = scripted(move |_, socket| {
        let (begin, reset) = (begin.clone(), reset.clone());
        async move {
            serve_http2(socket, 100, |_, mut respond| {
                begin.send(()).expect("the test runs");
                let reset = reset.clone();
                tokio::spawn(async move {
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    reset.send(reason.expect("a reset")).expect("the test runs");
                });
            })
            .await;
        }
    })
    .await;
    let bed = bed(BackendKind::Http2, address).await;
    let mut sender = bed.http2::<AnyBody>().await;
    let (feed, body) = fed();
    let request = Request::post("http://a/x").body(body).expect("a request");
    let call = tokio::spawn(sender.send_request(request));
    feed.send(Bytes::from_static(b"begun")).await.expect("open");
    begun.recv().await.expect("the backend is asked");
    call.abort();
    drop((feed, sender));
    // With the connection gone, so is the caller.
    let reason = resets.recv().await.expect("told");
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test]
async fn a_slow_client_does_not_make_the_gateway_hold_the_answer() {
    let (sent, mut progress) = mpsc::unbounded_channel();
    let (address, _) = scripted(move |_, mut socket| {
        let sent = sent.clone();
        async move {
            read_head(&mut socket).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
            socket.write_all(head).await.expect("open");
            while socket.write_all(&[0; 65_536]).await.is_ok() {
                sent.send(65_536).expect("the test runs");
            }
        }
    })
    .await;
    let bed = bed(BackendKind::Http1, address).await;
    let mut sender = bed.http2::<Full<Bytes>>().await;
    let request = Request::get("http://a/x").body(Full::default()).expect("a request");
    let answer = sender.send_request(request).await.expect("a head");
    // The client reads nothing. What the backend can send is bounded by windows and socket buffers.
    let mut total: usize = 0;
    while let Ok(Some(bytes)) = tokio::time::timeout(Duration::from_millis(300), progress.recv()).await {
        total += bytes;
        assert!(total < 100_000_000, "a gigabyte is on its way into memory");
    }
    drop(answer);
}

// Messages.

fn message(topic: &str, payload: &'static [u8], qos: u8) -> Message {
    Message { topic: topic.into(), payload: Bytes::from_static(payload), qos, ..Message::default() }
}

#[tokio::test]
async fn a_message_becomes_a_grpc_call_and_its_reply_comes_back() {
    let demo = demo::start(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let call = Some("/towline.device.v1.DeviceIngress/Publish");
    let backends = vec![backend("b", BackendKind::Grpc, demo.address)];
    let bed = Bed::start(settings(backends, vec![topic_route("devices/+/state", "b", call)])).await;
    let mut origin = origin();
    (origin.client_id, origin.user) = (Some("meter-7".into()), Some("ann".into()));
    let origin = Arc::new(origin);
    let plain = message("devices/7/state", b"on", 1);
    let reply = publish(&bed.gateway, &origin, &plain).await.expect("accepted");
    assert_eq!(reply, None);
    let events = demo.devices.events();
    assert_eq!(events.len(), 1);
    assert_eq!((&*events[0].topic, &*events[0].payload), ("devices/7/state", &b"on"[..]));
    assert_eq!((&*events[0].client_id, &*events[0].user, events[0].qos), ("meter-7", "ann", 1));
    let asking = Message { response_topic: Some("replies/7".into()), ..plain };
    let reply = publish(&bed.gateway, &origin, &asking).await.expect("accepted");
    let content_type = Some("text/plain".into());
    assert_eq!(reply, Some(Reply { payload: Bytes::from_static(b"got 2 bytes"), content_type }));
    let refused = message("devices/7/state", b"refuse", 1);
    let refused = publish(&bed.gateway, &origin, &refused).await.expect_err("refused");
    assert_eq!(refused.kind, RpcErrorKind::BackendFailed, "{refused}");
    let elsewhere = message("other/topic", b"on", 1);
    assert_eq!(publish(&bed.gateway, &origin, &elsewhere).await, Ok(None));
    assert_eq!(demo.devices.events().len(), 2);
}

#[tokio::test]
async fn a_message_becomes_a_webhook() {
    let demo = demo::start(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let backends = vec![backend("b", BackendKind::Http1, demo.address)];
    let routes =
        vec![topic_route("alarms/#", "b", Some("/events")), topic_route("lost/#", "b", Some("/nowhere"))];
    let bed = Bed::start(settings(backends, routes)).await;
    let origin = Arc::new(origin());
    let taken = publish(&bed.gateway, &origin, &message("alarms/fire", b"!", 1)).await;
    assert_eq!(taken, Ok(None));
    let events = demo.devices.events();
    assert_eq!((&*events[0].topic, &*events[0].payload, events[0].qos), ("alarms/fire", &b"!"[..], 1));
    let refused = publish(&bed.gateway, &origin, &message("lost/x", b"!", 1)).await;
    let refused = refused.expect_err("404 is no");
    assert_eq!((refused.kind, refused.execution), (RpcErrorKind::PermissionDenied, Execution::Ran));
}

/// Success, from a broker that takes packets of at most 1000 bytes and retains nothing.
const CONNACK: &[u8] = &[0x20, 10, 0, 0, 7, 0x27, 0, 0, 0x03, 0xe8, 0x25, 0];

/// An MQTT 5 broker in as few bytes as will do: says yes to CONNECT, reports each PUBLISH, and
/// acknowledges it when told to.
async fn broker(mut socket: TcpStream, publishes: mpsc::UnboundedSender<Vec<u8>>, acknowledge: bool) {
    loop {
        let Ok(kind) = socket.read_u8().await else {
            return;
        };
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = socket.read_u8().await.expect("a length");
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut packet = vec![0; length];
        socket.read_exact(&mut packet).await.expect("a packet");
        match kind >> 4 {
            1 => socket.write_all(CONNACK).await.expect("open"),
            3 => {
                let topic = 2 + usize::from(u16::from_be_bytes([packet[0], packet[1]]));
                let id = [packet[topic], packet[topic + 1]];
                assert!(kind & 1 == 0 && length <= 1000, "beyond what CONNACK admits");
                publishes.send(packet).expect("the test runs");
                if acknowledge && kind & 0b110 != 0 {
                    socket.write_all(&[0x40, 2, id[0], id[1]]).await.expect("open");
                }
            }
            _ => {}
        }
    }
}

/// An upstream broker whose acknowledgement publishers wait for.
fn unbuffered(address: SocketAddr) -> Backend {
    let mut upstream = backend("up", BackendKind::Mqtt, address);
    upstream.upstream.buffer = false;
    upstream
}

#[tokio::test]
async fn a_message_goes_to_an_upstream_broker_and_waits_for_its_acknowledgement() {
    let (published, mut publishes) = mpsc::unbounded_channel();
    // The first connection never acknowledges.
    let (address, _) = scripted(move |turn, socket| broker(socket, published.clone(), turn > 0)).await;
    let upstream = Backend { topic_prefix: "edge/".to_owned(), ..unbuffered(address) };
    let brief = Route { timeout: Some(Duration::from_millis(200)), ..topic_route("brief/#", "up", None) };
    let routes = vec![brief, topic_route("#", "up", None)];
    let bed = Bed::start(settings(vec![upstream], routes)).await;
    let origin = Arc::new(origin());
    let lost = publish(&bed.gateway, &origin, &message("brief/x", b"1", 1)).await;
    let lost = lost.expect_err("nobody acknowledged it");
    assert_eq!((lost.kind, lost.execution), (RpcErrorKind::DeadlineExceeded, Execution::MayHaveRun));
    let packet = publishes.recv().await.expect("seen");
    assert_eq!(&packet[2..14], b"edge/brief/x");
    // At most once needs no acknowledgement.
    let sent = publish(&bed.gateway, &origin, &message("a", b"2", 0)).await;
    assert_eq!(sent, Ok(None));
}

#[tokio::test]
async fn an_upstream_broker_that_comes_back_is_used_again() {
    let (published, mut publishes) = mpsc::unbounded_channel();
    let (address, connections) = scripted(move |turn, socket| {
        let published = published.clone();
        async move {
            if turn > 0 {
                broker(socket, published, true).await;
            }
        }
    })
    .await;
    let upstream = unbuffered(address);
    let bed = Bed::start(settings(vec![upstream], vec![topic_route("#", "up", None)])).await;
    let origin = Arc::new(origin());
    let failed = publish(&bed.gateway, &origin, &message("a", b"1", 1)).await;
    let failed = failed.expect_err("the broker hung up");
    assert_eq!((failed.kind, failed.execution), (RpcErrorKind::BackendUnavailable, Execution::NotRun));
    for _ in 0..600 {
        assert_eq!(publish(&bed.gateway, &origin, &message("a", b"2", 1)).await, Ok(None));
        publishes.recv().await.expect("seen");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_frees_its_connection() {
    let demo = demo::start(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let bed = bed(BackendKind::Http1, demo.address).await;
    let mut sender = bed.http1().await;
    let head = Request::head("/bytes/5").header("host", "a").body(Full::default());
    let answer = got(sender.send_request(head.expect("a request")).await.expect("an answer")).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, "5", 0));
}

#[tokio::test]
async fn a_message_beyond_what_the_broker_admits_leaves_the_others_alone() {
    let (published, mut publishes) = mpsc::unbounded_channel();
    let (address, connections) = scripted(move |_, socket| broker(socket, published.clone(), true)).await;
    let upstream = Backend { topic_prefix: "edge/".to_owned(), ..unbuffered(address) };
    let bed = Bed::start(settings(vec![upstream], vec![topic_route("#", "up", None)])).await;
    let origin = Arc::new(origin());
    let large = message("a", &[0; 1000], 1);
    let long = message(&"x".repeat(65_531), b"1", 1);
    for (message, said) in [(&large, "packets of at most 1000 bytes"), (&long, "65535 bytes")] {
        let refused = publish(&bed.gateway, &origin, message).await.expect_err(said);
        assert_eq!((refused.kind, refused.execution), (RpcErrorKind::LimitExceeded, Execution::NotRun));
        assert!(refused.message.contains(said), "{}", refused.message);
    }
    let retained = Message {
        retain: true,
        payload_utf8: Some(true),
        expires: Some(std::time::Instant::now() + Duration::from_secs(3600)),
        ..message("a", b"1", 1)
    };
    assert_eq!(publish(&bed.gateway, &origin, &retained).await, Ok(None));
    let packet = publishes.recv().await.expect("seen");
    let properties = &packet[2 + "edge/a".len() + 2 + 1..];
    assert_eq!(properties[..5], [1, 1, 2, 0, 0], "the payload's format, and the expiry of an hour");
    assert_eq!(u16::from_be_bytes([properties[5], properties[6]]), 3600);
    assert_eq!(connections.load(Ordering::Relaxed), 1, "one connection carried it all");
}

#[tokio::test]
async fn a_backend_that_switches_protocols_unasked_is_not_followed() {
    let (address, _) = scripted(|_, mut socket| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nraw";
        socket.write_all(answer).await.expect("open");
    })
    .await;
    let failed = bed(BackendKind::Http1, address).await.get("/x").await;
    assert_eq!((failed.status, failed.header("towline-execution")), (502, "may-have-run"));
}
