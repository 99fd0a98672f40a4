//! Bytes to packets. A packet is taken off the input when all of it is there; its strings and its payload
//! are slices of that memory.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Ack, AckProperties, Auth, AuthProperties, Binary, Connack, ConnackProperties, Connect, ConnectProperties,
    Disconnect, DisconnectProperties, LastWill, MqttError, Packet, PacketId, PacketKind, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, Secret, Suback, SubackProperties, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Text, Unsuback, Unsubscribe,
    UnsubscribeProperties, Version, WillProperties, topic,
    wire::{LEVEL_OF_BRIDGE, Reader, Wire, varint},
};

/// What a decoder takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest packet, fixed header included. Known from its first five bytes, so nothing larger is buffered.
    pub packet_bytes_max: usize,
    /// Topic filters plus list properties of one packet.
    pub items_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packet_bytes_max: 1 << 20, items_max: 4096 }
    }
}

/// The first two to five bytes of a packet (2.1).
///
/// ```text
///    7   6   5   4   3   2   1   0
///  +---------------+---------------+
///  |     kind      |     flags     |
///  +---------------+---------------+
///  |  remaining length, 1-4 bytes  |
///  +-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// What follows.
    pub kind: PacketKind,
    /// The low four bits.
    pub flags: u8,
    /// Its own length.
    pub header_bytes: usize,
    /// What is after it.
    pub remaining_bytes: usize,
}

impl FixedHeader {
    /// `None` when more bytes are needed. Fails as soon as the bytes that are there are enough to know.
    pub fn parse(input: &[u8], version: Version, limits: &Limits) -> Result<Option<Self>, MqttError> {
        let Some(&first) = input.first() else { return Ok(None) };
        let kind = packet_kind(first >> 4)?;
        let flags = first & 0x0f;
        check_flags(kind, flags, version)?;
        let Some((remaining_bytes, length, shortest)) = varint(&input[1..])? else { return Ok(None) };
        if !shortest && version == Version::V5 {
            return Err(MqttError::malformed(
                "MQTT-1.5.5-1: a Variable Byte Integer uses as few bytes as it can",
            ));
        }
        let header_bytes = 1 + length;
        if header_bytes + remaining_bytes > limits.packet_bytes_max {
            return Err(MqttError::new(
                ReasonCode::PacketTooLarge,
                "3.2.2.3.6: larger than Maximum Packet Size",
            ));
        }
        Ok(Some(Self { kind, flags, header_bytes, remaining_bytes }))
    }
}

/// Takes one packet off the front of `input`, or returns `None` and leaves it when more bytes are needed.
///
/// `version` is the connection's; CONNECT names its own. After an error the input is of no more use.
pub fn decode(input: &mut BytesMut, version: Version, limits: &Limits) -> Result<Option<Packet>, MqttError> {
    if let Some(ack) = short_ack(input, limits) {
        return Ok(Some(ack));
    }
    let Some(header) = FixedHeader::parse(input, version, limits)? else { return Ok(None) };
    let packet_bytes = header.header_bytes + header.remaining_bytes;
    if input.len() < packet_bytes {
        return Ok(None);
    }
    input.advance(header.header_bytes);
    let body = input.split_to(header.remaining_bytes).freeze();
    decode_body(header, body, version, limits).map(Some)
}

/// An acknowledgement that holds an identifier and nothing else, as most do in all versions: nothing of the input has to
/// be kept for it. Whatever else is there goes the long way.
fn short_ack(input: &mut BytesMut, limits: &Limits) -> Option<Packet> {
    const BYTES: usize = 4;
    let &[first, 2, high, low, ..] = &**input else { return None };
    let packet: fn(Ack) -> Packet = match first {
        0x40 => Packet::Puback,
        0x50 => Packet::Pubrec,
        0x62 => Packet::Pubrel,
        0x70 => Packet::Pubcomp,
        _ => return None,
    };
    let id = PacketId::new(u16::from_be_bytes([high, low])).filter(|_| limits.packet_bytes_max >= BYTES)?;
    input.advance(BYTES);
    Some(packet(Ack::new(id, ReasonCode::Success)))
}

