//! A session's pushes: in order, numbered, kept until the client has acknowledged them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::hub::Message;

/// Bounds of one session's queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct PushBounds {
    /// `session.pushes_max`
    pub(super) count_max: usize,
    /// `session.push_bytes_max`
    pub(super) bytes_max: usize,
    /// `session.push_age_max`
    pub(super) age_max: Duration,
}

/// A push that waits for its acknowledgement.
#[derive(Clone, Debug)]
pub(super) struct QueuedPush {
    pub(super) id: u64,
    pub(super) message: Arc<Message>,
    pub(super) qos: u8,
    pub(super) queued_at: Instant,
    /// Whether the store holds it.
    pub(super) stored: bool,
}

/// A push on its way to the client.
#[derive(Clone, Debug)]
pub struct PendingPush {
    /// Counts up within the session, from 1. Numbers may be left out.
    pub id: u64,
    /// What is pushed.
    pub message: Arc<Message>,
}

/// A push that was given up, and the setting whose bound it met.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) push: QueuedPush,
    pub(super) limit: &'static str,
}

/// In the order of ids.
#[derive(Debug, Default)]
pub(super) struct PushQueue {
    entries: VecDeque<QueuedPush>,
    bytes: usize,
    /// Pushes up to this id were handed to the connection.
    sent_through: u64,
}

impl PushQueue {
    /// Adds a push with a larger id than all before. When a bound is met, room is made by giving up what
    /// has expired, then the oldest of the least urgent, which may be the new one itself.
    pub(super) fn push(&mut self, push: QueuedPush, bounds: &PushBounds) -> Vec<Given> {
        let now = push.queued_at;
        self.bytes += size(&push.message);
        self.entries.push_back(push);
        let mut given = Vec::new();
        if self.exceeded(bounds).is_some() {
            self.give_up_expired(bounds, now, &mut given);
        }
        while let Some(limit) = self.exceeded(bounds) {
            // `max_by_key` takes the last of equals, so it is asked from the newest to the oldest.
            let urgency = |&index: &usize| self.entries[index].message.priority.urgency();
            let Some(index) = (0..self.entries.len()).rev().max_by_key(urgency) else { break };
            given.extend(self.remove(index).map(|push| Given { push, limit }));
        }
        given
    }

    /// The next push to hand to the connection. What has expired is given up on the way.
    pub(super) fn next(
        &mut self,
        bounds: &PushBounds,
        now: Instant,
        given: &mut Vec<Given>,
    ) -> Option<PendingPush> {
        loop {
            let index = self.entries.partition_point(|push| push.id <= self.sent_through);
            let push = self.entries.get(index)?;
            if !is_expired(push, bounds, now) {
                self.sent_through = push.id;
                return Some(PendingPush { id: push.id, message: push.message.clone() });
            }
            given.extend(self.remove(index).map(|push| Given { push, limit: EXPIRED }));
        }
    }

    /// The client has taken all pushes up to `id`. Returns those that the store must forget.
    pub(super) fn acknowledge(&mut self, id: u64) -> Vec<u64> {
        let mut stored = Vec::new();
        while self.entries.front().is_some_and(|push| push.id <= id) {
            stored.extend(self.remove(0).filter(|push| push.stored).map(|push| push.id));
        }
        self.entries.shrink_to(2 * self.entries.len());
        stored
    }

    /// The connection has gone: what it was handed without an acknowledgement is sent again by the next
    /// one, unless it asked for no more than one attempt.
    pub(super) fn connection_lost(&mut self) {
        self.sent_through = 0;
        self.entries.retain(|push| push.qos > 0);
        self.bytes = self.entries.iter().map(|push| size(&push.message)).sum();
    }

    /// A new connection has everything up to `id`.
    pub(super) fn resume_after(&mut self, id: u64) {
        self.sent_through = id;
    }

    /// Whether the client may acknowledge `id`: no push up to it waits to be sent. What was acknowledged
    /// before may be again.
    pub(super) fn was_sent(&self, id: u64) -> bool {
        let unsent = self.entries.partition_point(|push| push.id <= self.sent_through);
        self.entries.get(unsent).is_none_or(|push| id < push.id)
    }

    pub(super) fn newest_mut(&mut self) -> Option<&mut QueuedPush> {
        self.entries.back_mut()
    }

    /// Takes the newest push back.
    pub(super) fn take_back(&mut self, id: u64) {
        if self.entries.back().is_some_and(|push| push.id == id) {
            self.remove(self.entries.len() - 1);
        }
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.entries.binary_search_by_key(&id, |push| push.id).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn exceeded(&self, bounds: &PushBounds) -> Option<&'static str> {
        if self.entries.len() > bounds.count_max {
            return Some("session.pushes_max");
        }
        (self.bytes > bounds.bytes_max).then_some("session.push_bytes_max")
    }

