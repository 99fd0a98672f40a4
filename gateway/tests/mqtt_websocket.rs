//! MQTT over WebSocket, on real sockets, with tungstenite as the client that knows the protocol better than we do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use mqtt_support::{LISTENER, connect, listener, publish, text};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        handshake::client::Response,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use towline_gateway::{
    gateway::Gateway,
    hub,
    run::{self, Serving},
    settings::{Authentication, Listener, ListenerProtocol, Settings},
};
use towline_protocols::mqtt::*;

async fn start(change: impl FnOnce(&mut Settings, &mut Listener)) -> (Serving, SocketAddr) {
    let mut listener = listener(Authentication::None);
    listener.protocols = vec![ListenerProtocol::Mqtt, ListenerProtocol::WebSocket];
    let mut settings = Settings::side_by_side();
    change(&mut settings, &mut listener);
    settings.listeners.push(listener);
    let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
    let address = serving.address(LISTENER).unwrap();
    (serving, address)
}

/// A device on a WebSocket.
struct Device {
    socket: WebSocketStream<TcpStream>,
    input: BytesMut,
}

impl Device {
    async fn open(address: SocketAddr) -> (Self, Response) {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, response) = client_async(request, stream).await.unwrap();
        (Self { socket, input: BytesMut::new() }, response)
    }

    async fn v5(address: SocketAddr, id: &str) -> Self {
        let (mut device, _) = Self::open(address).await;
        device.send(&[Packet::Connect(Box::new(connect(Version::V5, id)))]).await;
        assert!(matches!(device.receive().await, Some(Packet::Connack(_))));
        device
    }

    /// All of them in one message.
    async fn send(&mut self, packets: &[Packet]) {
        self.socket.send(Message::Binary(encoded(packets))).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Version::V5, &Limits::default()).unwrap() {
                return Some(packet);
            }
            match self.socket.next().await? {
                Ok(Message::Binary(data)) => self.input.extend_from_slice(&data),
                Ok(Message::Close(_)) => return None,
                Ok(other) => panic!("{other:?} instead of data"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn expect_close(&mut self) -> Option<CloseFrame> {
        match self.socket.next().await {
            Some(Ok(Message::Close(close))) => close,
            other => panic!("{other:?} instead of Close"),
        }
    }
}

fn encoded(packets: &[Packet]) -> Bytes {
    let mut out = BytesMut::new();
    for packet in packets {
        encode(packet, Version::V5, &mut out).unwrap();
    }
    out.freeze()
}

fn subscribe(filter: &str) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription { filter: text(filter), options: Default::default() }],
    })
}

/// [MQTT-6.0.0-4], and no extension.
#[tokio::test]
async fn the_handshake_agrees_on_mqtt_and_nothing_else() {
    let (_serving, address) = start(|_, _| {}).await;
    let (_, response) = Device::open(address).await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
}

/// [MQTT-6.0.0-2]
#[tokio::test]
async fn packets_and_frames_need_not_be_aligned() {
    let (serving, address) = start(|_, _| {}).await;
    let (mut device, _) = Device::open(address).await;
    let news = publish("news", "hello", QoS::AtMostOnce);
    let packets = [
        Packet::Connect(Box::new(connect(Version::V5, "d"))),
        subscribe("news"),
        Packet::Publish(Box::new(news.clone())),
    ];
    for octet in encoded(&packets).chunks(1) {
        device.socket.send(Message::Binary(Bytes::copy_from_slice(octet))).await.unwrap();
    }
    assert!(matches!(device.receive().await, Some(Packet::Connack(_))));
    assert!(matches!(device.receive().await, Some(Packet::Suback(_))));
    assert!(matches!(device.receive().await, Some(Packet::Publish(publish)) if publish.payload == "hello"));
    let twice = [Packet::Publish(Box::new(news.clone())), Packet::Publish(Box::new(news))];
    device.send(&twice).await;
    for _ in 0..2 {
        assert!(matches!(device.receive().await, Some(Packet::Publish(_))));
    }
    let open = serving.gateway.metrics.connections_open.with_label_values(&[LISTENER, "mqtt_websocket"]);
    assert_eq!(open.get(), 1);
    assert_eq!(serving.gateway.slots.open(), 1);
}

#[tokio::test]
async fn a_large_message_comes_in_frames_that_a_client_puts_together() {
    let (serving, address) = start(|_, _| {}).await;
    let mut device = Device::v5(address, "d").await;
    device.send(&[subscribe("#")]).await;
    assert!(matches!(device.receive().await, Some(Packet::Suback(_))));
    let payload = Bytes::from(vec![7; 300_000]);
    let message = hub::Message { topic: "t".into(), payload: payload.clone(), ..Default::default() };
    serving.gateway.hub.publish(&Arc::new(message));
    assert!(matches!(device.receive().await, Some(Packet::Publish(publish)) if publish.payload == payload));
}

#[tokio::test]
async fn a_ping_is_answered() {
    let (_serving, address) = start(|_, _| {}).await;
    let mut device = Device::v5(address, "d").await;
    device.socket.send(Message::Ping("here?".into())).await.unwrap();
    assert_eq!(device.socket.next().await.unwrap().unwrap(), Message::Pong("here?".into()));
}

#[tokio::test]
async fn both_sides_close_in_their_turn() {
    let (serving, address) = start(|_, _| {}).await;
    let mut device = Device::v5(address, "d").await;
    device.send(&[Packet::Disconnect(Disconnect::new(ReasonCode::Success))]).await;
    assert_eq!(
        device.expect_close().await.unwrap().code,
        CloseCode::Normal,
        "DISCONNECT is answered by Close"
    );
    assert!(device.socket.next().await.is_none());

    let mut device = Device::v5(address, "d").await;
    let away = CloseFrame { code: CloseCode::Away, reason: "".into() };
    device.socket.close(Some(away)).await.unwrap();
    assert_eq!(device.expect_close().await.unwrap().code, CloseCode::Away, "Close is echoed");
    assert!(device.socket.next().await.is_none());
    while serving.gateway.slots.open() > 0 {
        tokio::task::yield_now().await;
    }
}

