//! Retained messages (MQTT 5, section 3.3.1.3): the last one of each topic, for whoever subscribes later.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::RwLock;
use towline_protocols::mqtt::topic;

use super::{
    kept::{Keeping, decode_retained, encode_retained},
    message,
};
use crate::{
    hub::{Delivery, Mailbox, Message, SubscribeOptions},
    store::{Store, StoreError, Table, Write},
};

/// Messages that are looked for at one time, with the lock held, for a client that gets them as it has room.
const LOOK_MAX: usize = 64;
/// Topics that a filter misses one behind the other, before it is asked how far the next one is: to search for that costs
/// as much as some steps.
const MISSED_MAX: usize = 8;

/// The retained messages of a gateway, bounded in count and bytes.
pub struct Retained {
    topics: RwLock<Topics>,
    /// What the gateway says of itself: beside the bounds, and never stored.
    system: RwLock<Vec<Arc<Message>>>,
    count_max: AtomicUsize,
    bytes_max: AtomicUsize,
    /// Where they are kept over a restart.
    store: Option<Store>,
}

/// Ordered by topic, so that a filter need not look at the subtrees that it leads past.
#[derive(Debug, Default)]
struct Topics {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    /// Of those that expire. Where it is full, every publish asks for them.
    expiring: BTreeSet<(Instant, Arc<str>)>,
    bytes: usize,
}

/// What a new subscription of an MQTT client has not been delivered yet.
#[derive(Debug)]
pub(super) struct Wanted {
    filter: String,
    options: SubscribeOptions,
    /// All up to this topic was delivered.
    behind: Option<Arc<str>>,
}

/// A bound on retained messages was met, by its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFull(pub &'static str);

