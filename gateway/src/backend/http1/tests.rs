//! A pool against backends that say exactly what a case needs.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    uri::{Authority, PathAndQuery},
};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{
    backend::outgoing::Payload,
    error::{Execution, RpcErrorKind},
    settings::BackendKind,
};

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";

/// A pool, and the connections that it makes.
async fn pool() -> (Arc<Pool>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Arc::new(Pool::new(settings::Backend::new("b", BackendKind::Http1, address))), listener)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

/// Reads up to and with this text.
async fn read_to(socket: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        read.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

fn request(method: Method, payload: Payload) -> Outgoing {
    let (authority, path) = (Authority::from_static("a"), PathAndQuery::from_static("/"));
    Outgoing { method, authority, path, headers: HeaderMap::new(), payload }
}

fn whole(body: &'static str) -> Payload {
    Payload::Whole(Bytes::from_static(body.as_bytes()))
}

/// A body that grows by what is sent.
fn fed() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, RpcError>>, Payload) {
    let (feed, mut food) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| food.poll_recv(cx));
    (feed, Payload::Stream { first: None, rest: Body::new(StreamBody::new(frames)) })
}

async fn call(pool: &Arc<Pool>, mut outgoing: Outgoing) -> Result<Response<Body>, Failed> {
    pool.call(&mut outgoing, &Progress::default()).await
}

async fn text(answer: Response<Body>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (pool, listener) = pool().await;
    let backend = tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        for answer in [
            &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ndo\r\n2\r\nne\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n",
            DONE,
        ] {
            read_to(&mut socket, "\r\n\r\nbody").await;
            // The answer comes in pieces, too.
            let (first, rest) = answer.split_at(answer.len() - 7);
            socket.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            socket.write_all(rest).await.unwrap();
        }
    });
    for expected in ["done", "done", "", "done"] {
        let answer = call(&pool, request(Method::POST, whole("body"))).await.ok().unwrap();
        assert_eq!(text(answer).await, expected);
        assert_eq!(pool.idle.lock().connections.len(), 1);
    }
    backend.await.unwrap();
}

#[tokio::test]
async fn a_connection_is_not_used_again_where_the_answer_says_so_or_goes_on() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone"[..],
            b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\ndone",
            // An answer that nobody asked for would be taken for the next one's.
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndoneHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\nHTTP/1.1",
        ] {
            let mut socket = accept(&listener).await;
            read_to(&mut socket, "\r\n\r\n").await;
            socket.write_all(answer).await.unwrap();
            tokio::spawn(async move { socket.read_u8().await });
        }
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "\r\n\r\n").await;
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil it closes").await.unwrap();
    });
    for expected in ["done", "done", "done", "done", "until it closes"] {
        let answer = call(&pool, request(Method::GET, whole(""))).await.ok().unwrap();
        assert_eq!(text(answer).await, expected);
        assert!(pool.idle.lock().connections.is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_or_spoke_on_unasked_is_replaced() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        for last_words in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n", b""] {
            let mut socket = accept(&listener).await;
            read_to(&mut socket, "\r\n\r\n").await;
            socket.write_all(DONE).await.unwrap();
            socket.write_all(last_words).await.unwrap();
        }
    });
    for _ in 0..3 {
        let answer = call(&pool, request(Method::POST, whole(""))).await.ok().unwrap();
        assert_eq!(text(answer).await, "done");
        // Until the words, or the end, are here.
        while pool.idle.lock().connections.iter_mut().any(|idle| idle.connection.is_fit()) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_begins_before_the_request_has_ended_streams_beside_it() {
    let (pool, listener) = pool().await;
    let backend = tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "1\r\na\r\n").await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        assert_eq!(read_to(&mut socket, "0\r\n\r\n").await, "1\r\nb\r\n0\r\n\r\n");
        socket.write_all(b"1\r\nb\r\n0\r\nx-sum: 1\r\n\r\n").await.unwrap();
    });
    let (feed, payload) = fed();
    feed.send(Ok(Frame::data(Bytes::from_static(b"a")))).unwrap();
    let answer = call(&pool, request(Method::POST, payload)).await.ok().unwrap();
    let mut body = answer.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    feed.send(Ok(Frame::data(Bytes::from_static(b"b")))).unwrap();
    drop(feed);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], HeaderValue::from_static("1"));
    assert!(body.frame().await.is_none());
    backend.await.unwrap();
}

#[tokio::test]
async fn a_client_that_fails_fails_its_call_alone() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "1\r\na\r\n").await;
        // Until the gateway closes it.
        let _ = socket.read_u8().await;
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "1\r\na\r\n").await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        let _ = socket.read_u8().await;
    });
    let own = RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "its own");
    let (feed, payload) = fed();
    feed.send(Ok(Frame::data(Bytes::from_static(b"a")))).unwrap();
    feed.send(Err(own.clone())).unwrap();
    let failed = call(&pool, request(Method::POST, payload)).await.err().unwrap();
    assert_eq!((failed.error, failed.stale), (own.clone(), false));
    // The same behind the answer's head.
    let (feed, payload) = fed();
    feed.send(Ok(Frame::data(Bytes::from_static(b"a")))).unwrap();
    let answer = call(&pool, request(Method::POST, payload)).await.ok().unwrap();
    feed.send(Err(own.clone())).unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap_err(), own);
}

#[tokio::test]
async fn a_backend_that_answers_instead_of_listening_is_heard() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "\r\n\r\n").await;
        socket.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        // What the gateway has written is left unread; the backend goes on listening to nothing.
        std::future::pending::<()>().await;
    });
    let (_feed, payload) = fed();
    let answer = call(&pool, request(Method::POST, payload)).await.ok().unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(pool.idle.lock().connections.is_empty(), "the request has not left whole");
}

#[tokio::test]
async fn what_breaks_off_says_whether_it_may_have_run() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        for answer in [&b""[..], b"HTTP/1.1 200", b"SSH-2.0-x\r\n"] {
            let mut socket = accept(&listener).await;
            read_to(&mut socket, "\r\n\r\n").await;
            socket.write_all(answer).await.unwrap();
        }
    });
    for stale in [true, true, false] {
        let failed = call(&pool, request(Method::GET, whole(""))).await.err().unwrap();
        assert_eq!(
            (failed.error.execution, failed.stale),
            (Execution::MayHaveRun, stale),
            "{}",
            failed.error
        );
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let (pool, listener) = pool().await;
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf0\r\n\r\n",
    ];
    tokio::spawn(async move {
        for answer in answers {
            let mut socket = accept(&listener).await;
            read_to(&mut socket, "\r\n\r\n").await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    for answer in answers {
        let body = call(&pool, request(Method::GET, whole(""))).await.ok().unwrap().into_body();
        let error = body.collect().await.expect_err(answer);
        assert_eq!((error.kind, error.execution), (RpcErrorKind::BackendFailed, Execution::MayHaveRun));
        assert!(pool.idle.lock().connections.is_empty());
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let (pool, listener) = pool().await;
    const BYTES: usize = 3 << 20;
    tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        read_to(&mut socket, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        // An echo: the answer begins long before the request has ended.
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let body = Bytes::from((0..BYTES).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let answer = call(&pool, request(Method::POST, Payload::Whole(body.clone()))).await.ok().unwrap();
    let echo = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(echo == body);
}
