//! Short connections, from end to end: POSTs made by hand, over HTTP/1.1 and HTTP/2, beside links of the SDK's machines.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use towline_gateway::settings::{AclRule, Permission, Settings};
use towline_protocols::{
    hpack::HeaderField,
    link::{
        CloseCode, Config, Connection, Event, Execution, Filter, Hello, Push, RequestHead, RpcError,
        RpcErrorKind, Subscribe, Waiting, Welcome,
    },
};

use crate::{
    backend::noise,
    bed::{Bed, USER},
};

#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
}

const BOTH: [Version; 2] = [Version::One, Version::Two];

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn hello(epoch: u64, session_id: u64) -> Hello {
    let secret = vec![7; 16].into();
    Hello { client_id: "phone-7".into(), session_secret: secret, epoch, session_id, ..Hello::default() }
}

fn asking(epoch: u64, session_id: u64, seqs: &[u64]) -> Hello {
    let waiting = seqs.iter().map(|&seq| Waiting { seq, ..Waiting::default() }).collect();
    Hello { waiting, ..hello(epoch, session_id) }
}

/// The client's side of one POST.
struct Post {
    machine: Connection,
    body: Bytes,
}

impl Post {
    /// With calls of a unary method: number, method and message.
    fn new(hello: Hello, calls: &[(u64, &str, &str)]) -> Self {
        Self::with(hello, calls, false)
    }

    fn with(hello: Hello, calls: &[(u64, &str, &str)], idempotent: bool) -> Self {
        let mut machine = Connection::short_client(Arc::new(Config::default()), hello, now());
        for &(seq, method, message) in calls {
            call(&mut machine, seq, method, message.to_owned(), idempotent);
        }
        let mut body = BytesMut::new();
        machine.poll_transmit(now(), &mut body, usize::MAX);
        Self { machine, body: body.freeze() }
    }

    /// What the answer says.
    fn read(mut self, answer: &[u8]) -> Answer {
        let mut input = BytesMut::from(answer);
        let broken = self.machine.handle_bytes(now(), &mut input).err();
        let events: Vec<Event> = std::iter::from_fn(|| self.machine.poll_event()).collect();
        assert!(broken.is_none(), "{broken:?} behind {events:?}");
        let unanswered = self.machine.handle_end(&input).unwrap();
        Answer { events, unanswered }
    }
}

fn call(machine: &mut Connection, seq: u64, method: &str, message: impl Into<Bytes>, idempotent: bool) {
    let path = format!("/test/{method}");
    let fields = vec![
        HeaderField::from_static(":method", "POST"),
        HeaderField::new(":path", path),
        HeaderField::from_static("content-type", "application/grpc"),
        HeaderField::from_static("te", "trailers"),
    ];
    machine.send_request(seq, RequestHead { fields, idempotent, ..RequestHead::default() }, false).unwrap();
    machine.send_message(seq, message.into(), true).unwrap();
}

struct Answer {
    events: Vec<Event>,
    unanswered: Vec<u64>,
}

impl Answer {
    fn welcome(&self) -> &Welcome {
        match &self.events[0] {
            Event::Welcome(welcome) => welcome,
            other => panic!("{other:?} instead of WELCOME"),
        }
    }

    /// The message of request `seq`, if its answer is there to the end.
    fn message(&self, seq: u64) -> Option<&[u8]> {
        let ends = |event: &Event| matches!(event, Event::Trailers { seq: of, .. } if *of == seq);
        self.events.iter().any(ends).then_some(())?;
        self.events.iter().find_map(|event| match event {
            Event::MessagePart { seq: of, bytes, .. } if *of == seq => Some(&bytes[..]),
            _ => None,
        })
    }

    fn reset(&self, seq: u64) -> Option<(RpcErrorKind, Execution)> {
        self.events.iter().find_map(|event| match event {
            Event::Reset { seq: of, error: RpcError { kind, execution, .. } } if *of == seq => {
                Some((*kind, *execution))
            }
            _ => None,
        })
    }

    fn close(&self) -> Option<(CloseCode, &str)> {
        self.events.iter().find_map(|event| match event {
            Event::Close { code, text } => Some((*code, &**text)),
            _ => None,
        })
    }

    fn pushes(&self) -> Vec<&Push> {
        let pushes = self.events.iter().filter_map(|event| match event {
            Event::Push(push) => Some(push),
            _ => None,
        });
        pushes.collect()
    }
}

fn request(body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::post("http://edge.example/towline/1").header(header::HOST, "edge.example");
    request.header(header::CONTENT_TYPE, "application/towline").body(Full::new(body)).unwrap()
}

