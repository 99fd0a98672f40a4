//! A stream of QUIC whose answer another one took up.

use std::time::Instant;

use bytes::BytesMut;
use quinn::{ReadError, ReadToEndError, RecvStream, VarInt};
use towline_protocols::{
    hpack::HeaderField,
    link::{Config, Control, Event, Hello, Place, RequestHead, StreamCodec},
};

use crate::{
    bed::Bed,
    raw_quic::{connect, control_event, flush, read_into},
};

/// A stream that begins with what `says` writes.
async fn stream(
    control: &Control,
    connection: &quinn::Connection,
    says: impl FnOnce(&mut StreamCodec, &mut BytesMut),
) -> (StreamCodec, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    let mut codec = StreamCodec::client(control.stream_settings(), send.id().index(), 1);
    let mut out = BytesMut::new();
    says(&mut codec, &mut out);
    send.write_all(&out).await.unwrap();
    send.finish().unwrap();
    (codec, recv)
}

/// Reads on until an event is as wanted.
async fn until(codec: &mut StreamCodec, recv: &mut RecvStream, wanted: impl Fn(&Event) -> bool) {
    let mut input = BytesMut::new();
    loop {
        while let Some(event) = codec.poll_event().unwrap() {
            if wanted(&event) {
                return;
            }
        }
        assert!(read_into(recv, &mut input).await, "the stream ended");
        codec.handle_bytes(&mut input).unwrap();
    }
}

#[tokio::test]
async fn it_is_reset_and_does_not_end_as_if_it_had_said_all() {
    let bed = Bed::start().await;
    let connection = connect(&bed, bed.address("edge")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello =
        Hello { client_id: "raw".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let mut control = Control::client(Config::default().into(), hello, Instant::now());
    flush(&mut control, &mut send).await;
    assert!(matches!(control_event(&mut control, &mut recv).await, Event::Welcome(_)));

    let fields = [(":method", "POST"), (":path", "/test/Hold"), ("content-type", "application/grpc")];
    let fields = fields.into_iter().map(|(name, value)| HeaderField::from_static(name, value)).collect();
    let head = RequestHead { fields, ..RequestHead::default() };
    let (_, mut first) = stream(&control, &connection, |codec, out| {
        codec.send_request(&head, false, out).unwrap();
        codec.send_message("pay".into(), true, out).unwrap();
    })
    .await;
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    let (mut codec, mut second) =
        stream(&control, &connection, |codec, out| codec.send_attach(Place::default(), None, out)).await;
    until(&mut codec, &mut second, |event| matches!(event, Event::Response { .. })).await;
    bed.backend.release();
    until(&mut codec, &mut second, |event| matches!(event, Event::Trailers { .. })).await;
    // 0: nothing is said of the request (PROTOCOL.md, section 1).
    let ended = first.read_to_end(1 << 10).await;
    assert_eq!(ended, Err(ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(0)))));
    assert_eq!(bed.backend.counts("Hold").started, 1);
}
