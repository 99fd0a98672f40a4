//! One client: its session, and its connection while there is one.

use std::{
    sync::{Arc, Weak},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec};
use towline_protocols::mqtt::{
    PacketId, ReasonCode,
    session::{Bound, Connection, Orphan, Push, Session, Settings, Terms},
};

use super::{
    kept::{Away, Keeper, Place, SessionRecord, WillRecord, numbered_key, numbered_range},
    message::{Shared, qos, view},
};
use crate::{
    backend::pass_turn,
    hub::{Delivered, Delivery, Mailbox, Message, Room, Rooms},
    presence::{Presence, What},
    receipts::Progress,
    request::Origin,
    store::{Table, Write},
};

/// What the clients of a gateway share.
pub(super) struct Common {
    pub(super) keeper: Keeper,
    /// Messages lost to a bound or to their expiry.
    pub(super) dropped: IntCounter,
    pub(super) limit_hits: IntCounterVec,
    pub(super) presence: Arc<Presence>,
}

/// A client's session and its place in the hub. It outlives connections and ends with the session.
pub(super) struct Client {
    pub(super) id: Arc<str>,
    /// Who it belongs to, on listeners that authenticate.
    pub(super) user: Option<Arc<str>>,
    pub(super) common: Arc<Common>,
    inner: Mutex<Inner>,
}

/// Guarded together: a message that arrives while a connection comes or goes is either sent or stored.
pub(super) struct Inner {
    /// Made when first used, and given up when the connection parks with nothing in it.
    session: Option<Box<Session<Shared>>>,
    /// Of the newest connection.
    pub(super) settings: Arc<Settings>,
    pub(super) connection: Option<Connection>,
    /// Counts connections, so that one that was taken over knows that it is not the one at hand.
    pub(super) epoch: u32,
    /// Topic filters in the hub.
    pub(super) subscriptions: u32,
    /// The session has ended: it takes no message any more.
    is_over: bool,
    /// Whether the store knows of the session, or of its will.
    is_recorded: bool,
    /// Set if the store keeps it.
    pub(super) durable: Option<Box<Durable>>,
    pub(super) will: Option<Box<Will>>,
    /// When the absent client's will or session is due; its place in the broker's departures.
    pub(super) departure: Option<Instant>,
    /// When its session ends.
    pub(super) ends: Option<Instant>,
    /// When the present connection's client has to have proved itself anew.
    pub(super) expires: Option<Instant>,
    /// Where the present connection came from, and what vouches for its client.
    pub(super) origin: Option<Arc<Origin>>,
    /// Set when the server wants the present connection to end.
    pub(super) closing: Option<&'static Closing>,
    /// Of the present connection's driver.
    waker: Option<Waker>,
    /// It is called to look for messages, and has not looked.
    is_called: bool,
    /// What publishers wait for while the queue fills. Made when it first does.
    room: Option<Arc<Room>>,
}

/// What a session needs that the store keeps.
pub(super) struct Durable {
    /// Names what is kept of it.
    pub(super) number: u64,
    /// Of the last message with a quality above 0 that was queued for it.
    pub(super) position: u64,
    /// To be told when the store has such a message.
    client: Weak<Client>,
}

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) reason: ReasonCode,
    pub(super) text: &'static str,
}

/// What vouched for the client is withdrawn: it may come back and be looked at anew.
pub(super) static UNPROVEN: Closing =
    Closing { reason: ReasonCode::AdministrativeAction, text: "who the client is has to be found out again" };

/// A will that may have to be published.
#[derive(Debug)]
pub(super) struct Will {
    pub(super) message: Message,
    /// Message expiry, seconds from its publication.
    pub(super) expiry: Option<u32>,
    /// Will Delay Interval.
    pub(super) delay: Duration,
    /// When it is due, once the client is gone.
    pub(super) due: Option<Instant>,
    pub(super) origin: Arc<Origin>,
}

impl Client {
    pub(super) fn new(
        id: Arc<str>,
        user: Option<Arc<str>>,
        settings: Arc<Settings>,
        common: Arc<Common>,
    ) -> Self {
        let inner = Inner {
            session: None,
            settings,
            connection: None,
            epoch: 0,
            subscriptions: 0,
            is_over: false,
            is_recorded: false,
            durable: None,
            will: None,
            departure: None,
            ends: None,
            expires: None,
            origin: None,
            closing: None,
            waker: None,
            is_called: false,
            room: None,
        };
        Self { id, user, common, inner: Mutex::new(inner) }
    }

