//! The answer in one frame, and the acknowledgement that costs none.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    hpack::HeaderField,
    link::{
        Ack, Config, Control, Event, Limits, LimitsMessage, Priority, RequestHead, RpcErrorKind, StreamCodec,
        Welcome,
        client::{CallOptions, Session},
        frame::{self, Frame, Part},
    },
};

use crate::pair::{Pair, field, head, hello, noise, origin, status_200};

fn ok() -> Vec<HeaderField> {
    vec![field("grpc-status", "0")]
}

fn asked() -> Pair {
    let mut pair = Pair::introduced(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    pair
}

/// Queues an answer whole, and says what went over the wire for it.
fn answer(
    pair: &mut Pair,
    fields: Vec<HeaderField>,
    message: Bytes,
    trailers: Vec<HeaderField>,
) -> Vec<Frame> {
    pair.server.send_response(1, fields, false).unwrap();
    pair.server.send_message(1, message, false).unwrap();
    pair.server.send_trailers(1, trailers).unwrap();
    let mut sent = BytesMut::new();
    pair.server.poll_transmit(pair.now, &mut sent, usize::MAX);
    pair.to_client.extend_from_slice(&sent);
    pair.run().unwrap();
    frames(sent)
}

fn frames(mut bytes: BytesMut) -> Vec<Frame> {
    std::iter::from_fn(|| frame::decode(&mut bytes, usize::MAX).unwrap()).collect()
}

fn answered(events: &[Event], message: &Bytes, status: &str) -> bool {
    let part =
        |event: &Event| matches!(event, Event::MessagePart { bytes, end: false, .. } if bytes == message);
    matches!(events, [Event::Response { fields, end: false, .. }, middle, Event::Trailers { fields: trailers, .. }]
        if *fields == status_200() && part(middle) && *trailers == vec![field("grpc-status", status)])
}

#[test]
fn an_ordinary_answer_is_one_frame() {
    let mut pair = asked();
    let message = noise(1000, 1);
    let sent = answer(&mut pair, status_200(), message.clone(), ok());
    assert!(matches!(&sent[..], [Frame::Answer { seq: 1, .. }]), "{sent:?}");
    assert!(answered(&pair.client_events, &message, "0"), "{:?}", pair.client_events);
    pair.client.credit(1, message.len());
    assert_eq!((pair.client.streams_open(), pair.server.streams_open()), (0, 0));
}

#[test]
fn an_empty_message_is_a_message() {
    let mut pair = asked();
    let sent = answer(&mut pair, status_200(), Bytes::new(), ok());
    assert!(matches!(&sent[..], [Frame::Answer { .. }]), "{sent:?}");
    assert!(answered(&pair.client_events, &Bytes::new(), "0"), "{:?}", pair.client_events);
}

#[test]
fn another_answer_keeps_its_frames() {
    let failed = vec![field("grpc-status", "5")];
    let typed = vec![field(":status", "200"), field("content-type", "application/grpc+proto")];
    let secret = vec![field(":status", "200"), HeaderField::sensitive("content-type", "application/grpc")];
    let large = noise(40_000, 2);
    let cases = [
        (status_200(), noise(10, 3), failed),
        (typed, noise(10, 3), ok()),
        (secret, noise(10, 3), ok()),
        (status_200(), large, ok()),
    ];
    for (fields, message, trailers) in cases {
        let mut pair = asked();
        let sent = answer(&mut pair, fields.clone(), message.clone(), trailers.clone());
        assert!(matches!(sent.first(), Some(Frame::Response(_))), "{sent:?}");
        let Some(Event::Trailers { fields: arrived, .. }) = pair.client_events.last() else {
            panic!("no end")
        };
        assert_eq!(*arrived, trailers);
        assert_eq!(pair.client_bytes(1), message.len());
    }
}

#[test]
fn an_answer_larger_than_its_credit_goes_in_parts() {
    let mut pair = asked();
    pair.client.send_request(2, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    // All but 36 bytes of the window of request 1.
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.server.send_message(1, noise(65_500, 4), false).unwrap();
    pair.run().unwrap();
    let before = pair.client_events.len();
    pair.server.send_message(1, noise(5_000, 5), false).unwrap();
    pair.server.send_trailers(1, ok()).unwrap();
    let sent = pair.server.send_response(2, status_200(), false);
    sent.unwrap();
    pair.server.send_message(2, noise(100, 6), false).unwrap();
    pair.server.send_trailers(2, ok()).unwrap();
    pair.run().unwrap();
    assert!(pair.client_events.len() > before);
    assert_eq!(pair.client_bytes(2), 100);
    pair.client.credit(1, 65_500);
    pair.run().unwrap();
    assert_eq!(pair.client_bytes(1), 70_500);
}

#[test]
fn an_answer_behind_a_response_or_too_large_resets_its_request() {
    let part =
        |bytes: &'static [u8]| Part { compressed: false, more: false, bytes: Bytes::from_static(bytes) };
    let mut pair = asked();
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.run().unwrap();
    frame::encode(&Frame::Answer { seq: 1, part: part(b"twice") }, &mut pair.to_client);
    pair.run().unwrap();
    let is_reset = |kind: RpcErrorKind| move |event: &Event| matches!(event, Event::Reset { seq: 1, error } if error.kind == kind);
    assert!(pair.client_events.iter().any(is_reset(RpcErrorKind::Malformed)));

    let limits = Limits { message_bytes_max: 4, ..Limits::default() };
    let mut pair = Pair::with(Config { limits, ..Config::default() }, Config::default(), hello());
    pair.run().unwrap();
    pair.server.control().welcome(Welcome { limits: Some(LimitsMessage::default()), ..Welcome::default() });
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    frame::encode(&Frame::Answer { seq: 1, part: part(b"large") }, &mut pair.to_client);
    pair.run().unwrap();
    assert!(pair.client_events.iter().any(is_reset(RpcErrorKind::LimitExceeded)));
    assert!(!pair.client_events.iter().any(|event| matches!(event, Event::Trailers { .. })));
}

/// Both ends of the stream of a request that has arrived.
fn asked_on_quic() -> (StreamCodec, StreamCodec, BytesMut) {
    let mut client = Control::client(Arc::default(), hello(), origin());
    let mut server = Control::server(Arc::default(), origin());
    let mut wire = BytesMut::new();
    client.poll_transmit(origin(), &mut wire, usize::MAX);
    server.handle_bytes(origin(), &mut wire).unwrap();
    let mut caller = StreamCodec::client(client.stream_settings(), 1, 1);
    let mut callee = StreamCodec::server(server.stream_settings(), 1);
    caller.send_request(&head(Priority::NORMAL), true, &mut wire).unwrap();
    callee.handle_bytes(&mut wire).unwrap();
    (caller, callee, wire)
}

#[test]
fn on_quic_an_answer_that_is_there_whole_is_one_frame() {
    let (mut caller, mut callee, mut wire) = asked_on_quic();
    let message = noise(1000, 7);
    callee.send_response(&status_200(), false, &mut wire).unwrap();
    callee.send_message(message.clone(), false, &mut wire).unwrap();
    assert!(wire.is_empty());
    callee.send_trailers(&ok(), &mut wire).unwrap();
    assert!(matches!(&frames(wire.clone())[..], [Frame::Answer { .. }]));
    caller.handle_bytes(&mut wire).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| caller.poll_event().unwrap()).collect();
    assert!(answered(&events, &message, "0"), "{events:?}");
    assert!(caller.is_received());
}

#[test]
fn on_quic_what_is_held_back_leaves_when_there_is_no_more() {
    let (mut caller, mut callee, mut wire) = asked_on_quic();
    let message = noise(1000, 8);
    callee.send_response(&status_200(), false, &mut wire).unwrap();
    callee.flush(&mut wire).unwrap();
    assert!(!wire.is_empty());
    callee.send_message(message.clone(), false, &mut wire).unwrap();
    callee.flush(&mut wire).unwrap();
    callee.send_trailers(&ok(), &mut wire).unwrap();
    caller.handle_bytes(&mut wire).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| caller.poll_event().unwrap()).collect();
    assert!(answered(&events, &message, "0"), "{events:?}");
}

