//! Device shadows by MQTT: desired, reported, delta; versions; a crash in between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{sync::Arc, time::Duration};

use mqtt_support::*;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use towline_gateway::{
    gateway::Gateway,
    mqtt,
    settings::Settings,
    store::{Memory, Store},
};
use towline_protocols::mqtt::*;

fn shadowed() -> Settings {
    let mut settings = settings();
    settings.shadow.enabled = true;
    settings.shadow.things_max = 2;
    settings.shadow.bytes_max = 1024;
    settings
}

/// A gateway on a disk of the test's, which takes a millisecond for a commit.
fn on(memory: &Memory) -> (Arc<Gateway>, JoinHandle<()>) {
    let (store, writer) = Store::by_hand(memory);
    let gateway = Gateway::with_store(shadowed(), store).unwrap();
    mqtt::ensure_watched(&gateway);
    let disk = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            writer.write();
        }
    });
    (gateway, disk)
}

/// What comes next, below `$shadow/`.
async fn next(client: &mut Client) -> (String, Value) {
    let publish = client.expect_publish().await;
    let topic = publish.topic.as_str().strip_prefix("$shadow/").unwrap().to_owned();
    (topic, serde_json::from_slice(&publish.payload).unwrap())
}

async fn say(client: &mut Client, topic: &str, payload: Value) {
    let reason = client.publish_acked(&format!("$shadow/{topic}"), &payload.to_string()).await;
    assert!(!reason.is_error(), "{reason:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_learns_what_it_is_to_be_also_after_a_crash() {
    let memory = Memory::new().unwrap();
    let (gateway, disk) = on(&memory);
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("$shadow/lamp/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let mut app = Client::v5(&gateway, "app").await;
    say(&mut app, "lamp/update", json!({ "state": { "desired": { "on": true } }, "clientToken": "t1" }))
        .await;
    let (topic, accepted) = next(&mut watcher).await;
    assert_eq!(
        (topic.as_str(), &accepted["version"], &accepted["clientToken"]),
        ("lamp/update/accepted", &json!(1), &json!("t1"))
    );
    let (topic, delta) = next(&mut watcher).await;
    assert_eq!((topic.as_str(), &delta["state"]), ("lamp/update/delta", &json!({ "on": true })));
    // What was acknowledged is on disk.
    disk.abort();

    let (gateway, _disk) = on(&memory);
    let mut lamp = Client::v5(&gateway, "lamp").await;
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("$shadow/lamp/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    say(&mut lamp, "lamp/get", json!({})).await;
    let (topic, got) = next(&mut watcher).await;
    assert_eq!(
        (topic.as_str(), &got["state"]["delta"], &got["version"]),
        ("lamp/get/accepted", &json!({ "on": true }), &json!(1))
    );
    say(&mut lamp, "lamp/update", json!({ "state": { "reported": { "on": true } }, "version": 1 })).await;
    assert_eq!(next(&mut watcher).await.0, "lamp/update/accepted");
    // Nothing is left to do, so no delta follows.
    say(&mut lamp, "lamp/get", json!({})).await;
    let (topic, got) = next(&mut watcher).await;
    assert_eq!(topic, "lamp/get/accepted");
    assert_eq!(got["state"], json!({ "desired": { "on": true }, "reported": { "on": true } }));

    // A deleted shadow's version goes on.
    say(&mut app_of(&gateway).await, "lamp/delete", json!({})).await;
    assert_eq!(next(&mut watcher).await.0, "lamp/delete/accepted");
    say(&mut lamp, "lamp/get", json!({})).await;
    let (topic, refused) = next(&mut watcher).await;
    assert_eq!((topic.as_str(), &refused["code"]), ("lamp/get/rejected", &json!(404)));
    say(&mut lamp, "lamp/update", json!({ "state": { "reported": {"on": false} }, "version": 2 })).await;
    let (topic, refused) = next(&mut watcher).await;
    assert_eq!((topic.as_str(), &refused["code"]), ("lamp/update/rejected", &json!(409)));
}

async fn app_of(gateway: &Arc<Gateway>) -> Client {
    Client::v5(gateway, "app").await
}

#[tokio::test(start_paused = true)]
async fn shadows_are_bounded_in_number_and_size() {
    let gateway = gateway(shadowed());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(
        watcher.subscribe("$shadow/+/update/rejected", QoS::AtLeastOnce).await,
        ReasonCode::GrantedQos1
    );
    let mut app = Client::v5(&gateway, "app").await;
    let state = json!({ "state": { "desired": { "a": 1 } } });
    for thing in ["a", "b", "c"] {
        say(&mut app, &format!("{thing}/update"), state.clone()).await;
    }
    let (topic, refused) = next(&mut watcher).await;
    assert_eq!((topic.as_str(), &refused["code"]), ("c/update/rejected", &json!(429)));
    let large = json!({ "state": { "desired": { "text": "x".repeat(2000) } } });
    say(&mut app, "a/update", large).await;
    let (topic, refused) = next(&mut watcher).await;
    assert_eq!((topic.as_str(), &refused["code"]), ("a/update/rejected", &json!(413)));
    for limit in ["shadow.things_max", "shadow.bytes_max"] {
        assert_eq!(metric(&gateway, &format!("towline_limit_hits_total{{limit=\"{limit}\"}}")), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_gateway_answers_for_a_shadow() {
    let gateway = gateway(shadowed());
    let mut app = Client::v5(&gateway, "app").await;
    for topic in ["$shadow/a/update/accepted", "$shadow/a/update/delta", "$shadow/a"] {
        assert_eq!(app.publish_acked(topic, "{}").await, ReasonCode::NotAuthorized, "{topic}");
    }
    // A will is no way round.
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("$shadow/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let will = with_will(connect(Version::V5, "liar"), "$shadow/a/update/accepted", None);
    drop(Client::connect(&gateway, will).await);
    pass(Duration::from_secs(1)).await;
    watcher.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_service_its_topics_are_like_any() {
    let gateway = gateway(settings());
    let mut app = Client::v5(&gateway, "app").await;
    let mut watcher = Client::v5(&gateway, "watcher").await;
    assert_eq!(watcher.subscribe("$shadow/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    say(&mut app, "a/update", json!({})).await;
    assert_eq!(next(&mut watcher).await.0, "a/update");
    watcher.expect_nothing().await;
}
