//! Routes that gather messages, try again, and keep what no backend takes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use mqtt_support::*;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::Instant,
};
use towline_gateway::{
    backend::{Answer, Answering, Service, replay},
    gateway::Gateway,
    request::Body,
    run::serve,
    settings::{Backend, BackendKind, Batch, Delivery, QueueBounds, Retry, Route, Settings},
};
use towline_protocols::mqtt::*;

const SECOND: Duration = Duration::from_secs(1);

/// A backend that remembers the payloads of each call, and answers as it was told to; 200 when it was told nothing.
struct Hook {
    calls: Mutex<Vec<Vec<String>>>,
    statuses: Mutex<VecDeque<u16>>,
    /// A payload that is never taken.
    poison: Option<&'static str>,
    gate: Semaphore,
}

impl Hook {
    fn new(statuses: &[u16]) -> Arc<Self> {
        Self::with(statuses, None, Semaphore::MAX_PERMITS)
    }

    fn with(statuses: &[u16], poison: Option<&'static str>, permits: usize) -> Arc<Self> {
        let statuses = Mutex::new(statuses.iter().copied().collect());
        Arc::new(Self { calls: Mutex::default(), statuses, poison, gate: Semaphore::new(permits) })
    }

    fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().clone()
    }
}

struct Front(Arc<Hook>);

impl Answer for Front {
    fn answer(&self, request: Request<Body>) -> Answering {
        let hook = self.0.clone();
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let payloads = payloads(&body);
            hook.calls.lock().push(payloads.clone());
            hook.gate.acquire().await.unwrap().forget();
            let is_poisoned =
                hook.poison.is_some_and(|poison| payloads.iter().any(|payload| payload == poison));
            let status = if is_poisoned { 422 } else { hook.statuses.lock().pop_front().unwrap_or(200) };
            let body = Body::new(Empty::new().map_err(|never| match never {}));
            Ok(Response::builder().status(status).body(body).unwrap())
        })
    }
}

/// Of a batch, or of one message.
fn payloads(body: &Bytes) -> Vec<String> {
    let Ok(serde_json::Value::Array(messages)) = serde_json::from_slice(body) else {
        return vec![String::from_utf8(body.to_vec()).unwrap()];
    };
    let decode = |message: &serde_json::Value| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        assert_eq!(message["topic"], format!("t/{}", message["client_id"].as_str().unwrap()));
        String::from_utf8(STANDARD.decode(message["payload"].as_str().unwrap()).unwrap()).unwrap()
    };
    messages.iter().map(decode).collect()
}

fn gateway_to(hook: &Arc<Hook>, delivery: Delivery) -> Arc<Gateway> {
    gateway(settings_to(hook, delivery))
}

fn settings_to(hook: &Arc<Hook>, delivery: Delivery) -> Settings {
    let mut settings = settings();
    settings.mqtt.receive_maximum = 4;
    settings.backends.push(Backend {
        service: Some(Service(Arc::new(Front(hook.clone())))),
        ..Backend::new("hook", BackendKind::Http1, "in.process:1")
    });
    settings.routes.push(Route {
        topic: Some("t/+".to_owned()),
        call: Some("/events".to_owned()),
        delivery,
        ..Route::new("events", "hook")
    });
    settings
}

