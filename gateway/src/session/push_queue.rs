//! A session's pushes: in order, numbered, kept until the client has acknowledged them.
//!
//! ```text
//!             lane 0 | 4 9 12          a lane for each urgency, each in the order of ids;
//!   push -->  lane 3 | 1 2 3 7 10  --> the next one is the first unsent of the first lane that has one
//!             lane 7 | 5 6 8 11
//! ```
//!
//! What is more urgent overtakes, but not within a topic: a push joins the lane of the push of its topic that
//! was queued last.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use towline_protocols::link::{Priority, client::PushMarks};

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
    /// The urgency that it is sent with.
    pub(super) lane: Priority,
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
    /// The urgency to send it with.
    pub priority: Priority,
    /// What is pushed.
    pub message: Arc<Message>,
}

/// A push that was given up.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) push: QueuedPush,
    pub(super) why: Loss,
}

/// Why a push was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The setting whose bound it met.
    Bound(&'static str),
    /// Its own time to live, or `session.push_age_max`, was over.
    Expired,
    /// A newer one with its collapse key came.
    Replaced,
    /// It asked for no more than one attempt, and the connection of that attempt broke.
    Attempted,
}

/// Where a push stands: its lane, then its id.
type Place = (u8, u64);

#[derive(Debug, Default)]
pub(super) struct PushQueue {
    entries: BTreeMap<Place, QueuedPush>,
    bytes: usize,
    /// Pushes up to these ids were handed to the connection.
    sent: PushMarks,
    /// Pushes up to these ids may have been handed to earlier connections: their client may have taken what it has
    /// not said in HELLO.
    sent_before: PushMarks,
}

impl PushQueue {
    /// Adds a push with a larger id than all before, in the lane of its topic, and takes out what waits with
    /// the same collapse key. When a bound is met, room is made by giving up what has expired, then the oldest
    /// of the least urgent, which may be the new one itself.
    pub(super) fn push(&mut self, mut push: QueuedPush, bounds: &PushBounds) -> Vec<Given> {
        let mut given = Vec::new();
        self.give_up_replaced(&push, &mut given);
        push.lane = self.lane_of_topic(&push);
        self.insert(push, bounds, &mut given);
        given
    }

    /// Adds a push that was queued before a restart. What it replaced then, the client may have taken.
    pub(super) fn restore(&mut self, push: QueuedPush, bounds: &PushBounds) -> Vec<Given> {
        let mut given = Vec::new();
        self.sent_before.raise(push.lane, push.id);
        self.insert(push, bounds, &mut given);
        given
    }

    fn insert(&mut self, push: QueuedPush, bounds: &PushBounds, given: &mut Vec<Given>) {
        let now = push.queued_at;
        self.bytes += size(&push.message);
        self.entries.insert(push.place(), push);
        if self.exceeded(bounds).is_some() {
            self.give_up_expired(bounds, now, given);
        }
        while let Some(limit) = self.exceeded(bounds) {
            let Some(place) = self.least_wanted() else { break };
            given.extend(self.remove(place).map(|push| Given { push, why: Loss::Bound(limit) }));
        }
    }

    /// The next push to hand to the connection. What has expired, or has a successor, is given up on the way.
    pub(super) fn next(
        &mut self,
        bounds: &PushBounds,
        now: Instant,
        given: &mut Vec<Given>,
    ) -> Option<PendingPush> {
        loop {
            let push = self.first_unsent()?;
            let why = match () {
                () if is_expired(push, bounds, now) => Loss::Expired,
                () if self.has_successor(push) => Loss::Replaced,
                () => {
                    let next =
                        PendingPush { id: push.id, priority: push.lane, message: push.message.clone() };
                    self.sent.raise(next.priority, next.id);
                    return Some(next);
                }
            };
            let place = push.place();
            given.extend(self.remove(place).map(|push| Given { push, why }));
        }
    }

    /// The first pushes of the queue that are kept until they are acknowledged, however far a connection is with
    /// them. Leaves the queue as it is.
    pub(super) fn first(
        &self,
        bounds: &PushBounds,
        now: Instant,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<PendingPush> {
        let is_due =
            |push: &&QueuedPush| push.qos > 0 && !is_expired(push, bounds, now) && !self.has_successor(push);
        let mut bytes = 0;
        let fits = |(index, push): &(usize, &QueuedPush)| {
            bytes += size(&push.message);
            *index == 0 || bytes <= bytes_max
        };
        let first = self.entries.values().filter(is_due).take(count_max).enumerate().take_while(fits);
        let pending = |(_, push): (usize, &QueuedPush)| PendingPush {
            id: push.id,
            priority: push.lane,
            message: Arc::clone(&push.message),
        };
        first.map(pending).collect()
    }

    /// The client has taken all pushes of this lane up to `id`.
    pub(super) fn acknowledge(&mut self, lane: Priority, id: u64) -> Vec<QueuedPush> {
        let places: Vec<Place> =
            self.lane(lane, 0).map_while(|push| (push.id <= id).then(|| push.place())).collect();
        places.into_iter().filter_map(|place| self.remove(place)).collect()
    }

    /// The connection has gone: what it was handed without an acknowledgement is sent again by the next
    /// one, unless it asked for no more than one attempt.
    pub(super) fn connection_lost(&mut self) -> Vec<Given> {
        self.forget_connection();
        let fleeting: Vec<Place> =
            self.entries.values().filter(|push| push.qos == 0).map(QueuedPush::place).collect();
        let given = fleeting.into_iter().filter_map(|place| self.remove(place));
        given.map(|push| Given { push, why: Loss::Attempted }).collect()
    }

    /// A new connection has everything up to these ids.
    pub(super) fn resume_after(&mut self, received: PushMarks) {
        self.forget_connection();
        self.sent = received;
    }

    fn forget_connection(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        for lane in (0..=LANE_LAST).map(Priority::new) {
            self.sent_before.raise(lane, sent.get(lane));
        }
    }

    /// Whether the client may acknowledge `id`: no push of the lane up to it waits to be sent for the first time.
    /// What was acknowledged before may be again.
    pub(super) fn was_sent(&self, lane: Priority, id: u64) -> bool {
        let sent = self.sent.get(lane).max(self.sent_before.get(lane));
        self.lane(lane, sent).next().is_none_or(|push| id < push.id)
    }

    /// The push with this id.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut QueuedPush> {
        (0..=LANE_LAST)
            .find_map(|lane| self.entries.contains_key(&(lane, id)).then_some((lane, id)))
            .and_then(|place| self.entries.get_mut(&place))
    }

