//! A session against a client of the test's choice, with the clock in hand.

mod connections;
mod flights;
mod packets;
mod queue;

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::mqtt::{encode::ENCODED, *};

#[derive(Debug, Default)]
struct Message {
    topic: &'static str,
    payload: Bytes,
    expires: Option<Instant>,
    id: Option<PacketId>,
    heads: Option<SharedHeads>,
}

impl ApplicationMessage for Arc<Message> {
    fn view(&self) -> MessageView<'_> {
        MessageView {
            topic: self.topic,
            payload: &self.payload,
            expires: self.expires,
            payload_utf8: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: &[],
        }
    }

    fn heads(&self) -> Option<&SharedHeads> {
        self.heads.as_ref()
    }

    fn packet_id(&self) -> Option<PacketId> {
        self.id
    }
}

/// One client against one server, with the clock in hand.
struct Pair {
    settings: Settings,
    session: Session<Arc<Message>>,
    connection: Connection,
    version: Version,
    now: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` cannot be made from a number; all others follow from this one"
)]
fn start() -> Instant {
    Instant::now()
}

fn settings() -> Settings {
    Settings {
        limits: Limits::default(),
        connect_timeout: Duration::from_secs(10),
        session_expiry_max: Duration::from_secs(3600),
        keep_alive_max: Duration::ZERO,
        receive_maximum: 2,
        in_flight_max: 2,
        topic_alias_max: 2,
        topic_levels_max: 4,
        queue_max: 3,
        queue_bytes_max: 10_000,
        held: Held::default(),
        held_bytes_max: usize::MAX,
        queue_age_max: Duration::ZERO,
        queue_policy: QueuePolicy::Qos0,
        user_properties: Vec::new(),
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive: 10,
        client_id: text("c"),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// What a client is told that comes back to its session.
fn back() -> Welcome {
    Welcome { session_present: true, ..Welcome::default() }
}

impl Pair {
    fn new(connect: &Connect, settings: Settings) -> (Self, Connack) {
        let now = start();
        let connection = Connection::accept(connect, Welcome::default(), &settings, now);
        let mut pair = Self { settings, session: Session::new(), connection, version: connect.version, now };
        let Some(Packet::Connack(connack)) = pair.receive().pop() else { panic!("no CONNACK") };
        (pair, *connack)
    }

    /// The connection breaks and the client comes back to its session.
    fn reconnect(&mut self) {
        self.session.detach();
        self.session.resume();
        self.connection = Connection::accept(&connect(self.version), back(), &self.settings, self.now);
        assert_eq!(self.receive_some(1).len(), 1);
    }

    /// What the client sends, with the steps of QoS 2 answered at once, as a driver does that keeps nothing.
    fn send(&mut self, packet: Packet) -> Result<Option<Event>, MqttError> {
        let event = self.connection.handle_packet(&mut self.session, packet, &self.settings, self.now)?;
        match event {
            Some(Event::Repeated(id)) => {
                self.connection.acknowledge_repeated(&mut self.session, id, ReasonCode::Success);
            }
            Some(Event::Release(id, reason)) => self.connection.pubcomp(id, reason),
            Some(Event::Received(id, reason)) => self.connection.pubrel(id, reason),
            event => return Ok(event),
        }
        Ok(None)
    }

    /// A QoS 2 publish is taken, and acknowledged later.
    fn take(&mut self, id: PacketId) {
        self.session.mark_received(id);
    }

    fn acknowledge(&mut self, id: PacketId, reason: ReasonCode) {
        self.connection.acknowledge(&mut self.session, id, QoS::ExactlyOnce, reason);
    }

    fn terms(&self, qos: QoS) -> Terms<'static> {
        Terms { qos, retain: false, subscription_ids: &[], since: self.now }
    }

    fn push(&mut self, message: &Arc<Message>, qos: QoS) -> Push {
        self.session.push(message.clone(), self.terms(qos), &self.settings)
    }

    fn deliver(&mut self, payload: &'static str, qos: QoS) -> Push {
        let message = Message { topic: "t", payload: payload.into(), ..Default::default() };
        self.push(&Arc::new(message), qos)
    }

    fn bytes(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        while let Some(payload) = self.connection.poll_transmit(&mut self.session, &mut out, self.now) {
            out.extend_from_slice(&payload);
        }
        out
    }

    /// Everything that the client gets now.
    fn receive(&mut self) -> Vec<Packet> {
        self.receive_some(usize::MAX)
    }

    fn receive_some(&mut self, count: usize) -> Vec<Packet> {
        let mut bytes = self.bytes();
        let mut packets = Vec::new();
        while packets.len() < count {
            match decode(&mut bytes, self.version, &Limits::default()).unwrap() {
                Some(packet) => packets.push(packet),
                None => break,
            }
        }
        packets
    }
}

fn text(value: &str) -> Text {
    Text::try_from(value).unwrap()
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn publish(topic: &str, qos: QoS, packet: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: text(topic),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(packet)),
        properties: PublishProperties::default(),
        payload: "x".into(),
    }
}

fn send_publish(pair: &mut Pair, publish: Publish) -> Result<Option<Event>, MqttError> {
    pair.send(Packet::Publish(Box::new(publish)))
}

fn published(packet: &Packet) -> &Publish {
    let Packet::Publish(publish) = packet else { panic!("{packet:?} is no PUBLISH") };
    publish
}
