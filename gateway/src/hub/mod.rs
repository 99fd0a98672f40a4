//! Who is there and who wants what: clients by id and by user, subscriptions by topic filter, and the
//! way of a message to them. Apps on the link and devices on MQTT are alike here.

mod filter;
mod last;
mod levels;
mod registry;
mod room;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockWriteGuard};
use prometheus::IntCounter;
use towline_protocols::{link::Priority, mqtt::SharedHeads};

pub use self::filter::{FilterError, TopicFilter, check_topic};
pub use self::last::LastMatch;
pub use self::registry::RegisterError;
pub use self::room::{Room, Rooms};
pub use self::tree::ShareStrategy;
use self::{
    registry::Registry,
    tree::{Asked, Tree},
};
use crate::{
    metrics::Metrics,
    mqtt::{self, Keeping, Unkept},
    presence::Presence,
    receipts::Ticket,
    store::{Store, Write},
};

/// The meeting place of all clients of one gateway. Cheap to clone: all clones are the same hub.
///
/// ```text
///  publish(topic) --> Tree: who subscribed? --+
///  push_to_user   --> Registry: who is it? ---+--> Mailbox::deliver, once for each client
///  push_to_client --> Registry: who is it? ---+
/// ```
///
/// A client is a *session* (link or MQTT), not a connection: it is registered when the session begins and
/// stays while the session is away, so its subscriptions stay with it. Ids of link clients and of MQTT
/// clients live in one namespace.
///
/// No lock is held while a mailbox takes a message. [`Mailbox::is_connected`] alone is asked under the
/// tree's read lock (for shared subscriptions), so it must not call the hub.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    presence: Arc<Presence>,
    tree: RwLock<Tree>,
    /// Counts changes of the tree: what was found in it stands as long as this does.
    generation: AtomicU64,
    /// Bound on the steps of a match and on the depth of the tree.
    levels_max: usize,
    deliveries: Option<Deliveries>,
}

/// Counters of what became of messages.
struct Deliveries {
    sent: IntCounter,
    stored: IntCounter,
    dropped: IntCounter,
}

/// A message on its way to one or many clients. Built once, shared by all who get it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Topic name, no wildcards.
    pub topic: Arc<str>,
    /// Payload, opaque.
    pub payload: Bytes,
    /// 0 or 1 (2 where MQTT carries it).
    pub qos: u8,
    /// Whether the publisher asked to retain it.
    pub retain: bool,
    /// How urgent it is.
    pub priority: Priority,
    /// When it stops being worth delivering.
    pub expires: Option<Instant>,
    /// Client id of its publisher; `None` for a backend.
    pub publisher: Option<Arc<str>>,
    /// The backend of the upstream broker that it came from.
    pub upstream: Option<Arc<str>>,
    /// MQTT 5 payload format indicator: whether the payload is said to be UTF-8; `None`: nothing is said.
    pub payload_utf8: Option<bool>,
    /// MQTT's content type, or the link's.
    pub content_type: Option<Arc<str>>,
    /// MQTT 5 response topic.
    pub response_topic: Option<Arc<str>>,
    /// MQTT 5 correlation data.
    pub correlation_data: Option<Bytes>,
    /// MQTT 5 user properties, in order.
    pub user_properties: Vec<(Arc<str>, Arc<str>)>,
    /// A newer message with the same key takes its place while it waits (link sessions).
    pub collapse_key: Option<Arc<str>>,
    /// Whom to tell what became of it.
    pub receipt: Option<Arc<Ticket>>,
    /// What MQTT subscribers are sent ahead of the payload, encoded once for all of them.
    pub heads: SharedHeads,
}

/// What became of a message for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Handed to the client's live connection.
    Sent,
    /// Kept until the client comes back, within its session's bounds.
    Stored,
    /// Not delivered: a bound was met, it expired, or the client is away and keeps no messages.
    Dropped,
    /// Its session has ended, and only the hub does not know yet: it was not for this client.
    Gone,
}

