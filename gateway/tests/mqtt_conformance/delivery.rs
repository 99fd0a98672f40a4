//! Sections 4.3 to 4.6 and 4.9: quality of service, repetition, order, flow control.

use std::num::NonZeroU16;

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// A device with a session of a minute that subscribed to `t` with QoS 2, and a publisher.
async fn scene() -> (std::sync::Arc<towline_gateway::gateway::Gateway>, Client, Client) {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("t", QoS::ExactlyOnce).await;
    let publisher = Client::v5(&gateway, "publisher").await;
    (gateway, device, publisher)
}

async fn back(gateway: &std::sync::Arc<towline_gateway::gateway::Gateway>) -> Client {
    let (device, connack) = Client::connect(gateway, connect_for(60, "device")).await;
    assert!(connack.session_present);
    device
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_1_1_a_first_publish_is_no_repetition_in_any_qos() {
    let (_gateway, mut device, mut publisher) = scene().await;
    publisher.publish("t", "x", QoS::AtMostOnce).await;
    publisher.publish_acked("t", "x").await;
    publisher.publish_twice_acked("t", "x").await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let publish = device.take_publish().await;
        assert_eq!((publish.qos, publish.dup), (qos, false));
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_2_5_after_puback_the_identifier_is_another_messages() {
    let (_gateway, mut device, mut publisher) = scene().await;
    for dup in [false, true] {
        let again = Publish { dup, ..publish("t", "x", QoS::AtLeastOnce) };
        publisher.send(Packet::Publish(Box::new(again))).await;
        assert_eq!(publisher.receive().await, Some(Packet::Puback(ack(id(1)))));
        device.expect_publish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_3_6_after_pubrel_the_message_is_not_sent_again() {
    let (gateway, mut device, mut publisher) = scene().await;
    publisher.publish_twice_acked("t", "x").await;
    let id = device.take_publish().await.packet_id.unwrap();
    device.send(Packet::Pubrec(ack(id))).await;
    assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(id))));
    drop(device);
    // MQTT-4.3.3-5: PUBREL is, until PUBCOMP has come.
    for _ in 0..2 {
        let mut device = back(&gateway).await;
        assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(id))));
        device.expect_nothing().await;
    }
    let mut device = back(&gateway).await;
    assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(id))));
    device.send(Packet::Pubcomp(ack(id))).await;
    device.expect_nothing().await;
    back(&gateway).await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_3_7_what_was_sent_does_not_expire() {
    let (gateway, mut device, mut publisher) = scene().await;
    let mut short = publish("t", "x", QoS::ExactlyOnce);
    short.properties.expiry = Some(1);
    publisher.send(Packet::Publish(Box::new(short))).await;
    let first = device.take_publish().await;
    drop(device);
    pass(SECOND * 10).await;
    let again = back(&gateway).await.take_publish().await;
    assert_eq!((again.packet_id, again.dup), (first.packet_id, true));
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_3_10_a_repetition_is_answered_and_not_delivered() {
    let (_gateway, mut device, mut publisher) = scene().await;
    for dup in [false, true, true] {
        let again = Publish { dup, ..publish("t", "x", QoS::ExactlyOnce) };
        publisher.send(Packet::Publish(Box::new(again))).await;
        assert_eq!(publisher.receive().await, Some(Packet::Pubrec(ack(id(1)))));
    }
    device.take_publish().await;
    device.expect_nothing().await;
    // MQTT-4.3.3-11 and -12: after PUBCOMP it is a new message.
    publisher.send(Packet::Pubrel(ack(id(1)))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubcomp(ack(id(1)))));
    publisher.send(Packet::Publish(Box::new(publish("t", "new", QoS::ExactlyOnce)))).await;
    assert_eq!(&device.take_publish().await.payload[..], b"new");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_3_9_after_a_refusal_the_identifier_is_another_messages() {
    let mut settings = settings();
    settings.mqtt.retained_max = 0;
    let gateway = gateway(settings);
    let mut device = Client::v5(&gateway, "device").await;
    device.subscribe("t", QoS::AtMostOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.send(retained("t", "refused", QoS::ExactlyOnce)).await;
    assert!(matches!(publisher.receive().await, Some(Packet::Pubrec(refused)) if refused.reason.is_error()));
    publisher.send(Packet::Publish(Box::new(publish("t", "new", QoS::ExactlyOnce)))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubrec(ack(id(1)))));
    assert_eq!(device.payload().await, "new");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_3_3_13_an_exchange_goes_on_when_its_message_has_expired() {
    let (_gateway, device, mut publisher) = scene().await;
    device.leave().await;
    let mut short = publish("t", "x", QoS::ExactlyOnce);
    short.properties.expiry = Some(1);
    publisher.send(Packet::Publish(Box::new(short))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubrec(ack(id(1)))));
    pass(SECOND * 10).await;
    publisher.send(Packet::Pubrel(ack(id(1)))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubcomp(ack(id(1)))));
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_4_0_1_a_reconnect_brings_all_again_in_order_and_nothing_else_does() {
    let (gateway, mut device, mut publisher) = scene().await;
    for payload in ["1", "2", "3"] {
        publisher.publish_acked("t", payload).await;
        publisher.publish_twice_acked("t", payload).await;
    }
    let mut sent = Vec::new();
    for _ in 0..6 {
        sent.push(device.take_publish().await);
    }
    pass(SECOND * 1000).await;
    device.expect_nothing().await;
    for _ in 0..2 {
        device = back(&gateway).await;
        for first in &sent {
            assert_eq!(device.take_publish().await, Publish { dup: true, ..first.clone() });
        }
        device.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_4_0_2_what_the_client_refused_is_done() {
    let (gateway, mut device, mut publisher) = scene().await;
    publisher.publish_acked("t", "x").await;
    publisher.publish_twice_acked("t", "x").await;
    let refused = |publish: &Publish| Ack::new(publish.packet_id.unwrap(), ReasonCode::QuotaExceeded);
    let first = device.take_publish().await;
    device.send(Packet::Puback(refused(&first))).await;
    let second = device.take_publish().await;
    device.send(Packet::Pubrec(refused(&second))).await;
    device.expect_nothing().await;
    back(&gateway).await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_6_0_4_pubrels_keep_the_order_of_pubrecs() {
    let (_gateway, mut device, mut publisher) = scene().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        publisher.publish_twice_acked("t", "x").await;
        ids.push(device.take_publish().await.packet_id.unwrap());
    }
    ids.rotate_left(1);
    for id in &ids {
        device.send(Packet::Pubrec(ack(*id))).await;
    }
    for id in ids {
        assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(id))));
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_6_0_5_messages_of_a_topic_and_qos_keep_their_order() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (_gateway, mut device, mut publisher) = scene().await;
        for at in 0..20 {
            publisher.publish("t", &at.to_string(), qos).await;
        }
        for at in 0..20 {
            assert_eq!(&device.take_publish().await.payload[..], at.to_string().as_bytes());
        }
        if qos != QoS::AtMostOnce {
            for at in 1..=20 {
                match publisher.receive().await {
                    Some(Packet::Puback(ack) | Packet::Pubrec(ack)) => assert_eq!(ack.packet_id, id(at)),
                    other => panic!("{other:?} instead of an acknowledgement"),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_9_0_2_no_more_is_in_flight_than_receive_maximum_and_mqtt_4_9_0_3_the_rest_goes_on() {
    let gateway = default_gateway();
    let mut asked = connect(Version::V5, "device");
    asked.properties.receive_maximum = NonZeroU16::new(2);
    let (mut device, _) = Client::connect(&gateway, asked).await;
    device.subscribe("t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for payload in ["1", "2", "3", "4", "5"] {
        publisher.publish_twice_acked("t", payload).await;
    }
    let (first, second) = (device.take_publish().await, device.take_publish().await);
    // MQTT-3.3.4-10: everything else is answered.
    device.expect_nothing().await;
    assert_eq!(device.subscribe("u", QoS::AtMostOnce).await, ReasonCode::Success);
    assert_eq!(device.publish_acked("elsewhere", "x").await, ReasonCode::NoMatchingSubscribers);
    // PUBREC gives no room, PUBCOMP and a refusal do.
    let one = first.packet_id.unwrap();
    device.send(Packet::Pubrec(ack(one))).await;
    assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(one))));
    device.expect_nothing().await;
    device.send(Packet::Pubcomp(ack(one))).await;
    assert_eq!(&device.take_publish().await.payload[..], b"3");
    let refused = Ack::new(second.packet_id.unwrap(), ReasonCode::QuotaExceeded);
    device.send(Packet::Pubrec(refused)).await;
    assert_eq!(&device.take_publish().await.payload[..], b"4");
    device.expect_nothing().await;
}
