//! Requests on one connection: unary, streamed, compressed, prioritised, too large, too many.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use towline_protocols::link::{
    CloseCode, Config, Event, Execution, Limits, Priority, RequestHead, RpcError, RpcErrorKind, Welcome,
};

use crate::pair::{Pair, field, head, hello, noise, status_200};

#[test]
fn a_unary_call_is_one_frame_each_way() {
    let mut pair = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::CRITICAL), false).unwrap();
    pair.client.send_message(1, Bytes::from_static(b"two coffees"), true).unwrap();
    pair.run().unwrap();
    let [Event::Request { seq: 1, head: got, end: false }, Event::MessagePart { bytes, end: true, .. }] =
        &pair.server_events[..]
    else {
        panic!("{:?}", pair.server_events)
    };
    // WELCOME has been read.
    let asked = RequestHead { heard: true, ..head(Priority::CRITICAL) };
    assert_eq!((got, &bytes[..]), (&asked, &b"two coffees"[..]));
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.server.send_message(1, Bytes::new(), false).unwrap();
    pair.server.send_trailers(1, vec![field("grpc-status", "0")]).unwrap();
    pair.run().unwrap();
    let [Event::Response { .. }, Event::MessagePart { message_bytes: Some(0), .. }, Event::Trailers { .. }] =
        &pair.client_events[..]
    else {
        panic!("{:?}", pair.client_events)
    };
    pair.server.credit(1, 11);
    assert_eq!((pair.client.streams_open(), pair.server.streams_open()), (0, 0));
}

#[test]
fn a_request_goes_out_before_welcome() {
    let mut pair = Pair::new(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    assert!(matches!(pair.server_events[..], [Event::Hello(_), Event::Request { seq: 1, end: true, .. }]));
}

#[test]
fn an_empty_last_message_differs_from_no_message() {
    let mut pair = Pair::introduced(Config::default());
    for (seq, messages) in [(1, 0), (2, 1), (3, 2)] {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.run().unwrap();
        for n in 1..=messages {
            pair.client.send_message(seq, Bytes::new(), n == messages).unwrap();
        }
        if messages == 0 {
            pair.client.send_end(seq).unwrap();
        }
        pair.run().unwrap();
        let whole = pair
            .server_events
            .drain(..)
            .filter(|event| matches!(event, Event::MessagePart { end_of_message: true, .. }));
        assert_eq!(whole.count(), messages);
        pair.server.send_response(seq, status_200(), true).unwrap();
    }
    pair.run().unwrap();
    assert_eq!(pair.server.streams_open(), 0);
}

#[test]
fn a_message_that_compresses_arrives_whole() {
    let mut pair = Pair::introduced(Config::default());
    let message: Bytes = b"{\"order\":\"coffee\",\"size\":\"large\"},".repeat(20_000).into();
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(1, message.clone(), true).unwrap();
    let wire = pair.client.poll_transmit(pair.now, &mut pair.to_server, usize::MAX);
    assert!(wire < message.len() / 10, "{wire} bytes on the wire");
    pair.run().unwrap();
    let Event::MessagePart { message_bytes: Some(total), bytes, end: true, .. } = &pair.server_events[1]
    else {
        panic!("{:?}", pair.server_events)
    };
    assert_eq!((*total as usize, bytes), (message.len(), &message));
}

#[test]
fn a_giant_window_of_the_peer_does_not_fill_this_sides_memory() {
    let limits = Limits { stream_window: 1 << 30, connection_window: 1 << 30, ..Limits::default() };
    let mut pair = Pair::with(Config { limits, ..Config::default() }, Config::default(), hello());
    let window = Config::default().limits.stream_window as usize;
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    assert_eq!(pair.server.send_capacity(1), window);
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.server.send_message(1, noise(window, 1), false).unwrap();
    assert_eq!(pair.server.send_capacity(1), 0, "until the socket has taken it");
}

#[test]
fn a_reader_that_does_not_read_holds_one_window() {
    let mut pair = Pair::introduced(Config::default());
    let window = Config::default().limits.stream_window as usize;
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(1, noise(10 * window, 1), true).unwrap();
    assert_eq!(pair.client.send_capacity(1), 0);
    pair.run().unwrap();
    assert!(pair.server_bytes(1) <= window);
    let mut read = 0;
    while read < 10 * window {
        let arrived = pair.server_bytes(1) - read;
        assert!(arrived > 0 && arrived <= window, "stalled at {read}");
        pair.server.credit(1, arrived);
        read += arrived;
        pair.run().unwrap();
    }
    let writable = |event: &Event| matches!(event, Event::Writable { seq: 1 });
    assert_eq!(pair.client_events.iter().filter(|event| writable(event)).count(), 1);
}

#[test]
fn slow_readers_hold_one_connection_window_together() {
    let mut pair = Pair::introduced(Config::default());
    let limits = Config::default().limits;
    for seq in 1..=20 {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, noise(limits.stream_window as usize, seq), true).unwrap();
    }
    pair.run().unwrap();
    let held = |pair: &Pair| (1..=20).map(|seq| pair.server_bytes(seq)).sum::<usize>();
    assert!(held(&pair) <= limits.connection_window as usize);
    for round in 0.. {
        let before = held(&pair);
        for seq in 1..=20 {
            pair.server.credit(seq, limits.stream_window as usize);
        }
        pair.run().unwrap();
        if held(&pair) == before {
            break;
        }
        assert!(round < 100);
    }
    assert!((1..=20).all(|seq| pair.server_bytes(seq) == limits.stream_window as usize));
}

