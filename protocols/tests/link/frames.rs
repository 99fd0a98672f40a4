//! Every frame there and back, and everything that is not one.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};
use towline_protocols::link::{
    Ack, CloseCode, Execution, Place, Priority, RpcError, RpcErrorKind,
    frame::{DataFrame, Frame, Part, PublishFrame, PushFrame, RequestFrame, ResponseFrame, decode, encode},
};

use crate::pair::{Pair, head, noise, status_200};

const FRAME_BYTES_MAX: usize = 16_640;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![1..100u64, 1..1u64 << 32, 1..1u64 << 62]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn part() -> impl Strategy<Value = Part> {
    (any::<bool>(), any::<bool>(), bytes()).prop_map(|(compressed, more, bytes)| Part {
        compressed,
        more,
        bytes,
    })
}

const EXECUTIONS: [Execution; 4] =
    [Execution::NotRun, Execution::MayHaveRun, Execution::Ran, Execution::NotNow];

fn error() -> impl Strategy<Value = RpcError> {
    (1..=15u8, 0..=3u8, 0..1_000_000u64, ".{0,40}").prop_map(|(kind, execution, pause_ms, message)| {
        RpcError {
            kind: RpcErrorKind::from_wire(kind),
            execution: EXECUTIONS[usize::from(execution)],
            retry_after: (pause_ms > 0).then(|| Duration::from_millis(pause_ms)),
            message,
        }
    })
}

fn request() -> impl Strategy<Value = RequestFrame> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (number(), 0..8u8, flags, option::of(number()), bytes(), option::of(part())).prop_map(
        |(seq, urgency, (idempotent, acknowledges, heard, end), deadline_ms, header_block, part)| {
            RequestFrame {
                seq,
                priority: Priority::new(urgency),
                idempotent,
                acknowledges,
                heard,
                deadline_ms,
                header_block,
                part,
                end,
            }
        },
    )
}

fn push() -> impl Strategy<Value = PushFrame> {
    (number(), 0..8u8, ".{0,20}", ".{0,20}", option::of(number()), bytes()).prop_map(
        |(id, urgency, topic, content_type, content_bytes, payload)| PushFrame {
            id,
            priority: Priority::new(urgency),
            topic: topic.into(),
            content_type: content_type.into(),
            content_bytes,
            payload,
        },
    )
}

