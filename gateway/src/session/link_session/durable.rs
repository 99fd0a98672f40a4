//! What a session must know of its requests after a crash, where a route asks for that.
//!
//! ```text
//!  REQUEST seq --> begin --> reserve --> forwarded --> answered --> record --> shown --> acknowledged
//!                            the mark                  (held back)  the outcome          the outcome's
//!                            covers seq,                            is durable           record goes
//!                            durably
//! ```
//!
//! The mark is the intent of all numbers up to it: it is durable before any of them is forwarded, and raised by
//! a block at a time. So after a crash a number above the mark was never forwarded and is new; one below it has
//! its outcome in the store, or may have run. PROTOCOL.md, section 9, has the table of states.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use towline_protocols::{
    link::{Execution, RpcError, RpcErrorKind, server::Ledger},
    varint,
};

use super::{LinkSession, State};
use crate::{
    session::{
        Context,
        durable_shares::Record,
        exchange::{Ended, Exchange},
        outcome_record::{Mark, Outcome},
        record::push_key as outcome_key,
    },
    store::{StoreError, Table, Write},
};

/// Numbers that one write of the mark covers: a session writes it once for so many requests. A client skips
/// as many after a restart.
const NUMBERS_RESERVED: u64 = 256;

/// What the store holds for a session that has used a durable route.
#[derive(Default)]
pub(super) struct Durable {
    /// The mark that is on its way to the store; never lowered for one session id.
    reserved: u64,
    /// The mark that the store holds for this session id; 0 until it holds one.
    mark: u64,
    /// What a restart forgot of this session id lies at or below it.
    forgotten: u64,
    /// Requests whose outcome was written.
    records: BTreeMap<u64, Record>,
}

/// Resolves when a change is durable, or will never be.
pub(in crate::session) type Committed = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// A mark on its way to the store.
pub(in crate::session) struct Reservation {
    mark: Mark,
    pub(in crate::session) committed: Committed,
}

impl State {
    /// WELCOME.seq_min: what a restart forgot of this session lies at or below it.
    pub(in crate::session) fn seq_min(&self) -> u64 {
        self.durable.as_ref().map_or(0, |durable| durable.forgotten)
    }
}

impl LinkSession {
    /// Before a request is forwarded: `Some` when the store has to hold a higher mark first.
    pub(in crate::session) fn reserve(
        &self,
        exchange: &Arc<Exchange>,
        durable: bool,
    ) -> Result<Result<Option<Reservation>, RpcError>, Ended> {
        let mut state = self.state.lock();
        if !durable && state.durable.is_none() {
            return Ok(Ok(None));
        }
        // What belongs to an earlier id of the session must not touch this one's mark.
        if !state.exchange(exchange.seq()).is_some_and(|held| Arc::ptr_eq(held, exchange)) {
            return Err(Ended);
        }
        if durable && self.context.durable.bytes() >= self.context.settings.load().durable_bytes_max {
            self.context.limit_hit("session.durable_bytes_max");
            return Ok(Err(refused(
                "the gateway holds too many durable outcomes (session.durable_bytes_max)",
            )));
        }
        let (session_id, highest) = (state.id, state.seq_highest);
        let held = state.durable.get_or_insert_default();
        if exchange.seq() <= held.mark {
            return Ok(Ok(None));
        }
        // Whoever is above the durable mark writes it, even where a higher one is on its way: that one may fail.
        let reserved = held.reserved.max((highest.max(exchange.seq()) + NUMBERS_RESERVED).min(varint::MAX));
        let mark = Mark { session_id, mark: reserved };
        let (key, value) = (outcome_key(self.client_id(), 0), mark.encode());
        let Ok(committed) =
            self.context.store.begin_append(Write::Put { table: Table::Outcomes, key, value })
        else {
            self.context.limit_hit("store_queue_bytes");
            return Ok(Err(refused("the store's queue is full (store_queue_bytes)")));
        };
        held.reserved = reserved;
        // It replaces what an earlier session left; a deletion that is tried again would take it away.
        self.context.ending_marks.replaced(self.client_id());
        Ok(Ok(Some(Reservation { mark, committed: Box::pin(committed) })))
    }