/// Where a client's messages go: its link session or its MQTT session. Must not block.
pub trait Mailbox: Send + Sync {
    /// Takes one message.
    fn deliver(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered;
    /// Whether a connection is up. Must not call the hub.
    fn is_connected(&self) -> bool;
    /// Whether what it accepts with a quality above 0 goes to the store by itself, beside what is kept by
    /// [`Delivery::keeping`].
    fn is_durable(&self) -> bool {
        false
    }
    /// Whether its session has ended. Must not call the hub.
    fn has_ended(&self) -> bool {
        false
    }
    /// Whether it would take the message without dropping another for it. Must not call the hub.
    fn has_room(&self, _message: &Message) -> bool {
        true
    }
    /// The room in its queue, if that is, or once was, scarce to this publisher, and there is a connection to make more.
    fn room(&self, _publisher: Option<&str>) -> Option<Arc<Room>> {
        None
    }
}

/// How a message is to be delivered to one client.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The smaller of the message's and the subscription's; of several subscriptions, the largest.
    pub qos: u8,
    /// The RETAIN flag to send: the message is a retained one sent because of a new subscription, or it was
    /// published with RETAIN and the subscription asked for "retain as published".
    pub retain: bool,
    /// Subscription identifiers of all subscriptions that matched (MQTT 5, section 3.3.2.3.8).
    pub identifiers: &'a [u32],
    /// The shared subscription that asked for it.
    pub share: Option<&'a Arc<str>>,
    /// Gathers the sessions that keep it in the store, so that they keep it together.
    pub keeping: &'a Keeping,
    /// When it was handed over: one look at the clock for all who get it.
    pub since: Instant,
    /// Set if its publisher can wait for room in the queues that its messages go to.
    pub rooms: Option<&'a Rooms>,
}

impl<'a> Delivery<'a> {
    /// A delivery that no subscription asked for: a push to a client or user.
    pub fn direct(qos: u8, keeping: &'a Keeping) -> Self {
        Self { qos, retain: false, identifiers: &[], share: None, keeping, since: mqtt::now(), rooms: None }
    }
}

/// What a client wants to know of a subscription (MQTT 5, section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Largest quality of service to deliver with.
    pub qos: u8,
    /// Do not deliver what this client published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// Subscription identifier; 0 for none.
    pub identifier: u32,
}

/// What became of one message for all who were to get it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fanout {
    /// Handed to live connections.
    pub sent: u64,
    /// Kept for clients that are away.
    pub stored: u64,
    /// Not delivered; see [`Delivered::Dropped`].
    pub dropped: u64,
    /// How many of `sent` and `stored` are on their way to the store: its barrier stands for them.
    pub to_write: u64,
    /// How many of `dropped` were to be kept in the store, which does not follow: its publisher is not to think
    /// that they are.
    pub unkept: u64,
}

impl Fanout {
    /// Clients that the message was meant for.
    pub const fn total(&self) -> u64 {
        self.sent + self.stored + self.dropped
    }

    fn settle(&mut self, kept: Result<(), Unkept>) {
        let Err(Unkept { sent, stored }) = kept else { return };
        self.sent -= sent;
        self.stored -= stored;
        self.dropped += sent + stored;
        self.unkept += sent + stored;
        self.to_write = self.to_write.saturating_sub(sent + stored);
    }
}

impl AddAssign<Delivered> for Fanout {
    fn add_assign(&mut self, delivered: Delivered) {
        match delivered {
            Delivered::Sent => self.sent += 1,
            Delivered::Stored => self.stored += 1,
            Delivered::Dropped => self.dropped += 1,
            Delivered::Gone => {}
        }
    }
}

/// Why a subscription was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The filter breaks a rule of MQTT 5, section 4.7.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The client is not registered.
    #[error("the client is not registered")]
    UnknownClient,
}

impl Hub {
    /// An empty hub that takes topics and filters of at most `levels_max` levels.
    pub fn new(levels_max: usize) -> Self {
        Self::build(levels_max, None)
    }

