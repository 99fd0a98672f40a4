//! A backend that says what clients may do with topics.

use std::time::Duration;

use serde_json::json;
use towline_gateway::settings::Rewrite;
use towline_protocols::mqtt::*;

use crate::{
    hooks::{KINDS, accounts, connect_as, greet, questions, settings_with, with_rules},
    mqtt_support::*,
    oracle::Oracle,
};

#[tokio::test]
async fn the_hook_says_what_clients_may_do() {
    for kind in KINDS {
        let oracle = Oracle::new(accounts);
        let mut settings = settings_with(oracle.serve(kind).await);
        with_rules(&mut settings);
        let gateway = gateway(settings);
        let (mut client, _) = Client::connect(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
        assert_eq!(client.subscribe("asked/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        assert_eq!(client.subscribe("asked/no", QoS::AtLeastOnce).await, ReasonCode::NotAuthorized);
        assert_eq!(
            client.subscribe("#", QoS::AtLeastOnce).await,
            ReasonCode::NotAuthorized,
            "not all of it is asked"
        );
        // One after the other, in the order in which they came.
        for payload in ["1", "2", "3"] {
            client.publish("asked/a", payload, QoS::AtMostOnce).await;
        }
        client.publish("asked/no", "x", QoS::AtMostOnce).await;
        for payload in ["1", "2", "3"] {
            assert_eq!(client.expect_publish().await.payload, payload);
        }
        assert_eq!(client.publish_acked("asked/no", "x").await, ReasonCode::NotAuthorized);
        client.expect_nothing().await;
        let asked: Vec<_> =
            oracle.asked().iter().skip(1).map(|it| (it["action"].clone(), it["topic"].clone())).collect();
        let expected = [
            ("subscribe", "asked/#"),
            ("subscribe", "asked/no"),
            ("subscribe", "#"),
            ("publish", "asked/a"),
            ("publish", "asked/no"),
        ];
        assert_eq!(asked, expected.map(|(action, topic)| (json!(action), json!(topic))), "{kind:?}");
        let denied = "towline_acl_denials_total{action=\"publish\",rule=\"asked\"}";
        assert_eq!(metric(&gateway, denied), 2.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_judge_is_not_done_and_may_come_again() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    with_rules(&mut settings);
    let gateway = gateway(settings);
    let mut lasting = connect_as(Version::V5, "m1", "ada", "right");
    (lasting.clean_start, lasting.properties.session_expiry) = (false, Some(600));
    let (mut client, _) = Client::connect(&gateway, lasting.clone()).await;
    let (mut old, _) = Client::connect(&gateway, connect_as(Version::V311, "m2", "ada", "right")).await;
    assert_eq!(client.subscribe("asked/a", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    oracle.now_says(|question| match question["question"] == "access" {
        true => json!("gibberish"),
        false => accounts(question),
    });
    pass(Duration::from_secs(61)).await;
    let later = ReasonCode::ImplementationSpecificError;
    assert_eq!(client.subscribe("asked/b", QoS::AtLeastOnce).await, later);
    assert_eq!(client.publish_acked("asked/a", "x").await, later);
    client.publish("asked/a", "x", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    old.publish("asked/a", "x", QoS::AtLeastOnce).await;
    assert_eq!(old.receive().await, None, "so that it sends it again");
    // The session is not to go on, and not to lose its subscription, nor the connection that it has.
    assert_eq!(greet(&gateway, lasting.clone()).await, ReasonCode::ServerUnavailable);
    client.expect_nothing().await;
    drop(client);
    assert_eq!(greet(&gateway, lasting.clone()).await, ReasonCode::ServerUnavailable);
    oracle.now_says(accounts);
    let (_client, connack) = Client::connect(&gateway, lasting).await;
    assert!(connack.session_present);
    assert_eq!(gateway.hub.subscriptions("m1").len(), 1);
}

/// Subscribes to `asked/0`, `asked/1` and so on in one packet.
async fn subscribe_to_many(client: &mut Client, count: usize) -> Vec<ReasonCode> {
    let options = SubscriptionOptions::default();
    let subscriptions =
        (0..count).map(|at| Subscription { filter: text(&format!("asked/{at}")), options }).collect();
    let properties = SubscribeProperties::default();
    let packet_id = client.id();
    client.send(Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })).await;
    match client.receive().await {
        Some(Packet::Suback(suback)) => suback.reasons,
        other => panic!("{other:?} instead of SUBACK"),
    }
}

#[tokio::test(start_paused = true)]
async fn many_topics_are_asked_about_for_a_bounded_time_and_no_longer_once_there_is_no_answer() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    with_rules(&mut settings);
    let gateway = gateway(settings);
    let (mut client, _) = Client::connect(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
    oracle.now_says(|_| json!("gibberish"));
    let later = ReasonCode::ImplementationSpecificError;
    assert_eq!(subscribe_to_many(&mut client, 40).await, [later; 40]);
    assert_eq!(questions(&gateway, "access", "failed"), 8.0, "the rest is not asked");
    oracle.now_says(accounts);
    // Four times eight within nine seconds.
    oracle.takes(Duration::from_secs(2));
    let reasons = subscribe_to_many(&mut client, 40).await;
    assert_eq!((&reasons[..32], &reasons[32..]), (&[ReasonCode::Success; 32][..], &[later; 8][..]));
    let met = metric(&gateway, "towline_limit_hits_total{limit=\"hook_asking_time_max\"}");
    assert_eq!(met, 1.0);
    assert_eq!(
        subscribe_to_many(&mut client, 40).await,
        [ReasonCode::Success; 40],
        "the rest is known by now"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_judged_is_subscribed_to_whatever_a_reload_renames_meanwhile() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    with_rules(&mut settings);
    let rewrite = |to: &str| {
        vec![Rewrite {
            publish: true,
            subscribe: true,
            topic: "old/+".to_owned(),
            regex: None,
            to: to.to_owned(),
        }]
    };
    settings.rewrites = rewrite("asked/$1");
    let gateway = gateway(settings.clone());
    let (mut client, _) = Client::connect(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
    oracle.open(false);
    let subscribing = tokio::spawn(async move {
        let reason = client.subscribe("old/a", QoS::AtMostOnce).await;
        // Its session ends with it.
        (client, reason)
    });
    oracle.is_asked(2).await;
    settings.rewrites = rewrite("asked/no");
    towline_gateway::control::reload::apply(&gateway, settings).unwrap();
    oracle.open(true);
    let (_client, reason) = subscribing.await.unwrap();
    assert_eq!(reason, ReasonCode::Success);
    assert_eq!(oracle.asked()[1]["topic"], "asked/a");
    let held: Vec<_> = gateway.hub.subscriptions("m1").into_iter().map(|(filter, _)| filter).collect();
    assert_eq!(held, ["asked/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_will_is_judged_by_the_hook() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    with_rules(&mut settings);
    let gateway = gateway(settings);
    let (mut reader, _) = Client::connect(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
    assert_eq!(reader.subscribe("asked/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    for topic in ["asked/no", "asked/will"] {
        let connect = with_will(connect_as(Version::V5, "m2", "ada", "right"), topic, None);
        drop(Client::connect(&gateway, connect).await);
    }
    assert_eq!(reader.expect_publish().await.topic.as_str(), "asked/will");
    reader.expect_nothing().await;
}
