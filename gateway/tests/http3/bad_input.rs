//! What does not work, and how it is said.

use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use quinn::VarInt;

use crate::bed::{Bed, get, post};

/// Opens the control stream as a client does, so that requests may follow by hand.
async fn by_hand(bed: &Bed) -> (quinn::Endpoint, quinn::Connection, quinn::SendStream) {
    let (endpoint, quic) = bed.quic("edge", b"h3").await;
    let mut control = quic.open_uni().await.unwrap();
    // Stream type 0, an empty SETTINGS.
    control.write_all(b"\x00\x04\x00").await.unwrap();
    (endpoint, quic, control)
}

/// The gateway still answers.
async fn assert_serves(bed: &Bed) {
    assert_eq!(bed.connect("edge").await.get("/hello").await.status, 200);
}

#[tokio::test]
async fn a_header_list_over_the_bound_is_answered_431_and_a_huge_one_is_not_gathered() {
    let bed = Bed::start(|settings| settings.limits.header_list_bytes_max = 8 << 10).await;
    let limit = "limits.header_list_bytes_max";
    // h3's client would keep what the gateway announced: by hand, a literal field of 9 KiB.
    let (_endpoint, quic, _control) = by_hand(&bed).await;
    let mut block = vec![0, 0, 0xd1, 0xd7, 0xc1, 0x50, 9];
    block.extend(b"localhost");
    block.extend(b"\x21x\x7f");
    let length = 9 << 10;
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    block.push(rest as u8);
    block.extend(vec![b'v'; length]);
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    let mut frame = vec![1];
    frame.extend((0x8000_0000u32 | block.len() as u32).to_be_bytes());
    frame.extend(block);
    send.write_all(&frame).await.unwrap();
    let answer = recv.read_to_end(1 << 20).await.unwrap();
    // HEADERS whose block says 431 as a literal: no entry of the static table does.
    assert!(answer.first() == Some(&1), "{answer:?}");
    bed.hit(limit, 1).await;

    // A HEADERS frame that says it has four gigabytes.
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    send.write_all(b"\x01\xc0\x00\x00\x01\x00\x00\x00\x00aaaa").await.unwrap();
    let reset = recv.read_to_end(1 << 20).await.unwrap_err().to_string();
    let code = Code::H3_EXCESSIVE_LOAD.value().to_string();
    assert!(reset.contains(&code), "{reset}");
    bed.hit(limit, 2).await;
    assert!(quic.close_reason().is_none(), "the connection goes on");
    assert_serves(&bed).await;
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused() {
    let bed = Bed::start(|settings| settings.limits.message_bytes_max = 1000).await;
    let mut peer = bed.connect("edge").await;
    let mut declared = post("/echo");
    declared.headers_mut().insert("content-length", "1001".parse().unwrap());
    let mut stream = peer.open(declared).await;
    assert_eq!(stream.recv_response().await.unwrap().status(), 413);
    let undeclared = peer.ask(post("/echo"), Bytes::from(vec![0; 1001])).await;
    assert_eq!(undeclared.status, 413);
    assert_eq!(bed.hits("limits.message_bytes_max"), 2);
    assert_eq!(peer.ask(post("/echo"), Bytes::from(vec![0; 1000])).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_reaches_no_backend_whole() {
    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("edge").await;
    for (says, bytes) in [("10", 9), ("10", 11)] {
        let mut request = post("/echo");
        request.headers_mut().insert("content-length", says.parse().unwrap());
        let answer = peer.ask(request, Bytes::from(vec![b'x'; bytes])).await;
        assert!(answer.status >= 400, "{says} and {bytes}: {}", answer.status);
    }
    for wrong in ["-1", "+5", "5, 5", "five"] {
        let mut request = post("/echo");
        request.headers_mut().insert("content-length", wrong.parse().unwrap());
        let mut stream = peer.open(request).await;
        let _ = stream.finish().await;
        assert!(stream.recv_response().await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn connection_specific_fields_are_malformed() {
    let bed = Bed::start(|_| {}).await;
    let mut peer = bed.connect("edge").await;
    for (name, value) in
        [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("te", "gzip")]
    {
        let mut request = get("/hello");
        request.headers_mut().insert(name, value.parse().unwrap());
        let mut stream = peer.open(request).await;
        let _ = stream.finish().await;
        let error = stream.recv_response().await.unwrap_err().to_string();
        assert!(error.contains("H3_MESSAGE_ERROR"), "{name}: {error}");
    }
    assert_eq!(peer.get("/hello").await.status, 200);
}

#[tokio::test]
async fn a_connection_without_requests_or_control_stream_is_closed_in_time() {
    let bed = Bed::start(|settings| {
        settings.limits.first_message_timeout = Duration::from_millis(200);
        settings.limits.idle_timeout = Duration::from_millis(300);
    });
    let bed = bed.await;
    let (_endpoint, silent) = bed.quic("edge", b"h3").await;
    silent.closed().await;
    bed.hit("limits.first_message_timeout", 1).await;
    let mut peer = bed.connect("edge").await;
    assert_eq!(peer.get("/hello").await.status, 200);
    let why = peer.driver.await.unwrap();
    assert!(why.is_h3_no_error(), "{why}");
    bed.hit("limits.idle_timeout", 1).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let bed = Bed::start(|settings| settings.limits.idle_timeout = Duration::from_millis(300)).await;
    let mut peer = bed.connect("edge").await;
    let mut stream = peer.open(post("/echo")).await;
    stream.send_data(Bytes::from_static(b"half")).await.unwrap();
    // The backend's answer may have begun: then it is its body that breaks off.
    let told = match stream.recv_response().await {
        Ok(answer) if answer.status().as_u16() < 400 => loop {
            match stream.recv_data().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        },
        _ => true,
    };
    assert!(told);
    bed.hit("limits.idle_timeout", 1).await;
}

#[tokio::test]
async fn a_client_that_only_resets_is_sent_away() {
    let bed = Bed::start(|_| {}).await;
    let (_endpoint, quic, _control) = by_hand(&bed).await;
    let closed = loop {
        let Ok((mut send, mut recv)) = quic.open_bi().await else { break quic.closed().await };
        let _ = send.write_all(b"\x01").await;
        let _ = send.reset(VarInt::from_u32(0));
        let _ = recv.stop(VarInt::from_u32(0));
    };
    assert!(closed.to_string().contains("263"), "H3_EXCESSIVE_LOAD: {closed}");
    bed.hit("http3_failed_requests", 1).await;
    assert_serves(&bed).await;
}

#[tokio::test]
async fn tiny_data_frames_do_not_make_the_gateway_read_ahead() {
    let bed = Bed::start(|settings| settings.limits.message_bytes_max = 1 << 20).await;
    let mut peer = bed.connect("edge").await;
    let mut stream = peer.open(post("/echo")).await;
    for _ in 0..5000 {
        stream.send_data(Bytes::from_static(b"x")).await.unwrap();
    }
    stream.finish().await.unwrap();
    assert_eq!(crate::bed::got(&mut stream).await.body, vec![b'x'; 5000]);
}

#[tokio::test]
async fn random_bytes_on_every_kind_of_stream_leave_the_gateway_in_service() {
    let bed = Bed::start(|settings| settings.limits.first_message_timeout = Duration::from_millis(500)).await;
    let mut random = fastrand::Rng::with_seed(11);
    let starts: [&[u8]; 7] =
        [b"", b"\x00", b"\x01\x05", b"\x00\x04\x00", b"\x02", b"\x01\x10\x00\x00\xd1", b"\x41\x00"];
    for round in 0..60 {
        let (_endpoint, quic) = bed.quic("edge", b"h3").await;
        for _ in 0..6 {
            let mut bytes = starts[random.usize(..starts.len())].to_vec();
            bytes.extend((0..random.usize(..200)).map(|_| random.u8(..)));
            let opened = match random.bool() {
                true => quic.open_bi().await.map(|(send, _)| send),
                // No more than a client is allowed.
                false => match tokio::time::timeout(Duration::from_millis(20), quic.open_uni()).await {
                    Ok(opened) => opened,
                    Err(_) => continue,
                },
            };
            let Ok(mut send) = opened else { break };
            let _ = send.write_all(&bytes).await;
            let _ = if random.bool() { send.finish() } else { send.reset(VarInt::from_u32(round)) };
        }
        quic.close(VarInt::from_u32(0), b"");
    }
    assert_serves(&bed).await;
}
