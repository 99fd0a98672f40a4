//! Messages that wait for somebody who takes them in order: what an upstream broker is still to get, and what a
//! backend would not take. They lie in the store, and the first of them in memory, too (waiting.rs).
//!
//! ```text
//!  push --> waiting, store --> (barrier: it is durable) --> next_after --> remove
//!             | bounds: count, bytes, age
//!             v
//!           dropped, or refused
//! ```

mod record;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use self::waiting::{Gone, READ_AHEAD, Waiting};
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
    /// The store has what was to be kept up to this number.
    written: Arc<AtomicU64>,
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
const NOT_THIS_VERSION: &str = "a queued message's record is not of this version";
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
        let mut first = Vec::new();
        loop {
            let entries = store.scan_some(Table::Outbox, &first, &[u8::MAX], READ_AHEAD)?;
            let Some((last, _)) = entries.last() else { break };
            // The key that comes next.
            first = [&last[..], &[0]].concat();
            for (key, value) in &entries {
                let restored = store::parse_queue_key(key)
                    .and_then(|(name, number)| Some((name, record::decode(number, value)?)));
                let (name, letter) = restored.ok_or_else(|| store.damaged(NOT_THIS_VERSION))?;
                outboxes.get(name).restore(letter);
            }
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
        let (waiting, written) = (Mutex::default(), Arc::default());
        Self { name, store, bounds, waiting, written, changed: Notify::new(), counters }
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
        let cost = cost(&message);
        let mut waiting = self.waiting.lock();
        waiting.settle(self.written.load(Ordering::Acquire));
        self.make_room(&mut waiting, cost, now)?;
        // What memory has no room for goes to the store, whatever its quality.
        let is_stored = is_stored || waiting.is_window_full();
        let (number, since_ms) = (waiting.next_number(), mqtt::clock().unix_ms(now));
        let letter = Letter { number, since_ms, message, user, reason, is_stored };
        if is_stored {
            // Under the lock, so that the store has what memory has.
            self.store_letter(&letter)?;
        }
        waiting.push(letter, cost);
        drop(waiting);
        self.counters.queued.inc();
        self.counters.waiting.inc();
        self.changed.notify_waiters();
        Ok(())
    }

    fn store_letter(&self, letter: &Letter) -> Result<(), Full> {
        let (number, written) = (letter.number, Arc::clone(&self.written));
        let put = Write::Put { table: Table::Outbox, key: self.key(number), value: record::encode(letter) };
        let note = move |stored: Result<(), StoreError>| {
            if stored.is_ok() {
                written.fetch_max(number, Ordering::AcqRel);
            }
        };
        self.store.write_all(vec![put], note).map_err(|_| self.refused("store_queue_bytes"))
    }

    /// The first message behind `number` that is still worth taking. Reads it from the store where it is not in memory.
    pub fn after(&self, number: u64) -> Option<Letter> {
        let now = mqtt::now();
        loop {
            let missing = {
                let mut waiting = self.waiting.lock();
                waiting.settle(self.written.load(Ordering::Acquire));
                self.drop_overdue(&mut waiting, now);
                let index = waiting.index_after(number);
                match waiting.letter_at(index) {
                    Some(letter) if letter.message.expires.is_none_or(|at| at > now) => return Some(letter),
                    Some(_) => {
                        self.drop_at(&mut waiting, index);
                        continue;
                    }
                    None => waiting.number_at(index)?,
                }
            };
            self.read_ahead(missing)?;
        }
    }

    /// Reads messages from that one on, which stands in the store alone. `None` if the store cannot be read.
    fn read_ahead(&self, number: u64) -> Option<()> {
        let letters = self.read(number, u64::MAX, READ_AHEAD)?;
        let mut waiting = self.waiting.lock();
        if letters.first().is_none_or(|letter| letter.number != number)
            && let Some(index) = waiting.index_of(number)
        {
            tracing::error!(queue = %self.name, number, "a queued message is not in the store, or damaged");
            self.drop_at(&mut waiting, index);
        }
        waiting.fill(letters);
        Some(())
    }

    /// Up to `most` messages as the store has them. Some may have left the queue.
    fn read(&self, first: u64, last: u64, most: usize) -> Option<Vec<Letter>> {
        let read = self.store.scan_some(Table::Outbox, &self.key(first), &self.key(last), most);
        let entries = read
            .inspect_err(
                |error| tracing::error!(queue = %self.name, %error, "queued messages cannot be read"),
            )
            .ok()?;
        let letter =
            |(key, value): &(Vec<u8>, Vec<u8>)| record::decode(store::parse_queue_key(key)?.1, value);
        Some(entries.iter().filter_map(letter).collect())
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

    /// The message was taken. Says whether it was still there.
    pub fn remove(&self, number: u64) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(index) = waiting.index_of(number) else { return false };
        let is_removed = self.take_at(&mut waiting, index);
        self.counters.taken.inc_by(is_removed.into());
        is_removed
    }

    /// Gives up the messages behind `number`, `most` of them at the most. Says how many.
    pub fn purge(&self, number: u64, most: usize) -> usize {
        let mut waiting = self.waiting.lock();
        let index = waiting.index_after(number);
        let count = (waiting.len() - index).min(most);
        for _ in 0..count {
            self.take_at(&mut waiting, index);
        }
        self.counters.taken.inc_by(count as u64);
        count
    }

    /// Up to `most` messages from behind `number` on, for an operator to look at.
    pub fn list(&self, number: u64, most: usize) -> Vec<Letter> {
        let (mut letters, missing) = {
            let mut waiting = self.waiting.lock();
            waiting.settle(self.written.load(Ordering::Acquire));
            self.drop_overdue(&mut waiting, mqtt::now());
            let first = waiting.index_after(number);
            let range = first..waiting.len().min(first.saturating_add(most));
            let letters: Vec<_> = range.clone().filter_map(|index| waiting.letter_at(index)).collect();
            let mut missing = range.filter(|index| waiting.letter_at(*index).is_none());
            let bounds = missing.next().map(|first| (first, missing.next_back().unwrap_or(first)));
            let number_at = |index| waiting.number_at(index).unwrap_or_default();
            (letters, bounds.map(|(first, last)| (number_at(first), number_at(last))))
        };
        let Some((first, last)) = missing else { return letters };
        let read = self.read(first, last, usize::MAX).unwrap_or_default();
        let waiting = self.waiting.lock();
        letters.extend(read.into_iter().filter(|letter| waiting.is_in_store_alone(letter.number)));
        drop(waiting);
        letters.sort_by_key(|letter| letter.number);
        letters
    }

    /// Messages and bytes that wait.
    pub fn size(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.len(), waiting.bytes())
    }

    fn restore(&self, letter: Letter) {
        let (number, cost) = (letter.number, cost(&letter.message));
        let mut waiting = self.waiting.lock();
        waiting.push(letter, cost);
        self.written.fetch_max(number, Ordering::AcqRel);
        waiting.settle(number);
        self.counters.waiting.inc();
    }

    fn make_room(&self, waiting: &mut Waiting, bytes: usize, now: Instant) -> Result<(), Full> {
        let (bounds, names) = **self.bounds.load();
        self.drop_overdue(waiting, now);
        loop {
            let limit = match () {
                () if waiting.len() >= bounds.count_max => names.count,
                () if waiting.bytes().saturating_add(bytes) > bounds.bytes_max => names.bytes,
                () => return Ok(()),
            };
            if bounds.policy == DropPolicy::Newest || waiting.is_empty() {
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
        while waiting.first_since_ms().is_some_and(|since_ms| since_ms < oldest_ms) {
            self.hit(names.age);
            self.drop_at(waiting, 0);
        }
    }

    fn drop_at(&self, waiting: &mut Waiting, index: usize) {
        if self.take_at(waiting, index) {
            self.counters.dropped.inc();
        }
    }

    fn take_at(&self, waiting: &mut Waiting, index: usize) -> bool {
        let Some(Gone { number, is_stored }) = waiting.take(index) else { return false };
        if is_stored {
            self.store.must_write(Write::Delete { table: Table::Outbox, key: self.key(number) });
        }
        self.counters.waiting.dec();
        true
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
