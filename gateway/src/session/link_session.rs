//! One session: who owns it, which connection holds it, what it remembers.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use towline_protocols::link::{
    Ack, Execution, Hello, RpcError,
    server::{Admission, Ledger, LedgerLimits},
};

use super::{
    Changed, Context, Login, OpenError, Opened,
    exchange::{Consumer, Exchange},
    lease::Lease,
    push_queue::{Given, PushBounds, PushQueue, QueuedPush},
    record::{SessionRecord, encode_push, push_key},
    secret::SecretHash,
    signal::{Revoked, Signal},
    visit::Visitors,
};
use crate::{
    hub::{Delivered, Delivery, Mailbox, Message, RegisterError},
    store::{QueueFull, Table, Write},
};

/// A client's session. Small while nothing happens: ledger and queue are made when first used.
///
/// Locks are taken in the order session, exchange, signal; none is held while the hub is asked to change.
pub struct LinkSession {
    pub(super) context: Arc<Context>,
    identity: Identity,
    /// The same as `state.connection.is_some()`, for those who must not wait for the state.
    connected: AtomicBool,
    state: Mutex<State>,
}

/// Whom a session belongs to.
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
    /// The id by which the client knows the numbers of its pushes, which a restart does not change. The
    /// same as `id` once the client has been here.
    pushes_known_as: u64,
    /// Of the last connection; `None` before the first since the start of the gateway.
    epoch: Option<u64>,
    connection: Option<Arc<Signal>>,
    /// Connections whose handshake is under way.
    pub(super) visitors: Visitors,
    /// The password that was found right last, so that it need not be checked for a visitor.
    pub(super) login: Option<Box<Login>>,
    away_since: Option<Instant>,
    ended: bool,
    /// Whether the session stands in `Due::away`, and in `Due::outcomes`.
    due_away: bool,
    due_outcomes: bool,
    pub(super) ledger: Option<Box<Ledger<Arc<Exchange>>>>,
    /// Running exchanges that the ledger had no room for.
    pub(super) unrecorded: Vec<Arc<Exchange>>,
    pushes: Option<Box<PushQueue>>,
    push_id_last: u64,
    /// The store knows that ids up to this one may have been used.
    push_ids_reserved: u64,
}

/// Ids reserved with one write. After a restart as many may be left out.
const PUSH_IDS_RESERVED: u64 = 1024;
/// Larger ids come from a client that makes them up; they must not exhaust the numbers.
const PUSH_ID_MAX: u64 = 1 << 60;

impl LinkSession {
    pub(super) fn new(identity: Identity, context: Arc<Context>) -> Arc<Self> {
        let id = fastrand::u64(1..);
        let state = Mutex::new(State { id, pushes_known_as: id, ..State::default() });
        Arc::new(Self { context, identity, connected: AtomicBool::new(false), state })
    }

    /// The client's id.
    pub fn client_id(&self) -> &Arc<str> {
        &self.identity.client_id
    }

