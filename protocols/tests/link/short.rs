//! Short connections: the machine whose bytes are the bodies of a POST and its answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is the test's")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use towline_protocols::link::{
    CloseCode, Config, Connection, Event, Execution, Hello, Limits, Place, Priority, Push, RpcError,
    RpcErrorKind, Waiting, Welcome,
    frame::{self, Frame, PREFACE},
};

use crate::pair::{Pair, field, head, hello, noise, origin, status_200};

fn pair(hello: Hello) -> Pair {
    let (now, config) = (origin(), Arc::new(Config::default()));
    Pair {
        client: Connection::short_client(Arc::clone(&config), hello.clone(), now),
        server: Connection::short_server(config, now),
        ..Pair::with(Config::default(), Config::default(), hello)
    }
}

/// The server's side has read HELLO and whatever followed it.
fn posted(pair: &mut Pair) -> Hello {
    pair.run().unwrap();
    let Event::Hello(hello) = pair.server_events.remove(0) else { panic!("HELLO comes first") };
    assert!(hello.short && hello.next_beat_s == 0);
    *hello
}

fn error(result: Result<(), towline_protocols::link::LinkError>) -> (CloseCode, String) {
    let error = result.unwrap_err();
    (error.code, error.rule.into_owned())
}

#[test]
fn a_post_carries_whole_requests_and_its_answer_theirs() {
    let mut pair = pair(Hello { next_beat_s: 60, ..hello() });
    for seq in [4, 5] {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, noise(10, seq), true).unwrap();
    }
    let mut first = BytesMut::new();
    pair.client.poll_transmit(pair.now, &mut first, usize::MAX);
    assert!(!first.starts_with(&PREFACE));
    pair.to_server.extend_from_slice(&first);
    posted(&mut pair);
    assert_eq!(pair.server.handle_end(&pair.to_server.clone()), Ok(vec![]));
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    for seq in [4, 5] {
        assert_eq!(pair.server_bytes(seq), 10);
        pair.server.send_response(seq, status_200(), false).unwrap();
        pair.server.send_message(seq, noise(10, seq), false).unwrap();
        pair.server.send_trailers(seq, vec![field("grpc-status", "5")]).unwrap();
    }
    pair.run().unwrap();
    assert_eq!((pair.client_bytes(4), pair.client_bytes(5)), (10, 10));
    assert!(pair.server.is_idle(), "nothing is left to be said");
    assert_eq!(pair.client.handle_end(&pair.to_client.clone()), Ok(vec![]));
}

#[test]
fn nothing_waits_for_credit_and_none_is_given() {
    let mut pair = pair(hello());
    let (up, down) = (noise(3_000_000, 1), noise(3_000_000, 2));
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(1, up.clone(), true).unwrap();
    posted(&mut pair);
    assert_eq!(pair.server_bytes(1), up.len(), "many windows");
    pair.server.credit(1, up.len());
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.server.send_message(1, down.clone(), true).unwrap();
    let mut answer = BytesMut::new();
    pair.server.poll_transmit(pair.now, &mut answer, usize::MAX);
    let frames: Vec<Frame> =
        std::iter::from_fn(|| frame::decode(&mut answer.clone(), usize::MAX).unwrap()).take(1).collect();
    assert!(matches!(frames[..], [Frame::Welcome(_)]));
    pair.to_client.extend_from_slice(&answer);
    pair.run().unwrap();
    assert_eq!(pair.client_bytes(1), down.len());
    pair.client.credit(1, down.len());
    let mut more = BytesMut::new();
    pair.client.poll_transmit(pair.now, &mut more, usize::MAX);
    assert!(more.is_empty(), "no WINDOW");
}

