//! The fifteen packets. In MQTT 3 their properties are empty and most reason codes [`ReasonCode::Success`].

use std::num::NonZeroU16;

use bytes::Bytes;

use super::{
    AckProperties, AuthProperties, Binary, ConnackProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, ReasonCode, Secret, SubackProperties, SubscribeProperties, Text,
    UnsubscribeProperties, WillProperties,
};

/// A Packet Identifier (2.2.1), never 0.
pub type PacketId = NonZeroU16;

/// A version of the protocol, with its level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1, named `MQIsdp`.
    V31 = 3,
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

/// The type in the first four bits of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum PacketKind {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// Any packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A client introduces itself.
    Connect(Box<Connect>),
    /// A server answers.
    Connack(Box<Connack>),
    /// An application message.
    Publish(Box<Publish>),
    /// QoS 1: it was taken.
    Puback(Ack),
    /// QoS 2, first answer.
    Pubrec(Ack),
    /// QoS 2, the sender's release.
    Pubrel(Ack),
    /// QoS 2, done.
    Pubcomp(Ack),
    /// A client wants messages.
    Subscribe(Subscribe),
    /// What it gets.
    Suback(Suback),
    /// A client no longer wants messages.
    Unsubscribe(Unsubscribe),
    /// What became of that.
    Unsuback(Unsuback),
    /// Are you there?
    Pingreq,
    /// Yes.
    Pingresp,
    /// The last packet.
    Disconnect(Disconnect),
    /// Extended authentication, MQTT 5 only.
    Auth(Auth),
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0: no answer, no repetition.
    #[default]
    AtMostOnce = 0,
    /// 1: repeated until acknowledged.
    AtLeastOnce = 1,
    /// 2: repeated, and recognised as a repetition.
    ExactlyOnce = 2,
}

impl QoS {
    /// `None` for anything but 0, 1 and 2.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The reason code of a SUBACK that grants it.
    pub const fn granted(self) -> ReasonCode {
        match self {
            Self::AtMostOnce => ReasonCode::Success,
            Self::AtLeastOnce => ReasonCode::GrantedQos1,
            Self::ExactlyOnce => ReasonCode::GrantedQos2,
        }
    }
}

/// CONNECT (3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// What the rest of the connection speaks.
    pub version: Version,
    /// The highest bit of the protocol level, by which brokers mark their bridges. No standard has it.
    pub is_bridge: bool,
    /// Clean Start; in MQTT 3 Clean Session, which also ends the session with the connection.
    pub clean_start: bool,
    /// Seconds; 0 turns it off.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: Text,
    /// What to publish when the client is lost.
    pub will: Option<Box<LastWill>>,
    /// User name.
    pub user_name: Option<Text>,
    /// Password.
    pub password: Option<Secret>,
    /// Properties.
    pub properties: ConnectProperties,
}

/// The will in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWill {
    /// Topic name.
    pub topic: Text,
    /// Payload.
    pub payload: Binary,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Properties.
    pub properties: WillProperties,
}

/// CONNACK (3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// Whether the server had a session.
    pub session_present: bool,
    /// Success or why not. MQTT 3 knows six values.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: ConnackProperties,
}

/// PUBLISH (3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// A repetition, perhaps.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// To be retained; or, from a server, was retained.
    pub retain: bool,
    /// Topic name; empty when a topic alias stands for it.
    pub topic: Text,
    /// Present if and only if QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Properties.
    pub properties: PublishProperties,
    /// The message.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// What became of it.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: AckProperties,
}

impl Ack {
    /// One without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: AckProperties::default() }
    }
}

/// SUBSCRIBE (3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Comes back in SUBACK.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: SubscribeProperties,
    /// At least one.
    pub subscriptions: Vec<Subscription>,
}

/// One topic filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Topic filter, perhaps with `$share/NAME/` before it.
    pub filter: Text,
    /// How its messages are to be sent.
    pub options: SubscriptionOptions,
}

/// Subscription Options (3.8.3.1). MQTT 3 has the QoS only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS to send with.
    pub qos: QoS,
    /// Do not send the client's own messages.
    pub no_local: bool,
    /// Keep the RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When a subscription causes retained messages to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// When the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK (3.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: SubackProperties,
    /// One for each filter, in order.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE (3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Comes back in UNSUBACK.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: UnsubscribeProperties,
    /// At least one.
    pub filters: Vec<Text>,
}

/// UNSUBACK (3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: SubackProperties,
    /// One for each filter, in order; none in MQTT 3.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT (3.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: DisconnectProperties,
}

impl Disconnect {
    /// One without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self { reason, properties: DisconnectProperties::default() }
    }
}

/// AUTH (3.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// How it goes on.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: AuthProperties,
}