async fn send(
    bed: &Bed,
    version: Version,
    request: Request<Full<Bytes>>,
) -> http::Response<hyper::body::Incoming> {
    to(bed, "plain", version, request).await
}

async fn to(
    bed: &Bed,
    listener: &str,
    version: Version,
    request: Request<Full<Bytes>>,
) -> http::Response<hyper::body::Incoming> {
    let tcp = TokioIo::new(TcpStream::connect(bed.address(listener)).await.unwrap());
    match version {
        Version::One => {
            let (mut sender, connection) = http1::handshake(tcp).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
        Version::Two => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), tcp).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
    }
}

/// Makes a POST and reads its answer to the end.
async fn post(bed: &Bed, version: Version, post: Post) -> Answer {
    let response = send(bed, version, request(post.body.clone())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/towline");
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    post.read(&answer)
}

/// A session whose id the client knows, made by a POST.
async fn introduced(bed: &Bed, version: Version) -> u64 {
    let answer = post(bed, version, Post::new(hello(1, 0), &[])).await;
    assert!(!answer.welcome().resumed && answer.unanswered.is_empty());
    answer.welcome().session_id
}

fn posts(bed: &Bed, outcome: &str) -> u64 {
    bed.gateway().metrics.short_connections.with_label_values(&["plain", outcome]).get()
}

fn limit(bed: &Bed, name: &str) -> u64 {
    bed.gateway().metrics.limit_hits.with_label_values(&[name]).get()
}

/// A link by hand, which says HELLO and then what the machine was told.
async fn link(bed: &Bed, hello: Hello, calls: &[(u64, &str, &str)]) -> (TcpStream, Connection) {
    let mut tcp = TcpStream::connect(bed.address("plain")).await.unwrap();
    let mut machine = Connection::client(Arc::new(Config::default()), hello, now());
    calls
        .iter()
        .for_each(|&(seq, method, message)| call(&mut machine, seq, method, message.to_owned(), false));
    let mut bytes = BytesMut::new();
    machine.poll_transmit(now(), &mut bytes, usize::MAX);
    tcp.write_all(&bytes).await.unwrap();
    (tcp, machine)
}

#[tokio::test]
async fn a_call_runs_once_however_often_its_post_is_sent() {
    for version in BOTH {
        let bed = Bed::start().await;
        let id = introduced(&bed, version).await;
        let two = || Post::new(hello(2, id), &[(1, "Echo", "pay"), (2, "Echo", "buy")]);
        for _ in 0..3 {
            let answer = post(&bed, version, two()).await;
            assert!(answer.welcome().resumed && answer.unanswered.is_empty());
            assert_eq!((answer.message(1), answer.message(2)), (Some(&b"pay"[..]), Some(&b"buy"[..])));
        }
        assert_eq!(bed.backend.counts("Echo").started, 2, "{version:?}: each once");
        let acknowledging = Post::new(Hello { outcome_floor: 2, ..hello(3, id) }, &[(1, "Echo", "pay")]);
        let late = post(&bed, version, acknowledging).await;
        assert_eq!(late.reset(1), Some((RpcErrorKind::OutcomeExpired, Execution::Ran)));
        assert_eq!((bed.backend.counts("Echo").started, posts(&bed, "answered")), (2, 5));
    }
}

#[tokio::test]
async fn the_first_post_runs_only_what_is_idempotent() {
    let bed = Bed::start().await;
    let first = post(&bed, Version::One, Post::new(hello(1, 0), &[(1, "Echo", "pay")])).await;
    assert_eq!(first.reset(1), Some((RpcErrorKind::SessionLost, Execution::NotNow)));
    assert_eq!(bed.backend.counts("Echo").started, 0);
    let again = post(&bed, Version::One, Post::with(hello(2, 0), &[(2, "Echo", "get")], true)).await;
    assert_eq!((again.message(2), again.welcome().resumed), (Some(&b"get"[..]), false));
    let known =
        post(&bed, Version::One, Post::new(hello(3, again.welcome().session_id), &[(3, "Echo", "pay")]));
    assert_eq!(known.await.message(3), Some(&b"pay"[..]));
}

#[tokio::test]
async fn what_began_on_a_link_is_fetched_by_a_post_and_what_is_late_by_another() {
    for version in BOTH {
        let bed = Bed::start().await;
        let id = introduced(&bed, version).await;
        let (tcp, _machine) = link(&bed, hello(2, id), &[(1, "Hold", "pay")]).await;
        bed.backend.wait("Hold", |counts| counts.started == 1).await;
        drop(tcp);
        let asks = Post::new(asking(3, id, &[1]), &[]);
        let mut request = request(asks.body.clone());
        request.headers_mut().insert("prefer", "wait=0".parse().unwrap());
        let response = send(&bed, version, request).await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(asks.read(&response).unanswered, [1], "it runs still");
        bed.backend.release();
        let answer = post(&bed, version, Post::new(asking(4, id, &[1]), &[])).await;
        assert_eq!(answer.message(1), Some(&b"pay"[..]));
        let counts = bed.backend.counts("Hold");
        assert_eq!((counts.started, counts.cancelled, posts(&bed, "late")), (1, 0, 1));
    }
}

#[tokio::test]
async fn what_a_post_began_goes_on_without_it_and_a_link_gets_the_answer() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::Two).await;
    let begun = Post::new(hello(2, id), &[(1, "Hold", "pay")]);
    let response = send(&bed, Version::Two, request(begun.body.clone())).await;
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    drop(response);
    bed.backend.release();
    let (mut tcp, mut machine) = link(&bed, asking(3, id, &[1]), &[]).await;
    let mut events = Vec::new();
    let mut input = BytesMut::new();
    while !events.iter().any(|event| matches!(event, Event::Trailers { seq: 1, .. })) {
        assert!(tokio::io::AsyncReadExt::read_buf(&mut tcp, &mut input).await.unwrap() > 0, "{events:?}");
        machine.handle_bytes(now(), &mut input).unwrap();
        events.extend(std::iter::from_fn(|| machine.poll_event()));
    }
    let counts = bed.backend.counts("Hold");
    assert_eq!((counts.started, counts.cancelled), (1, 0));
}

