//! A gateway and raw MQTT clients that are connected to it in memory, under a clock that the test moves.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

pub mod scram;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use towline_gateway::{
    gateway::Gateway,
    mqtt,
    request::{Origin, Protocol},
    settings::{Authentication, Listener, ListenerProtocol, Settings},
};
use towline_protocols::mqtt::*;

/// The one listener's name.
pub const LISTENER: &str = "test";
/// What the transport between client and gateway holds in each direction.
const TRANSPORT_BYTES: usize = 64 * 1024;

pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::None));
    settings
}

pub fn listener(authentication: Authentication) -> Listener {
    Listener {
        protocols: vec![ListenerProtocol::Mqtt],
        authentication,
        connections_max: 100,
        ..Listener::plain(LISTENER, ([127, 0, 0, 1], 0).into())
    }
}

pub fn gateway(settings: Settings) -> Arc<Gateway> {
    Gateway::build(settings).unwrap()
}

/// The client's end of one connection.
pub struct Client {
    pub stream: DuplexStream,
    input: BytesMut,
    version: Version,
    next_id: u16,
}

impl Client {
    /// A connection on which nothing was sent yet.
    pub fn open(gateway: &Arc<Gateway>) -> Self {
        let (near, far) = tokio::io::duplex(TRANSPORT_BYTES);
        serve(gateway, far);
        Self::on(near)
    }

    /// A connection to whoever is at the other end of `stream`.
    pub fn on(stream: DuplexStream) -> Self {
        Self { stream, input: BytesMut::new(), version: Version::V311, next_id: 0 }
    }

    /// A client that is admitted.
    pub async fn connect(gateway: &Arc<Gateway>, connect: Connect) -> (Self, Connack) {
        let mut client = Self::open(gateway);
        let connack = client.greet(connect).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        (client, connack)
    }

    pub async fn v5(gateway: &Arc<Gateway>, id: &str) -> Self {
        Self::connect(gateway, connect(Version::V5, id)).await.0
    }

    pub async fn v311(gateway: &Arc<Gateway>, id: &str) -> Self {
        Self::connect(gateway, connect(Version::V311, id)).await.0
    }

    /// What comes is read as packets of `version`.
    pub fn speak(&mut self, version: Version) {
        self.version = version;
    }

    /// Sends a CONNECT, whatever the answer will be.
    pub async fn begin(&mut self, connect: Connect) {
        self.version = connect.version;
        self.send(Packet::Connect(Box::new(connect))).await;
    }

    pub async fn greet(&mut self, connect: Connect) -> Connack {
        self.begin(connect).await;
        match self.receive().await {
            Some(Packet::Connack(connack)) => *connack,
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        encode(&packet, self.version, &mut out).unwrap();
        self.send_bytes(&out).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, self.version, &Limits::default()).unwrap() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                assert!(self.input.is_empty(), "the gateway stopped within a packet");
                return None;
            }
        }
    }

    pub async fn publish(&mut self, topic: &str, payload: &str, qos: QoS) -> Option<PacketId> {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.id());
        let packet = Publish { packet_id, ..publish(topic, payload, qos) };
        self.send(Packet::Publish(Box::new(packet))).await;
        packet_id
    }

    /// Publishes with QoS 1 and returns what PUBACK says.
    pub async fn publish_acked(&mut self, topic: &str, payload: &str) -> ReasonCode {
        let id = self.publish(topic, payload, QoS::AtLeastOnce).await;
        match self.receive().await {
            Some(Packet::Puback(ack)) if Some(ack.packet_id) == id => ack.reason,
            other => panic!("{other:?} instead of PUBACK"),
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> ReasonCode {
        self.subscribe_with(filter, SubscriptionOptions { qos, ..Default::default() }, None).await
    }

    pub async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> ReasonCode {
        let subscription_id = id.and_then(SubscriptionId::new);
        let subscribe = Subscribe {
            packet_id: self.id(),
            properties: SubscribeProperties { subscription_id, ..Default::default() },
            subscriptions: vec![Subscription { filter: text(filter), options }],
        };
        self.send(Packet::Subscribe(subscribe)).await;
        match self.receive().await {
            Some(Packet::Suback(suback)) => suback.reasons[0],
            other => panic!("{other:?} instead of SUBACK"),
        }
    }

    /// What UNSUBACK says of each filter; nothing before MQTT 5.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let (packet_id, properties) = (self.id(), UnsubscribeProperties::default());
        let filters = filters.iter().map(|filter| text(filter)).collect();
        self.send(Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })).await;
        match self.receive().await {
            Some(Packet::Unsuback(unsuback)) if unsuback.packet_id == packet_id => unsuback.reasons,
            other => panic!("{other:?} instead of UNSUBACK"),
        }
    }

    /// The next packet, which must be a PUBLISH; acknowledged if its QoS is 1.
    pub async fn expect_publish(&mut self) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => {
                if let (QoS::AtLeastOnce, Some(id)) = (publish.qos, publish.packet_id) {
                    self.send(Packet::Puback(Ack::new(id, ReasonCode::Success))).await;
                }
                *publish
            }
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }

    /// Nothing but the answer to a ping comes: the gateway has no more to say for now.
    pub async fn expect_nothing(&mut self) {
        // The first answer may overtake a message that is there already; the second does not.
        for _ in 0..2 {
            self.send(Packet::Pingreq).await;
            assert_eq!(self.receive().await, Some(Packet::Pingresp));
        }
    }

    /// The gateway ends the connection, and says why if the version can.
    pub async fn expect_end(&mut self, reason: ReasonCode) {
        if self.version == Version::V5 {
            match self.receive().await {
                Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, reason),
                other => panic!("{other:?} instead of DISCONNECT"),
            }
        }
        assert_eq!(self.receive().await, None);
    }

    /// Leaves as a client should.
    pub async fn leave(mut self) {
        self.send(Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await;
        assert_eq!(self.receive().await, None);
    }

    pub fn id(&mut self) -> PacketId {
        self.next_id += 1;
        PacketId::new(self.next_id).unwrap()
    }
}

/// Lets the gateway serve what comes out of `far`.
pub fn serve(gateway: &Arc<Gateway>, far: DuplexStream) {
    let origin = Origin::new(LISTENER.into(), ([127, 0, 0, 1], 9).into(), Protocol::Mqtt, false);
    tokio::spawn(mqtt::serve(gateway.clone(), Arc::new(origin), far, Bytes::new()));
}

pub fn connect(version: Version, id: &str) -> Connect {
    Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: text(id),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A CONNECT whose session outlives the connection by so many seconds.
pub fn connect_for(seconds: u32, id: &str) -> Connect {
    let mut connect = connect(Version::V5, id);
    connect.clean_start = false;
    connect.properties.session_expiry = Some(seconds);
    connect
}

pub fn with_will(mut connect: Connect, topic: &str, delay: Option<u32>) -> Connect {
    connect.will = Some(Box::new(LastWill {
        topic: text(topic),
        payload: Binary::new("gone").unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: WillProperties { delay, ..Default::default() },
    }));
    connect
}

pub fn publish(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: text(topic),
        packet_id: PacketId::new(1).filter(|_| qos != QoS::AtMostOnce),
        properties: PublishProperties::default(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub fn text(value: &str) -> Text {
    Text::try_from(value).unwrap()
}

/// Lets the clock run until everything else waits.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The value of one line of the metrics.
pub fn metric(gateway: &Gateway, line: &str) -> f64 {
    let text = gateway.metrics.render();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0.0)
}
