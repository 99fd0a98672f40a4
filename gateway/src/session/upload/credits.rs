//! What backends have taken, until it is given back to the sender.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of messages that backends have taken, to be given back to their senders as credit.
#[derive(Default)]
pub(crate) struct Credits {
    /// One entry for each request, so at most as many as run.
    due: Mutex<Vec<(u64, usize)>>,
    notify: Notify,
}

impl Credits {
    pub(crate) fn add(&self, seq: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut due = self.due.lock();
        match due.iter_mut().find(|(of, _)| *of == seq) {
            Some((_, sum)) => *sum += bytes,
            None => due.push((seq, bytes)),
        }
        drop(due);
        self.notify.notify_one();
    }

    /// What is due, which is none afterwards.
    pub(crate) fn take(&self) -> Vec<(u64, usize)> {
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
}