    /// Takes a push out.
    pub(super) fn take(&mut self, id: u64) -> Option<QueuedPush> {
        let place = self.get_mut(id)?.place();
        self.remove(place)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &QueuedPush> {
        self.entries.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A lane behind `id`.
    fn lane(&self, lane: Priority, id: u64) -> impl Iterator<Item = &QueuedPush> {
        let lane = lane.urgency();
        self.entries.range((lane, id.saturating_add(1))..=(lane, u64::MAX)).map(|(_, push)| push)
    }

    fn first_unsent(&self) -> Option<&QueuedPush> {
        (0..=LANE_LAST).map(Priority::new).find_map(|lane| self.lane(lane, self.sent.get(lane)).next())
    }

    /// The oldest of the last lane.
    fn least_wanted(&self) -> Option<Place> {
        let (&(lane, _), _) = self.entries.last_key_value()?;
        self.entries.range((lane, 0)..).next().map(|(place, _)| *place)
    }

    /// The lane of the push of the same topic that came last; the push's own when there is none.
    fn lane_of_topic(&self, push: &QueuedPush) -> Priority {
        let mut lanes = [self.entries.first_key_value(), self.entries.last_key_value()].into_iter().flatten();
        if lanes.all(|(&(lane, _), _)| lane == push.lane.urgency()) {
            return push.lane;
        }
        let of_topic = self.entries.values().filter(|held| held.message.topic == push.message.topic);
        of_topic.max_by_key(|held| held.id).map_or(push.lane, |held| held.lane)
    }

    /// What was sent is left to its acknowledgement: the client may have it.
    fn give_up_replaced(&mut self, push: &QueuedPush, given: &mut Vec<Given>) {
        let Some(key) = &push.message.collapse_key else { return };
        let is_replaced = |held: &&QueuedPush| {
            held.message.collapse_key.as_ref() == Some(key) && held.id > self.sent.get(held.lane)
        };
        let replaced: Vec<Place> = self.entries.values().filter(is_replaced).map(QueuedPush::place).collect();
        for place in replaced {
            given.extend(self.remove(place).map(|push| Given { push, why: Loss::Replaced }));
        }
    }

    /// Whether a newer push has the collapse key of this one, which was sent on an earlier connection.
    fn has_successor(&self, push: &QueuedPush) -> bool {
        let Some(key) = &push.message.collapse_key else { return false };
        self.entries.values().any(|held| held.id > push.id && held.message.collapse_key.as_ref() == Some(key))
    }

    fn exceeded(&self, bounds: &PushBounds) -> Option<&'static str> {
        if self.entries.len() > bounds.count_max {
            return Some("session.pushes_max");
        }
        (self.bytes > bounds.bytes_max).then_some("session.push_bytes_max")
    }

    fn give_up_expired(&mut self, bounds: &PushBounds, now: Instant, given: &mut Vec<Given>) {
        let expired = |push: &&QueuedPush| is_expired(push, bounds, now);
        let expired: Vec<Place> = self.entries.values().filter(expired).map(QueuedPush::place).collect();
        for place in expired {
            given.extend(self.remove(place).map(|push| Given { push, why: Loss::Expired }));
        }
    }

    fn remove(&mut self, place: Place) -> Option<QueuedPush> {
        let push = self.entries.remove(&place)?;
        self.bytes -= size(&push.message);
        Some(push)
    }
}

impl QueuedPush {
    fn place(&self) -> Place {
        (self.lane.urgency(), self.id)
    }
}

const LANE_LAST: u8 = Priority::BACKGROUND.urgency();

/// What an entry costs beside payload and texts.
const ENTRY_OVERHEAD_BYTES: usize = 64;

fn size(message: &Message) -> usize {
    let key = message.collapse_key.as_ref().map_or(0, |key| key.len());
    message.payload.len() + message.topic.len() + key + ENTRY_OVERHEAD_BYTES
}

fn is_expired(push: &QueuedPush, bounds: &PushBounds, now: Instant) -> bool {
    push.message.expires.is_some_and(|expires| expires <= now)
        || now.saturating_duration_since(push.queued_at) > bounds.age_max
}

#[cfg(test)]
mod tests;