fn packet_kind(bits: u8) -> Result<PacketKind, MqttError> {
    use PacketKind::*;
    const KINDS: [PacketKind; 15] = [
        Connect,
        Connack,
        Publish,
        Puback,
        Pubrec,
        Pubrel,
        Pubcomp,
        Subscribe,
        Suback,
        Unsubscribe,
        Unsuback,
        Pingreq,
        Pingresp,
        Disconnect,
        Auth,
    ];
    usize::from(bits)
        .checked_sub(1)
        .and_then(|index| KINDS.get(index).copied())
        .ok_or(MqttError::malformed("2.1.2: packet type 0 is reserved"))
}

fn check_flags(kind: PacketKind, flags: u8, version: Version) -> Result<(), MqttError> {
    use PacketKind::*;
    let expected = match kind {
        Publish => return Ok(()),
        Pubrel | Subscribe | Unsubscribe => 0b0010,
        Auth if version != Version::V5 && version != Version::V31 => {
            return Err(MqttError::malformed("3.1.1, 2.2.1: packet type 15 is reserved"));
        }
        _ => 0,
    };
    // MQTT 3.1 sets DUP in repeated PUBREL, SUBSCRIBE and UNSUBSCRIBE, and leaves unused bits undefined.
    if flags != expected && version != Version::V31 {
        return Err(MqttError::malformed("MQTT-2.1.3-1: reserved flags of the fixed header have one value"));
    }
    Ok(())
}

fn decode_body(
    header: FixedHeader,
    body: Bytes,
    version: Version,
    limits: &Limits,
) -> Result<Packet, MqttError> {
    use PacketKind as Kind;
    let mut input = Reader::new(body, limits.items_max);
    let packet = match header.kind {
        Kind::Connect => Packet::Connect(Box::new(connect(&mut input)?)),
        Kind::Connack => Packet::Connack(Box::new(connack(&mut input, version)?)),
        Kind::Publish => Packet::Publish(Box::new(publish(header.flags, &mut input, version)?)),
        Kind::Puback => Packet::Puback(ack(header.kind, &mut input, version)?),
        Kind::Pubrec => Packet::Pubrec(ack(header.kind, &mut input, version)?),
        Kind::Pubrel => Packet::Pubrel(ack(header.kind, &mut input, version)?),
        Kind::Pubcomp => Packet::Pubcomp(ack(header.kind, &mut input, version)?),
        Kind::Subscribe => Packet::Subscribe(subscribe(&mut input, version)?),
        Kind::Suback => Packet::Suback(suback(&mut input, version)?),
        Kind::Unsubscribe => Packet::Unsubscribe(unsubscribe(&mut input, version)?),
        Kind::Unsuback => Packet::Unsuback(unsuback(&mut input, version)?),
        Kind::Pingreq => Packet::Pingreq,
        Kind::Pingresp => Packet::Pingresp,
        Kind::Disconnect => Packet::Disconnect(disconnect(&mut input, version)?),
        Kind::Auth => Packet::Auth(auth(&mut input, version)?),
    };
    if !input.is_empty() {
        return Err(MqttError::malformed("2.1.4: the packet is longer than its fields"));
    }
    Ok(packet)
}

/// Connect Flags (3.1.2.3).
struct ConnectFlags(u8);

impl ConnectFlags {
    fn check(&self, version: Version) -> Result<(), MqttError> {
        if self.0 & 0x01 != 0 {
            return Err(MqttError::malformed("MQTT-3.1.2-3: the reserved flag of CONNECT is 0"));
        }
        if !self.has_will() && self.0 & 0b0011_1000 != 0 {
            return Err(MqttError::malformed("MQTT-3.1.2-11: Will QoS and Will Retain are 0 without a will"));
        }
        if version != Version::V5 && self.has_password() && !self.has_user_name() {
            return Err(MqttError::malformed("3.1.1, MQTT-3.1.2-22: no password without a user name"));
        }
        Ok(())
    }

