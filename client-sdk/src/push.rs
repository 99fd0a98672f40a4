//! Messages that nobody asked for, in the order in which the gateway numbered them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use towline_protocols::link::Priority;

use crate::{
    core::{Shared, Ticket},
    state::ConnectionState,
};

/// A pushed message.
#[derive(Clone, PartialEq, Eq)]
pub struct Push {
    /// Counts up within the session.
    pub id: u64,
    /// Topic name.
    pub topic: String,
    /// Media type, may be empty.
    pub content_type: String,
    /// Payload.
    pub payload: Bytes,
    /// Urgency.
    pub priority: Priority,
}

impl Push {
    pub(crate) fn from_wire(push: towline_protocols::link::Push) -> Self {
        Self {
            id: push.id,
            topic: String::from_utf8_lossy(&push.topic).into_owned(),
            content_type: String::from_utf8_lossy(&push.content_type).into_owned(),
            payload: push.payload,
            priority: push.priority,
        }
    }
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("content_type", &self.content_type)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Hands out pushes, each once: the more urgent ones first, those of one topic in order. A push is done, and
/// acknowledged to the gateway, when the next one is asked for, or by [`Pushes::done`]. One that is not done when its
/// listener goes, or when the app dies, was not handled: the next listener gets it, or the next run of the app, which
/// with an identity file gets no other again. Several listeners of one client share the pushes out among them.
pub struct Pushes {
    shared: Arc<Shared>,
    handled: Option<Ticket>,
}

impl Pushes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handled: None }
    }

    /// The next push; `None` once the client is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<Push> {
        self.done();
        let mut states = self.shared.states.subscribe();
        loop {
            if let Some(push) = self.take() {
                return Some(push);
            }
            let closed = states.wait_for(|state| matches!(state, ConnectionState::Closed { .. }));
            tokio::select! {
                () = self.shared.pushes.notified() => {}
                _ = closed => return self.take(),
            }
        }
    }

    fn take(&mut self) -> Option<Push> {
        let (ticket, push, more) = self.shared.with(|core| core.inbox.take())?;
        if more {
            // Another listener may wait for it: a notification wakes only one.
            self.shared.pushes.notify_one();
        }
        self.handled = Some(ticket);
        Some(push)
    }

    /// The app has handled the push that was handed out last: it does not come again. For who asks for no other.
    pub fn done(&mut self) {
        let Some(ticket) = self.handled.take() else { return };
        let again = self.shared.with(|core| core.push_done(ticket));
        if again {
            // What found no place is sent again to the session's next connection.
            self.shared.line.notify_one();
        }
    }
}

impl Drop for Pushes {
    /// What was not done goes to another listener.
    fn drop(&mut self) {
        let Some(ticket) = self.handled.take() else { return };
        self.shared.with(|core| core.inbox.give_back(ticket));
        self.shared.pushes.notify_one();
    }
}