#[tokio::test]
async fn a_post_that_breaks_off_has_run_nothing_and_runs_when_it_is_sent_again() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::One).await;
    let whole = Post::new(hello(2, id), &[(1, "Echo", "pay")]);
    // HTTP says that more will come, and the connection ends.
    let mut tcp = TcpStream::connect(bed.address("plain")).await.unwrap();
    let cut = whole.body.len() - 2;
    let head = format!(
        "POST /towline/1 HTTP/1.1\r\nhost: a\r\ncontent-type: application/towline\r\ncontent-length: {}\r\n\r\n",
        whole.body.len()
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(&whole.body[..cut]).await.unwrap();
    drop(tcp);
    // Or the body ends there.
    let short = Post::new(hello(2, id), &[]);
    let response = send(&bed, Version::One, request(whole.body.slice(..cut))).await;
    let answer = short.read(&response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(answer.close(), Some((CloseCode::ProtocolError, "the body ends inside a frame")));
    assert_eq!(bed.backend.counts("Echo").started, 0);
    assert_eq!(post(&bed, Version::One, whole).await.message(1), Some(&b"pay"[..]));
    assert_eq!(bed.backend.counts("Echo").started, 1);
}

#[tokio::test]
async fn a_post_subscribes_to_no_more_than_its_client_may() {
    let bed = Bed::with(|settings| {
        let topics = vec!["secret/#".to_owned()];
        settings.acl.rules = vec![AclRule { topics, ..AclRule::new("closed", Permission::Deny) }];
        settings.acl.default = Some(Permission::Allow);
    })
    .await;
    let id = introduced(&bed, Version::One).await;
    let mut machine = Connection::short_client(Arc::new(Config::default()), hello(2, id), now());
    let add = ["secret/x", "open"].map(|filter| Filter { filter: filter.to_owned(), qos: 1 }).to_vec();
    machine.control().subscribe(Subscribe { add, remove: vec![] });
    let mut body = BytesMut::new();
    machine.poll_transmit(now(), &mut body, usize::MAX);
    post(&bed, Version::One, Post { machine, body: body.freeze() }).await;
    let held = bed.gateway().hub.subscriptions("phone-7").into_iter().map(|(filter, _)| filter);
    assert_eq!(held.collect::<Vec<_>>(), ["open"]);
}

#[tokio::test]
async fn a_number_that_was_asked_for_in_vain_does_not_run_when_it_comes() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::One).await;
    let never = Some((RpcErrorKind::Cancelled, Execution::NotRun));
    assert_eq!(post(&bed, Version::One, Post::new(asking(2, id, &[1]), &[])).await.reset(1), never);
    let late = post(&bed, Version::One, Post::new(hello(2, id), &[(1, "Echo", "pay")])).await;
    assert_eq!((late.reset(1), bed.backend.counts("Echo").started), (never, 0));
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_at_its_backend_and_does_not_begin_any_more() {
    let bed = Arc::new(Bed::start().await);
    let id = introduced(&bed, Version::Two).await;
    let held = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { post(&bed, Version::Two, Post::new(hello(2, id), &[(1, "Hold", "pay")])).await }
    });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    // The second is still on its way. A POST that names another session gives up nothing.
    for (session_id, cancelled) in [(id ^ 1, 0), (id, 1)] {
        let mut machine = Connection::short_client(Arc::new(Config::default()), hello(3, session_id), now());
        let unwanted = RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "");
        [1, 2].iter().for_each(|&seq| machine.reset(seq, &unwanted));
        let mut body = BytesMut::new();
        machine.poll_transmit(now(), &mut body, usize::MAX);
        let answer = post(&bed, Version::Two, Post { machine, body: body.freeze() }).await;
        assert_eq!((answer.close(), answer.welcome().resumed), (None, cancelled == 1));
        if cancelled == 1 {
            bed.backend.wait("Hold", |counts| counts.cancelled == 1).await;
        }
        assert_eq!(bed.backend.counts("Hold").cancelled, cancelled);
    }
    assert_eq!(held.await.unwrap().reset(1), Some((RpcErrorKind::Cancelled, Execution::MayHaveRun)));
    let calls = [(1, "Echo", "pay"), (2, "Echo", "pay")];
    let late = post(&bed, Version::Two, Post::new(hello(2, id), &calls)).await;
    for seq in [1, 2] {
        assert_eq!(late.reset(seq).map(|(kind, _)| kind), Some(RpcErrorKind::OutcomeExpired));
    }
    assert_eq!(bed.backend.counts("Echo").started, 0);
}