    fn clean_start(&self) -> bool {
        self.0 & 0x02 != 0
    }

    fn has_will(&self) -> bool {
        self.0 & 0x04 != 0
    }

    fn will_qos(&self) -> Result<QoS, MqttError> {
        QoS::from_bits(self.0 >> 3 & 3).ok_or(MqttError::malformed("MQTT-3.1.2-12: Will QoS must not be 3"))
    }

    fn will_retain(&self) -> bool {
        self.0 & 0x20 != 0
    }

    fn has_password(&self) -> bool {
        self.0 & 0x40 != 0
    }

    fn has_user_name(&self) -> bool {
        self.0 & 0x80 != 0
    }
}

fn connect(input: &mut Reader) -> Result<Connect, MqttError> {
    let name = Text::read(input)?;
    let level = input.u8()?;
    let version = match (name.as_str(), level & !LEVEL_OF_BRIDGE) {
        ("MQIsdp", 3) => Version::V31,
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => {
            return Err(MqttError::new(
                ReasonCode::UnsupportedProtocolVersion,
                "MQTT-3.1.2-2: the protocol version is 3, 4 or 5",
            ));
        }
        _ => {
            return Err(MqttError::new(
                ReasonCode::UnsupportedProtocolVersion,
                "MQTT-3.1.2-1: the protocol name is MQTT, or MQIsdp for version 3",
            ));
        }
    };
    let flags = ConnectFlags(input.u8()?);
    flags.check(version)?;
    let keep_alive = input.u16()?;
    let properties =
        if version == Version::V5 { ConnectProperties::read(input)? } else { Default::default() };
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(MqttError::protocol(
            "3.1.2.11.10: no authentication data without an authentication method",
        ));
    }
    Ok(Connect {
        version,
        is_bridge: level & LEVEL_OF_BRIDGE != 0,
        clean_start: flags.clean_start(),
        keep_alive,
        client_id: Text::read(input)?,
        will: if flags.has_will() { Some(Box::new(will(&flags, input, version)?)) } else { None },
        user_name: if flags.has_user_name() { Some(Text::read(input)?) } else { None },
        password: if flags.has_password() { Some(Secret::read(input)?) } else { None },
        properties,
    })
}

fn will(flags: &ConnectFlags, input: &mut Reader, version: Version) -> Result<LastWill, MqttError> {
    let properties = if version == Version::V5 { WillProperties::read(input)? } else { Default::default() };
    check_response_topic(properties.response_topic.as_ref())?;
    let topic = Text::read(input)?;
    topic::check_name(topic.as_str())?;
    Ok(LastWill {
        topic,
        payload: Binary::read(input)?,
        qos: flags.will_qos()?,
        retain: flags.will_retain(),
        properties,
    })
}

fn connack(input: &mut Reader, version: Version) -> Result<Connack, MqttError> {
    let flags = input.u8()?;
    if flags & 0xfe != 0 && version != Version::V31 {
        return Err(MqttError::malformed("MQTT-3.2.2-1: bits 7 to 1 of the acknowledge flags are 0"));
    }
    let session_present = flags & 1 != 0;
    if version != Version::V5 {
        let reason = ReasonCode::from_connect_return_code(input.u8()?)
            .ok_or(MqttError::malformed("3.1.1, 3.2.2.3: CONNACK return codes above 5 are reserved"))?;
        return Ok(Connack { session_present, reason, properties: ConnackProperties::default() });
    }
    let reason = reason(PacketKind::Connack, input)?;
    Ok(Connack { session_present, reason, properties: ConnackProperties::read(input)? })
}