fn batches(count_max: usize) -> Delivery {
    let batch = Batch { count_max, time_max: 10 * SECOND, ..Batch::default() };
    Delivery { batch: Some(batch), ..Delivery::default() }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_several_devices_goes_when_it_is_full() {
    let hook = Hook::new(&[]);
    let gateway = gateway_to(&hook, batches(3));
    let begun = Instant::now();
    let mut devices = Vec::new();
    for id in ["a", "b", "c"] {
        let mut device = Client::v5(&gateway, id).await;
        device.publish(&format!("t/{id}"), id, QoS::AtLeastOnce).await;
        devices.push(device);
    }
    for device in &mut devices {
        assert!(matches!(device.receive().await, Some(Packet::Puback(ack)) if !ack.reason.is_error()));
    }
    assert!(begun.elapsed() < SECOND, "it does not wait for its time");
    let mut calls = hook.calls();
    calls[0].sort();
    assert_eq!(calls, [["a", "b", "c"]]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_when_its_first_message_has_waited() {
    let hook = Hook::new(&[]);
    let gateway = gateway_to(&hook, batches(100));
    let mut device = Client::v5(&gateway, "a").await;
    let begun = Instant::now();
    // What one device has sent ahead is one batch, in its order, answered in its order.
    let ids = [
        device.publish("t/a", "1", QoS::AtLeastOnce).await,
        device.publish("t/a", "2", QoS::AtLeastOnce).await,
        device.publish("t/a", "3", QoS::AtLeastOnce).await,
    ];
    for id in ids {
        assert!(matches!(device.receive().await, Some(Packet::Puback(ack)) if Some(ack.packet_id) == id));
    }
    assert!(begun.elapsed() >= 10 * SECOND, "acknowledged with the batch, not before");
    assert_eq!(hook.calls(), [["1", "2", "3"]]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_costs_its_batch_nothing() {
    let hook = Hook::with(&[], Some("bad"), Semaphore::MAX_PERMITS);
    let gateway = gateway_to(&hook, batches(3));
    let mut device = Client::v5(&gateway, "a").await;
    for payload in ["1", "bad", "3"] {
        device.publish("t/a", payload, QoS::AtLeastOnce).await;
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        let Some(Packet::Puback(ack)) = device.receive().await else { panic!("no PUBACK") };
        told.push(ack.reason.is_error());
    }
    assert_eq!(told, [false, true, false]);
    assert_eq!(hook.calls(), [vec!["1", "bad", "3"], vec!["1"], vec!["bad"], vec!["3"]]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_for_the_moment_is_made_again() {
    let hook = Hook::new(&[503, 503, 200, 503, 503, 503, 200]);
    let retry = Retry { attempts_max: 3, backoff_min: SECOND, backoff_max: SECOND };
    let gateway = gateway_to(&hook, Delivery { retry, ..Delivery::default() });
    let mut device = Client::v5(&gateway, "a").await;
    assert!(!device.publish_acked("t/a", "1").await.is_error());
    assert_eq!(hook.calls().len(), 3);
    // Three attempts are all there are.
    assert!(device.publish_acked("t/a", "2").await.is_error());
    assert_eq!(hook.calls().len(), 6);
    assert_eq!(metric(&gateway, "towline_publish_retries_total{route=\"events\"}"), 4.0);
}

#[tokio::test]
async fn what_no_backend_takes_is_kept_and_sent_again() {
    let hook = Hook::new(&[503, 404, 503]);
    let dead_letters = Some(QueueBounds::default());
    let gateway = gateway_to(&hook, Delivery { dead_letters, ..Delivery::default() });
    let mut device = Client::v5(&gateway, "a").await;
    for payload in ["1", "2"] {
        assert!(!device.publish_acked("t/a", payload).await.is_error(), "it is kept");
    }
    let outbox = gateway.outboxes.get("dead.events");
    let reasons: Vec<_> = outbox.list(0, 9).into_iter().map(|letter| letter.reason.unwrap()).collect();
    assert!(reasons[0].contains("503") && reasons[1].contains("404"), "{reasons:?}");
    // Still away; then it is back.
    let replayed = replay(&gateway, &outbox, 9).await.unwrap();
    assert_eq!((replayed.taken, replayed.left), (0, 2));
    assert!(replayed.error.unwrap().contains("503"));
    let replayed = replay(&gateway, &outbox, 9).await.unwrap();
    assert_eq!((replayed.taken, replayed.left, replayed.error), (2, 0, None));
    assert_eq!(hook.calls()[3..], [["1"], ["2"]]);
}

#[tokio::test]
async fn a_dead_letter_is_published_with_its_reason() {
    let hook = Hook::new(&[404, 404]);
    let delivery = Delivery { dead_letter_topic: Some("dead".to_owned()), ..Delivery::default() };
    let gateway = gateway_to(&hook, delivery);
    let mut device = Client::v5(&gateway, "a").await;
    assert!(device.publish_acked("t/a", "1").await.is_error(), "nobody listens there");
    let mut operator = Client::v5(&gateway, "operator").await;
    assert_eq!(operator.subscribe("dead/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    assert!(!device.publish_acked("t/a", "2").await.is_error());
    let letter = operator.expect_publish().await;
    assert_eq!((letter.topic.as_str(), &letter.payload[..]), ("dead/t/a", &b"2"[..]));
    let (name, value) = &letter.properties.user_properties[0];
    assert_eq!(name.as_str(), "towline-reason");
    assert!(value.as_str().contains("404"), "{value:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_holds_devices_back_by_their_receive_maximum() {
    let hook = Hook::with(&[], None, 0);
    let gateway = gateway_to(&hook, batches(2));
    let mut device = Client::v5(&gateway, "a").await;
    for number in 1..=10 {
        device.publish("t/a", &number.to_string(), QoS::AtLeastOnce).await;
    }
    pass(5 * SECOND).await;
    // One batch is with the backend, and what else was read is bounded: four, as the device was told.
    assert_eq!(hook.calls(), [["1", "2"]]);
    hook.gate.add_permits(1);
    pass(5 * SECOND).await;
    assert_eq!(hook.calls().len(), 2, "one at a time");
    hook.gate.add_permits(100);
    for _ in 0..10 {
        assert!(matches!(device.receive().await, Some(Packet::Puback(ack)) if !ack.reason.is_error()));
    }
    assert_eq!(hook.calls().concat().len(), 10);
}

/// One request to the admin listener.
async fn admin(address: SocketAddr, method: &str, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_operator_sees_dead_letters_and_sends_them_again() {
    let hook = Hook::new(&[404, 404]);
    let dead_letters = Some(QueueBounds::default());
    let mut settings = Settings::side_by_side();
    settings.listeners = self::settings().listeners;
    let others = settings_to(&hook, Delivery { dead_letters, ..Delivery::default() });
    (settings.backends, settings.routes) = (others.backends, others.routes);
    let serving = serve(Gateway::build(settings).unwrap()).await.unwrap();
    let mut device = Client::v5(&serving.gateway, "a").await;
    for payload in ["1", "2"] {
        assert!(!device.publish_acked("t/a", payload).await.is_error());
    }
    let list = admin(serving.admin, "GET", "/outbox").await;
    assert!(list.contains(r#"{"queue":"dead.events","messages":2"#), "{list}");
    let shown = admin(serving.admin, "GET", "/outbox/dead.events?after=1").await;
    assert!(shown.contains(r#""topic":"t/a","qos":1,"client_id":"a""#) && shown.contains("404"), "{shown}");
    assert!(!shown.contains(r#""number":1,"#), "{shown}");
    let replayed = admin(serving.admin, "POST", "/outbox/dead.events/replay?count=1").await;
    assert!(replayed.contains(r#"{"taken":1,"left":1,"error":null}"#), "{replayed}");
    let purged = admin(serving.admin, "DELETE", "/outbox/dead.events").await;
    assert!(purged.contains("1 given up, 0 left"), "{purged}");
    assert!(admin(serving.admin, "GET", "/outbox/other").await.starts_with("HTTP/1.1 404"));
    assert_eq!(hook.calls(), [["1"], ["2"], ["1"]]);
}