#[test]
fn a_request_tells_what_was_taken_before_it() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let first = session.open(CallOptions::default());
    let second = session.open(CallOptions::default());
    session.taken(second);
    // The first is still wanted, so that a request cannot say it.
    let third = session.open(CallOptions::default());
    assert!(!session.acknowledge_with(third));
    assert_eq!(session.ack_due(), (1, 0));
    session.taken(first);
    assert!(session.acknowledge_with(third));
    assert_eq!(session.ack_due().0, 0);
    assert_eq!(session.take_ack(), None);
    session.taken(third);
    assert_eq!(session.take_ack(), Some(Ack { floor: 3, seqs: vec![] }));
}

#[test]
fn a_request_says_whether_its_sender_has_read_welcome() {
    let mut pair = Pair::new(Config::default());
    pair.client.send_request(1, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    pair.server.poll_transmit(pair.now, &mut pair.to_client, usize::MAX);
    // Given before WELCOME came, it leaves behind that: who gave it did not know of another session.
    pair.client.send_request(2, head(Priority::NORMAL), true).unwrap();
    pair.client.handle_bytes(pair.now, &mut pair.to_client).unwrap();
    pair.client.send_request(3, head(Priority::NORMAL), true).unwrap();
    pair.run().unwrap();
    let heard = pair.server_events.iter().filter_map(|event| match event {
        Event::Request { seq, head, .. } => Some((*seq, head.heard)),
        _ => None,
    });
    assert_eq!(heard.collect::<Vec<_>>(), [(1, false), (2, false), (3, true)]);
}

#[test]
fn the_bit_arrives() {
    let mut pair = Pair::introduced(Config::default());
    let request = RequestHead { acknowledges: true, ..head(Priority::NORMAL) };
    pair.client.send_request(5, request, true).unwrap();
    pair.run().unwrap();
    let told = |event: &Event| matches!(event, Event::Request { seq: 5, head, .. } if head.acknowledges);
    assert!(pair.server_events.iter().any(told));
}
