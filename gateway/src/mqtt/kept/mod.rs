//! Messages that wait for durable sessions: one record in the store for each message, however many sessions it
//! waits for.
//!
//! ```text
//!  hub ── deliver ──> Client: joins the Keeping, queues a message that may not be sent yet
//!   │                                               ...for each session
//!   └── Keeping::finish ──> one Put: the message and whom it waits for ──> commit ──> it may be sent; PUBACK
//!
//!  session is done ──> note of that, or, by the last one, the end of the record
//! ```
//!
//! A client is sent nothing that the store has not. A packet identifier follows from the message's place in its
//! session, which is in the record: after a crash a message of QoS 2 goes out under the same one again, so that a
//! client that had it knows it, and no other message does.

mod record;
mod restore;
mod session_record;

use std::{
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use towline_protocols::mqtt::{PacketId, session::Standing};

use self::record::{Recipient, encode_message, progress_key, progress_range};
pub(crate) use self::record::{decode_retained, encode_retained};
pub(super) use self::{
    record::{encode_subscription, numbered_key, numbered_range},
    restore::{Restored, RestoredMessage, restore},
    session_record::{Away, SessionRecord, WillRecord},
};
use super::client::Client;
use crate::{
    hub::{Delivered, Message},
    receipts::Progress,
    store::{Store, StoreError, Table, Write},
};

/// Why a message that was to be kept is lost: the disk does not follow.
const NOT_STORED: &str = "store_queue_bytes";

/// Written as a session's progress with a message.
const RELEASED: u8 = 1;
const DONE: u8 = 2;

const WAITS: u8 = 0;
const READY: u8 = 1;
const LOST: u8 = 2;

/// The store, and the numbers of messages in it.
pub(super) struct Keeper {
    pub(super) store: Store,
    next_message: AtomicU64,
}

/// One message in the store.
pub(super) struct Kept {
    number: u64,
    store: Store,
    standing: AtomicU8,
    /// Sessions that are not done with it, and one for whoever still adds to them.
    remaining: AtomicUsize,
    has_progress: AtomicBool,
}

/// One session's part in it.
pub(super) struct Entry {
    kept: Arc<Kept>,
    session: u64,
    position: u64,
}

/// Gathers the sessions that one message is kept for, until [`Keeping::finish`] writes it.
#[derive(Default)]
pub struct Keeping(RefCell<Option<Gathered>>);

struct Gathered {
    kept: Arc<Kept>,
    message: Arc<Message>,
    since: Instant,
    recipients: Vec<Recipient>,
    clients: Vec<Weak<Client>>,
    /// Of them, whom the message's backend is to be told of.
    noted: Vec<Arc<str>>,
    unkept: Unkept,
}

/// Whether a message may be refused for want of room in the store's queue.
#[derive(Clone, Copy)]
enum Urgency {
    AsRoomAllows,
    Must,
}

/// Sessions that were to keep a message, which could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unkept {
    /// With a connection.
    pub sent: u64,
    /// Away.
    pub stored: u64,
}

/// A session's place for one more message.
pub(super) struct Place<'a> {
    pub(super) session: u64,
    pub(super) position: u64,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) identifiers: &'a [u32],
    pub(super) share: Option<&'a Arc<str>>,
    pub(super) client: Weak<Client>,
    pub(super) client_id: &'a Arc<str>,
    pub(super) delivered: Delivered,
}

impl Keeper {
    pub(super) fn new(store: Store) -> Self {
        Self { store, next_message: AtomicU64::new(1) }
    }

    /// Whether anything is kept: not in a store that ends with the process.
    pub(super) fn is_on(&self) -> bool {
        self.store.is_lasting()
    }

    fn begin(&self) -> Arc<Kept> {
        let number = self.next_message.fetch_add(1, Ordering::Relaxed);
        Arc::new(Kept::new(number, self.store.clone(), WAITS, false))
    }
}

impl Keeping {
    /// Adds a session to those that the message waits for.
    pub(super) fn join(
        &self,
        keeper: &Keeper,
        message: &Arc<Message>,
        place: Place<'_>,
        now: Instant,
    ) -> Arc<Entry> {
        let mut gathered = self.0.borrow_mut();
        let gathered = gathered.get_or_insert_with(|| Gathered::new(keeper.begin(), message.clone(), now));
        let Place { session, position, qos, retain, identifiers, share, client, client_id, delivered } =
            place;
        gathered.recipients.push(Recipient {
            session,
            position,
            qos,
            retain,
            identifiers: identifiers.into(),
            share: share.cloned(),
        });
        gathered.clients.push(client);
        if message.receipt.is_some() {
            gathered.noted.push(client_id.clone());
        }
        match delivered {
            Delivered::Sent => gathered.unkept.sent += 1,
            Delivered::Stored | Delivered::Dropped | Delivered::Gone => gathered.unkept.stored += 1,
        }
        gathered.kept.entry(session, position)
    }

    /// How many sessions the message is kept for.
    pub fn sessions(&self) -> u64 {
        self.0.borrow().as_ref().map_or(0, |gathered| gathered.recipients.len() as u64)
    }

