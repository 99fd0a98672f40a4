//! What survives a connection: messages that wait, messages in flight, and QoS 2 identifiers received.

use std::{collections::VecDeque, time::Instant};

use super::{ApplicationMessage, Settings};
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
    /// How many of them have QoS 0, so that a search for one to drop is not made in vain.
    queued_qos0: usize,
    /// Sent and not acknowledged, in the order of sending.
    pub(super) in_flight: VecDeque<InFlight<M>>,
    /// Of both.
    bytes: usize,
    last_id: u16,
    /// QoS 2 publishes from the client that were taken and not released yet.
    received: Vec<PacketId>,
}

/// A message on its way to the client.
#[derive(Clone, Debug)]
pub(super) struct Outgoing<M> {
    pub(super) message: M,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: Box<[SubscriptionId]>,
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
    /// QoS 2: PUBCOMP. The message itself is the client's by now.
    Completion,
}

/// What became of a message that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It will be sent.
    Queued,
    /// It will be sent; so many messages of QoS 0 were dropped for it.
    QueuedInsteadOf(usize),
    /// A bound was met.
    Dropped,
}

impl<M: ApplicationMessage> Session<M> {
    /// An empty session. It holds no memory before the first message.
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            queued_qos0: 0,
            in_flight: VecDeque::new(),
            bytes: 0,
            last_id: 0,
            received: Vec::new(),
        }
    }

    /// Queues a message. When a bound is met, messages of QoS 0 go first.
    pub fn push(
        &mut self,
        message: M,
        qos: QoS,
        retain: bool,
        subscription_ids: &[u32],
        settings: &Settings,
    ) -> Push {
        let cost = cost(&message);
        let mut evicted = 0;
        while self.queue.len() >= settings.queue_max || self.bytes + cost > settings.queue_bytes_max {
            if qos == QoS::AtMostOnce || !self.evict_qos0() {
                return Push::Dropped;
            }
            evicted += 1;
        }
        let subscription_ids = subscription_ids.iter().filter_map(|id| SubscriptionId::new(*id)).collect();
        self.enqueue(Outgoing { message, qos, retain, subscription_ids }, cost);
        if evicted == 0 { Push::Queued } else { Push::QueuedInsteadOf(evicted) }
    }

    /// The connection is gone: QoS 0 is not kept for the next one (4.1). Returns how many were dropped.
    pub fn detach(&mut self) -> usize {
        let dropped = self.queued_qos0;
        while self.evict_qos0() {}
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

    /// What they cost, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first waiting message that has not expired; `dropped` counts those that had.
    pub(super) fn next_queued(&mut self, now: Instant, dropped: &mut u32) -> Option<&Outgoing<M>> {
        while self.queue.front().is_some_and(|next| next.message.view().expires.is_some_and(|at| at <= now)) {
            self.dequeue();
            *dropped = dropped.saturating_add(1);
        }
        self.queue.front()
    }

    /// Takes the first waiting message for good.
    pub(super) fn dequeue(&mut self) -> Option<Outgoing<M>> {
        let next = self.queue.pop_front()?;
        self.queued_qos0 -= usize::from(next.qos == QoS::AtMostOnce);
        self.bytes -= cost(&next.message);
        if self.queue.is_empty() {
            // An idle session keeps no memory of a busy past.
            self.queue = VecDeque::new();
        }
        Some(next)
    }

    /// Moves the first waiting message (QoS 1 or 2) in flight, as sent.
    pub(super) fn depart(&mut self, id: PacketId) {
        if let Some(outgoing) = self.dequeue() {
            self.bytes += cost(&outgoing.message);
            let awaits = Awaits::Receipt(outgoing);
            self.in_flight.push_back(InFlight { id, awaits, is_sent: true, dup: false });
        }
    }

    /// An identifier that nothing in flight uses; `None` when all 65535 do.
    pub(super) fn next_id(&mut self) -> Option<PacketId> {
        for _ in 0..u16::MAX {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = PacketId::new(self.last_id)?;
            if !self.in_flight.iter().any(|entry| entry.id == id) {
                return Some(id);
            }
        }
        None
    }

    /// The QoS of an in-flight message that awaits PUBACK or PUBREC.
    pub(super) fn awaits_receipt(&self, id: PacketId) -> Option<QoS> {
        self.in_flight.iter().find(|entry| entry.id == id && entry.is_sent).and_then(|entry| {
            match &entry.awaits {
                Awaits::Receipt(outgoing) => Some(outgoing.qos),
                Awaits::Completion => None,
            }
        })
    }

    /// Whether it awaits PUBCOMP.
    pub(super) fn awaits_completion(&self, id: PacketId) -> bool {
        self.in_flight.iter().any(|entry| entry.id == id && matches!(entry.awaits, Awaits::Completion))
    }

    /// QoS 2: the client has the message; its release is on the way.
    pub(super) fn release(&mut self, id: PacketId) {
        let Some(entry) = self.in_flight.iter_mut().find(|entry| entry.id == id) else { return };
        if let Awaits::Receipt(outgoing) = std::mem::replace(&mut entry.awaits, Awaits::Completion) {
            self.bytes -= cost(&outgoing.message);
        }
    }

    /// An in-flight message is done.
    pub(super) fn complete(&mut self, id: PacketId) {
        let Some(at) = self.in_flight.iter().position(|entry| entry.id == id) else { return };
        if let Some(InFlight { awaits: Awaits::Receipt(outgoing), .. }) = self.in_flight.remove(at) {
            self.bytes -= cost(&outgoing.message);
        }
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
    }

    pub(super) fn has_received(&self, id: PacketId) -> bool {
        self.received.contains(&id)
    }

    pub(super) fn received_len(&self) -> usize {
        self.received.len()
    }

    pub(super) fn mark_received(&mut self, id: PacketId) {
        if !self.has_received(id) {
            self.received.push(id);
        }
    }

    /// Whether the identifier was there.
    pub(super) fn unmark_received(&mut self, id: PacketId) -> bool {
        let Some(at) = self.received.iter().position(|known| *known == id) else { return false };
        self.received.swap_remove(at);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        true
    }

    fn enqueue(&mut self, outgoing: Outgoing<M>, cost: usize) {
        self.queued_qos0 += usize::from(outgoing.qos == QoS::AtMostOnce);
        self.bytes += cost;
        self.queue.push_back(outgoing);
    }

    fn evict_qos0(&mut self) -> bool {
        if self.queued_qos0 == 0 {
            return false;
        }
        let Some(at) = self.queue.iter().position(|next| next.qos == QoS::AtMostOnce) else { return false };
        if let Some(evicted) = self.queue.remove(at) {
            self.queued_qos0 -= 1;
            self.bytes -= cost(&evicted.message);
        }
        true
    }
}

impl<M: ApplicationMessage> Default for Session<M> {
    fn default() -> Self {
        Self::new()
    }
}

fn cost<M: ApplicationMessage>(message: &M) -> usize {
    message.view().cost()
}
