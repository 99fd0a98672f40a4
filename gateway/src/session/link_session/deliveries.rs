//! The pushes of a session: queued, stored, sent and acknowledged.

use std::sync::{Arc, atomic::Ordering};

use super::{LinkSession, State};
use crate::{
    hub::{Delivered, Delivery, Mailbox, Message},
    session::{
        Context, PendingPush,
        push_queue::{Given, PushBounds, PushQueue, QueuedPush},
        record::{SessionRecord, encode_push, push_key},
        signal::Signal,
    },
    store::{QueueFull, Table, Write},
};

/// Ids reserved with one write. After a restart as many may be left out.
const PUSH_IDS_RESERVED: u64 = 1024;
/// Larger ids come from a client that makes them up; they must not exhaust the numbers.
const PUSH_ID_MAX: u64 = 1 << 60;

impl LinkSession {
    pub(super) fn resume_pushes(&self, state: &mut State, received: u64, signal: &Arc<Signal>) {
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

    /// The next push for the connection that holds the session.
    pub(in crate::session) fn next_push(&self, state: &mut State) -> Option<PendingPush> {
        let (bounds, now) = (self.context.push_bounds(), self.context.clock.now());
        let queue = state.pushes.as_mut()?;
        let mut given = Vec::new();
        let next = self.context.held_change(queue, |queue| queue.next(&bounds, now, &mut given));
        self.give_up(given);
        next
    }

    /// The client has taken the pushes up to `id`; false when it cannot have.
    pub(in crate::session) fn push_ack(&self, state: &mut State, id: u64) -> bool {
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

    pub(in crate::session) fn restore_push_ids(&self, known_as: u64, reserved: u64) {
        let mut state = self.state.lock();
        state.pushes_known_as = known_as;
        state.push_id_last = reserved;
        state.push_ids_reserved = reserved;
    }

    pub(in crate::session) fn restore_push(&self, push: QueuedPush) {
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
    pub(super) fn forget_pushes(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        let key = |id| push_key(&self.identity.client_id, id);
        self.context.forget(Write::DeleteRange { table: Table::Pushes, first: key(0), last: key(last) });
    }

    /// Writes who owns the session and what it subscribed to.
    pub(in crate::session) fn persist(&self) {
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
    fn push_bounds(&self) -> PushBounds {
        let settings = self.settings.load();
        PushBounds {
            count_max: settings.pushes_max,
            bytes_max: settings.push_bytes_max,
            age_max: settings.push_age_max,
        }
    }

    /// Changes a queue and keeps the count of all bytes held.
    pub(super) fn held_change<T>(
        &self,
        queue: &mut PushQueue,
        change: impl FnOnce(&mut PushQueue) -> T,
    ) -> T {
        let before = queue.bytes();
        let result = change(queue);
        self.held.add(queue.bytes());
        self.held.sub(before);
        result
    }

    pub(super) fn write(&self, write: Write) -> Result<(), QueueFull> {
        self.store.write(write).inspect_err(|_| self.limit_hit("store_queue_bytes"))
    }

    /// Removes something from the store. If the queue is full it stays until the next restart, which
    /// delivers it once more or finds it expired.
    pub(in crate::session) fn forget(&self, write: Write) {
        _ = self.write(write);
    }
}
