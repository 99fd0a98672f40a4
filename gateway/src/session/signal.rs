//! How a session tells the task of its connection that there is something to do.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What the task of a connection is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The exchange with this sequence number has parts to send.
    Ready(u64),
    /// There are pushes to send.
    Pushes,
    /// The connection no longer owns the session; say why and close.
    Revoked(Revoked),
}

/// Why a connection lost its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A newer connection of the same client took it over.
    TakenOver,
    /// The session was ended.
    Ended,
}

/// Shared by a session and the one connection that it is attached to.
#[derive(Default)]
pub(super) struct Signal {
    pending: Mutex<Pending>,
    notify: Notify,
}

#[derive(Default)]
struct Pending {
    /// Each request stands here at most once, so the list is bounded by those that run or are kept.
    ready: VecDeque<u64>,
    pushes: bool,
    revoked: Option<Revoked>,
}

impl Signal {
    pub(super) fn ready(&self, seq: u64) {
        let mut pending = self.pending.lock();
        if !pending.ready.contains(&seq) {
            pending.ready.push_back(seq);
            self.notify.notify_one();
        }
    }

    pub(super) fn pushes(&self) {
        if !std::mem::replace(&mut self.pending.lock().pushes, true) {
            self.notify.notify_one();
        }
    }

    pub(super) fn revoke(&self, why: Revoked) {
        self.pending.lock().revoked.get_or_insert(why);
        self.notify.notify_one();
    }

    pub(super) fn revoked(&self) -> Option<Revoked> {
        self.pending.lock().revoked
    }

    /// The next event, or `None` when there is nothing to do. A revocation stays and comes first.
    pub(super) fn poll(&self) -> Option<SessionEvent> {
        let mut pending = self.pending.lock();
        if let Some(why) = pending.revoked {
            return Some(SessionEvent::Revoked(why));
        }
        if std::mem::take(&mut pending.pushes) {
            return Some(SessionEvent::Pushes);
        }
        pending.ready.pop_front().map(SessionEvent::Ready)
    }

    /// Waits for the next event. Safe to cancel.
    pub(super) async fn next(&self) -> SessionEvent {
        loop {
            if let Some(event) = self.poll() {
                return event;
            }
            self.notify.notified().await;
        }
    }
}
