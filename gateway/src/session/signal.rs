//! How a session tells the task of its connection that there is something to do.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

use parking_lot::{Mutex, MutexGuard};

use crate::request::Origin;

/// What the task of a connection is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The exchange with this sequence number has parts to send.
    Ready(u64),
    /// There are pushes to send.
    Pushes,
    /// The client's policy may be another one.
    Policy,
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
    /// What vouched for the client is withdrawn: it may come back and be looked at anew.
    Unproven,
}

/// Shared by a session and the one connection that it is attached to.
#[derive(Default)]
pub(super) struct Signal {
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// Each request stands here at most once, so the list is bounded by those that run or are kept. Boxed,
    /// and given back when the connection parks.
    #[allow(clippy::box_collection, reason = "three words less for each idle connection")]
    ready: Option<Box<VecDeque<u64>>>,
    pushes: bool,
    policy: bool,
    revoked: Option<Revoked>,
    /// Where the connection came from, and what vouches for its client.
    origin: Option<Arc<Origin>>,
    /// Of the task that drives the connection, or of its place in the parking lot.
    waker: Option<Waker>,
}

impl Signal {
    pub(super) fn ready(&self, seq: u64) {
        let mut pending = self.pending.lock();
        let ready = pending.ready.get_or_insert_default();
        if !ready.contains(&seq) {
            ready.push_back(seq);
            wake(pending);
        }
    }

    pub(super) fn pushes(&self) {
        let mut pending = self.pending.lock();
        if !std::mem::replace(&mut pending.pushes, true) {
            wake(pending);
        }
    }

    pub(super) fn policy(&self) {
        let mut pending = self.pending.lock();
        if !std::mem::replace(&mut pending.policy, true) {
            wake(pending);
        }
    }

    pub(super) fn revoke(&self, why: Revoked) {
        let mut pending = self.pending.lock();
        pending.revoked.get_or_insert(why);
        wake(pending);
    }

    pub(super) fn vouch(&self, origin: &Arc<Origin>) {
        self.pending.lock().origin = Some(Arc::clone(origin));
    }

    /// Whether `concerns` says it of where the connection came from.
    pub(super) fn is_meant(&self, concerns: &dyn Fn(&Origin) -> bool) -> bool {
        self.pending.lock().origin.as_deref().is_some_and(concerns)
    }

    pub(super) fn revoked(&self) -> Option<Revoked> {
        self.pending.lock().revoked
    }

    /// The next event, or `None` when there is nothing to do. A revocation stays and comes first.
    pub(super) fn poll(&self) -> Option<SessionEvent> {
        self.pending.lock().take()
    }

    /// Waits for the next event. Safe to cancel; for one task at a time.
    pub(super) async fn next(&self) -> SessionEvent {
        poll_fn(|cx| {
            let mut pending = self.pending.lock();
            if let Some(event) = pending.take() {
                return Poll::Ready(event);
            }
            if !pending.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                pending.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Makes `waker` the one to wake, unless there is an event already.
    pub(super) fn settle(&self, waker: &Waker) -> bool {
        let mut pending = self.pending.lock();
        let has_ready = pending.ready.as_ref().is_some_and(|ready| !ready.is_empty());
        let is_quiet = pending.revoked.is_none() && !pending.pushes && !pending.policy && !has_ready;
        if is_quiet {
            pending.ready = None;
            pending.waker = Some(waker.clone());
        }
        is_quiet
    }
}

impl Pending {
    fn take(&mut self) -> Option<SessionEvent> {
        if let Some(why) = self.revoked {
            return Some(SessionEvent::Revoked(why));
        }
        if std::mem::take(&mut self.pushes) {
            return Some(SessionEvent::Pushes);
        }
        if std::mem::take(&mut self.policy) {
            return Some(SessionEvent::Policy);
        }
        self.ready.as_mut()?.pop_front().map(SessionEvent::Ready)
    }
}

/// Wakes whoever waits, outside the lock.
fn wake(mut pending: MutexGuard<'_, Pending>) {
    let waker = pending.waker.take();
    drop(pending);
    waker.into_iter().for_each(Waker::wake);
}