    /// The user that the session belongs to.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.identity.user.as_ref()
    }

    pub(super) fn register(self: &Arc<Self>) -> Result<(), RegisterError> {
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.register(&self.identity.client_id, self.identity.user.clone(), mailbox)
    }

    pub(super) fn check_owner(&self, claimed: &Identity) -> Result<(), OpenError> {
        if !self.identity.secret_hash.matches(&claimed.secret_hash) {
            return Err(OpenError::WrongSecret);
        }
        if self.identity.user != claimed.user {
            return Err(OpenError::WrongUser);
        }
        Ok(())
    }

    /// Makes a connection whose ownership was checked the holder of the session.
    pub(super) fn adopt(self: &Arc<Self>, hello: &Hello) -> Result<Opened, OpenError> {
        let signal = Arc::new(Signal::default());
        let adopted = self.adopt_by(hello, &signal)?;
        let Adopted { session_id, resumed, unknown, attached, refused, subscriptions } = adopted;
        let lease = Lease::new(self.clone(), signal);
        Ok(Opened { lease, session_id, resumed, unknown, attached, refused, subscriptions })
    }

    /// The same for the connection of `signal`, which may have been a visitor.
    pub(super) fn adopt_by(
        self: &Arc<Self>,
        hello: &Hello,
        signal: &Arc<Signal>,
    ) -> Result<Adopted, OpenError> {
        let Holder { session_id, resumed, unspoken } = self.take_over(hello, signal)?;
        let (subscriptions, differ) = self.replace_subscriptions(&hello.topics);
        if differ || !resumed {
            self.persist();
        }
        let mut adopted = Adopted {
            session_id,
            resumed,
            unknown: Vec::new(),
            attached: Vec::new(),
            refused: Vec::new(),
            subscriptions,
        };
        if resumed {
            self.resolve_waiting(hello, &unspoken, signal, &mut adopted);
        }
        Ok(adopted)
    }

    fn take_over(self: &Arc<Self>, hello: &Hello, signal: &Arc<Signal>) -> Result<Holder, OpenError> {
        let mut state = self.state.lock();
        if !state.is_newer(hello.epoch) {
            return Err(OpenError::TakenOver);
        }
        state.visitors.leave(signal);
        let older = state.connection.take().inspect(|older| older.revoke(Revoked::TakenOver));
        state.visitors.dismiss(hello.epoch, Revoked::TakenOver);
        let handed_over = state.visitors.handed_over(hello.epoch, signal);
        if older.is_some() {
            self.connection_lost(&mut state, &handed_over.own);
        }
        self.begun_left(&mut state, handed_over.others);
        state.epoch = Some(hello.epoch);
        state.away_since = None;
        state.connection = Some(signal.clone());
        self.connected.store(true, Ordering::Release);
        let knows_pushes = [state.id, state.pushes_known_as].contains(&hello.session_id);
        self.resume_pushes(&mut state, if knows_pushes { hello.push_received } else { 0 }, signal);
        let resumed = hello.session_id == state.id;
        if !resumed {
            // The client counts what it sent before as lost, and numbers on from there. The id names what is
            // remembered of requests, so that none that was forgotten passes for one never seen.
            state.forget_requests("the client began the session anew");
            state.id = fastrand::u64(1..);
            state.visitors.dismiss(u64::MAX, Revoked::TakenOver);
            let limits = self.context.ledger_limits();
            state.ledger =
                (hello.outcome_floor > 0).then(|| Box::new(Ledger::new(limits, hello.outcome_floor)));
        }
        state.pushes_known_as = state.id;
        Ok(Holder { session_id: state.id, resumed, unspoken: handed_over.unspoken })
    }

    fn resume_pushes(&self, state: &mut State, received: u64, signal: &Arc<Signal>) {
        let received = received.min(PUSH_ID_MAX);
        state.push_id_last = state.push_id_last.max(received);
        let Some(queue) = &mut state.pushes else { return };
        let stored = self.context.held_change(queue, |queue| queue.acknowledge(received));
        queue.resume_after(received);
        if !queue.is_empty() {
            signal.pushes();
        }
        self.forget_pushes(stored.last().copied());
    }

    /// Follows what the client says of earlier requests: what it does not wait for has been taken.
    /// It does not speak of `unspoken`.
    fn resolve_waiting(&self, hello: &Hello, unspoken: &[u64], signal: &Arc<Signal>, opened: &mut Adopted) {
        let mut state = self.state.lock();
        let ledger = state.ledger_mut(&self.context);
        let waiting = hello.waiting.iter().map(|waiting| waiting.seq);
        let wanted = waiting.chain(unspoken.iter().copied());
        opened.unknown = ledger.reconcile(hello.outcome_floor, wanted);
        for waiting in &hello.waiting {
            match attach(ledger, waiting.seq, waiting.messages_received, signal) {
                None => {}
                Some(Ok(consumer)) => opened.attached.push(consumer),
                Some(Err(error)) => opened.refused.push((waiting.seq, error)),
            }
        }
    }

    /// The state, if `signal` is that of the connection that holds the session.
    pub(super) fn held_by(&self, signal: &Arc<Signal>) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.is_held_by(signal).then_some(state)
    }

    /// The connection of `signal` is gone. No effect on the session if another one holds it.
    pub(super) fn detach(self: &Arc<Self>, signal: &Arc<Signal>) {
        let Some(mut state) = self.held_by(signal) else { return self.visitor_gone(signal) };
        state.connection = None;
        self.connection_lost(&mut state, &[]);
        drop(state);
        self.note_away();
    }

    /// What a visitor began has arrived whole: it goes on, for who asks for it next.
    fn visitor_gone(self: &Arc<Self>, signal: &Arc<Signal>) {
        let mut state = self.state.lock();
        let begun = state.visitors.leave(signal);
        self.begun_left(&mut state, begun);
    }

    fn begun_left(self: &Arc<Self>, state: &mut State, begun: Vec<u64>) {
        for seq in begun {
            if let Some(exchange) = state.exchange(seq).cloned() {
                self.exchange_lost(state, &exchange);
            }
        }
        self.queue_outcomes(state);
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
        if state.connection.is_some() {
            return;
        }
        state.away_since = Some(now);
        if !mem::replace(&mut state.due_away, true) {
            self.context.due.away.push(now + self.context.settings.load().expiry, Arc::downgrade(self));
        }
    }

    /// Whether the session has been away for too long. If not, it is looked at again in time.
    pub(super) fn has_expired(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.due_away = false;
        let Some(away_since) = state.away_since else { return false };
        let expires = away_since + self.context.settings.load().expiry;
        if expires <= now {
            return true;
        }
        state.due_away = true;
        self.context.due.away.push(expires, Arc::downgrade(self));
        false
    }

    /// What every loss of the holder means, whether another one follows or not. What visitors have begun,
    /// and the next holder as such (`begun`), was never the lost one's.
    fn connection_lost(self: &Arc<Self>, state: &mut State, begun: &[u64]) {
        self.connected.store(false, Ordering::Release);
        let spared: BTreeSet<u64> = state.visitors.begun().chain(begun.iter().copied()).collect();
        let recorded = state.ledger.iter().flat_map(|ledger| ledger.iter().map(|(_, exchange)| exchange));
        let exchanges =
            recorded.chain(&state.unrecorded).filter(|exchange| !spared.contains(&exchange.seq()));
        for exchange in exchanges.cloned().collect::<Vec<_>>() {
            self.exchange_lost(state, &exchange);
        }
        self.queue_outcomes(state);
        let Some(queue) = &mut state.pushes else { return };
        self.context.held_change(queue, PushQueue::connection_lost);
    }

    fn exchange_lost(&self, state: &mut State, exchange: &Exchange) {
        if let Some(execution) = exchange.connection_lost() {
            state.cancelled(exchange.seq(), execution, self.context.clock.now());
        }
    }

    /// Ends the session: nothing of it is kept.
    pub(super) fn end(self: &Arc<Self>) {
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.unregister(&self.identity.client_id, &mailbox);
        let mut state = self.state.lock();
        state.ended = true;
        if let Some(connection) = state.connection.take() {
            connection.revoke(Revoked::Ended);
        }
        state.visitors.dismiss(u64::MAX, Revoked::Ended);
        self.connected.store(false, Ordering::Release);
        state.forget_requests("the session has ended");
        if let Some(queue) = state.pushes.take() {
            self.context.held.sub(queue.bytes());
        }
        let key = self.identity.client_id.as_bytes().to_vec();
        self.context.forget(Write::Delete { table: Table::Sessions, key });
        self.forget_pushes((state.push_id_last > 0).then_some(u64::MAX));
    }

    /// The gateway goes: the session lets go of the hub, and what waits is left to the store.
    pub(super) fn suspend(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if let Some(connection) = state.connection.take() {
            connection.revoke(Revoked::Ended);
            self.connection_lost(&mut state, &[]);
        }
        state.visitors.dismiss(u64::MAX, Revoked::Ended);
        drop(state);
        let mailbox: Arc<dyn Mailbox> = self.clone();
        self.context.hub.unregister(&self.identity.client_id, &mailbox);
    }
}

