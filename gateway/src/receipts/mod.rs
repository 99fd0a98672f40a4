//! What backends are told of their pushes: queues of receipts, kept in the store until they are taken.
//!
//! ```text
//!  Push with `receipts` --> Ticket, which travels with the message --> note --> Queue --> stream of Receipts
//!                                                                        |        ^
//!                                                                        v        | taken: forgotten
//!                                                                      store ------ at the start
//! ```
//!
//! A receipt is told at least once: a restart between the client's acknowledgement and the store's next write
//! lets the client acknowledge again.

mod queue;
mod record;
#[cfg(test)]
mod tests;

use std::{fmt, str, sync::Arc};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use prometheus::IntCounterVec;

use self::queue::{Bounds, Shared};
pub use self::queue::{Queue, Receipt};
use crate::{
    metrics::Metrics,
    session::Clock,
    settings::Settings,
    store::{self, Store, StoreError, Table},
};

/// All queues of receipts. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Receipts {
    queues: Arc<DashMap<Arc<str>, Arc<Queue>>>,
    shared: Arc<Shared>,
}

/// What became of a push for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its session, or its live connection, has it.
    Accepted,
    /// It was handed to a connection.
    Sent,
    /// The client has taken it.
    Acknowledged,
    /// An MQTT session has it; what becomes of it there is not followed.
    Handed,
    /// Its time to live was over before.
    Expired,
    /// It was given up; why.
    Dropped(&'static str),
}

/// Travels with a message whose backend wants receipts.
pub struct Ticket {
    queue: Arc<Queue>,
    push_id: Arc<str>,
    /// Whether what is not final is told, too.
    all: bool,
}

/// Longest name of a queue, and of a push.
pub const NAME_BYTES_MAX: usize = 128;

/// `push.receipt_queues_max` is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more queues of receipts are kept (push.receipt_queues_max)")]
pub struct QueuesFull;

impl Receipts {
    /// Brings back the receipts that nobody has taken.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is not of this version.
    pub fn restore(
        settings: &Settings,
        store: Store,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let stored = store.scan(Table::Receipts)?;
        let limit_hits: IntCounterVec = metrics.limit_hits.clone();
        let bounds = ArcSwap::from_pointee(Bounds::of(settings));
        let receipts =
            Self { queues: Arc::default(), shared: Arc::new(Shared { bounds, store, clock, limit_hits }) };
        for (key, value) in stored {
            receipts
                .restore_one(&key, &value)
                .ok_or_else(|| receipts.shared.store.damaged("a receipt's record is not of this version"))?;
        }
        Ok(receipts)
    }

    /// Follows a reload.
    pub fn follow(&self, settings: &Settings) {
        self.shared.bounds.store(Arc::new(Bounds::of(settings)));
    }

    /// A ticket for the push that its backend calls `push_id`.
    ///
    /// # Errors
    /// A queue of that name would be one too many.
    pub fn ticket(&self, queue: &str, push_id: &str, all: bool) -> Result<Ticket, QueuesFull> {
        Ok(Ticket { queue: self.queue(queue)?, push_id: push_id.into(), all })
    }

    /// A ticket as it was before a restart, whatever the bound is now.
    pub(crate) fn restored_ticket(&self, queue: &str, push_id: Arc<str>, all: bool) -> Ticket {
        Ticket { queue: self.make(queue), push_id, all }
    }

    /// The queue of this name, which is made when it is first asked for.
    ///
    /// # Errors
    /// It would be one too many.
    pub fn queue(&self, name: &str) -> Result<Arc<Queue>, QueuesFull> {
        if let Some(queue) = self.queues.get(name) {
            return Ok(queue.clone());
        }
        if self.queues.len() >= self.shared.bounds.load().queues_max {
            self.forget_empty();
        }
        if self.queues.len() >= self.shared.bounds.load().queues_max {
            self.shared.limit_hit("push.receipt_queues_max");
            return Err(QueuesFull);
        }
        Ok(self.make(name))
    }

    fn make(&self, name: &str) -> Arc<Queue> {
        let made = || Arc::new(Queue::new(name.into(), self.shared.clone()));
        self.queues.entry(name.into()).or_insert_with(made).clone()
    }

    /// Forgets queues in which nothing waits and which nobody uses.
    fn forget_empty(&self) {
        self.queues.retain(|_, queue| Arc::strong_count(queue) > 1 || !queue.is_empty());
    }

    /// The bound on queues may have been lowered; what the store holds is told anyway.
    fn restore_one(&self, key: &[u8], value: &[u8]) -> Option<()> {
        let (name, number) = store::parse_queue_key(key)?;
        let receipt = record::decode(number, value)?;
        self.make(name).restore(receipt);
        Some(())
    }
}

impl Ticket {
    /// Tells the backend what became of the push for this client.
    pub fn note(&self, client_id: &str, progress: Progress) {
        let is_final = !matches!(progress, Progress::Accepted | Progress::Sent);
        if is_final || self.all {
            self.queue.add(&self.push_id, client_id, progress);
        }
    }

    /// Name of the queue, the backend's name of the push, and whether what is not final is told, too.
    pub fn parts(&self) -> (&str, &str, bool) {
        (self.queue.name(), &self.push_id, self.all)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.parts()).finish()
    }
}
