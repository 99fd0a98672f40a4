//! Sections 3.8 to 3.11: SUBSCRIBE and UNSUBSCRIBE.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// Subscribes to several filters in one packet; what SUBACK says of each.
async fn subscribe_all(client: &mut Client, filters: &[(&str, QoS)]) -> Vec<ReasonCode> {
    let packet_id = client.id();
    let one = |&(filter, qos): &(&str, QoS)| Subscription { filter: text(filter), options: options(qos) };
    let subscriptions = filters.iter().map(one).collect();
    let properties = SubscribeProperties::default();
    client.send(Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })).await;
    match client.receive().await {
        Some(Packet::Suback(suback)) if suback.packet_id == packet_id => suback.reasons,
        other => panic!("{other:?} instead of SUBACK"),
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_3_2_there_is_a_filter_to_subscribe_to_and_to_unsubscribe_from() {
    check_ended(b"\x82\x03\0\x01\0", ReasonCode::ProtocolError).await;
    check_ended(b"\xa2\x03\0\x01\0", ReasonCode::ProtocolError).await;
    check_ended_v311(b"\x82\x02\0\x01").await;
    check_ended_v311(b"\xa2\x02\0\x01").await;
    // Nor is half of a subscription one.
    check_ended(b"\x82\x06\0\x01\0\0\x01t", ReasonCode::MalformedPacket).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_3_3_no_local_keeps_a_clients_own_messages_from_it() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    let mut other = Client::v5(&gateway, "other").await;
    let no_local = SubscriptionOptions { no_local: true, ..options(QoS::AtLeastOnce) };
    client.subscribe_with("t", no_local, None).await;
    other.subscribe_with("t", no_local, None).await;
    assert_eq!(client.publish_acked("t", "x").await, ReasonCode::Success);
    client.expect_nothing().await;
    assert_eq!(other.payload().await, "x");
    // Another subscription of its own still gets them.
    client.subscribe("+", QoS::AtMostOnce).await;
    client.publish("t", "y", QoS::AtMostOnce).await;
    assert_eq!(client.payload().await, "y");
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_3_4_no_local_does_not_go_with_a_shared_subscription() {
    check_ended(&subscribe_bytes(b"$share/g/t", 0x04), ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_3_5_reserved_bits_of_the_options_are_zero() {
    for bits in [0x40, 0x80] {
        check_ended(&subscribe_bytes(b"t", bits), ReasonCode::MalformedPacket).await;
    }
    // No such QoS, and no such handling of retained messages.
    for bits in [0x03, 0x30] {
        check_ended(&subscribe_bytes(b"t", bits), ReasonCode::ProtocolError).await;
    }
    check_ended_v311(b"\x82\x06\0\x01\0\x01t\x03").await;
    check_ended_v311(b"\x82\x06\0\x01\0\x01t\x04").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_2_a_subscription_identifier_is_not_zero() {
    check_ended(b"\x82\x09\0\x01\x02\x0b\0\0\x01t\0", ReasonCode::ProtocolError).await;
    check_ended(b"\x82\x0b\0\x01\x04\x0b\x01\x0b\x02\0\x01t\0", ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_4_3_the_same_filter_again_replaces_the_subscription() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for qos in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce] {
        client.subscribe("t", qos).await;
        publisher.publish_twice_acked("t", "x").await;
        let publish = client.expect_publish().await;
        assert_eq!(publish.qos, qos);
        client.expect_nothing().await;
    }
    assert_eq!(gateway.hub.subscription_count("client"), 1);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_4_5_filters_of_one_packet_are_taken_one_after_the_other() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    let too_deep = "a/".repeat(40);
    let filters = [
        ("a", QoS::ExactlyOnce),
        (&too_deep, QoS::AtMostOnce),
        ("b", QoS::AtLeastOnce),
        ("b", QoS::AtMostOnce),
    ];
    // MQTT-3.8.4-6, -7 and MQTT-3.9.3-1: a reason for each, in their order.
    let reasons = subscribe_all(&mut client, &filters).await;
    let expected = [
        ReasonCode::GrantedQos2,
        ReasonCode::TopicFilterInvalid,
        ReasonCode::GrantedQos1,
        ReasonCode::Success,
    ];
    assert_eq!(reasons, expected);
    assert_eq!(client.publish_acked("b", "x").await, ReasonCode::Success);
    assert_eq!(client.take_publish().await.qos, QoS::AtMostOnce, "the last one holds");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_9_3_2_mqtt_3_knows_one_failure() {
    let mut client = Client::v311(&default_gateway(), "client").await;
    let filters = [("a", QoS::AtMostOnce), (&*"a/".repeat(40), QoS::AtMostOnce), ("b", QoS::ExactlyOnce)];
    let reasons = subscribe_all(&mut client, &filters).await;
    assert_eq!(reasons, [ReasonCode::Success, ReasonCode::UnspecifiedError, ReasonCode::GrantedQos2]);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_8_4_8_a_message_has_the_smaller_qos() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for asked in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut client = Client::v5(&gateway, "client").await;
        client.subscribe("t", asked).await;
        publisher.publish("t", "x", QoS::AtMostOnce).await;
        publisher.publish_acked("t", "x").await;
        publisher.publish_twice_acked("t", "x").await;
        for sent in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(client.take_publish().await.qos, asked.min(sent));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_10_4_1_a_subscription_ends_by_its_own_filter_and_no_other() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    for filter in ["a/#", "a/+", "a/b"] {
        client.subscribe(filter, QoS::AtMostOnce).await;
    }
    // MQTT-3.10.4-5, -6 and MQTT-3.11.3-1: one answer, with a reason for each in their order.
    let reasons = client.unsubscribe(&["a/c", "a/+", "#", "a/b", "A/#"]).await;
    let (ended, none) = (ReasonCode::Success, ReasonCode::NoSubscriptionExisted);
    assert_eq!(reasons, [none, ended, none, ended, none]);
    client.publish("a/b", "x", QoS::AtMostOnce).await;
    assert_eq!(client.payload().await, "x");
    assert_eq!(client.unsubscribe(&["a/#"]).await, [ended]);
    client.publish("a/b", "x", QoS::AtMostOnce).await;
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_10_4_3_what_was_sent_is_completed_and_mqtt_3_10_4_2_nothing_is_added() {
    let gateway = default_gateway();
    let (mut client, _) = Client::connect(&gateway, connect_for(60, "client")).await;
    client.subscribe("t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "x").await;
    let id = client.take_publish().await.packet_id.unwrap();
    assert_eq!(client.unsubscribe(&["t"]).await, [ReasonCode::Success]);
    publisher.publish_twice_acked("t", "late").await;
    client.send(Packet::Pubrec(ack(id))).await;
    assert_eq!(client.receive().await, Some(Packet::Pubrel(ack(id))));
    client.send(Packet::Pubcomp(ack(id))).await;
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_10_4_4_mqtt_3_is_answered_in_any_case() {
    let mut client = Client::v311(&default_gateway(), "client").await;
    client.send_bytes(b"\xa2\x05\x01\x02\0\x01t").await;
    assert!(
        matches!(client.receive().await, Some(Packet::Unsuback(unsuback)) if unsuback.packet_id == id(0x0102))
    );
}