/// Requests.
impl LinkSession {
    /// The client has taken these outcomes.
    pub(super) fn acknowledge(&self, ack: &Ack) {
        if let Some(ledger) = &mut self.state.lock().ledger {
            ledger.acknowledge(ack);
        }
    }

    /// Counts `added` bytes of an answer. False: the session has no room for the record.
    pub(super) fn record(&self, exchange: &Arc<Exchange>, added: usize) -> bool {
        let mut state = self.state.lock();
        let Some(ledger) = &mut state.ledger else { return false };
        let outcomes = ledger.outcomes();
        let recorded = ledger.record(exchange.seq(), added);
        if !recorded || ledger.outcomes() < outcomes {
            self.context.limit_hit("session.outcome_bytes_max");
        }
        let is_known = |held: &Arc<Exchange>| Arc::ptr_eq(held, exchange);
        if !recorded && !state.unrecorded.iter().any(is_known) {
            state.unrecorded.push(exchange.clone());
        }
        recorded
    }

    /// The answer is complete.
    pub(super) fn finished(self: &Arc<Self>, seq: u64) {
        let now = self.context.clock.now();
        let mut state = self.state.lock();
        state.unrecorded.retain(|exchange| exchange.seq() != seq);
        let Some(ledger) = &mut state.ledger else { return };
        let outcomes = ledger.outcomes();
        ledger.finish(seq, now);
        if ledger.get(seq).is_some() && ledger.outcomes() <= outcomes {
            self.context.limit_hit("session.outcomes_max");
        }
        self.queue_outcomes(&mut state);
    }

