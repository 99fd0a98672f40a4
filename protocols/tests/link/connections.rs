//! What concerns a whole connection: introduction, heartbeat, pushes, floods, memory.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use towline_protocols::compress::Dictionary;
use towline_protocols::link::{
    ClientFacts, CloseCode, Config, Connection, Control, Event, Execution, Hello, LinkError, Priority,
    Publish, Push, Report, RpcError, RpcErrorKind, StreamCodec, Subscribe, Welcome,
    frame::{DataFrame, FLAG_COMPRESSED, Frame, Part, RequestFrame, encode},
    proto::Latencies,
};

use crate::pair::{Pair, field, head, hello, noise, origin, status_200};

fn wire(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    encode(frame, &mut out);
    out
}

#[test]
fn a_hello_that_breaks_a_rule_is_refused() {
    let check = |hello: Hello, rule: &str| {
        let mut pair = Pair::with(Config::default(), Config::default(), hello);
        let error = pair.run().unwrap_err();
        assert_eq!(error.code, CloseCode::ProtocolError);
        assert!(error.rule.contains(rule), "{}", error.rule);
    };
    let facts = ClientFacts { region: "r".repeat(65), ..ClientFacts::default() };
    check(Hello { facts: Some(facts), ..hello() }, "facts");
    check(Hello { client_id: String::new(), ..hello() }, "client_id");
    check(Hello { client_id: "x".repeat(65), ..hello() }, "client_id");
    check(Hello { client_id: "a b".into(), ..hello() }, "client_id");
    check(Hello { session_secret: Bytes::from_static(&[1; 15]), ..hello() }, "session_secret");
    check(Hello { epoch: 0, ..hello() }, "epochs start at 1");
    let waiting = vec![towline_protocols::link::Waiting { seq: u64::MAX, ..Default::default() }];
    check(Hello { waiting, ..hello() }, "below 2^62");
    check(Hello { outcome_floor: 1 << 62, ..hello() }, "below 2^62");
}

#[test]
fn secrets_do_not_reach_debug_output() {
    let mut secret = Hello { password: "hunter2".into(), session_secret: vec![0xab; 16].into(), ..hello() };
    secret
        .session_headers
        .push(towline_protocols::link::Header { name: "x-token".into(), value: "tok-123".into() });
    let text = format!("{secret:?} {:?}", Event::Hello(Box::new(secret.clone())));
    assert!(!text.contains("hunter2") && !text.contains("171") && !text.contains("xab"), "{text}");
    assert!(!text.contains("tok-123") && !format!("{:?}", secret.session_headers).contains("tok-123"));
}

#[test]
fn frames_out_of_order_close() {
    let check = |frame: Frame| {
        let mut pair = Pair::introduced(Config::default());
        pair.to_server = wire(&frame);
        assert_eq!(pair.run().unwrap_err().code, CloseCode::ProtocolError, "{frame:?}");
    };
    check(Frame::Hello(Box::new(hello())));
    check(Frame::Welcome(Box::default()));
    check(Frame::Policy(Default::default()));
    let latencies = Latencies { buckets: vec![160], counts: vec![1] };
    check(Frame::Report(Box::new(Report { latencies: Some(latencies), ..Report::default() })));
    let part = Part { compressed: false, more: false, bytes: Bytes::from_static(b"x") };
    check(Frame::Data(DataFrame { seq: 9, part, end: false }));
    let mut first = Connection::server(Arc::default(), origin());
    let error = first.handle_bytes(origin(), &mut BytesMut::from(&b"GET / HTTP/1.1"[..])).unwrap_err();
    assert!(error.rule.contains("preface"));
}

#[test]
fn a_broken_header_block_closes() {
    let mut pair = Pair::introduced(Config::default());
    let request = RequestFrame {
        seq: 1,
        priority: Priority::NORMAL,
        idempotent: false,
        acknowledges: false,
        heard: false,
        deadline_ms: None,
        header_block: Bytes::from_static(&[0x80]),
        part: None,
        end: true,
    };
    pair.to_server = wire(&Frame::Request(request));
    assert_eq!(pair.run().unwrap_err().code, CloseCode::HeaderCompression);
}

#[test]
fn a_dictionary_that_is_not_held_resets_that_request_only() {
    let mut pair = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_request(2, head(Priority::NORMAL), false).unwrap();
    pair.run().unwrap();
    // A zstd frame of one byte that names dictionary 9.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 9, 1, 0x09, 0, 0, b'x'];
    let bytes: Bytes = [&[1][..], &zstd].concat().into();
    let part = Part { compressed: true, more: false, bytes };
    pair.to_server = wire(&Frame::Data(DataFrame { seq: 1, part, end: true }));
    assert_eq!(pair.to_server[0] & FLAG_COMPRESSED, FLAG_COMPRESSED);
    pair.client.send_message(2, Bytes::from_static(b"fine"), true).unwrap();
    pair.run().unwrap();
    let reset = |event: &Event| matches!(event, Event::Reset { seq: 1, error } if error.kind == RpcErrorKind::UnknownDictionary);
    assert!(pair.client_events.iter().any(reset));
    assert_eq!(pair.server_bytes(2), 4);
}

