//! One session: who owns it, which connection holds it, what it remembers.

mod deliveries;
mod durable;
mod requests;
mod take_over;
mod unheard;
mod uploads;

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use towline_protocols::link::server::Ledger;

pub(super) use self::{
    deliveries::PUSH_IDS_RESERVED,
    durable::{Committed, EndingMarks, not_reserved},
    take_over::Adopted,
};
use self::{durable::Durable, unheard::Unheard};
use super::{
    Context, Login, OpenError,
    exchange::Exchange,
    headers::Kept,
    held::Held,
    push_queue::PushQueue,
    secret::SecretHash,
    signal::{Revoked, Signal},
    visit::{Role, Visitors},
};
use crate::{
    hub::{Mailbox, RegisterError},
    policy::Facts,
    presence::What,
    receipts::Progress,
    store::{Table, Write},
};

/// A client's session. Small while nothing happens: ledger and queue are made when first used.
///
/// Locks are taken in the order session, exchange, signal; none is held while the hub is asked to change.
pub struct LinkSession {
    pub(super) context: Arc<Context>,
    client_id: Arc<str>,
    secret_hash: SecretHash,
    /// The share of the session's user in what is held; it knows the user.
    pub(super) held: Arc<Held>,
    /// The same as `State::is_connected`, for those who must not wait for the state.
    connected: AtomicBool,
    state: Mutex<State>,
}

/// Whom a session belongs to, or is said to.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) client_id: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    pub(super) secret_hash: SecretHash,
}

#[derive(Default)]
pub(super) struct State {
    /// WELCOME.session_id: names what is known of requests, so a restart changes it.
    id: u64,
    /// Whether the client may not have heard of `id`.
    unheard: Unheard,
    /// WELCOME.push_line: names the numbering of pushes, which a restart does not change.
    push_line: u64,
    /// Of the last connection that held the session, if `was_held`.
    epoch: u64,
    /// A connection has held it since the start of the gateway.
    was_held: bool,
    hold: Hold,
    /// Connections whose handshake is under way.
    pub(super) visitors: Visitors,
    /// The password that was found right last, so that it need not be checked for a visitor.
    pub(super) login: Option<Box<Login>>,
    /// The header fields of its requests.
    pub(super) headers: Kept,
    ended: bool,
    /// Whether the session stands in `Due::away`, in `Due::outcomes` and in `Due::uploads`.
    due_away: bool,
    due_outcomes: bool,
    due_uploads: bool,
    pub(super) ledger: Option<Box<Ledger<Arc<Exchange>>>>,
    /// Running exchanges that the ledger had no room for, which hardly any session has.
    #[allow(clippy::box_collection, reason = "two words less for each session")]
    unrecorded: Option<Box<Vec<Arc<Exchange>>>>,
    pushes: Option<Box<PushQueue>>,
    push_id_last: u64,
    /// The store knows that ids up to this one may have been used.
    push_ids_reserved: u64,
    /// The highest number that was begun.
    pub(super) seq_highest: u64,
    /// `None` until a durable route is used.
    durable: Option<Box<Durable>>,
    /// What the client has said of itself; many share one.
    pub(super) facts: Option<Arc<Facts>>,
    /// The policy's revision that the client was told last.
    pub(super) policy_told: u64,
}

/// Which connection has the session.
#[derive(Default)]
enum Hold {
    /// None, and time does not count yet.
    #[default]
    Free,
    /// None since then, or its last visitor has come or gone then.
    Away(Instant),
    By(Arc<Signal>),
}

impl Hold {
    fn connection(&self) -> Option<&Arc<Signal>> {
        match self {
            Self::By(signal) => Some(signal),
            Self::Free | Self::Away(_) => None,
        }
    }

    /// The connection has it no more.
    fn leave(&mut self) -> Option<Arc<Signal>> {
        let left = self.connection().cloned()?;
        *self = Self::Free;
        Some(left)
    }
}

impl LinkSession {
    pub(super) fn new(identity: Identity, context: Arc<Context>) -> Arc<Self> {
        let (id, push_line) = (fastrand::u64(1..), fastrand::u64(1..));
        let state = Mutex::new(State { id, push_line, ..State::default() });
        let Identity { client_id, user, secret_hash } = identity;
        let held = context.held.of(user.as_ref());
        Arc::new(Self { context, client_id, secret_hash, held, connected: AtomicBool::new(false), state })
    }

