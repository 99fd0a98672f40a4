//! Both directions, prefixes, TLS, the status topic, and loops.

use std::{fs, process::Command, time::Duration};

use towline_gateway::{
    cli::development_certificates,
    settings::{BackendTls, Route, Upstream},
};
use towline_protocols::mqtt::*;

use crate::{
    bed::{
        Mosquitto, both_ways, client, connected, folder, free_address, lasting_client, next, pair, settings,
        start, stop,
    },
    mqtt_support::metric,
};

#[tokio::test]
async fn a_bridge_carries_both_ways_and_says_whether_it_is_there() {
    let folder = folder();
    let Some(broker) = Mosquitto::start(free_address(), folder.path(), "").await else { return };
    let mut remote = client(broker.address, "remote").await;
    for filter in ["edge/#", "status"] {
        assert_eq!(remote.subscribe(filter, QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    }
    let any = ([127, 0, 0, 1], 0).into();
    let serving = start(settings(any, folder.path(), broker.address, both_ways())).await;
    assert_eq!(next(&mut remote).await, pair("status", "1"));
    let address = serving.address("devices").unwrap();
    let mut watcher = client(address, "watcher").await;
    assert_eq!(watcher.subscribe("site/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let mut device = client(address, "device").await;

    assert_eq!(device.publish_acked("site/up", "1").await, ReasonCode::Success);
    assert_eq!(next(&mut watcher).await, pair("site/up", "1"));
    assert_eq!(next(&mut remote).await, pair("edge/up", "1"));

    // What the gateway forwards to a topic that it has subscribed to does not come back.
    assert_eq!(device.publish_acked("site/cmd/own", "2").await, ReasonCode::Success);
    assert_eq!(next(&mut watcher).await, pair("site/cmd/own", "2"));
    assert_eq!(next(&mut remote).await, pair("edge/cmd/own", "2"));
    let mut sender = client(broker.address, "sender").await;
    assert_eq!(sender.publish_acked("edge/cmd/7", "3").await, ReasonCode::Success);
    assert_eq!(next(&mut watcher).await, pair("site/cmd/7", "3"));

    stop(serving).await;
    let mut status = client(broker.address, "later").await;
    assert_eq!(status.subscribe("status", QoS::AtMostOnce).await, ReasonCode::Success);
    assert_eq!(next(&mut status).await, pair("status", "0"));
}

#[tokio::test]
async fn what_comes_while_the_gateway_is_away_waits_at_the_broker() {
    let folder = folder();
    let Some(broker) = Mosquitto::start(free_address(), folder.path(), "").await else { return };
    let any = ([127, 0, 0, 1], 0).into();
    let settings = settings(any, folder.path(), broker.address, both_ways());
    let serving = start(settings.clone()).await;
    connected(&serving.gateway).await;
    let address = serving.address("devices").unwrap();
    let mut device = lasting_client(address, "device").await;
    assert_eq!(device.subscribe("site/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    // The subscription is there when something has come by it.
    let mut remote = client(broker.address, "remote").await;
    assert!(!remote.publish_acked("edge/cmd/1", "here").await.is_error());
    while next(&mut device).await != pair("site/cmd/1", "here") {}
    stop(serving).await;

    for payload in ["a", "b", "c"] {
        assert_eq!(remote.publish_acked("edge/cmd/1", payload).await, ReasonCode::Success);
    }
    let serving = start(settings).await;
    let mut device = lasting_client(serving.address("devices").unwrap(), "device").await;
    let mut came = Vec::new();
    while came.last().is_none_or(|payload| payload != "c") {
        came.push(next(&mut device).await.1);
    }
    came.retain(|payload| payload != "here");
    assert_eq!(came, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_broker_is_reached_by_tls_with_a_password() {
    let folder = folder();
    let certificates = development_certificates(folder.path()).unwrap();
    let users = folder.path().join("users");
    let made =
        Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&users).args(["edge", "s3cret"]).status();
    if made.is_err() {
        eprintln!("skipped: mosquitto is not installed");
        return;
    }
    let more = format!(
        "certfile {}\nkeyfile {}\nallow_anonymous false\npassword_file {}\nuser root\n",
        certificates.chain.display(),
        certificates.key.display(),
        users.display()
    );
    let plain = free_address();
    let more = format!("{more}listener {} 127.0.0.1\n", plain.port());
    let Some(broker) = Mosquitto::start(free_address(), folder.path(), &more).await else { return };
    let password_file = folder.path().join("password");
    fs::write(&password_file, "s3cret\n").unwrap();
    let tls =
        BackendTls { ca: certificates.ca, server_name: Some("localhost".to_owned()), certificate: None };
    let upstream = Upstream {
        user: Some("edge".to_owned()),
        password_file: Some(password_file.clone()),
        tls: Some(tls),
        ..both_ways()
    };
    let any = ([127, 0, 0, 1], 0).into();
    let settings = settings(any, folder.path(), broker.address, upstream);
    let serving = start(settings.clone()).await;
    connected(&serving.gateway).await;
    stop(serving).await;

    fs::write(&password_file, "wrong\n").unwrap();
    let mut refused = settings;
    refused.backends[0].upstream.buffer = false;
    let serving = start(refused).await;
    let mut device = client(serving.address("devices").unwrap(), "device").await;
    assert!(device.publish_acked("site/up", "1").await.is_error());
}

/// What goes in circles never ends; this ends the test.
const CIRCLES_TIMEOUT: Duration = Duration::from_secs(60);

/// Two gateways, each with all of the other's topics, both ways.
#[tokio::test]
async fn gateways_bridged_at_each_other_do_not_send_in_circles() {
    let bridged = tokio::time::timeout(CIRCLES_TIMEOUT, Box::pin(bridge_at_each_other()));
    bridged.await.expect("the first message goes round and round, or never comes");
}

async fn bridge_at_each_other() {
    let folders = [folder(), folder()];
    let addresses = [free_address(), free_address()];
    let mut servings = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let upstream = Upstream { subscribe: vec!["#".to_owned()], ..Upstream::default() };
        let mut settings = settings(addresses[own], folders[own].path(), addresses[other], upstream);
        settings.backends[0].topic_prefix.clear();
        settings.routes = vec![Route { topic: Some("#".to_owned()), ..Route::new("all", "up") }];
        servings.push(start(settings).await);
    }
    for serving in &servings {
        connected(&serving.gateway).await;
    }
    let mut clients = Vec::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let mut client = client(address, &format!("watcher-{index}")).await;
        assert_eq!(client.subscribe("#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        clients.push(client);
    }
    let mut publisher = client(addresses[0], "publisher").await;
    assert_eq!(publisher.publish_acked("t", "first").await, ReasonCode::Success);
    // Each gateway gets it by either bridge, and drops what it has had.
    let looped = |index: usize| {
        let own = metric(
            &servings[index].gateway,
            "towline_upstream_messages_total{backend=\"up\",outcome=\"looped\"}",
        );
        let came = metric(
            &servings[index].gateway,
            "towline_upstream_messages_total{backend=\"\",outcome=\"looped\"}",
        );
        own + came
    };
    while looped(0) + looped(1) < 2.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(publisher.publish_acked("t", "last").await, ReasonCode::Success);
    for client in &mut clients {
        let mut firsts = 0;
        while next(client).await.1 == "first" {
            firsts += 1;
        }
        assert!((1..=2).contains(&firsts), "{firsts} copies");
        // What still comes is the other way of the last one.
        client.send(Packet::Pingreq).await;
        loop {
            match client.receive().await {
                Some(Packet::Pingresp) => break,
                Some(Packet::Publish(publish)) => assert_eq!(&publish.payload[..], b"last"),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Two gateways that each subscribe to all of the other's topics, and forward nothing.
#[tokio::test]
async fn what_comes_back_by_subscriptions_is_not_delivered_again() {
    let folders = [folder(), folder()];
    let addresses = [free_address(), free_address()];
    let mut servings = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let upstream = Upstream { subscribe: vec!["#".to_owned()], ..Upstream::default() };
        let mut settings = settings(addresses[own], folders[own].path(), addresses[other], upstream);
        settings.backends[0].topic_prefix.clear();
        settings.routes.clear();
        servings.push(start(settings).await);
    }
    let mut publishers = Vec::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let mut publisher = client(address, &format!("publisher-{index}")).await;
        // Until the other gateway has subscribed.
        while publisher.publish_acked("t", "early").await != ReasonCode::Success {}
        publishers.push(publisher);
    }
    let mut watchers = Vec::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let mut watcher = client(address, &format!("watcher-{index}")).await;
        assert_eq!(watcher.subscribe("#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        watchers.push(watcher);
    }
    assert_eq!(publishers[0].publish_acked("t", "first").await, ReasonCode::Success);
    while next(&mut watchers[1]).await.1 != "first" {}
    // It takes the way by which the first one came back, behind it.
    assert_eq!(publishers[1].publish_acked("t", "last").await, ReasonCode::Success);
    let mut came = Vec::new();
    while came.last().is_none_or(|payload| payload != "last") {
        came.push(next(&mut watchers[0]).await.1);
    }
    came.retain(|payload| payload != "early");
    assert_eq!(came, ["first", "last"]);
}