impl Retained {
    /// None, and none that outlives the process.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        let (count_max, bytes_max) = (count_max.into(), bytes_max.into());
        Self { topics: RwLock::default(), system: RwLock::default(), count_max, bytes_max, store: None }
    }

    /// Those that the store holds, and those to come.
    ///
    /// # Errors
    /// The file cannot be read, or holds a record that is not of this version.
    pub(super) fn restore(
        count_max: usize,
        bytes_max: usize,
        store: &Store,
        now: Instant,
    ) -> Result<Self, StoreError> {
        let retained = Self { store: Some(store.clone()), ..Self::new(count_max, bytes_max) };
        let mut topics = retained.topics.write();
        for (key, value) in store.scan(Table::MqttRetained)? {
            let message = decode_retained(&value)
                .ok_or_else(|| store.damaged("a retained message's record is not of this version"))?;
            if message.expires.is_some_and(|at| at <= now) {
                store.must_write(Write::Delete { table: Table::MqttRetained, key });
            } else {
                topics.insert(&Arc::new(message));
            }
        }
        drop(topics);
        Ok(retained)
    }

    /// Replaces what the gateway says of itself.
    pub(super) fn set_system(&self, messages: Vec<Arc<Message>>) {
        *self.system.write() = messages;
    }

    /// Whether a message that is retained goes to a store.
    pub(super) fn is_lasting(&self) -> bool {
        self.store.is_some()
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
        let mut topics = self.topics.write();
        if message.payload.is_empty() {
            if topics.remove(&message.topic) {
                self.forget(&message.topic);
            }
            return Ok(());
        }
        if self.check(&topics, message).is_err() {
            for topic in topics.remove_expired(now) {
                self.forget(&topic);
            }
            self.check(&topics, message)?;
        }
        // Under the lock, or an earlier message could be written behind a later one.
        if let Some(store) = &self.store {
            let (key, value) = (message.topic.as_bytes().to_vec(), encode_retained(message));
            let put = Write::Put { table: Table::MqttRetained, key, value };
            store.write(put).map_err(|_| RetainedFull("store_queue_bytes"))?;
        }
        topics.insert(message);
        Ok(())
    }

    fn forget(&self, topic: &str) {
        if let Some(store) = &self.store {
            store.must_write(Write::Delete { table: Table::MqttRetained, key: topic.as_bytes().to_vec() });
        }
    }

    /// Delivers to a client what its new subscription (not a shared one) matches, whatever protocol it speaks.
    pub fn deliver(&self, mailbox: &dyn Mailbox, client_id: &str, filter: &str, options: &SubscribeOptions) {
        let since = super::now();
        for message in self.matching(filter, since) {
            deliver_one(mailbox, client_id, &message, options, since);
        }
    }

    /// Delivers the rest of what a new subscription matches, as long as there is room; says whether that is all. A queue
    /// holds less than there may be, and the client is to have all [MQTT-3.3.1-9].
    pub(super) fn deliver_rest(
        &self,
        mailbox: &dyn Mailbox,
        client_id: &str,
        wanted: &mut Wanted,
        has_room: impl Fn() -> bool,
    ) -> bool {
        let since = super::now();
        loop {
            let messages = self.matching_behind(&wanted.filter, wanted.behind.as_deref(), LOOK_MAX, since);
            let is_all = messages.len() < LOOK_MAX;
            for message in messages {
                if !has_room() {
                    return false;
                }
                deliver_one(mailbox, client_id, &message, &wanted.options, since);
                wanted.behind = Some(message.topic.clone());
            }
            if is_all {
                return true;
            }
        }
    }

    /// The retained messages that a filter (without `$share`) matches and that have not expired.
    pub fn matching(&self, filter: &str, now: Instant) -> Vec<Arc<Message>> {
        self.matching_behind(filter, None, usize::MAX, now)
    }

    /// The same from behind a topic on, and not more than `count_max`.
    fn matching_behind(
        &self,
        filter: &str,
        behind: Option<&str>,
        count_max: usize,
        now: Instant,
    ) -> Vec<Arc<Message>> {
        if super::is_reserved(filter) {
            let system = self.system.read();
            let matching = system.iter().filter(|message| topic::matches(filter, &message.topic));
            let from = behind.map_or(0, |behind| {
                matching.clone().position(|message| *message.topic == *behind).map_or(usize::MAX, |at| at + 1)
            });
            return matching.skip(from).take(count_max).cloned().collect();
        }
        let is_alive = |message: &&Arc<Message>| message.expires.is_none_or(|at| at > now);
        let topics = self.topics.read();
        topics.matching(filter, behind).filter(is_alive).take(count_max).cloned().collect()
    }

    /// Whether there is room for the message in place of the last one of its topic.
    fn check(&self, topics: &Topics, message: &Arc<Message>) -> Result<(), RetainedFull> {
        let replaced = topics.messages.get(&message.topic);
        let count = topics.messages.len() + usize::from(replaced.is_none());
        let bytes = topics.bytes - replaced.map_or(0, cost) + cost(message);
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
        self.topics.read().messages.len()
    }

    /// What they count against `mqtt.retained_bytes_max`.
    pub(super) fn bytes(&self) -> usize {
        self.topics.read().bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Wanted {
    pub(super) fn new(filter: String, options: SubscribeOptions) -> Self {
        Self { filter, options, behind: None }
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }
}

impl Topics {
    /// Those behind a topic that a filter matches, in the order of their topics.
    fn matching<'a>(
        &'a self,
        filter: &'a str,
        behind: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Message>> {
        // `a/#` also matches `a` itself, which stands before its subtree.
        let literal = literal_prefix(filter);
        let from = literal.strip_suffix('/').unwrap_or(literal);
        let mut rest = self.range(behind.map_or(Bound::Included(from), Bound::Excluded));
        let mut missed = 0;
        std::iter::from_fn(move || {
            loop {
                let (topic, message) = rest.next()?;
                if topic::matches(filter, topic) {
                    missed = 0;
                    return Some(message);
                }
                missed += 1;
                if missed < MISSED_MAX {
                    continue;
                }
                missed = 0;
                match compare(filter, topic) {
                    Match::Yes | Match::No => {}
                    Match::NotBefore(next) => rest = self.range(Bound::Included(&next)),
                    Match::NoMore => return None,
                }
            }
        })
    }

    fn range(&self, from: Bound<&str>) -> btree_map::Range<'_, Arc<str>, Arc<Message>> {
        self.messages.range::<str, _>((from, Bound::Unbounded))
    }

    fn insert(&mut self, message: &Arc<Message>) {
        self.remove(&message.topic);
        // A copy of its own: a slice would hold on to the buffer that the packet came in.
        let payload = Bytes::copy_from_slice(&message.payload);
        let kept = Arc::new(Message { payload, ..Message::clone(message) });
        self.bytes += cost(&kept);
        self.expiring.extend(kept.expires.map(|at| (at, kept.topic.clone())));
        self.messages.insert(kept.topic.clone(), kept);
    }

    /// Says whether there was one.
    fn remove(&mut self, topic: &str) -> bool {
        let Some(old) = self.messages.remove(topic) else { return false };
        self.bytes -= cost(&old);
        if let Some(at) = old.expires {
            self.expiring.remove(&(at, old.topic.clone()));
        }
        true
    }

    /// Returns the topics of those that were removed.
    fn remove_expired(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut expired = Vec::new();
        while let Some((at, topic)) = self.expiring.first()
            && *at <= now
        {
            let topic = topic.clone();
            self.remove(&topic);
            expired.push(topic);
        }
        expired
    }
}

