//! Whoever reads slowly holds its sender back, whatever its messages compress to, and nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};
use towline_client::{CallRequest, Client, Execution, RpcErrorKind, Transports};
use towline_protocols::{
    compress::Compressor,
    hpack::HeaderField,
    link::{Config, Control, Event, Hello, RequestHead, StreamCodec},
};

use crate::{
    backend::partly_noise,
    bed::{BOTH, Bed, answer, call},
    raw_quic::{connect, control_event, flush, read_into},
};

const MESSAGE_BYTES: usize = 16 << 10;

fn flood(count: usize, noise_bytes: usize) -> CallRequest {
    let number = |value: usize| HeaderValue::from_str(&value.to_string()).unwrap();
    call("Flood", "")
        .header(HeaderName::from_static("x-count"), number(count))
        .header(HeaderName::from_static("x-bytes"), number(MESSAGE_BYTES))
        .header(HeaderName::from_static("x-noise"), number(noise_bytes))
}

/// A client with the smallest windows.
fn client(bed: &Bed, transports: Transports) -> Client {
    let mut config = bed.config(transports);
    config.limits.stream_window = 64 << 10;
    config.limits.connection_window = 256 << 10;
    Client::start(config).unwrap()
}

/// A backend floods a client that takes nothing for a while: how many messages leave the backend meanwhile.
async fn ahead_of_a_slow_client(
    bed: &Bed,
    transports: Transports,
    count: usize,
    noise_bytes: usize,
) -> usize {
    let before = bed.backend.flooded();
    let client = client(bed, transports);
    let (mut sender, mut receiver) = client.stream(flood(count, noise_bytes));
    sender.finish().await.unwrap();
    receiver.head().await.unwrap();
    for _ in 0..50 {
        answer(&client, "Echo", "beside the flood").await;
    }
    let ahead = bed.backend.flooded() - before;
    let expected = partly_noise(MESSAGE_BYTES, noise_bytes);
    let mut received = 0;
    while let Some(message) = receiver.message().await.unwrap() {
        assert!(message == expected, "{transports:?}: message {received}");
        received += 1;
    }
    assert_eq!((received, receiver.grpc_status().unwrap().code), (count, 0));
    ahead
}

/// Windows of the client, the gateway and HTTP/2 hold some 100 messages.
#[tokio::test]
async fn a_slow_client_holds_its_backend_back() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let ahead = ahead_of_a_slow_client(&bed, transports, 600, MESSAGE_BYTES).await;
        assert!(ahead < 200, "{transports:?}: {ahead} messages were taken from the backend");
    }
}

/// What was taken before, and what the client has not taken, is recorded within the session's bound; beyond it, one
/// window and one message.
#[tokio::test]
async fn a_slow_client_costs_one_window_not_the_stream() {
    const RECORD_BYTES: usize = 64 << 10;
    let bed = Bed::with(|settings| settings.session.outcome_bytes_max = RECORD_BYTES).await;
    let window = bed.gateway().snapshot().settings.session.stream_window as usize;
    for transports in BOTH {
        let client = client(&bed, transports);
        let (mut sender, mut receiver) = client.stream(flood(1000, MESSAGE_BYTES));
        sender.finish().await.unwrap();
        let mut held_max = 0;
        while let Some(message) = receiver.message().await.unwrap() {
            assert_eq!(message.len(), MESSAGE_BYTES);
            held_max = held_max.max(bed.gateway().sessions.held_bytes());
        }
        let bound = RECORD_BYTES + window + 2 * MESSAGE_BYTES;
        assert!(held_max > window / 2 && held_max <= bound, "{transports:?}: {held_max} bytes");
    }
}

/// A window holds 64 of these, compressed.
#[tokio::test]
async fn a_slow_client_holds_its_backend_back_when_messages_compress() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let ahead = ahead_of_a_slow_client(&bed, transports, 1500, 1000).await;
        assert!(ahead < 500, "{transports:?}: {ahead} messages were taken from the backend");
    }
}

