//! Counts as they are kept: JSON, of one experiment each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towline_protocols::link::{proto::Latencies, report::LatencyHistogram};

use super::{KINDS_MAX, Tally, distinct::Distinct};

/// What this version writes, and the only one that it reads: counts of another form are not worth a guess.
const FORM: u32 = 1;

/// The counts of one experiment.
#[derive(Debug, Deserialize, Serialize)]
pub struct KeptExperiment {
    form: u32,
    /// The document in force when it was written.
    pub version: u64,
    /// In the order of the experiment's arms.
    arms: Vec<KeptArm>,
}

#[derive(Debug, Deserialize, Serialize)]
struct KeptArm {
    reports: u64,
    clients: String,
    answered: u64,
    failed: BTreeMap<u32, u64>,
    latency_buckets: Vec<u32>,
    latency_counts: Vec<u32>,
    bytes_sent: u64,
    bytes_received: u64,
    beats: u64,
    connects: u64,
    connects_failed: u64,
    seconds: u64,
}

impl KeptExperiment {
    pub(super) fn of(version: u64, arms: &[Tally]) -> Self {
        Self { form: FORM, version, arms: arms.iter().map(KeptArm::of).collect() }
    }

    /// What was counted of each arm, if it is of this form and of so many arms.
    pub(super) fn tallies(self, arms: usize) -> Option<Vec<Tally>> {
        let fits = self.form == FORM && self.arms.len() == arms;
        fits.then(|| self.arms.into_iter().map(KeptArm::tally).collect()).flatten()
    }
}

impl KeptArm {
    fn of(tally: &Tally) -> Self {
        let latencies = tally.latencies.to_wire();
        Self {
            reports: tally.reports,
            clients: tally.clients.to_text(),
            answered: tally.answered,
            failed: tally.failed.clone(),
            latency_buckets: latencies.buckets,
            latency_counts: latencies.counts,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            beats: tally.beats,
            connects: tally.connects,
            connects_failed: tally.connects_failed,
            seconds: tally.seconds,
        }
    }

    fn tally(self) -> Option<Tally> {
        let latencies = Latencies { buckets: self.latency_buckets, counts: self.latency_counts };
        Some(Tally {
            reports: self.reports,
            clients: Distinct::of_text(&self.clients)?,
            answered: self.answered,
            failed: self.failed.into_iter().filter(|(kind, _)| *kind <= KINDS_MAX).collect(),
            latencies: LatencyHistogram::from_wire(&latencies),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            beats: self.beats,
            connects: self.connects,
            connects_failed: self.connects_failed,
            seconds: self.seconds,
        })
    }
}
