//! What backends have taken, until it is given back to the sender.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of messages that backends have taken, to be given back to their senders as credit.
#[derive(Default)]
pub(crate) struct Credits {
    due: Mutex<TakenBytes>,
    notify: Notify,
}

#[derive(Default)]
pub(crate) struct TakenBytes {
    /// One entry for each request, so at most as many as run.
    pub(crate) taken: Vec<(u64, usize)>,
    /// Those of `taken` that stay in memory.
    pub(crate) kept: usize,
    /// Those that were kept and are not any more.
    pub(crate) let_go: usize,
}

impl Credits {
    pub(crate) fn add(&self, seq: u64, bytes: usize) {
        if bytes > 0 {
            self.change(|due| due.add(seq, bytes));
        }
    }

    /// As [`Credits::add`], of bytes that stay in memory until [`Credits::let_go`].
    pub(super) fn add_kept(&self, seq: u64, bytes: usize) {
        self.change(|due| {
            due.add(seq, bytes);
            due.kept += bytes;
        });
    }

    pub(super) fn let_go(&self, bytes: usize) {
        self.change(|due| due.let_go += bytes);
    }

    /// What is due, which is none afterwards.
    pub(crate) fn take(&self) -> TakenBytes {
        std::mem::take(&mut *self.due.lock())
    }

    /// Waits until something is due. Safe to cancel.
    pub(crate) async fn changed(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.due.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut TakenBytes)) {
        change(&mut self.due.lock());
        self.notify.notify_one();
    }
}

impl TakenBytes {
    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.let_go == 0
    }

    fn add(&mut self, seq: u64, bytes: usize) {
        match self.taken.iter_mut().find(|(of, _)| *of == seq) {
            Some((_, sum)) => *sum += bytes,
            None => self.taken.push((seq, bytes)),
        }
    }
}
