//! A gateway that goes, and clients that are told how to behave.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use towline_client::{ConnectionState, Transports};
use towline_protocols::link::{
    CloseCode, Config, Control, Event, Hello,
    frame::{Frame, decode, encode},
};

use crate::{
    bed::{BOTH, Bed, answer, call, state},
    raw_quic,
};

/// No client's turn to leave comes while a test runs.
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_drain_lets_running_calls_finish() {
    for transports in BOTH {
        let bed = Bed::with(|settings| settings.drain_spread = Duration::ZERO).await;
        let client = bed.client(transports);
        answer(&client, "Echo", "x").await;
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
        bed.backend.wait("Hold", |counts| counts.started == 1).await;
        let serving = bed.serving;
        let gateway = serving.gateway.clone();
        let draining = tokio::spawn(async move { serving.drain().await });
        gateway.drain.watch().draining().await;
        bed.backend.release();
        assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay", "{transports:?}");
        state(&client, |state| !matches!(state, ConnectionState::Online { .. })).await;
        assert_eq!(draining.await.unwrap(), 0, "nobody was cut off");
    }
}

#[tokio::test]
async fn a_client_that_may_take_its_time_is_served_until_then() {
    for transports in BOTH {
        let bed = Bed::with(|settings| {
            (settings.drain_spread, settings.drain_timeout) = (HOUR, HOUR);
        })
        .await;
        let client = bed.client(transports);
        answer(&client, "Echo", "before").await;
        let gateway = bed.serving.gateway.clone();
        gateway.drain.begin(tokio::time::Instant::now() + HOUR);
        // GOAWAY comes before the answers to what is sent behind it.
        for word in ["one", "two", "three"] {
            assert_eq!(answer(&client, "Echo", word).await, word, "{transports:?}");
        }
        assert_eq!(bed.backend.counts("Echo").started, 4);
    }
}

fn hello(client_id: &str) -> Hello {
    let session_secret = vec![7; 16].into();
    Hello { client_id: client_id.to_owned(), session_secret, epoch: 1, ..Hello::default() }
}

/// Reads frames up to CLOSE.
async fn close(stream: &mut TcpStream) -> CloseCode {
    let mut input = BytesMut::new();
    loop {
        match decode(&mut input, 1 << 20).unwrap() {
            Some(Frame::Close { code, .. }) => return code,
            Some(_) => {}
            None => assert!(stream.read_buf(&mut input).await.unwrap() > 0, "no CLOSE"),
        }
    }
}

/// They do not follow GOAWAY.
#[tokio::test]
async fn who_is_there_when_the_time_is_over_is_told() {
    let bed = Bed::with(|settings| {
        (settings.drain_spread, settings.drain_timeout) = (Duration::ZERO, Duration::ZERO);
    })
    .await;
    let mut tcp = TcpStream::connect(bed.address("plain")).await.unwrap();
    let mut out = BytesMut::from(&b"\xf4TWL"[..]);
    encode(&Frame::Hello(Box::new(hello("tcp"))), &mut out);
    tcp.write_all(&out).await.unwrap();
    tcp.readable().await.unwrap();

    let connection = raw_quic::connect(&bed, bed.address("edge")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut control = Control::client(Config::default().into(), hello("quic"), Instant::now());
    raw_quic::flush(&mut control, &mut send).await;
    assert!(matches!(raw_quic::control_event(&mut control, &mut recv).await, Event::Welcome(_)));

    let on_quic = async {
        loop {
            if let Event::Close { code, .. } = raw_quic::control_event(&mut control, &mut recv).await {
                return code;
            }
        }
    };
    let (_, on_tcp, on_quic) = tokio::join!(bed.serving.drain(), close(&mut tcp), on_quic);
    assert_eq!((on_tcp, on_quic), (CloseCode::Shutdown, CloseCode::Shutdown));
}

#[tokio::test]
async fn a_client_moves_to_the_endpoint_that_goaway_names() {
    let next = Bed::start().await;
    let address = next.address("plain");
    let bed = Bed::with(|settings| {
        settings.drain_spread = Duration::ZERO;
        settings.drain_endpoints = vec![address.to_string()];
    })
    .await;
    let client = towline_client::Client::start(bed.plain(bed.address("plain"))).unwrap();
    answer(&client, "Echo", "x").await;
    assert_eq!(bed.serving.drain().await, 0);
    assert_eq!(answer(&client, "Echo", "y").await, "y");
    assert_eq!(next.backend.counts("Echo").started, 1);
}

#[tokio::test]
async fn a_policy_is_followed_and_one_out_of_bounds_is_not() {
    let bed = Bed::with(|settings| settings.client_policy.heartbeat = Duration::from_secs(77)).await;
    for transports in BOTH {
        let client = bed.client(transports);
        let policy = client.policies().wait_for(|policy| policy.revision != 0).await.unwrap().clone();
        assert_eq!(policy.heartbeat, Duration::from_secs(77));
    }
    let bed = Bed::with(|settings| settings.client_policy.heartbeat = Duration::from_millis(1)).await;
    let client = bed.client(Transports::Tcp);
    let before = client.policy();
    // POLICY comes right behind WELCOME, so it is there before the answer to a call.
    answer(&client, "Echo", "x").await;
    assert_eq!(client.policy(), before, "the last good one is kept");
}