    /// The request was given up.
    pub(super) fn cancelled(self: &Arc<Self>, seq: u64, execution: Execution) {
        let mut state = self.state.lock();
        state.cancelled(seq, execution, self.context.clock.now());
        self.queue_outcomes(&mut state);
    }

    pub(super) fn expire_outcomes(self: &Arc<Self>, now: Instant) {
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

    fn queue_outcomes(self: &Arc<Self>, state: &mut State) {
        let next = state.ledger.as_ref().and_then(|ledger| ledger.next_expiry());
        if let Some(at) = next
            && !mem::replace(&mut state.due_outcomes, true)
        {
            self.context.due.outcomes.push(at, Arc::downgrade(self));
        }
    }
}

/// What became of a session that a connection took.
struct Holder {
    session_id: u64,
    /// Whether the session is the one that the client speaks of.
    resumed: bool,
    /// Requests of which HELLO does not speak.
    unspoken: Vec<u64>,
}

/// [`Opened`], but for the lease.
pub(super) struct Adopted {
    pub(super) session_id: u64,
    pub(super) resumed: bool,
    pub(super) unknown: Vec<u64>,
    pub(super) attached: Vec<Consumer>,
    pub(super) refused: Vec<(u64, RpcError)>,
    pub(super) subscriptions: Changed,
}

impl State {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_held_by(&self, signal: &Arc<Signal>) -> bool {
        self.connection.as_ref().is_some_and(|held| Arc::ptr_eq(held, signal))
    }

    /// Whether a connection of `epoch` may take the session over.
    pub(super) fn is_newer(&self, epoch: u64) -> bool {
        self.epoch.is_none_or(|held| epoch > held)
    }

    /// A request that runs, or whose outcome is kept.
    pub(super) fn exchange(&self, seq: u64) -> Option<&Arc<Exchange>> {
        let recorded = self.ledger.as_ref().and_then(|ledger| ledger.get(seq));
        recorded.or_else(|| self.unrecorded.iter().find(|held| held.seq() == seq))
    }

    pub(super) fn ledger_mut(&mut self, context: &Context) -> &mut Ledger<Arc<Exchange>> {
        self.ledger.get_or_insert_with(|| Box::new(Ledger::new(context.ledger_limits(), 0)))
    }

    /// Ends what runs and drops what is recorded.
    fn forget_requests(&mut self, why: &str) {
        let ledger = self.ledger.take();
        let recorded = ledger.iter().flat_map(|ledger| ledger.iter().map(|(_, exchange)| exchange));
        for exchange in recorded.chain(&self.unrecorded) {
            exchange.cancel(why);
        }
        self.unrecorded = Vec::new();
        self.visitors.forget();
    }