    fn give_up_expired(&mut self, bounds: &PushBounds, now: Instant, given: &mut Vec<Given>) {
        let mut index = 0;
        while let Some(push) = self.entries.get(index) {
            if is_expired(push, bounds, now) {
                given.extend(self.remove(index).map(|push| Given { push, limit: EXPIRED }));
            } else {
                index += 1;
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<QueuedPush> {
        let push = self.entries.remove(index)?;
        self.bytes -= size(&push.message);
        Some(push)
    }
}

/// Beside the bound on age, a message's own expiry counts under this name.
const EXPIRED: &str = "session.push_age_max";

/// What an entry costs beside payload and topic.
const ENTRY_OVERHEAD_BYTES: usize = 64;

fn size(message: &Message) -> usize {
    message.payload.len() + message.topic.len() + ENTRY_OVERHEAD_BYTES
}

fn is_expired(push: &QueuedPush, bounds: &PushBounds, now: Instant) -> bool {
    push.message.expires.is_some_and(|expires| expires <= now)
        || now.saturating_duration_since(push.queued_at) > bounds.age_max
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use towline_protocols::link::Priority;

    use super::*;

    const BOUNDS: PushBounds = PushBounds { count_max: 3, bytes_max: 1000, age_max: Duration::from_secs(60) };

    fn push(id: u64, urgency: u8, at: Instant) -> QueuedPush {
        let message = Message { priority: Priority::new(urgency), ..Message::default() };
        QueuedPush { id, message: Arc::new(message), qos: 1, queued_at: at, stored: true }
    }

    fn given_ids(given: &[Given]) -> Vec<(u64, &'static str)> {
        given.iter().map(|given| (given.push.id, given.limit)).collect()
    }

    fn drain(queue: &mut PushQueue, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| queue.next(&BOUNDS, now, &mut Vec::new())).map(|push| push.id).collect()
    }

    #[test]
    fn beyond_the_count_the_oldest_of_the_least_urgent_is_given_up() {
        let now = Instant::now();
        let mut queue = PushQueue::default();
        for (id, urgency) in [(1, 3), (2, 5), (3, 5)] {
            assert!(queue.push(push(id, urgency, now), &BOUNDS).is_empty());
        }
        assert_eq!(given_ids(&queue.push(push(4, 3, now), &BOUNDS)), [(2, "session.pushes_max")]);
        assert_eq!(given_ids(&queue.push(push(5, 7, now), &BOUNDS)), [(5, "session.pushes_max")]);
        assert_eq!(drain(&mut queue, now), [1, 3, 4]);
    }

    #[test]
    fn what_has_expired_is_given_up_before_what_is_wanted() {
        let now = Instant::now();
        let mut queue = PushQueue::default();
        for id in 1..=3 {
            queue.push(push(id, if id == 2 { 0 } else { 7 }, now), &BOUNDS);
        }
        let late = now + Duration::from_secs(61);
        let given = queue.push(push(4, 7, late), &BOUNDS);
        let expired = "session.push_age_max";
        assert_eq!(given_ids(&given), [(1, expired), (2, expired), (3, expired)]);
        assert_eq!(drain(&mut queue, late), [4]);
    }

    #[test]
    fn beyond_the_bytes_room_is_made_for_a_large_push() {
        let now = Instant::now();
        let mut queue = PushQueue::default();
        queue.push(push(1, 3, now), &BOUNDS);
        let mut large = push(2, 3, now);
        large.message = Arc::new(Message { payload: Bytes::from(vec![0; 930]), ..Message::default() });
        assert_eq!(given_ids(&queue.push(large, &BOUNDS)), [(1, "session.push_bytes_max")]);
        assert_eq!(queue.bytes(), 994);
    }

    #[test]
    fn unacknowledged_pushes_are_sent_again_and_acknowledged_ones_never() {
        let now = Instant::now();
        let mut queue = PushQueue::default();
        for id in 1..=3 {
            queue.push(push(id, 3, now), &BOUNDS);
        }
        assert_eq!(drain(&mut queue, now), [1, 2, 3]);
        assert_eq!(queue.acknowledge(1), [1]);
        queue.connection_lost();
        assert_eq!(queue.acknowledge(2), [2]);
        queue.resume_after(2);
        assert_eq!(drain(&mut queue, now), [3]);
    }

    #[test]
    fn a_push_that_expires_in_the_queue_is_not_sent() {
        let now = Instant::now();
        let mut queue = PushQueue::default();
        let mut brief = push(1, 3, now);
        let expires = Some(now + Duration::from_secs(1));
        brief.message = Arc::new(Message { expires, ..Message::default() });
        queue.push(brief, &BOUNDS);
        queue.push(push(2, 3, now), &BOUNDS);
        assert_eq!(drain(&mut queue, now + Duration::from_secs(1)), [2]);
    }
}
