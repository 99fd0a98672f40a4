//! The session's packets on their way to streams, cut where packets begin.

use std::ops::Range;

use bytes::BytesMut;
use towline_protocols::mqtt::{FixedHeader, Limits, PacketKind, ReasonCode, Version};

use super::routing::{CONTROL, Routing, StreamIndex};

/// Follows what the session writes, and says to which stream each octet goes.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The beginning of a packet, as far as its stream is told by it.
    head: BytesMut,
    /// The head is whole: it is to be moved to `target`.
    is_routed: bool,
    target: StreamIndex,
    /// Octets of the packet behind the head.
    left: usize,
    is_accepted: bool,
}

/// What a packet's first octets say.
enum Examined {
    /// So many more are needed.
    Need(usize),
    Known {
        kind: PacketKind,
        id: Option<u16>,
        topic: Range<usize>,
        packet_bytes: usize,
        /// A PUBREC that says so.
        is_error: bool,
    },
}

/// The packet identifier of a whole packet, where it has one.
pub(super) fn packet_id(packet: &[u8]) -> Option<u16> {
    match examine(packet) {
        Examined::Known { id, .. } => id.filter(|id| *id > 0),
        Examined::Need(_) => None,
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Self { head: BytesMut::new(), is_routed: false, target: CONTROL, left: 0, is_accepted: false }
    }
}

impl Outgoing {
    /// Whether the session has accepted the client.
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// A head that is to be moved to its stream before anything else is taken.
    pub(super) fn routed_head(&self) -> Option<(StreamIndex, &[u8])> {
        self.is_routed.then_some((self.target, &self.head[..]))
    }

    /// It is moved.
    pub(super) fn moved_head(&mut self) {
        self.is_routed = false;
        self.head = BytesMut::new();
    }

    /// So much of a packet's rest is still to come, and its stream.
    pub(super) fn rest(&self) -> Option<(StreamIndex, usize)> {
        (self.left > 0).then_some((self.target, self.left))
    }

    /// So much of it came.
    pub(super) fn took_rest(&mut self, octets: usize) {
        self.left -= octets;
    }

    /// Takes octets of a packet's beginning. Returns how many.
    pub(super) fn take_head(&mut self, data: &[u8], routing: &mut Routing) -> usize {
        let mut taken = 0;
        loop {
            match examine(&self.head) {
                Examined::Need(more) => {
                    let end = data.len().min(taken + more);
                    if end == taken {
                        return taken;
                    }
                    self.head.extend_from_slice(&data[taken..end]);
                    taken = end;
                }
                Examined::Known { kind, id, topic, packet_bytes, is_error } => {
                    let topic = str::from_utf8(&self.head[topic]).unwrap_or_default();
                    self.target = routing.route(kind, id, topic, is_error);
                    self.left = packet_bytes.saturating_sub(self.head.len());
                    self.is_routed = true;
                    // Behind the session's flags stands the reason; 0 is success.
                    self.is_accepted |=
                        kind == PacketKind::Connack && id.is_some_and(|both| both & 0xff == 0);
                    return taken;
                }
            }
        }
    }
}

