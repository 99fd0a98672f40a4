//! Packets to bytes.

use std::sync::OnceLock;

use bytes::{BufMut, BytesMut};

use super::{
    Ack, Auth, Connack, Connect, Disconnect, LastWill, MqttError, Packet, PacketId, PacketKind, Publish, QoS,
    ReasonCode, Suback, Subscribe, SubscriptionId, SubscriptionOptions, Unsuback, Unsubscribe, Version,
    wire::{LEVEL_OF_BRIDGE, Wire, put_binary, put_varint, put_with_length},
};

/// Appends one packet. MQTT 3 has no properties and few reason codes: what it cannot say is left out.
///
/// On an error (a length does not fit) `out` is as it was.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    let start = out.len();
    let result = encode_packet(packet, version, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// A PUBLISH without its payload, borrowed from wherever the message is kept: so one message is encoded for
/// many subscribers without a copy of it for each. `S` is any kind of string.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a, S> {
    /// A repetition.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty when the alias is known to the receiver.
    pub topic: &'a str,
    /// Written if and only if QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Topic alias.
    pub topic_alias: Option<u16>,
    /// Payload Format Indicator: UTF-8.
    pub payload_utf8: Option<bool>,
    /// Message Expiry Interval, seconds.
    pub expiry: Option<u32>,
    /// Response topic.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties.
    pub user_properties: &'a [(S, S)],
    /// Subscription identifiers.
    pub subscription_ids: &'a [SubscriptionId],
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Length of the payload that follows.
    pub payload_bytes: usize,
}