fn deliver_one(
    mailbox: &dyn Mailbox,
    client_id: &str,
    message: &Arc<Message>,
    options: &SubscribeOptions,
    since: Instant,
) {
    if options.no_local && message.publisher.as_deref() == Some(client_id) {
        return;
    }
    let identifiers: &[u32] = if options.identifier == 0 { &[] } else { &[options.identifier] };
    let (qos, keeping) = (message.qos.min(options.qos), Keeping::default());
    // MQTT 5, section 4.8.2: shared subscriptions are sent nothing that is retained.
    let share = None;
    let delivery = Delivery { qos, retain: true, identifiers, share, keeping: &keeping, since, rooms: None };
    mailbox.deliver(message, &delivery);
    // When the disk cannot follow, the client goes without, as with any other bound.
    _ = keeping.finish(None);
}

/// Where a topic stands to a filter, among all topics in their order.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Yes,
    /// The next one may.
    No,
    /// Nor does any before this, which need be no topic itself.
    NotBefore(String),
    /// Nor does any behind it.
    NoMore,
}

/// Compares level by level; the first that differs says how far away the next topic is that may match.
fn compare(filter: &str, topic: &str) -> Match {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        // MQTT-4.7.2-1; "%" is the character behind "$".
        return Match::NotBefore("%".to_owned());
    }
    let mut levels = filter.split('/').peekable();
    // The bytes of the topic that its levels so far take, with the slash after them.
    let mut seen = 0;
    let mut names = topic.split('/');
    while let Some(level) = levels.next() {
        if level == "#" {
            // It also stands for the parent level (4.7.1.2), so nothing need be left.
            return Match::Yes;
        }
        // What is longer may follow at once, and what is between is longer in its last level.
        let Some(name) = names.next() else { return Match::No };
        if level != "+" && level != name {
            return differs(&topic[..seen], level, levels.peek().is_some(), topic);
        }
        seen += name.len() + 1;
    }
    // All in this subtree is too long.
    if names.next().is_some() { behind_subtree(&topic[..seen]) } else { Match::Yes }
}

/// Below `parent` (with its slash) only `level` matches, alone or, if it `goes_on`, with more below it.
fn differs(parent: &str, level: &str, goes_on: bool, topic: &str) -> Match {
    let alone = format!("{parent}{level}");
    if *alone > *topic {
        return Match::NotBefore(alone);
    }
    let subtree = alone + "/";
    if goes_on && *subtree > *topic { Match::NotBefore(subtree) } else { behind_subtree(parent) }
}