    /// Everything that changes. Never held across a call to the hub, which may come back to this client.
    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Whether a new connection may go on with the session: not if it is one that ends with its present
    /// connection [MQTT-3.1.2-6 of 3.1.1].
    pub(super) fn is_lasting(&self) -> bool {
        self.lock().connection.as_ref().is_none_or(|connection| !connection.session_expiry().is_zero())
    }

    /// Whether the store keeps the session.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().durable.is_some()
    }

    /// Lets the store keep the session from now on.
    pub(super) fn keep(self: &Arc<Self>, inner: &mut Inner) {
        if self.common.keeper.is_on() {
            inner.durable.get_or_insert_with(|| Box::new(Durable::new(fastrand::u64(1..), 0, self)));
        }
    }

    /// Writes what the session is now. Under the lock, or an earlier state could be written behind a later one.
    pub(super) fn record(&self, inner: &mut Inner) {
        let store = &self.common.keeper.store;
        let key = self.id.as_bytes().to_vec();
        if !self.common.keeper.is_on() {
            return;
        }
        if inner.durable.is_some() || inner.will.is_some() {
            let value = inner.to_record(self.user.clone()).encode();
            store.must_write(Write::Put { table: Table::MqttSessions, key, value });
            inner.is_recorded = true;
        } else if std::mem::take(&mut inner.is_recorded) {
            store.must_write(Write::Delete { table: Table::MqttSessions, key });
        }
    }

    /// Writes what the session is now, if the store knows of it still.
    pub(super) fn record_again(&self) {
        let mut inner = self.lock();
        if inner.is_recorded {
            self.record(&mut inner);
        }
    }

    /// What is kept of the session goes. Says whether anything was.
    pub(super) fn forget(&self, inner: &mut Inner) -> bool {
        let Common { keeper, .. } = &*self.common;
        let was_recorded = std::mem::take(&mut inner.is_recorded);
        if was_recorded {
            let key = self.id.as_bytes().to_vec();
            keeper.store.must_write(Write::Delete { table: Table::MqttSessions, key });
        }
        if let Some(durable) = inner.durable.take() {
            for table in [Table::MqttSubscriptions, Table::MqttReceived] {
                let (first, last) = numbered_range(durable.number);
                keeper.store.must_write(Write::DeleteRange { table, first, last });
            }
        }
        was_recorded
    }

    /// The store has, or cannot take, messages that were queued for the session.
    pub(super) fn kept_settled(&self, is_written: bool) {
        let mut inner = self.lock();
        if !is_written && let Some(session) = &mut inner.session {
            self.common.dropped.inc_by(session.drop_lost() as u64);
        }
        inner.wake();
    }

    /// Tells of the client's coming or going. Under the lock, so that it is told in its order.
    pub(super) fn tell(&self, what: What) {
        self.common.presence.tell(&self.id, self.user.as_ref(), "mqtt", what);
    }

    /// The present connection, if `concerns` says it of where it came from.
    pub(super) fn present(self: &Arc<Self>, concerns: &dyn Fn(&Origin) -> bool) -> Option<Present> {
        let inner = self.inner.lock();
        let is_meant = inner.connection.is_some() && inner.origin.as_deref().is_some_and(concerns);
        is_meant.then(|| Present { client: Arc::downgrade(self), epoch: inner.epoch })
    }

    /// Asks the present connection's driver to end it.
    pub(super) fn close(&self, closing: &'static Closing) {
        let mut inner = self.lock();
        if inner.connection.is_some() {
            inner.closing = Some(closing);
            inner.wake();
        }
    }
}

/// A connection in its session.
pub(crate) struct Present {
    client: Weak<Client>,
    epoch: u32,
}

impl Present {
    /// Has the connection end, if it is still there: its client has to prove itself anew.
    pub(crate) fn end(&self) {
        let Some(client) = self.client.upgrade() else { return };
        let mut inner = client.lock();
        if inner.epoch == self.epoch && inner.connection.is_some() {
            inner.closing.get_or_insert(&UNPROVEN);
            inner.wake();
        }
    }
}

impl Durable {
    pub(super) fn new(number: u64, position: u64, client: &Arc<Client>) -> Self {
        Self { number, position, client: Arc::downgrade(client) }
    }
}

impl Inner {
    /// Marks it as one that the store knows of.
    pub(super) fn set_recorded(&mut self) {
        self.is_recorded = true;
    }

    /// The session is over. Returns what others may have of it.
    pub(super) fn end(&mut self) -> Vec<Orphan<Shared>> {
        self.is_over = true;
        self.session.take().map(|mut session| session.end()).unwrap_or_default()
    }

    /// Where the store has that a QoS 2 publish was taken, if it keeps the session.
    pub(super) fn received_key(&self, id: PacketId) -> Option<Vec<u8>> {
        Some(numbered_key(self.durable.as_ref()?.number, &id.get().to_be_bytes()))
    }

