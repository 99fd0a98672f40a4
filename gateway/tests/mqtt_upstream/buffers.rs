//! What waits for a broker that is away.

use towline_gateway::settings::{DropPolicy, Upstream};
use towline_protocols::mqtt::*;

use crate::{
    bed::{Mosquitto, client, connected, folder, free_address, next, settings, start, stop},
    mqtt_support::metric,
};

/// Three messages at most.
fn small(policy: DropPolicy) -> Upstream {
    let mut upstream = Upstream { local_prefix: "site/".to_owned(), ..Upstream::default() };
    upstream.bounds.count_max = 3;
    upstream.bounds.policy = policy;
    upstream
}

/// Publishes 1 to 5 while the broker is away; returns what their publisher is told, and what the broker gets.
async fn through_an_absence(policy: DropPolicy) -> Option<(Vec<ReasonCode>, Vec<String>)> {
    let folder = folder();
    let broker_address = free_address();
    let any = ([127, 0, 0, 1], 0).into();
    let settings = settings(any, folder.path(), broker_address, small(policy));
    let serving = start(settings.clone()).await;
    let mut device = client(serving.address("devices").unwrap(), "device").await;
    let mut told = Vec::new();
    for payload in 1..=5 {
        told.push(device.publish_acked("site/up", &payload.to_string()).await);
    }
    let hits = metric(&serving.gateway, "towline_limit_hits_total{limit=\"backends.upstream.buffer_max\"}");
    assert_eq!(hits, 2.0);
    // They lie in the store, not in the process.
    stop(serving).await;

    let broker = Mosquitto::start(broker_address, folder.path(), "").await?;
    let mut remote = client(broker.address, "remote").await;
    assert_eq!(remote.subscribe("edge/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let serving = start(settings).await;
    connected(&serving.gateway).await;
    let mut device = client(serving.address("devices").unwrap(), "device").await;
    assert_eq!(device.publish_acked("site/up", "end").await, ReasonCode::Success);
    let mut got = Vec::new();
    loop {
        let (topic, payload) = next(&mut remote).await;
        assert_eq!(topic, "edge/up");
        if payload == "end" {
            return Some((told, got));
        }
        got.push(payload);
    }
}

#[tokio::test]
async fn a_full_buffer_refuses_what_comes() {
    let Some((told, got)) = through_an_absence(DropPolicy::Newest).await else { return };
    assert_eq!(told[..3], [ReasonCode::Success; 3]);
    assert_eq!(told[3..], [ReasonCode::QuotaExceeded; 2]);
    assert_eq!(got, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_full_buffer_drops_what_has_waited_longest() {
    let Some((told, got)) = through_an_absence(DropPolicy::Oldest).await else { return };
    assert_eq!(told, [ReasonCode::Success; 5]);
    assert_eq!(got, ["3", "4", "5"]);
}

#[tokio::test]
async fn a_broker_that_comes_and_goes_gets_everything_in_order() {
    let folder = folder();
    let broker_address = free_address();
    let upstream = Upstream { local_prefix: "site/".to_owned(), ..Upstream::default() };
    let any = ([127, 0, 0, 1], 0).into();
    let serving = start(settings(any, folder.path(), broker_address, upstream)).await;
    let mut device = client(serving.address("devices").unwrap(), "device").await;
    let mut sent = 0;
    for _ in 0..3 {
        let Some(broker) = Mosquitto::start(broker_address, folder.path(), "").await else { return };
        let mut remote = client(broker.address, "remote").await;
        assert_eq!(remote.subscribe("edge/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        for _ in 0..60 {
            sent += 1;
            assert_eq!(device.publish_acked("site/up", &sent.to_string()).await, ReasonCode::Success);
        }
        // Repetitions of what was in flight may stand before what is new; nothing is missing, and all is in order.
        let mut expected = None;
        loop {
            let (topic, payload) = next(&mut remote).await;
            assert_eq!((topic.as_str(), payload.parse::<u32>().is_ok()), ("edge/up", true));
            let number: u32 = payload.parse().unwrap();
            assert!(expected.is_none_or(|expected| number == expected), "{number} instead of {expected:?}");
            expected = Some(number + 1);
            if number == sent {
                break;
            }
        }
        drop(broker);
        // While it is away.
        for _ in 0..20 {
            sent += 1;
            assert_eq!(device.publish_acked("site/up", &sent.to_string()).await, ReasonCode::Success);
        }
    }
}
