//! MQTT over QUIC: one stream, and several.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use towline_gateway::hub;
use towline_protocols::mqtt::*;

use crate::bed::Bed;

/// A device on QUIC, whose control stream's client is greeted.
struct Device {
    connection: Connection,
    control: Stream,
    _endpoint: Endpoint,
}

/// One bidirectional stream.
struct Stream {
    send: SendStream,
    recv: RecvStream,
    input: BytesMut,
}

async fn connected(bed: &Bed) -> (Endpoint, Connection) {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bed.ca).map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"mqtt".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    // So little that a stream which is not read is full soon.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(8192u32.into());
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let connecting = endpoint.connect_with(config, bed.address(), "127.0.0.1").unwrap();
    (endpoint, connecting.await.unwrap())
}

impl Device {
    async fn connect(bed: &Bed, id: &str, alias_max: Option<u16>) -> Self {
        let (endpoint, connection) = connected(bed).await;
        let mut control = Stream::open(&connection).await;
        let properties = ConnectProperties { topic_alias_maximum: alias_max, ..ConnectProperties::default() };
        let connect = Connect {
            version: Version::V5,
            is_bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: text(id),
            will: None,
            user_name: None,
            password: None,
            properties,
        };
        control.send(Packet::Connect(Box::new(connect))).await;
        assert!(matches!(control.receive().await, Some(Packet::Connack(_))));
        Self { connection, control, _endpoint: endpoint }
    }

    async fn stream(&self) -> Stream {
        Stream::open(&self.connection).await
    }
}

impl Stream {
    async fn open(connection: &Connection) -> Self {
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { send, recv, input: BytesMut::new() }
    }

    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        encode(&packet, Version::V5, &mut out).unwrap();
        self.send.write_all(&out).await.unwrap();
    }

    /// The next packet; `None` at the end of the stream, in order or not.
    async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Version::V5, &Limits::default()).unwrap() {
                return Some(packet);
            }
            match self.recv.read_chunk(4096, true).await {
                Ok(Some(chunk)) => self.input.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    async fn subscribe(&mut self, filter: &str, id: u16) {
        let subscribe = Subscribe {
            packet_id: PacketId::new(id).unwrap(),
            properties: SubscribeProperties::default(),
            subscriptions: vec![Subscription {
                filter: text(filter),
                options: SubscriptionOptions { qos: QoS::ExactlyOnce, ..Default::default() },
            }],
        };
        self.send(Packet::Subscribe(subscribe)).await;
        match self.receive().await {
            Some(Packet::Suback(suback)) => assert_eq!(suback.packet_id.get(), id),
            other => panic!("{other:?} instead of SUBACK"),
        }
    }

    async fn publish(&mut self, topic: &str, qos: QoS, id: u16, alias: Option<u16>) {
        self.send(Packet::Publish(Box::new(Publish {
            dup: false,
            qos,
            retain: false,
            topic: text(topic),
            packet_id: PacketId::new(id).filter(|_| qos != QoS::AtMostOnce),
            properties: PublishProperties { topic_alias: alias, ..Default::default() },
            payload: Bytes::from_static(b"hello"),
        })))
        .await;
    }

    async fn expect_publish(&mut self, topic: &str) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => {
                assert_eq!(publish.topic.as_str(), topic);
                *publish
            }
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }

    /// The gateway broke the stream off with this code.
    async fn expect_broken(&mut self, reason: ReasonCode) {
        match self.recv.read_chunk(4096, true).await {
            Err(quinn::ReadError::Reset(code)) => assert_eq!(code.into_inner(), reason as u64),
            other => panic!("{other:?} instead of a reset"),
        }
    }

    /// Everything that was to come has come.
    async fn expect_ping(&mut self) {
        self.send(Packet::Pingreq).await;
        assert_eq!(self.receive().await, Some(Packet::Pingresp));
    }
}

fn text(value: &str) -> Text {
    Text::try_from(value).unwrap()
}

