//! Which stream a packet from the session takes.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use towline_protocols::mqtt::{PacketKind, ReasonCode, topic};

/// A stream by its place among the client's bidirectional ones; the control stream is 0.
pub(super) type StreamIndex = u64;

/// The control stream.
pub(super) const CONTROL: StreamIndex = 0;
/// Of exchanges whose stream is gone: no stream has this place.
const GONE: StreamIndex = StreamIndex::MAX;

/// What began on which stream. Filters and messages that are not here are the control stream's.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// The client's exchanges that are not over, one for each packet identifier and [`Exchange`].
    requests: HashMap<(Exchange, u16), StreamIndex>,
    /// Filters by the stream that subscribed to them last, at most as many as a session may have.
    filters: BTreeMap<String, StreamIndex>,
    filters_max: usize,
    /// QoS 2 messages to the client that are not released.
    sent: HashMap<u16, StreamIndex>,
}

/// The client uses a packet identifier on two streams at one time. "Each time a Client sends a new SUBSCRIBE, UNSUBSCRIBE,
/// or PUBLISH (where QoS > 0) MQTT Control Packet it MUST assign it a non-zero Packet Identifier that is currently unused"
/// [MQTT-2.2.1-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InUse;

impl InUse {
    pub(super) const REASON: ReasonCode = ReasonCode::PacketIdentifierInUse;
    pub(super) const RULE: &str = "MQTT-2.2.1-3: a Packet Identifier that another stream uses";
}

/// What a packet identifier of the client's belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Exchange {
    Publish,
    Subscribe,
    Unsubscribe,
}

impl Routing {
    pub(super) fn new(filters_max: usize) -> Self {
        Self { filters_max, ..Self::default() }
    }

    /// The client begins an exchange. What broke off with its stream may be sent again on another.
    ///
    /// # Errors
    /// One of another stream has the identifier: the answers of the two could not be told apart, and the second of two
    /// QoS 2 messages would be taken for the first.
    pub(super) fn begin(&mut self, exchange: Exchange, id: u16, stream: StreamIndex) -> Result<(), InUse> {
        match self.requests.entry((exchange, id)) {
            Entry::Occupied(held) if ![stream, GONE].contains(held.get()) => return Err(InUse),
            entry => _ = entry.insert_entry(stream),
        }
        Ok(())
    }

    /// The client goes on with a publish, here from now on.
    pub(super) fn go_on(&mut self, id: u16, stream: StreamIndex) {
        self.requests.insert((Exchange::Publish, id), stream);
    }

    /// Messages for `filter` go to `stream` from now on.
    pub(super) fn subscribe(&mut self, filter: &str, stream: StreamIndex) {
        if stream == CONTROL {
            self.filters.remove(filter);
        } else if self.filters.len() < self.filters_max || self.filters.contains_key(filter) {
            self.filters.insert(filter.to_owned(), stream);
        }
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) {
        self.filters.remove(filter);
    }

    /// Whether filters are any stream's but the control stream's.
    pub(super) fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Whether any of the client's exchanges on `stream` is not over.
    pub(super) fn is_busy(&self, stream: StreamIndex) -> bool {
        self.requests.values().any(|each| *each == stream)
    }

    /// The stream is gone: its messages take the control stream, its answers nobody waits for.
    pub(super) fn forget(&mut self, stream: StreamIndex) {
        self.filters.retain(|_, each| *each != stream);
        self.sent.retain(|_, each| *each != stream);
        self.requests.values_mut().filter(|each| **each == stream).for_each(|each| *each = GONE);
    }

    /// Where a packet of the session's goes. `id` and `topic` are there where the kind has them, `is_error` where it says why.
    pub(super) fn route(
        &mut self,
        kind: PacketKind,
        id: Option<u16>,
        topic: &str,
        is_error: bool,
    ) -> StreamIndex {
        use Exchange::{Publish, Subscribe, Unsubscribe};
        let id_or_0 = id.unwrap_or(0);
        match kind {
            PacketKind::Publish => self.route_publish(id, topic),
            PacketKind::Pubrel => self.sent.remove(&id_or_0).unwrap_or(CONTROL),
            // "PUBREC with a Reason Code of 0x80 or greater" ends it (4.3.3).
            PacketKind::Pubrec if is_error => self.end(Publish, id_or_0),
            // PUBREL and PUBCOMP may follow.
            PacketKind::Pubrec => self.requests.get(&(Publish, id_or_0)).copied().unwrap_or(CONTROL),
            PacketKind::Puback | PacketKind::Pubcomp => self.end(Publish, id_or_0),
            PacketKind::Suback => self.end(Subscribe, id_or_0),
            PacketKind::Unsuback => self.end(Unsubscribe, id_or_0),
            _ => CONTROL,
        }
    }

    fn end(&mut self, exchange: Exchange, id: u16) -> StreamIndex {
        self.requests.remove(&(exchange, id)).unwrap_or(CONTROL)
    }

