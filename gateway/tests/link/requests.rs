//! Requests of every kind, over both transports.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use towline_client::{CallError, Client, Credentials, Execution, RpcErrorKind, Transport, Transports};

use crate::backend::noise;
use crate::bed::{BOTH, Bed, USER, answer, call, closed};

#[tokio::test]
async fn a_unary_call_is_answered() {
    let bed = Bed::start().await;
    for (transports, expected) in [(Transports::Tcp, Transport::Tcp), (Transports::Quic, Transport::Quic)] {
        let client = bed.client(transports);
        let echoed = HeaderValue::from_static("back");
        let request = call("Echo", "hello").header(HeaderName::from_static("x-echo"), echoed);
        let response = client.call(request).await.unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.headers["x-echo"], "back");
        assert_eq!((response.timeline.transport, response.timeline.attempts), (Some(expected), 1));
        assert_eq!(response.into_grpc().unwrap(), "hello");
        assert_eq!(answer(&client, "Echo", "").await, "", "an empty message is a message");
    }
}

#[tokio::test]
async fn a_calls_timeline_says_where_its_time_and_its_bytes_went() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let client = bed.client(transports);
        let text = "where the time went ".repeat(100);
        let first = client.call(call("Echo", text.clone())).await.unwrap().timeline;
        // It waited for the connection.
        let (dns, connect) = (first.dns.unwrap(), first.connect.unwrap());
        assert!(dns + connect + first.tls.unwrap_or_default() <= first.queue, "{first:?}");
        assert_eq!(first.tls.is_some(), transports == Transports::Tcp);
        assert!(
            first.send.unwrap() <= first.elapsed && first.queue + first.first_byte.unwrap() <= first.elapsed
        );
        assert_eq!((first.request.plain, first.response.plain), (text.len() as u64, text.len() as u64));
        assert_eq!(
            first.request.wire, first.request.plain,
            "nobody has said yet that the gateway can read frames"
        );
        assert!(first.response.wire * 4 < first.response.plain, "{first:?}");
        let second = client.call(call("Echo", text.clone())).await.unwrap().timeline;
        assert_eq!((second.dns, second.connect, second.tls), (None, None, None), "the connection was there");
        assert!(second.request.wire * 4 < second.request.plain, "{second:?}");
        let failed = client.call(call("Hold", "x").deadline(Duration::from_millis(300))).await.unwrap_err();
        let timeline = &failed.timeline;
        assert_eq!((failed.kind, timeline.attempts), (RpcErrorKind::DeadlineExceeded, 1));
        assert_eq!(timeline.transport, second.transport);
        assert!(timeline.send.unwrap() <= timeline.elapsed);
    }
}

#[tokio::test]
async fn what_needs_encryption_is_not_sent_in_the_clear() {
    let bed = Bed::start().await;
    let plain = Client::start(bed.plain(bed.address("plain"))).unwrap();
    assert_eq!(answer(&plain, "Echo", "postcard").await, "postcard");
    let refused = plain.call(call("Echo", "letter").needs_encryption()).await.unwrap_err();
    assert_eq!((refused.kind, refused.execution), (RpcErrorKind::EncryptionRequired, Execution::NotRun));
    let (_, mut receiver) = plain.stream(call("Chat", "letter").needs_encryption());
    assert_eq!(receiver.head().await.unwrap_err().kind, RpcErrorKind::EncryptionRequired);
    assert_eq!(bed.backend.counts("Echo").started, 1);
    for transports in BOTH {
        let sent = bed.client(transports).call(call("Echo", "letter").needs_encryption()).await;
        assert_eq!(sent.unwrap().into_grpc().unwrap(), "letter");
    }
}

#[tokio::test]
async fn quic_comes_first_where_it_passes() {
    let bed = Bed::start().await;
    let mut config = bed.config(Transports::QuicAndTcp);
    config.policy.fallback_delay = Duration::from_secs(20);
    config.strategies.race.warm = false;
    let client = Client::start(config).unwrap();
    let response = client.call(call("Echo", "x")).await.unwrap();
    assert_eq!(response.timeline.transport, Some(Transport::Quic));
}

#[tokio::test]
async fn tcp_takes_over_where_quic_does_not_pass() {
    let bed = Bed::with(|settings| settings.listeners[0].quic = false).await;
    let client = bed.client(Transports::QuicAndTcp);
    let response = client.call(call("Echo", "x")).await.unwrap();
    assert_eq!(response.timeline.transport, Some(Transport::Tcp));
}

#[tokio::test]
async fn a_stream_carries_messages_both_ways_as_they_come() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let client = bed.client(transports);
        let (mut sender, mut receiver) = client.stream(call("Chat", ""));
        for text in ["one", "two", "three"] {
            sender.send(text).await.unwrap();
            assert_eq!(receiver.message().await.unwrap().unwrap(), text);
        }
        sender.finish().await.unwrap();
        assert_eq!(receiver.message().await.unwrap(), None);
        assert_eq!(receiver.grpc_status().unwrap().code, 0);
        assert!(sender.send("late").await.is_err());
    }
}

