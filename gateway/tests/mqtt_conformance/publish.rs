//! Sections 3.3 to 3.7: PUBLISH and its acknowledgements.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_2_a_publish_of_qos_0_is_no_repetition() {
    check_ended(b"\x38\x05\0\x01t\0x", ReasonCode::MalformedPacket).await;
    check_ended_v311(b"\x38\x04\0\x01tx").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_3_dup_is_not_handed_on() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    client.subscribe("t", QoS::AtLeastOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let again = Publish { dup: true, ..publish("t", "x", QoS::AtLeastOnce) };
    publisher.send(Packet::Publish(Box::new(again))).await;
    assert!(!client.expect_publish().await.dup);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_1_4_there_is_no_qos_3() {
    check_ended(b"\x36\x07\0\x01t\0\x01\0x", ReasonCode::MalformedPacket).await;
    check_ended_v311(b"\x36\x06\0\x01t\0\x01x").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_2_a_topic_name_has_no_wildcards_and_a_character() {
    for topic in [&b"a/+"[..], b"#", b"a#"] {
        check_ended(&publish_bytes(topic, b""), ReasonCode::MalformedPacket).await;
        check_ended_v311(&packet(0x30, &field(topic))).await;
    }
    check_ended(&publish_bytes(b"", b""), ReasonCode::ProtocolError).await;
    check_ended_v311(b"\x30\x02\0\0").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_3_the_topic_is_that_of_the_publisher() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    client.subscribe("a/+/#", QoS::AtMostOnce).await;
    for topic in ["a/b", "a//c", "a/B/", "a/\u{212b}"] {
        client.publish(topic, "x", QoS::AtMostOnce).await;
        assert_eq!(client.expect_publish().await.topic.as_str(), topic);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_5_what_has_expired_is_not_delivered_and_mqtt_3_3_2_6_the_rest_says_what_is_left() {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("t", QoS::ExactlyOnce).await;
    device.leave().await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for (payload, expiry) in [("gone", 3), ("there", 20)] {
        let mut publish = publish("t", payload, QoS::AtLeastOnce);
        publish.properties.expiry = Some(expiry);
        publisher.send(Packet::Publish(Box::new(publish))).await;
        assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
    }
    pass(SECOND * 5).await;
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    let publish = device.expect_publish().await;
    assert_eq!((&publish.payload[..], publish.properties.expiry), (&b"there"[..], Some(15)));
    device.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_7_an_alias_ends_with_its_connection() {
    let gateway = default_gateway();
    let alias = |topic: &'static str| publish_bytes(topic.as_bytes(), b"\x23\0\x01");
    let (mut client, _) = Client::connect(&gateway, connect_for(60, "client")).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    for topic in ["t", "", ""] {
        client.send_bytes(&alias(topic)).await;
        assert_eq!(client.expect_publish().await.topic.as_str(), "t");
    }
    client.leave().await;
    let (mut client, _) = Client::connect(&gateway, connect_for(60, "client")).await;
    client.send_bytes(&alias("")).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_8_an_alias_is_not_zero() {
    check_ended(&publish_bytes(b"t", b"\x23\0\0"), ReasonCode::TopicAliasInvalid).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_taken() {
    let gateway = default_gateway();
    let (mut client, connack) = Client::connect(&gateway, connect(Version::V5, "client")).await;
    let maximum = connack.properties.topic_alias_maximum.unwrap();
    assert!(maximum > 0);
    client.subscribe("#", QoS::AtMostOnce).await;
    let topics: Vec<_> = (1..=maximum).map(|alias| format!("t/{alias}")).collect();
    for is_known in [false, true] {
        for (topic, alias) in topics.iter().zip(1..=maximum) {
            let property = [&[0x23][..], &alias.to_be_bytes()].concat();
            let said = if is_known { "" } else { topic.as_str() };
            client.send_bytes(&publish_bytes(said.as_bytes(), &property)).await;
            assert_eq!(client.expect_publish().await.topic.as_str(), topic);
        }
    }
    // It may stand for another topic from now on.
    for (said, topic) in [("other", "other"), ("", "other")] {
        client.send_bytes(&publish_bytes(said.as_bytes(), b"\x23\0\x01")).await;
        assert_eq!(client.expect_publish().await.topic.as_str(), topic);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_2_14_a_response_topic_has_no_wildcards_and_a_character() {
    for topic in [&b"a/#"[..], b"+/b", b""] {
        let property = [&[0x08][..], &field(topic)].concat();
        check_ended(&publish_bytes(b"t", &property), ReasonCode::ProtocolError).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_4_1_each_qos_has_its_answer() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let (mut client, _) = Client::connect(&default_gateway(), connect(version, "client")).await;
        client.publish("t", "x", QoS::AtMostOnce).await;
        client.expect_nothing().await;
        let id = client.publish("t", "x", QoS::AtLeastOnce).await.unwrap();
        let Some(Packet::Puback(puback)) = client.receive().await else { panic!("no PUBACK") };
        assert_eq!(puback.packet_id, id);
        let id = client.publish("t", "x", QoS::ExactlyOnce).await.unwrap();
        let Some(Packet::Pubrec(pubrec)) = client.receive().await else { panic!("no PUBREC") };
        assert_eq!(pubrec.packet_id, id);
        client.send(Packet::Pubrel(ack(id))).await;
        assert_eq!(client.receive().await, Some(Packet::Pubcomp(ack(id))));
        let nobody =
            if version == Version::V5 { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        assert_eq!((puback.reason, pubrec.reason), (nobody, nobody));
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_4_2_overlapping_subscriptions_give_one_message_of_the_largest_qos() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    let filters = [
        ("a/#", QoS::ExactlyOnce, Some(1)),
        ("+/c", QoS::AtLeastOnce, Some(2)),
        ("a/c", QoS::AtMostOnce, None),
    ];
    for (filter, qos, id) in filters {
        client.subscribe_with(filter, options(qos), id).await;
    }
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("a/c", "x").await;
    let publish = client.take_publish().await;
    assert_eq!(publish.qos, QoS::ExactlyOnce);
    // MQTT-3.3.4-4: the identifiers of all that have one.
    let mut ids: Vec<_> = publish.properties.subscription_ids.iter().map(|id| id.get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_4_3_the_identifier_is_that_of_the_last_subscribe() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    for id in [Some(1), Some(268_435_455), None] {
        client.subscribe_with("t", options(QoS::AtMostOnce), id).await;
        client.publish("t", "x", QoS::AtMostOnce).await;
        let ids = client.expect_publish().await.properties.subscription_ids;
        assert_eq!(ids.iter().map(|id| id.get()).next(), id);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_4_6_clients_publish_without_subscription_identifier() {
    check_ended(&publish_bytes(b"t", b"\x0b\x01"), ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_3_4_7_more_than_receive_maximum_at_one_time_ends_the_connection() {
    let gateway = default_gateway();
    let (mut client, connack) = Client::connect(&gateway, connect(Version::V5, "client")).await;
    let maximum = connack.properties.receive_maximum.unwrap().get();
    for _ in 0..maximum {
        client.publish("t", "x", QoS::ExactlyOnce).await;
        assert!(matches!(client.receive().await, Some(Packet::Pubrec(_))));
    }
    // What is released makes room.
    client.send(Packet::Pubrel(ack(id(1)))).await;
    assert_eq!(client.receive().await, Some(Packet::Pubcomp(ack(id(1)))));
    client.publish("t", "x", QoS::ExactlyOnce).await;
    assert!(matches!(client.receive().await, Some(Packet::Pubrec(_))));
    client.publish("t", "x", QoS::ExactlyOnce).await;
    client.expect_end(ReasonCode::ReceiveMaximumExceeded).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_4_2_1_an_acknowledgement_carries_a_reason_of_its_own() {
    // Reserved everywhere; SUBACK's; PUBREL's in a PUBACK, and the other way round.
    for bytes in [
        b"\x40\x03\0\x01\x01",
        b"\x40\x03\0\x01\x92",
        b"\x50\x03\0\x01\x03",
        b"\x62\x03\0\x01\x10",
        b"\x70\x03\0\x01\x97",
    ] {
        check_ended(bytes, ReasonCode::MalformedPacket).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_6_2_1_what_belongs_to_no_message_is_told_so() {
    let mut client = Client::v5(&default_gateway(), "client").await;
    let unknown = Ack::new(id(77), ReasonCode::PacketIdentifierNotFound);
    client.send(Packet::Pubrel(ack(id(77)))).await;
    assert_eq!(client.receive().await, Some(Packet::Pubcomp(unknown.clone())));
    client.send(Packet::Pubrec(ack(id(77)))).await;
    assert_eq!(client.receive().await, Some(Packet::Pubrel(unknown)));
    client.send(Packet::Puback(ack(id(77)))).await;
    client.send(Packet::Pubcomp(ack(id(77)))).await;
    client.expect_nothing().await;
}
