//! Says once of each reason that something was denied.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hash, RandomState},
};

use parking_lot::Mutex;

use super::Action;
use crate::{
    auth::{Credentials, DenyReason},
    request::Origin,
};

/// Reasons that are remembered as said: beyond, new ones are counted and no longer logged.
const REASONS_MAX: usize = 1024;
/// How much of a topic or name the log shows.
const CHARS_MAX: usize = 128;

/// What was denied and has been logged. A reason is a rule, an action and a client.
#[derive(Debug, Default)]
pub struct Denials {
    logged: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Denials {
    /// Logs that the hook did not admit a client, as [`Denials::log`] does.
    pub fn log_login(
        &self,
        reason: DenyReason,
        text: Option<&str>,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> bool {
        let Credentials { client_id, user, .. } = credentials;
        let is_first = self.is_first((reason, &origin.listener, user, client_id));
        if is_first == Some(true) {
            let (client_id, user) = (shortened(client_id), user.map(shortened));
            tracing::warn!(?reason, ?text, ?client_id, ?user, listener = %origin.listener, "not admitted");
        }
        is_first.is_some()
    }

    /// Logs a denial unless its reason was logged before. False when there is no room to remember it, so that it was
    /// not logged either.
    pub fn log(&self, rule: &str, origin: &Origin, action: Action, topic: &str) -> bool {
        let is_first = self.is_first((rule, action, &origin.listener, &origin.user, &origin.client_id));
        if is_first != Some(true) {
            return is_first.is_some();
        }
        let topic = shortened(topic);
        let (client_id, user) = (origin.client_id.as_deref(), origin.user.as_deref());
        let action = action.label();
        tracing::warn!(rule, action, ?topic, ?client_id, ?user, listener = %origin.listener, "denied");
        true
    }

    /// Whether a reason was not logged before; `None` when there is no room to remember it.
    fn is_first(&self, reason: impl Hash) -> Option<bool> {
        let reason = self.hasher.hash_one(reason);
        let mut logged = self.logged.lock();
        if logged.contains(&reason) {
            return Some(false);
        }
        (logged.len() < REASONS_MAX).then(|| logged.insert(reason))
    }

    /// The rules have changed: every reason is worth saying again.
    pub fn clear(&self) {
        self.logged.lock().clear();
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}
