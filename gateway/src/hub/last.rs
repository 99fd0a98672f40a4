//! What a publisher's last topic matched: most publish to one topic again and again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{Inner, Message, check_topic, room::Room, tree::Matched};

/// Subscriptions that are kept for the next message. With more of them, to find them is little beside to serve them, and
/// the publisher would hold on to much.
const KEPT_MAX: usize = 16;

/// Where the last message of one publisher went, or is about to go. It holds on to clients that have left until the
/// publisher's next message, or its end: `KEPT_MAX` of them at the most, without their queues.
#[derive(Default)]
pub struct LastMatch {
    topic: Arc<str>,
    matched: Matched,
    /// Of the tree in which it was found.
    generation: Option<u64>,
    /// The next message of the topic goes to the same clients.
    is_lasting: bool,
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
        if self.is_lasting && self.is_of(message, generation) {
            return &self.matched;
        }
        let matched = match is_valid(hub, message) {
            true => hub.tree.read().matching(&message.topic, message.publisher.as_deref()),
            false => Matched::default(),
        };
        let is_lasting = matched.is_lasting(KEPT_MAX);
        self.hold(message, generation, matched, is_lasting)
    }

    /// Who is to get the message whatever its turn, if that is not known: a shared subscription has it choose among
    /// its members, whose turn is not to be taken before the message is delivered.
    pub(super) fn unknown_direct(&mut self, hub: &Inner, message: &Message) -> Option<&Matched> {
        let generation = hub.generation.load(Ordering::Acquire);
        if self.is_of(message, generation) {
            return None;
        }
        let (matched, is_all) = match is_valid(hub, message) {
            true => hub.tree.read().matching_direct(&message.topic, message.publisher.as_deref()),
            false => (Matched::default(), true),
        };
        let is_lasting = is_all && matched.is_lasting(KEPT_MAX);
        Some(self.hold(message, generation, matched, is_lasting))
    }

    fn is_of(&self, message: &Message, generation: u64) -> bool {
        self.generation == Some(generation) && self.topic == message.topic
    }

    fn hold(&mut self, message: &Message, generation: u64, matched: Matched, is_lasting: bool) -> &Matched {
        self.topic = message.topic.clone();
        (self.generation, self.is_lasting) = (Some(generation), is_lasting);
        self.matched = matched;
        &self.matched
    }

    /// The room that the publisher had better wait for, if it can.
    pub(crate) fn scarce_room(&self, now: Instant) -> Option<&Arc<Room>> {
        self.room.as_ref().filter(|room| room.is_scarce(now))
    }

    /// The message is delivered, or looked for: lets go of what is not used again.
    pub(super) fn settle(&mut self, room: Option<Arc<Room>>) {
        self.room = room;
        if !self.is_lasting {
            self.matched = Matched::default();
        }
    }
}

fn is_valid(hub: &Inner, message: &Message) -> bool {
    check_topic(&message.topic, hub.levels_max).is_ok()
}
