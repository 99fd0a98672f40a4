//! What a publisher's last topic matched: most publish to one topic again and again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    Inner, Message, check_topic,
    room::{Room, Rooms},
    tree::Matched,
};

/// Subscriptions that are kept for the next message. With more of them, to find them is little beside to serve them, and
/// the publisher would hold on to much.
const KEPT_MAX: usize = 8;

/// Where the last message of one publisher went. It holds on to clients that have left until the publisher's next
/// message, or its end: `KEPT_MAX` of them at the most, without their queues.
#[derive(Default)]
pub struct LastMatch {
    topic: Arc<str>,
    matched: Matched,
    /// Of the tree in which it was found; `None` when it is not to be used again.
    generation: Option<u64>,
    /// In a queue that it went to with a quality above 0, and that was once half full.
    room: Option<Arc<Room>>,
}

impl LastMatch {
    /// The topic as it is shared by messages, if it is that of the last one.
    pub fn topic(&self, topic: &[u8]) -> Option<&Arc<str>> {
        Some(&self.topic).filter(|last| last.as_bytes() == topic && !topic.is_empty())
    }

    /// Who is to get the message. A topic that is not valid matches nobody.
    pub(super) fn matching(&mut self, hub: &Inner, message: &Message) -> &Matched {
        // Before the tree is asked: a change in between has it asked once more.
        let generation = hub.generation.load(Ordering::Acquire);
        if self.generation == Some(generation) && self.topic == message.topic {
            return &self.matched;
        }
        self.topic = message.topic.clone();
        let is_valid = check_topic(&message.topic, hub.levels_max).is_ok();
        self.matched = match is_valid {
            true => hub.tree.read().matching(&message.topic, message.publisher.as_deref()),
            false => Matched::default(),
        };
        self.generation = self.matched.is_lasting(KEPT_MAX).then_some(generation);
        &self.matched
    }

    /// The room that the publisher had better wait for, if it can.
    pub(crate) fn scarce_room(&self, now: Instant) -> Option<&Arc<Room>> {
        self.room.as_ref().filter(|room| room.is_scarce(now))
    }

    /// The message is delivered: lets go of what is not used again.
    pub(super) fn settle(&mut self, rooms: Rooms) {
        self.room = rooms.into_room();
        if self.generation.is_none() {
            self.matched = Matched::default();
        }
    }
}
