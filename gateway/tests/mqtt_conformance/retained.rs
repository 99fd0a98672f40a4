//! Section 3.3.1.3: RETAIN, and who is sent what was retained.

use std::{num::NonZeroU16, sync::Arc};

use towline_gateway::gateway::Gateway;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// What a new subscriber of `filter` is sent, as topic and payload.
async fn retained_for(client: &mut Client, filter: &str, handling: RetainHandling) -> Vec<(String, String)> {
    let options = SubscriptionOptions { retain_handling: handling, ..options(QoS::ExactlyOnce) };
    client.subscribe_with(filter, options, None).await;
    client.send(Packet::Pingreq).await;
    let mut messages = Vec::new();
    loop {
        match client.receive().await {
            Some(Packet::Publish(publish)) => {
                assert!(publish.retain);
                let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                messages.push((publish.topic.as_str().to_owned(), payload));
            }
            Some(Packet::Pingresp) => return messages,
            other => panic!("{other:?} beside retained messages"),
        }
    }
}

fn messages(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_5_a_retained_message_replaces_the_one_before_whatever_their_qos() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    for (at, qos) in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce].into_iter().enumerate() {
        client.send(retained("t", &at.to_string(), qos)).await;
        if qos != QoS::AtMostOnce {
            client.receive().await;
        }
    }
    assert_eq!(retained_for(&mut client, "t", RetainHandling::Send).await, messages(&[("t", "2")]));
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_6_an_empty_message_removes_and_is_delivered_and_mqtt_3_3_1_7_is_not_kept() {
    let gateway = default_gateway();
    let mut live = Client::v5(&gateway, "live").await;
    live.subscribe("t", QoS::AtMostOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for payload in ["x", ""] {
        publisher.send(retained("t", payload, QoS::AtMostOnce)).await;
        assert_eq!(live.payload().await, payload);
    }
    assert!(gateway.mqtt.retained.is_empty());
    assert!(retained_for(&mut publisher, "#", RetainHandling::Send).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_8_what_is_not_to_be_retained_changes_nothing() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    client.send(retained("t", "kept", QoS::AtMostOnce)).await;
    for payload in ["other", ""] {
        client.publish("t", payload, QoS::AtMostOnce).await;
    }
    client.publish("u", "x", QoS::AtMostOnce).await;
    assert_eq!(retained_for(&mut client, "#", RetainHandling::Send).await, messages(&[("t", "kept")]));
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_9_to_11_retain_handling_is_obeyed() {
    use RetainHandling::{DoNotSend, Send, SendIfNew};
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.send(retained("t", "x", QoS::AtMostOnce)).await;
    publisher.expect_nothing().await;
    let steps = [(Send, true), (Send, true), (SendIfNew, false), (DoNotSend, false), (Send, true)];
    let mut client = Client::v5(&gateway, "client").await;
    for (handling, is_sent) in steps {
        assert_eq!(
            retained_for(&mut client, "t", handling).await.len(),
            usize::from(is_sent),
            "{handling:?}"
        );
    }
    for (handling, is_sent) in [(DoNotSend, false), (SendIfNew, true)] {
        client.unsubscribe(&["t"]).await;
        assert_eq!(
            retained_for(&mut client, "t", handling).await.len(),
            usize::from(is_sent),
            "{handling:?}"
        );
    }
}

/// A gateway that queues ten messages for a session and retains ten times as many; and a subscriber who is sent one
/// message of QoS 1 at a time.
async fn more_than_a_queue_holds(qos: QoS) -> (Arc<Gateway>, Vec<String>, Client) {
    let mut settings = settings();
    settings.mqtt.queue_max = 10;
    let gateway = gateway(settings);
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let topics: Vec<_> = (0..100).map(|number| format!("t/{number:03}")).collect();
    for topic in &topics {
        publisher.send(retained(topic, "x", qos)).await;
    }
    for _ in topics.iter().filter(|_| qos == QoS::AtLeastOnce) {
        publisher.receive().await;
    }
    publisher.expect_nothing().await;
    let mut asked = connect_for(60, "client");
    asked.properties.receive_maximum = NonZeroU16::new(1);
    let (client, _) = Client::connect(&gateway, asked).await;
    (gateway, topics, client)
}

/// Takes a retained message; says what its topic is.
async fn take_retained(client: &mut Client) -> String {
    let publish = client.expect_publish().await;
    assert!(publish.retain);
    publish.topic.as_str().to_owned()
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_9_all_that_is_retained_is_sent_though_a_queue_holds_less() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (gateway, topics, mut client) = more_than_a_queue_holds(qos).await;
        client.subscribe("t/#", QoS::AtLeastOnce).await;
        for topic in &topics {
            assert_eq!(take_retained(&mut client).await, *topic);
        }
        client.expect_nothing().await;
        assert_eq!(metric(&gateway, "towline_mqtt_messages_dropped_total"), 0.0);
        client.publish_acked("t/live", "y").await;
        assert_eq!(client.payload().await, "y");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_10_4_2_nothing_retained_is_added_for_a_subscription_that_has_ended() {
    let (_gateway, _, mut client) = more_than_a_queue_holds(QoS::AtLeastOnce).await;
    client.subscribe("t/#", QoS::AtLeastOnce).await;
    let Some(Packet::Publish(first)) = client.receive().await else { panic!("no retained message") };
    assert_eq!(client.unsubscribe(&["t/#"]).await, [ReasonCode::Success]);
    client.subscribe("t/099", QoS::AtLeastOnce).await;
    client.send(Packet::Puback(Ack::new(first.packet_id.unwrap(), ReasonCode::Success))).await;
    let mut queued = 0;
    while take_retained(&mut client).await != "t/099" {
        queued += 1;
    }
    assert!(queued <= 5, "{queued} messages were added");
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_9_a_session_keeps_of_what_is_retained_as_much_as_its_queue_holds() {
    let (gateway, topics, mut client) = more_than_a_queue_holds(QoS::AtLeastOnce).await;
    client.subscribe("t/#", QoS::AtLeastOnce).await;
    assert!(matches!(client.receive().await, Some(Packet::Publish(_))));
    drop(client);
    pass(SECOND).await;
    let (mut client, connack) = Client::connect(&gateway, connect_for(60, "client")).await;
    assert!(connack.session_present);
    // One was in flight.
    for topic in &topics[..11] {
        assert_eq!(take_retained(&mut client).await, *topic);
    }
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_12_and_13_retain_is_handed_on_to_who_asked_for_it() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for is_asked in [false, true] {
        let mut client = Client::v5(&gateway, "client").await;
        let options = SubscriptionOptions { retain_as_published: is_asked, ..Default::default() };
        client.subscribe_with("t", options, None).await;
        publisher.send(retained("t", "", QoS::AtMostOnce)).await;
        assert_eq!(client.expect_publish().await.retain, is_asked);
        publisher.publish("t", "x", QoS::AtMostOnce).await;
        assert!(!client.expect_publish().await.retain);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_4_8_a_retained_message_has_the_smaller_qos() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.send(retained("two", "x", QoS::ExactlyOnce)).await;
    publisher.receive().await;
    publisher.send(retained("none", "x", QoS::AtMostOnce)).await;
    publisher.expect_nothing().await;
    for (filter, asked, sent) in [
        ("two", QoS::AtMostOnce, QoS::AtMostOnce),
        ("two", QoS::AtLeastOnce, QoS::AtLeastOnce),
        ("two", QoS::ExactlyOnce, QoS::ExactlyOnce),
        ("none", QoS::ExactlyOnce, QoS::AtMostOnce),
    ] {
        let mut client = Client::v5(&gateway, "client").await;
        client.subscribe(filter, asked).await;
        assert_eq!(client.expect_publish().await.qos, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_17_a_retained_message_keeps_its_properties() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    let mut sent = publish("t", "x", QoS::AtMostOnce);
    sent.retain = true;
    sent.properties = PublishProperties {
        payload_utf8: Some(true),
        expiry: Some(60),
        response_topic: Some(text("answers")),
        correlation_data: Some(Binary::new("id").unwrap()),
        user_properties: vec![(text("b"), text("1")), (text("a"), text("2")), (text("b"), text("1"))],
        content_type: Some(text("text/plain")),
        ..Default::default()
    };
    client.send(Packet::Publish(Box::new(sent.clone()))).await;
    pass(SECOND * 10).await;
    client.subscribe_with("t", options(QoS::AtMostOnce), Some(3)).await;
    sent.properties.expiry = Some(50);
    sent.properties.subscription_ids = vec![SubscriptionId::new(3).unwrap()];
    assert_eq!(client.expect_publish().await, sent);
    // And ends with its time.
    pass(SECOND * 50).await;
    assert!(retained_for(&mut client, "t", RetainHandling::Send).await.is_empty());
}
