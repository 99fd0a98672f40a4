//! What survives a connection: messages that wait, messages in flight, and QoS 2 identifiers received.

use std::{collections::VecDeque, time::Instant};

use super::{ApplicationMessage, QueuePolicy, Settings, Standing, held::Share};
use crate::mqtt::{PacketId, QoS, SubscriptionId};

/// The session state of a client (4.1), bounded in count and bytes.
///
/// ```text
///  push --> queue --(send quota)--> in flight --PUBACK / PUBCOMP--> gone
/// ```
#[derive(Debug)]
pub struct Session<M> {
    /// Waiting to be sent, in order.
    queue: VecDeque<Outgoing<M>>,
    /// What they take; how much of it those of QoS 0, so that none is given up in vain.
    queued: Load,
    queued_qos0: Load,
    /// Sent and not acknowledged, in the order of sending; those that are to be sent again lie behind those that were
    /// sent on the present connection.
    pub(super) in_flight: VecDeque<InFlight<M>>,
    /// Of both.
    bytes: usize,
    share: Share,
    last_id: u16,
    /// How many identifiers behind the last one are known to be used by nothing in flight: that is not looked up for each.
    ids_free: u16,
    /// QoS 2 publishes from the client that were taken and not released yet.
    received: Vec<PacketId>,
    /// Messages dropped because they had waited for too long, since somebody asked.
    aged: u32,
    /// Messages past their time that were dropped as another came, since somebody asked.
    overtaken: u32,
}

/// What messages take of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    count: usize,
    bytes: usize,
}

/// A message on its way to the client.
#[derive(Clone, Debug)]
pub(super) struct Outgoing<M> {
    pub(super) message: M,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: Box<[SubscriptionId]>,
    /// When it began to wait.
    since: Instant,
    /// When it has waited for too long.
    kept_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct InFlight<M> {
    pub(super) id: PacketId,
    pub(super) awaits: Awaits<M>,
    /// Whether it was sent on the present connection.
    pub(super) is_sent: bool,
    /// Whether it was sent on an earlier one.
    pub(super) dup: bool,
}

/// What an in-flight message waits for.
#[derive(Debug)]
pub(super) enum Awaits<M> {
    /// QoS 1: PUBACK. QoS 2: PUBREC.
    Receipt(Outgoing<M>),
    /// QoS 2: PUBCOMP. The message itself is the client's by now; this is what stands for it.
    Completion(M),
}

/// How a message is to reach the client.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Quality of service.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of the subscriptions that asked for it; 0 is none.
    pub subscription_ids: &'a [u32],
    /// When it began to wait.
    pub since: Instant,
}

/// How far a message has come that is brought back with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was never sent.
    Waiting,
    /// It may have been sent: it is sent again, ahead of those that were not.
    MaybeSent,
    /// QoS 2: the client has it and is to be told to release it.
    Released,
}

/// A message of a shared subscription whose client's session is over: it is not finished, and may go to another member.
#[derive(Clone, Debug)]
pub struct Orphan<M> {
    /// The message.
    pub message: M,
    /// When it began to wait.
    pub since: Instant,
}

/// What became of a message that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It will be sent.
    Queued,
    /// It will be sent; so many others were dropped for it.
    QueuedInsteadOf(usize, Bound),
    /// A bound was met; so many others were dropped before that was certain.
    Dropped(usize, Bound),
}

/// Which bound of a session's queue was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`Settings::queue_max`]
    Count,
    /// [`Settings::queue_bytes_max`]
    Bytes,
    /// [`Settings::held_bytes_max`]
    Held,
}