#[test]
fn a_common_dictionary_is_used_until_the_peer_does_not_know_it() {
    let order = |n: u32| format!("{{\"order\":{},\"item\":\"coffee\",\"size\":\"large\"}}", n * 7919);
    let samples: Vec<String> = (0..2000).map(order).collect();
    let dictionary = Dictionary::new(zstd::dict::from_samples(&samples, 4096).unwrap(), 3).unwrap();
    let config = Config::default();
    config.dictionaries.insert(dictionary).unwrap();
    let mut pair = Pair::introduced(config);
    let call = |seq: u64, pair: &mut Pair| {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, order(5000).repeat(2).into(), true).unwrap();
        let bytes = pair.client.poll_transmit(pair.now, &mut pair.to_server, usize::MAX);
        pair.run().unwrap();
        assert_eq!(pair.server_bytes(seq), order(5000).len() * 2);
        bytes
    };
    call(1, &mut pair);
    let with = call(2, &mut pair);
    pair.server.reset(2, &RpcError::new(RpcErrorKind::UnknownDictionary, Execution::NotRun, "rolled back"));
    pair.run().unwrap();
    assert!(call(3, &mut pair) > with + 10);
    assert!(pair.client.control().peer().compressor.as_ref().unwrap().dictionary().is_none());
}

#[test]
fn a_promise_is_kept_by_beats_and_its_breach_is_noticed() {
    let promise = Hello { next_beat_s: 30, ..hello() };
    let mut pair = Pair::with(Config::default(), Config::default(), promise);
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    pair.run().unwrap();
    pair.server_events.clear();
    for _ in 0..20 {
        let due = pair.client.poll_timeout().unwrap().min(pair.server.poll_timeout().unwrap());
        assert!(due <= pair.now + Duration::from_secs(30));
        pair.now = due;
        pair.client.handle_timeout(pair.now).unwrap();
        pair.server.handle_timeout(pair.now).unwrap();
        pair.run().unwrap();
    }
    assert!(pair.client_events.iter().any(|event| matches!(event, Event::Rtt(_))));
    // The client is gone: nothing for the promise and the grace.
    pair.advance(Duration::from_secs(44));
    assert_eq!(pair.server.handle_timeout(pair.now), Ok(()));
    pair.advance(Duration::from_secs(2));
    assert_eq!(pair.server.handle_timeout(pair.now).unwrap_err().code, CloseCode::HeartbeatMissed);
}

