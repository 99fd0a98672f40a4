//! Section 4.8.2: shared subscriptions.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_1_and_2_a_share_has_a_name_and_a_filter() {
    for filter in [&b"$share//t"[..], b"$share/g", b"$share/g/", b"$share/+/t", b"$share/g#/t", b"$share/"] {
        check_ended(&subscribe_bytes(filter, 0), MALFORMED).await;
    }
    let mut client = Client::v5(&default_gateway(), "client").await;
    for filter in ["$share/g/t", "$share/g/#", "$share/g//", "$share/\u{e9} x/+/a"] {
        assert_eq!(client.subscribe(filter, QoS::AtMostOnce).await, ReasonCode::Success);
    }
    // Such a filter is not a share.
    client.subscribe("$shared/t", QoS::AtMostOnce).await;
    client.publish("$shared/t", "x", QoS::AtMostOnce).await;
    assert_eq!(client.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_each_group_gets_a_message_once_beside_ordinary_subscribers() {
    let gateway = default_gateway();
    let mut members = Vec::new();
    for (id, filter) in [("a1", "$share/a/t"), ("a2", "$share/a/t"), ("b1", "$share/b/+"), ("c", "t")] {
        let mut client = Client::v5(&gateway, id).await;
        client.subscribe(filter, QoS::AtMostOnce).await;
        members.push(client);
    }
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for _ in 0..4 {
        publisher.publish_acked("t", "x").await;
    }
    for (client, count) in members.iter_mut().zip([2, 2, 4, 4]) {
        for _ in 0..count {
            client.expect_publish().await;
        }
        client.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_3_a_members_qos_is_its_own() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for (id, qos) in [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)] {
        let mut client = Client::v5(&gateway, id).await;
        client.subscribe("$share/g/t", qos).await;
        publisher.publish_twice_acked("t", "x").await;
        assert_eq!(client.take_publish().await.qos, qos);
        client.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_4_a_member_is_sent_its_message_to_the_end_and_mqtt_4_8_2_5_nobody_else_is() {
    let gateway = default_gateway();
    let (mut first, _) = Client::connect(&gateway, connect_for(60, "first")).await;
    first.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "x").await;
    let sent = first.take_publish().await;
    let mut second = Client::v5(&gateway, "second").await;
    second.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    drop(first);
    let (mut first, connack) = Client::connect(&gateway, connect_for(60, "first")).await;
    assert!(connack.session_present);
    assert_eq!(first.take_publish().await, Publish { dup: true, ..sent });
    drop(first);
    // Its session ends: the message ends with it.
    pass(SECOND * 61).await;
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_6_what_a_member_refuses_goes_to_nobody_else() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut first = Client::v5(&gateway, "first").await;
    first.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    publisher.publish_acked("t", "x").await;
    let id = first.take_publish().await.packet_id.unwrap();
    let mut second = Client::v5(&gateway, "second").await;
    second.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    first.send(Packet::Puback(Ack::new(id, ReasonCode::QuotaExceeded))).await;
    first.expect_nothing().await;
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_nothing_retained_is_sent_and_members_who_are_away_are_passed_over() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.send(retained("t", "old", QoS::AtMostOnce)).await;
    publisher.expect_nothing().await;
    let (mut away, _) = Client::connect(&gateway, connect_for(60, "away")).await;
    away.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    away.expect_nothing().await;
    away.leave().await;
    let mut there = Client::v5(&gateway, "there").await;
    there.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    for payload in ["1", "2", "3"] {
        publisher.publish_acked("t", payload).await;
        assert_eq!(there.payload().await, payload);
    }
    assert_eq!(there.unsubscribe(&["$share/g/t"]).await, [ReasonCode::Success]);
    // All are away: it waits for one of them.
    assert_eq!(publisher.publish_acked("t", "4").await, ReasonCode::Success);
    let (mut away, _) = Client::connect(&gateway, connect_for(60, "away")).await;
    assert_eq!(away.payload().await, "4");
}