    /// Of several streams whose filters match, the one that was opened first: a message is sent once.
    fn route_publish(&mut self, id: Option<u16>, topic: &str) -> StreamIndex {
        let matching =
            self.filters.iter().filter(|(filter, _)| topic::matches(topic::split_share(filter).1, topic));
        let stream = matching.map(|(_, stream)| *stream).min().unwrap_or(CONTROL);
        if let Some(id) = id {
            if stream == CONTROL {
                self.sent.remove(&id);
            } else {
                self.sent.insert(id, stream);
            }
        }
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_where_the_exchange_began() {
        let mut routing = Routing::new(10);
        routing.begin(Exchange::Publish, 7, 3).unwrap();
        routing.begin(Exchange::Subscribe, 7, 4).unwrap();
        assert_eq!(routing.route(PacketKind::Pubrec, Some(7), "", false), 3);
        assert_eq!(routing.route(PacketKind::Pubcomp, Some(7), "", false), 3);
        assert!(!routing.is_busy(3) && routing.is_busy(4));
        assert_eq!(routing.route(PacketKind::Suback, Some(7), "", false), 4);
        assert_eq!(routing.route(PacketKind::Puback, Some(7), "", false), CONTROL, "it is over");
        assert_eq!(routing.route(PacketKind::Pingresp, None, "", false), CONTROL);
    }

    #[test]
    fn an_identifier_is_one_streams_until_its_exchange_is_over() {
        let mut routing = Routing::new(10);
        for (first, second) in [(3, CONTROL), (CONTROL, 3), (3, 5)] {
            routing.begin(Exchange::Publish, 7, first).unwrap();
            assert_eq!(routing.begin(Exchange::Publish, 7, second), Err(InUse));
            routing.begin(Exchange::Publish, 7, first).unwrap();
            routing.begin(Exchange::Subscribe, 7, second).unwrap();
            assert_eq!(routing.route(PacketKind::Pubrec, Some(7), "", false), first);
            assert_eq!(routing.begin(Exchange::Publish, 7, second), Err(InUse));
            routing.go_on(7, second);
            assert_eq!(routing.route(PacketKind::Pubcomp, Some(7), "", false), second);
            assert_eq!(routing.route(PacketKind::Suback, Some(7), "", false), second);
            routing.begin(Exchange::Publish, 7, first).unwrap();
            assert_eq!(routing.route(PacketKind::Pubrec, Some(7), "", true), first, "it is refused");
            routing.begin(Exchange::Publish, 7, second).unwrap();
            routing.forget(second);
            routing.begin(Exchange::Publish, 7, first).unwrap();
            assert_eq!(routing.route(PacketKind::Puback, Some(7), "", false), first);
        }
    }

    #[test]
    fn messages_go_where_their_filter_was_subscribed() {
        let mut routing = Routing::new(10);
        routing.subscribe("a/+", 5);
        routing.subscribe("$share/g/b", 6);
        routing.subscribe("a/#", 2);
        assert_eq!(routing.route(PacketKind::Publish, Some(1), "a/x", false), 2, "the first stream of two");
        assert_eq!(routing.route(PacketKind::Pubrel, Some(1), "", false), 2);
        assert_eq!(routing.route(PacketKind::Publish, None, "b", false), 6);
        assert_eq!(routing.route(PacketKind::Publish, Some(1), "c", false), CONTROL);
        routing.subscribe("a/#", CONTROL);
        assert_eq!(
            routing.route(PacketKind::Publish, None, "a/x", false),
            5,
            "the other was subscribed anew"
        );
        routing.unsubscribe("a/+");
        assert_eq!(routing.route(PacketKind::Publish, None, "a/x", false), CONTROL);
    }

    #[test]
    fn what_a_stream_had_is_the_control_streams_when_it_is_gone() {
        let mut routing = Routing::new(10);
        routing.subscribe("a", 5);
        assert_eq!(routing.route(PacketKind::Publish, Some(9), "a", false), 5);
        routing.begin(Exchange::Publish, 1, 5).unwrap();
        routing.forget(5);
        assert_eq!(routing.route(PacketKind::Pubrel, Some(9), "", false), CONTROL);
        assert_eq!(routing.route(PacketKind::Publish, Some(10), "a", false), CONTROL);
        assert_eq!(routing.route(PacketKind::Puback, Some(1), "", false), GONE, "nobody else waits for it");
    }

    #[test]
    fn filters_are_bounded() {
        let mut routing = Routing::new(1);
        routing.subscribe("a", 1);
        routing.subscribe("b", 1);
        assert_eq!(routing.route(PacketKind::Publish, None, "b", false), CONTROL);
        routing.subscribe("a", 2);
        assert_eq!(routing.route(PacketKind::Publish, None, "a", false), 2);
    }
}
