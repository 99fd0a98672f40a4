//! One connection's hold on its session: all that the connection's driver calls.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use towline_protocols::{
    link::{Ack, Execution, Hello, Place, Priority, RpcError, RpcErrorKind, Subscribe, Subscribed},
    varint,
};

use super::{
    BodySender, Credits, Established, LinkSession, Login, OpenError, PendingPush, Revoked, SessionEvent,
    exchange::{Consumer, Exchange, Producer},
    link_session::State,
    signal::Signal,
    subscribe::Changed,
    visit::Role,
};
use crate::request::Origin;

/// The hold of one connection on its session. Dropping it says that the connection is gone: requests that
/// had arrived whole run on, and what was pushed without an acknowledgement is kept.
pub struct Lease {
    session: Arc<LinkSession>,
    signal: Arc<Signal>,
}

/// What to do with a REQUEST.
pub enum Begin {
    /// Never seen: run it. The producer goes to the task that asks the backend, the consumer stays with
    /// the connection.
    Run(Producer, Consumer),
    /// It runs or has run: its answer, from the beginning. The request's body is to be discarded.
    Attached(Consumer),
    /// The connection's handshake is under way, and the session has seen the request: ask again when it holds
    /// the session.
    Later,
    /// Send RESET.
    Refused(RpcError),
}

/// What to do with a request whose answer the client still waits for.
pub enum Attach {
    /// Its answer, from where the client has it.
    Attached(Consumer),
    /// Never seen here: the client may send it again.
    Unknown,
    /// The connection's handshake is under way: ask again when it holds the session.
    Later,
    /// Send RESET.
    Refused(RpcError),
}

/// The client acknowledged a push that it was not sent: a protocol error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PUSH_ACK names push {0}, which was not sent")]
pub struct PushNotSent(pub u64);

impl Lease {
    pub(super) fn new(session: Arc<LinkSession>, signal: Arc<Signal>) -> Self {
        Self { session, signal }
    }

    /// The session.
    pub fn session(&self) -> &Arc<LinkSession> {
        &self.session
    }

    /// Waits for what to do next. For the one task that drives the connection; safe to cancel.
    pub async fn next_event(&self) -> SessionEvent {
        self.signal.next().await
    }

    /// What to do next, if there is something.
    pub fn poll_event(&self) -> Option<SessionEvent> {
        self.signal.poll()
    }

    /// Makes `waker` the one that the next event wakes; false when there is one already.
    pub fn settle(&self, waker: &Waker) -> bool {
        self.signal.settle(waker)
    }

    /// Notes where the connection came from, and what vouches for its client.
    pub fn vouch(&self, origin: &Arc<Origin>) {
        self.signal.vouch(origin);
    }

    /// What vouched for the client is withdrawn.
    pub fn disown(&self) {
        self.signal.revoke(Revoked::Unproven);
    }

    /// Whether the connection has lost the session.
    pub fn revoked(&self) -> Option<Revoked> {
        self.signal.revoked()
    }

    /// A visitor becomes the holder, now that its handshake is complete. `awaited` are the requests of
    /// [`Visited::awaited`](super::Visited::awaited).
    ///
    /// # Errors
    /// Another connection was faster; the session stays as it was.
    pub fn establish(&self, hello: &Hello, awaited: &[u64]) -> Result<Established, OpenError> {
        match self.revoked() {
            None => {}
            Some(Revoked::Unproven) => return Err(OpenError::Unproven),
            Some(Revoked::TakenOver | Revoked::Ended) => return Err(OpenError::TakenOver),
        }
        self.session.establish(hello, awaited, &self.signal)
    }

    /// Notes that the login of this connection was found right.
    pub fn remember_login(&self, login: Login) {
        self.session.remember_login(login);
    }

    /// Takes a REQUEST. A visitor gives only such as have arrived whole.
    pub fn begin(&self, seq: u64) -> Begin {
        if seq == 0 || seq > varint::MAX {
            return refuse(RpcErrorKind::Malformed, "sequence numbers begin with 1");
        }
        let mut state = self.session.lock();
        let role = state.visitors.role(&self.signal);
        if role.is_none() && !state.is_held_by(&self.signal) {
            return refuse(RpcErrorKind::SessionLost, "another connection holds the session");
        }
        let context = &self.session.context;
        if role == Some(Role::Early) && !(state.is_new(seq) && state.may_begin()) {
            return Begin::Later;
        }
        match self.session.attach(&mut state, seq, Place::default(), &self.signal) {
            Some(Ok(consumer)) => return Begin::Attached(consumer),
            Some(Err(error)) => return Begin::Refused(error),
            None => {}
        }
        if role == Some(Role::Short) && !state.may_begin() {
            context.limit_hit("session_visits_begun_max");
            let text =
                "too many requests of short connections are not acknowledged (session_visits_begun_max)";
            return refuse(RpcErrorKind::LimitExceeded, text);
        }
        if let Some(bound) = self.session.full() {
            context.limit_hit(bound);
            let text = format!("too many requests, answers and pushes are held in memory ({bound})");
            return refuse(RpcErrorKind::LimitExceeded, text);
        }
        if running(&mut state, context) >= context.streams_max.load(Ordering::Relaxed) {
            context.limit_hit("limits.streams_max");
            return refuse(
                RpcErrorKind::LimitExceeded,
                "too many requests run at one time (limits.streams_max)",
            );
        }
        let window = context.settings.load().stream_window as usize;
        let exchange = Exchange::new(seq, window, self.session.held.clone(), &self.signal);
        state.seq_highest = state.seq_highest.max(seq);
        state.ledger_mut(context).begin(seq, exchange.clone());
        state.visitors.begins(&self.signal, seq);
        match exchange.attach(Place::default(), &self.signal) {
            Ok((consumer, _)) => Begin::Run(Producer::new(exchange, self.session.clone()), consumer),
            Err(error) => Begin::Refused(error),
        }
    }