/// Larger than every window, so that it goes to its backend as it comes, and the answer as it is taken.
#[tokio::test]
async fn a_large_message_passes_both_ways() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::Two).await;
    let message = Bytes::from(noise(900_000));
    let mut machine = Connection::short_client(Arc::new(Config::default()), hello(2, id), now());
    call(&mut machine, 1, "Echo", message.clone(), false);
    call(&mut machine, 2, "Echo", &b"small"[..], false);
    let mut body = BytesMut::new();
    machine.poll_transmit(now(), &mut body, usize::MAX);
    let answer = post(&bed, Version::Two, Post { machine, body: body.freeze() }).await;
    let received: usize = answer
        .events
        .iter()
        .map(|event| match event {
            Event::MessagePart { seq: 1, bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert_eq!((received, answer.message(2)), (message.len(), Some(&b"small"[..])));
    assert!(answer.unanswered.is_empty());
    assert_eq!(bed.backend.counts("Echo").started, 2);
}

#[tokio::test]
async fn pushes_that_wait_come_with_the_answer_until_they_are_acknowledged() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::Two).await;
    bed.push("phone-7", "one");
    bed.push("phone-7", "two");
    let answer = post(&bed, Version::Two, Post::new(hello(2, id), &[])).await;
    let payloads: Vec<_> = answer.pushes().iter().map(|push| push.payload.clone()).collect();
    assert_eq!(payloads, ["one", "two"]);
    let taken = towline_protocols::link::PushesTaken {
        push_line: answer.welcome().push_line,
        ids: vec![0, 0, 0, answer.pushes()[0].id],
    };
    let next = Post::new(Hello { pushes_taken: Some(taken), ..hello(3, id) }, &[]);
    let answer = post(&bed, Version::Two, next).await;
    assert_eq!(answer.pushes().iter().map(|push| push.payload.clone()).collect::<Vec<_>>(), ["two"]);
}

#[tokio::test]
async fn a_post_does_not_end_the_link_and_a_newer_link_ends_the_post() {
    let bed = Bed::start().await;
    let id = introduced(&bed, Version::One).await;
    let (mut tcp, _machine) = link(&bed, hello(2, id), &[(1, "Hold", "x")]).await;
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    let answer = post(&bed, Version::One, Post::new(hello(3, id), &[(2, "Echo", "beside")])).await;
    assert_eq!(answer.message(2), Some(&b"beside"[..]));
    let old = post(&bed, Version::One, Post::new(hello(2, id), &[(3, "Echo", "old")])).await;
    assert_eq!(old.close().map(|(code, _)| code), Some(CloseCode::TakenOver));
    let held = Post::new(hello(4, id), &[(4, "Hold", "y")]);
    let response = send(&bed, Version::One, request(held.body.clone())).await;
    bed.backend.wait("Hold", |counts| counts.started == 2).await;
    let (_newer, _machine) = link(&bed, asking(5, id, &[1, 4]), &[]).await;
    let answer = held.read(&response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(answer.close().map(|(code, _)| code), Some(CloseCode::TakenOver));
    bed.backend.release();
    let mut rest = Vec::new();
    _ = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut rest).await;
    assert_eq!((bed.backend.counts("Hold").cancelled, bed.backend.counts("Echo").started), (0, 1));
}

