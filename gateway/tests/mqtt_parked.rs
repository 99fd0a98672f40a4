//! Devices whose connections wait without a task, on real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use mqtt_support::{connect, gateway, listener, pass, publish, scram, settings, with_will};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use towline_gateway::{
    auth::{Scheme, password_line_by},
    hub::Message,
    run::{self, Serving},
    settings::{Authentication, Settings},
};
use towline_protocols::mqtt::*;

/// A gateway whose connections park after so much silence; much sooner at first.
async fn start(park_after: Duration) -> (Serving, SocketAddr) {
    start_with(park_after, settings()).await
}

async fn start_with(park_after: Duration, mut settings: Settings) -> (Serving, SocketAddr) {
    settings.admin.bind = ([127, 0, 0, 1], 0).into();
    settings.limits.park_after = park_after;
    let serving = run::serve(gateway(settings)).await.unwrap();
    let address = serving.address(mqtt_support::LISTENER).unwrap();
    (serving, address)
}

/// A device that keeps the runtime busy while it waits, so that the paused clock stands still.
struct Device {
    stream: TcpStream,
    input: BytesMut,
}

impl Device {
    async fn connect(address: SocketAddr, connect: Connect) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut device = Self { stream, input: BytesMut::new() };
        device.send(Packet::Connect(Box::new(connect))).await;
        assert!(matches!(device.receive().await, Some(Packet::Connack(_))));
        device
    }

    async fn v5(address: SocketAddr, id: &str) -> Self {
        Self::connect(address, connect(Version::V5, id)).await
    }

    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        encode(&packet, Version::V5, &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Version::V5, &Limits::default()).unwrap() {
                return Some(packet);
            }
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Says the next of SCRAM's messages, and returns what the gateway says to it.
    async fn prove(&mut self, reason: ReasonCode, message: &str) -> Option<String> {
        self.send(scram::auth(reason, scram::METHOD, message)).await;
        self.challenge().await
    }

    /// What the gateway says in AUTH or CONNACK.
    async fn challenge(&mut self) -> Option<String> {
        let said = match self.receive().await? {
            Packet::Auth(auth) => auth.properties.authentication_data,
            Packet::Connack(connack) => connack.properties.authentication_data,
            other => panic!("{other:?} instead of AUTH"),
        };
        Some(String::from_utf8(said?.0.to_vec()).unwrap())
    }

    async fn subscribe(&mut self, filter: &str) {
        let subscription = Subscription { filter: mqtt_support::text(filter), options: Default::default() };
        self.send(Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: SubscribeProperties::default(),
            subscriptions: vec![subscription],
        }))
        .await;
        assert!(matches!(self.receive().await, Some(Packet::Suback(_))));
    }

    async fn ping(&mut self) {
        self.send(Packet::Pingreq).await;
        assert_eq!(self.receive().await, Some(Packet::Pingresp));
    }

    async fn expect_publish(&mut self, payload: &str) {
        match self.receive().await {
            Some(Packet::Publish(publish)) => assert_eq!(publish.payload, payload.as_bytes()),
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }

    async fn expect_end(&mut self, reason: ReasonCode) {
        match self.receive().await {
            Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, reason),
            other => panic!("{other:?} instead of DISCONNECT"),
        }
        assert_eq!(self.receive().await, None);
    }
}

/// Lets the clock run until so many connections are parked.
async fn parked(serving: &Serving, count: i64) {
    while serving.gateway.metrics.connections_parked.get() != count {
        pass(Duration::from_millis(1)).await;
    }
}

const SOON: Duration = Duration::from_millis(64);