    /// Takes up the answer to a request that an earlier connection carried (QUIC, where HELLO need not
    /// name all of them).
    pub fn attach(&self, seq: u64, received: Place) -> Attach {
        let mut state = self.session.lock();
        if state.visitors.role(&self.signal) == Some(Role::Early) {
            return Attach::Later;
        }
        if !self.acts(&state) {
            let text = "another connection holds the session";
            return Attach::Refused(RpcError::new(RpcErrorKind::SessionLost, Execution::MayHaveRun, text));
        }
        match self.session.attach(&mut state, seq, received, &self.signal) {
            None => Attach::Unknown,
            Some(Ok(consumer)) => Attach::Attached(consumer),
            Some(Err(error)) => Attach::Refused(error),
        }
    }

    /// The body of a request that was in WELCOME.partial, for the connection to go on with, and how many bytes of
    /// its window are in use. `None` for any other, or when that was done.
    pub(crate) fn take_up(&self, seq: u64, credits: &Arc<Credits>) -> Option<(BodySender, usize)> {
        let state = self.session.held_by(&self.signal)?;
        state.exchange(seq)?.take_up_upload(credits)
    }

    /// Whether that could be done.
    pub(crate) fn could_take_up(&self, seq: u64) -> bool {
        let state = self.session.held_by(&self.signal);
        state.is_some_and(|state| state.exchange(seq).is_some_and(|exchange| exchange.offers_upload()))
    }

    /// The client has lost interest in a request (RESET), or its stream broke before it had arrived.
    pub fn cancel(&self, seq: u64, why: &str) {
        let state = self.session.lock();
        let visits = state.visitors.role(&self.signal).is_some();
        let began = visits && state.visitors.has_begun(&self.signal, seq);
        if !began && !self.acts(&state) {
            return;
        }
        let exchange = state.exchange(seq).cloned();
        drop(state);
        if let Some(exchange) = exchange
            && let Some(execution) = exchange.cancel(why)
        {
            self.session.cancelled(&exchange, execution);
        }
    }

    /// The client wants nothing more of a request, whichever connection carried it.
    pub fn give_up(&self, seq: u64) {
        let acts = self.acts(&self.session.lock());
        if acts && seq > 0 {
            self.session.forgo(seq);
        }
    }

    /// ACK: the client has taken these outcomes.
    pub fn acknowledge(&self, ack: &Ack) {
        let acts = self.acts(&self.session.lock());
        if acts {
            self.session.acknowledge(ack);
        }
    }

    /// The next push to send, in order; each once for this connection. Call it while the connection has
    /// room, after [`SessionEvent::Pushes`].
    pub fn next_push(&self) -> Option<PendingPush> {
        let mut state = self.session.held_by(&self.signal)?;
        self.session.next_push(&mut state)
    }

    /// Whether what the connection says of the session is followed.
    fn acts(&self, state: &State) -> bool {
        state.is_held_by(&self.signal) || state.visitors.role(&self.signal) == Some(Role::Short)
    }

    /// Gives up a push that the connection cannot carry, for a bound that its client set.
    pub fn refuse_push(&self, id: u64, limit: &'static str) {
        if let Some(mut state) = self.session.held_by(&self.signal) {
            self.session.refuse_push(&mut state, id, limit);
        }
    }

    /// PUSH_ACK: the client has taken the pushes of this urgency up to `id`.
    ///
    /// # Errors
    /// This connection has not sent that push.
    pub fn push_ack(&self, priority: Priority, id: u64) -> Result<(), PushNotSent> {
        let Some(mut state) = self.session.held_by(&self.signal) else { return Ok(()) };
        if self.session.push_ack(&mut state, priority, id) { Ok(()) } else { Err(PushNotSent(id)) }
    }

    /// SUBSCRIBE.
    pub fn subscribe(&self, subscribe: &Subscribe) -> Changed {
        let acts = self.acts(&self.session.lock());
        if !acts {
            return Changed { subscribed: Subscribed::default(), new: Vec::new() };
        }
        let changed = self.session.change_subscriptions(&subscribe.add, &subscribe.remove);
        self.session.persist();
        changed
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.session.detach(&self.signal);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("client_id", self.session.client_id()).finish_non_exhaustive()
    }
}

fn running(state: &mut State, context: &super::Context) -> usize {
    state.ledger_mut(context).running() + state.unrecorded().len()
}

fn refuse(kind: RpcErrorKind, text: impl Into<String>) -> Begin {
    Begin::Refused(RpcError::new(kind, Execution::NotRun, text))
}
