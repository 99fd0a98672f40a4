//! One client: its session, and its connection while there is one.

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::Instant,
};

use parking_lot::Mutex;
use prometheus::IntCounter;
use towline_protocols::mqtt::{
    ReasonCode,
    session::{Connection, Push, Session, Settings},
};

use super::message::{Shared, qos};
use crate::{
    hub::{Delivered, Delivery, Mailbox, Message},
    receipts::Progress,
};

/// A client's session and its place in the hub. It outlives connections and ends with the session.
pub(super) struct Client {
    pub(super) id: Arc<str>,
    /// Who it belongs to, on listeners that authenticate.
    pub(super) user: Option<Arc<str>>,
    /// Messages lost to a bound or to their expiry.
    pub(super) dropped: IntCounter,
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
    pub(super) epoch: u64,
    /// Topic filters in the hub.
    pub(super) subscriptions: u32,
    pub(super) will: Option<Box<Will>>,
    /// When the absent client's will or session is due; its place in the broker's departures.
    pub(super) departure: Option<Instant>,
    /// When its session ends.
    pub(super) ends: Option<Instant>,
    /// Set when the server wants the present connection to end.
    pub(super) closing: Option<&'static Closing>,
    /// Of the present connection's driver.
    waker: Option<Waker>,
}

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) reason: ReasonCode,
    pub(super) text: &'static str,
}

/// A will that may have to be published.
#[derive(Debug)]
pub(super) struct Will {
    pub(super) message: Message,
    /// Message expiry, seconds from its publication.
    pub(super) expiry: Option<u32>,
    /// Will Delay Interval.
    pub(super) delay: std::time::Duration,
    /// When it is due, once the client is gone.
    pub(super) due: Option<Instant>,
    pub(super) origin: Arc<crate::request::Origin>,
}

impl Client {
    pub(super) fn new(
        id: Arc<str>,
        user: Option<Arc<str>>,
        settings: Arc<Settings>,
        dropped: IntCounter,
    ) -> Self {
        let inner = Inner {
            session: None,
            settings,
            connection: None,
            epoch: 0,
            subscriptions: 0,
            will: None,
            departure: None,
            ends: None,
            closing: None,
            waker: None,
        };
        Self { id, user, dropped, inner: Mutex::new(inner) }
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

    /// Asks the present connection's driver to end it.
    pub(super) fn close(&self, closing: &'static Closing) {
        let mut inner = self.lock();
        if inner.connection.is_some() {
            inner.closing = Some(closing);
            inner.wake();
        }
    }
}

impl Inner {
    /// The connection, if it still is the one that `epoch` counts.
    pub(super) fn current(&mut self, epoch: u64) -> Option<(&mut Connection, &mut Session<Shared>)> {
        if self.epoch != epoch {
            return None;
        }
        Some((self.connection.as_mut()?, self.session.get_or_insert_default()))
    }

    /// When the connection of `epoch` is to be looked at next.
    pub(super) fn deadline(&self, epoch: u64) -> Option<Instant> {
        self.connection.as_ref().filter(|_| self.epoch == epoch)?.poll_timeout()
    }

    /// Gives the memory of a session without messages back.
    pub(super) fn compact(&mut self) {
        self.session.take_if(|session| session.is_blank());
    }

    /// The session's messages.
    pub(super) fn session(&mut self) -> &mut Session<Shared> {
        self.session.get_or_insert_default()
    }

    /// Whom to wake when there is something to do.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Makes `waker` the one to wake, if the connection is still the one of `epoch` and there is nothing to do.
    pub(super) fn settle(&mut self, epoch: u64, waker: &Waker) -> bool {
        let is_closing = self.closing.is_some();
        let is_quiet = self.current(epoch).is_some_and(|(connection, session)| connection.is_quiet(session))
            && !is_closing;
        if is_quiet {
            self.compact();
            self.waker = Some(waker.clone());
        }
        is_quiet
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
        let delivered = self.take(message, delivery);
        if let Some(ticket) = &message.receipt {
            // What the device acknowledges is not followed.
            let accepted = delivered != Delivered::Dropped;
            let dropped = if self.is_connected() { "mqtt.queue_max" } else { "away" };
            ticket.note(&self.id, if accepted { Progress::Handed } else { Progress::Dropped(dropped) });
        }
        delivered
    }

    fn is_connected(&self) -> bool {
        self.lock().connection.is_some()
    }
}

impl Client {
    fn take(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        let mut inner = self.lock();
        let is_connected = inner.connection.is_some();
        // QoS 0 is for those who are there (4.1 leaves the choice).
        if !is_connected && delivery.qos == 0 {
            self.dropped.inc();
            return Delivered::Dropped;
        }
        let (qos, message) = (qos(delivery.qos), Shared(message.clone()));
        let Inner { session, settings, .. } = &mut *inner;
        let session = session.get_or_insert_default();
        match session.push(message, qos, delivery.retain, delivery.identifiers, settings) {
            Push::Queued => {}
            Push::QueuedInsteadOf(evicted) => self.dropped.inc_by(evicted as u64),
            Push::Dropped => {
                self.dropped.inc();
                return Delivered::Dropped;
            }
        }
        if is_connected {
            inner.wake();
            Delivered::Sent
        } else {
            Delivered::Stored
        }
    }
}