fn publish() -> impl Strategy<Value = PublishFrame> {
    (number(), 0..2u8, ".{0,20}", option::of(number()), bytes()).prop_map(
        |(id, qos, topic, content_bytes, payload)| PublishFrame {
            id,
            qos,
            topic: topic.into(),
            payload,
            content_bytes,
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    let text = || ".{0,40}";
    prop_oneof![
        request().prop_map(Frame::Request),
        (number(), bytes(), option::of(part()), any::<bool>()).prop_map(|(seq, header_block, part, end)| {
            Frame::Response(ResponseFrame { seq, header_block, part, end })
        }),
        (number(), part(), any::<bool>()).prop_map(|(seq, part, end)| Frame::Data(DataFrame {
            seq,
            part,
            end
        })),
        (number(), bytes()).prop_map(|(seq, header_block)| Frame::Trailers { seq, header_block }),
        (number(), error()).prop_map(|(seq, error)| Frame::Reset { seq, error }),
        (number(), number()).prop_map(|(seq, credit)| Frame::Window { seq, credit }),
        (number(), vec(number(), 0..20)).prop_map(|(floor, seqs)| Frame::Ack(Ack { floor, seqs })),
        (number(), number()).prop_map(|(id, next_beat_s)| Frame::Ping { id, next_beat_s }),
        number().prop_map(|id| Frame::Pong { id }),
        push().prop_map(Frame::Push),
        (number(), 0u8..8).prop_map(|(id, urgency)| Frame::PushAck { priority: Priority::new(urgency), id }),
        (number(), any::<bool>(), text()).prop_map(|(revision, accepted, text)| Frame::PolicyAck {
            revision,
            accepted,
            text
        }),
        (0..13u8, text()).prop_map(|(code, text)| Frame::Close { code: CloseCode::from_wire(code), text }),
        publish().prop_map(Frame::Publish),
        (number(), text()).prop_map(|(id, error)| Frame::Published { id, error }),
        (number(), number(), any::<u16>(), any::<bool>()).prop_map(|(seq, messages, bytes, continues)| {
            let received = Place { messages, bytes: bytes.into() };
            Frame::Attach { seq, received, continues }
        }),
        bytes().prop_map(Frame::QpackEncoder),
        bytes().prop_map(Frame::QpackDecoder),
        Just(Frame::Moved),
        (31..32u8).prop_map(Frame::Extension),
    ]
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_went(frame in frame(), rest in bytes()) {
        let mut wire = BytesMut::new();
        encode(&frame, &mut wire);
        for cut in 0..wire.len() {
            let mut short = BytesMut::from(&wire[..cut]);
            prop_assert_eq!(decode(&mut short, FRAME_BYTES_MAX), Ok(None));
            prop_assert_eq!(short.len(), cut);
        }
        wire.extend_from_slice(&rest);
        prop_assert_eq!(decode(&mut wire, FRAME_BYTES_MAX), Ok(Some(frame)));
        prop_assert_eq!(wire, rest);
    }

    #[test]
    fn random_bytes_are_frames_or_errors(bytes in vec(any::<u8>(), 0..300)) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut input, FRAME_BYTES_MAX) {}
    }

    /// An honest conversation with some bytes changed, at a server and at a client: an event, an error or
    /// a close, never a panic, and never more held than the windows allow.
    #[test]
    fn damaged_conversations_end_in_order(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        at_server: bool,
    ) {
        let mut pair = Pair::introduced(Default::default());
        pair.client.send_request(1, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(1, b"coffee, ".repeat(100).into(), false).unwrap();
        pair.client.send_message(1, noise(3000, 1), true).unwrap();
        if at_server {
            pair.client.poll_transmit(pair.now, &mut pair.to_server, usize::MAX);
        } else {
            pair.run().unwrap();
            pair.server.send_response(1, status_200(), false).unwrap();
            pair.server.send_message(1, b"coffee, ".repeat(100).into(), false).unwrap();
            pair.server.send_message(1, noise(3000, 1), true).unwrap();
            pair.server.poll_transmit(pair.now, &mut pair.to_client, usize::MAX);
        }
        let wire = if at_server { &mut pair.to_server } else { &mut pair.to_client };
        for (at, value) in changes {
            let at = at.index(wire.len());
            wire[at] = value;
        }
        if pair.run().is_err() {
            let victim = if at_server { &mut pair.server } else { &mut pair.client };
            let mut out = BytesMut::new();
            victim.poll_transmit(pair.now, &mut out, usize::MAX);
            prop_assert!(!out.is_empty(), "the peer is told why");
        }
    }
}

#[test]
fn broken_rules_are_named() {
    let check = |wire: &[u8], rule: &str| {
        let error = decode(&mut BytesMut::from(wire), FRAME_BYTES_MAX).unwrap_err();
        assert!(error.rule.contains(rule), "{}: expected {rule}", error.rule);
    };
    check(&[0, 0], "frame type 0 is not defined");
    check(&[0x80 | 10, 2, 1, 0], "PING must not carry flags 0x80");
    check(&[10, 1, 1], "PING ends inside its next beat");
    check(&[11, 2, 1, 0], "PONG: 1 bytes follow the last field");
    check(&[5, 1, 0], "DATA: sequence numbers start at 1");
    check(&[3, 3, 1, 0, 9], "REQUEST ends inside its header block");
    check(&[0x20 | 3, 3, 1, 0, 0], "REQUEST: MORE and COMPRESSED need a message part");
    check(&[4, 3, 1, 1, 0], "RESPONSE: only bit 5 of options may be set");
    check(&[8, 2, 1, 0], "WINDOW: credit must not be 0");
    check(&[12, 5, 0, 0, 0, 0, 0], "PUSH: push ids start at 1");
    check(&[12, 4, 1, 0, 1, 0xff], "PUSH: topic is not UTF-8");
    check(&[20, 4, 1, 2, 0, 0], "PUBLISH: options must be 0 or 1");
    check(&[16, 2, 3, 2], "POLICY_ACK: accepted must be 0 or 1");
    check(&[1, 1, 0xff], "HELLO: malformed protobuf");
    check(&[19, 2, 1, 0xff], "CLOSE: text is not UTF-8");
    check(&[9, 0], "ACK ends inside its floor");
    check(&[0x80 | 28, 1, 1], "ANSWER must not carry flags 0x80");
    check(&[28, 0], "ANSWER ends inside its sequence number");
}

#[test]
fn texts_are_cut_at_a_character() {
    let message = "ü".repeat(1000);
    let error = RpcError::new(RpcErrorKind::Internal, Execution::MayHaveRun, message);
    let mut wire = BytesMut::new();
    encode(&Frame::Reset { seq: 1, error }, &mut wire);
    let Ok(Some(Frame::Reset { error, .. })) = decode(&mut wire, FRAME_BYTES_MAX) else { panic!() };
    assert_eq!(error.message, "ü".repeat(512));
}
