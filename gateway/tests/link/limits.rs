//! Every limit that a client can cross is named by the error, and its neighbours do not notice.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use towline_client::{CallRequest, Client, Execution, RpcErrorKind, Transports};

use crate::bed::{BOTH, Bed, answer, call};

async fn check(bed: &Bed, transports: Transports, request: CallRequest, limit: &str) {
    let mut config = bed.config(transports);
    config.limits.header_list_bytes_max = 100_000;
    let client = Client::start(config).unwrap();
    answer(&client, "Echo", "before").await;
    let beside = client.clone();
    let neighbour = tokio::spawn(async move { answer(&beside, "Echo", "beside").await });
    let error = client.call(request).await.unwrap_err();
    assert_eq!(error.kind, RpcErrorKind::LimitExceeded, "{error}");
    assert!(error.message.contains(limit), "{transports:?}: {error}");
    assert_eq!(neighbour.await.unwrap(), "beside");
    assert_eq!(answer(&client, "Echo", "after").await, "after");
}

#[tokio::test]
async fn a_message_too_large() {
    let bed = Bed::with(|settings| settings.limits.message_bytes_max = 50_000).await;
    for transports in BOTH {
        check(&bed, transports, call("Chat", vec![1; 50_001]), "message_bytes_max").await;
        let client = bed.client(transports);
        assert_eq!(
            answer(&client, "Echo", vec![1; 50_000]).await.len(),
            50_000,
            "the bound itself is allowed"
        );
    }
    assert_eq!(bed.backend.counts("Chat").finished, 0);
}

#[tokio::test]
async fn a_header_list_too_large() {
    let bed = Bed::with(|settings| settings.limits.header_list_bytes_max = 4096).await;
    let value = HeaderValue::from_str(&"x".repeat(5000)).unwrap();
    for transports in BOTH {
        let request = call("Chat", "x").header(HeaderName::from_static("x-large"), value.clone());
        check(&bed, transports, request, "header_list_bytes_max").await;
    }
    assert_eq!(bed.backend.counts("Chat").started, 0);
}

#[tokio::test]
async fn an_answer_larger_than_the_client_takes() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let mut config = bed.config(transports);
        config.limits.message_bytes_max = 10_000;
        let client = Client::start(config).unwrap();
        let size = HeaderValue::from_static("10001");
        let request = call("Flood", "")
            .header(HeaderName::from_static("x-count"), HeaderValue::from_static("1"))
            .header(HeaderName::from_static("x-bytes"), size);
        let error = client.call(request).await.unwrap_err();
        assert_eq!(error.kind, RpcErrorKind::LimitExceeded, "{error}");
        assert_eq!(error.execution, Execution::Ran, "{error}");
        assert_eq!(answer(&client, "Echo", "after").await, "after");
    }
    assert_eq!(bed.backend.counts("Flood").started, BOTH.len(), "nothing was run again");
}

#[tokio::test]
async fn more_requests_than_the_gateway_runs_wait_in_the_client() {
    let bed = Bed::with(|settings| settings.limits.streams_max = 3).await;
    for transports in BOTH {
        let client = bed.client(transports);
        answer(&client, "Echo", "x").await;
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call(call("Echo", "x")).await })
            })
            .collect();
        for running in calls {
            assert!(running.await.unwrap().is_ok());
        }
    }
}

#[tokio::test]
async fn requests_beyond_streams_max_are_refused_as_not_run() {
    let bed = Bed::with(|settings| settings.limits.streams_max = 2).await;
    let client = bed.client(Transports::Tcp);
    // Sent behind HELLO, before WELCOME tells the client of the bound.
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(call("Hold", "x")).await })
        })
        .collect();
    bed.backend.wait("Hold", |counts| counts.started == 2).await;
    bed.backend.release();
    let mut outcomes = Vec::new();
    for running in calls {
        outcomes.push(running.await.unwrap().err().map(|error| (error.kind, error.execution)));
    }
    outcomes.sort_by_key(Option::is_some);
    let refused = (RpcErrorKind::LimitExceeded, Execution::NotRun);
    assert_eq!(outcomes, [None, None, Some(refused)]);
    assert_eq!(answer(&client, "Echo", "after").await, "after");
}

#[tokio::test]
async fn the_clients_own_bounds_refuse_before_anything_is_sent() {
    let bed = Bed::start().await;
    let mut config = bed.config(Transports::Tcp);
    config.limits.calls_max = 2;
    config.limits.queued_bytes_max = 1000;
    let client = Client::start(config).unwrap();
    let error = client.call(call("Echo", vec![1; 1001])).await.unwrap_err();
    assert!(error.message.contains("queued_bytes_max"), "{error}");
    let held: Vec<_> = (0..2).map(|_| client.stream(call("Chat", ""))).collect();
    let error = client.call(call("Echo", "x")).await.unwrap_err();
    assert!(error.message.contains("calls_max"), "{error}");
    drop(held);
    assert_eq!(answer(&client, "Echo", "x").await, "x");
}

#[tokio::test]
async fn a_connection_without_a_hello_is_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let short = Duration::from_millis(300);
    let bed = Bed::with(|settings| settings.limits.first_message_timeout = short).await;
    let mut stream = tokio::net::TcpStream::connect(bed.address("plain")).await.unwrap();
    stream.write_all(&[0xf4, b'T', b'W', b'L']).await.unwrap();
    let mut last_words = Vec::new();
    stream.read_to_end(&mut last_words).await.unwrap();
    assert!(String::from_utf8_lossy(&last_words).contains("first_message_timeout"));
    assert!(
        bed.gateway().metrics.render().contains("limit_hits_total{limit=\"limits.first_message_timeout\"} 1")
    );
}
