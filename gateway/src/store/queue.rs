//! What waits for the writer thread.

use std::{
    mem,
    task::{Context, Poll, Waker},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{QueueFull, StoreError, Write};

/// Bound on the bytes that wait: a second of a slow disk. Beyond it the newest are refused, since what
/// waits was promised already.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that a change costs beside key and value.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// Called when what was written before is durable, or cannot be; not at all when the store ends first.
pub(super) type Barrier = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    bytes: usize,
    closed: bool,
    /// Who asked to be told that something waits; a writer on a thread sleeps on `changed` instead.
    watcher: Option<Waker>,
}

/// What becomes one transaction. Every barrier came after the changes that it stands for, and may wait
/// for later ones of its batch too.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) writes: Vec<Write>,
    pub(super) barriers: Vec<Barrier>,
}

impl Queue {
    pub(super) fn push(&self, write: Write) -> Result<(), QueueFull> {
        let mut waiting = self.waiting.lock();
        waiting.push(write)?;
        self.tell(waiting);
        Ok(())
    }

    /// All in one batch, or nothing.
    pub(super) fn push_all(&self, writes: Vec<Write>, barrier: Barrier) -> Result<(), QueueFull> {
        let mut waiting = self.waiting.lock();
        waiting.make_room(writes.iter().map(Write::bytes).sum())?;
        waiting.batch.writes.extend(writes);
        waiting.batch.barriers.push(barrier);
        self.tell(waiting);
        Ok(())
    }

    /// A change whose number its caller bounds.
    pub(super) fn push_unbounded(&self, write: Write) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += write.bytes();
        waiting.batch.writes.push(write);
        self.tell(waiting);
    }

    /// Changes whose number their caller bounds, in one batch.
    pub(super) fn push_all_unbounded(&self, writes: Vec<Write>, barrier: Barrier) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += writes.iter().map(Write::bytes).sum::<usize>();
        waiting.batch.writes.extend(writes);
        waiting.batch.barriers.push(barrier);
        self.tell(waiting);
    }

    /// The number of barriers is bounded by the tasks that await them.
    pub(super) fn push_barrier(&self, barrier: Barrier) {
        let mut waiting = self.waiting.lock();
        waiting.batch.barriers.push(barrier);
        self.tell(waiting);
    }

    /// No more is written after what waits now.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// Everything that waits, as soon as something does; `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.batch.is_empty() {
                waiting.bytes = 0;
                return Some(mem::take(&mut waiting.batch));
            }
            if waiting.closed {
                return None;
            }
            self.changed.wait(&mut waiting);
        }
    }
}

impl Queue {
    /// Everything that waits.
    pub(super) fn take_now(&self) -> Batch {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        mem::take(&mut waiting.batch)
    }

    /// Resolves when something waits. One task may ask.
    pub(super) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock();
        if !waiting.batch.is_empty() {
            return Poll::Ready(());
        }
        waiting.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    fn tell(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let watcher = waiting.watcher.take();
        drop(waiting);
        self.changed.notify_one();
        watcher.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    fn push(&mut self, write: Write) -> Result<(), QueueFull> {
        self.make_room(write.bytes())?;
        self.batch.writes.push(write);
        Ok(())
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), QueueFull> {
        if self.bytes + bytes > QUEUE_BYTES_MAX {
            return Err(QueueFull);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.barriers.is_empty()
    }
}

impl Write {
    fn bytes(&self) -> usize {
        WRITE_OVERHEAD_BYTES
            + match self {
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::Delete { key, .. } => key.len(),
                Self::DeleteRange { first, last, .. } => first.len() + last.len(),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Table;

    fn put(bytes: usize) -> Write {
        Write::Put { table: Table::Pushes, key: Vec::new(), value: vec![0; bytes - WRITE_OVERHEAD_BYTES] }
    }

    #[test]
    fn beyond_its_bytes_the_queue_refuses_until_the_writer_has_taken_it() {
        let queue = Queue::default();
        queue.push(put(QUEUE_BYTES_MAX - 64)).unwrap();
        assert_eq!(queue.push(put(65)), Err(QueueFull));
        queue.push(put(64)).unwrap();
        assert_eq!(queue.take().unwrap().writes.len(), 2);
        queue.push(put(65)).unwrap();
        queue.close();
        assert_eq!(queue.take().unwrap().writes.len(), 1);
        assert!(queue.take().is_none());
    }
}
