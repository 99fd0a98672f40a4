//! Which stream a packet from the session takes.

use std::collections::{BTreeMap, HashMap};

use towline_protocols::mqtt::{PacketKind, topic};

/// A stream by its place among the client's bidirectional ones; the control stream is 0.
pub(super) type StreamIndex = u64;

/// The control stream.
pub(super) const CONTROL: StreamIndex = 0;

/// What began on which data stream. Whatever is not here is the control stream's.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// The client's exchanges that are not over.
    requests: HashMap<(Exchange, u16), StreamIndex>,
    /// Filters by the stream that subscribed to them last, at most as many as a session may have.
    filters: BTreeMap<String, StreamIndex>,
    filters_max: usize,
    /// QoS 2 messages to the client that are not released.
    sent: HashMap<u16, StreamIndex>,
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

    /// The client begins an exchange, or goes on with one. An identifier stands for its newest use.
    pub(super) fn begin(&mut self, exchange: Exchange, id: u16, stream: StreamIndex) {
        if stream == CONTROL {
            self.requests.remove(&(exchange, id));
        } else {
            self.requests.insert((exchange, id), stream);
        }
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

    /// Whether exchanges are any stream's but the control stream's.
    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether any of the client's exchanges on `stream` is not over.
    pub(super) fn is_busy(&self, stream: StreamIndex) -> bool {
        self.requests.values().any(|each| *each == stream)
    }

    /// The stream is gone: its messages take the control stream, its answers nobody waits for.
    pub(super) fn forget(&mut self, stream: StreamIndex) {
        self.filters.retain(|_, each| *each != stream);
        self.sent.retain(|_, each| *each != stream);
    }

    /// Where a packet of the session's goes. `id` and `topic` are there where the kind has them.
    pub(super) fn route(&mut self, kind: PacketKind, id: Option<u16>, topic: &str) -> StreamIndex {
        use Exchange::{Publish, Subscribe, Unsubscribe};
        let id_or_0 = id.unwrap_or(0);
        match kind {
            PacketKind::Publish => self.route_publish(id, topic),
            PacketKind::Pubrel => self.sent.remove(&id_or_0).unwrap_or(CONTROL),
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
        routing.begin(Exchange::Publish, 7, 3);
        routing.begin(Exchange::Subscribe, 7, 4);
        assert_eq!(routing.route(PacketKind::Pubrec, Some(7), ""), 3);
        assert_eq!(routing.route(PacketKind::Pubcomp, Some(7), ""), 3);
        assert!(!routing.is_busy(3) && routing.is_busy(4));
        assert_eq!(routing.route(PacketKind::Suback, Some(7), ""), 4);
        assert_eq!(routing.route(PacketKind::Puback, Some(7), ""), CONTROL, "it is over");
        assert_eq!(routing.route(PacketKind::Pingresp, None, ""), CONTROL);
    }

    #[test]
    fn an_identifier_that_is_used_again_is_the_newest_ones() {
        let mut routing = Routing::new(10);
        routing.begin(Exchange::Publish, 7, 3);
        routing.begin(Exchange::Publish, 7, CONTROL);
        assert_eq!(routing.route(PacketKind::Puback, Some(7), ""), CONTROL);
    }

    #[test]
    fn messages_go_where_their_filter_was_subscribed() {
        let mut routing = Routing::new(10);
        routing.subscribe("a/+", 5);
        routing.subscribe("$share/g/b", 6);
        routing.subscribe("a/#", 2);
        assert_eq!(routing.route(PacketKind::Publish, Some(1), "a/x"), 2, "the first stream of two");
        assert_eq!(routing.route(PacketKind::Pubrel, Some(1), ""), 2);
        assert_eq!(routing.route(PacketKind::Publish, None, "b"), 6);
        assert_eq!(routing.route(PacketKind::Publish, Some(1), "c"), CONTROL);
        routing.subscribe("a/#", CONTROL);
        assert_eq!(routing.route(PacketKind::Publish, None, "a/x"), 5, "the other was subscribed anew");
        routing.unsubscribe("a/+");
        assert_eq!(routing.route(PacketKind::Publish, None, "a/x"), CONTROL);
    }

    #[test]
    fn what_a_stream_had_is_the_control_streams_when_it_is_gone() {
        let mut routing = Routing::new(10);
        routing.subscribe("a", 5);
        assert_eq!(routing.route(PacketKind::Publish, Some(9), "a"), 5);
        routing.begin(Exchange::Publish, 1, 5);
        routing.forget(5);
        assert_eq!(routing.route(PacketKind::Pubrel, Some(9), ""), CONTROL);
        assert_eq!(routing.route(PacketKind::Publish, Some(10), "a"), CONTROL);
        assert_eq!(routing.route(PacketKind::Puback, Some(1), ""), 5, "nobody else waits for it");
    }

    #[test]
    fn filters_are_bounded() {
        let mut routing = Routing::new(1);
        routing.subscribe("a", 1);
        routing.subscribe("b", 1);
        assert_eq!(routing.route(PacketKind::Publish, None, "b"), CONTROL);
        routing.subscribe("a", 2);
        assert_eq!(routing.route(PacketKind::Publish, None, "a"), 2);
    }
}