/// ```text
/// fixed header | packet identifier                   acknowledgements (CONNACK: flags and reason)
/// fixed header | packet identifier | reason          PUBREC, where it has one
/// fixed header | length, topic | packet identifier   PUBLISH, the last one if QoS is above 0
/// ```
fn examine(head: &[u8]) -> Examined {
    let limits = Limits { packet_bytes_max: usize::MAX, ..Limits::default() };
    if head.len() < 2 {
        return Examined::Need(2 - head.len());
    }
    let Ok(Some(fixed)) = FixedHeader::parse(head, Version::V311, &limits) else { return Examined::Need(1) };
    let FixedHeader { kind, flags, header_bytes: begin, remaining_bytes } = fixed;
    let packet_bytes = begin + remaining_bytes;
    let number = |at: usize| head.get(at..at + 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]));
    let known = |id, topic| Examined::Known { kind, id, topic, packet_bytes, is_error: false };
    if kind == PacketKind::Publish {
        let Some(length) = number(begin) else { return Examined::Need(begin + 2 - head.len()) };
        let topic = begin + 2..begin + 2 + usize::from(length);
        let has_id = flags & 0b0110 != 0;
        let end = topic.end + if has_id { 2 } else { 0 };
        return match end.checked_sub(head.len()).filter(|more| *more > 0) {
            Some(more) => Examined::Need(more),
            None => known(number(topic.end).filter(|_| has_id), topic),
        };
    }
    if remaining_bytes < 2 {
        return match packet_bytes.checked_sub(head.len()).filter(|more| *more > 0) {
            Some(more) => Examined::Need(more),
            None => known(None, 0..0),
        };
    }
    if kind == PacketKind::Pubrec && remaining_bytes > 2 {
        let Some(&reason) = head.get(begin + 2) else { return Examined::Need(begin + 3 - head.len()) };
        let is_error = reason >= ReasonCode::UnspecifiedError as u8;
        return Examined::Known { kind, id: number(begin), topic: 0..0, packet_bytes, is_error };
    }
    match number(begin) {
        Some(id) => known(Some(id), 0..0),
        None => Examined::Need(begin + 2 - head.len()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use towline_protocols::mqtt::{Ack, Packet, PacketId, Publish, PublishProperties, QoS, Text, encode};

    use super::*;
    use crate::mqtt_quic::routing::Exchange;

    fn publish(topic: &str, id: Option<u16>, payload: &[u8]) -> Packet {
        Packet::Publish(Box::new(Publish {
            dup: false,
            qos: if id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
            retain: false,
            topic: Text::try_from(topic).unwrap(),
            packet_id: id.and_then(PacketId::new),
            properties: PublishProperties::default(),
            payload: Bytes::copy_from_slice(payload),
        }))
    }

    /// Where each packet goes, written in pieces of `piece`.
    fn written(packets: &[Packet], piece: usize, routing: &mut Routing) -> Vec<(StreamIndex, Vec<u8>)> {
        let mut outgoing = Outgoing::default();
        let mut written: Vec<(StreamIndex, Vec<u8>)> = Vec::new();
        for packet in packets {
            let mut bytes = BytesMut::new();
            encode(packet, Version::V5, &mut bytes).unwrap();
            for mut piece in bytes.chunks(piece) {
                while !piece.is_empty() {
                    let taken = match outgoing.rest() {
                        Some((target, left)) => {
                            let count = left.min(piece.len());
                            written
                                .last_mut()
                                .filter(|(last, _)| *last == target)
                                .unwrap()
                                .1
                                .extend(&piece[..count]);
                            outgoing.took_rest(count);
                            count
                        }
                        None => outgoing.take_head(piece, routing),
                    };
                    assert!(taken > 0);
                    piece = &piece[taken..];
                    if let Some((target, head)) = outgoing.routed_head() {
                        written.push((target, head.to_vec()));
                        outgoing.moved_head();
                    }
                }
            }
        }
        written
    }

    #[test]
    fn packets_are_found_whatever_the_pieces() {
        let payload = vec![9; 300];
        let packets = [
            publish("a", None, b"x"),
            publish("a", Some(5), &payload),
            Packet::Pingresp,
            Packet::Puback(Ack::new(PacketId::new(7).unwrap(), ReasonCode::Success)),
            publish("", None, b""),
        ];
        for piece in [1, 2, 3, 5, 100, 1000] {
            let mut routing = Routing::new(10);
            routing.subscribe("a", 3);
            routing.begin(Exchange::Publish, 7, 4).unwrap();
            let written = written(&packets, piece, &mut routing);
            let targets: Vec<_> = written.iter().map(|(target, _)| *target).collect();
            assert_eq!(targets, [3, 3, CONTROL, 4, CONTROL], "in pieces of {piece}");
            for ((_, octets), packet) in written.iter().zip(&packets) {
                let mut bytes = BytesMut::new();
                encode(packet, Version::V5, &mut bytes).unwrap();
                assert_eq!(octets[..], bytes[..], "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn data_streams_come_behind_a_connack_that_accepts() {
        for (reason, accepted) in [(0, true), (0x87, false)] {
            let mut outgoing = Outgoing::default();
            outgoing.take_head(&[0x20, 3, 1, reason, 0], &mut Routing::new(1));
            assert_eq!(outgoing.is_accepted(), accepted);
        }
    }
}