    /// The client's id.
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// The user that the session belongs to.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.held.user()
    }

    /// The bound on what is held that is met, if one is.
    pub(super) fn full(&self) -> Option<&'static str> {
        self.held.full(&self.context.settings.load())
    }

    pub(super) fn register(self: &Arc<Self>) -> Result<(), RegisterError> {
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.register(&self.client_id, self.user().cloned(), mailbox)
    }

    pub(super) fn check_owner(&self, claimed: &Identity) -> Result<(), OpenError> {
        if !self.secret_hash.matches(&claimed.secret_hash) {
            return Err(OpenError::WrongSecret);
        }
        if self.user() != claimed.user.as_ref() {
            return Err(OpenError::WrongUser);
        }
        Ok(())
    }

    /// The state, if `signal` is that of the connection that holds the session.
    pub(super) fn held_by(&self, signal: &Arc<Signal>) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.is_held_by(signal).then_some(state)
    }

    /// The connection of `signal` is gone. No effect on the session if another one holds it.
    pub(super) fn detach(self: &Arc<Self>, signal: &Arc<Signal>) {
        let Some(mut state) = self.held_by(signal) else {
            if self.visitor_gone(signal) == Some(Role::Short) {
                // While nobody holds it, a session lives from one visit to the next.
                self.note_away();
            }
            return;
        };
        state.hold = Hold::Free;
        self.tell(What::Disconnected("connection_lost"));
        self.connection_lost(&mut state, signal);
        drop(state);
        self.note_away();
    }

    /// Tells of the client's coming or going. Under the lock, so that it is told in its order.
    pub(super) fn tell(&self, what: What) {
        self.context.hub.presence().tell(&self.client_id, self.user(), "link", what);
    }

    /// Of the connection that holds it, and of those that visit it.
    pub(super) fn signals(&self) -> Vec<Arc<Signal>> {
        let state = self.state.lock();
        state.hold.connection().into_iter().chain(state.visitors.signals()).cloned().collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The login of a connection that holds the session was found right.
    pub(super) fn remember_login(&self, login: Login) {
        self.state.lock().login = Some(Box::new(login));
    }

    /// Starts the span after which a session without a connection expires.
    pub(super) fn note_away(self: &Arc<Self>) {
        let now = self.context.clock.now();
        let mut state = self.state.lock();
        if state.is_connected() {
            return;
        }
        state.hold = Hold::Away(now);
        if !mem::replace(&mut state.due_away, true) {
            self.context.due.away.push(now + self.context.settings.load().expiry, Arc::downgrade(self));
        }
    }

    /// Whether the session has been away for too long. If not, it is looked at again in time.
    pub(super) fn has_expired(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.due_away = false;
        let Hold::Away(away_since) = state.hold else { return false };
        let expires = away_since + self.context.settings.load().expiry;
        if expires <= now {
            return true;
        }
        state.due_away = true;
        self.context.due.away.push(expires, Arc::downgrade(self));
        false
    }

    /// Ends the session: nothing of it is kept.
    pub(super) fn end(self: &Arc<Self>) {
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.unregister(&self.client_id, &mailbox);
        let mut state = self.state.lock();
        state.ended = true;
        if let Some(connection) = state.hold.leave() {
            connection.revoke(Revoked::Ended);
        }
        state.visitors.dismiss(u64::MAX, Revoked::Ended);
        self.connected.store(false, Ordering::Release);
        state.forget_requests("the session has ended");
        self.forget_headers(&mut state);
        self.end_marks(&mut state);
        if let Some(queue) = state.pushes.take() {
            for push in queue.iter() {
                self.tell_backend(&push.message, Progress::Dropped("session_ended"));
            }
            self.held.sub(queue.bytes());
        }
        let key = self.client_id.as_bytes().to_vec();
        self.context.forget(Write::Delete { table: Table::Sessions, key });
        self.forget_pushes((state.push_id_last > 0).then_some(u64::MAX));
    }

    /// The gateway goes: the session lets go of the hub, and what waits is left to the store.
    pub(super) fn suspend(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if let Some(connection) = state.hold.leave() {
            connection.revoke(Revoked::Ended);
            self.connection_lost(&mut state, &connection);
        }
        state.visitors.dismiss(u64::MAX, Revoked::Ended);
        drop(state);
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.unregister(&self.client_id, &mailbox);
    }
}

impl State {
    /// Whether a connection holds the session.
    pub(super) fn is_connected(&self) -> bool {
        self.hold.connection().is_some()
    }

    /// Has that connection look for another policy.
    pub(super) fn wake_for_policy(&self) {
        if let Some(connection) = self.hold.connection() {
            connection.policy();
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_held_by(&self, signal: &Arc<Signal>) -> bool {
        self.hold.connection().is_some_and(|held| Arc::ptr_eq(held, signal))
    }

    /// Whether a connection of `epoch` may take the session over.
    pub(super) fn is_newer(&self, epoch: u64) -> bool {
        !self.was_held || epoch > self.epoch
    }
}
