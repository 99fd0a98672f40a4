//! The pushes of a session: queued, stored, sent and acknowledged.

use std::sync::{Arc, atomic::Ordering};

use towline_protocols::link::{Priority, PushesTaken, client::PushMarks};

use super::{LinkSession, State};
use crate::{
    hub::{Delivered, Delivery, Mailbox, Message},
    receipts::Progress,
    session::{
        Context, PendingPush,
        push_queue::{Given, Loss, PushBounds, PushQueue, QueuedPush},
        record::{SessionRecord, encode_push, push_key},
        signal::Signal,
    },
    store::{QueueFull, Table, Write},
};

/// Ids reserved with one write. After a restart as many may be left out.
pub(in crate::session) const PUSH_IDS_RESERVED: u64 = 1024;
/// Larger ids come from a client that makes them up; they must not exhaust the numbers.
const PUSH_ID_MAX: u64 = 1 << 60;
/// The bound on what waits for the disk, as it is counted.
const STORE_FULL: &str = "store_queue_bytes";

impl LinkSession {
    /// Names the numbering of the session's pushes, for WELCOME.
    pub fn push_line(&self) -> u64 {
        self.state.lock().push_line
    }

    /// A connection comes whose client has taken pushes, if they are of this numbering.
    pub(super) fn resume_pushes(&self, state: &mut State, taken: Option<&PushesTaken>, signal: &Arc<Signal>) {
        let taken = self.acknowledge_taken(state, taken);
        let Some(queue) = &mut state.pushes else { return };
        queue.resume_after(taken);
        signal.pushes();
    }

    /// Follows HELLO.pushes_taken, if it is of this numbering.
    pub(in crate::session) fn acknowledge_taken(
        &self,
        state: &mut State,
        taken: Option<&PushesTaken>,
    ) -> PushMarks {
        let of_this_line = taken.filter(|taken| taken.push_line == state.push_line);
        let taken = PushMarks::new(of_this_line.map_or(&[], |taken| &taken.ids));
        state.push_id_last = state.push_id_last.max(taken.max().min(PUSH_ID_MAX));
        for urgency in 0..=Priority::BACKGROUND.urgency() {
            let lane = Priority::new(urgency);
            self.acknowledge_pushes(state, lane, taken.get(lane));
        }
        taken
    }

