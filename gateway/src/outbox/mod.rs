//! Messages that wait for somebody who takes them in order: what an upstream broker is still to get, and what a
//! backend would not take. They lie in the store, and in memory beside it, within one bound for both.
//!
//! ```text
//!  push --> waiting, store --> (barrier: it is durable) --> next_after --> remove
//!             | bounds: count, bytes, age
//!             v
//!           dropped, or refused
//! ```

mod record;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use crate::{
    hub::Message,
    metrics::Metrics,
    mqtt,
    settings::{DropPolicy, QueueBounds},
    store::{self, Store, StoreError, Table, Write},
};

/// All queues of one gateway.
pub struct Outboxes {
    boxes: DashMap<Arc<str>, Arc<Outbox>>,
    store: Store,
    metrics: Handles,
}

/// One queue.
pub struct Outbox {
    name: Arc<str>,
    store: Store,
    bounds: ArcSwap<(QueueBounds, &'static Names)>,
    waiting: Mutex<Waiting>,
    changed: Notify,
    counters: Counters,
}

/// One message that waits.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Counts up within the queue.
    pub number: u64,
    /// Since when it waits, in milliseconds since 1970.
    pub since_ms: u64,
    /// The message.
    pub message: Arc<Message>,
    /// The user who published it.
    pub user: Option<Arc<str>>,
    /// Why it is here, if not for the first time.
    pub reason: Option<Arc<str>>,
    is_stored: bool,
}

/// What the bounds of a queue are called in metrics.
#[derive(Debug)]
pub struct Names {
    /// Messages.
    pub count: &'static str,
    /// Bytes.
    pub bytes: &'static str,
    /// Age.
    pub age: &'static str,
}

/// There is no room: a bound's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full ({0})")]
pub struct Full(pub &'static str);

#[derive(Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    bytes: usize,
    number_last: u64,
}

#[derive(Clone)]
struct Handles {
    letters: prometheus::IntCounterVec,
    waiting: prometheus::IntGaugeVec,
    limit_hits: prometheus::IntCounterVec,
}

struct Counters {
    queued: IntCounter,
    taken: IntCounter,
    dropped: IntCounter,
    refused: IntCounter,
    waiting: IntGauge,
    limit_hits: prometheus::IntCounterVec,
}

/// Until a queue's owner says: what was kept over a restart must not go by bounds that are not its own.
const UNBOUNDED: QueueBounds = QueueBounds {
    count_max: usize::MAX,
    bytes_max: usize::MAX,
    age_max: Duration::ZERO,
    policy: DropPolicy::Newest,
};
static UNNAMED: Names = Names { count: "outbox_max", bytes: "outbox_bytes_max", age: "outbox_age_max" };
/// What a message costs beside its bytes.
const OVERHEAD_BYTES: usize = 128;

impl Outboxes {
    /// The queues that the store kept.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is not of this version.
    pub fn restore(store: &Store, metrics: &Metrics) -> Result<Self, StoreError> {
        let metrics = Handles {
            letters: metrics.outbox_letters.clone(),
            waiting: metrics.outbox_waiting.clone(),
            limit_hits: metrics.limit_hits.clone(),
        };
        let outboxes = Self { boxes: DashMap::new(), store: store.clone(), metrics };
        for (key, value) in store.scan(Table::Outbox)? {
            let restored = store::parse_queue_key(&key)
                .and_then(|(name, number)| Some((name, record::decode(number, &value)?)));
            let (name, letter) =
                restored.ok_or_else(|| store.damaged("a queued message's record is not of this version"))?;
            outboxes.get(name).restore(letter);
        }
        Ok(outboxes)
    }

    /// The queue of this name. Names are the configuration's, so their number is bounded.
    pub fn get(&self, name: &str) -> Arc<Outbox> {
        if let Some(outbox) = self.boxes.get(name) {
            return outbox.clone();
        }
        let make = || Arc::new(Outbox::new(name.into(), self.store.clone(), &self.metrics));
        self.boxes.entry(name.into()).or_insert_with(make).clone()
    }

