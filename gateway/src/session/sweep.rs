//! What time ends: sessions that stay away, outcomes that nobody fetched, requests whose rest does not come.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use dashmap::Entry;
use parking_lot::Mutex;

use super::{LinkSession, Sessions};
use crate::gateway::Gateway;

/// How late an expiry may be noticed.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// Calls [`Sessions::expire`] as long as the gateway is there.
pub async fn sweep(gateway: Weak<Gateway>) {
    let mut period = tokio::time::interval(SWEEP_PERIOD);
    loop {
        period.tick().await;
        let Some(gateway) = gateway.upgrade() else { return };
        gateway.sessions.expire(Instant::now());
    }
}

/// When to look at which session. Each queue holds a session at most once, which a flag of the session
/// says, and is nearly in order, since the spans are the same for all: an entry may be looked at late by
/// as much as it was requeued early, never before its time.
#[derive(Default)]
pub(super) struct Due {
    pub(super) away: Queue,
    pub(super) outcomes: Queue,
    pub(super) uploads: Queue,
}

#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<(Instant, Weak<LinkSession>)>>);

impl Queue {
    pub(super) fn push(&self, at: Instant, session: Weak<LinkSession>) {
        self.0.lock().push_back((at, session));
    }

    fn pop(&self, now: Instant) -> Option<Arc<LinkSession>> {
        let mut queue = self.0.lock();
        loop {
            if queue.front()?.0 > now {
                return None;
            }
            let (_, session) = queue.pop_front()?;
            if let Some(session) = session.upgrade() {
                return Some(session);
            }
        }
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Sessions {
    /// Ends what is over at `now`; returns how many sessions were ended. To be called every few seconds.
    pub fn expire(&self, now: Instant) -> usize {
        self.context.settle_marks();
        let due = &self.context.due;
        // Sessions that queue themselves again are left for the next call.
        for _ in 0..due.outcomes.len() {
            let Some(session) = due.outcomes.pop(now) else { break };
            session.expire_outcomes(now);
        }
        for _ in 0..due.uploads.len() {
            let Some(session) = due.uploads.pop(now) else { break };
            session.expire_uploads(now);
        }
        let mut ended = 0;
        for _ in 0..due.away.len() {
            let Some(session) = due.away.pop(now) else { break };
            ended += usize::from(self.expire_session(&session, now));
        }
        ended
    }

    fn expire_session(&self, session: &Arc<LinkSession>, now: Instant) -> bool {
        // The entry's lock keeps a connection that comes back this moment waiting.
        let Entry::Occupied(held) = self.table.entry(session.client_id().clone()) else { return false };
        if !Arc::ptr_eq(held.get(), session) || !session.has_expired(now) {
            return false;
        }
        self.discard(session);
        held.remove();
        true
    }
}
