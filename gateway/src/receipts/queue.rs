//! One queue: receipts in the order of their numbers, until they are taken or a bound is met.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::sync::Notify;

use super::{Progress, record};
use crate::{
    session::Clock,
    settings::Settings,
    store::{self, Store, Table, Write},
};

/// What all queues share.
pub(super) struct Shared {
    pub(super) bounds: ArcSwap<Bounds>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) limit_hits: IntCounterVec,
}

#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) queues_max: usize,
    receipts_max: usize,
    age_max: Duration,
}

/// One receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Counts up within the queue; numbers may be left out.
    pub number: u64,
    /// The backend's name of the push.
    pub push_id: Arc<str>,
    /// The client.
    pub client_id: Arc<str>,
    /// The number of [`Progress`] on the wire and in the store.
    pub state: u8,
    /// Why it was dropped; empty otherwise.
    pub reason: Arc<str>,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Receipts before this one that were given up for a bound.
    pub lost: u64,
}

/// A queue of receipts.
pub struct Queue {
    name: Arc<str>,
    shared: Arc<Shared>,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    receipts: VecDeque<Receipt>,
    number_last: u64,
    /// Given up since the last one that was added.
    lost: u64,
}

/// Receipts are numbered from the clock on, so that numbers do not come back after a restart although what was
/// taken left nothing in the store.
const NUMBERS_PER_MS: u64 = 1 << 10;

impl Queue {
    pub(super) fn new(name: Arc<str>, shared: Arc<Shared>) -> Self {
        Self { name, shared, waiting: Mutex::default(), changed: Notify::new() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first receipt behind `number`.
    pub fn after(&self, number: u64) -> Option<Receipt> {
        let waiting = self.waiting.lock();
        let index = waiting.receipts.partition_point(|receipt| receipt.number <= number);
        waiting.receipts.get(index).cloned()
    }

    /// Waits for the first receipt behind `number`. Safe to cancel.
    pub async fn next_after(&self, number: u64) -> Receipt {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(receipt) = self.after(number) {
                return receipt;
            }
            changed.await;
        }
    }

    /// The backend has taken all receipts up to `number`.
    pub fn taken(&self, number: u64) {
        let mut waiting = self.waiting.lock();
        let before = waiting.receipts.len();
        while waiting.receipts.front().is_some_and(|receipt| receipt.number <= number) {
            waiting.receipts.pop_front();
        }
        if waiting.receipts.len() < before {
            let key = |number| store::queue_key(&self.name, number);
            self.write(Write::DeleteRange { table: Table::Receipts, first: key(0), last: key(number) });
        }
        let room = 2 * waiting.receipts.len();
        waiting.receipts.shrink_to(room);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().receipts.is_empty()
    }

    /// The lock is held while the store's queue takes the receipt, so that both have them in one order.
    pub(super) fn add(&self, push_id: &Arc<str>, client_id: &str, progress: Progress) {
        let now = self.shared.clock.now();
        let mut waiting = self.waiting.lock();
        let unix_ms = self.shared.clock.unix_ms(now);
        waiting.number_last = (waiting.number_last + 1).max(unix_ms.saturating_mul(NUMBERS_PER_MS));
        self.keep_within_bounds(&mut waiting, now);
        let receipt = Receipt {
            number: waiting.number_last,
            push_id: push_id.clone(),
            client_id: client_id.into(),
            state: progress.number(),
            reason: progress.reason().into(),
            unix_ms,
            lost: mem::take(&mut waiting.lost),
        };
        let key = store::queue_key(&self.name, receipt.number);
        self.write(Write::Put { table: Table::Receipts, key, value: record::encode(&receipt) });
        waiting.receipts.push_back(receipt);
        drop(waiting);
        self.changed.notify_waiters();
    }

    pub(super) fn restore(&self, receipt: Receipt) {
        let mut waiting = self.waiting.lock();
        waiting.number_last = waiting.number_last.max(receipt.number);
        waiting.receipts.push_back(receipt);
    }

    /// Makes room for one more: gives up the oldest, which a backend that is gone would never take.
    fn keep_within_bounds(&self, waiting: &mut Waiting, now: Instant) {
        let bounds = **self.shared.bounds.load();
        let age_max_ms = u64::try_from(bounds.age_max.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = self.shared.clock.unix_ms(now).saturating_sub(age_max_ms);
        while let Some(oldest) = waiting.receipts.front() {
            let limit = match oldest {
                oldest if oldest.unix_ms < oldest_ms => "push.receipt_age_max",
                _ if waiting.receipts.len() >= bounds.receipts_max => "push.receipts_max",
                _ => return,
            };
            let (number, lost) = (oldest.number, oldest.lost + 1);
            waiting.receipts.pop_front();
            match waiting.receipts.front_mut() {
                Some(next) => next.lost += lost,
                None => waiting.lost += lost,
            }
            self.shared.limit_hit(limit);
            self.write(Write::Delete { table: Table::Receipts, key: store::queue_key(&self.name, number) });
        }
    }

    /// What the store's queue has no room for is told as long as this process lives.
    fn write(&self, write: Write) {
        if self.shared.store.write(write).is_err() {
            self.shared.limit_hit("store_queue_bytes");
        }
    }
}

impl Shared {
    pub(super) fn limit_hit(&self, limit: &'static str) {
        self.limit_hits.with_label_values(&[limit]).inc();
    }
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        let push = &settings.push;
        Self {
            queues_max: push.receipt_queues_max,
            receipts_max: push.receipts_max,
            age_max: push.receipt_age_max,
        }
    }
}

impl Progress {
    /// Receipt.State of push.proto.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Accepted => 1,
            Self::Sent => 2,
            Self::Acknowledged => 3,
            Self::Expired => 4,
            Self::Dropped(_) => 5,
            Self::Handed => 6,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Dropped(reason) => reason,
            _ => "",
        }
    }
}