    /// A request that has not run is as if it had never been seen.
    fn cancelled(&mut self, seq: u64, execution: Execution, now: Instant) {
        self.unrecorded.retain(|exchange| exchange.seq() != seq);
        let Some(ledger) = &mut self.ledger else { return };
        if execution == Execution::NotRun {
            ledger.forget(seq);
        } else {
            ledger.finish(seq, now);
        }
    }
}

/// Hands the connection of `signal` a request that the ledger knows; `None` when it does not.
pub(super) fn attach(
    ledger: &Ledger<Arc<Exchange>>,
    seq: u64,
    messages_received: u64,
    signal: &Arc<Signal>,
) -> Option<Result<Consumer, RpcError>> {
    let admission = ledger.admit(seq);
    if let Some(error) = admission.error() {
        return Some(Err(error));
    }
    match admission {
        Admission::Attach(exchange) | Admission::Replay(exchange) => {
            Some(exchange.attach(messages_received, signal))
        }
        _ => None,
    }
}

/// Pushes.
impl LinkSession {
    /// The next push for the connection that holds the session.
    pub(super) fn next_push(&self, state: &mut State) -> Option<super::PendingPush> {
        let (bounds, now) = (self.context.push_bounds(), self.context.clock.now());
        let queue = state.pushes.as_mut()?;
        let mut given = Vec::new();
        let next = self.context.held_change(queue, |queue| queue.next(&bounds, now, &mut given));
        self.give_up(given);
        next
    }

    /// The client has taken the pushes up to `id`; false when it cannot have.
    pub(super) fn push_ack(&self, state: &mut State, id: u64) -> bool {
        if id > state.push_id_last {
            return false;
        }
        let Some(queue) = &mut state.pushes else { return true };
        if !queue.was_sent(id) {
            return false;
        }
        let stored = self.context.held_change(queue, |queue| queue.acknowledge(id));
        if queue.is_empty() {
            state.pushes = None;
        }
        self.forget_pushes(stored.last().copied());
        true
    }

    pub(super) fn restore_push_ids(&self, known_as: u64, reserved: u64) {
        let mut state = self.state.lock();
        state.pushes_known_as = known_as;
        state.push_id_last = reserved;
        state.push_ids_reserved = reserved;
    }

    pub(super) fn restore_push(&self, push: QueuedPush) {
        let mut state = self.state.lock();
        state.push_id_last = state.push_id_last.max(push.id);
        let queue = state.pushes.get_or_insert_default();
        let bounds = self.context.push_bounds();
        let given = self.context.held_change(queue, |queue| queue.push(push, &bounds));
        self.give_up(given);
    }

    /// Queues a push under the next id, and returns the id if it is kept.
    fn enqueue(&self, state: &mut State, message: &Arc<Message>, qos: u8) -> Option<u64> {
        let id = state.push_id_last + 1;
        self.reserve_push_id(state, id).ok()?;
        state.push_id_last = id;
        let queued_at = self.context.clock.now();
        let push = QueuedPush { id, message: message.clone(), qos, queued_at, stored: false };
        let queue = state.pushes.get_or_insert_default();
        let bounds = self.context.push_bounds();
        let given = self.context.held_change(queue, |queue| queue.push(push, &bounds));
        let kept = queue.contains(id);
        self.give_up(given);
        kept.then_some(id)
    }

    /// Writes the newest push, or takes it back.
    fn store_push(&self, state: &mut State, id: u64) -> Delivered {
        let Some(queue) = &mut state.pushes else { return Delivered::Dropped };
        let Some(push) = queue.newest_mut().filter(|push| push.id == id) else { return Delivered::Dropped };
        let write = self.put_push(push);
        if self.context.write(write).is_ok() {
            push.stored = true;
            return Delivered::Stored;
        }
        self.context.held_change(queue, |queue| queue.take_back(id));
        Delivered::Dropped
    }

    fn reserve_push_id(&self, state: &mut State, id: u64) -> Result<(), QueueFull> {
        if id <= state.push_ids_reserved {
            return Ok(());
        }
        let reserved = id + PUSH_IDS_RESERVED;
        self.context.write(self.put_identity(state.pushes_known_as, reserved))?;
        state.push_ids_reserved = reserved;
        Ok(())
    }