    /// An empty hub that counts deliveries in `metrics`.
    pub fn counting(levels_max: usize, metrics: &Metrics) -> Self {
        let counter = |outcome| metrics.deliveries.with_label_values(&[outcome]);
        let (sent, stored, dropped) = (counter("sent"), counter("stored"), counter("dropped"));
        Self::build(levels_max, Some(Deliveries { sent, stored, dropped }))
    }

    fn build(levels_max: usize, deliveries: Option<Deliveries>) -> Self {
        let (registry, presence, tree) = (Registry::default(), Arc::default(), RwLock::default());
        let generation = AtomicU64::new(0);
        Self { inner: Arc::new(Inner { registry, presence, tree, generation, levels_max, deliveries }) }
    }

    /// Registers a session under its client id. Registering the same mailbox again changes nothing.
    ///
    /// # Errors
    /// Another mailbox holds the id: its owner must [`unregister`](Self::unregister) it first.
    pub fn register(
        &self,
        client_id: &Arc<str>,
        user: Option<Arc<str>>,
        mailbox: Arc<dyn Mailbox>,
    ) -> Result<(), RegisterError> {
        self.inner.registry.register(client_id, user, mailbox)
    }

    /// Ends a registration and its subscriptions, if `mailbox` is still the one that holds the id. Says
    /// whether it was.
    pub fn unregister(&self, client_id: &str, mailbox: &Arc<dyn Mailbox>) -> bool {
        let Some(client) = self.inner.registry.unregister(client_id, mailbox) else {
            return false;
        };
        self.inner.change_tree().remove_client(&client);
        true
    }