    /// Every queue, by name.
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        let mut all: Vec<_> = self.boxes.iter().map(|outbox| outbox.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

impl Outbox {
    fn new(name: Arc<str>, store: Store, metrics: &Handles) -> Self {
        let counters = Counters::new(metrics, &name);
        let bounds = ArcSwap::from_pointee((UNBOUNDED, &UNNAMED));
        Self { name, store, bounds, waiting: Mutex::default(), changed: Notify::new(), counters }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bounds from now on, and what they are called. What is above them goes when something comes.
    pub fn set_bounds(&self, bounds: QueueBounds, names: &'static Names) {
        self.bounds.store(Arc::new((bounds, names)));
    }

    /// Queues a message; it is durable behind the store's next barrier, unless it is not to be stored.
    ///
    /// # Errors
    /// There is no room; nothing has changed but for what had waited too long.
    pub fn push(
        &self,
        message: Arc<Message>,
        user: Option<Arc<str>>,
        reason: Option<Arc<str>>,
        is_stored: bool,
    ) -> Result<(), Full> {
        let now = mqtt::now();
        let mut waiting = self.waiting.lock();
        self.make_room(&mut waiting, cost(&message), now)?;
        let (number, since_ms) = (waiting.number_last + 1, mqtt::clock().unix_ms(now));
        let letter = Letter { number, since_ms, message, user, reason, is_stored };
        if is_stored {
            let put =
                Write::Put { table: Table::Outbox, key: self.key(number), value: record::encode(&letter) };
            // Under the lock, so that the store has what memory has.
            self.store.write(put).map_err(|_| self.refused("store_queue_bytes"))?;
        }
        waiting.number_last = number;
        waiting.bytes += cost(&letter.message);
        waiting.letters.push_back(letter);
        drop(waiting);
        self.counters.queued.inc();
        self.counters.waiting.inc();
        self.changed.notify_waiters();
        Ok(())
    }

    /// The first message behind `number` that is still worth taking.
    pub fn after(&self, number: u64) -> Option<Letter> {
        let now = mqtt::now();
        let mut waiting = self.waiting.lock();
        self.drop_overdue(&mut waiting, now);
        loop {
            let index = waiting.letters.partition_point(|letter| letter.number <= number);
            let letter = waiting.letters.get(index)?;
            if letter.message.expires.is_none_or(|at| at > now) {
                return Some(letter.clone());
            }
            self.drop_at(&mut waiting, index);
        }
    }

    /// Waits for the first message behind `number`. Safe to cancel.
    pub async fn next_after(&self, number: u64) -> Letter {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(letter) = self.after(number) {
                return letter;
            }
            changed.await;
        }
    }

    /// The message was taken.
    pub fn remove(&self, number: u64) -> Option<Letter> {
        let mut waiting = self.waiting.lock();
        let index = waiting.letters.binary_search_by_key(&number, |letter| letter.number).ok()?;
        let letter = self.take_at(&mut waiting, index)?;
        self.counters.taken.inc();
        Some(letter)
    }

    /// Up to `most` messages from behind `number` on, for an operator to look at.
    pub fn list(&self, number: u64, most: usize) -> Vec<Letter> {
        let mut waiting = self.waiting.lock();
        self.drop_overdue(&mut waiting, mqtt::now());
        let index = waiting.letters.partition_point(|letter| letter.number <= number);
        waiting.letters.range(index..).take(most).cloned().collect()
    }

    /// Messages and bytes that wait.
    pub fn size(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.letters.len(), waiting.bytes)
    }

    fn restore(&self, letter: Letter) {
        let mut waiting = self.waiting.lock();
        waiting.number_last = waiting.number_last.max(letter.number);
        waiting.bytes += cost(&letter.message);
        waiting.letters.push_back(letter);
        self.counters.waiting.inc();
    }

    fn make_room(&self, waiting: &mut Waiting, bytes: usize, now: Instant) -> Result<(), Full> {
        let (bounds, names) = **self.bounds.load();
        self.drop_overdue(waiting, now);
        loop {
            let limit = match () {
                () if waiting.letters.len() >= bounds.count_max => names.count,
                () if waiting.bytes.saturating_add(bytes) > bounds.bytes_max => names.bytes,
                () => return Ok(()),
            };
            if bounds.policy == DropPolicy::Newest || waiting.letters.is_empty() {
                return Err(self.refused(limit));
            }
            self.hit(limit);
            self.drop_at(waiting, 0);
        }
    }

    fn drop_overdue(&self, waiting: &mut Waiting, now: Instant) {
        let (QueueBounds { age_max, .. }, names) = **self.bounds.load();
        if age_max == Duration::ZERO {
            return;
        }
        let age_max_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = mqtt::clock().unix_ms(now).saturating_sub(age_max_ms);
        while waiting.letters.front().is_some_and(|letter| letter.since_ms < oldest_ms) {
            self.hit(names.age);
            self.drop_at(waiting, 0);
        }
    }

    fn drop_at(&self, waiting: &mut Waiting, index: usize) {
        if self.take_at(waiting, index).is_some() {
            self.counters.dropped.inc();
        }
    }

    fn take_at(&self, waiting: &mut Waiting, index: usize) -> Option<Letter> {
        let letter = waiting.letters.remove(index)?;
        waiting.bytes -= cost(&letter.message);
        if letter.is_stored {
            self.store.must_write(Write::Delete { table: Table::Outbox, key: self.key(letter.number) });
        }
        if waiting.letters.is_empty() {
            waiting.letters = VecDeque::new();
        }
        self.counters.waiting.dec();
        Some(letter)
    }

    fn key(&self, number: u64) -> Vec<u8> {
        store::queue_key(&self.name, number)
    }

    fn refused(&self, limit: &'static str) -> Full {
        self.hit(limit);
        self.counters.refused.inc();
        Full(limit)
    }

    fn hit(&self, limit: &'static str) {
        self.counters.limit_hits.with_label_values(&[limit]).inc();
    }
}

impl Counters {
    fn new(metrics: &Handles, queue: &str) -> Self {
        let letters = |outcome| metrics.letters.with_label_values(&[queue, outcome]);
        Self {
            queued: letters("queued"),
            taken: letters("taken"),
            dropped: letters("dropped"),
            refused: letters("refused"),
            waiting: metrics.waiting.with_label_values(&[queue]),
            limit_hits: metrics.limit_hits.clone(),
        }
    }
}

fn cost(message: &Message) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let pairs: usize = message.user_properties.iter().map(|(name, value)| name.len() + value.len()).sum();
    OVERHEAD_BYTES
        + message.topic.len()
        + message.payload.len()
        + text(&message.content_type)
        + text(&message.response_topic)
        + message.correlation_data.as_ref().map_or(0, bytes::Bytes::len)
        + pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, Writer};

    static NAMES: Names = Names { count: "c", bytes: "b", age: "a" };

    fn bounds(count_max: usize, policy: DropPolicy) -> QueueBounds {
        let age_max = Duration::from_secs(10);
        QueueBounds { count_max, bytes_max: 1 << 20, age_max, policy }
    }

    fn open(memory: &Memory, count_max: usize, policy: DropPolicy) -> (Arc<Outbox>, Writer) {
        let (store, writer) = Store::by_hand(memory);
        let outbox = Outboxes::restore(&store, &Metrics::new()).unwrap().get("q");
        outbox.set_bounds(bounds(count_max, policy), &NAMES);
        (outbox, writer)
    }

    fn push(outbox: &Outbox, payload: &str) -> Result<(), Full> {
        let payload = payload.to_owned().into();
        let message = Message { topic: "t".into(), payload, qos: 1, ..Message::default() };
        outbox.push(Arc::new(message), None, None, true)
    }

    fn payloads(outbox: &Outbox) -> Vec<String> {
        let text = |letter: Letter| String::from_utf8(letter.message.payload.to_vec()).unwrap();
        outbox.list(0, 100).into_iter().map(text).collect()
    }

    #[tokio::test]
    async fn what_was_written_is_back_in_order_and_what_was_taken_is_not() {
        let memory = Memory::new().unwrap();
        let (outbox, writer) = open(&memory, 10, DropPolicy::Newest);
        for payload in ["1", "2", "3"] {
            push(&outbox, payload).unwrap();
        }
        writer.write();
        outbox.remove(2);
        writer.write();
        push(&outbox, "4").unwrap();
        drop((outbox, writer));
        let (outbox, _writer) = open(&memory, 10, DropPolicy::Newest);
        assert_eq!(payloads(&outbox), ["1", "3"]);
        assert_eq!(outbox.next_after(1).await.number, 3);
    }

    #[tokio::test]
    async fn the_policy_says_what_goes_when_it_is_full() {
        let memory = Memory::new().unwrap();
        let (outbox, _writer) = open(&memory, 2, DropPolicy::Newest);
        push(&outbox, "1").unwrap();
        push(&outbox, "2").unwrap();
        assert_eq!(push(&outbox, "3"), Err(Full("c")));
        assert_eq!(payloads(&outbox), ["1", "2"]);
        outbox.set_bounds(bounds(2, DropPolicy::Oldest), &NAMES);
        push(&outbox, "3").unwrap();
        assert_eq!(payloads(&outbox), ["2", "3"]);
        assert_eq!(outbox.counters.dropped.get(), 1);
    }

    #[tokio::test]
    async fn a_message_larger_than_the_queue_is_refused_whatever_the_policy() {
        let (outbox, _writer) = open(&Memory::new().unwrap(), 2, DropPolicy::Oldest);
        assert_eq!(push(&outbox, &"x".repeat(2 << 20)), Err(Full("b")));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_before_the_owner_has_said_what_may() {
        let (store, _writer) = Store::by_hand(&Memory::new().unwrap());
        let outbox = Outboxes::restore(&store, &Metrics::new()).unwrap().get("q");
        push(&outbox, "1").unwrap();
        tokio::time::advance(Duration::from_secs(400 * 86_400)).await;
        assert_eq!(payloads(&outbox), ["1"]);
        outbox.set_bounds(bounds(9, DropPolicy::Newest), &NAMES);
        assert!(payloads(&outbox).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_is_given_up() {
        let (outbox, _writer) = open(&Memory::new().unwrap(), 9, DropPolicy::Newest);
        push(&outbox, "1").unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        push(&outbox, "2").unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(payloads(&outbox), ["2"]);
        assert_eq!(outbox.counters.waiting.get(), 1);
    }
}
