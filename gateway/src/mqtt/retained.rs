//! Retained messages (MQTT 5, section 3.3.1.3): the last one of each topic, for whoever subscribes later.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::RwLock;
use towline_protocols::mqtt::{session::ApplicationMessage, topic};

use super::message::Shared;
use crate::hub::{Delivery, Mailbox, Message, SubscribeOptions};

/// The retained messages of a gateway, bounded in count and bytes.
#[derive(Debug)]
pub struct Retained {
    store: RwLock<Store>,
    count_max: AtomicUsize,
    bytes_max: AtomicUsize,
}

/// Ordered by topic, so that a filter that begins with literal levels looks at their subtree only.
#[derive(Debug, Default)]
struct Store {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
}

/// A bound on retained messages was met, by its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFull(pub &'static str);

impl Retained {
    /// An empty store.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { store: RwLock::default(), count_max: count_max.into(), bytes_max: bytes_max.into() }
    }

    /// New bounds. What is above them stays until it is replaced, removed or expires.
    pub(super) fn set_bounds(&self, count_max: usize, bytes_max: usize) {
        self.count_max.store(count_max, Ordering::Relaxed);
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Retains a message in place of the last one of its topic. An empty payload removes that
    /// [MQTT-3.3.1-6].
    ///
    /// # Errors
    /// A bound is met: nothing has changed.
    pub fn retain(&self, message: &Arc<Message>, now: Instant) -> Result<(), RetainedFull> {
        let mut store = self.store.write();
        if message.payload.is_empty() {
            store.remove(&message.topic);
            return Ok(());
        }
        if self.check(&store, message).is_err() {
            store.remove_expired(now);
            self.check(&store, message)?;
        }
        store.insert(message);
        Ok(())
    }

    /// Delivers to a client what its new subscription (not a shared one) matches, whatever protocol it speaks.
    pub fn deliver(&self, mailbox: &dyn Mailbox, client_id: &str, filter: &str, options: &SubscribeOptions) {
        let identifiers: &[u32] = if options.identifier == 0 { &[] } else { &[options.identifier] };
        for message in self.matching(filter, super::now()) {
            if options.no_local && message.publisher.as_deref() == Some(client_id) {
                continue;
            }
            let qos = message.qos.min(options.qos);
            mailbox.deliver(&message, &Delivery { qos, retain: true, identifiers });
        }
    }

    /// The retained messages that a filter (without `$share`) matches and that have not expired.
    pub fn matching(&self, filter: &str, now: Instant) -> Vec<Arc<Message>> {
        let store = self.store.read();
        let is_alive = |message: &Arc<Message>| message.expires.is_none_or(|at| at > now);
        let literal = literal_prefix(filter);
        if literal == filter {
            return store
                .messages
                .get(filter)
                .filter(|message| is_alive(message))
                .cloned()
                .into_iter()
                .collect();
        }
        // `a/#` also matches `a` itself, which stands right before its subtree.
        let from = literal.strip_suffix('/').unwrap_or(literal);
        store
            .messages
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(from))
            .filter(|(topic, message)| topic::matches(filter, topic) && is_alive(message))
            .map(|(_, message)| message.clone())
            .collect()
    }

    /// Whether there is room for the message in place of the last one of its topic.
    fn check(&self, store: &Store, message: &Arc<Message>) -> Result<(), RetainedFull> {
        let replaced = store.messages.get(&message.topic);
        let count = store.messages.len() + usize::from(replaced.is_none());
        let bytes = store.bytes - replaced.map_or(0, cost) + cost(message);
        match () {
            () if count > self.count_max.load(Ordering::Relaxed) => Err(RetainedFull("mqtt.retained_max")),
            () if bytes > self.bytes_max.load(Ordering::Relaxed) => {
                Err(RetainedFull("mqtt.retained_bytes_max"))
            }
            () => Ok(()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.store.read().messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Store {
    fn insert(&mut self, message: &Arc<Message>) {
        self.remove(&message.topic);
        // A copy of its own: a slice would hold on to the buffer that the packet came in.
        let payload = Bytes::copy_from_slice(&message.payload);
        let kept = Arc::new(Message { payload, ..Message::clone(message) });
        self.bytes += cost(&kept);
        self.messages.insert(kept.topic.clone(), kept);
    }

    fn remove(&mut self, topic: &str) {
        if let Some(old) = self.messages.remove(topic) {
            self.bytes -= cost(&old);
        }
    }

    fn remove_expired(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.messages.retain(|_, message| {
            let is_alive = message.expires.is_none_or(|at| at > now);
            if !is_alive {
                *bytes -= cost(message);
            }
            is_alive
        });
    }
}

/// The levels of a filter before its first wildcard, with the slash after them.
fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        Some(at) => &filter[..at],
        None => filter,
    }
}

fn cost(message: &Arc<Message>) -> usize {
    Shared(message.clone()).view().cost()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(topic: &str, payload: &'static str) -> Arc<Message> {
        Arc::new(Message { topic: topic.into(), payload: payload.into(), retain: true, ..Message::default() })
    }

    fn topics(retained: &Retained, filter: &str) -> Vec<String> {
        retained.matching(filter, Instant::now()).iter().map(|message| message.topic.to_string()).collect()
    }

    #[test]
    fn a_filter_finds_its_topics() {
        let retained = Retained::new(100, 100_000);
        for topic in ["a", "a/b", "a/b/c", "a-b", "b", "$SYS/up"] {
            retained.retain(&message(topic, "x"), Instant::now()).unwrap();
        }
        assert_eq!(topics(&retained, "a"), ["a"]);
        assert_eq!(topics(&retained, "a/#"), ["a", "a/b", "a/b/c"]);
        assert_eq!(topics(&retained, "a/+"), ["a/b"]);
        assert_eq!(topics(&retained, "+"), ["a", "a-b", "b"]);
        assert_eq!(topics(&retained, "#"), ["a", "a-b", "a/b", "a/b/c", "b"]);
        assert_eq!(topics(&retained, "+/b/#"), ["a/b", "a/b/c"]);
        assert!(topics(&retained, "c/#").is_empty());
    }

    #[test]
    fn an_empty_payload_removes_and_a_new_one_replaces() {
        let retained = Retained::new(1, 1000);
        retained.retain(&message("a", "1"), Instant::now()).unwrap();
        retained.retain(&message("a", "2"), Instant::now()).unwrap();
        assert_eq!(&retained.matching("a", Instant::now())[0].payload[..], b"2");
        retained.retain(&message("a", ""), Instant::now()).unwrap();
        assert!(retained.is_empty());
        assert_eq!(retained.store.read().bytes, 0);
    }

    #[test]
    fn bounds_hold_and_expired_messages_make_room() {
        let now = Instant::now();
        let retained = Retained::new(2, 100_000);
        let expires = Some(now + Duration::from_secs(1));
        let short = Message { expires, ..Message::clone(&message("short", "x")) };
        retained.retain(&Arc::new(short), now).unwrap();
        retained.retain(&message("a", "x"), now).unwrap();
        assert_eq!(retained.retain(&message("b", "x"), now), Err(RetainedFull("mqtt.retained_max")));
        let later = now + Duration::from_secs(1);
        assert!(retained.matching("short", later).is_empty());
        assert_eq!(retained.retain(&message("b", "x"), later), Ok(()));
        assert_eq!(retained.len(), 2);
    }

    #[test]
    fn bytes_are_bounded() {
        let retained = Retained::new(100, 2 * cost(&message("a", "x")));
        retained.retain(&message("a", "x"), Instant::now()).unwrap();
        retained.retain(&message("b", "x"), Instant::now()).unwrap();
        assert_eq!(
            retained.retain(&message("b", "xx"), Instant::now()),
            Err(RetainedFull("mqtt.retained_bytes_max"))
        );
        assert_eq!(topics(&retained, "#"), ["a", "b"], "the old one stays");
    }

    #[test]
    fn what_travels_beside_the_payload_is_bounded_too() {
        let large = "x".repeat(1000);
        let plain = message("a", "x");
        let variants = [
            Message { content_type: Some(large.as_str().into()), ..Message::clone(&plain) },
            Message { response_topic: Some(large.as_str().into()), ..Message::clone(&plain) },
            Message { correlation_data: Some(large.clone().into()), ..Message::clone(&plain) },
            Message { user_properties: vec![("".into(), "".into()); 1000], ..Message::clone(&plain) },
        ];
        for variant in variants {
            let retained = Retained::new(100, cost(&plain) + 999);
            let refused = retained.retain(&Arc::new(variant), Instant::now());
            assert_eq!(refused, Err(RetainedFull("mqtt.retained_bytes_max")));
        }
    }
}