    fn to_record(&self, user: Option<Arc<str>>) -> SessionRecord {
        let sent = || self.session.as_ref()?.last_in_flight()?.entry.as_ref().map(|entry| entry.position());
        let connection = self.connection.as_ref();
        let will = self.will.as_ref().map(|will| WillRecord {
            message: will.message.clone(),
            expiry: will.expiry,
            delay: will.delay,
            due: will.due,
            listener: will.origin.listener.clone(),
            peer: will.origin.peer,
            encrypted: will.origin.encrypted,
        });
        SessionRecord {
            number: self.durable.as_ref().map_or(0, |durable| durable.number),
            user,
            expiry: connection.map_or(Duration::ZERO, Connection::session_expiry),
            in_flight_max: connection.map_or(0, Connection::in_flight_max),
            away: connection.is_none().then(|| Away { ends: self.ends, sent: sent().unwrap_or(0) }),
            will,
        }
    }

    /// The connection, if it still is the one that `epoch` counts.
    pub(super) fn current(&mut self, epoch: u32) -> Option<(&mut Connection, &mut Session<Shared>)> {
        if self.epoch != epoch {
            return None;
        }
        Some((self.connection.as_mut()?, self.session.get_or_insert_default()))
    }

    /// When the connection of `epoch` is to be looked at next.
    pub(super) fn deadline(&self, epoch: u32) -> Option<Instant> {
        let connection = self.connection.as_ref().filter(|_| self.epoch == epoch)?;
        connection.poll_timeout().into_iter().chain(self.expires).min()
    }

    /// Gives the memory of a session without messages back.
    pub(super) fn compact(&mut self) {
        self.session.take_if(|session| session.is_blank());
    }

    /// The session's messages.
    pub(super) fn session(&mut self) -> &mut Session<Shared> {
        self.session.get_or_insert_default()
    }

    /// Whom to wake when there is something to do: all messages up to now were looked at.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        self.is_called = false;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Makes `waker` the one to wake, if the connection is still the one of `epoch` and there is nothing to do.
    pub(super) fn settle(&mut self, epoch: u32, waker: &Waker) -> bool {
        let is_closing = self.closing.is_some();
        let is_quiet = self.current(epoch).is_some_and(|(connection, session)| connection.is_quiet(session))
            && !is_closing;
        if is_quiet {
            self.compact();
            self.waker = Some(waker.clone());
            self.is_called = false;
        }
        is_quiet
    }

    /// Notes the room in the queue, if that is, or once was, half full.
    fn note_room(&mut self, rooms: &Rooms, now: Instant) {
        let Self { session, settings, room, .. } = self;
        if session.as_ref().is_some_and(|session| session.is_filled(2, settings)) {
            if room.is_none() {
                rooms.note_new();
            }
            room.get_or_insert_default().fill(now);
        }
        if let Some(room) = room {
            rooms.note(room, now);
        }
    }

    /// Whether less than one of so many `parts` of the queue is taken. An empty one has room whatever its bounds.
    pub(super) fn has_room(&self, parts: usize) -> bool {
        let Self { session, settings, .. } = self;
        session.as_ref().is_none_or(|session| session.is_empty() || !session.is_filled(parts, settings))
    }

    /// The client has taken of its queue, or is gone.
    pub(super) fn make_room(&mut self) {
        let Self { room: Some(room), session, settings, connection, .. } = self else { return };
        let is_filled = session.as_ref().is_some_and(|session| session.is_filled(4, settings));
        if connection.is_none() || !is_filled {
            room.open();
        }
    }

    /// Has the driver look for messages, once for all that come within a turn of the scheduler: it sends them together,
    /// since a system call costs more than a message. A queue that fills does not wait for that.
    fn call(&mut self) {
        let Self { waker: Some(waker), session, settings, is_called, connection, .. } = self else { return };
        let has_output = match (&connection, &session) {
            (Some(connection), Some(session)) => connection.has_output(session),
            _ => true,
        };
        if !has_output {
            // It looks again when the client acknowledges.
            return;
        }
        if session.as_ref().is_some_and(|session| session.is_filled(4, settings)) {
            waker.wake_by_ref();
        } else if !std::mem::replace(is_called, true) {
            pass_turn(&mut Context::from_waker(waker));
        }
    }

