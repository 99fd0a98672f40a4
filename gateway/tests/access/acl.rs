//! Rules of access to topics.

use std::time::Duration;

use towline_gateway::{
    control::reload,
    settings::{AclAction, AclRule, Mqtt3Denied, Permission, Settings},
};
use towline_protocols::mqtt::*;

use crate::mqtt_support::*;

fn rule(name: &str, permission: Permission, action: AclAction, topics: &[&str]) -> AclRule {
    let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
    AclRule { action, topics, ..AclRule::new(name, permission) }
}

/// Everybody has `own/ID/#`, and may read `news/#` but for `news/secret/#`.
fn settings_with_rules() -> Settings {
    use AclAction::{Both, Subscribe};
    use Permission::{Allow, Deny};
    let mut settings = settings();
    settings.acl.rules = vec![
        rule("own", Allow, Both, &["own/${clientid}/#"]),
        rule("secret", Deny, Both, &["news/secret/#"]),
        rule("news", Allow, Subscribe, &["news/#"]),
    ];
    settings
}

fn denials(gateway: &towline_gateway::gateway::Gateway, action: &str, rule: &str) -> f64 {
    metric(gateway, &format!("towline_acl_denials_total{{action=\"{action}\",rule=\"{rule}\"}}"))
}

#[tokio::test(start_paused = true)]
async fn a_version_5_client_is_told_of_each_filter_and_publish() {
    let gateway = gateway(settings_with_rules());
    let mut client = Client::v5(&gateway, "m1").await;
    for (filter, expected) in [
        ("own/m1/#", ReasonCode::GrantedQos1),
        ("own/m2/x", ReasonCode::NotAuthorized),
        ("own/+/x", ReasonCode::NotAuthorized),
        ("news/today", ReasonCode::GrantedQos1),
        ("news/#", ReasonCode::NotAuthorized),
        ("$share/g/news/today", ReasonCode::GrantedQos1),
        ("$share/g/news/secret/x", ReasonCode::NotAuthorized),
        ("#", ReasonCode::NotAuthorized),
    ] {
        assert_eq!(client.subscribe(filter, QoS::AtLeastOnce).await, expected, "{filter}");
    }
    assert_eq!(client.publish_acked("news/today", "x").await, ReasonCode::NotAuthorized);
    let id = client.publish("news/today", "x", QoS::ExactlyOnce).await.unwrap();
    match client.receive().await {
        Some(Packet::Pubrec(ack)) => assert_eq!((ack.packet_id, ack.reason), (id, ReasonCode::NotAuthorized)),
        other => panic!("{other:?} instead of PUBREC"),
    }
    // Dropped: there is no answer to it, and nobody gets it.
    client.publish("news/today", "x", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    client.publish("own/m1/a", "mine", QoS::AtMostOnce).await;
    assert_eq!(&client.expect_publish().await.payload[..], b"mine");
    assert_eq!(denials(&gateway, "publish", "default"), 3.0);
    assert_eq!(denials(&gateway, "subscribe", "default"), 2.0);
    assert_eq!(denials(&gateway, "subscribe", "secret"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn version_3_has_one_word_for_filters_and_none_for_publishes() {
    let gateway = gateway(settings_with_rules());
    let mut client = Client::v311(&gateway, "m1").await;
    assert_eq!(client.subscribe("own/m2/#", QoS::AtLeastOnce).await, ReasonCode::UnspecifiedError);
    assert_eq!(client.publish_acked("news/today", "x").await, ReasonCode::Success);
    assert_eq!(denials(&gateway, "publish", "default"), 1.0);

    let mut settings = settings_with_rules();
    settings.acl.mqtt3_denied = Mqtt3Denied::Disconnect;
    let gateway = crate::mqtt_support::gateway(settings);
    let mut client = Client::v311(&gateway, "m1").await;
    client.publish("news/today", "x", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    client.publish("news/today", "x", QoS::AtLeastOnce).await;
    assert_eq!(client.receive().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_id_with_wildcards_has_no_topics() {
    let gateway = gateway(settings_with_rules());
    for id in ["+", "#", "m1/x", "m1/+"] {
        let mut client = Client::v5(&gateway, id).await;
        for filter in ["own/+/x", "own/#", "own/m1/x", "own/m1/x/y"] {
            assert_eq!(
                client.subscribe(filter, QoS::AtMostOnce).await,
                ReasonCode::NotAuthorized,
                "{id} {filter}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_retained_and_wills_are_judged_as_publishes() {
    let gateway = gateway(settings_with_rules());
    let mut reader = Client::v5(&gateway, "reader").await;
    assert_eq!(reader.subscribe("news/today", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    assert_eq!(reader.subscribe("own/reader/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let mut client = Client::v5(&gateway, "m1").await;
    let retained = Publish { retain: true, ..publish("news/today", "kept", QoS::AtLeastOnce) };
    client.send(Packet::Publish(Box::new(retained))).await;
    match client.receive().await {
        Some(Packet::Puback(ack)) => assert_eq!(ack.reason, ReasonCode::NotAuthorized),
        other => panic!("{other:?} instead of PUBACK"),
    }
    for topic in ["news/today", "own/reader/x"] {
        let (client, _) = Client::connect(&gateway, with_will(connect(Version::V5, "m2"), topic, None)).await;
        drop(client);
        pass(Duration::from_secs(1)).await;
        reader.expect_nothing().await;
    }
    let (client, _) =
        Client::connect(&gateway, with_will(connect(Version::V5, "reader2"), "own/reader2/x", None)).await;
    drop(client);
    pass(Duration::from_secs(1)).await;
    assert_eq!(denials(&gateway, "publish", "default"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_concerns_the_next_action_and_the_next_connection() {
    let gateway = gateway(settings());
    let (mut client, _) = Client::connect(&gateway, connect_for(60, "m1")).await;
    assert_eq!(client.subscribe("news/today", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    assert_eq!(client.subscribe("other", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    reload::apply(&gateway, settings_with_rules()).unwrap();
    assert_eq!(client.publish_acked("other", "x").await, ReasonCode::NotAuthorized);
    assert_eq!(client.subscribe("other", QoS::AtLeastOnce).await, ReasonCode::NotAuthorized);
    client.leave().await;
    let (_client, connack) = Client::connect(&gateway, connect_for(60, "m1")).await;
    assert!(connack.session_present);
    let held: Vec<_> = gateway.hub.subscriptions("m1").into_iter().map(|(filter, _)| filter).collect();
    assert_eq!(held, ["news/today"], "what the rules do not permit by now is gone");
}
