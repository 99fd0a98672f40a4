//! A header block on QUIC that waits for insertions which do not come.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, VarInt};
use tokio::time::timeout;
use towline_protocols::link::{
    Config, Control, Hello,
    frame::{Frame, decode, encode},
};

use crate::{
    bed::Bed,
    raw_quic::{connect, flush, read_into},
};

/// The next instructions of the gateway's decoder. What does not come is waited for in vain.
async fn instructions(recv: &mut RecvStream, input: &mut BytesMut) -> Bytes {
    let read = async {
        loop {
            match decode(input, 1 << 20).unwrap() {
                Some(Frame::QpackDecoder(instructions)) => return instructions,
                Some(_) => {}
                None => assert!(read_into(recv, input).await, "the control stream ended"),
            }
        }
    };
    timeout(Duration::from_secs(30), read).await.unwrap()
}

#[tokio::test]
async fn its_place_is_free_when_its_stream_is_stopped() {
    let bed = Bed::with(|settings| settings.session.qpack_blocked_streams = 1).await;
    let connection = connect(&bed, bed.address("edge")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello =
        Hello { client_id: "raw".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let mut control = Control::client(Config::default().into(), hello, Instant::now());
    flush(&mut control, &mut send).await;
    // The table's capacity, and one insertion (RFC 9204, appendix B.2 and B.3).
    let mut wire = BytesMut::new();
    encode(
        &Frame::QpackEncoder(Bytes::from_static(b"\x3f\xbd\x01\x4acustom-key\x0ccustom-value")),
        &mut wire,
    );
    send.write_all(&wire).await.unwrap();
    let mut input = BytesMut::new();
    assert_eq!(&instructions(&mut recv, &mut input).await[..], [1], "Insert Count Increment");

    let (mut request, mut answer) = connection.open_bi().await.unwrap();
    // REQUEST 1 whose header block needs a second insertion.
    request.write_all(&[0x83, 6, 1, 3, 3, 3, 0, 0x80]).await.unwrap();
    answer.stop(VarInt::from_u32(0)).unwrap();
    assert_eq!(&instructions(&mut recv, &mut input).await[..], [0x41], "Stream Cancellation");
}