#[tokio::test(start_paused = true)]
async fn a_message_and_a_ping_reach_a_parked_device_and_it_parks_again() {
    let (serving, address) = start(SOON).await;
    let mut device = Device::v5(address, "d").await;
    device.subscribe("news").await;
    for round in 1..=3 {
        parked(&serving, 1).await;
        let message = Message { topic: "news".into(), payload: "hello".into(), ..Message::default() };
        assert_eq!(serving.gateway.hub.publish(&Arc::new(message)).sent, 1, "round {round}");
        device.expect_publish("hello").await;
        parked(&serving, 1).await;
        device.ping().await;
    }
    device.send(Packet::Publish(Box::new(publish("news", "own", QoS::AtMostOnce)))).await;
    device.expect_publish("own").await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_its_time_to_prove_itself_again_does_not_park_meanwhile() {
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), password_line_by(Scheme::Scram, "ada", b"pw").unwrap()).unwrap();
    let mut settings = Settings { listeners: vec![listener(Authentication::Password)], ..settings() };
    settings.auth.password_file = Some(users.path().to_owned());
    let (serving, address) = start_with(SOON, settings).await;
    let (stream, input) = (TcpStream::connect(address).await.unwrap(), BytesMut::new());
    let mut device = Device { stream, input };
    let first = scram::first("ada");
    device.send(Packet::Connect(Box::new(scram::connect_by(scram::METHOD, "d", &first)))).await;
    let challenge = device.challenge().await.unwrap();
    let (last, proof) = scram::answer("ada", "pw", &challenge);
    assert_eq!(device.prove(ReasonCode::ContinueAuthentication, &last).await, Some(proof));
    parked(&serving, 1).await;
    let challenge = device.prove(ReasonCode::ReAuthenticate, &first).await.unwrap();
    pass(10 * SOON).await;
    let (last, proof) = scram::answer("ada", "pw", &challenge);
    assert_eq!(device.prove(ReasonCode::ContinueAuthentication, &last).await, Some(proof));
    parked(&serving, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_parked_device_is_taken_over() {
    let (serving, address) = start(SOON).await;
    let mut older = Device::v5(address, "d").await;
    parked(&serving, 1).await;
    // The gateway waits for a moment whether the older one ends by itself.
    let clock = async {
        loop {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    };
    let mut newer = tokio::select! {
        newer = Device::v5(address, "d") => newer,
        () = clock => unreachable!(),
    };
    older.expect_end(ReasonCode::SessionTakenOver).await;
    newer.ping().await;
    parked(&serving, 1).await;
    assert_eq!(serving.gateway.slots.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn keep_alive_is_enforced_on_a_parked_device() {
    let (serving, address) = start(SOON).await;
    let begun = tokio::time::Instant::now();
    let mut device = Device::connect(address, Connect { keep_alive: 10, ..connect(Version::V5, "d") }).await;
    parked(&serving, 1).await;
    pass(Duration::from_secs(8)).await;
    device.ping().await;
    parked(&serving, 1).await;
    pass(Duration::from_secs(14)).await;
    assert_eq!(serving.gateway.slots.open(), 1, "the ping counts");
    let mut rest = Vec::new();
    device.stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest[0] >> 4, 14, "DISCONNECT");
    assert_eq!(begun.elapsed().as_secs(), 8 + 15);
    assert_eq!(serving.gateway.metrics.limit_hits.with_label_values(&["keep_alive"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_parked_device_is_noticed_and_its_will_published() {
    let (serving, address) = start(SOON).await;
    let mut heir = Device::v5(address, "heir").await;
    heir.subscribe("wills").await;
    let device = Device::connect(address, with_will(connect(Version::V5, "d"), "wills", None)).await;
    parked(&serving, 2).await;
    drop(device);
    heir.expect_publish("gone").await;
    assert_eq!(serving.gateway.mqtt.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_reaches_parked_devices() {
    let (serving, address) = start(SOON).await;
    let mut device = Device::v5(address, "d").await;
    parked(&serving, 1).await;
    let (left, ()) = tokio::join!(serving.drain(), device.expect_end(ReasonCode::ServerShuttingDown));
    assert_eq!(left, 0);
}

#[tokio::test(start_paused = true)]
async fn a_chatty_device_stops_parking() {
    let (serving, address) = start(Duration::from_secs(64)).await;
    let mut device = Device::v5(address, "d").await;
    for _ in 0..50 {
        pass(Duration::from_secs(10)).await;
        device.ping().await;
    }
    assert!(serving.gateway.metrics.parkings.get() <= 3, "it waits 64 s by then, not less than 10");
    parked(&serving, 1).await;
}

#[tokio::test(start_paused = true)]
async fn parking_can_be_turned_off() {
    let (serving, address) = start(Duration::ZERO).await;
    let mut device = Device::v5(address, "d").await;
    pass(Duration::from_secs(600)).await;
    device.ping().await;
    assert_eq!(serving.gateway.metrics.parkings.get(), 0);
}