#[tokio::test]
async fn one_stream_carries_a_whole_connection() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    device.control.subscribe("news", 1).await;
    device.control.publish("news", QoS::AtLeastOnce, 2, None).await;
    assert!(matches!(device.control.receive().await, Some(Packet::Puback(_))));
    device.control.expect_publish("news").await;
    let open = bed.gateway().metrics.connections_open.with_label_values(&["edge", "mqtt_quic"]);
    assert_eq!(open.get(), 1);
    device.control.send(Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await;
    assert_eq!(device.control.receive().await, None, "the stream is finished");
    device.connection.close(0u32.into(), b"");
    while open.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.gateway().mqtt.sessions(), 0);
}

#[tokio::test]
async fn a_refusal_is_read_before_the_connection_closes() {
    let bed = Bed::on_loopback(|settings| settings.mqtt.sessions_max = 1).await;
    let _first = Device::connect(&bed, "a", None).await;
    let (_endpoint, connection) = connected(&bed).await;
    let mut control = Stream::open(&connection).await;
    let mut connect = BytesMut::from(&b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01b"[..]);
    control.send.write_all(&connect.split()).await.unwrap();
    match control.receive().await {
        Some(Packet::Connack(connack)) => assert_eq!(connack.reason, ReasonCode::QuotaExceeded),
        other => panic!("{other:?} instead of CONNACK"),
    }
}

#[tokio::test]
async fn flows_stay_on_the_stream_that_they_began_on() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    let (mut up, mut down) = (device.stream().await, device.stream().await);
    down.subscribe("news/#", 1).await;
    device.control.subscribe("other", 2).await;

    up.publish("news/a", QoS::ExactlyOnce, 7, None).await;
    assert!(matches!(up.receive().await, Some(Packet::Pubrec(_))));
    up.send(Packet::Pubrel(Ack::new(PacketId::new(7).unwrap(), ReasonCode::Success))).await;
    assert!(matches!(up.receive().await, Some(Packet::Pubcomp(_))));

    let publish = down.expect_publish("news/a").await;
    let id = publish.packet_id.unwrap();
    down.send(Packet::Pubrec(Ack::new(id, ReasonCode::Success))).await;
    assert!(matches!(down.receive().await, Some(Packet::Pubrel(_))));
    down.send(Packet::Pubcomp(Ack::new(id, ReasonCode::Success))).await;

    up.publish("other", QoS::AtMostOnce, 0, None).await;
    device.control.expect_publish("other").await;
    device.control.expect_ping().await;
}

#[tokio::test]
async fn a_data_stream_that_breaks_costs_itself_alone() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    let mut other = device.stream().await;
    other.subscribe("other", 1).await;
    for (bytes, reason) in [
        (&b"\xc0\0"[..], ReasonCode::ProtocolError),
        (b"\xe0\0", ReasonCode::ProtocolError),
        (b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01b", ReasonCode::ProtocolError),
        (b"\x00\0", ReasonCode::MalformedPacket),
        (b"\x30\x03\0\x05a", ReasonCode::MalformedPacket),
        (b"\x30\xff\xff\xff\x7f", ReasonCode::PacketTooLarge),
    ] {
        let mut broken = device.stream().await;
        broken.subscribe("news", 2).await;
        broken.send.write_all(bytes).await.unwrap();
        broken.expect_broken(reason).await;
        // The subscription stays the session's.
        other.publish("news", QoS::AtMostOnce, 0, None).await;
        device.control.expect_publish("news").await;
    }
    let mut reset = device.stream().await;
    reset.subscribe("news", 3).await;
    reset.send.reset(0u32.into()).unwrap();
    reset.expect_broken(ReasonCode::UnspecifiedError).await;
    other.publish("other", QoS::AtMostOnce, 0, None).await;
    other.expect_publish("other").await;
    device.control.expect_ping().await;
}

