//! Packets made by hand, and what becomes of them.

use std::{sync::Arc, time::Duration};

use towline_gateway::gateway::Gateway;
use towline_protocols::mqtt::*;

use crate::mqtt_support::*;

pub const SECOND: Duration = Duration::from_secs(1);
pub const CLEAN: u8 = 0x02;

/// A gateway as it is configured by default.
pub fn default_gateway() -> Arc<Gateway> {
    gateway(settings())
}

/// A packet of these bytes behind its fixed header.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}

/// A string or binary data with its length.
pub fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// An MQTT 5 CONNECT; `payload` is all that follows its properties.
pub fn connect_bytes(flags: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    packet(0x10, &[b"\0\x04MQTT\x05", &[flags, 0, 0, length][..], properties, payload].concat())
}

/// An MQTT 5 PUBLISH of QoS 0.
pub fn publish_bytes(topic: &[u8], properties: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(properties.len()).unwrap()];
    packet(0x30, &[&field(topic), &length[..], properties, b"x"].concat())
}

/// An MQTT 5 SUBSCRIBE to one filter.
pub fn subscribe_bytes(filter: &[u8], options: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 1, 0][..], &field(filter), &[options]].concat())
}

/// A connected MQTT 5 client that says `bytes` is told `reason`, and the connection is closed.
pub async fn check_ended(bytes: &[u8], reason: ReasonCode) {
    let mut client = Client::v5(&default_gateway(), "client").await;
    client.send_bytes(bytes).await;
    client.expect_end(reason).await;
}

/// The same in MQTT 3.1.1, which has no word for a reason.
pub async fn check_ended_v311(bytes: &[u8]) {
    let mut client = Client::v311(&default_gateway(), "client").await;
    client.send_bytes(bytes).await;
    assert_eq!(client.receive().await, None, "{bytes:x?}");
}

/// Whose first bytes are these is refused by a CONNACK of MQTT 5, or without a word, and the connection is closed.
pub async fn check_refused(bytes: &[u8], reason: Option<ReasonCode>) {
    let mut client = Client::open(&default_gateway());
    client.speak(Version::V5);
    client.send_bytes(bytes).await;
    if let Some(reason) = reason {
        match client.receive().await {
            Some(Packet::Connack(connack)) => {
                assert_eq!((connack.reason, connack.session_present), (reason, false), "{bytes:x?}");
            }
            other => panic!("{other:?} instead of CONNACK for {bytes:x?}"),
        }
    }
    assert_eq!(client.receive().await, None, "{bytes:x?}");
}

pub fn ack(id: PacketId) -> Ack {
    Ack::new(id, ReasonCode::Success)
}

pub fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub fn retained(topic: &str, payload: &str, qos: QoS) -> Packet {
    Packet::Publish(Box::new(Publish { retain: true, ..publish(topic, payload, qos) }))
}

pub fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..Default::default() }
}

impl Client {
    /// The next packet, which must be a PUBLISH, without an answer to it.
    pub async fn take_publish(&mut self) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => *publish,
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }

    /// The next PUBLISH's payload.
    pub async fn payload(&mut self) -> String {
        String::from_utf8(self.expect_publish().await.payload.to_vec()).unwrap()
    }

    /// Publishes with QoS 2 to the end.
    pub async fn publish_twice_acked(&mut self, topic: &str, payload: &str) {
        let id = self.publish(topic, payload, QoS::ExactlyOnce).await.unwrap();
        assert!(matches!(self.receive().await, Some(Packet::Pubrec(received)) if received.packet_id == id));
        self.send(Packet::Pubrel(ack(id))).await;
        assert_eq!(self.receive().await, Some(Packet::Pubcomp(ack(id))));
    }
}