impl<S: AsRef<str>> PublishHead<'_, S> {
    /// Appends everything up to the payload. On an error `out` is as it was.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
        let start = out.len();
        let result = self.put(version, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// The same, from the message's shared heads if it is there what it is for others. `heads` are those of one message:
    /// all that is encoded with them has its topic, its properties and its payload.
    pub fn encode_shared(
        &self,
        version: Version,
        heads: &SharedHeads,
        out: &mut BytesMut,
    ) -> Result<(), MqttError> {
        let Some(head) = self.is_alike().then(|| heads.get(self, version)).flatten() else {
            return self.encode(version, out);
        };
        let start = out.len();
        out.extend_from_slice(head);
        out[start] = self.first_octet();
        if let Some(packet_id) = self.packet_id.filter(|_| self.qos != QoS::AtMostOnce) {
            // All that stands between the fixed header and it is the topic.
            let length_octets = head[1..].iter().take_while(|octet| **octet & 0x80 != 0).count() + 1;
            let at = start + 1 + length_octets + size_of::<u16>() + self.topic.len();
            out[at..at + size_of::<u16>()].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        Ok(())
    }

    /// Whether its form says all of it, up to the first octet and the packet identifier.
    fn is_alike(&self) -> bool {
        let is_complete = self.qos == QoS::AtMostOnce || self.packet_id.is_some();
        let is_own = self.topic_alias.is_some() || self.expiry.is_some() || !self.subscription_ids.is_empty();
        is_complete && !is_own
    }

    fn first_octet(&self) -> u8 {
        let flags = u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        (PacketKind::Publish as u8) << 4 | flags
    }

    fn put(&self, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
        #[cfg(test)]
        ENCODED.set(ENCODED.get() + 1);
        out.put_u8(self.first_octet());
        put_with_length(out, self.payload_bytes, |out| {
            put_binary(out, self.topic.as_bytes())?;
            if self.qos != QoS::AtMostOnce {
                let packet_id = self.packet_id.ok_or(MqttError::protocol(
                    "MQTT-2.2.1-4: a PUBLISH with QoS above 0 has a packet identifier",
                ))?;
                out.put_u16(packet_id.get());
            }
            if version == Version::V5 {
                put_with_length(out, 0, |out| self.put_properties(out))
            } else {
                Ok(())
            }
        })
    }

    fn put_properties(&self, out: &mut BytesMut) -> Result<(), MqttError> {
        if let Some(utf8) = self.payload_utf8 {
            out.put_slice(&[0x01, u8::from(utf8)]);
        }
        if let Some(expiry) = self.expiry {
            out.put_u8(0x02);
            out.put_u32(expiry);
        }
        if let Some(content_type) = self.content_type {
            out.put_u8(0x03);
            put_binary(out, content_type.as_bytes())?;
        }
        if let Some(response_topic) = self.response_topic {
            out.put_u8(0x08);
            put_binary(out, response_topic.as_bytes())?;
        }
        if let Some(correlation_data) = self.correlation_data {
            out.put_u8(0x09);
            put_binary(out, correlation_data)?;
        }
        for id in self.subscription_ids {
            out.put_u8(0x0b);
            put_varint(out, id.get() as usize);
        }
        if let Some(alias) = self.topic_alias {
            out.put_u8(0x23);
            out.put_u16(alias);
        }
        for (name, value) in self.user_properties {
            out.put_u8(0x26);
            put_binary(out, name.as_ref().as_bytes())?;
            put_binary(out, value.as_ref().as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
thread_local! {
    /// Heads of PUBLISH packets that this thread has encoded.
    pub(super) static ENCODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The heads of one message's PUBLISH packets, each encoded once for all subscribers that get it in the same form.
///
/// ```text
///  | flags | length | topic | packet identifier | properties |
///     own                        own, if any
/// ```
///
/// MQTT 3 or 5, with a packet identifier or without one: that makes four forms. What subscribers of one form do not share
/// is written over each one's copy. An alias, an expiry or a subscription identifier is a subscriber's own; a head
/// with one of these is encoded for itself.
#[derive(Debug, Default)]
pub struct SharedHeads(OnceLock<Box<[Form; 4]>>);

/// `None` inside where it cannot be encoded.
type Form = OnceLock<Option<Box<[u8]>>>;

impl SharedHeads {
    /// Whether nothing was encoded with them. It takes no memory until then.
    pub fn is_empty(&self) -> bool {
        self.0.get().is_none()
    }

    fn get<S: AsRef<str>>(&self, head: &PublishHead<'_, S>, version: Version) -> Option<&[u8]> {
        let form = usize::from(version == Version::V5) << 1 | usize::from(head.qos != QoS::AtMostOnce);
        let encoded = self.0.get_or_init(Box::default)[form].get_or_init(|| {
            let mut out = BytesMut::new();
            head.encode(version, &mut out).ok().map(|()| out[..].into())
        });
        encoded.as_deref()
    }
}

/// A copy may get other content: it begins with nothing encoded.
impl Clone for SharedHeads {
    fn clone(&self) -> Self {
        Self::default()
    }
}

fn encode_packet(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    use PacketKind as Kind;
    match packet {
        Packet::Connect(connect) => put_packet(out, Kind::Connect, 0, |out| put_connect(connect, out)),
        Packet::Connack(connack) => {
            put_packet(out, Kind::Connack, 0, |out| put_connack(connack, version, out))
        }
        Packet::Publish(publish) => put_publish(publish, version, out),
        Packet::Puback(ack) => put_packet(out, Kind::Puback, 0, |out| put_ack(ack, version, out)),
        Packet::Pubrec(ack) => put_packet(out, Kind::Pubrec, 0, |out| put_ack(ack, version, out)),
        Packet::Pubrel(ack) => put_packet(out, Kind::Pubrel, 2, |out| put_ack(ack, version, out)),
        Packet::Pubcomp(ack) => put_packet(out, Kind::Pubcomp, 0, |out| put_ack(ack, version, out)),
        Packet::Subscribe(subscribe) => {
            put_packet(out, Kind::Subscribe, 2, |out| put_subscribe(subscribe, version, out))
        }
        Packet::Suback(suback) => put_packet(out, Kind::Suback, 0, |out| put_suback(suback, version, out)),
        Packet::Unsubscribe(unsubscribe) => {
            put_packet(out, Kind::Unsubscribe, 2, |out| put_unsubscribe(unsubscribe, version, out))
        }
        Packet::Unsuback(unsuback) => {
            put_packet(out, Kind::Unsuback, 0, |out| put_unsuback(unsuback, version, out))
        }
        Packet::Pingreq => put_packet(out, Kind::Pingreq, 0, |_| Ok(())),
        Packet::Pingresp => put_packet(out, Kind::Pingresp, 0, |_| Ok(())),
        Packet::Disconnect(disconnect) => {
            put_packet(out, Kind::Disconnect, 0, |out| put_disconnect(disconnect, version, out))
        }
        Packet::Auth(auth) => put_packet(out, Kind::Auth, 0, |out| put_auth(auth, out)),
    }
}

fn put_packet(
    out: &mut BytesMut,
    kind: PacketKind,
    flags: u8,
    body: impl FnOnce(&mut BytesMut) -> Result<(), MqttError>,
) -> Result<(), MqttError> {
    out.put_u8((kind as u8) << 4 | flags);
    put_with_length(out, 0, body)
}

fn put_connect(connect: &Connect, out: &mut BytesMut) -> Result<(), MqttError> {
    let name: &[u8] = if connect.version == Version::V31 { b"MQIsdp" } else { b"MQTT" };
    put_binary(out, name)?;
    out.put_u8(connect.version as u8 | if connect.is_bridge { LEVEL_OF_BRIDGE } else { 0 });
    let will_flags =
        connect.will.as_ref().map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    out.put_u8(
        u8::from(connect.clean_start) << 1
            | will_flags
            | u8::from(connect.password.is_some()) << 6
            | u8::from(connect.user_name.is_some()) << 7,
    );
    out.put_u16(connect.keep_alive);
    if connect.version == Version::V5 {
        connect.properties.write(out)?;
    }
    connect.client_id.write(out);
    if let Some(will) = &connect.will {
        put_will(will, connect.version, out)?;
    }
    if let Some(user_name) = &connect.user_name {
        user_name.write(out);
    }
    if let Some(password) = &connect.password {
        password.write(out);
    }
    Ok(())
}

fn put_will(will: &LastWill, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    if version == Version::V5 {
        will.properties.write(out)?;
    }
    will.topic.write(out);
    will.payload.write(out);
    Ok(())
}

fn put_connack(connack: &Connack, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u8(u8::from(connack.session_present));
    if version != Version::V5 {
        out.put_u8(connack.reason.connect_return_code());
        return Ok(());
    }
    out.put_u8(connack.reason as u8);
    connack.properties.write(out)
}

fn put_publish(publish: &Publish, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    let properties = &publish.properties;
    let head = PublishHead {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_str(),
        packet_id: publish.packet_id,
        topic_alias: properties.topic_alias,
        payload_utf8: properties.payload_utf8,
        expiry: properties.expiry,
        response_topic: properties.response_topic.as_ref().map(AsRef::as_ref),
        correlation_data: properties.correlation_data.as_deref(),
        user_properties: &properties.user_properties,
        subscription_ids: &properties.subscription_ids,
        content_type: properties.content_type.as_ref().map(AsRef::as_ref),
        payload_bytes: publish.payload.len(),
    };
    head.encode(version, out)?;
    out.put_slice(&publish.payload);
    Ok(())
}

fn put_ack(ack: &Ack, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u16(ack.packet_id.get());
    let is_short = ack.reason == ReasonCode::Success && ack.properties.is_empty();
    if version != Version::V5 || is_short {
        return Ok(());
    }
    out.put_u8(ack.reason as u8);
    if ack.properties.is_empty() { Ok(()) } else { ack.properties.write(out) }
}

fn put_subscribe(subscribe: &Subscribe, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u16(subscribe.packet_id.get());
    if version == Version::V5 {
        subscribe.properties.write(out)?;
    }
    for subscription in &subscribe.subscriptions {
        subscription.filter.write(out);
        out.put_u8(subscription_options(subscription.options, version));
    }
    Ok(())
}

fn subscription_options(options: SubscriptionOptions, version: Version) -> u8 {
    let qos = options.qos as u8;
    if version != Version::V5 {
        return qos;
    }
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn put_suback(suback: &Suback, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u16(suback.packet_id.get());
    if version == Version::V5 {
        suback.properties.write(out)?;
    }
    for reason in &suback.reasons {
        // MQTT 3 knows one failure (3.1.1, 3.9.3).
        out.put_u8(if version != Version::V5 && reason.is_error() { 0x80 } else { *reason as u8 });
    }
    Ok(())
}

fn put_unsubscribe(unsubscribe: &Unsubscribe, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u16(unsubscribe.packet_id.get());
    if version == Version::V5 {
        unsubscribe.properties.write(out)?;
    }
    for filter in &unsubscribe.filters {
        filter.write(out);
    }
    Ok(())
}

fn put_unsuback(unsuback: &Unsuback, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    out.put_u16(unsuback.packet_id.get());
    if version != Version::V5 {
        return Ok(());
    }
    unsuback.properties.write(out)?;
    for reason in &unsuback.reasons {
        out.put_u8(*reason as u8);
    }
    Ok(())
}

fn put_disconnect(disconnect: &Disconnect, version: Version, out: &mut BytesMut) -> Result<(), MqttError> {
    let is_short = disconnect.reason == ReasonCode::Success && disconnect.properties.is_empty();
    if version != Version::V5 || is_short {
        return Ok(());
    }
    out.put_u8(disconnect.reason as u8);
    if disconnect.properties.is_empty() { Ok(()) } else { disconnect.properties.write(out) }
}

fn put_auth(auth: &Auth, out: &mut BytesMut) -> Result<(), MqttError> {
    if auth.reason == ReasonCode::Success && auth.properties.is_empty() {
        return Ok(());
    }
    out.put_u8(auth.reason as u8);
    auth.properties.write(out)
}