/// All of these fit a window as they are on the wire, and no window when decompressed.
#[tokio::test]
async fn a_slow_client_loses_nothing_of_what_compresses_to_nothing() {
    let bed = Bed::start().await;
    for transports in BOTH {
        ahead_of_a_slow_client(&bed, transports, 2000, 0).await;
    }
}

/// A client streams to a backend that does not read yet: how many messages leave the client meanwhile.
async fn ahead_of_a_slow_backend(
    bed: &Bed,
    transports: Transports,
    count: usize,
    noise_bytes: usize,
) -> usize {
    bed.backend.hold();
    let client = client(bed, transports);
    let (mut sender, mut receiver) = client.stream(call("Late", ""));
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let message = bytes::Bytes::from(partly_noise(MESSAGE_BYTES, noise_bytes));
        for _ in 0..count {
            sender.send(message.clone()).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
        sender.finish().await.unwrap();
    });
    for _ in 0..50 {
        answer(&client, "Echo", "beside the stream").await;
    }
    let ahead = sent.load(Ordering::Relaxed);
    bed.backend.release();
    sending.await.unwrap();
    let told = receiver.message().await.unwrap().unwrap();
    assert_eq!(told, (count * (MESSAGE_BYTES + 5)).to_string(), "{transports:?}");
    ahead
}

#[tokio::test]
async fn a_slow_backend_holds_its_client_back() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let ahead = ahead_of_a_slow_backend(&bed, transports, 1500, 1000).await;
        assert!(ahead < 500, "{transports:?}: {ahead} messages left the client");
    }
}

#[tokio::test]
async fn a_slow_backend_loses_nothing_of_what_compresses_to_nothing() {
    let bed = Bed::start().await;
    for transports in BOTH {
        ahead_of_a_slow_backend(&bed, transports, 2000, 0).await;
    }
}

/// A window holds thousands of these, compressed, and their backend takes none.
#[tokio::test]
async fn one_client_has_no_more_decompressed_in_front_of_slow_backends_than_its_connection_has_room_for() {
    const CALLS: usize = 12;
    const MESSAGE_BYTES: usize = 1_000_000;
    /// Until 4 MiB and four windows of 256 KiB are held.
    const ROOM_FOR: usize = 6;
    for transports in BOTH {
        let bed = Bed::start().await;
        bed.backend.hold();
        let client = bed.client(transports);
        // Nothing is compressed before WELCOME.
        answer(&client, "Echo", "").await;
        let late = |client: Client| async move { answer(&client, "Late", vec![0; MESSAGE_BYTES]).await };
        let calls: Vec<_> = (0..CALLS).map(|_| tokio::spawn(late(client.clone()))).collect();
        let held = || bed.gateway().sessions.held_bytes() / MESSAGE_BYTES;
        while held() < ROOM_FOR {
            tokio::task::yield_now().await;
        }
        // What would go on is behind all of these on the link.
        answer(&client, "Echo", "").await;
        assert_eq!(held(), ROOM_FOR, "{transports:?}");
        bed.backend.release();
        for call in calls {
            assert_eq!(call.await.unwrap(), (MESSAGE_BYTES + 5).to_string());
        }
    }
}

