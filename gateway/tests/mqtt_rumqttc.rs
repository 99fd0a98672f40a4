//! Somebody else's client against the whole gateway on a socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{sync::Arc, time::Duration};

use mqtt_support::{gateway, settings};
use tokio::sync::mpsc;
use towline_gateway::{gateway::Gateway, run};

async fn start() -> (Arc<Gateway>, u16) {
    let mut settings = settings();
    settings.admin.bind = ([127, 0, 0, 1], 0).into();
    let serving = run::serve(gateway(settings)).await.unwrap();
    let port = serving.address(mqtt_support::LISTENER).unwrap().port();
    (serving.gateway, port)
}

#[tokio::test]
async fn version_3_1_1_at_every_qos() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let (_gateway, port) = start().await;
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(5));
    options.set_max_packet_size(100_000, 100_000);
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("loop/#", QoS::ExactlyOnce).await.unwrap();
    let (told, mut messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                told.send(publish).unwrap();
            }
        }
    });
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("loop/a", qos, false, vec![7; 50_000]).await.unwrap();
        let publish = messages.recv().await.unwrap();
        assert_eq!((publish.qos, publish.payload.len()), (qos, 50_000));
    }
}

#[tokio::test]
async fn version_5_with_properties() {
    use rumqttc::v5::{
        AsyncClient, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Packet, PublishProperties},
        },
    };
    let (_gateway, port) = start().await;
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("loop/#", QoS::AtLeastOnce).await.unwrap();
    let (told, mut messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                told.send(publish).unwrap();
            }
        }
    });
    let properties = PublishProperties {
        response_topic: Some("answers".to_owned()),
        user_properties: vec![("a".to_owned(), "1".to_owned())],
        ..Default::default()
    };
    client.publish_with_properties("loop/a", QoS::AtLeastOnce, false, "x", properties.clone()).await.unwrap();
    let publish = messages.recv().await.unwrap();
    assert_eq!(publish.properties, Some(properties));
}
