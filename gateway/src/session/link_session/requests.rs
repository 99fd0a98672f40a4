//! The requests of a session and what is kept of their answers.

use std::{
    mem, ptr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use towline_protocols::link::{
    Ack, Execution, Place, RpcError,
    server::{Admission, Ledger, LedgerLimits},
};

use super::{LinkSession, State};
use crate::session::{
    Context,
    exchange::{Consumer, Exchange, Lost},
    push_queue::PushQueue,
    signal::Signal,
    visit::Role,
};

impl LinkSession {
    /// The client has taken these outcomes.
    pub(in crate::session) fn acknowledge(&self, ack: &Ack) {
        // A session without requests may have to refuse one that comes late.
        if ack.floor == 0 && ack.seqs.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.ledger_mut(&self.context).acknowledge(ack);
        self.forget_outcomes(&mut state);
    }

    /// Counts `added` bytes of an answer. False: the session has no room for the record.
    pub(in crate::session) fn record(&self, exchange: &Arc<Exchange>, added: usize) -> bool {
        let mut state = self.state.lock();
        if let Some(ledger) = state.ledger_with(exchange) {
            let outcomes = ledger.outcomes();
            let recorded = ledger.record(exchange.seq(), added);
            if !recorded || ledger.outcomes() < outcomes {
                self.context.limit_hit("session.outcome_bytes_max");
            }
            self.forget_outcomes(&mut state);
            if recorded {
                return true;
            }
        }
        let is_known = state.unrecorded().iter().any(|held| Arc::ptr_eq(held, exchange));
        // What was given up meanwhile is over, and nobody would take it out again.
        if !is_known && !exchange.is_finished() {
            state.unrecorded.get_or_insert_default().push(exchange.clone());
        }
        false
    }

    /// The answer is complete.
    pub(in crate::session) fn finished(self: &Arc<Self>, exchange: &Exchange) {
        let (now, seq) = (self.context.clock.now(), exchange.seq());
        let mut state = self.state.lock();
        state.forget_unrecorded(exchange);
        let Some(ledger) = state.ledger_with(exchange) else { return };
        let outcomes = ledger.outcomes();
        ledger.finish(seq, now);
        if ledger.get(seq).is_some() && ledger.outcomes() <= outcomes {
            self.context.limit_hit("session.outcomes_max");
        }
        self.queue_outcomes(&mut state);
    }

    /// The request was given up.
    pub(in crate::session) fn cancelled(self: &Arc<Self>, exchange: &Exchange, execution: Execution) {
        let mut state = self.state.lock();
        state.cancelled(exchange, execution, self.context.clock.now());
        self.queue_outcomes(&mut state);
    }

    pub(in crate::session) fn expire_outcomes(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        state.due_outcomes = false;
        if let Some(ledger) = &mut state.ledger {
            let outcomes = ledger.outcomes();
            ledger.expire(now);
            if ledger.outcomes() < outcomes {
                self.context.limit_hit("session.outcome_age_max");
            }
        }
        self.queue_outcomes(&mut state);
    }

    /// To be called behind every change of the ledger.
    pub(in crate::session) fn queue_outcomes(self: &Arc<Self>, state: &mut State) {
        self.forget_outcomes(state);
        let next = state.ledger.as_ref().and_then(|ledger| ledger.next_expiry());
        if let Some(at) = next
            && !mem::replace(&mut state.due_outcomes, true)
        {
            self.context.due.outcomes.push(at, Arc::downgrade(self));
        }
    }

    /// What a visitor began has arrived whole: it goes on, for who asks for it next.
    /// Says what kind of visitor it was.
    pub(super) fn visitor_gone(self: &Arc<Self>, signal: &Arc<Signal>) -> Option<Role> {
        let mut state = self.state.lock();
        let role = state.visitors.role(signal);
        let begun = state.visitors.leave(signal);
        self.begun_left(&mut state, begun.into_iter().map(|seq| (seq, signal.clone())));
        role
    }

    /// The connections that began these requests will never hold the session.
    pub(super) fn begun_left(
        self: &Arc<Self>,
        state: &mut State,
        begun: impl IntoIterator<Item = (u64, Arc<Signal>)>,
    ) {
        for (seq, signal) in begun {
            if let Some(exchange) = state.exchange(seq).cloned() {
                self.exchange_lost(state, &exchange, &signal);
            }
        }
        self.queue_outcomes(state);
    }

    /// What every loss of the holder, whose connection is that of `signal`, means, whether another one follows or
    /// not.
    pub(super) fn connection_lost(self: &Arc<Self>, state: &mut State, signal: &Arc<Signal>) {
        self.connected.store(false, Ordering::Release);
        for exchange in state.exchanges().cloned().collect::<Vec<_>>() {
            self.exchange_lost(state, &exchange, signal);
        }
        self.queue_outcomes(state);
        let Some(queue) = &mut state.pushes else { return };
        let given = self.held.change(queue, PushQueue::connection_lost);
        self.give_up(given);
    }

    fn exchange_lost(self: &Arc<Self>, state: &mut State, exchange: &Exchange, signal: &Arc<Signal>) {
        let now = self.context.clock.now();
        let wait = self.context.settings.load().upload_wait;
        match exchange.connection_lost(signal, now, !wait.is_zero()) {
            Lost::Kept => {}
            Lost::Parked => self.queue_uploads(state, now + wait),
            Lost::Ended(execution) => state.cancelled(exchange, execution, now),
        }
    }

    /// Hands the connection of `signal` the answer, behind what was `received` of it, to a request that the ledger knows;
    /// `None` when it does not.
    pub(in crate::session) fn attach(
        &self,
        state: &mut State,
        seq: u64,
        received: Place,
        signal: &Arc<Signal>,
    ) -> Option<Result<Consumer, RpcError>> {
        let admission = state.ledger_mut(&self.context).admit(seq);
        if let Some(error) = admission.error() {
            return Some(Err(error));
        }
        let (Admission::Attach(exchange) | Admission::Replay(exchange)) = admission else { return None };
        Some(exchange.attach(received, signal).map(|(consumer, displaced)| {
            if displaced {
                self.context.limit_hit("exchange_consumers_max");
            }
            consumer
        }))
    }
}

impl State {
    /// A request that runs, or whose outcome is kept.
    pub(in crate::session) fn exchange(&self, seq: u64) -> Option<&Arc<Exchange>> {
        let recorded = self.ledger.as_ref().and_then(|ledger| ledger.get(seq));
        recorded.or_else(|| self.unrecorded().iter().find(|held| held.seq() == seq))
    }

    pub(in crate::session) fn ledger_mut(&mut self, context: &Context) -> &mut Ledger<Arc<Exchange>> {
        self.ledger.get_or_insert_with(|| Box::new(Ledger::new(context.ledger_limits(), 0)))
    }

    /// Those that the ledger had no room for.
    pub(in crate::session) fn unrecorded(&self) -> &[Arc<Exchange>] {
        self.unrecorded.as_ref().map_or(&[], |unrecorded| unrecorded)
    }

    /// All that run, or whose outcome is kept.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &Arc<Exchange>> {
        let recorded = self.ledger.iter().flat_map(|ledger| ledger.iter().map(|(_, exchange)| exchange));
        recorded.chain(self.unrecorded())
    }

    /// Ends what runs and drops what is recorded.
    pub(super) fn forget_requests(&mut self, why: &str) {
        self.exchanges().for_each(|exchange| _ = exchange.cancel(why));
        self.ledger = None;
        self.unrecorded = None;
        self.visitors.forget();
    }

    /// A request that has not run is as if it had never been seen.
    pub(in crate::session) fn cancelled(&mut self, exchange: &Exchange, execution: Execution, now: Instant) {
        self.forget_unrecorded(exchange);
        let Some(ledger) = self.ledger_with(exchange) else { return };
        if execution == Execution::NotRun {
            ledger.forget(exchange.seq());
        } else {
            ledger.finish(exchange.seq(), now);
        }
    }

    /// The ledger, if it is this exchange that it has under its number: a session that began anew may have given the
    /// number to another one, while what ends the earlier is on its way.
    fn ledger_with(&mut self, exchange: &Exchange) -> Option<&mut Ledger<Arc<Exchange>>> {
        let ledger = self.ledger.as_deref_mut()?;
        let is_held = ledger.get(exchange.seq()).is_some_and(|held| ptr::eq(&raw const **held, exchange));
        is_held.then_some(ledger)
    }

    fn forget_unrecorded(&mut self, exchange: &Exchange) {
        let Some(unrecorded) = &mut self.unrecorded else { return };
        unrecorded.retain(|held| !ptr::eq(&raw const **held, exchange));
        self.unrecorded.take_if(|unrecorded| unrecorded.is_empty());
    }
}

impl Context {
    pub(in crate::session) fn ledger_limits(&self) -> LedgerLimits {
        let settings = self.settings.load();
        LedgerLimits {
            outcomes_max: settings.outcomes_max,
            outcome_bytes_max: settings.outcome_bytes_max,
            outcome_age_max: settings.outcome_age_max,
        }
    }
}