    /// The store holds the mark.
    pub(in crate::session) fn reserved(&self, reservation: &Reservation) {
        let mut state = self.state.lock();
        // The session may have another id by now, whose numbers this mark does not cover.
        if state.id == reservation.mark.session_id
            && let Some(durable) = &mut state.durable
        {
            durable.mark = durable.mark.max(reservation.mark.mark);
        }
    }

    /// Writes the outcome of a request that is held back for it; `None` when there is nothing to wait for.
    pub(in crate::session) fn write_outcome(self: &Arc<Self>, exchange: &Arc<Exchange>) -> Option<Committed> {
        let mut state = self.state.lock();
        let seq = exchange.seq();
        // One that the ledger had no room for is not kept here either: the mark says that it may have run.
        if !state.ledger.as_ref()?.get(seq).is_some_and(|held| Arc::ptr_eq(held, exchange)) {
            return None;
        }
        let parts = exchange.held_back()?;
        let finished_ms = self.context.clock.unix_ms(self.context.clock.now());
        let value = Outcome { session_id: state.id, finished_ms, parts }.encode();
        let key = outcome_key(self.client_id(), seq);
        let bytes = key.len() + value.len();
        let Ok(committed) =
            self.context.store.begin_append(Write::Put { table: Table::Outcomes, key, value })
        else {
            self.context.limit_hit("store_queue_bytes");
            return None;
        };
        let record = self.context.durable.add(self, seq, bytes);
        state.durable.get_or_insert_default().records.insert(seq, record);
        drop(state);
        self.context.keep_share(self.user());
        Some(Box::pin(committed))
    }

    /// Counts an outcome that the store could not take: it is sent, and a crash forgets it.
    pub(in crate::session) fn outcome_not_stored(&self, error: &StoreError) {
        self.context.limit_hit("store_failed");
        tracing::warn!(%error, "the outcome of a durable route is in memory only");
    }

    /// The outcomes that the ledger has let go need no record any more.
    pub(super) fn forget_outcomes(&self, state: &mut State) {
        let Some(durable) = state.durable.as_mut().filter(|durable| !durable.records.is_empty()) else {
            return;
        };
        let ledger = state.ledger.as_deref();
        durable.records.retain(|&seq, record| {
            let is_held = ledger.is_some_and(|ledger| ledger.get(seq).is_some());
            if !is_held {
                self.context.durable.remove(self.user(), *record);
                let key = outcome_key(self.client_id(), seq);
                self.context.forget(Write::Delete { table: Table::Outcomes, key });
            }
            is_held
        });
    }

    /// The session gets another id: what the store holds speaks of no request any more. A session that
    /// used a durable route once waits for its mark under each later id, since until then the store holds the
    /// mark of the id before.
    pub(super) fn forget_marks(&self, state: &mut State) {
        let Some(durable) = &mut state.durable else { return };
        self.leave_share(durable);
        **durable = Durable::default();
        self.context.forget(delete_marks(self.client_id()));
    }

    fn leave_share(&self, durable: &Durable) {
        durable.records.values().for_each(|record| self.context.durable.remove(self.user(), *record));
    }

    /// The share of the session's user in the store is full, and this is its oldest outcome.
    pub(in crate::session) fn expire_outcome(&self, seq: u64) {
        let mut state = self.state.lock();
        if let Some(ledger) = &mut state.ledger {
            ledger.expire_outcome(seq);
        }
        self.forget_outcomes(&mut state);
    }

    /// The session ends.
    pub(super) fn end_marks(&self, state: &mut State) {
        let Some(durable) = state.durable.take() else { return };
        self.leave_share(&durable);
        self.context.end_marks(self.client_id().clone());
    }

