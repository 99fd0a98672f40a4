//! What a client's packets say of their streams, before the session gets them.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use towline_protocols::mqtt::{
    FixedHeader, Limits, MqttError, Packet, PacketKind, Publish, ReasonCode, Text, Version, decode, encode,
};

use super::{
    outgoing,
    routing::{CONTROL, Exchange, InUse, Routing, StreamIndex},
};

/// Topic aliases of one stream. Those of a connection would depend on the order in which streams arrive.
#[derive(Debug, Default)]
pub(super) struct Aliases(HashMap<u16, Text>);

/// What packets are held to.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    pub(super) topic_alias_max: u16,
    /// What CONNECT said; data streams come behind it.
    pub(super) version: Version,
}

impl Rules {
    /// Takes a whole packet off a stream's input.
    pub(super) fn take(&self, input: &mut BytesMut) -> Result<Option<(PacketKind, BytesMut)>, MqttError> {
        let Some(header) = FixedHeader::parse(input, self.version, &self.limits)? else { return Ok(None) };
        let packet_bytes = header.header_bytes + header.remaining_bytes;
        if input.len() < packet_bytes {
            return Ok(None);
        }
        Ok(Some((header.kind, input.split_to(packet_bytes))))
    }

    /// A packet of the control stream. CONNECT is told apart from others, since the session must not send topic aliases:
    /// their first use and the next may take two streams.
    ///
    /// # Errors
    /// Its identifier is another stream's. All else that is wrong with it the session says.
    pub(super) fn control(
        &mut self,
        kind: PacketKind,
        packet: BytesMut,
        routing: &mut Routing,
    ) -> Result<Bytes, InUse> {
        let packet = packet.freeze();
        let exchange = match kind {
            PacketKind::Connect => None,
            PacketKind::Publish | PacketKind::Pubrel => Some(Exchange::Publish),
            PacketKind::Subscribe => Some(Exchange::Subscribe),
            PacketKind::Unsubscribe => Some(Exchange::Unsubscribe),
            _ => return Ok(packet),
        };
        if let Some(exchange) = exchange
            && (exchange == Exchange::Publish || !routing.has_filters())
        {
            match outgoing::packet_id(&packet) {
                Some(id) if kind == PacketKind::Pubrel => routing.go_on(id, CONTROL),
                Some(id) => routing.begin(exchange, id, CONTROL)?,
                None => {}
            }
            return Ok(packet);
        }
        match decode(&mut BytesMut::from(&packet[..]), self.version, &self.limits) {
            Ok(Some(Packet::Connect(mut connect))) => {
                self.version = connect.version;
                if connect.properties.topic_alias_maximum.take().is_some() {
                    let mut out = BytesMut::with_capacity(packet.len());
                    if encode(&Packet::Connect(connect), self.version, &mut out).is_ok() {
                        return Ok(out.freeze());
                    }
                }
            }
            Ok(Some(decoded)) => note(&decoded, CONTROL, routing)?,
            // The session says what is wrong with it.
            Ok(None) | Err(_) => {}
        }
        Ok(packet)
    }

    /// A packet of a data stream.
    ///
    /// # Errors
    /// It has no place there, or is malformed: that is the end of the stream.
    pub(super) fn data(
        &self,
        kind: PacketKind,
        packet: BytesMut,
        stream: StreamIndex,
        aliases: &mut Aliases,
        routing: &mut Routing,
    ) -> Result<Bytes, MqttError> {
        use PacketKind::{Puback, Pubcomp, Publish, Pubrec, Pubrel, Subscribe, Unsubscribe};
        if !matches!(kind, Publish | Puback | Pubrec | Pubrel | Pubcomp | Subscribe | Unsubscribe) {
            return Err(MqttError::protocol("a packet that belongs on the control stream"));
        }
        let packet = packet.freeze();
        let decoded = decode(&mut BytesMut::from(&packet[..]), self.version, &self.limits)?;
        let Some(mut decoded) = decoded else { return Err(MqttError::malformed("a packet in part")) };
        let resolved = match &mut decoded {
            Packet::Publish(publish) => self.resolve(publish, aliases)?,
            _ => false,
        };
        note(&decoded, stream, routing).map_err(|InUse| MqttError::new(InUse::REASON, InUse::RULE))?;
        if !resolved {
            return Ok(packet);
        }
        let mut out = BytesMut::with_capacity(packet.len());
        encode(&decoded, self.version, &mut out)?;
        Ok(out.freeze())
    }

    /// Puts the topic in the place of its alias. Says whether there was one.
    fn resolve(&self, publish: &mut Publish, aliases: &mut Aliases) -> Result<bool, MqttError> {
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(false) };
        if alias == 0 || alias > self.topic_alias_max {
            return Err(MqttError::new(
                ReasonCode::TopicAliasInvalid,
                "MQTT-3.3.2-9: a Topic Alias beyond the maximum",
            ));
        }
        if !publish.topic.is_empty() {
            aliases.0.insert(alias, publish.topic.clone());
            return Ok(true);
        }
        let topic = aliases.0.get(&alias);
        publish.topic =
            topic.cloned().ok_or(MqttError::protocol("3.3.2.3.4: a Topic Alias that stands for nothing"))?;
        Ok(true)
    }
}

/// Notes which stream a packet's answers, and messages of its subscriptions, are to take.
fn note(packet: &Packet, stream: StreamIndex, routing: &mut Routing) -> Result<(), InUse> {
    match packet {
        Packet::Publish(publish) => {
            if let Some(id) = publish.packet_id {
                routing.begin(Exchange::Publish, id.get(), stream)?;
            }
        }
        Packet::Pubrel(ack) => routing.go_on(ack.packet_id.get(), stream),
        Packet::Subscribe(subscribe) => {
            routing.begin(Exchange::Subscribe, subscribe.packet_id.get(), stream)?;
            for subscription in &subscribe.subscriptions {
                routing.subscribe(subscription.filter.as_str(), stream);
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            routing.begin(Exchange::Unsubscribe, unsubscribe.packet_id.get(), stream)?;
            for filter in &unsubscribe.filters {
                routing.unsubscribe(filter.as_str());
            }
        }
        _ => {}
    }
    Ok(())
}
