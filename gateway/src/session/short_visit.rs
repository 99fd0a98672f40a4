//! Short connections, each one POST: they visit a session beside the connection that holds it, if there is one.
//!
//! ```text
//!   HELLO of a POST --> Sessions::visit_short --+-- session named by its id --> begins and attaches as a holder does
//!                                               +-- another id, or none ------> says which id it has, begins nothing
//! ```
//!
//! A POST may be sent again, by whoever carries it, at any time. That is safe since a request runs for an id that
//! names one ledger, under a number that the ledger takes once; and since a number that was asked for in vain is taken
//! as well: the client has been told that it has not run, so it must not run when it comes late.

use std::sync::Arc;

use dashmap::Entry;
use towline_protocols::link::{Ack, Hello, Place, PushesTaken, RpcError, server::Ledger};

use super::{
    Attach, Consumer, Lease, LinkSession, OpenError, PendingPush, Sessions,
    exchange::Exchange,
    headers::Spoken,
    link_session::{Identity, State},
    signal::Signal,
    visit::Role,
};

/// What the HELLO of a short connection led to.
pub struct ShortVisit {
    /// The connection's hold on what it begins.
    pub lease: Lease,
    /// WELCOME.session_id.
    pub session_id: u64,
    /// WELCOME.seq_min.
    pub seq_min: u64,
    /// False: HELLO names another session, so that nothing may be begun.
    pub resumed: bool,
    /// Of the requests that the client asks for: their answers, from where the client has them.
    pub attached: Vec<Consumer>,
    /// Of the requests that the client asks for: those without an answer, with what RESET is to say.
    pub refused: Vec<(u64, RpcError)>,
    /// Pushes that the client has not taken, within `short.pushes_max` and `short.push_bytes_max`.
    pub pushes: Vec<PendingPush>,
    /// The header fields that its requests share.
    pub headers: Spoken,
    /// Whether a later HELLO may name them.
    pub headers_kept: bool,
}

impl Sessions {
    /// Lets a short connection, whose `user` has been authenticated, visit its session, which is made where there is
    /// none.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn visit_short(&self, hello: &Hello, user: Option<Arc<str>>) -> Result<ShortVisit, OpenError> {
        let identity = Identity::claimed(hello, user)?;
        // The entry is held until the visit began, so that the session cannot expire meanwhile.
        match self.table.entry(identity.client_id.clone()) {
            Entry::Occupied(held) => {
                held.get().check_owner(&identity)?;
                held.get().visit_short(hello)
            }
            Entry::Vacant(vacant) => {
                let session = self.create(identity)?;
                vacant.insert(session.clone());
                session.begin_away(hello);
                session.visit_short(hello)
            }
        }
    }
}

impl LinkSession {
    /// A session without a connection begins.
    fn begin_away(&self, hello: &Hello) {
        let mut state = self.lock();
        state.seq_highest = hello.outcome_floor;
        let limits = self.context.ledger_limits();
        state.ledger = (hello.outcome_floor > 0).then(|| Box::new(Ledger::new(limits, hello.outcome_floor)));
        drop(state);
        self.persist();
    }

    fn visit_short(self: &Arc<Self>, hello: &Hello) -> Result<ShortVisit, OpenError> {
        let mut state = self.lock();
        if state.has_ended() || !state.is_newer(hello.epoch) {
            return Err(OpenError::TakenOver);
        }
        if state.visitors.count(Role::Short) >= self.context.short.load().posts_max {
            self.context.limit_hit("short.posts_max");
            return Err(OpenError::ShortFull);
        }
        let headers = self.headers_in(&state, hello)?;
        let signal = state.visitors.enter(hello.epoch, Role::Short, headers.clone());
        // One without any says nothing of those that links use.
        let headers_kept = headers.is_some() && self.keep_headers(&mut state, hello, &headers);
        let (session_id, seq_min) = (state.id(), state.seq_min());
        let resumed = state.is_named_by(hello);
        let pushes = self.pushes_to_take_along(&mut state, hello.pushes_taken.as_ref());
        drop(state);
        // It counts as seen, now and when the visit is over.
        self.note_away();
        let lease = Lease::new(Arc::clone(self), Arc::clone(&signal));
        let (attached, refused) = (Vec::new(), Vec::new());
        let mut visit = ShortVisit {
            lease,
            session_id,
            seq_min,
            resumed,
            attached,
            refused,
            pushes,
            headers,
            headers_kept,
        };
        if resumed {
            visit.lease.acknowledge(&Ack { floor: hello.outcome_floor, seqs: Vec::new() });
            self.ask(hello, &signal, &mut visit);
        }
        Ok(visit)
    }

    fn ask(self: &Arc<Self>, hello: &Hello, signal: &Arc<Signal>, visit: &mut ShortVisit) {
        // Each number that is asked for in vain is noted; once for all of them, so that a POST costs one look.
        self.lock().tidy_begun();
        for waiting in &hello.waiting {
            match visit.lease.attach(waiting.seq, waiting.received()) {
                Attach::Attached(consumer) => visit.attached.push(consumer),
                Attach::Refused(error) => visit.refused.push((waiting.seq, error)),
                Attach::Unknown => match self.never(waiting.seq, signal) {
                    Ok(consumer) => visit.attached.push(consumer),
                    Err(error) => visit.refused.push((waiting.seq, error)),
                },
                // The visit is over already; its task is told so.
                Attach::Later => {}
            }
        }
    }

    /// Takes the number of a request that was asked for and has not come: its outcome is that it has not run.
    fn never(self: &Arc<Self>, seq: u64, signal: &Arc<Signal>) -> Result<Consumer, RpcError> {
        let context = &self.context;
        let mut state = self.lock();
        let window = context.settings.load().stream_window as usize;
        let exchange = Exchange::new(seq, window, self.held.clone(), signal);
        state.seq_highest = state.seq_highest.max(seq);
        state.ledger_mut(context).begin(seq, Arc::clone(&exchange));
        state.visitors.begins(signal, seq);
        drop(state);
        exchange.cancel(NEVER_CAME);
        self.finished(&exchange);
        exchange.attach(Place::default(), signal).map(|(consumer, _)| consumer)
    }

    /// Ends a request wherever it is. What carries it may come late, or again: its number is taken from now on.
    pub(super) fn forgo(self: &Arc<Self>, seq: u64) {
        let mut state = self.lock();
        let exchange = state.exchange(seq).cloned();
        if let Some(exchange) = exchange
            && let Some(execution) = exchange.cancel(GIVEN_UP)
        {
            state.cancelled(&exchange, execution, self.context.clock.now());
        }
        state.seq_highest = state.seq_highest.max(seq);
        state.ledger_mut(&self.context).acknowledge(&Ack { floor: 0, seqs: vec![seq] });
        self.queue_outcomes(&mut state);
    }

    /// Follows what the client says of pushes, and finds those that it has not taken. They stay where they are: the
    /// connection that holds the session may be sending the same ones, and the client takes each once.
    fn pushes_to_take_along(&self, state: &mut State, taken: Option<&PushesTaken>) -> Vec<PendingPush> {
        let settings = self.context.short.load();
        self.acknowledge_taken(state, taken);
        self.first_pushes(state, settings.pushes_max, settings.push_bytes_max)
    }
}

const GIVEN_UP: &str = "the client lost interest";
const NEVER_CAME: &str = "the request has not arrived, and will not run under this number any more";