    fn give_up(&self, given: Vec<Given>) {
        for Given { push, limit } in given {
            self.context.limit_hit(limit);
            if push.stored {
                let key = push_key(&self.identity.client_id, push.id);
                self.context.forget(Write::Delete { table: Table::Pushes, key });
            }
        }
    }

    /// Removes all stored pushes up to `last`.
    fn forget_pushes(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        let key = |id| push_key(&self.identity.client_id, id);
        self.context.forget(Write::DeleteRange { table: Table::Pushes, first: key(0), last: key(last) });
    }

    /// Writes who owns the session and what it subscribed to.
    pub(super) fn persist(&self) {
        let (known_as, reserved) = {
            let state = self.state.lock();
            (state.pushes_known_as, state.push_ids_reserved)
        };
        // Refused only when the disk cannot follow; the next change or push writes it again.
        _ = self.context.write(self.put_identity(known_as, reserved));
    }

    fn put_identity(&self, pushes_known_as: u64, push_ids_reserved: u64) -> Write {
        let subscriptions = self.context.hub.subscriptions(&self.identity.client_id);
        let record = SessionRecord {
            secret_hash: self.identity.secret_hash.0,
            user: self.identity.user.clone(),
            pushes_known_as,
            push_ids_reserved,
            filters: subscriptions.into_iter().map(|(filter, options)| (filter, options.qos)).collect(),
        };
        let key = self.identity.client_id.as_bytes().to_vec();
        Write::Put { table: Table::Sessions, key, value: record.encode() }
    }

    fn put_push(&self, push: &QueuedPush) -> Write {
        let key = push_key(&self.identity.client_id, push.id);
        Write::Put { table: Table::Pushes, key, value: encode_push(push, &self.context.clock) }
    }
}

impl Mailbox for LinkSession {
    /// `Sent`: queued for the live connection. `Stored`: queued until the client is back. Either way a
    /// push of quality 1 is on its way to the store, and durable after the store's barrier: a connection
    /// that looks alive may be dead, and the gateway may end before it knows.
    fn deliver(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        if message.expires.is_some_and(|expires| expires <= self.context.clock.now()) {
            return Delivered::Dropped;
        }
        if self.context.is_full() {
            self.context.limit_hit("session_bytes_held");
            return Delivered::Dropped;
        }
        let mut state = self.state.lock();
        if state.ended || (delivery.qos == 0 && state.connection.is_none()) {
            return Delivered::Dropped;
        }
        let Some(id) = self.enqueue(&mut state, message, delivery.qos) else {
            return Delivered::Dropped;
        };
        if delivery.qos > 0 && self.store_push(&mut state, id) == Delivered::Dropped {
            return Delivered::Dropped;
        }
        match &state.connection {
            Some(connection) => {
                connection.pushes();
                Delivered::Sent
            }
            None => Delivered::Stored,
        }
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl Context {
    pub(super) fn ledger_limits(&self) -> LedgerLimits {
        let settings = self.settings.load();
        LedgerLimits {
            outcomes_max: settings.outcomes_max,
            outcome_bytes_max: settings.outcome_bytes_max,
            outcome_age_max: settings.outcome_age_max,
        }
    }

    fn push_bounds(&self) -> PushBounds {
        let settings = self.settings.load();
        PushBounds {
            count_max: settings.pushes_max,
            bytes_max: settings.push_bytes_max,
            age_max: settings.push_age_max,
        }
    }

    /// Changes a queue and keeps the count of all bytes held.
    fn held_change<T>(&self, queue: &mut PushQueue, change: impl FnOnce(&mut PushQueue) -> T) -> T {
        let before = queue.bytes();
        let result = change(queue);
        self.held.add(queue.bytes());
        self.held.sub(before);
        result
    }

    fn write(&self, write: Write) -> Result<(), QueueFull> {
        self.store.write(write).inspect_err(|_| self.limit_hit("store_queue_bytes"))
    }

    /// Removes something from the store. If the queue is full it stays until the next restart, which
    /// delivers it once more or finds it expired.
    pub(super) fn forget(&self, write: Write) {
        _ = self.write(write);
    }
}