#[tokio::test]
async fn a_post_logs_in_by_password_and_then_by_token() {
    let bed = Bed::start().await;
    let login = |epoch, id| Hello { user: USER.0.into(), password: USER.1.into(), ..hello(epoch, id) };
    let ask = async |post: Post| {
        let response = to(&bed, "door", Version::One, request(post.body.clone())).await;
        post.read(&response.into_body().collect().await.unwrap().to_bytes())
    };
    let first = ask(Post::new(login(1, 0), &[])).await;
    let (id, token) = (first.welcome().session_id, first.welcome().token.clone());
    assert!(!token.is_empty());
    let shown = Hello { token: token.clone(), ..hello(2, id) };
    assert_eq!(ask(Post::new(shown.clone(), &[(1, "Echo", "pay")])).await.message(1), Some(&b"pay"[..]));
    let stranger = Hello { client_id: "phone-8".into(), ..shown };
    let refused = ask(Post::new(stranger, &[(1, "Echo", "pay")])).await;
    let (code, text) = refused.close().unwrap();
    assert_eq!(
        (code, text),
        (CloseCode::Unauthorized, "the session token was refused: send user and password")
    );
    assert_eq!(bed.backend.counts("Echo").started, 1);
}

#[tokio::test]
async fn bounds_are_named_and_counted() {
    let bed = Bed::with(|settings: &mut Settings| {
        settings.short.requests_max = 2;
        settings.short.body_bytes_max = 1000;
    })
    .await;
    let id = introduced(&bed, Version::Two).await;
    let three = [(1, "Echo", "a"), (2, "Echo", "b"), (3, "Echo", "c")];
    let answer = post(&bed, Version::Two, Post::new(hello(2, id), &three)).await;
    assert_eq!(answer.message(2), Some(&b"b"[..]));
    assert_eq!(answer.reset(3), Some((RpcErrorKind::LimitExceeded, Execution::NotRun)));
    let many = post(&bed, Version::Two, Post::new(asking(3, id, &[1, 2, 3]), &[])).await;
    assert_eq!(many.close().map(|(code, _)| code), Some(CloseCode::LimitExceeded));
    assert_eq!(limit(&bed, "short.requests_max"), 2);

    let large = Post::new(hello(4, id), &[(4, "Echo", &"x".repeat(2000))]);
    let response = send(&bed, Version::Two, request(large.body.clone())).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((limit(&bed, "short.body_bytes_max"), bed.backend.counts("Echo").started), (1, 2));

    // Nothing but what is late, however slow the machine is.
    let bed = Bed::with(|settings| settings.short.answer_time_max = Duration::from_millis(300)).await;
    let id = introduced(&bed, Version::Two).await;
    let late = post(&bed, Version::Two, Post::new(hello(2, id), &[(1, "Hold", "x")])).await;
    assert_eq!((late.unanswered, limit(&bed, "short.answer_time_max")), (vec![1], 1));
    bed.backend.release();
}

#[tokio::test]
async fn what_is_no_post_of_frames_is_told_so_and_http_goes_on_beside_it() {
    let bed = Bed::start().await;
    let frames = || request(Post::new(hello(1, 0), &[]).body);
    let mut get = frames();
    *get.method_mut() = Method::GET;
    let response = send(&bed, Version::One, get).await;
    assert_eq!(
        (response.status(), &response.headers()[header::ALLOW]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    let mut json = frames();
    json.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    let response = send(&bed, Version::Two, json).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(response.headers()["accept-post"], "application/towline");
    let mut elsewhere = frames();
    *elsewhere.uri_mut() = "http://edge.example/towline/2".parse().unwrap();
    assert_eq!(
        send(&bed, Version::One, elsewhere).await.status(),
        StatusCode::NOT_FOUND,
        "a path without a route"
    );

    let bed = Bed::with(|settings| {
        let plain = settings.listeners.iter_mut().find(|it| &*it.name == "plain").unwrap();
        plain.protocols.retain(|protocol| *protocol != towline_gateway::settings::ListenerProtocol::Link);
    })
    .await;
    assert_eq!(send(&bed, Version::One, frames()).await.status(), StatusCode::NOT_FOUND);
    let bed = Bed::with(|settings| settings.short.enabled = false).await;
    assert_eq!(send(&bed, Version::Two, frames()).await.status(), StatusCode::NOT_FOUND);
}
