//! The binary against a small HTTP server in this process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod tool;

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tool::{load, number};

/// Answers with the request's body, and with gRPC status 0 in trailers; `/broken` is 503.
async fn echo(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let status = if request.uri().path() == "/broken" { 503 } else { 200 };
    let body = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) }).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// Serves on a port of the kernel's choice for as long as the test's process runs.
fn server() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    server.serve_connection(TokioIo::new(socket), service_fn(echo)).await.ok();
                });
            }
        });
    });
    receiver.recv().unwrap()
}

#[test]
fn an_open_loop_of_grpc_calls_keeps_its_rate_over_two_processes() {
    let line = "http --kind h2c -c 4 --processes 2 --rate 200 --duration 500ms --warm-up 0s --bytes 100";
    let (code, report) = load(&format!("{line} --connect {}", server()));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(number(&report, "/targets/0/load/operations"), 100.0);
    assert_eq!(number(&report, "/targets/0/load/latency/count"), 100.0);
    assert_eq!(number(&report, "/targets/0/connections"), 4.0);
    assert_eq!(number(&report, "/processes"), 2.0);
    // The payload, its field key and length, gRPC's prefix and HTTP/2's frame header.
    let sent = number(&report, "/targets/0/load/bytes_sent_per_operation");
    assert!(sent > 100.0 + 2.0 + 5.0 + 9.0, "{sent}");
}

#[test]
fn a_closed_loop_over_http1_counts_failures_by_kind() {
    let line = "http --kind h1 --path /broken -c 2 --duration 200ms --warm-up 0s";
    let (code, report) = load(&format!("{line} --connect {}", server()));
    assert_eq!(code, Some(1), "nothing succeeded");
    assert_eq!(number(&report, "/targets/0/load/operations"), 0.0);
    assert!(number(&report, "/targets/0/load/errors/status/count") >= 2.0);
    assert_eq!(
        report.pointer("/targets/0/load/errors/status/example").unwrap(),
        "HTTP 503 Service Unavailable"
    );
}

#[test]
fn compare_measures_both_targets_in_turn() {
    let (direct, gateway, pid) = (server(), server(), std::process::id());
    let line = format!(
        "compare --direct {direct} --gateway {gateway} --via h2c --rounds 2 --duration 200ms --warm-up 0s \
         --rate 100 -c 2 --pid {pid}"
    );
    let (code, report) = load(&line);
    assert_eq!(code, Some(0), "{report:#}");
    for target in 0..2 {
        assert_eq!(number(&report, &format!("/targets/{target}/load/operations")), 40.0);
    }
    assert!(report.pointer("/added/p50_us").unwrap().is_number());
    assert!(number(&report, "/targets/1/load/server_cpu_us_per_operation") >= 0.0);
    assert!(report.pointer("/targets/0/load/server_cpu_us_per_operation").unwrap().is_null());
}

#[test]
fn idle_connections_are_counted_before_and_after() {
    let line = "idle --kind h1 -c 20 --hold 100ms";
    let (code, report) = load(&format!("{line} --connect {} --pid {}", server(), std::process::id()));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(number(&report, "/idle/connections_at_end"), 20.0);
    let grown = number(&report, "/idle/after/sockets") - number(&report, "/idle/before/sockets");
    assert!(grown >= 20.0, "the server's process has a socket for each: {grown}");
}

#[test]
fn nobody_listening_is_an_error_with_its_kind() {
    // Bound but not listening, so that nobody else takes the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (code, report) =
        load(&format!("http --connect {} -c 3 --duration 100ms", socket.local_addr().unwrap()));
    assert_eq!(code, Some(1));
    assert_eq!(number(&report, "/targets/0/connect_errors/refused/count"), 3.0);
}
