//! Publishes on topics that a route sends to a backend: acknowledged when that has accepted them, in order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{future::poll_fn, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use mqtt_support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use towline_gateway::{
    gateway::Gateway,
    settings::{Backend, BackendKind, Route},
};
use towline_protocols::mqtt::*;

/// An HTTP/1.1 backend that tells of each call and answers when it is told to.
struct Hook {
    address: SocketAddr,
    /// Bodies, in the order of their arrival.
    calls: mpsc::UnboundedReceiver<String>,
    /// One permit for each answer.
    answers: Arc<Semaphore>,
}

impl Hook {
    async fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, calls) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let permits = answers.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, status, told.clone(), permits.clone()));
            }
        });
        Self { address, calls, answers }
    }

    async fn call(&mut self) -> String {
        self.calls.recv().await.unwrap()
    }

    fn answer(&self, count: usize) {
        self.answers.add_permits(count);
    }
}

async fn answer(
    mut stream: TcpStream,
    status: &'static str,
    told: mpsc::UnboundedSender<String>,
    permits: Arc<Semaphore>,
) {
    let mut input = Vec::new();
    while stream.read_buf(&mut input).await.is_ok_and(|count| count > 0) {
        while let Some(body) = take_request(&mut input) {
            told.send(body).unwrap();
            permits.acquire().await.unwrap().forget();
            let answer = if status.starts_with("200") { "noted" } else { "" };
            let length = answer.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Whether a future does not end although every other task had its turn, again and again.
async fn stalls<T>(future: impl Future<Output = T>) -> bool {
    let mut future = std::pin::pin!(future);
    for _ in 0..1000 {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Takes one whole request off the input and returns its body.
fn take_request(input: &mut Vec<u8>) -> Option<String> {
    let head_bytes = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..head_bytes]).to_ascii_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    if input.len() < head_bytes + length {
        return None;
    }
    let body = String::from_utf8_lossy(&input[head_bytes..head_bytes + length]).into_owned();
    input.drain(..head_bytes + length);
    Some(body)
}

fn gateway_to(address: SocketAddr, receive_maximum: u16) -> Arc<Gateway> {
    let mut settings = settings();
    settings.mqtt.receive_maximum = receive_maximum;
    settings.backends.push(Backend {
        connect_timeout: Duration::from_secs(5),
        connections_max: 4,
        ..Backend::new("hook", BackendKind::Http1, address.to_string())
    });
    settings.routes.push(Route {
        topic: Some("telemetry/#".to_owned()),
        call: Some("/telemetry".to_owned()),
        ..Route::new("telemetry", "hook")
    });
    gateway(settings)
}

#[tokio::test]
async fn qos_1_is_acknowledged_after_the_backend_accepted_it() {
    let mut hook = Hook::start("204 No Content").await;
    let gateway = gateway_to(hook.address, 10);
    let mut device = Client::v311(&gateway, "device").await;
    let mut listener = Client::v5(&gateway, "listener").await;
    listener.subscribe("telemetry/+", QoS::AtLeastOnce).await;
    let id = device.publish("telemetry/1", "21.5", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(hook.call().await, "21.5");
    // The backend has it and has not answered: the connection lives, and there is no PUBACK.
    device.expect_nothing().await;
    listener.expect_nothing().await;
    hook.answer(1);
    assert_eq!(device.receive().await, Some(Packet::Puback(Ack::new(id, ReasonCode::Success))));
    assert_eq!(&listener.expect_publish().await.payload[..], b"21.5");
}

#[tokio::test]
async fn publishes_of_one_connection_keep_their_order_and_others_do_not_wait() {
    let mut hook = Hook::start("204 No Content").await;
    let gateway = gateway_to(hook.address, 3);
    let mut device = Client::v5(&gateway, "device").await;
    let mut listener = Client::v5(&gateway, "listener").await;
    listener.subscribe("#", QoS::AtMostOnce).await;
    device.publish("telemetry/1", "first", QoS::AtLeastOnce).await;
    device.publish("elsewhere", "second", QoS::AtMostOnce).await;
    device.publish("telemetry/1", "third", QoS::AtLeastOnce).await;
    assert_eq!(hook.call().await, "first");
    let mut other = Client::v5(&gateway, "other").await;
    assert_eq!(other.publish_acked("elsewhere", "not held up").await, ReasonCode::Success);
    assert_eq!(&listener.expect_publish().await.payload[..], b"not held up");
    hook.answer(1);
    for expected in ["first", "second"] {
        assert_eq!(&listener.expect_publish().await.payload[..], expected.as_bytes());
    }
    assert_eq!(hook.call().await, "third");
    hook.answer(1);
    assert_eq!(&listener.expect_publish().await.payload[..], b"third");
}

#[tokio::test]
async fn a_slow_backend_holds_back_a_device_that_knows_no_receive_maximum() {
    let mut hook = Hook::start("204 No Content").await;
    let gateway = gateway_to(hook.address, 3);
    let mut device = Client::v311(&gateway, "device").await;
    // Far more than the inbox and the transport hold: the device's writes come to a stop.
    let payload = "x".repeat(10_000);
    let mut sent = 0;
    while !stalls(device.publish("telemetry/1", &payload, QoS::AtLeastOnce)).await {
        sent += 1;
        assert!(sent < 100, "the device is not held back");
    }
    assert_eq!(hook.call().await.len(), 10_000);
    assert!(hook.calls.try_recv().is_err(), "one call at a time");
    let mut other = Client::v311(&gateway, "other").await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn a_refused_publish_fails_as_its_version_can_say() {
    let mut hook = Hook::start("503 Service Unavailable").await;
    let gateway = gateway_to(hook.address, 10);
    let mut neighbour = Client::v5(&gateway, "neighbour").await;
    neighbour.subscribe("telemetry/#", QoS::AtLeastOnce).await;
    hook.answer(10);
    let mut modern = Client::v5(&gateway, "modern").await;
    assert!(modern.publish_acked("telemetry/1", "x").await.is_error());
    modern.expect_nothing().await;
    assert_eq!(hook.call().await, "x");
    let mut old = Client::v311(&gateway, "old").await;
    old.publish("telemetry/1", "y", QoS::AtLeastOnce).await;
    old.expect_end(ReasonCode::UnspecifiedError).await;
    // What will come again is not given to subscribers yet.
    neighbour.expect_nothing().await;
}

#[tokio::test]
async fn a_reply_goes_to_the_response_topic_unless_that_is_the_gateways_own() {
    let mut hook = Hook::start("200 OK").await;
    let gateway = gateway_to(hook.address, 10);
    let mut device = Client::v5(&gateway, "device").await;
    for filter in ["$SYS/own", "answers"] {
        device.subscribe(filter, QoS::AtLeastOnce).await;
    }
    hook.answer(2);
    for topic in ["$SYS/own", "answers"] {
        let mut asking =
            Publish { packet_id: Some(device.id()), ..publish("telemetry/1", "x", QoS::AtLeastOnce) };
        asking.properties.response_topic = Some(text(topic));
        device.send(Packet::Publish(Box::new(asking))).await;
        hook.call().await;
    }
    let mut topics = Vec::new();
    for _ in 0..3 {
        match device.receive().await {
            Some(Packet::Publish(publish)) => topics.push(publish.topic.as_str().to_owned()),
            other => assert!(matches!(other, Some(Packet::Puback(_))), "{other:?}"),
        }
    }
    assert_eq!(topics, ["answers"]);
}

#[tokio::test]
async fn a_reply_to_a_topic_of_too_many_levels_is_counted() {
    let mut hook = Hook::start("200 OK").await;
    let gateway = gateway_to(hook.address, 10);
    let mut device = Client::v5(&gateway, "device").await;
    hook.answer(1);
    let id = device.id();
    let mut asking = Publish { packet_id: Some(id), ..publish("telemetry/1", "x", QoS::AtLeastOnce) };
    let levels = vec!["a"; gateway.hub.levels_max() + 1];
    asking.properties.response_topic = Some(text(&levels.join("/")));
    device.send(Packet::Publish(Box::new(asking))).await;
    hook.call().await;
    // The backend has taken the message itself.
    assert_eq!(device.receive().await, Some(Packet::Puback(Ack::new(id, ReasonCode::Success))));
    assert_eq!(metric(&gateway, "towline_limit_hits_total{limit=\"mqtt.topic_levels_max\"}"), 1.0);
}

#[tokio::test]
async fn a_drain_lets_the_backend_answer_first() {
    let mut hook = Hook::start("204 No Content").await;
    let gateway = gateway_to(hook.address, 10);
    let mut device = Client::v5(&gateway, "device").await;
    let id = device.publish("telemetry/1", "last", QoS::AtLeastOnce).await.unwrap();
    hook.call().await;
    gateway.drain.begin(tokio::time::Instant::now() + Duration::from_secs(30));
    hook.answer(1);
    assert_eq!(device.receive().await, Some(Packet::Puback(Ack::new(id, ReasonCode::Success))));
    device.expect_end(ReasonCode::ServerShuttingDown).await;
}