#[test]
fn a_client_notices_that_its_server_is_gone() {
    let mut pair = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    let mut lost = BytesMut::new();
    pair.client.poll_transmit(pair.now, &mut lost, usize::MAX);
    let error: LinkError = loop {
        let due = pair.client.poll_timeout().unwrap();
        assert!(due < pair.now + Duration::from_secs(20));
        pair.now = due;
        match pair.client.handle_timeout(due) {
            Ok(()) => _ = pair.client.poll_transmit(due, &mut lost, usize::MAX),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, CloseCode::HeartbeatMissed);
    assert_eq!(pair.client.poll_timeout(), None);
}

/// A pair whose client promised to beat so often.
fn beating(next_beat_s: u32) -> Pair {
    let mut pair = Pair::with(Config::default(), Config::default(), Hello { next_beat_s, ..hello() });
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    pair.run().unwrap();
    pair.client_events.clear();
    pair
}

#[test]
fn beats_that_go_out_meanwhile_give_a_server_that_is_gone_no_time() {
    let mut pair = beating(3);
    let (began, mut lost) = (pair.now, BytesMut::new());
    let error = loop {
        let due = pair.client.poll_timeout().unwrap();
        assert!(due <= began + Duration::from_secs(13), "a beat, and the time that its PONG has");
        pair.now = due;
        match pair.client.handle_timeout(due) {
            Ok(()) => _ = pair.client.poll_transmit(due, &mut lost, usize::MAX),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, CloseCode::HeartbeatMissed);
    assert!(pair.client.control().pings_sent() > 1, "the promise was kept");
}

#[test]
fn each_of_two_pings_that_are_out_has_its_own_round_trip() {
    let mut pair = beating(30);
    let answer = |pair: &mut Pair, id| {
        let mut pong = wire(&Frame::Pong { id });
        pair.client.handle_bytes(pair.now, &mut pong).unwrap();
        pair.collect();
        let rtt = pair.client_events.pop();
        (rtt, pair.client.control().signs().ping, pair.client.control().pings_answered())
    };
    let first = pair.now;
    pair.client.control().ping(first);
    pair.advance(Duration::from_secs(2));
    let second = pair.now;
    pair.client.control().ping(second);
    assert_eq!(pair.client.control().signs().ping, Some(first));
    pair.advance(Duration::from_secs(1));
    let of = |seconds| Some(Event::Rtt(Duration::from_secs(seconds)));
    assert_eq!(answer(&mut pair, 1), (of(3), Some(second), 1));
    assert_eq!(answer(&mut pair, 2), (of(1), None, 2));
    // What a device said before it slept is no measure.
    pair.client.control().ping(pair.now);
    pair.client.control().woke();
    assert_eq!(answer(&mut pair, 3), (None, None, 3));
}

#[test]
fn a_timeout_while_the_socket_takes_nothing_queues_one_beat() {
    let mut pair = Pair::with(Config::default(), Config::default(), Hello { next_beat_s: 1, ..hello() });
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    pair.run().unwrap();
    pair.now = pair.client.poll_timeout().unwrap();
    for _ in 0..100 {
        pair.client.handle_timeout(pair.now).unwrap();
    }
    let mut out = BytesMut::new();
    assert!(pair.client.poll_transmit(pair.now, &mut out, usize::MAX) < 10);
}

#[test]
fn a_peer_that_pings_and_does_not_read_is_closed() {
    let mut pair = Pair::introduced(Config::default());
    let flood: Vec<u8> = wire(&Frame::Ping { id: 1, next_beat_s: 0 }).repeat(100_000);
    pair.to_server = BytesMut::from(&flood[..]);
    let error = pair.server.handle_bytes(pair.now, &mut pair.to_server).unwrap_err();
    assert_eq!(error.code, CloseCode::Overload);
}

#[test]
fn pushes_and_publishes_arrive_in_order_and_compressed() {
    let mut pair = Pair::introduced(Config::default());
    let long: Bytes = (0..200).map(|n| format!("headline {n}, ")).collect::<String>().into();
    for id in 1..=3 {
        let push = Push { id, topic: "news".into(), payload: long.clone(), ..Push::default() };
        pair.server.control().push(&push).unwrap();
        let publish = Publish { id, qos: 1, topic: "t/1".into(), payload: long.clone() };
        pair.client.control().publish(&publish).unwrap();
    }
    assert!(pair.server.control().queued_bytes() < long.len());
    let too_large = Push { id: 4, payload: noise(20_000, 1), ..Push::default() };
    assert_eq!(pair.server.control().push(&too_large).unwrap_err().kind, RpcErrorKind::LimitExceeded);
    pair.client.control().subscribe(Subscribe::default());
    pair.run().unwrap();
    let ids = |events: &[Event]| -> Vec<u64> {
        let id = |event: &Event| match event {
            Event::Push(Push { id, payload, .. }) | Event::Publish(Publish { id, payload, .. }) => {
                assert_eq!(payload, &long);
                Some(*id)
            }
            _ => None,
        };
        events.iter().filter_map(id).collect()
    };
    assert_eq!((ids(&pair.client_events), ids(&pair.server_events)), (vec![1, 2, 3], vec![1, 2, 3]));
}

#[test]
fn nothing_follows_a_close() {
    let mut pair = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.client.control().close(CloseCode::Done, "bye");
    pair.client.control().ping(pair.now);
    pair.run().unwrap();
    assert!(matches!(&pair.server_events[..], [Event::Close { code: CloseCode::Done, .. }]));
    assert!(pair.client.send_request(2, head(Priority::NORMAL), true).is_err());
}

/// What ten thousand idle connections cost is ten thousand times this and what their sockets need.
#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 512, "{} bytes", size_of::<Connection>());
    assert!(size_of::<Event>() <= 128, "{} bytes", size_of::<Event>());
}

#[test]
fn a_call_over_quic_streams() {
    let now = origin();
    let config: Arc<Config> = Arc::default();
    let mut client = Control::client(config.clone(), hello(), now);
    let mut server = Control::server(config, now);
    let mut wire = BytesMut::new();
    client.poll_transmit(now, &mut wire, usize::MAX);
    server.handle_bytes(now, &mut wire).unwrap();
    assert!(matches!(server.poll_event(), Some(Event::Hello(_))));
    server.welcome(Welcome::default());
    server.poll_transmit(now, &mut wire, usize::MAX);
    client.handle_bytes(now, &mut wire).unwrap();

    let mut caller = StreamCodec::client(client.stream_settings(), 1, 3);
    let mut callee = StreamCodec::server(server.stream_settings(), 1);
    let messages = [noise(40_000, 1), Bytes::new(), b"coffee, ".repeat(1000).into(), Bytes::new()];
    caller.send_request(&head(Priority::NORMAL), false, &mut wire).unwrap();
    for (n, message) in messages.iter().enumerate() {
        caller.send_message(message.clone(), n == 3, &mut wire).unwrap();
    }
    assert!(caller.send_end(&mut wire).is_err(), "the half is over");
    assert_eq!(received(&mut callee, &mut wire), messages);
    assert_eq!((callee.seq(), callee.handle_fin(&wire)), (3, Ok(())));
    callee.send_response(&status_200(), false, &mut wire).unwrap();
    callee.send_message(messages[0].clone(), false, &mut wire).unwrap();
    callee.send_trailers(&[field("grpc-status", "0")], &mut wire).unwrap();
    assert_eq!(received(&mut caller, &mut wire), messages[..1]);
    assert!(caller.is_received());
}

/// Whole messages that arrive, the stream cut into small pieces.
fn received(codec: &mut StreamCodec, wire: &mut BytesMut) -> Vec<Bytes> {
    let (mut messages, mut message, mut input) = (Vec::new(), Vec::new(), BytesMut::new());
    while !wire.is_empty() {
        input.unsplit(wire.split_to(wire.len().min(999)));
        codec.handle_bytes(&mut input).unwrap();
        while let Some(event) = codec.poll_event().unwrap() {
            if let Event::MessagePart { bytes, end_of_message, .. } = event {
                message.extend_from_slice(&bytes);
                if end_of_message {
                    messages.push(std::mem::take(&mut message).into());
                }
            }
        }
    }
    messages
}

#[test]
fn a_quic_stream_that_is_cut_or_mixed_up_fails_alone() {
    let settings = Control::server(Arc::default(), origin()).stream_settings();
    let mut caller = StreamCodec::client(settings.clone(), 1, 1);
    let mut wire = BytesMut::new();
    caller.send_request(&head(Priority::NORMAL), false, &mut wire).unwrap();
    let mut callee = StreamCodec::server(settings.clone(), 1);
    callee.handle_bytes(&mut wire.clone()).unwrap();
    assert_eq!(callee.handle_fin(&BytesMut::new()).unwrap_err().execution, Execution::MayHaveRun);
    let mut twice = StreamCodec::server(settings.clone(), 1);
    twice.handle_bytes(&mut wire.clone()).unwrap();
    assert_eq!(twice.handle_bytes(&mut wire).unwrap_err().kind, RpcErrorKind::Malformed);
    let mut wrong = StreamCodec::server(settings, 1);
    let mut ping = crate::connections::wire(&Frame::Ping { id: 1, next_beat_s: 0 });
    assert_eq!(wrong.handle_bytes(&mut ping).unwrap_err().kind, RpcErrorKind::Malformed);
}

#[test]
fn what_streams_bring_stands_for_a_pong_until_they_fall_silent() {
    let (start, mut wire) = (origin(), BytesMut::new());
    let config = Config { ping_timeout: Duration::from_secs(10), ..Config::default() };
    let mut client = Control::client(Arc::new(config), hello(), start);
    client.poll_transmit(start, &mut wire, usize::MAX);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(client.handle_timeout(at(5)).is_ok(), "PING");
    client.heard(at(14));
    assert!(client.handle_timeout(at(15)).is_ok());
    assert!(client.handle_timeout(at(23)).is_ok());
    // What was heard before the newest sign of life changes nothing.
    client.heard(at(3));
    assert_eq!(client.handle_timeout(at(24)).unwrap_err().code, CloseCode::HeartbeatMissed);
}

#[test]
fn an_answer_whose_priority_is_told_late_is_sent_by_it_and_none_is_opened_again_for_that() {
    let mut pair = Pair::introduced(Config::default());
    for seq in [1, 2] {
        pair.client.send_request(seq, head(Priority::NORMAL), true).unwrap();
    }
    pair.run().unwrap();
    pair.server.prioritize(2, Priority::CRITICAL);
    for seq in [1, 2] {
        pair.server.send_response(seq, status_200(), true).unwrap();
        // What waits to be sent stays where it is.
        pair.server.prioritize(seq, Priority::BACKGROUND);
    }
    pair.run().unwrap();
    let answered = |event: &Event| match event {
        Event::Response { seq, .. } => Some(*seq),
        _ => None,
    };
    assert_eq!(pair.client_events.drain(..).filter_map(|event| answered(&event)).collect::<Vec<_>>(), [2, 1]);
    pair.server.prioritize(1, Priority::CRITICAL);
    let _ = pair.server.send_response(1, status_200(), true);
    let mut sent = BytesMut::new();
    assert_eq!(pair.server.poll_transmit(pair.now, &mut sent, usize::MAX), 0, "it is over");
}