/// [MQTT-6.0.0-1]
#[tokio::test]
async fn a_text_frame_ends_the_connection() {
    let (_serving, address) = start(|_, _| {}).await;
    let mut heir = Device::v5(address, "heir").await;
    heir.send(&[subscribe("wills")]).await;
    assert!(matches!(heir.receive().await, Some(Packet::Suback(_))));
    let (mut device, _) = Device::open(address).await;
    let connect = mqtt_support::with_will(connect(Version::V5, "d"), "wills", None);
    device.send(&[Packet::Connect(Box::new(connect))]).await;
    assert!(matches!(device.receive().await, Some(Packet::Connack(_))));
    device.socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(device.expect_close().await.unwrap().code, CloseCode::Unsupported);
    assert!(matches!(heir.receive().await, Some(Packet::Publish(will)) if will.payload == "gone"));
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_connection_and_is_counted() {
    let (serving, address) = start(|settings, _| settings.mqtt.websocket_message_bytes_max = 2000).await;
    let mut device = Device::v5(address, "d").await;
    device.send(&[Packet::Publish(Box::new(publish("t", &"x".repeat(1900), QoS::AtMostOnce)))]).await;
    device.send(&[Packet::Publish(Box::new(publish("t", &"x".repeat(2000), QoS::AtMostOnce)))]).await;
    assert_eq!(device.expect_close().await.unwrap().code, CloseCode::Size);
    let line = "towline_limit_hits_total{limit=\"mqtt.websocket_message_bytes_max\"}";
    assert_eq!(mqtt_support::metric(&serving.gateway, line), 1.0);
}

#[tokio::test]
async fn a_quiet_websocket_parks_and_is_woken_by_either_side() {
    let (serving, address) =
        start(|settings, _| settings.limits.park_after = Duration::from_millis(64)).await;
    let parked = async || {
        while serving.gateway.metrics.connections_parked.get() != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut device = Device::v5(address, "d").await;
    device.send(&[subscribe("news")]).await;
    assert!(matches!(device.receive().await, Some(Packet::Suback(_))));
    for _ in 0..3 {
        parked().await;
        let message = hub::Message { topic: "news".into(), payload: "hello".into(), ..Default::default() };
        assert_eq!(serving.gateway.hub.publish(&Arc::new(message)).sent, 1);
        assert!(matches!(device.receive().await, Some(Packet::Publish(_))));
        parked().await;
        device.socket.send(Message::Ping("here?".into())).await.unwrap();
        assert_eq!(device.socket.next().await.unwrap().unwrap(), Message::Pong("here?".into()));
        parked().await;
        device.send(&[Packet::Pingreq]).await;
        assert_eq!(device.receive().await, Some(Packet::Pingresp));
    }
}

async fn refused(address: SocketAddr, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    match client_async(request, stream).await {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?} instead of a refusal"),
    }
}

#[tokio::test]
async fn who_asks_for_something_else_is_told_and_counted() {
    let (serving, address) = start(|_, _| {}).await;
    assert_eq!(refused(address, &[]).await, 400, "no subprotocol [MQTT-6.0.0-3]");
    let page = [("sec-websocket-protocol", "mqtt"), ("origin", "https://a.example.com")];
    assert_eq!(refused(address, &page).await, 403, "a page, where nobody is asked for a password");
    let refusals = serving.gateway.metrics.connections_refused.with_label_values(&[LISTENER, "websocket"]);
    assert_eq!(refusals.get(), 2);
}

#[tokio::test]
async fn a_listener_without_http_serves_nothing_else_of_it() {
    let (_serving, address) = start(|_, _| {}).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
}

#[tokio::test]
async fn a_listener_without_websocket_leaves_the_path_to_routes() {
    let (_serving, address) = start(|_, listener| listener.protocols = vec![ListenerProtocol::Http]).await;
    assert_eq!(refused(address, &[("sec-websocket-protocol", "mqtt")]).await, 404);
}

/// RFC 8441: a stream of an HTTP/2 connection, beside others.
#[tokio::test]
async fn http_2_carries_websockets_too() {
    let (serving, address) = start(|_, listener| listener.connections_max = 2).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = || {
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri("http://localhost/mqtt")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "mqtt")
            .body(())
            .unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request
    };
    while !send.is_extended_connect_protocol_enabled() {
        send = send.ready().await.unwrap();
        tokio::task::yield_now().await;
    }
    let (response, mut out) = send.send_request(ask(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();

    let packet = encoded(&[Packet::Connect(Box::new(connect(Version::V5, "d")))]);
    let frame = [&[0x82, 0x80 | packet.len() as u8, 0, 0, 0, 0], &packet[..]].concat();
    out.send_data(frame.into(), false).unwrap();
    let data = body.data().await.unwrap().unwrap();
    assert_eq!(&data[..3], [0x82, (data.len() - 2) as u8, 0x20], "CONNACK in a frame");
    assert_eq!(serving.gateway.slots.open(), 2, "the stream counts as a connection");

    let (second, _out) = send.send_request(ask(), false).unwrap();
    assert_eq!(second.await.unwrap().status(), 503);
    drop((out, body, send));
    connection.abort();
    while serving.gateway.slots.open() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(serving.gateway.mqtt.sessions(), 0);
}
