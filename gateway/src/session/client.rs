//! What a session knows of its client beside requests: what it is, and which policy it was told.

use std::sync::Arc;

use super::{LinkSession, Sessions};
use crate::policy::Facts;

impl LinkSession {
    /// What the client has said of itself; `None` until it has.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.lock().facts.clone()
    }

    /// The client said something else of itself.
    pub fn learn_facts(&self, facts: Arc<Facts>) {
        self.lock().facts = Some(facts);
    }

    /// The policy's revision that the client was told last, or said that it has; 0 none.
    pub fn policy_told(&self) -> u64 {
        self.lock().policy_told
    }

    /// The client is told of that revision, or has said it.
    pub fn note_policy(&self, revision: u64) {
        self.lock().policy_told = revision;
    }

    /// Has the connection look for another policy, if `decide` says another revision than it was told.
    pub fn look_for_policy(&self, decide: impl FnOnce(Option<&Facts>) -> u64) -> bool {
        let (facts, told) = {
            let state = self.lock();
            if !state.is_connected() {
                return false;
            }
            (state.facts.clone(), state.policy_told)
        };
        let changes = decide(facts.as_deref()) != told;
        if changes {
            self.lock().wake_for_policy();
        }
        changes
    }
}

impl Sessions {
    /// All sessions of this moment.
    pub fn all(&self) -> Vec<Arc<LinkSession>> {
        self.table.iter().map(|entry| Arc::clone(entry.value())).collect()
    }
}
