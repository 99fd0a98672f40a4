//! What MQTT 3.1 and 3.1.1 ask otherwise than MQTT 5.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

fn unclean(version: Version, id: &str) -> Connect {
    Connect { clean_start: false, ..connect(version, id) }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_1_3_1_3_8_an_empty_identifier_needs_a_clean_session() {
    let gateway = default_gateway();
    let refused = [unclean(Version::V311, ""), unclean(Version::V31, ""), connect(Version::V31, "")];
    for connect in refused {
        let mut client = Client::open(&gateway);
        assert_eq!(client.greet(connect).await.reason, ReasonCode::ClientIdentifierNotValid);
        assert_eq!(client.receive().await, None);
    }
    let (_one, _) = Client::connect(&gateway, connect(Version::V311, "")).await;
    let (_two, _) = Client::connect(&gateway, connect(Version::V311, "")).await;
    assert_eq!(gateway.hub.clients(), 2);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_1_3_1_2_4_an_unclean_session_outlives_its_connection() {
    for version in [Version::V31, Version::V311] {
        let gateway = default_gateway();
        let (mut device, connack) = Client::connect(&gateway, unclean(version, "device")).await;
        assert!(!connack.session_present);
        device.subscribe("t", QoS::ExactlyOnce).await;
        device.leave().await;
        let mut publisher = Client::v311(&gateway, "publisher").await;
        publisher.publish_acked("t", "1").await;
        publisher.publish_twice_acked("t", "2").await;
        let (mut device, connack) = Client::connect(&gateway, unclean(version, "device")).await;
        assert_eq!(connack.session_present, version == Version::V311);
        for payload in ["1", "2"] {
            assert_eq!(device.payload().await, payload);
        }
        device.leave().await;
        // MQTT-3.1.2-6: a clean one begins anew and is not kept.
        let (device, connack) = Client::connect(&gateway, connect(version, "device")).await;
        assert!(!connack.session_present);
        device.leave().await;
        assert_eq!(gateway.mqtt.sessions(), 1, "the publisher");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_1_3_3_5_2_nothing_is_said_of_a_publish_that_nobody_wants_or_may_do() {
    let mut client = Client::v311(&default_gateway(), "client").await;
    assert_eq!(client.publish_acked("nobody", "x").await, ReasonCode::Success);
    assert_eq!(client.publish_acked("$SYS/mine", "x").await, ReasonCode::Success);
    client.publish_twice_acked("$SYS/mine", "x").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_1_4_4_0_1_publish_and_pubrel_come_again_with_their_identifiers() {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, unclean(Version::V311, "device")).await;
    device.subscribe("t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v311(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "released").await;
    publisher.publish_acked("t", "sent").await;
    let released = device.take_publish().await.packet_id.unwrap();
    let sent = device.take_publish().await;
    device.send(Packet::Pubrec(ack(released))).await;
    assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(released))));
    let (mut device, connack) = Client::connect(&gateway, unclean(Version::V311, "device")).await;
    assert!(connack.session_present);
    assert_eq!(device.receive().await, Some(Packet::Pubrel(ack(released))));
    assert_eq!(device.take_publish().await, Publish { dup: true, ..sent });
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_a_repeated_packet_may_say_so_and_a_password_may_stand_alone() {
    // MQTT 3.1 marks a repeated PUBREL, SUBSCRIBE and UNSUBSCRIBE by DUP.
    let (mut client, _) = Client::connect(&default_gateway(), connect(Version::V31, "client")).await;
    client.send_bytes(b"\x8a\x06\0\x01\0\x01t\0").await;
    assert!(matches!(client.receive().await, Some(Packet::Suback(_))));
    client.send_bytes(b"\x6a\x02\0\x05").await;
    assert_eq!(client.receive().await, Some(Packet::Pubcomp(ack(id(5)))));
    client.send_bytes(b"\xaa\x05\0\x02\0\x01t").await;
    assert!(matches!(client.receive().await, Some(Packet::Unsuback(_))));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_of_another_broker_gets_nothing_back_and_what_is_retained_as_such() {
    for version in [Version::V31, Version::V311] {
        let gateway = default_gateway();
        let greeting = Connect { is_bridge: true, ..connect(version, "bridge") };
        let (mut bridge, _) = Client::connect(&gateway, greeting).await;
        bridge.subscribe("#", QoS::AtMostOnce).await;
        bridge.publish_acked("from/bridge", "x").await;
        let mut device = Client::v311(&gateway, "device").await;
        device.send(retained("from/device", "x", QoS::AtMostOnce)).await;
        let got = bridge.expect_publish().await;
        assert_eq!((got.topic.as_str(), got.retain), ("from/device", true), "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_1_4_8_shared_subscriptions_are_for_mqtt_3_too() {
    let gateway = default_gateway();
    let mut one = Client::v311(&gateway, "one").await;
    let (mut two, _) = Client::connect(&gateway, connect(Version::V31, "two")).await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.subscribe("$share/g/t", QoS::AtMostOnce).await, ReasonCode::Success);
    }
    let mut publisher = Client::v311(&gateway, "publisher").await;
    for _ in 0..4 {
        publisher.publish_acked("t", "x").await;
    }
    for client in [&mut one, &mut two] {
        client.expect_publish().await;
        client.expect_publish().await;
        client.expect_nothing().await;
    }
}