    /// Whether the driver was called since it looked for messages. It is looking.
    pub(super) fn take_call(&mut self) -> bool {
        std::mem::take(&mut self.is_called)
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Wakes the driver of the connection that is being replaced, for the last time.
    pub(super) fn dismiss(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Mailbox for Client {
    fn deliver(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        let (delivered, is_kept) = self.take(message, delivery);
        // What is kept is noted when the store has it.
        if let Some(ticket) = message.receipt.as_ref().filter(|_| !is_kept) {
            let progress = match delivered {
                // What the device acknowledges is not followed.
                Delivered::Sent | Delivered::Stored => Progress::Handed,
                Delivered::Dropped if self.is_connected() => Progress::Dropped("mqtt.queue_max"),
                Delivered::Dropped => Progress::Dropped("away"),
                Delivered::Gone => Progress::Dropped("session_ended"),
            };
            // Another member may have what this one was too late for.
            if delivered != Delivered::Gone || delivery.share.is_none() {
                ticket.note(&self.id, progress);
            }
        }
        delivered
    }

    fn is_connected(&self) -> bool {
        self.lock().connection.is_some()
    }

    fn has_ended(&self) -> bool {
        self.lock().is_over
    }

    fn has_room(&self, message: &Message) -> bool {
        let Inner { session, settings, .. } = &*self.lock();
        session.as_ref().is_none_or(|session| session.has_room(view(message).cost(), settings))
    }

    fn room(&self, publisher: Option<&str>) -> Option<Arc<Room>> {
        // Who publishes to itself would not take of its queue while it waits.
        let inner = (publisher != Some(&*self.id)).then(|| self.lock())?;
        inner.room.clone().filter(|_| inner.connection.is_some())
    }
}

impl Client {
    /// Also says whether the store is to keep it.
    fn take(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> (Delivered, bool) {
        let Common { keeper, dropped, .. } = &*self.common;
        let mut inner = self.lock();
        if inner.is_over {
            return (Delivered::Gone, false);
        }
        let is_connected = inner.connection.is_some();
        // QoS 0 is for those who are there (4.1 leaves the choice).
        if !is_connected && delivery.qos == 0 {
            dropped.inc();
            return (Delivered::Dropped, false);
        }
        let delivered = if is_connected { Delivered::Sent } else { Delivered::Stored };
        let &Delivery { qos: quality, retain, identifiers, share, keeping, since, rooms } = delivery;
        let terms = Terms { qos: qos(quality), retain, subscription_ids: identifiers, since };
        let Inner { session, settings, durable, .. } = &mut *inner;
        let mut is_kept = false;
        let make = || {
            let entry = durable.as_mut().filter(|_| quality > 0).map(|durable| {
                is_kept = true;
                durable.position += 1;
                let (session, position, client) = (durable.number, durable.position, durable.client.clone());
                let (client_id, qos) = (&self.id, quality);
                let place = Place {
                    session,
                    position,
                    qos,
                    retain,
                    identifiers,
                    share,
                    client,
                    client_id,
                    delivered,
                };
                keeping.join(keeper, message, place, since)
            });
            Shared { message: message.clone(), entry, share: share.cloned() }
        };
        let session = session.get_or_insert_default();
        let pushed = session.push_with(view(message).cost(), terms, settings, make);
        self.count_overdue(session.take_overtaken(), session.take_aged());
        if !self.count_loss(pushed) {
            return (Delivered::Dropped, false);
        }
        // Who publishes to itself would not take of its queue while it waits.
        let is_own = message.publisher.as_ref() == Some(&self.id);
        if let Some(rooms) = rooms.filter(|_| is_connected && quality > 0 && !is_own) {
            inner.note_room(rooms, since);
        }
        // What is kept may be sent when the store has it.
        if is_connected && !is_kept {
            inner.call();
        }
        (delivered, is_kept)
    }

    /// Counts messages that were dropped when their turn or another message came; and those that had waited for too long.
    pub(super) fn count_overdue(&self, dropped: u64, aged: u64) {
        if dropped > 0 {
            self.common.dropped.inc_by(dropped);
        }
        if aged > 0 {
            self.common.limit_hits.with_label_values(&["mqtt.queue_age_max"]).inc_by(aged);
        }
    }

    /// Counts what was lost to a bound. Says whether the message was queued.
    fn count_loss(&self, pushed: Push) -> bool {
        let (lost, bound) = match pushed {
            Push::Queued => return true,
            Push::QueuedInsteadOf(evicted, bound) => (evicted as u64, bound),
            Push::Dropped(evicted, bound) => (evicted as u64 + 1, bound),
        };
        let limit = match bound {
            Bound::Count => "mqtt.queue_max",
            Bound::Bytes => "mqtt.queue_bytes_max",
            Bound::Held => "mqtt.held_bytes_max",
        };
        self.common.dropped.inc_by(lost);
        self.common.limit_hits.with_label_values(&[limit]).inc();
        !matches!(pushed, Push::Dropped(..))
    }
}