#[test]
fn a_reset_request_gives_its_credit_back_and_leaves_its_neighbours_alone() {
    let mut pair = Pair::introduced(Config::default());
    let cancelled = RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "not wanted");
    for seq in 1..=50 {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, noise(100_000, seq), true).unwrap();
        pair.run().unwrap();
        // Half of them are reset by the side that sends, with bytes on their way; half by the other.
        if seq % 2 == 0 {
            pair.client.reset(seq, &cancelled);
        } else {
            pair.server.reset(seq, &cancelled);
        }
        pair.run().unwrap();
        pair.server_events.clear();
    }
    pair.client.send_request(51, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(51, noise(60_000, 51), true).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.server_bytes(51), 60_000);
}

#[test]
fn a_payment_waits_for_one_frame_of_bulk_at_most() {
    let mut pair = Pair::introduced(Config::default());
    for seq in 1..=4 {
        pair.client.send_request(seq, head(Priority::BACKGROUND), false).unwrap();
        pair.client.send_message(seq, noise(60_000, seq), true).unwrap();
    }
    // A link of 64 KiB a second: one frame of 16 KiB each 250 ms.
    pair.client.poll_transmit(pair.now, &mut pair.to_server, 1);
    pair.client.poll_transmit(pair.now, &mut pair.to_server, 1);
    let before = pair.to_server.len();
    pair.client.send_request(5, head(Priority::CRITICAL), false).unwrap();
    pair.client.send_message(5, Bytes::from_static(b"pay"), true).unwrap();
    pair.client.poll_transmit(pair.now, &mut pair.to_server, 1);
    assert!(pair.to_server.len() - before < 100, "the next frame is the payment");
    pair.advance(Duration::from_millis(250));
    pair.run().unwrap();
    let order: Vec<u64> = pair
        .server_events
        .iter()
        .filter_map(|event| match event {
            Event::MessagePart { seq, end: true, .. } => Some(*seq),
            _ => None,
        })
        .collect();
    assert_eq!(order.first(), Some(&5));
}

#[test]
fn equals_take_turns() {
    let mut pair = Pair::introduced(Config::default());
    for seq in 1..=3 {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, noise(50_000, seq), true).unwrap();
    }
    pair.run().unwrap();
    let firsts: Vec<u64> = pair
        .server_events
        .iter()
        .filter_map(|event| match event {
            Event::MessagePart { seq, .. } => Some(*seq),
            _ => None,
        })
        .take(6)
        .collect();
    assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn limits_of_the_server_are_met_before_anything_is_sent() {
    let mut config = Config::default();
    config.limits.streams_max = 1;
    config.limits.header_list_bytes_max = 200;
    config.limits.message_bytes_max = 1000;
    let mut pair = Pair::introduced(config);
    let mut large = head(Priority::NORMAL);
    large.fields.push(field("x-large", &"x".repeat(200)));
    let refused = |result: Result<(), RpcError>| {
        let error = result.unwrap_err();
        assert_eq!((error.kind, error.execution), (RpcErrorKind::LimitExceeded, Execution::NotRun));
    };
    refused(pair.client.send_request(1, large, true));
    pair.client.send_request(2, head(Priority::NORMAL), false).unwrap();
    refused(pair.client.send_message(2, noise(1001, 1), true).map(drop));
    refused(pair.client.send_request(3, head(Priority::NORMAL), true));
    pair.client.send_message(2, noise(1000, 1), true).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.server_bytes(2), 1000);
}

/// A client that does not know the server's limits crosses each; only that request is refused.
#[test]
fn a_limit_crossed_before_welcome_resets_that_request_only() {
    let mut strict = Config::default();
    strict.limits.streams_max = 2;
    strict.limits.header_list_bytes_max = 200;
    strict.limits.message_bytes_max = 1000;
    let mut pair = Pair::with(Config::default(), strict, hello());
    let mut large = head(Priority::NORMAL);
    large.fields.push(field("x-large", &"x".repeat(200)));
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_request(2, large, true).unwrap();
    pair.client.send_request(3, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(3, noise(1001, 1), true).unwrap();
    pair.client.send_request(4, head(Priority::NORMAL), true).unwrap();
    pair.client.send_request(5, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    pair.server.control().welcome(Default::default());
    pair.run().unwrap();
    let resets: Vec<_> = pair
        .client_events
        .iter()
        .filter_map(|event| match event {
            Event::Reset { seq, error } => Some((*seq, error.kind, error.execution)),
            _ => None,
        })
        .collect();
    let limit = |seq| (seq, RpcErrorKind::LimitExceeded, Execution::NotRun);
    assert_eq!(resets, [limit(2), limit(3), limit(5)]);
    assert_eq!(pair.server.streams_open(), 2);
}

#[test]
fn a_frame_too_large_closes_before_its_payload_arrives() {
    let mut pair = Pair::introduced(Config::default());
    pair.to_server.extend_from_slice(&[5, 0x80, 0x10, 0, 0]);
    let error = pair.run().unwrap_err();
    assert_eq!(error.code, CloseCode::FrameTooLarge);
    let mut out = BytesMut::new();
    pair.server.poll_transmit(pair.now, &mut out, usize::MAX);
    pair.client.handle_bytes(pair.now, &mut out).unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Close { code: CloseCode::FrameTooLarge, .. })));
}

#[test]
fn more_than_the_window_closes() {
    let mut generous = Config::default();
    generous.limits.stream_window *= 4;
    generous.limits.connection_window *= 4;
    let mut pair = Pair::introduced(generous);
    // The same bytes at a server that announced less.
    let mut strict = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(1, noise(70_000, 1), true).unwrap();
    pair.client.poll_transmit(pair.now, &mut strict.to_server, usize::MAX);
    assert_eq!(strict.run().unwrap_err().code, CloseCode::FlowControl);
}