#[tokio::test]
async fn a_message_may_be_larger_than_every_window() {
    let bed = Bed::start().await;
    let large: Bytes = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for transports in BOTH {
        let client = bed.client(transports);
        assert!(answer(&client, "Echo", large.clone()).await == large, "{transports:?}");
        let (mut sender, mut receiver) = client.stream(call("Chat", ""));
        sender.send(large.clone()).await.unwrap();
        sender.finish().await.unwrap();
        assert!(receiver.message().await.unwrap().unwrap() == large, "{transports:?}");
    }
}

#[tokio::test]
async fn answers_that_were_taken_give_their_credit_back() {
    let bed = Bed::start().await;
    let message = Bytes::from(noise(20_000));
    for transports in BOTH {
        let client = bed.client(transports);
        // Four times the connection's window.
        for _ in 0..200 {
            assert!(answer(&client, "Echo", message.clone()).await == message, "{transports:?}");
        }
    }
}

#[tokio::test]
async fn a_status_is_an_error_with_its_code() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let client = bed.client(transports);
        let response = client.call(call("Fail", "x")).await.unwrap();
        assert!(matches!(response.into_grpc(), Err(CallError::Grpc(status)) if status.code == 5));
    }
}

#[tokio::test]
async fn a_path_without_a_route_says_so() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let client = bed.client(transports);
        let error = client.call(towline_client::CallRequest::grpc("/other/Echo", "x")).await.unwrap_err();
        assert_eq!((error.kind, error.execution), (RpcErrorKind::NoRoute, Execution::NotRun));
        assert_eq!(answer(&client, "Echo", "x").await, "x", "the connection goes on");
    }
}

#[tokio::test]
async fn session_headers_reach_the_backend_with_every_request() {
    let bed = Bed::start().await;
    let mut config = bed.config(Transports::Tcp);
    config.session_headers = vec![("X-App".into(), "7".into())];
    let client = Client::start(config).unwrap();
    answer(&client, "Echo", "x").await;
    assert_eq!(bed.backend.last_headers()["x-app"], "7");
    let own = call("Echo", "x").header(HeaderName::from_static("x-app"), HeaderValue::from_static("8"));
    client.call(own).await.unwrap();
    let seen: Vec<_> = bed.backend.last_headers().get_all("x-app").iter().cloned().collect();
    assert_eq!(seen, ["8"], "the request's own field stands alone");
}

#[tokio::test]
async fn a_password_opens_the_door_and_a_wrong_one_does_not() {
    let bed = Bed::start().await;
    let with = |password: &str| {
        let mut config = bed.plain(bed.address("door"));
        config.credentials = Some(Credentials { user: USER.0.into(), password: password.into() });
        Client::start(config).unwrap()
    };
    let client = with(USER.1);
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let stranger = with("wrong");
    let error = stranger.call(call("Echo", "x")).await.unwrap_err();
    assert_eq!((error.kind, error.execution), (RpcErrorKind::PermissionDenied, Execution::NotRun));
    assert!(closed(&stranger).await.contains("wrong password"));
    assert_eq!(bed.backend.counts("Echo").started, 1);
}

#[tokio::test]
async fn a_deadline_ends_the_call_here_and_at_the_backend() {
    let bed = Bed::start().await;
    for (round, transports) in BOTH.into_iter().enumerate() {
        let client = bed.client(transports);
        answer(&client, "Echo", "x").await;
        let error = client.call(call("Hold", "x").deadline(Duration::from_millis(300))).await.unwrap_err();
        assert_eq!(error.kind, RpcErrorKind::DeadlineExceeded);
        bed.backend.wait("Hold", |counts| counts.cancelled == round + 1).await;
        assert_eq!(answer(&client, "Echo", "x").await, "x");
    }
}

#[tokio::test]
async fn a_call_without_a_gateway_tells_why_there_is_none() {
    let bed = Bed::start().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let client = Client::start(bed.plain(address)).unwrap();
    crate::bed::state(&client, |state| matches!(state, towline_client::ConnectionState::Offline { reason } if reason.contains("TCP"))).await;
    let error = client.call(call("Echo", "x").deadline(Duration::from_millis(1))).await.unwrap_err();
    assert_eq!(error.kind, RpcErrorKind::DeadlineExceeded);
    assert_eq!(error.execution, Execution::NotRun);
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_backend() {
    let bed = Bed::start().await;
    for (round, transports) in BOTH.into_iter().enumerate() {
        let client = bed.client(transports);
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(call("Hold", "x")).await });
        bed.backend.wait("Hold", |counts| counts.started == round + 1).await;
        running.abort();
        bed.backend.wait("Hold", |counts| counts.cancelled == round + 1).await;
        assert_eq!(answer(&client, "Echo", "x").await, "x");
    }
}
