//! Topics that mean more than their names: delays, other names, presence. Under a clock that the test moves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use mqtt_support::*;
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};
use towline_gateway::{
    backend::{Answer, Answering, Service},
    gateway::Gateway,
    mqtt,
    request::Body,
    settings::{Backend, BackendKind, Rewrite, Route, Settings},
    store::{Memory, Store, Writer},
};
use towline_protocols::mqtt::*;

const SECOND: Duration = Duration::from_secs(1);

/// A backend that remembers the topics and payloads of its calls.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Vec<(String, String)>>>);

impl Answer for Hook {
    fn answer(&self, request: Request<Body>) -> Answering {
        let calls = self.0.clone();
        Box::pin(async move {
            let topic = request.headers()["x-towline-topic"].to_str().unwrap().to_owned();
            let payload = request.into_body().collect().await.unwrap().to_bytes();
            calls.lock().push((topic, String::from_utf8(payload.to_vec()).unwrap()));
            let body = Body::new(Empty::new().map_err(|never| match never {}));
            Ok(Response::builder().status(200).body(body).unwrap())
        })
    }
}

/// With a route for `filter` to the hook.
fn hooked(filter: &str) -> (Settings, Hook) {
    let (mut settings, hook) = (settings(), Hook::default());
    settings.backends.push(Backend {
        service: Some(Service(Arc::new(hook.clone()))),
        ..Backend::new("hook", BackendKind::Http1, "in.process:1")
    });
    settings.routes.push(Route {
        topic: Some(filter.to_owned()),
        call: Some("/events".to_owned()),
        ..Route::new("events", "hook")
    });
    (settings, hook)
}

async fn next(client: &mut Client) -> (String, String) {
    let publish = client.expect_publish().await;
    (publish.topic.as_str().to_owned(), String::from_utf8(publish.payload.to_vec()).unwrap())
}

fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_when_it_is_due() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let mut device = Client::v5(&gateway, "device").await;
    let begun = Instant::now();
    assert_eq!(device.publish_acked("$delayed/60/a/b", "late").await, ReasonCode::Success);
    assert_eq!(device.publish_acked("$delayed/30/a/b", "soon").await, ReasonCode::Success);
    assert_eq!(next(&mut watcher).await, pair("a/b", "soon"));
    assert!(begun.elapsed() >= 30 * SECOND && begun.elapsed() < 31 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(next(&mut watcher).await, pair("a/b", "late"));
    assert!(begun.elapsed() >= 60 * SECOND && begun.elapsed() < 61 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_route_of_a_delayed_message_is_that_of_its_topic() {
    let (settings, hook) = hooked("t/+");
    let gateway = gateway(settings);
    let mut device = Client::v5(&gateway, "device").await;
    assert_eq!(device.publish_acked("$delayed/5/t/x", "1").await, ReasonCode::Success);
    pass(4 * SECOND).await;
    assert!(hook.0.lock().is_empty(), "not yet");
    pass(2 * SECOND).await;
    assert_eq!(*hook.0.lock(), [pair("t/x", "1")]);
    assert!(gateway.delayed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_is_none_or_has_no_room_is_refused() {
    let mut settings = settings();
    settings.delayed.messages_max = 1;
    settings.delayed.delay_max = 100 * SECOND;
    let gateway = gateway(settings);
    let mut device = Client::v5(&gateway, "device").await;
    for topic in ["$delayed/soon/a", "$delayed/5", "$delayed/5/", "$delayed/5/a/$SYS/#"] {
        if !topic.contains('#') {
            assert_eq!(device.publish_acked(topic, "x").await, ReasonCode::TopicNameInvalid, "{topic}");
        }
    }
    assert_eq!(device.publish_acked("$delayed/5/$SYS/a", "x").await, ReasonCode::NotAuthorized);
    assert_eq!(device.publish_acked("$delayed/101/a", "x").await, ReasonCode::QuotaExceeded);
    assert_eq!(device.publish_acked("$delayed/100/a", "x").await, ReasonCode::Success);
    assert_eq!(device.publish_acked("$delayed/100/a", "x").await, ReasonCode::QuotaExceeded);
    for limit in ["delayed.delay_max", "delayed.messages_max"] {
        assert_eq!(metric(&gateway, &format!("towline_limit_hits_total{{limit=\"{limit}\"}}")), 1.0);
    }
    // A client of MQTT 3 cannot be told.
    let mut old = Client::v311(&gateway, "old").await;
    assert_eq!(old.publish_acked("$delayed/soon/a", "x").await, ReasonCode::Success);
}

/// A gateway on a disk of the test's, which takes a millisecond for a commit.
fn on(memory: &Memory) -> (Arc<Gateway>, JoinHandle<()>) {
    let (store, writer): (Store, Writer) = Store::by_hand(memory);
    let gateway = Gateway::with_store(settings(), store).unwrap();
    mqtt::ensure_watched(&gateway);
    let disk = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            writer.write();
        }
    });
    (gateway, disk)
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_survives_a_crash() {
    let memory = Memory::new().unwrap();
    let (gateway, disk) = on(&memory);
    let mut device = Client::v5(&gateway, "device").await;
    let begun = Instant::now();
    for (topic, payload) in [("$delayed/60/a", "1"), ("$delayed/10/a", "2")] {
        assert_eq!(device.publish_acked(topic, payload).await, ReasonCode::Success);
    }
    disk.abort();
    let (gateway, _disk) = on(&memory);
    assert_eq!(gateway.delayed.len(), 2);
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("a", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    assert_eq!(next(&mut watcher).await, pair("a", "2"));
    assert_eq!(next(&mut watcher).await, pair("a", "1"));
    assert!(begun.elapsed() >= 60 * SECOND);
    pass(SECOND).await;
    let (gateway, _disk) = on(&memory);
    assert!(gateway.delayed.is_empty(), "what was published is gone");
}

#[tokio::test(start_paused = true)]
async fn topics_and_filters_get_the_names_that_rules_give_them() {
    let mut settings = settings();
    settings.rewrites.push(Rewrite {
        publish: true,
        subscribe: true,
        topic: "old/+/state/#".to_owned(),
        regex: None,
        to: "new/$1/$2".to_owned(),
    });
    let gateway = gateway(settings);
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("old/+/state/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let mut device = Client::v5(&gateway, "device").await;
    for topic in ["new/7/x", "old/7/state/x", "$delayed/0/old/7/state/x"] {
        assert_eq!(device.publish_acked(topic, topic).await, ReasonCode::Success);
        assert_eq!(next(&mut watcher).await, pair("new/7/x", topic));
    }
    let unsubscribe = Unsubscribe {
        packet_id: watcher.id(),
        properties: UnsubscribeProperties::default(),
        filters: vec![text("old/+/state/#")],
    };
    watcher.send(Packet::Unsubscribe(unsubscribe)).await;
    assert!(
        matches!(watcher.receive().await, Some(Packet::Unsuback(ack)) if ack.reasons == [ReasonCode::Success])
    );
}

/// Who is told of, and how.
fn told((topic, payload): (String, String)) -> (String, String) {
    let event: serde_json::Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(event["protocol"], "mqtt");
    assert_eq!(event["lost"], 0);
    assert!(topic.ends_with(event["event"].as_str().unwrap()), "{topic} {event}");
    (topic, event["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_is_told_in_order_to_subscribers_and_to_a_backend() {
    let (mut settings, hook) = hooked("$SYS/presence/#");
    settings.presence.topic = "$SYS/presence".to_owned();
    settings.mqtt.keep_alive_max = 30 * SECOND;
    let gateway = gateway(settings);
    let mut watcher = Client::v5(&gateway, "watcher").await;
    let filter = "$SYS/presence/a%2Fb/+";
    assert_eq!(watcher.subscribe(filter, QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let (come, gone) = ("$SYS/presence/a%2Fb/connected", "$SYS/presence/a%2Fb/disconnected");

    let mut first = Client::v5(&gateway, "a/b").await;
    assert_eq!(told(next(&mut watcher).await), pair(come, ""));
    let second = Client::v5(&gateway, "a/b").await;
    first.expect_end(ReasonCode::SessionTakenOver).await;
    assert_eq!(told(next(&mut watcher).await), pair(gone, "session_taken_over"));
    assert_eq!(told(next(&mut watcher).await), pair(come, ""));
    second.leave().await;
    assert_eq!(told(next(&mut watcher).await), pair(gone, "client_left"));
    drop(Client::v5(&gateway, "a/b").await);
    assert_eq!(told(next(&mut watcher).await), pair(come, ""));
    assert_eq!(told(next(&mut watcher).await), pair(gone, "connection_lost"));
    let _silent = Client::v5(&gateway, "a/b").await;
    assert_eq!(told(next(&mut watcher).await), pair(come, ""));
    // The watcher stays there by what it says meanwhile.
    for _ in 0..6 {
        pass(10 * SECOND).await;
        watcher.send(Packet::Pingreq).await;
        if let Some(Packet::Publish(publish)) = watcher.receive().await {
            let event = pair(publish.topic.as_str(), std::str::from_utf8(&publish.payload).unwrap());
            assert_eq!(told(event), pair(gone, "keep_alive_timeout"));
            let calls: Vec<_> =
                hook.0.lock().iter().filter(|(topic, _)| topic.contains("a%2Fb")).cloned().collect();
            let expected = [come, gone, come, gone, come, gone, come, gone];
            assert!(calls.iter().map(|(topic, _)| topic).eq(expected), "{calls:?}");
            return;
        }
    }
    panic!("nobody was told of the client that said nothing");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_unless_it_is_asked_for() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("$SYS/presence/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    Client::v5(&gateway, "a").await.leave().await;
    pass(SECOND).await;
    watcher.expect_nothing().await;
}