#[test]
fn a_compressed_message_that_is_larger_than_every_window_arrives() {
    let mut pair = pair(hello());
    pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    posted(&mut pair);
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    pair.run().unwrap();
    // Half of it repeats, so that it is compressed, and not to little.
    let half = noise(500_000, 3);
    let message = Bytes::from([&half[..], &half[..]].concat());
    pair.client.send_message(1, message.clone(), true).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.server_bytes(1), message.len());
}

#[test]
fn pushes_come_with_the_answer() {
    let mut pair = pair(hello());
    posted(&mut pair);
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    let push = Push {
        id: 7,
        priority: Priority::NORMAL,
        topic: "t".into(),
        content_type: "".into(),
        payload: "p".into(),
    };
    pair.server.control().push(&push).unwrap();
    pair.run().unwrap();
    assert!(pair.client_events.contains(&Event::Push(push)));
    assert!(pair.server.is_idle());
}

#[test]
fn what_a_post_asks_for_is_open_for_its_answer() {
    let mut pair = pair(Hello {
        waiting: vec![Waiting { seq: 3, messages_received: 1, ..Waiting::default() }],
        ..hello()
    });
    assert_eq!(posted(&mut pair).waiting.len(), 1);
    pair.server.attach(3, Priority::NORMAL);
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    let error = RpcError::new(RpcErrorKind::SessionLost, Execution::NotRun, "never arrived");
    pair.server.reset(3, &error);
    pair.run().unwrap();
    assert_eq!(pair.client_events.pop(), Some(Event::Reset { seq: 3, error }));
}

#[test]
fn what_an_exchange_does_not_need_is_refused() {
    for frame in [
        Frame::Window { seq: 0, credit: 1 },
        Frame::Ping { id: 1, next_beat_s: 0 },
        Frame::PushAck { priority: Priority::NORMAL, id: 1 },
        Frame::Attach { seq: 1, received: Place::default(), continues: false },
    ] {
        let mut pair = pair(hello());
        posted(&mut pair);
        frame::encode(&frame, &mut pair.to_server);
        let (code, rule) = error(pair.server.handle_bytes(pair.now, &mut pair.to_server));
        assert_eq!((code, &*rule), (CloseCode::ProtocolError, "a frame that short connections do not carry"));
    }
}

#[test]
fn a_hello_says_which_kind_of_connection_it_is_for() {
    let now = origin();
    let config = Arc::new(Config { limits: Limits::default(), ..Config::default() });
    for short in [true, false] {
        let hello = Hello { short: !short, ..hello() };
        let mut bytes = BytesMut::new();
        frame::encode(&Frame::Hello(Box::new(hello)), &mut bytes);
        let mut server = match short {
            true => Connection::short_server(Arc::clone(&config), now),
            false => {
                let bare = bytes.split();
                bytes.extend_from_slice(&PREFACE);
                bytes.extend_from_slice(&bare);
                Connection::server(Arc::clone(&config), now)
            }
        };
        let (code, rule) = error(server.handle_bytes(now, &mut bytes));
        assert!(code == CloseCode::ProtocolError && rule.contains("short"), "{rule}");
    }
}

#[test]
fn a_body_that_ends_too_soon_is_told_from_a_whole_one() {
    let mut pair = pair(hello());
    for (seq, end) in [(1, true), (2, false)] {
        pair.client.send_request(seq, head(Priority::NORMAL), end).unwrap();
    }
    posted(&mut pair);
    assert_eq!(pair.server.handle_end(&pair.to_server.clone()), Ok(vec![2]));
    let cut = BytesMut::from(&[3, 20, 1][..]);
    let (code, rule) = error(pair.server.handle_end(&cut).map(drop));
    assert_eq!((code, &*rule), (CloseCode::ProtocolError, "the body ends inside a frame"));
    let mut last = BytesMut::new();
    pair.server.poll_transmit(pair.now, &mut last, usize::MAX);
    let last = frame::decode(&mut last, usize::MAX).unwrap();
    assert!(matches!(last, Some(Frame::Close { code: CloseCode::ProtocolError, .. })));
}
