//! Sections 3.1.2.4, 3.1.2.11.2, 3.14.2.2.2 and 4.1: what is kept of a client, and for how long.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_gateway::gateway::Gateway;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// A connection on which what the client says takes `delay` to the gateway.
fn open_slow(gateway: &Arc<Gateway>, delay: Duration) -> Client {
    let ((near, relayed), (relay, far)) = (tokio::io::duplex(1024), tokio::io::duplex(1024));
    serve(gateway, far);
    let ((mut said, mut heard), (mut answers, mut onward)) =
        (tokio::io::split(relayed), tokio::io::split(relay));
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut heard).await });
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = said.read(&mut bytes).await {
            tokio::time::sleep(delay).await;
            onward.write_all(&bytes[..count]).await.unwrap();
        }
    });
    Client::on(near)
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_4_a_clean_start_leaves_nothing_of_the_old_session() {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "in flight").await;
    device.take_publish().await;
    // Taken from it, and not released.
    device.publish("u", "x", QoS::ExactlyOnce).await;
    device.receive().await;
    drop(device);
    publisher.publish_acked("t", "waits").await;
    let mut clean = connect_for(60, "device");
    clean.clean_start = true;
    let (mut device, connack) = Client::connect(&gateway, clean).await;
    assert!(!connack.session_present);
    device.expect_nothing().await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::NoMatchingSubscribers);
    device.send(Packet::Pubrel(ack(id(2)))).await;
    let unknown = Ack::new(id(2), ReasonCode::PacketIdentifierNotFound);
    assert_eq!(device.receive().await, Some(Packet::Pubcomp(unknown)));
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_5_a_session_goes_on_with_all_that_it_had() {
    let gateway = default_gateway();
    let (mut device, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    // MQTT-3.1.2-6: there was none.
    assert!(!connack.session_present);
    device.subscribe("t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "in flight").await;
    device.take_publish().await;
    device.publish("u", "x", QoS::ExactlyOnce).await;
    device.receive().await;
    drop(device);
    publisher.publish_acked("t", "waits").await;
    pass(SECOND * 59).await;
    let (mut device, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(connack.session_present);
    assert_eq!(device.payload().await, "in flight");
    assert_eq!(device.payload().await, "waits");
    device.send(Packet::Pubrel(ack(id(2)))).await;
    assert_eq!(device.receive().await, Some(Packet::Pubcomp(ack(id(2)))));
    publisher.publish_acked("t", "after").await;
    assert_eq!(device.payload().await, "after");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_23_no_expiry_interval_ends_the_session_with_its_connection() {
    let gateway = default_gateway();
    for interval in [None, Some(0)] {
        let mut asked = connect(Version::V5, "device");
        (asked.clean_start, asked.properties.session_expiry) = (false, interval);
        for _ in 0..2 {
            let (mut client, connack) = Client::connect(&gateway, asked.clone()).await;
            assert!(!connack.session_present);
            client.subscribe("t", QoS::AtLeastOnce).await;
            client.leave().await;
        }
    }
    assert_eq!(gateway.hub.clients(), 0);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_23_the_longest_interval_is_told() {
    let mut settings = settings();
    settings.mqtt.session_expiry_max = SECOND * 100;
    let gateway = gateway(settings);
    for (asked, told) in [(u32::MAX, Some(100)), (101, Some(100)), (100, None), (1, None)] {
        let (client, connack) = Client::connect(&gateway, connect_for(asked, "device")).await;
        assert_eq!(connack.properties.session_expiry, told);
        client.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_2_disconnect_may_change_the_interval() {
    let gateway = default_gateway();
    let leave = async |seconds, last: Option<u32>| {
        let (mut client, connack) = Client::connect(&gateway, connect_for(seconds, "device")).await;
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.properties.session_expiry = last;
        client.send(Packet::Disconnect(disconnect)).await;
        assert_eq!(client.receive().await, None);
        connack.session_present
    };
    assert!(!leave(10, Some(100)).await);
    pass(SECOND * 50).await;
    assert!(leave(10, Some(0)).await, "it was prolonged");
    assert!(!leave(10, None).await, "it was ended");
    pass(SECOND * 11).await;
    assert!(!leave(10, None).await, "it has ended");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_2_a_session_that_was_to_end_is_not_prolonged() {
    // An interval of 10 s where CONNECT had none.
    check_ended(b"\xe0\x07\0\x05\x11\0\0\0\x0a", ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_1_0_1_nothing_is_forgotten_while_the_client_is_there() {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, connect_for(1, "device")).await;
    device.subscribe("t", QoS::AtLeastOnce).await;
    pass(SECOND * 1000).await;
    Client::v5(&gateway, "publisher").await.publish_acked("t", "x").await;
    assert_eq!(device.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_4_3_a_take_over_ends_the_older_connection_of_any_version() {
    let gateway = default_gateway();
    let versions = [Version::V31, Version::V311, Version::V5];
    for older in versions {
        for newer in versions {
            let (mut old, _) = Client::connect(&gateway, connect(older, "device")).await;
            let (mut new, _) = Client::connect(&gateway, connect(newer, "device")).await;
            old.expect_end(ReasonCode::SessionTakenOver).await;
            new.expect_nothing().await;
            new.leave().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_4_who_takes_leave_and_is_back_at_once_has_left() {
    let gateway = default_gateway();
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills", QoS::AtLeastOnce).await;
    let mut old = open_slow(&gateway, Duration::from_millis(10));
    old.greet(with_will(connect_for(60, "device"), "wills", None)).await;
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    disconnect.properties.session_expiry = Some(0);
    old.send(Packet::Disconnect(disconnect)).await;
    // The new connection is there before the old one's last word.
    let (_new, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(!connack.session_present);
    pass(SECOND).await;
    watcher.expect_nothing().await;
}
