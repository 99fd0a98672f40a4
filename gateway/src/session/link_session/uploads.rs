//! Requests that had not arrived whole when their connection was lost: offered to the next one, or given up.

use std::{
    collections::BTreeSet,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use towline_protocols::link::{Hello, LimitsMessage, Partial, Place};

use super::{LinkSession, State};
use crate::session::{exchange::Exchange, signal::Signal, upload::Received};

impl LinkSession {
    /// What the client says in HELLO of such requests decides: those that it goes on with are offered to its
    /// connection, that of `signal`, the others are aborted. HELLO does not speak of `unspoken`. Where its connection was told
    /// already, as early data, all are aborted.
    pub(super) fn offer_uploads(
        &self,
        state: &mut State,
        hello: &Hello,
        unspoken: &[u64],
        signal: &Arc<Signal>,
        told: bool,
    ) -> Vec<Partial> {
        let waiting = hello.waiting.iter().filter(|waiting| waiting.continues && !told);
        let continued: BTreeSet<u64> = waiting.map(|waiting| waiting.seq).collect();
        let is_spoken_of = |exchange: &&Arc<Exchange>| !unspoken.contains(&exchange.seq());
        let open: Vec<Arc<Exchange>> =
            state.exchanges().filter(|exchange| exchange.is_parked()).filter(is_spoken_of).cloned().collect();
        let goes_inside = LimitsMessage::allow_rests(hello.limits.as_ref());
        let mut partial = Vec::new();
        for exchange in open {
            let seq = exchange.seq();
            if !continued.contains(&seq) {
                self.give_up_upload(state, &exchange, "the client does not go on with the request");
            } else if let Some(Received { place, held }) = exchange.offer_upload(signal, goes_inside) {
                let window_used = u32::try_from(held).unwrap_or(u32::MAX);
                let Place { messages: messages_received, bytes: bytes_received } = place;
                partial.push(Partial { seq, messages_received, window_used, bytes_received });
            }
        }
        partial
    }

    /// Whether what HELLO waits for has such a request among it that its client would go on with.
    pub(in crate::session) fn has_upload_for(state: &State, hello: &Hello) -> bool {
        let continued = hello.waiting.iter().filter(|waiting| waiting.continues);
        continued.filter_map(|waiting| state.exchange(waiting.seq)).any(|exchange| exchange.is_uploading())
    }

    /// To be looked at again at `due`.
    pub(super) fn queue_uploads(self: &Arc<Self>, state: &mut State, due: Instant) {
        if !mem::replace(&mut state.due_uploads, true) {
            self.context.due.uploads.push(due, Arc::downgrade(self));
        }
    }

    /// Gives up those that have waited for `session.upload_wait`.
    pub(in crate::session) fn expire_uploads(self: &Arc<Self>, now: Instant) {
        let wait = self.context.settings.load().upload_wait;
        let mut state = self.lock();
        state.due_uploads = false;
        for exchange in state.overdue_uploads(now, wait) {
            self.context.limit_hit("session.upload_wait");
            let why = "the rest of the request did not come within session.upload_wait";
            self.give_up_upload(&mut state, &exchange, why);
        }
        if let Some(due) = state.exchanges().filter_map(|exchange| exchange.upload_due(wait)).min() {
            self.queue_uploads(&mut state, due);
        }
        self.queue_outcomes(&mut state);
    }

    fn give_up_upload(&self, state: &mut State, exchange: &Exchange, why: &str) {
        if let Some(execution) = exchange.cancel(why) {
            state.cancelled(exchange, execution, self.context.clock.now());
        }
    }
}

impl State {
    fn overdue_uploads(&self, now: Instant, wait: Duration) -> Vec<Arc<Exchange>> {
        let is_overdue = |exchange: &&Arc<Exchange>| exchange.upload_due(wait).is_some_and(|due| due <= now);
        self.exchanges().filter(is_overdue).cloned().collect()
    }
}
