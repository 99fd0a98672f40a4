//! Clients that are faster than their listener admits, under a clock that the test moves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mqtt_support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use towline_gateway::{
    gateway::Gateway,
    run::{Serving, serve},
    settings::{Authentication, Rates, Settings},
};
use towline_protocols::mqtt::*;

const SECOND: Duration = Duration::from_secs(1);

fn limited(rate: Rates) -> Arc<Gateway> {
    let mut settings = settings();
    settings.listeners = vec![listener(Authentication::None)];
    settings.listeners[0].rate = rate;
    gateway(settings)
}

/// Publishes `count` messages of QoS 1 without waiting, then waits for all acknowledgements.
async fn burst(client: &mut Client, count: usize) -> Duration {
    let begun = Instant::now();
    for _ in 0..count {
        client.publish("t", "x", QoS::AtLeastOnce).await;
    }
    for _ in 0..count {
        assert!(matches!(client.receive().await, Some(Packet::Puback(_))));
    }
    begun.elapsed()
}

/// About the time that it should take.
#[track_caller]
fn near(took: Duration, expected: Duration) {
    assert!(took.abs_diff(expected) < SECOND / 20, "{took:?} instead of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_publishes_at_its_rate_behind_its_burst() {
    let gateway = limited(Rates { device_messages: 10, ..Rates::default() });
    let mut device = Client::v5(&gateway, "device").await;
    // Ten at once, the eleventh is taken and paid for, and so on.
    near(burst(&mut device, 11).await, Duration::ZERO);
    tokio::time::sleep(10 * SECOND).await;
    near(burst(&mut device, 31).await, 2 * SECOND);
    let hits = metric(&gateway, "towline_limit_hits_total{limit=\"listeners.rate.device_messages\"}");
    assert!(hits >= 1.0);
    // Another device has a rate of its own.
    let mut other = Client::v5(&gateway, "other").await;
    near(burst(&mut other, 10).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn all_devices_of_a_listener_share_its_rate() {
    let gateway = limited(Rates { messages: 10, ..Rates::default() });
    let mut first = Client::v5(&gateway, "first").await;
    let mut second = Client::v5(&gateway, "second").await;
    near(burst(&mut first, 11).await, Duration::ZERO);
    let took = burst(&mut second, 10).await;
    assert!(took >= SECOND - SECOND / 20, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_never_rests_is_sent_away_with_a_reason() {
    let rate = Rates { device_messages: 10, patience: 5 * SECOND, ..Rates::default() };
    let gateway = limited(rate);
    let mut flood = Client::v5(&gateway, "flood").await;
    let begun = Instant::now();
    let mut packet = bytes::BytesMut::new();
    encode(&Packet::Publish(Box::new(publish("t", "x", QoS::AtMostOnce))), Version::V5, &mut packet).unwrap();
    // Back-pressure: the transport takes no more for most of the time.
    while tokio::time::timeout(60 * SECOND, flood.stream.write_all(&packet))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {}
    flood.expect_end(ReasonCode::MessageRateTooHigh).await;
    assert!(begun.elapsed() >= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn bytes_have_a_rate_and_a_reason_of_their_own() {
    let rate = Rates { device_bytes: 1000, patience: 5 * SECOND, ..Rates::default() };
    let gateway = limited(rate);
    let mut device = Client::v5(&gateway, "device").await;
    let large = "x".repeat(2000);
    let begun = Instant::now();
    for _ in 0..2 {
        assert!(!device.publish_acked("t", &large).await.is_error());
    }
    assert!(begun.elapsed() >= SECOND, "the second waits until the first is paid for");
    tokio::time::sleep(60 * SECOND).await;
    let payload = "x".repeat(10_000);
    device.publish("t", &payload, QoS::AtMostOnce).await;
    tokio::time::sleep(9 * SECOND).await;
    device.send(Packet::Pingreq).await;
    device.expect_end(ReasonCode::QuotaExceeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_rests_in_time_stays() {
    let rate = Rates { device_messages: 10, patience: 5 * SECOND, ..Rates::default() };
    let gateway = limited(rate);
    let mut device = Client::v5(&gateway, "device").await;
    for _ in 0..10 {
        burst(&mut device, 20).await;
        tokio::time::sleep(3 * SECOND).await;
    }
    device.leave().await;
}

/// A gateway on a port of its own, whose clients the test counts.
async fn serving(rate: Rates) -> Serving {
    let mut settings = Settings::side_by_side();
    settings.listeners = vec![listener(Authentication::None)];
    settings.listeners[0].rate = rate;
    serve(Gateway::build(settings).unwrap()).await.unwrap()
}

/// Whether a client that connects is greeted.
async fn is_greeted(address: SocketAddr, id: &str) -> bool {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut out = bytes::BytesMut::new();
    encode(&Packet::Connect(Box::new(connect(Version::V5, id))), Version::V5, &mut out).unwrap();
    // It may be closed already.
    _ = tcp.write_all(&out).await;
    let mut first = [0];
    matches!(tcp.read(&mut first).await, Ok(1))
}

#[tokio::test]
async fn connections_beyond_the_listeners_rate_wait_and_are_served() {
    let serving = serving(Rates { connects: 4, burst: SECOND / 2, ..Rates::default() }).await;
    let address = serving.address(LISTENER).unwrap();
    for number in 0..5 {
        assert!(is_greeted(address, &number.to_string()).await, "{number}");
    }
    let hits = metric(&serving.gateway, "towline_limit_hits_total{limit=\"listeners.rate.connects\"}");
    assert!(hits >= 1.0);
}

#[tokio::test]
async fn connections_beyond_the_rate_of_an_address_are_closed() {
    // The second comes at once, and the bucket holds one.
    let rate = Rates { address_connects: 1, burst: Duration::from_millis(10), ..Rates::default() };
    let serving = serving(rate).await;
    let address = serving.address(LISTENER).unwrap();
    let (first, second) = tokio::join!(is_greeted(address, "a"), is_greeted(address, "b"));
    assert!(first ^ second, "one of them");
    let hits =
        metric(&serving.gateway, "towline_limit_hits_total{limit=\"listeners.rate.address_connects\"}");
    assert_eq!(hits, 1.0);
}