/// Of each a few bytes came over the link, and the backend reads none of them yet.
#[tokio::test]
async fn what_decompresses_in_front_of_slow_backends_is_bounded_for_all_sessions_together() {
    const MESSAGE_BYTES: usize = 1_000_000;
    const ROOM_FOR: usize = 3;
    for transports in BOTH {
        let bed = Bed::with(|settings| settings.session.held_bytes_max = ROOM_FOR * MESSAGE_BYTES).await;
        bed.backend.hold();
        let clients: Vec<Client> = (0..=ROOM_FOR).map(|_| bed.client(transports)).collect();
        for client in &clients {
            // Nothing is compressed before WELCOME.
            answer(client, "Echo", "").await;
        }
        let [client, held @ ..] = &clients[..] else { unreachable!("they are many") };
        let mut calls = Vec::new();
        for (client, started) in held.iter().cloned().zip(1..) {
            calls.push(tokio::spawn(async move { answer(&client, "Late", vec![0; MESSAGE_BYTES]).await }));
            bed.backend.wait("Late", |counts| counts.started == started).await;
        }
        let error = client.call(call("Late", vec![0; MESSAGE_BYTES])).await.unwrap_err();
        assert_eq!((error.kind, error.execution), (RpcErrorKind::LimitExceeded, Execution::NotRun));
        assert!(error.message.contains("session.held_bytes_max"), "{transports:?}: {error}");
        bed.backend.release();
        for call in calls {
            assert_eq!(call.await.unwrap(), (MESSAGE_BYTES + 5).to_string());
        }
        assert_eq!(answer(client, "Late", vec![0; MESSAGE_BYTES]).await, (MESSAGE_BYTES + 5).to_string());
    }
}

/// Together they are many times what a connection decompresses ahead.
#[tokio::test]
async fn a_slow_backend_holds_back_what_compresses_of_many_requests() {
    const REQUESTS: u64 = 12;
    const BYTES: usize = 1_000_000;
    /// Those that begin while less than 4 MiB and four windows of 256 KiB are held.
    const ROOM_FOR: u64 = 6;
    let bed = Bed::start().await;
    bed.backend.hold();
    let connection = connect(&bed, bed.address("edge")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello =
        Hello { client_id: "raw".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let config = Config { compressor: Some(Compressor::new(3, 0)), ..Config::default() };
    let mut control = Control::client(config.into(), hello, Instant::now());
    flush(&mut control, &mut send).await;
    assert!(matches!(control_event(&mut control, &mut recv).await, Event::Welcome(_)));

    let fields = [(":method", "POST"), (":path", "/test/Late"), ("content-type", "application/grpc")];
    let fields = fields.into_iter().map(|(name, value)| HeaderField::from_static(name, value)).collect();
    let head = RequestHead { fields, ..RequestHead::default() };
    let mut streams = Vec::new();
    for seq in 1..=REQUESTS {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let mut codec = StreamCodec::client(control.stream_settings(), send.id().index(), seq);
        let mut out = BytesMut::new();
        codec.send_request(&head, false, &mut out).unwrap();
        let wire_bytes = codec.send_message(vec![0; BYTES].into(), true, &mut out).unwrap();
        assert!(wire_bytes < BYTES / 100, "it was not compressed");
        send.write_all(&out).await.unwrap();
        send.finish().unwrap();
        streams.push((codec, recv));
    }
    bed.backend.wait("Late", |counts| counts.started > 1).await;
    while waits_for_room(&bed) < REQUESTS - ROOM_FOR {
        tokio::task::yield_now().await;
    }
    bed.backend.release();
    for (mut codec, mut recv) in streams {
        let mut input = BytesMut::new();
        while read_into(&mut recv, &mut input).await {}
        codec.handle_bytes(&mut input).unwrap();
        let mut told = Vec::new();
        while let Some(event) = codec.poll_event().unwrap() {
            match event {
                Event::MessagePart { bytes, .. } => told.extend_from_slice(&bytes),
                Event::Reset { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        assert_eq!(String::from_utf8(told).unwrap(), (BYTES + 5).to_string());
    }
    assert_eq!(waits_for_room(&bed), REQUESTS - ROOM_FOR);
}

/// How often requests began to wait for room on their connection.
fn waits_for_room(bed: &Bed) -> u64 {
    const COUNTER: &str = "towline_limit_hits_total{limit=\"compressed_bytes_held\"} ";
    let metrics = bed.gateway().metrics.render();
    metrics.lines().find_map(|line| line.strip_prefix(COUNTER)?.parse().ok()).unwrap_or_default()
}
