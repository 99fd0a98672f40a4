//! What leaves a connection together.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    sync::Barrier,
    time::sleep,
};
use towline_protocols::{
    hpack::HeaderField,
    link::{self, Connection, Event, Hello, RequestHead},
};

use crate::{
    backend::{Answer, Answering, Service},
    gateway::Gateway,
    request::{Body, Origin, Protocol},
    settings::{Backend, BackendKind, Listener, Route, Settings},
};

const REQUESTS: u64 = 5;

/// Answers when so many requests have come, all of them then.
struct AllAtOnce(Arc<Barrier>);

impl Answer for AllAtOnce {
    fn answer(&self, _request: http::Request<Body>) -> Answering {
        let all = Arc::clone(&self.0);
        Box::pin(async move {
            all.wait().await;
            let body = Full::new(Bytes::from_static(b"done")).map_err(|never| match never {});
            Ok(Response::new(Body::new(body)))
        })
    }
}

/// A stream whose writes are counted.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Gives the gateway what the machine has to say, and takes in what comes back.
async fn settle(machine: &mut Connection, stream: &mut DuplexStream) -> Vec<Event> {
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    machine.poll_transmit(crate::link::now(), &mut out, usize::MAX);
    stream.write_all(&out).await.unwrap();
    // Time passes when there is nothing left to do.
    sleep(Duration::from_millis(1)).await;
    while let Some(Ok(1..)) = stream.read_buf(&mut input).now_or_never() {}
    machine.handle_bytes(crate::link::now(), &mut input).unwrap();
    std::iter::from_fn(|| machine.poll_event()).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_ready_at_one_moment_leave_in_one_write() {
    let service = Service(Arc::new(AllAtOnce(Arc::new(Barrier::new(REQUESTS as usize)))));
    let backend = Backend::new("test", BackendKind::Http2, "127.0.0.1:9");
    let gateway = Gateway::build(Settings {
        listeners: vec![Listener::plain("edge", ([127, 0, 0, 1], 0).into())],
        backends: vec![Backend { service: Some(service), ..backend }],
        routes: vec![Route { path: Some("/*".into()), ..Route::new("all", "test") }],
        ..Settings::default()
    })
    .unwrap();
    let (mut stream, far) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Counted { stream: far, writes: Arc::clone(&writes) };
    let origin = Arc::new(Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, true));
    tokio::spawn(crate::link::serve_stream(gateway, origin, counted));
    let hello =
        Hello { client_id: "phone".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let config = Arc::new(link::Config::default());
    let mut machine = Connection::client(config, hello, crate::link::now());
    let events = settle(&mut machine, &mut stream).await;
    assert!(matches!(events[..], [Event::Welcome(_), ..]), "{events:?}");

    let before = writes.load(Relaxed);
    for seq in 1..=REQUESTS {
        let fields =
            vec![HeaderField::from_static(":method", "GET"), HeaderField::from_static(":path", "/r")];
        machine.send_request(seq, RequestHead { fields, ..RequestHead::default() }, true).unwrap();
    }
    let events = settle(&mut machine, &mut stream).await;
    let answered =
        events.iter().filter(|event| matches!(event, Event::MessagePart { end: true, .. })).count();
    assert_eq!(answered as u64, REQUESTS, "{events:?}");
    assert_eq!(writes.load(Relaxed) - before, 1);
}