fn publish(flags: u8, input: &mut Reader, version: Version) -> Result<Publish, MqttError> {
    let dup = flags & 0x08 != 0;
    let qos =
        QoS::from_bits(flags >> 1 & 3).ok_or(MqttError::malformed("MQTT-3.3.1-4: QoS must not be 3"))?;
    if dup && qos == QoS::AtMostOnce && version != Version::V31 {
        return Err(MqttError::malformed("MQTT-3.3.1-2: DUP is 0 with QoS 0"));
    }
    let topic = Text::read(input)?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(packet_id(input)?) };
    let properties =
        if version == Version::V5 { PublishProperties::read(input)? } else { Default::default() };
    check_response_topic(properties.response_topic.as_ref())?;
    if !(topic.is_empty() && properties.topic_alias.is_some()) {
        topic::check_name(topic.as_str())?;
    }
    if properties.topic_alias == Some(0) {
        return Err(MqttError::new(
            ReasonCode::TopicAliasInvalid,
            "MQTT-3.3.2-8: a topic alias must not be 0",
        ));
    }
    Ok(Publish { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload: input.rest() })
}

fn check_response_topic(topic: Option<&Text>) -> Result<(), MqttError> {
    match topic.map(Text::as_str) {
        // Subscribers that look closely would end their connections over it.
        Some("") => Err(MqttError::protocol("MQTT-4.7.3-1: a response topic has at least one character")),
        Some(topic) if topic.contains(['+', '#']) => {
            Err(MqttError::protocol("MQTT-3.3.2-14: a response topic must not hold wildcards"))
        }
        _ => Ok(()),
    }
}

fn ack(kind: PacketKind, input: &mut Reader, version: Version) -> Result<Ack, MqttError> {
    let packet_id = packet_id(input)?;
    // MQTT 5 leaves out the reason when it is Success, and an empty property list (3.4.2.1).
    if version != Version::V5 || input.is_empty() {
        return Ok(Ack::new(packet_id, ReasonCode::Success));
    }
    let reason = reason(kind, input)?;
    let properties = if input.is_empty() { AckProperties::default() } else { AckProperties::read(input)? };
    Ok(Ack { packet_id, reason, properties })
}

fn subscribe(input: &mut Reader, version: Version) -> Result<Subscribe, MqttError> {
    let packet_id = packet_id(input)?;
    let properties =
        if version == Version::V5 { SubscribeProperties::read(input)? } else { Default::default() };
    let mut subscriptions = Vec::new();
    while !input.is_empty() {
        input.count_item()?;
        let filter = Text::read(input)?;
        topic::check_filter(filter.as_str())?;
        let options = subscription_options(input.u8()?, version)?;
        if options.no_local && filter.as_str().starts_with("$share/") {
            return Err(MqttError::protocol(
                "MQTT-3.8.3-4: No Local must not be set on a shared subscription",
            ));
        }
        subscriptions.push(Subscription { filter, options });
    }
    if subscriptions.is_empty() {
        return Err(MqttError::protocol("MQTT-3.8.3-2: SUBSCRIBE has at least one topic filter"));
    }
    Ok(Subscribe { packet_id, properties, subscriptions })
}

fn subscription_options(byte: u8, version: Version) -> Result<SubscriptionOptions, MqttError> {
    let qos = QoS::from_bits(byte & 3).ok_or(MqttError::protocol("3.8.3.1: Maximum QoS must not be 3"))?;
    let reserved = match version {
        Version::V31 => 0,
        Version::V311 => byte & 0xfc,
        Version::V5 => byte & 0xc0,
    };
    if reserved != 0 {
        return Err(MqttError::malformed("MQTT-3.8.3-5: reserved bits of subscription options are 0"));
    }
    if version != Version::V5 {
        return Ok(SubscriptionOptions { qos, ..Default::default() });
    }
    let retain_handling = match byte >> 4 & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(MqttError::protocol("3.8.3.1: Retain Handling must not be 3")),
    };
    Ok(SubscriptionOptions {
        qos,
        no_local: byte & 0x04 != 0,
        retain_as_published: byte & 0x08 != 0,
        retain_handling,
    })
}

