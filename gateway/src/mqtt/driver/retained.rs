//! What is retained for a new subscription goes to the client as its queue has room: there may be more than that holds.

use std::collections::{HashMap, VecDeque};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::mqtt::{retained::Wanted, subscribe::has_subscription};

/// A part of the queue is filled with retained messages, one of so many: from a half on, publishers wait.
const QUEUE_PARTS: usize = 4;

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// What new subscriptions want. One that is made again begins again.
    pub(super) fn want_retained(&mut self, wanted: Vec<Wanted>) {
        let last: HashMap<&str, usize> =
            wanted.iter().enumerate().map(|(at, new)| (new.filter(), at)).collect();
        self.retained.retain(|older| !last.contains_key(older.filter()));
        let is_last: Vec<bool> =
            wanted.iter().enumerate().map(|(at, new)| last[new.filter()] == at).collect();
        let new = wanted.into_iter().zip(is_last).filter(|(_, is_last)| *is_last);
        self.retained.extend(new.map(|(new, _)| new));
        self.send_retained();
    }

    /// Queues as much as there is room for; says whether that was something.
    pub(super) fn send_retained(&mut self) -> bool {
        !self.retained.is_empty() && self.queue_retained(QUEUE_PARTS)
    }

    /// The connection is over. A session that outlives it keeps as much as its queue holds.
    pub(super) fn keep_retained(&mut self) {
        if !self.retained.is_empty() && self.attachment.client.is_lasting() {
            self.queue_retained(1);
        }
    }

    fn queue_retained(&mut self, queue_parts: usize) -> bool {
        let client = &self.attachment.client;
        let has_room = || client.lock().has_room(queue_parts);
        let mut is_queued = false;
        while has_room()
            && let Some(wanted) = self.retained.front_mut()
        {
            is_queued = true;
            // MQTT-3.10.4-2: nothing is added for a subscription that has ended.
            let is_done = !has_subscription(&self.attachment, wanted.filter())
                || self.attachment.gateway.mqtt.retained.deliver_rest(
                    client.as_ref(),
                    &client.id,
                    wanted,
                    has_room,
                );
            if is_done {
                self.retained.pop_front();
            }
        }
        if self.retained.is_empty() {
            // An idle connection keeps no buffer.
            self.retained = VecDeque::new();
        }
        is_queued
    }
}
