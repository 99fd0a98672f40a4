//! How operators have clients behave: one document of rules and experiments, and what it comes to for each client.
//!
//! ```text
//!  document --push--> control::policy: read, checked, kept --put--> Policies (an immutable edition)
//!                                                                      |  sessions of whom it changes are woken
//!  HELLO, REPORT --facts--> session --policy_for(client, facts)--------+--> POLICY --> POLICY_ACK
//!  REPORT --counts by arm--> Tallies
//! ```
//!
//! The path reads the edition in force and never sees the document's text.

mod check;
mod condition;
mod document;
mod facts;
mod parameters;
mod tally;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use towline_protocols::link::{self, Report};

use self::tally::Tallies;
pub use self::{
    check::{Bounds, Place, problems},
    condition::{BUCKETS, Condition, LEVELS, level_name},
    document::{
        ARMS_MAX, Arm, Assignments, Document, EXPERIMENTS_MAX, Experiment, RULES_MAX, Resolved, Rule,
    },
    facts::{Facts, FactsPool, Version, VersionRange},
    parameters::{Everything, to_wire},
    tally::{KeptExperiment, Percentile, ShownArm, ShownExperiment},
};
use crate::settings::ClientPolicy;

/// Revisions of which refusals are remembered; beyond, the oldest is forgotten.
const REFUSED_REVISIONS_MAX: usize = 32;

/// What is in force, and what became of it.
#[derive(Default)]
pub struct Policies {
    edition: ArcSwap<Edition>,
    /// Counts what changes policies: editions, and reloads of the configuration.
    generation: AtomicU64,
    /// Values that sessions share.
    pub facts: FactsPool,
    tallies: Mutex<Tallies>,
    answers: Mutex<Answers>,
    /// Held by control while it changes what is kept and in force.
    pub changing: tokio::sync::Mutex<()>,
}

/// A document in force.
#[derive(Debug, Default)]
pub struct Edition {
    /// Counts what was pushed to this gateway; 0: nothing yet.
    pub version: u64,
    /// `None`: the configuration's `[client_policy]` alone.
    pub document: Option<Document>,
    /// The kill switch: the document is there and decides on nothing.
    pub killed: bool,
}

impl Edition {
    /// The document, if it decides.
    pub fn deciding(&self) -> Option<&Document> {
        self.document.as_ref().filter(|_| !self.killed)
    }
}

/// What clients answered.
#[derive(Default)]
struct Answers {
    accepted: u64,
    refused: u64,
    /// By revision.
    refusals: BTreeMap<u64, Refusal>,
    /// Revisions in the order in which they were refused first.
    order: std::collections::VecDeque<u64>,
}

/// How clients refused one revision.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// The revision.
    pub revision: u64,
    /// The version of the document at the first refusal.
    pub version: u64,
    /// How often.
    pub count: u64,
    /// What the last one said.
    pub text: String,
}

impl Policies {
    /// What is in force.
    pub fn edition(&self) -> Arc<Edition> {
        self.edition.load_full()
    }

    /// Changes whenever a policy may have changed for clients whose facts have not.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something changed that every policy depends on.
    pub fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Puts an edition in force.
    pub fn put(&self, edition: Edition) {
        // Counts of experiments outlive the kill switch.
        self.tallies.lock().follow(edition.document.as_ref());
        self.edition.store(Arc::new(edition));
        self.touch();
    }

    /// POLICY for a client.
    pub fn policy_for(&self, base: &ClientPolicy, client_id: &str, facts: Option<&Facts>) -> link::Policy {
        let edition = self.edition.load();
        let unknown = Facts::default();
        let resolved = edition.deciding().map(|it| it.resolve(client_id, facts.unwrap_or(&unknown)));
        to_wire(base, &resolved.unwrap_or_default())
    }

    /// Adds a report to the experiments that it is of.
    pub fn count(&self, client_id: &str, report: &Report) -> bool {
        !report.arms.is_empty() && self.tallies.lock().count(client_id, report)
    }

    /// Counts that are not written as they are, each said once; `None` where the experiment is gone.
    pub fn unwritten_counts(&self) -> Vec<(Arc<str>, Option<KeptExperiment>)> {
        let mut tallies = self.tallies.lock();
        tallies.unwritten(self.edition.load().version)
    }

    /// Goes on with what was counted of an experiment before. Whether it could.
    pub fn restore_counts(&self, name: &str, kept: KeptExperiment) -> bool {
        self.tallies.lock().restore(name, kept)
    }

    /// What arms came to.
    pub fn experiments(&self) -> Vec<ShownExperiment> {
        self.tallies.lock().show()
    }

    /// POLICY_ACK of a client.
    pub fn answered(&self, revision: u64, refusal: Option<&str>) {
        let version = self.edition.load().version;
        let answers = &mut *self.answers.lock();
        let Some(text) = refusal else {
            answers.accepted += 1;
            return;
        };
        answers.refused += 1;
        if !answers.refusals.contains_key(&revision) {
            answers.order.push_back(revision);
            if answers.order.len() > REFUSED_REVISIONS_MAX
                && let Some(oldest) = answers.order.pop_front()
            {
                answers.refusals.remove(&oldest);
            }
        }
        let new = Refusal { revision, version, count: 0, text: String::new() };
        let refusal = answers.refusals.entry(revision).or_insert(new);
        refusal.count += 1;
        text.clone_into(&mut refusal.text);
    }

    /// How many policies clients took into use, how many they refused, and which.
    pub fn answers(&self) -> (u64, u64, Vec<Refusal>) {
        let answers = self.answers.lock();
        (answers.accepted, answers.refused, answers.refusals.values().cloned().collect())
    }
}