fn suback(input: &mut Reader, version: Version) -> Result<Suback, MqttError> {
    let packet_id = packet_id(input)?;
    let properties = if version == Version::V5 { SubackProperties::read(input)? } else { Default::default() };
    let mut reasons = Vec::with_capacity(input.len());
    while !input.is_empty() {
        reasons.push(match version {
            Version::V5 => reason(PacketKind::Suback, input)?,
            _ => suback_return_code(input.u8()?)?,
        });
    }
    Ok(Suback { packet_id, properties, reasons })
}

fn suback_return_code(code: u8) -> Result<ReasonCode, MqttError> {
    match QoS::from_bits(code) {
        Some(qos) => Ok(qos.granted()),
        None if code == 0x80 => Ok(ReasonCode::UnspecifiedError),
        None => Err(MqttError::malformed("3.1.1, MQTT-3.9.3-2: SUBACK return codes are 0, 1, 2 and 0x80")),
    }
}

fn unsubscribe(input: &mut Reader, version: Version) -> Result<Unsubscribe, MqttError> {
    let packet_id = packet_id(input)?;
    let properties =
        if version == Version::V5 { UnsubscribeProperties::read(input)? } else { Default::default() };
    let mut filters = Vec::new();
    while !input.is_empty() {
        input.count_item()?;
        let filter = Text::read(input)?;
        topic::check_filter(filter.as_str())?;
        filters.push(filter);
    }
    if filters.is_empty() {
        return Err(MqttError::protocol("MQTT-3.10.3-2: UNSUBSCRIBE has at least one topic filter"));
    }
    Ok(Unsubscribe { packet_id, properties, filters })
}

fn unsuback(input: &mut Reader, version: Version) -> Result<Unsuback, MqttError> {
    let packet_id = packet_id(input)?;
    let mut unsuback = Unsuback { packet_id, properties: SubackProperties::default(), reasons: Vec::new() };
    if version == Version::V5 {
        unsuback.properties = SubackProperties::read(input)?;
        unsuback.reasons.reserve_exact(input.len());
        while !input.is_empty() {
            unsuback.reasons.push(reason(PacketKind::Unsuback, input)?);
        }
    }
    Ok(unsuback)
}

fn disconnect(input: &mut Reader, version: Version) -> Result<Disconnect, MqttError> {
    if version != Version::V5 || input.is_empty() {
        return Ok(Disconnect::new(ReasonCode::Success));
    }
    let reason = reason(PacketKind::Disconnect, input)?;
    let properties = if input.is_empty() { Default::default() } else { DisconnectProperties::read(input)? };
    Ok(Disconnect { reason, properties })
}

fn auth(input: &mut Reader, version: Version) -> Result<Auth, MqttError> {
    if version != Version::V5 {
        return Err(MqttError::malformed("3.1.1, 2.2.1: packet type 15 is reserved"));
    }
    if input.is_empty() {
        return Ok(Auth { reason: ReasonCode::Success, properties: AuthProperties::default() });
    }
    let reason = reason(PacketKind::Auth, input)?;
    let properties = if input.is_empty() { Default::default() } else { AuthProperties::read(input)? };
    Ok(Auth { reason, properties })
}

fn packet_id(input: &mut Reader) -> Result<PacketId, MqttError> {
    PacketId::new(input.u16()?).ok_or(MqttError::protocol("MQTT-2.2.1-3: a packet identifier must not be 0"))
}

fn reason(kind: PacketKind, input: &mut Reader) -> Result<ReasonCode, MqttError> {
    ReasonCode::from_byte(input.u8()?)
        .filter(|reason| reason.is_allowed_in(kind))
        .ok_or(MqttError::malformed("2.4: a reason code that this packet may not carry"))
}