    /// Adds a subscription of a registered client, or replaces its options; says whether it is new.
    /// `filter` may be a shared one: `$share/group/filter`.
    ///
    /// # Errors
    /// The filter is malformed or the client unknown.
    pub fn subscribe(
        &self,
        client_id: &str,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<bool, SubscribeError> {
        let filter = TopicFilter::parse(filter, self.inner.levels_max)?;
        let client = self.inner.registry.client(client_id).ok_or(SubscribeError::UnknownClient)?;
        self.inner.change_tree().subscribe(&client, &filter, options).ok_or(SubscribeError::UnknownClient)
    }

    /// Ends a subscription; says whether there was one.
    pub fn unsubscribe(&self, client_id: &str, filter: &str) -> bool {
        let Ok(filter) = TopicFilter::parse(filter, self.inner.levels_max) else {
            return false;
        };
        let Some(client) = self.inner.registry.client(client_id) else {
            return false;
        };
        self.inner.change_tree().unsubscribe(&client, &filter)
    }

    /// Whether a client has a subscription.
    pub fn has_subscription(&self, client_id: &str, filter: &str) -> bool {
        let Ok(filter) = TopicFilter::parse(filter, self.inner.levels_max) else {
            return false;
        };
        let client = self.inner.registry.client(client_id);
        client.is_some_and(|client| self.inner.tree.read().has_subscription(&client, &filter))
    }

    /// The subscriptions of a client, in no order.
    pub fn subscriptions(&self, client_id: &str) -> Vec<(String, SubscribeOptions)> {
        let Some(client) = self.inner.registry.client(client_id) else {
            return Vec::new();
        };
        self.inner.tree.read().subscriptions(&client)
    }

    /// Changes which member of a shared subscription gets a message.
    pub fn set_share_strategy(&self, strategy: ShareStrategy) {
        self.inner.change_tree().share_strategy = strategy;
    }

    /// How many subscriptions a client has.
    pub fn subscription_count(&self, client_id: &str) -> usize {
        self.inner.registry.client(client_id).map_or(0, |client| client.places.lock().list().len())
    }

    /// Delivers a message to every client that subscribed to its topic, once each: overlapping
    /// subscriptions of one client become one delivery with the largest quality of service; of each shared
    /// group one member gets it. A topic that is not valid matches nobody.
    ///
    /// Where [`Fanout::to_write`] is above 0, await [`crate::store::Store::barrier`] before telling a publisher
    /// that the message is accepted.
    pub fn publish(&self, message: &Arc<Message>) -> Fanout {
        self.publish_with(message, None, &mut LastMatch::default(), mqtt::now())
    }

    /// The same, with a mark of the publisher's that becomes durable together with what sessions keep of the
    /// message: a crash leaves both or neither. `last` is the publisher's alone.
    pub fn publish_with(
        &self,
        message: &Arc<Message>,
        mark: Option<(&Store, Write)>,
        last: &mut LastMatch,
        now: Instant,
    ) -> Fanout {
        let keeping = Keeping::default();
        let mut fanout = self.deliver_to_subscribers(message, &keeping, last, now);
        fanout.to_write += keeping.sessions();
        fanout.settle(keeping.finish(mark));
        self.count(fanout)
    }

    fn deliver_to_subscribers(
        &self,
        message: &Arc<Message>,
        keeping: &Keeping,
        last: &mut LastMatch,
        since: Instant,
    ) -> Fanout {
        let (mut fanout, rooms) = (Fanout::default(), Rooms::default());
        let round = Round { keeping, since, rooms: Some(&rooms) };
        last.matching(&self.inner, message).for_each_client(|asked| {
            if round.deliver(message, asked, &mut fanout) == Delivered::Gone
                && let Some(share) = asked.share
            {
                self.deliver_to_member(share, message, &round, &mut fanout);
            }
        });
        let (room, is_first) = rooms.into_room();
        last.settle(room);
        if is_first {
            // Who has published there while it was plenty looks once more.
            self.inner.generation.fetch_add(1, Ordering::Release);
        }
        fanout
    }

    /// Gives a message of a shared subscription, whose member's session is over, to another member: to one who has room
    /// for it, if there is any. `note` becomes durable together with what that one keeps of it. `None`, and nothing is
    /// written, where nobody is left.
    pub(crate) fn hand_over(
        &self,
        share: &Arc<str>,
        message: &Arc<Message>,
        since: Instant,
        note: Option<(&Store, Write)>,
    ) -> Option<Delivered> {
        let (mut fanout, keeping) = (Fanout::default(), Keeping::default());
        let round = Round { keeping: &keeping, since, rooms: None };
        let delivered = self.deliver_to_member(share, message, &round, &mut fanout);
        if delivered.is_some() {
            // It was promised to its publisher.
            keeping.must_finish(note);
        }
        self.count(fanout);
        delivered
    }

    /// Delivers a message to one member of a shared subscription that is not gone; `None` if there is none.
    fn deliver_to_member(
        &self,
        share: &Arc<str>,
        message: &Arc<Message>,
        round: &Round<'_>,
        fanout: &mut Fanout,
    ) -> Option<Delivered> {
        let filter = TopicFilter::parse(share, self.inner.levels_max).ok()?;
        loop {
            // One that is found gone is not chosen again.
            let member = self.inner.tree.read().choose_member(&filter, message)?;
            match member.ask(|asked| round.deliver(message, asked, fanout)) {
                Delivered::Gone => {}
                delivered => return Some(delivered),
            }
        }
    }

    /// Has `last` know what room there is for a message that is yet to be delivered, if it does not. Of members of
    /// shared subscriptions it knows once they have got one.
    pub(crate) fn look_for_room(&self, message: &Message, last: &mut LastMatch, now: Instant) {
        let Some(matched) = last.unknown_direct(&self.inner, message) else { return };
        let rooms = Rooms::default();
        matched.for_each_client(|asked| {
            let room = (asked.granted.qos.min(message.qos) > 0)
                .then(|| asked.client.mailbox.room(message.publisher.as_deref()))
                .flatten();
            room.iter().for_each(|room| rooms.note(room, now));
        });
        last.settle(rooms.into_room().0);
    }

    /// Delivers a message to one client; `None` when no such client is registered, or its session has just ended.
    pub fn push_to_client(&self, client_id: &str, message: &Arc<Message>) -> Option<Delivered> {
        let client = self.inner.registry.client(client_id)?;
        let (mut fanout, keeping) = (Fanout::default(), Keeping::default());
        let mut delivered = client.mailbox.deliver(message, &Delivery::direct(message.qos, &keeping));
        fanout += delivered;
        fanout.settle(keeping.finish(None));
        if self.count(fanout).unkept > 0 {
            delivered = Delivered::Dropped;
        }
        Some(delivered).filter(|delivered| *delivered != Delivered::Gone)
    }

    /// Delivers a message to all clients of a user.
    pub fn push_to_user(&self, user: &str, message: &Arc<Message>) -> Fanout {
        let (mut fanout, keeping) = (Fanout::default(), Keeping::default());
        for client in self.inner.registry.clients_of(user) {
            fanout += client.mailbox.deliver(message, &Delivery::direct(message.qos, &keeping));
        }
        fanout.settle(keeping.finish(None));
        self.count(fanout)
    }

    /// Whether the client's connection is up; `None` when no such client is registered.
    pub fn is_connected(&self, client_id: &str) -> Option<bool> {
        Some(self.inner.registry.client(client_id)?.mailbox.is_connected())
    }

    /// Registered clients, live or away.
    pub fn clients(&self) -> usize {
        self.inner.registry.len()
    }

    fn count(&self, fanout: Fanout) -> Fanout {
        if let Some(deliveries) = &self.inner.deliveries {
            let Deliveries { sent, stored, dropped } = deliveries;
            for (counter, count) in [(sent, fanout.sent), (stored, fanout.stored), (dropped, fanout.dropped)]
            {
                if count > 0 {
                    counter.inc_by(count);
                }
            }
        }
        fanout
    }

    /// Who tells of clients that come and go.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.inner.presence
    }