/// The first that may stand behind all topics below `parent`, which ends with its slash: "0" is the character behind "/".
fn behind_subtree(parent: &str) -> Match {
    match parent.strip_suffix('/') {
        Some(parent) => Match::NotBefore(format!("{parent}0")),
        None => Match::NoMore,
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
    message::view(message).cost()
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
    fn filters_and_topics_of_all_kinds_find_each_other() {
        let texts = |levels: &[&str]| {
            let mut texts = vec![String::new()];
            let mut all = Vec::new();
            for _ in 0..3 {
                let longer =
                    |text: &String| levels.iter().map(|level| format!("{text}{level}/")).collect::<Vec<_>>();
                texts = texts.iter().flat_map(longer).collect();
                all.extend(texts.iter().map(|text| text.trim_end_matches('/').to_owned()));
                all.extend(texts.iter().cloned());
            }
            all.retain(|text| !text.is_empty());
            all
        };
        let retained = Retained::new(10_000, 10_000_000);
        // Characters before the slash in their order, and behind it.
        let names = texts(&["a", "a-", "a0", "b", "$a"]);
        names.iter().for_each(|topic| retained.retain(&message(topic, "x"), Instant::now()).unwrap());
        let names: BTreeSet<_> = names.iter().collect();
        let wildcards = |text: &String| ["#", "+/#"].map(|end| format!("{text}{end}"));
        let filters = texts(&["a", "a-", "+", "b", "$a"]);
        let open = filters.iter().filter(|text| text.ends_with('/')).flat_map(wildcards);
        for filter in filters.iter().cloned().chain(open).chain(["#".to_owned()]) {
            let expected = names.iter().filter(|topic| topic::matches(&filter, topic)).copied();
            assert_eq!(topics(&retained, &filter), expected.cloned().collect::<Vec<_>>(), "{filter}");
        }
    }

    #[test]
    fn a_look_leads_past_subtrees() {
        let check = |filter: &str, topic: &str, expected: Match| {
            assert_eq!(compare(filter, topic), expected, "{filter} {topic}");
        };
        let not_before = |text: &str| Match::NotBefore(text.to_owned());
        check("+/b", "a/b", Match::Yes);
        check("+/b", "a/a/a", not_before("a/b"));
        check("+/b/#", "a/b-c", not_before("a/b/"));
        check("+/b", "a/b-c", not_before("a0"));
        check("+/b", "a/c/d", not_before("a0"));
        check("+", "a/b", not_before("a0"));
        check("+/+/c", "a", Match::No);
        check("+/b/+/d", "a/b/c/e", not_before("a/b/c0"));
        check("a/#", "b", Match::NoMore);
        check("#", "$a", not_before("%"));
    }

    #[test]
    fn a_look_goes_on_behind_a_topic() {
        let retained = Retained::new(100, 100_000);
        for topic in ["a", "a-b", "a/b", "a/c", "b"] {
            retained.retain(&message(topic, "x"), Instant::now()).unwrap();
        }
        // In no order, as they are told.
        retained.set_system(["$SYS/up", "$SYS/a", "$SYS/z"].map(|topic| message(topic, "x")).into());
        let check = |filter: &str, behind, expected: &[&str]| {
            let found = retained.matching_behind(filter, behind, 2, Instant::now());
            assert_eq!(found.iter().map(|message| &*message.topic).collect::<Vec<_>>(), expected, "{filter}");
        };
        check("a/#", None, &["a", "a/b"]);
        check("a/#", Some("a/b"), &["a/c"]);
        check("a/#", Some("a/c"), &[]);
        check("#", Some("a/c"), &["b"]);
        check("a", Some("a"), &[]);
        check("$SYS/#", None, &["$SYS/up", "$SYS/a"]);
        check("$SYS/#", Some("$SYS/a"), &["$SYS/z"]);
        check("$SYS/#", Some("$SYS/gone"), &[]);
    }

    #[test]
    fn an_empty_payload_removes_and_a_new_one_replaces() {
        let retained = Retained::new(1, 1000);
        retained.retain(&message("a", "1"), Instant::now()).unwrap();
        retained.retain(&message("a", "2"), Instant::now()).unwrap();
        assert_eq!(&retained.matching("a", Instant::now())[0].payload[..], b"2");
        retained.retain(&message("a", ""), Instant::now()).unwrap();
        assert!(retained.is_empty());
        assert_eq!(retained.topics.read().bytes, 0);
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
    fn what_is_replaced_or_removed_expires_no_more() {
        let now = Instant::now();
        let retained = Retained::new(2, 100_000);
        for topic in ["a", "b"] {
            let expires = Some(now + Duration::from_secs(1));
            let short = Message { expires, ..Message::clone(&message(topic, "x")) };
            retained.retain(&Arc::new(short), now).unwrap();
        }
        retained.retain(&message("a", "y"), now).unwrap();
        retained.retain(&message("b", ""), now).unwrap();
        retained.retain(&message("b", "y"), now).unwrap();
        assert_eq!(retained.topics.read().expiring.len(), 0);
        let later = now + Duration::from_secs(1);
        assert_eq!(retained.retain(&message("c", "x"), later), Err(RetainedFull("mqtt.retained_max")));
        assert_eq!(topics(&retained, "#"), ["a", "b"]);
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
