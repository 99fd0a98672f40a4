//! Sections 3.1.2.5 and 3.1.3.2: wills.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_10_a_will_is_published_once() {
    let gateway = default_gateway();
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills", QoS::AtLeastOnce).await;
    drop(Client::connect(&gateway, with_will(connect_for(60, "device"), "wills", None)).await);
    assert_eq!(watcher.payload().await, "gone");
    // Neither when the session ends, nor with a connection that has none.
    drop(Client::connect(&gateway, connect_for(60, "device")).await);
    pass(SECOND * 100).await;
    watcher.expect_nothing().await;
    // MQTT-3.14.4-3: a leave makes it void.
    Client::connect(&gateway, with_will(connect_for(60, "device"), "wills", None)).await.0.leave().await;
    drop(Client::connect(&gateway, connect_for(60, "device")).await);
    pass(SECOND * 100).await;
    watcher.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_14_and_15_a_will_is_retained_if_it_says_so() {
    for is_retained in [false, true] {
        let gateway = default_gateway();
        let mut asked = with_will(connect(Version::V5, "device"), "wills", None);
        asked.will.as_mut().unwrap().retain = is_retained;
        drop(Client::connect(&gateway, asked).await);
        pass(SECOND).await;
        assert_eq!(gateway.mqtt.retained.len(), usize::from(is_retained));
        let mut late = Client::v5(&gateway, "late").await;
        late.subscribe("wills", QoS::AtLeastOnce).await;
        if is_retained {
            assert!(late.expect_publish().await.retain);
        }
        late.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_3_10_a_will_keeps_its_properties_in_their_order() {
    let gateway = default_gateway();
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills", QoS::ExactlyOnce).await;
    let mut asked = with_will(connect_for(60, "device"), "wills", Some(5));
    let will = asked.will.as_mut().unwrap();
    will.qos = QoS::ExactlyOnce;
    let user_properties = vec![(text("b"), text("1")), (text("a"), text("2")), (text("b"), text("3"))];
    will.properties = WillProperties {
        delay: Some(5),
        payload_utf8: Some(true),
        expiry: Some(30),
        content_type: Some(text("text/plain")),
        response_topic: Some(text("answers")),
        correlation_data: Some(Binary::new("id").unwrap()),
        user_properties: user_properties.clone(),
    };
    drop(Client::connect(&gateway, asked).await);
    pass(SECOND * 6).await;
    let publish = watcher.take_publish().await;
    assert_eq!(publish.qos, QoS::ExactlyOnce);
    let expected = PublishProperties {
        payload_utf8: Some(true),
        // It begins when the will is published.
        expiry: Some(30),
        content_type: Some(text("text/plain")),
        response_topic: Some(text("answers")),
        correlation_data: Some(Binary::new("id").unwrap()),
        user_properties,
        ..Default::default()
    };
    assert_eq!(publish.properties, expected);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_8_a_will_is_due_whenever_its_client_did_not_take_leave() {
    let gateway = default_gateway();
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills", QoS::AtLeastOnce).await;
    let connect = || with_will(connect(Version::V5, "device"), "wills", None);
    let broken: [&[u8]; 4] = [
        // A protocol error, a malformed packet, and a leave with the will: by wish, or for an error.
        b"\xf0\0",
        b"\x36\x03\0\x01t",
        b"\xe0\x01\x04",
        b"\xe0\x01\x82",
    ];
    for bytes in broken {
        let (mut device, _) = Client::connect(&gateway, connect()).await;
        device.send_bytes(bytes).await;
        assert_eq!(watcher.payload().await, "gone", "{bytes:x?}");
    }
    for bytes in [&b"\xe0\0"[..], b"\xe0\x01\0", b"\xe0\x02\0\0"] {
        let (mut device, _) = Client::connect(&gateway, connect()).await;
        device.send_bytes(bytes).await;
        assert_eq!(device.receive().await, None);
        watcher.expect_nothing().await;
    }
}