    /// The store may hold a mark of an earlier session of this client: nothing is forwarded before it is replaced.
    /// A client that has not heard of the session's end would be told that the earlier one goes on.
    pub(in crate::session) fn wait_for_marks(&self) {
        self.state.lock().durable.get_or_insert_default();
    }

    /// The session goes on under the id that it had, and knows that numbers up to the mark may have run.
    pub(in crate::session) fn restore_mark(&self, Mark { session_id, mark }: Mark) {
        let mut state = self.state.lock();
        state.id = session_id;
        state.seq_highest = mark;
        let mut ledger = Ledger::new(self.context.ledger_limits(), 0);
        ledger.presume_run(mark);
        state.ledger = Some(Box::new(ledger));
        state.durable =
            Some(Box::new(Durable { reserved: mark, mark, forgotten: mark, records: BTreeMap::new() }));
    }

    /// Brings an outcome back; false when it is not of this session. To be called in the order of their ends.
    pub(in crate::session) fn restore_outcome(
        self: &Arc<Self>,
        seq: u64,
        outcome: Outcome,
        bytes: usize,
    ) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (Some(ledger), Some(durable)) = (&mut state.ledger, &mut state.durable) else { return false };
        if outcome.session_id != state.id || seq > durable.mark {
            return false;
        }
        let window = self.context.settings.load().stream_window as usize;
        let exchange = Exchange::restored(seq, window, self.held.clone(), outcome.parts);
        let held = exchange.bytes();
        ledger.restore(seq, exchange, held, self.context.clock.instant(outcome.finished_ms));
        durable.records.insert(seq, self.context.durable.add(self, seq, bytes));
        // A smaller bound than before lets the oldest go.
        self.queue_outcomes(state);
        drop(guard);
        self.context.keep_share(self.user());
        true
    }
}

/// Marks of sessions that are over, until the store no longer has them.
#[derive(Default)]
pub(in crate::session) struct EndingMarks(Mutex<Vec<(Arc<str>, Committed)>>);

impl EndingMarks {
    /// A mark of a later session of the client is on its way. Outcomes of an earlier one are known by its id.
    fn replaced(&self, client_id: &str) {
        self.0.lock().retain(|(of, _)| **of != *client_id);
    }
}

impl Context {
    pub(in crate::session) fn end_marks(&self, client_id: Arc<str>) {
        let committed = self.begin_delete_marks(&client_id);
        self.ending_marks.0.lock().push((client_id, committed));
    }

    /// Whether the store may hold marks of an earlier session of a client.
    pub(in crate::session) fn may_hold_marks(&self, client_id: &str) -> bool {
        self.ending_marks.0.lock().iter().any(|(of, _)| **of == *client_id)
    }

    /// Lets go of those that the store has deleted, and deletes again what failed. To be called every few
    /// seconds.
    pub(in crate::session) fn settle_marks(&self) {
        self.ending_marks.0.lock().retain_mut(|(client_id, committed)| match committed.now_or_never() {
            Some(Ok(())) => false,
            Some(Err(_)) => {
                *committed = self.begin_delete_marks(client_id);
                true
            }
            None => true,
        });
    }

    fn begin_delete_marks(&self, client_id: &str) -> Committed {
        match self.store.begin_append(delete_marks(client_id)) {
            Ok(committed) => Box::pin(committed),
            Err(full) => Box::pin(std::future::ready(Err(full.into()))),
        }
    }
}

/// Deletes the mark and the outcomes of a client.
fn delete_marks(client_id: &str) -> Write {
    let (first, last) = (outcome_key(client_id, 0), outcome_key(client_id, u64::MAX));
    Write::DeleteRange { table: Table::Outcomes, first, last }
}

/// The error of a request that could not be made safe against a crash.
pub(in crate::session) fn not_reserved(error: &StoreError) -> RpcError {
    let text = format!("the request could not be made durable: {error}");
    RpcError::new(RpcErrorKind::Internal, Execution::NotRun, text)
}

fn refused(text: &str) -> RpcError {
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, text)
}
