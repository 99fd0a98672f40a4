//! A small MQTT 3.1.1 client: one task per connection, which publishes when told and counts what arrives.

mod driver;
mod windows;

use std::rc::Rc;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};
use towline_protocols::mqtt::{
    Connect, ConnectProperties, Limits, Packet, PacketId, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Text, Version, decode, encode,
};

use super::stream::Stream;
use crate::{
    fault::{Fault, FaultKind},
    tally::Recorder,
};
use driver::Driver;
pub use windows::Windows;

/// The version that every broker speaks.
const VERSION: Version = Version::V311;
/// Seconds of silence that are promised to the server; the driver pings at half of it.
const KEEP_ALIVE_S: u16 = 600;

/// Who a connection is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Unique among all clients.
    pub client_id: String,
    /// What it subscribes to.
    pub filter: Option<String>,
    /// What it publishes to.
    pub topic: Option<String>,
    /// Of both.
    pub qos: u8,
    /// Of what it publishes.
    pub payload_bytes: usize,
    /// Payloads carry when they were sent instead of when they were due.
    pub from_sent: bool,
    /// Its number and how many subscribers each of its publishes reaches, if it waits for them.
    pub lane: Option<(u32, u64)>,
}

/// One connection; the work is its task's.
#[derive(Debug)]
pub struct MqttClient {
    orders: mpsc::UnboundedSender<PublishOrder>,
    task: JoinHandle<()>,
    publishes: bool,
}

/// Publish for a while.
#[derive(Debug)]
pub struct PublishOrder {
    /// When each publish is due, in an open loop; the order ends with the channel. `None`: closed loop.
    pub due: Option<mpsc::Receiver<u64>>,
    /// When a closed loop ends.
    pub until: u64,
    /// When publishes without acknowledgement are given up.
    pub give_up: u64,
    /// Unacknowledged publishes at one time (QoS 1 and 2).
    pub in_flight: usize,
    /// Dropped when the order is carried out.
    pub done: mpsc::Sender<()>,
}

impl MqttClient {
    /// CONNECT, CONNACK, and with a filter SUBSCRIBE, SUBACK.
    pub async fn open(mut stream: Stream, identity: Identity, recorder: Rc<Recorder>) -> Result<Self, Fault> {
        let mut input = BytesMut::new();
        match ask(&mut stream, &mut input, connect(&identity)?).await? {
            Packet::Connack(ack) if ack.reason == ReasonCode::Success => {}
            Packet::Connack(ack) => return Err(Fault::new(FaultKind::Protocol, format!("{:?}", ack.reason))),
            other => return Err(unexpected(&other)),
        }
        if let Some(filter) = &identity.filter {
            match ask(&mut stream, &mut input, subscribe(filter, identity.qos)?).await? {
                Packet::Suback(ack) if ack.reasons == [qos(identity.qos).granted()] => {}
                Packet::Suback(ack) => {
                    return Err(Fault::new(FaultKind::Protocol, format!("SUBSCRIBE: {:?}", ack.reasons)));
                }
                other => return Err(unexpected(&other)),
            }
        }
        let publishes = identity.topic.is_some();
        let (orders, received) = mpsc::unbounded_channel();
        let driver = Driver::new(stream, input, identity, recorder, received);
        Ok(Self { orders, task: tokio::task::spawn_local(driver.run()), publishes })
    }

    /// Whether it has a topic to publish to.
    pub fn publishes(&self) -> bool {
        self.publishes
    }

    /// Publishes; false if the connection is gone.
    pub fn publish(&self, order: PublishOrder) -> bool {
        self.orders.send(order).is_ok()
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

fn connect(identity: &Identity) -> Result<Packet, Fault> {
    Ok(Packet::Connect(Box::new(Connect {
        version: VERSION,
        is_bridge: false,
        clean_start: true,
        keep_alive: KEEP_ALIVE_S,
        client_id: text(&identity.client_id)?,
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    })))
}

fn subscribe(filter: &str, qos_level: u8) -> Result<Packet, Fault> {
    let options = SubscriptionOptions {
        qos: qos(qos_level),
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::default(),
    };
    Ok(Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription { filter: text(filter)?, options }],
    }))
}

/// Sends one packet and waits for one.
async fn ask(stream: &mut Stream, input: &mut BytesMut, packet: Packet) -> Result<Packet, Fault> {
    let mut output = BytesMut::new();
    encode(&packet, VERSION, &mut output).map_err(|error| Fault::new(FaultKind::Other, error))?;
    stream.write_all(&output).await.map_err(|error| Fault::io(&error))?;
    stream.flush().await.map_err(|error| Fault::io(&error))?;
    loop {
        let answer = decode(input, VERSION, &Limits::default());
        if let Some(packet) = answer.map_err(|error| Fault::new(FaultKind::Protocol, error))? {
            return Ok(packet);
        }
        if stream.read_buf(input).await.map_err(|error| Fault::io(&error))? == 0 {
            return Err(Fault::new(FaultKind::Closed, "the server closed instead of answering"));
        }
    }
}

fn unexpected(packet: &Packet) -> Fault {
    Fault::new(FaultKind::Protocol, format!("unexpected answer {packet:?}"))
}

fn text(value: &str) -> Result<Text, Fault> {
    Text::try_from(value).map_err(|error| Fault::new(FaultKind::Other, error))
}

fn qos(level: u8) -> QoS {
    QoS::from_bits(level).unwrap_or_default()
}