    /// Writes the message, with `mark` in the same commit; or `mark` alone when nobody keeps it.
    ///
    /// # Errors
    /// The store's queue is full: no session keeps the message.
    pub fn finish(self, mark: Option<(&Store, Write)>) -> Result<(), Unkept> {
        match (self.0.into_inner(), mark) {
            (Some(gathered), mark) => gathered.write(mark.map(|(_, write)| write), Urgency::AsRoomAllows),
            (None, Some((store, write))) => {
                store.must_write(write);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// The same, also when the store's queue is full: what it holds was kept before, within the bounds of a session.
    pub(crate) fn must_finish(self, mark: Option<(&Store, Write)>) {
        match (self.0.into_inner(), mark) {
            // It cannot be refused.
            (Some(gathered), mark) => _ = gathered.write(mark.map(|(_, write)| write), Urgency::Must),
            (None, Some((store, write))) => store.must_write(write),
            (None, None) => {}
        }
    }
}

impl Gathered {
    fn new(kept: Arc<Kept>, message: Arc<Message>, since: Instant) -> Self {
        let (recipients, clients, noted) = (Vec::new(), Vec::new(), Vec::new());
        Self { kept, message, since, recipients, clients, noted, unkept: Unkept::default() }
    }

    fn write(self, mark: Option<Write>, urgency: Urgency) -> Result<(), Unkept> {
        let Self { kept, message, since, recipients, clients, noted, unkept } = self;
        let value = encode_message(&message, since, &recipients);
        let key = kept.number.to_be_bytes().to_vec();
        let mut writes = vec![Write::Put { table: Table::MqttMessages, key, value }];
        writes.extend(mark);
        let (clients, noted) = (Arc::new(clients), Arc::new(noted));
        let settle = {
            let (kept, clients, ticket) = (kept.clone(), clients.clone(), message.receipt.clone());
            move |is_written| {
                let progress = if is_written { Progress::Handed } else { Progress::Dropped(NOT_STORED) };
                for client_id in &*noted {
                    ticket.iter().for_each(|ticket| ticket.note(client_id, progress));
                }
                kept.standing.store(if is_written { READY } else { LOST }, Ordering::Release);
                for client in clients.iter().filter_map(Weak::upgrade) {
                    client.kept_settled(is_written);
                }
            }
        };
        let done = {
            let settle = settle.clone();
            move |result: Result<(), StoreError>| settle(result.is_ok())
        };
        let written = match urgency {
            Urgency::AsRoomAllows => kept.store.write_all(writes, done),
            Urgency::Must => {
                kept.store.must_write_all(writes, done);
                Ok(())
            }
        };
        if written.is_err() {
            settle(false);
        }
        kept.leave(None);
        written.map_err(|_| unkept)
    }
}

impl Kept {
    fn new(number: u64, store: Store, standing: u8, has_progress: bool) -> Self {
        let (standing, remaining) = (AtomicU8::new(standing), AtomicUsize::new(1));
        Self { number, store, standing, remaining, has_progress: AtomicBool::new(has_progress) }
    }

    fn entry(self: &Arc<Self>, session: u64, position: u64) -> Arc<Entry> {
        self.remaining.fetch_add(1, Ordering::Relaxed);
        Arc::new(Entry { kept: self.clone(), session, position })
    }

    fn note(&self, session: u64, progress: u8) -> Write {
        self.has_progress.store(true, Ordering::Relaxed);
        let key = progress_key(self.number, session);
        Write::Put { table: Table::MqttProgress, key, value: vec![progress] }
    }

    /// One of those that hold it is done. The last one ends the record, for which it needs no note.
    fn leave(&self, session: Option<u64>) {
        if let Some(session) = session.filter(|_| self.remaining.load(Ordering::Acquire) > 1) {
            self.store.must_write(self.note(session, DONE));
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let key = self.number.to_be_bytes().to_vec();
        self.store.must_write(Write::Delete { table: Table::MqttMessages, key });
        if self.has_progress.load(Ordering::Relaxed) {
            let (first, last) = progress_range(self.number);
            self.store.must_write(Write::DeleteRange { table: Table::MqttProgress, first, last });
        }
    }
}

impl Entry {
    /// The place of its message among those of its session.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn standing(&self) -> Standing {
        match self.kept.standing.load(Ordering::Acquire) {
            WAITS => Standing::Waits,
            READY => Standing::Ready,
            _ => Standing::Lost,
        }
    }

    /// Follows from the position: 1 to 65535, again and again.
    pub(super) fn packet_id(&self) -> Option<PacketId> {
        // The first message of a session has position 1.
        let before = self.position.saturating_sub(1);
        u16::try_from(before % u64::from(u16::MAX) + 1).ok().and_then(PacketId::new)
    }

    pub(super) fn release(&self) {
        self.kept.store.must_write(self.kept.note(self.session, RELEASED));
    }

    pub(super) fn finish(&self) {
        self.kept.leave(Some(self.session));
    }

    /// What says that the session is done, to be written together with whatever takes its place; then
    /// [`finish_noted`](Self::finish_noted) is called.
    pub(super) fn done(&self) -> (&Store, Write) {
        (&self.kept.store, self.kept.note(self.session, DONE))
    }

    /// [`finish`](Self::finish), where the note is written.
    pub(super) fn finish_noted(&self) {
        self.kept.leave(None);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("message", &self.kept.number)
            .field("session", &self.session)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}
