//! Says once of each reason that something was denied.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use parking_lot::Mutex;

use super::Action;
use crate::request::Origin;

/// Reasons that are remembered as said: beyond, new ones are counted and no longer logged.
const REASONS_MAX: usize = 1024;
/// How much of a topic the log shows.
const TOPIC_CHARS_MAX: usize = 128;

/// What was denied and has been logged. A reason is a rule, an action and a client.
#[derive(Debug, Default)]
pub struct Denials {
    logged: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Denials {
    /// Logs a denial unless its reason was logged before. False when there is no room to remember it, so that it was
    /// not logged either.
    pub fn log(&self, rule: &str, origin: &Origin, action: Action, topic: &str) -> bool {
        let reason = self.hasher.hash_one((rule, action, &origin.listener, &origin.user, &origin.client_id));
        {
            let mut logged = self.logged.lock();
            if logged.contains(&reason) {
                return true;
            }
            if logged.len() >= REASONS_MAX {
                return false;
            }
            logged.insert(reason);
        }
        let topic: String = topic.chars().take(TOPIC_CHARS_MAX).collect();
        let (client_id, user) = (origin.client_id.as_deref(), origin.user.as_deref());
        let action = action.label();
        tracing::warn!(rule, action, ?topic, ?client_id, ?user, listener = %origin.listener, "denied");
        true
    }

    /// The rules have changed: every reason is worth saying again.
    pub fn clear(&self) {
        self.logged.lock().clear();
    }
}