    /// Bound on the levels of a topic or filter.
    pub fn levels_max(&self) -> usize {
        self.inner.levels_max
    }
}

/// What deliveries of one message have in common.
struct Round<'a> {
    keeping: &'a Keeping,
    since: Instant,
    rooms: Option<&'a Rooms>,
}

impl Round<'_> {
    fn deliver(&self, message: &Arc<Message>, asked: Asked<'_>, fanout: &mut Fanout) -> Delivered {
        let Asked { client, granted, identifiers, share } = asked;
        let &Self { keeping, since, rooms } = self;
        let retain = message.retain && granted.retain_as_published;
        let qos = granted.qos.min(message.qos);
        let delivery = Delivery { qos, retain, identifiers, share, keeping, since, rooms };
        let delivered = client.mailbox.deliver(message, &delivery);
        *fanout += delivered;
        let is_written = qos > 0 && matches!(delivered, Delivered::Sent | Delivered::Stored);
        fanout.to_write += u64::from(is_written && client.mailbox.is_durable());
        delivered
    }
}

impl Inner {
    /// The tree, to be changed: whoever looks at the generation from here on finds another.
    fn change_tree(&self) -> RwLockWriteGuard<'_, Tree> {
        let tree = self.tree.write();
        self.generation.fetch_add(1, Ordering::Release);
        tree
    }
}

/// Payload format indicators among the flags of a record in the store.
const FORMAT_UTF8: u8 = 2;
const FORMAT_BYTES: u8 = 4;

/// [`Message::payload_utf8`] as flags.
pub(crate) const fn format_flags(payload_utf8: Option<bool>) -> u8 {
    match payload_utf8 {
        None => 0,
        Some(true) => FORMAT_UTF8,
        Some(false) => FORMAT_BYTES,
    }
}

/// The reverse.
pub(crate) const fn format_of(flags: u8) -> Option<bool> {
    match flags & (FORMAT_UTF8 | FORMAT_BYTES) {
        FORMAT_UTF8 => Some(true),
        FORMAT_BYTES => Some(false),
        _ => None,
    }
}