impl<M: ApplicationMessage> Session<M> {
    /// An empty session. It holds no memory before the first message.
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            queued: Load { count: 0, bytes: 0 },
            queued_qos0: Load { count: 0, bytes: 0 },
            in_flight: VecDeque::new(),
            bytes: 0,
            share: Share::new(),
            last_id: 0,
            ids_free: 0,
            received: Vec::new(),
            aged: 0,
            overtaken: 0,
        }
    }

    /// The QoS of the message that is to be sent next for the first time.
    pub(super) fn first_queued(&self) -> Option<QoS> {
        self.queue.front().map(|first| first.qos)
    }

    /// Queues a message, or drops one as the settings' policy says.
    pub fn push(&mut self, message: M, terms: Terms<'_>, settings: &Settings) -> Push {
        let cost = cost(&message);
        self.push_with(cost, terms, settings, || message)
    }

    /// Queues the message that `make` makes, of the cost given, once there is room for it.
    pub fn push_with(
        &mut self,
        cost: usize,
        terms: Terms<'_>,
        settings: &Settings,
        make: impl FnOnce() -> M,
    ) -> Push {
        // A client that takes nothing, or is away, has nobody else to look for what is past its time.
        while self.drop_overdue(terms.since) {
            self.overtaken = self.overtaken.saturating_add(1);
        }
        self.share.belongs_to(&settings.held);
        let (mut evicted, mut met) = (0, Bound::Count);
        while let Some(bound) = self.missing(cost, settings) {
            if !self.evict(terms.qos, cost, settings) {
                return Push::Dropped(evicted, bound);
            }
            (evicted, met) = (evicted + 1, bound);
        }
        let outgoing = Outgoing::new(make(), terms, settings);
        self.enqueue(outgoing, cost);
        if evicted == 0 { Push::Queued } else { Push::QueuedInsteadOf(evicted, met) }
    }

    /// Brings a message back, in the order in which the messages came.
    pub fn restore(&mut self, message: M, terms: Terms<'_>, phase: Phase, settings: &Settings) {
        let cost = cost(&message);
        self.share.belongs_to(&settings.held);
        if phase == Phase::Waiting {
            return self.enqueue(Outgoing::new(message, terms, settings), cost);
        }
        let Some(id) = message.packet_id().or_else(|| self.next_id()) else {
            // All identifiers are in flight: it never was.
            return message.finish();
        };
        let awaits = if phase == Phase::Released {
            Awaits::Completion(message.released())
        } else {
            self.grow(cost);
            Awaits::Receipt(Outgoing::new(message, terms, settings))
        };
        self.put_in_flight(InFlight { id, awaits, is_sent: false, dup: true });
    }

    /// Gives up everything: the session is over. Returns, in the order of sending, what other members of shared
    /// subscriptions may have instead (4.8.2): what was never sent, and of QoS 1 what was not acknowledged either.
    /// MQTT-4.8.2-5: what was sent with QoS 2 is for nobody else.
    pub fn end(&mut self) -> Vec<Orphan<M>> {
        let Self { queue, in_flight, .. } = std::mem::take(self);
        let sent = in_flight.into_iter().filter_map(|entry| match entry.awaits {
            Awaits::Receipt(outgoing) if outgoing.qos == QoS::AtLeastOnce => Some(outgoing),
            awaits => {
                awaits.message().finish();
                None
            }
        });
        sent.chain(queue).filter_map(Outgoing::into_orphan).collect()
    }

    /// Whether a message of this cost would be queued without another being dropped for it.
    pub fn has_room(&self, cost: usize, settings: &Settings) -> bool {
        self.missing(cost, settings).is_none()
    }

    /// Gives up the waiting messages that their owner has lost. Returns how many.
    pub fn drop_lost(&mut self) -> usize {
        let before = self.queue.len();
        for at in (0..before).rev() {
            if self.queue[at].message.standing() == Standing::Lost {
                self.give_up(at);
            }
        }
        before - self.queue.len()
    }

    /// The last of the messages in flight: those behind it were never sent.
    pub fn last_in_flight(&self) -> Option<&M> {
        self.in_flight.back().map(InFlight::message)
    }

    /// Whether a message of QoS 2 is the client's and not released.
    pub fn has_released(&self) -> bool {
        self.in_flight.iter().any(|entry| matches!(entry.awaits, Awaits::Completion(_)))
    }

    /// Messages dropped since the last call because they had waited for too long.
    pub fn take_aged(&mut self) -> u64 {
        std::mem::take(&mut self.aged).into()
    }

    /// Messages dropped since the last call because they were past their time when another came.
    pub fn take_overtaken(&mut self) -> u64 {
        std::mem::take(&mut self.overtaken).into()
    }

    /// The connection is gone: QoS 0 is not kept for the next one (4.1). Returns how many were dropped.
    pub fn detach(&mut self) -> usize {
        let dropped = self.queued_qos0.count;
        while self.evict_qos0() {}
        self.queue.shrink_to_fit();
        self.in_flight.shrink_to_fit();
        dropped
    }

    /// A new connection goes on: everything in flight is to be sent again [MQTT-4.4.0-1].
    pub fn resume(&mut self) {
        for entry in &mut self.in_flight {
            entry.dup |= entry.is_sent;
            entry.is_sent = false;
        }
    }

    /// Messages that wait or are in flight.
    pub fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether nothing is kept but the last identifier: the session may as well begin anew.
    pub fn is_blank(&self) -> bool {
        self.is_empty() && self.received.is_empty()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn holds_memory(&self) -> bool {
        self.queue.capacity() + self.in_flight.capacity() > 0
    }

    /// Whether at least one of so many `parts` of the queue is taken, by count or by bytes.
    pub fn is_filled(&self, parts: usize, settings: &Settings) -> bool {
        let is_part = |taken: usize, max: usize| taken.saturating_mul(parts) >= max;
        is_part(self.queue.len(), settings.queue_max) || is_part(self.bytes, settings.queue_bytes_max)
    }

    /// What they cost, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first waiting message, if it may be sent; `dropped` counts those that had expired or were lost.
    pub(super) fn next_queued(&mut self, now: Instant, dropped: &mut u32) -> Option<&Outgoing<M>> {
        loop {
            let is_lost = self.queue.front()?.message.standing() == Standing::Lost;
            if is_lost {
                self.give_up(0);
            }
            if !is_lost && !self.drop_overdue(now) {
                break;
            }
            *dropped = dropped.saturating_add(1);
        }
        self.queue.front().filter(|next| next.message.standing() == Standing::Ready)
    }

    /// Drops the first waiting message if it has expired or has waited for too long.
    fn drop_overdue(&mut self, now: Instant) -> bool {
        let Some(first) = self.queue.front() else { return false };
        let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_aged = is_past(first.kept_until);
        let is_overdue = is_aged || is_past(first.message.view().expires);
        if is_overdue {
            self.aged = self.aged.saturating_add(is_aged.into());
            self.give_up(0);
        }
        is_overdue
    }

    /// Takes the first waiting message for good.
    pub(super) fn dequeue(&mut self) -> Option<Outgoing<M>> {
        let next = self.queue.pop_front()?;
        self.discount(&next);
        Some(next)
    }

    /// An idle session keeps no memory of a busy past. One whose client has something to acknowledge is not idle.
    pub(super) fn release_memory(&mut self) {
        if self.is_empty() && self.queue.capacity() + self.in_flight.capacity() > 0 {
            (self.queue, self.in_flight) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// A message (QoS 1 or 2) that was taken off the queue is in flight, as sent.
    pub(super) fn depart(&mut self, id: PacketId, outgoing: Outgoing<M>) {
        self.grow(cost(&outgoing.message));
        self.put_in_flight(InFlight { id, awaits: Awaits::Receipt(outgoing), is_sent: true, dup: false });
    }

    fn put_in_flight(&mut self, entry: InFlight<M>) {
        if entry.id.get() != self.last_id {
            // It may be among those that were found free.
            self.ids_free = 0;
        }
        self.in_flight.push_back(entry);
    }

    /// An identifier that nothing in flight uses; `None` when all 65535 do.
    pub(super) fn next_id(&mut self) -> Option<PacketId> {
        if self.in_flight.len() >= usize::from(u16::MAX) {
            return None;
        }
        while self.ids_free == 0 {
            self.ids_free = self.count_free();
            if self.ids_free == 0 {
                self.last_id = following(self.last_id);
            }
        }
        self.ids_free -= 1;
        self.last_id = following(self.last_id);
        PacketId::new(self.last_id)
    }

    /// How many identifiers behind the last one nothing in flight uses.
    fn count_free(&self) -> u16 {
        let to_next = self.in_flight.iter().map(|entry| steps(self.last_id, entry.id.get())).min();
        to_next.map_or(u16::MAX, |steps| steps - 1)
    }

    /// The first one in flight that was not sent on the present connection.
    pub(super) fn next_unsent(&mut self) -> Option<&mut InFlight<M>> {
        let at = self.in_flight.partition_point(|entry| entry.is_sent);
        self.in_flight.get_mut(at)
    }

    /// Where the identifier is in flight. They are given out in turn, so a message lies about as far behind the first
    /// one as its identifier does; nearer, where some between them are done.
    fn place_in_flight(&self, id: PacketId) -> Option<usize> {
        let first = self.in_flight.front()?.id.get();
        let guess = if first == id.get() { 0 } else { usize::from(steps(first, id.get())) };
        let behind = self.in_flight.len().min(guess + 1);
        let is_it = |entry: &InFlight<M>| entry.id == id;
        let before = self.in_flight.range(..behind).rposition(is_it);
        before.or_else(|| Some(behind + self.in_flight.range(behind..).position(is_it)?))
    }

    fn find_in_flight(&self, id: PacketId) -> Option<&InFlight<M>> {
        Some(&self.in_flight[self.place_in_flight(id)?])
    }

    /// Whether something in flight uses the identifier.
    pub(super) fn is_in_flight(&self, id: PacketId) -> bool {
        self.place_in_flight(id).is_some()
    }

    /// The QoS of an in-flight message that awaits PUBACK or PUBREC.
    pub(super) fn awaits_receipt(&self, id: PacketId) -> Option<QoS> {
        match &self.find_in_flight(id).filter(|entry| entry.is_sent)?.awaits {
            Awaits::Receipt(outgoing) => Some(outgoing.qos),
            Awaits::Completion(_) => None,
        }
    }

    /// Whether it awaits PUBCOMP.
    pub(super) fn awaits_completion(&self, id: PacketId) -> bool {
        self.find_in_flight(id).is_some_and(|entry| matches!(entry.awaits, Awaits::Completion(_)))
    }

    /// QoS 2: the client has the message; its release is on the way.
    pub(super) fn release(&mut self, id: PacketId) {
        let Some(at) = self.place_in_flight(id) else { return };
        let entry = &mut self.in_flight[at];
        if let Awaits::Receipt(outgoing) = &entry.awaits {
            let cost = cost(&outgoing.message);
            entry.awaits = Awaits::Completion(outgoing.message.released());
            self.shrink(cost);
        }
    }

    /// An in-flight message is done.
    pub(super) fn complete(&mut self, id: PacketId) {
        let Some(at) = self.place_in_flight(id) else { return };
        if let Some(entry) = self.in_flight.remove(at) {
            if let Awaits::Receipt(outgoing) = &entry.awaits {
                self.shrink(cost(&outgoing.message));
            }
            entry.message().finish();
        }
    }

    /// Whether a QoS 2 publish of this identifier was taken and not released.
    pub fn has_received(&self, id: PacketId) -> bool {
        self.received.contains(&id)
    }

    pub(super) fn received_len(&self) -> usize {
        self.received.len()
    }

    /// A QoS 2 publish is taken: what comes under its identifier until it is released is a repetition.
    pub fn mark_received(&mut self, id: PacketId) {
        if !self.has_received(id) {
            self.received.push(id);
        }
    }

    /// The identifier is free again. Says whether it was taken.
    pub fn unmark_received(&mut self, id: PacketId) -> bool {
        let Some(at) = self.received.iter().position(|known| *known == id) else { return false };
        self.received.swap_remove(at);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        true
    }

    fn enqueue(&mut self, outgoing: Outgoing<M>, cost: usize) {
        self.queued.add(cost);
        if outgoing.qos == QoS::AtMostOnce {
            self.queued_qos0.add(cost);
        }
        self.grow(cost);
        self.queue.push_back(outgoing);
    }

    /// It has left the queue.
    fn discount(&mut self, outgoing: &Outgoing<M>) {
        let cost = cost(&outgoing.message);
        self.queued.remove(cost);
        if outgoing.qos == QoS::AtMostOnce {
            self.queued_qos0.remove(cost);
        }
        self.shrink(cost);
    }

    fn grow(&mut self, cost: usize) {
        self.bytes += cost;
        self.share.follow(self.bytes);
    }

    fn shrink(&mut self, cost: usize) {
        self.bytes -= cost;
        self.share.follow(self.bytes);
    }

    /// What the queue has no room for.
    fn missing(&self, cost: usize, settings: &Settings) -> Option<Bound> {
        match () {
            () if self.queue.len() >= settings.queue_max => Some(Bound::Count),
            () if self.bytes + cost > settings.queue_bytes_max => Some(Bound::Bytes),
            () if !self.may_hold(self.queued.count, self.bytes, cost, settings) => Some(Bound::Held),
            () => None,
        }
    }

    /// Drops one waiting message for one of `qos` and `cost` that comes, if the policy has one to drop.
    fn evict(&mut self, qos: QoS, cost: usize, settings: &Settings) -> bool {
        match settings.queue_policy {
            QueuePolicy::Qos0 if qos == QoS::AtMostOnce => false,
            QueuePolicy::Qos0 => self.is_room_without(self.queued_qos0, cost, settings) && self.evict_qos0(),
            QueuePolicy::Oldest => self.is_room_without(self.queued, cost, settings) && self.give_up(0),
            QueuePolicy::Newest => false,
        }
    }

    /// Whether there is room for `cost` once all that may be given up is: what is in flight stays, and nothing is
    /// gained by emptying the queue if that takes the room.
    fn is_room_without(&self, evictable: Load, cost: usize, settings: &Settings) -> bool {
        let (count, left) = (self.queue.len() - evictable.count, self.bytes - evictable.bytes);
        count < settings.queue_max
            && left.saturating_add(cost) <= settings.queue_bytes_max
            && self.may_hold(count, left, cost, settings)
    }

    /// Whether all sessions together leave room for `more`, where this one holds `bytes` and `count` of its messages wait. A
    /// client that takes what comes is sent that whatever others hold.
    fn may_hold(&self, count: usize, bytes: usize, more: usize, settings: &Settings) -> bool {
        count == 0 || self.share.has_room(&settings.held, bytes, more, settings.held_bytes_max)
    }

    fn evict_qos0(&mut self) -> bool {
        if self.queued_qos0.count == 0 {
            return false;
        }
        let at = self.queue.iter().position(|next| next.qos == QoS::AtMostOnce);
        at.is_some_and(|at| self.give_up(at))
    }

    /// Drops a waiting message; false when there is none.
    fn give_up(&mut self, at: usize) -> bool {
        let Some(given) = self.queue.remove(at) else { return false };
        self.discount(&given);
        given.message.finish();
        true
    }
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

impl<M> Outgoing<M> {
    fn new(message: M, terms: Terms<'_>, settings: &Settings) -> Self {
        let Terms { qos, retain, subscription_ids, since } = terms;
        let age_max = settings.queue_age_max;
        Self {
            message,
            qos,
            retain,
            subscription_ids: subscription_ids.iter().filter_map(|id| SubscriptionId::new(*id)).collect(),
            since,
            kept_until: if age_max.is_zero() { None } else { since.checked_add(age_max) },
        }
    }
}

impl<M: ApplicationMessage> Outgoing<M> {
    /// Finishes it, unless another member may have it.
    fn into_orphan(self) -> Option<Orphan<M>> {
        let Self { message, qos, since, .. } = self;
        let is_lost = message.standing() == Standing::Lost;
        if message.is_shared() && qos != QoS::AtMostOnce && !is_lost {
            return Some(Orphan { message, since });
        }
        message.finish();
        None
    }
}

impl<M> InFlight<M> {
    fn message(&self) -> &M {
        self.awaits.message()
    }
}

impl<M> Awaits<M> {
    fn message(&self) -> &M {
        match self {
            Self::Receipt(outgoing) => &outgoing.message,
            Self::Completion(message) => message,
        }
    }
}

impl<M: ApplicationMessage> Default for Session<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// The identifier behind another: there is no 0.
fn following(id: u16) -> u16 {
    id.checked_add(1).unwrap_or(1)
}

/// From one identifier to the next use of another; all the way round to itself.
fn steps(from: u16, to: u16) -> u16 {
    if to > from { to - from } else { u16::MAX - from + to }
}

fn cost<M: ApplicationMessage>(message: &M) -> usize {
    message.view().cost()
}