    /// The first pushes that wait for an acknowledgement, whoever has sent them; one at least, if there is one.
    pub(in crate::session) fn first_pushes(
        &self,
        state: &State,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<PendingPush> {
        let (bounds, now) = (self.context.push_bounds(), self.context.clock.now());
        let first = state.pushes.as_ref().map(|queue| queue.first(&bounds, now, count_max, bytes_max));
        let first = first.unwrap_or_default();
        first.iter().for_each(|push| self.tell_backend(&push.message, Progress::Sent));
        first
    }

    /// The next push for the connection that holds the session.
    pub(in crate::session) fn next_push(&self, state: &mut State) -> Option<PendingPush> {
        let (bounds, now) = (self.context.push_bounds(), self.context.clock.now());
        let queue = state.pushes.as_mut()?;
        let mut given = Vec::new();
        let next = self.held.change(queue, |queue| queue.next(&bounds, now, &mut given));
        self.give_up(given);
        next.inspect(|push| self.tell_backend(&push.message, Progress::Sent))
    }

    /// The client has taken the pushes of a lane up to `id`; false when it cannot have.
    pub(in crate::session) fn push_ack(&self, state: &mut State, lane: Priority, id: u64) -> bool {
        if id > state.push_id_last || state.pushes.as_ref().is_some_and(|queue| !queue.was_sent(lane, id)) {
            return false;
        }
        self.acknowledge_pushes(state, lane, id);
        true
    }

    /// The connection cannot carry the push: its client said that it takes none of this kind.
    pub(in crate::session) fn refuse_push(&self, state: &mut State, id: u64, limit: &'static str) {
        let Some(queue) = &mut state.pushes else { return };
        let push = self.held.change(queue, |queue| queue.take(id));
        self.give_up(push.map(|push| Given { push, why: Loss::Bound(limit) }));
    }

    fn acknowledge_pushes(&self, state: &mut State, lane: Priority, id: u64) {
        let Some(queue) = &mut state.pushes else { return };
        let taken = self.held.change(queue, |queue| queue.acknowledge(lane, id));
        if queue.is_empty() {
            state.pushes = None;
        }
        for push in taken {
            // Told first: a crash between the two lets the client acknowledge again.
            self.tell_backend(&push.message, Progress::Acknowledged);
            self.forget_push(&push);
        }
    }

    pub(in crate::session) fn restore_push_ids(&self, push_line: u64, reserved: u64) {
        let mut state = self.state.lock();
        state.push_line = push_line;
        state.push_id_last = reserved;
        state.push_ids_reserved = reserved;
    }

    /// The store holds a block of ids beyond those that were restored.
    pub(in crate::session) fn reserved_push_ids(&self) {
        self.state.lock().push_ids_reserved += PUSH_IDS_RESERVED;
    }

    pub(in crate::session) fn restore_push(&self, push: QueuedPush) {
        let mut state = self.state.lock();
        state.push_id_last = state.push_id_last.max(push.id);
        let queue = state.pushes.get_or_insert_default();
        let bounds = self.context.push_bounds();
        let given = self.held.change(queue, |queue| queue.restore(push, &bounds));
        self.give_up(given);
    }

    /// Takes a message in, or says why not.
    fn accept(&self, message: &Arc<Message>, qos: u8) -> Result<Delivered, Progress> {
        if message.expires.is_some_and(|expires| expires <= self.context.clock.now()) {
            return Err(Progress::Expired);
        }
        if let Some(bound) = self.full() {
            return Err(self.met(bound));
        }
        let mut state = self.state.lock();
        if state.ended {
            return Err(Progress::Dropped("session_ended"));
        }
        if qos == 0 && !state.is_connected() {
            return Err(Progress::Dropped("away"));
        }
        self.enqueue(&mut state, message, qos)?;
        match state.hold.connection() {
            Some(connection) => {
                connection.pushes();
                Ok(Delivered::Sent)
            }
            None => Ok(Delivered::Stored),
        }
    }

    /// Queues a push under the next id and writes it.
    fn enqueue(&self, state: &mut State, message: &Arc<Message>, qos: u8) -> Result<(), Progress> {
        let id = state.push_id_last + 1;
        self.reserve_push_ids(state, id).map_err(|QueueFull| Progress::Dropped(STORE_FULL))?;
        state.push_id_last = id;
        let queued_at = self.context.clock.now();
        let lane = message.priority;
        let push = QueuedPush { id, lane, message: message.clone(), qos, queued_at, stored: false };
        let queue = state.pushes.get_or_insert_default();
        let bounds = self.context.push_bounds();
        let mut given = self.held.change(queue, |queue| queue.push(push, &bounds));
        let refused = given.extract_if(.., |given| given.push.id == id).next();
        let written = if qos > 0 && refused.is_none() { self.store_push(queue, id) } else { Ok(()) };
        // What was replaced is forgotten behind its successor.
        self.give_up(given);
        match refused {
            Some(Given { why: Loss::Bound(limit), .. }) => Err(self.met(limit)),
            Some(_) => Err(Progress::Expired),
            None => written.map_err(|QueueFull| Progress::Dropped(STORE_FULL)),
        }
    }

    /// Writes a push, or takes it back.
    fn store_push(&self, queue: &mut PushQueue, id: u64) -> Result<(), QueueFull> {
        let Some(push) = queue.get_mut(id) else { return Ok(()) };
        let written = self.context.write(self.put_push(push));
        push.stored = written.is_ok();
        if written.is_err() {
            self.held.change(queue, |queue| queue.take(id));
        }
        written
    }

    /// Ids must be on disk as used before they are: a client that has seen a number takes what comes under it
    /// again for a repeat. So the next block is written when half of the last one is left.
    fn reserve_push_ids(&self, state: &mut State, id: u64) -> Result<(), QueueFull> {
        if id + PUSH_IDS_RESERVED / 2 <= state.push_ids_reserved {
            return Ok(());
        }
        let reserved = id + PUSH_IDS_RESERVED;
        self.context.write(self.put_identity(state.push_line, reserved))?;
        state.push_ids_reserved = reserved;
        Ok(())
    }

    pub(super) fn give_up(&self, given: impl IntoIterator<Item = Given>) {
        for Given { push, why } in given {
            let progress = match why {
                Loss::Bound(limit) => self.met(limit),
                Loss::Expired => {
                    self.met("session.push_age_max");
                    Progress::Expired
                }
                Loss::Replaced => Progress::Dropped("replaced"),
                Loss::Attempted => Progress::Dropped("connection_lost"),
            };
            self.tell_backend(&push.message, progress);
            self.forget_push(&push);
        }
    }

    /// Counts a bound that was met.
    fn met(&self, limit: &'static str) -> Progress {
        self.context.limit_hit(limit);
        Progress::Dropped(limit)
    }

    pub(super) fn tell_backend(&self, message: &Message, progress: Progress) {
        if let Some(ticket) = &message.receipt {
            ticket.note(self.client_id(), progress);
        }
    }

    fn forget_push(&self, push: &QueuedPush) {
        if push.stored {
            let key = push_key(self.client_id(), push.id);
            self.context.forget(Write::Delete { table: Table::Pushes, key });
        }
    }

    /// Removes all stored pushes up to `last`.
    pub(super) fn forget_pushes(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        let key = |id| push_key(self.client_id(), id);
        self.context.forget(Write::DeleteRange { table: Table::Pushes, first: key(0), last: key(last) });
    }

    /// Writes who owns the session and what it subscribed to. Under the lock, or an earlier state of the ids
    /// could be written behind a later one.
    pub(in crate::session) fn persist(&self) {
        let mut state = self.state.lock();
        let reserved = state.push_ids_reserved.max(state.push_id_last + PUSH_IDS_RESERVED);
        // Refused only when the disk cannot follow; the next change or push writes it again.
        if self.context.write(self.put_identity(state.push_line, reserved)).is_ok() {
            state.push_ids_reserved = reserved;
        }
    }

    fn put_identity(&self, push_line: u64, push_ids_reserved: u64) -> Write {
        let subscriptions = self.context.hub.subscriptions(self.client_id());
        let record = SessionRecord {
            secret_hash: self.secret_hash.0,
            user: self.user().cloned(),
            push_line,
            push_ids_reserved,
            filters: subscriptions.into_iter().map(|(filter, options)| (filter, options.qos)).collect(),
        };
        let key = self.client_id().as_bytes().to_vec();
        Write::Put { table: Table::Sessions, key, value: record.encode() }
    }

    fn put_push(&self, push: &QueuedPush) -> Write {
        let key = push_key(self.client_id(), push.id);
        Write::Put { table: Table::Pushes, key, value: encode_push(push, &self.context.clock) }
    }
}

impl Mailbox for LinkSession {
    /// `Sent`: queued for the live connection. `Stored`: queued until the client is back. Either way a
    /// push of quality 1 is on its way to the store, and durable after the store's barrier: a connection
    /// that looks alive may be dead, and the gateway may end before it knows.
    fn deliver(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        let accepted = self.accept(message, delivery.qos);
        self.tell_backend(message, accepted.map_or_else(|progress| progress, |_| Progress::Accepted));
        accepted.unwrap_or(Delivered::Dropped)
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

    pub(super) fn write(&self, write: Write) -> Result<(), QueueFull> {
        self.store.write(write).inspect_err(|_| self.limit_hit("store_queue_bytes"))
    }

    /// Removes something from the store. If the queue is full it stays until the next restart, which
    /// delivers it once more or finds it expired.
    pub(in crate::session) fn forget(&self, write: Write) {
        _ = self.write(write);
    }
}
