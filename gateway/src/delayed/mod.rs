//! Messages that are to be published later: `$delayed/<seconds>/<topic>`.
//!
//! They lie in the store, and in memory beside it, until they are due; then they go the way of any message with the
//! topic behind the seconds: to its route's backend, to its subscribers, among the retained ones. A crash in that moment
//! publishes one again rather than not at all.

mod record;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};

use self::record::Key;
use crate::{
    gateway::Gateway,
    hub::Message,
    mqtt,
    request::Origin,
    settings,
    store::{Store, StoreError, Table, Write},
};

/// Before the seconds.
const PREFIX: &str = "$delayed/";
/// Due messages that backends have at one time.
const RUNNING_MAX: usize = 64;
/// What a message costs beside its bytes.
const OVERHEAD_BYTES: usize = 256;

/// All delayed messages of one gateway.
pub struct Delayed {
    waiting: Mutex<Waiting>,
    changed: Notify,
    store: Store,
}

#[derive(Default)]
struct Waiting {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
    number_last: u64,
}

#[derive(Clone)]
struct Entry {
    origin: Arc<Origin>,
    message: Arc<Message>,
}

/// A bound was met, by its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub &'static str);

/// What a topic says of a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'t> {
    /// Nothing.
    Now,
    /// After so long, under this topic.
    After(Duration, &'t str),
    /// It begins like a delay and is none.
    Malformed,
}

/// Takes `$delayed/<seconds>/` off a topic.
pub fn parse(topic: &str) -> Parsed<'_> {
    let Some(rest) = topic.strip_prefix(PREFIX) else { return Parsed::Now };
    let parsed = rest.split_once('/').and_then(|(seconds, topic)| {
        let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = seconds.parse().ok().filter(|_| is_number && !topic.is_empty())?;
        Some(Parsed::After(Duration::from_secs(seconds), topic))
    });
    parsed.unwrap_or(Parsed::Malformed)
}

impl Delayed {
    /// Those that the store kept.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is not of this version.
    pub fn restore(store: &Store) -> Result<Self, StoreError> {
        let mut waiting = Waiting::default();
        for (key, value) in store.scan(Table::Delayed)? {
            let restored = record::parse_key(&key).zip(record::decode(&value));
            let (key, entry) =
                restored.ok_or_else(|| store.damaged("a delayed message's record is not of this version"))?;
            waiting.number_last = waiting.number_last.max(key.1);
            waiting.bytes += entry.bytes();
            waiting.entries.insert(key, entry);
        }
        Ok(Self { waiting: Mutex::new(waiting), changed: Notify::new(), store: store.clone() })
    }

    /// Keeps a message until it is due; it is durable behind the store's next barrier.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn push(
        &self,
        settings: &settings::Delayed,
        origin: &Arc<Origin>,
        message: &Arc<Message>,
        delay: Duration,
    ) -> Result<(), Full> {
        if delay > settings.delay_max {
            return Err(Full("delayed.delay_max"));
        }
        let entry = Entry { origin: origin.clone(), message: message.clone() };
        let mut waiting = self.waiting.lock();
        if waiting.entries.len() >= settings.messages_max {
            return Err(Full("delayed.messages_max"));
        }
        if waiting.bytes + entry.bytes() > settings.bytes_max {
            return Err(Full("delayed.bytes_max"));
        }
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let due_ms = mqtt::clock().unix_ms(mqtt::now()).saturating_add(delay_ms);
        let key = (due_ms, waiting.number_last + 1);
        let put = Write::Put { table: Table::Delayed, key: record::key(key), value: record::encode(&entry) };
        // Under the lock, so that the store has what memory has.
        self.store.write(put).map_err(|_| Full("store_queue_bytes"))?;
        waiting.number_last = key.1;
        waiting.bytes += entry.bytes();
        waiting.entries.insert(key, entry);
        let is_first = waiting.entries.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().entries.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn pop_due(&self, now: Instant) -> Option<(Key, Entry)> {
        let now_ms = mqtt::clock().unix_ms(now);
        let mut waiting = self.waiting.lock();
        let first = waiting.entries.first_entry().filter(|first| first.key().0 <= now_ms)?;
        let (key, entry) = first.remove_entry();
        waiting.bytes -= entry.bytes();
        Some((key, entry))
    }

    fn next(&self) -> Option<Instant> {
        let waiting = self.waiting.lock();
        waiting.entries.first_key_value().map(|((due_ms, _), _)| mqtt::clock().instant(*due_ms))
    }

    fn forget(&self, key: Key) {
        self.store.must_write(Write::Delete { table: Table::Delayed, key: record::key(key) });
    }
}

/// Publishes what is due, until the gateway drains: the rest is due at the next start.
pub(crate) async fn watch(gateway: Weak<Gateway>) {
    let Some(gateway) = gateway.upgrade() else { return };
    let mut drain = gateway.drain.watch();
    let mut running = JoinSet::new();
    loop {
        let room = running.len() < RUNNING_MAX;
        tokio::select! {
            _ = drain.draining() => break,
            () = gateway.delayed.changed.notified() => {}
            _ = running.join_next(), if !running.is_empty() => {}
            () = sleep_until(gateway.delayed.next()), if room => {
                if let Some((key, entry)) = gateway.delayed.pop_due(mqtt::now()) {
                    publish(&gateway, key, entry, &mut running);
                }
            }
        }
    }
    // What a backend has is finished.
    while running.join_next().await.is_some() {}
}

fn publish(gateway: &Arc<Gateway>, key: Key, entry: Entry, running: &mut JoinSet<()>) {
    let Entry { origin, message } = entry;
    if message.expires.is_some_and(|at| at <= mqtt::now()) {
        gateway.delayed.forget(key);
        return;
    }
    mqtt::publish_here(gateway, &message);
    if !mqtt::has_route(gateway, &origin, &message.topic) {
        gateway.delayed.forget(key);
        return;
    }
    let gateway = gateway.clone();
    running.spawn(async move {
        // What a backend does not take is counted there, and kept if its route says so.
        mqtt::forward_only(&gateway, &origin, &message).await;
        gateway.delayed.forget(key);
    });
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let pairs = self.message.user_properties.iter().map(|(name, value)| name.len() + value.len());
        OVERHEAD_BYTES + self.message.topic.len() + self.message.payload.len() + pairs.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_taken_off_its_topic() {
        let after = |seconds, topic| Parsed::After(Duration::from_secs(seconds), topic);
        for (topic, expected) in [
            ("a/b", Parsed::Now),
            ("$delayed", Parsed::Now),
            ("$delayed/15/x/y", after(15, "x/y")),
            ("$delayed/0/x", after(0, "x")),
            ("$delayed/60//a", after(60, "/a")),
            ("$delayed/15", Parsed::Malformed),
            ("$delayed/15/", Parsed::Malformed),
            ("$delayed/+1/x", Parsed::Malformed),
            ("$delayed/soon/x", Parsed::Malformed),
            ("$delayed//x", Parsed::Malformed),
            ("$delayed/99999999999999999999999/x", Parsed::Malformed),
        ] {
            assert_eq!(parse(topic), expected, "{topic}");
        }
    }
}
