//! A policy document: rules and experiments, and what they come to for one client.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest as _, Sha256};
use towline_protocols::policy::Value;

use super::{
    condition::{BUCKETS, Condition},
    facts::Facts,
};

/// Rules of one document.
pub const RULES_MAX: usize = 64;
/// Experiments of one document; a client may be in all of them (`ARMS_MAX` of the link).
pub const EXPERIMENTS_MAX: usize = 16;
/// Arms of one experiment.
pub const ARMS_MAX: usize = 8;

/// Parameters by name, `section.name`.
pub type Assignments = Vec<(String, Value)>;

/// What an operator says of how clients are to behave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// For people.
    pub name: String,
    /// The first that is for a client and sets a parameter decides on it.
    pub rules: Vec<Rule>,
    /// They decide before the rules.
    pub experiments: Vec<Experiment>,
}

/// Parameters for some clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in the document.
    pub name: Arc<str>,
    /// Whom it is for.
    pub when: Condition,
    /// What it sets.
    pub set: Assignments,
}

/// Clients that are split by a hash, so that what arms are worth can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Unique in the document.
    pub name: Arc<str>,
    /// Whom it is for.
    pub when: Condition,
    /// At least two.
    pub arms: Vec<Arm>,
}

/// One side of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Unique in the experiment.
    pub name: Arc<str>,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// What it sets.
    pub set: Assignments,
}

/// What a document comes to for one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved<'d> {
    /// Parameters, each from the first that set it.
    pub set: BTreeMap<&'d str, Value>,
    /// Experiments that the client is in, with its arm.
    pub arms: Vec<(&'d Experiment, &'d Arm)>,
    /// Rules that are for it.
    pub rules: Vec<&'d str>,
}

impl Document {
    /// What it comes to for the client.
    pub fn resolve(&self, client_id: &str, facts: &Facts) -> Resolved<'_> {
        let mut resolved = Resolved::default();
        for experiment in &self.experiments {
            if let Some(arm) = experiment.arm_of(client_id, facts) {
                resolved.arms.push((experiment, arm));
                resolved.add(&arm.set);
            }
        }
        for rule in &self.rules {
            if rule.when.holds(facts, bucket("rule", &rule.name, client_id)) {
                resolved.rules.push(&rule.name);
                resolved.add(&rule.set);
            }
        }
        resolved
    }

    /// The experiment of that name.
    pub fn experiment(&self, name: &str) -> Option<&Experiment> {
        self.experiments.iter().find(|experiment| &*experiment.name == name)
    }
}

impl<'d> Resolved<'d> {
    fn add(&mut self, set: &'d Assignments) {
        for (name, value) in set {
            self.set.entry(name).or_insert(*value);
        }
    }
}

impl Experiment {
    /// The client's arm, where it is in the experiment.
    pub fn arm_of(&self, client_id: &str, facts: &Facts) -> Option<&Arm> {
        let is_in = self.when.holds(facts, bucket("experiment", &self.name, client_id));
        is_in.then(|| self.arm_by_hash(client_id)).flatten()
    }

    /// The arm that the client has whenever it is in the experiment. Whether it is in, is drawn apart from this.
    pub fn arm_by_hash(&self, client_id: &str) -> Option<&Arm> {
        let sum: u64 = self.arms.iter().map(|arm| u64::from(arm.weight)).sum();
        let mut place = draw("arm", &self.name, client_id).checked_rem(sum)?;
        self.arms.iter().find(|arm| {
            let weight = u64::from(arm.weight);
            let is_here = place < weight;
            place = place.saturating_sub(weight);
            is_here
        })
    }
}

fn bucket(kind: &str, name: &str, client_id: &str) -> u32 {
    (draw(kind, name, client_id) % u64::from(BUCKETS)) as u32
}

/// The same for a client whenever it is asked, and on every node; independent between names.
fn draw(kind: &str, name: &str, client_id: &str) -> u64 {
    let mut hash = Sha256::new();
    for text in [kind, name, client_id] {
        hash.update(text.as_bytes());
        // No text holds this octet: it is no UTF-8.
        hash.update([0xff]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