/// Two messages of QoS 2 under one identifier would be taken for one [MQTT-2.2.1-3].
#[tokio::test]
async fn an_identifier_is_for_one_stream_at_a_time() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    device.control.subscribe("news", 1).await;
    let (mut first, mut second) = (device.stream().await, device.stream().await);
    first.publish("news", QoS::ExactlyOnce, 7, None).await;
    assert!(matches!(first.receive().await, Some(Packet::Pubrec(_))));
    device.control.expect_publish("news").await;
    second.publish("news", QoS::ExactlyOnce, 7, None).await;
    second.expect_broken(ReasonCode::PacketIdentifierInUse).await;
    first.send(Packet::Pubrel(Ack::new(PacketId::new(7).unwrap(), ReasonCode::Success))).await;
    assert!(matches!(first.receive().await, Some(Packet::Pubcomp(_))));

    // It is free again, and what breaks off with its stream may be sent again.
    let mut third = device.stream().await;
    third.publish("news", QoS::ExactlyOnce, 7, None).await;
    assert!(matches!(third.receive().await, Some(Packet::Pubrec(_))));
    device.control.expect_publish("news").await;
    third.send.reset(0u32.into()).unwrap();
    third.expect_broken(ReasonCode::UnspecifiedError).await;
    first.publish("news", QoS::ExactlyOnce, 7, None).await;
    assert!(matches!(first.receive().await, Some(Packet::Pubrec(_))));

    device.control.publish("news", QoS::AtLeastOnce, 7, None).await;
    match device.connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), ReasonCode::PacketIdentifierInUse as u64);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_ends_a_data_stream_in_order() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    for _ in 0..40 {
        // More than may be open at one time: each makes room for another.
        let mut stream = device.stream().await;
        stream.publish("news", QoS::AtLeastOnce, 9, None).await;
        stream.send.finish().unwrap();
        assert!(matches!(stream.receive().await, Some(Packet::Puback(_))));
        device.control.expect_ping().await;
        assert_eq!(stream.receive().await, None);
    }
}

#[tokio::test]
async fn topic_aliases_are_a_streams_own_and_none_come_back() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", Some(10)).await;
    device.control.subscribe("#", 1).await;
    let (mut a, mut b) = (device.stream().await, device.stream().await);
    a.publish("a", QoS::AtMostOnce, 0, Some(1)).await;
    device.control.expect_publish("a").await;
    b.publish("b", QoS::AtMostOnce, 0, Some(1)).await;
    device.control.expect_publish("b").await;
    a.publish("", QoS::AtMostOnce, 0, Some(1)).await;
    let publish = device.control.expect_publish("a").await;
    assert_eq!(publish.properties.topic_alias, None, "streams have no order among them");
    b.publish("", QoS::AtMostOnce, 0, Some(2)).await;
    b.expect_broken(ReasonCode::ProtocolError).await;
}

#[tokio::test]
async fn a_data_stream_that_is_not_read_holds_up_no_other() {
    let bed = Bed::on_loopback(|_| {}).await;
    let mut device = Device::connect(&bed, "d", None).await;
    let mut slow = device.stream().await;
    slow.subscribe("slow", 1).await;
    let message = |topic: &str| {
        let payload = Bytes::from(vec![7; 30_000]);
        Arc::new(hub::Message { topic: topic.into(), payload, ..Default::default() })
    };
    device.control.subscribe("quick", 2).await;
    bed.gateway().hub.publish(&message("slow"));
    bed.gateway().hub.publish(&message("quick"));
    device.control.expect_publish("quick").await;
    slow.expect_publish("slow").await;
}

#[tokio::test]
async fn packets_in_part_on_many_streams_become_whole_within_the_bound() {
    let bed = Bed::on_loopback(|settings| settings.mqtt.packet_bytes_max = 20_000).await;
    let mut device = Device::connect(&bed, "d", None).await;
    let packet = |id| {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: text("t"),
            packet_id: PacketId::new(id),
            properties: PublishProperties::default(),
            payload: Bytes::from(vec![7; 19_000]),
        };
        let mut out = BytesMut::new();
        encode(&Packet::Publish(Box::new(publish)), Version::V5, &mut out).unwrap();
        out
    };
    let mut streams = Vec::new();
    for id in 1..=5 {
        let mut stream = device.stream().await;
        stream.send.write_all(&packet(id)[..15_000]).await.unwrap();
        device.control.expect_ping().await;
        streams.push((id, stream));
    }
    for (id, stream) in streams.iter_mut().rev() {
        stream.send.write_all(&packet(*id)[15_000..]).await.unwrap();
        device.control.expect_ping().await;
    }
    for (id, stream) in &mut streams {
        match stream.receive().await {
            Some(Packet::Puback(ack)) => assert_eq!(ack.packet_id.get(), *id),
            other => panic!("{other:?} instead of PUBACK"),
        }
    }
}
