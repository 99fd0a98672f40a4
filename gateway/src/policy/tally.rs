//! What the arms of experiments are worth, by what clients report.

mod distinct;
mod kept;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use towline_protocols::link::{Report, report::LatencyHistogram};

use self::distinct::Distinct;
pub use self::kept::KeptExperiment;
use super::document::{Document, Experiment};

/// Calls below which an arm says too little.
const CALLS_MIN: u64 = 200;
/// Clients below which it does: calls of one client are alike.
const CLIENTS_MIN: u64 = 30;
/// Of a normal distribution, 95 % are within so many deviations of the mean.
const DEVIATIONS: f64 = 1.96;

/// The counts of all experiments of the document in force.
#[derive(Default)]
pub(super) struct Tallies {
    /// By experiment, as it was defined: one that is changed begins anew.
    experiments: BTreeMap<Arc<str>, (Experiment, Vec<Tally>)>,
    /// Those whose counts are not written as they are, also where they are not there any more.
    unwritten: BTreeSet<Arc<str>>,
}

/// The counts of one arm.
#[derive(Clone, Default)]
struct Tally {
    reports: u64,
    clients: Distinct,
    answered: u64,
    /// By the kind of the error.
    failed: BTreeMap<u32, u64>,
    latencies: LatencyHistogram,
    bytes_sent: u64,
    bytes_received: u64,
    beats: u64,
    connects: u64,
    connects_failed: u64,
    seconds: u64,
}

/// Kinds of errors that are counted apart; beyond, a client invents them.
const KINDS_MAX: u32 = 32;

impl Tallies {
    /// Goes on with the experiments of another document; those that are in it unchanged keep their counts.
    pub(super) fn follow(&mut self, document: Option<&Document>) {
        let mut before = std::mem::take(&mut self.experiments);
        for experiment in document.into_iter().flat_map(|document| &document.experiments) {
            let kept = before.remove(&experiment.name);
            let is_changed = kept.as_ref().is_some_and(|(known, _)| known != experiment);
            if is_changed {
                self.unwritten.insert(Arc::clone(&experiment.name));
            }
            let new = || (experiment.clone(), vec![Tally::default(); experiment.arms.len()]);
            let kept = kept.filter(|_| !is_changed).unwrap_or_else(new);
            self.experiments.insert(Arc::clone(&experiment.name), kept);
        }
        self.unwritten.extend(before.into_keys());
    }

    /// The counts that changed since this was asked last, of the document of that version; `None` where the experiment is
    /// gone.
    pub(super) fn unwritten(&mut self, version: u64) -> Vec<(Arc<str>, Option<KeptExperiment>)> {
        let names = std::mem::take(&mut self.unwritten).into_iter();
        let counts = names.map(|name| {
            let counted = self.experiments.get(&name);
            let kept = counted.map(|(_, tallies)| KeptExperiment::of(version, tallies));
            (name, kept)
        });
        counts.collect()
    }

    /// Goes on with what was counted before. Whether it could.
    pub(super) fn restore(&mut self, name: &str, kept: KeptExperiment) -> bool {
        let Some((_, tallies)) = self.experiments.get_mut(name) else { return false };
        let kept = kept.tallies(tallies.len());
        kept.map(|kept| *tallies = kept).is_some()
    }

    /// Adds a client's report to the arms that it says it was in, as far as it can have been. Whether any counted.
    pub(super) fn count(&mut self, client_id: &str, report: &Report) -> bool {
        let mut counted = false;
        for (at, said) in report.arms.iter().enumerate() {
            // Whoever names an experiment again is one client yet, with one report.
            if report.arms[..at].iter().any(|earlier| earlier.experiment == said.experiment) {
                continue;
            }
            let Some((experiment, tallies)) = self.experiments.get_mut(&*said.experiment) else { continue };
            let arm = experiment.arm_by_hash(client_id).filter(|arm| *arm.name == *said.arm);
            let place = arm.and_then(|arm| experiment.arms.iter().position(|known| known.name == arm.name));
            if let Some(tally) = place.and_then(|place| tallies.get_mut(place)) {
                tally.add(client_id, report);
                self.unwritten.insert(Arc::clone(&experiment.name));
                counted = true;
            }
        }
        counted
    }

    /// As operators see it.
    pub(super) fn show(&self) -> Vec<ShownExperiment> {
        let experiments = self.experiments.values();
        experiments
            .map(|(experiment, tallies)| ShownExperiment {
                name: experiment.name.to_string(),
                clients: experiment.when.to_string(),
                arms: experiment.arms.iter().zip(tallies).map(|(arm, tally)| tally.show(&arm.name)).collect(),
            })
            .collect()
    }
}

impl Tally {
    fn add(&mut self, client_id: &str, report: &Report) {
        self.reports += 1;
        self.clients.add(client_id);
        for outcome in &report.outcomes {
            let count = u64::from(outcome.count);
            match outcome.kind {
                0 => self.answered = self.answered.saturating_add(count),
                kind => {
                    let failed = self.failed.entry(kind.min(KINDS_MAX)).or_default();
                    *failed = failed.saturating_add(count);
                }
            }
        }
        if let Some(latencies) = &report.latencies {
            self.latencies.merge(&LatencyHistogram::from_wire(latencies));
        }
        let sums = [
            (&mut self.bytes_sent, report.bytes_sent),
            (&mut self.bytes_received, report.bytes_received),
            (&mut self.beats, report.beats.into()),
            (&mut self.connects, report.connects.into()),
            (&mut self.connects_failed, report.connects_failed.into()),
            (&mut self.seconds, report.span_s.into()),
        ];
        sums.into_iter().for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }

    fn show(&self, name: &str) -> ShownArm {
        // What the app gave up says nothing of the network.
        let cancelled = self.failed.get(&1).copied().unwrap_or_default();
        let failed: u64 = self.failed.values().sum::<u64>() - cancelled;
        let calls = self.answered + failed;
        let clients = self.clients.count();
        let hours = self.seconds as f64 / 3600.0;
        let per_hour = |count: u64| (hours > 0.0).then(|| rounded(count as f64 / hours));
        let per_call = |count: u64| (calls > 0).then(|| rounded(count as f64 / calls as f64));
        let is_few = calls < CALLS_MIN || clients < CLIENTS_MIN;
        ShownArm {
            arm: name.to_owned(),
            clients,
            reports: self.reports,
            calls,
            success_ratio: (calls > 0).then(|| self.answered as f64 / calls as f64),
            success_interval: interval(self.answered, calls),
            p50_ms: self.percentile(0.5),
            p90_ms: self.percentile(0.9),
            p99_ms: self.percentile(0.99),
            cancelled,
            failed_by_kind: self.failed.clone(),
            bytes_per_call: per_call(self.bytes_sent.saturating_add(self.bytes_received)),
            beats_per_hour: per_hour(self.beats),
            connects: self.connects,
            connects_failed: self.connects_failed,
            client_hours: rounded(hours),
            note: is_few.then(|| {
                format!(
                    "too few to judge: {calls} calls of {clients} clients, wanted are {CALLS_MIN} of {CLIENTS_MIN}"
                )
            }),
        }
    }

    /// A percentile with the interval that it lies in with 95 %, by the ranks of what was counted.
    fn percentile(&self, share: f64) -> Option<Percentile> {
        let ms = |share: f64| {
            self.latencies.quantile(share).map(|time| rounded(Duration::as_secs_f64(&time) * 1000.0))
        };
        let deviation = (share * (1.0 - share) / self.latencies.count().max(1) as f64).sqrt();
        Some(Percentile {
            value: ms(share)?,
            from: ms((share - DEVIATIONS * deviation).max(0.0))?,
            to: ms((share + DEVIATIONS * deviation).min(1.0))?,
        })
    }
}

/// Wilson's interval of a ratio, which stays within 0 and 1 and is honest where nothing failed.
fn interval(good: u64, all: u64) -> Option<(f64, f64)> {
    if all == 0 {
        return None;
    }
    let (n, p, z) = (all as f64, good as f64 / all as f64, DEVIATIONS);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Some(((middle - half).max(0.0), (middle + half).min(1.0)))
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// An experiment as operators see it.
#[derive(Debug, Serialize)]
pub struct ShownExperiment {
    /// Its name.
    pub name: String,
    /// Whom it is for.
    pub clients: String,
    /// Its arms.
    pub arms: Vec<ShownArm>,
}

/// What one arm came to.
#[derive(Debug, Serialize)]
pub struct ShownArm {
    /// Its name.
    pub arm: String,
    /// Different clients that reported, within some 3 %.
    pub clients: u64,
    /// Their reports.
    pub reports: u64,
    /// Calls that were answered or failed.
    pub calls: u64,
    /// Of them, the share that was answered.
    pub success_ratio: Option<f64>,
    /// Where the ratio lies with 95 %, if calls were independent of each other.
    pub success_interval: Option<(f64, f64)>,
    /// Of answered calls, as the next two.
    pub p50_ms: Option<Percentile>,
    /// See `p50_ms`.
    pub p90_ms: Option<Percentile>,
    /// See `p50_ms`.
    pub p99_ms: Option<Percentile>,
    /// Calls that the app gave up.
    pub cancelled: u64,
    /// Errors by the number of their kind.
    pub failed_by_kind: BTreeMap<u32, u64>,
    /// Bytes of the link, both ways.
    pub bytes_per_call: Option<f64>,
    /// Heartbeats of one client.
    pub beats_per_hour: Option<f64>,
    /// Connections that were tried.
    pub connects: u64,
    /// Of them, those that failed.
    pub connects_failed: u64,
    /// The time that the reports are of.
    pub client_hours: f64,
    /// Why it should not be believed yet.
    pub note: Option<String>,
}

/// A percentile and where it lies with 95 %, ms.
#[derive(Debug, PartialEq, Serialize)]
pub struct Percentile {
    /// The percentile.
    pub value: f64,
    /// Not below.
    pub from: f64,
    /// Not above.
    pub to: f64,
}

#[cfg(test)]
mod tests {
    use towline_protocols::link::{self, Outcome};

    use super::*;
    use crate::policy::{condition::Condition, document::Arm};

    fn document(weight: u32) -> Document {
        let arm = |name: &str, weight| Arm { name: name.into(), weight, set: vec![] };
        let arms = vec![arm("off", 1), arm("on", weight)];
        let experiment = Experiment { name: "e".into(), when: Condition::default(), arms };
        Document { experiments: vec![experiment], ..Document::default() }
    }

    fn report(arm: &str, good: u32, bad: u32, ms: u64) -> Report {
        let mut latencies = LatencyHistogram::default();
        (0..good).for_each(|_| latencies.record(Duration::from_millis(ms)));
        Report {
            span_s: 3600,
            outcomes: vec![Outcome { kind: 0, count: good }, Outcome { kind: 2, count: bad }],
            latencies: Some(latencies.to_wire()),
            bytes_sent: 100 * u64::from(good + bad),
            beats: 6,
            arms: vec![link::Arm { experiment: "e".into(), arm: arm.into() }],
            ..Report::default()
        }
    }

    #[test]
    fn arms_are_counted_apart_and_nobody_counts_for_an_arm_that_is_not_his() {
        let (document, mut tallies) = (document(1), Tallies::default());
        tallies.follow(Some(&document));
        let mut clients = [0, 0];
        for client in 0..400 {
            let id = format!("c{client}");
            let is_on = &*document.experiments[0].arm_by_hash(&id).unwrap().name == "on";
            clients[usize::from(is_on)] += 1;
            let (arm, other) = if is_on { ("on", "off") } else { ("off", "on") };
            let ms = if is_on { 50 } else { 200 };
            assert!(tallies.count(&id, &report(arm, 9, 1, ms)));
            assert!(!tallies.count(&id, &report(other, 9, 1, ms)));
        }
        let shown = tallies.show();
        for (arm, name) in ["off", "on"].iter().enumerate() {
            let (shown, clients) = (&shown[0].arms[arm], clients[arm]);
            assert_eq!((&*shown.arm, shown.reports, shown.calls), (*name, clients, 10 * clients));
            assert!(shown.clients.abs_diff(clients) * 10 < clients, "{} of {clients}", shown.clients);
            assert_eq!((shown.success_ratio, shown.bytes_per_call), (Some(0.9), Some(100.0)));
            assert_eq!((shown.beats_per_hour, shown.note.is_none()), (Some(6.0), true));
            let (low, high) = shown.success_interval.unwrap();
            assert!(low < 0.9 && 0.9 < high && high - low < 0.04, "{low} to {high}");
        }
        let p50 = |arm: usize| shown[0].arms[arm].p50_ms.as_ref().unwrap().value;
        assert!((p50(0) - 200.0).abs() < 13.0 && (p50(1) - 50.0).abs() < 4.0);
    }

    #[test]
    fn a_report_counts_once_however_often_it_names_its_arm() {
        let (document, mut tallies) = (document(0), Tallies::default());
        tallies.follow(Some(&document));
        let once = report("off", 3, 1, 10);
        let arms = vec![once.arms[0].clone(); 16];
        assert!(tallies.count("c", &Report { arms, ..once }));
        let shown = tallies.show();
        assert_eq!((shown[0].arms[0].reports, shown[0].arms[0].calls), (1, 4));
    }

    #[test]
    fn few_calls_are_said_to_be_few_and_intervals_are_wide() {
        let mut tallies = Tallies::default();
        tallies.follow(Some(&document(0)));
        tallies.count("c", &report("off", 3, 0, 10));
        let shown = tallies.show();
        let arm = &shown[0].arms[0];
        assert!(arm.note.as_ref().unwrap().contains("too few"));
        let (low, high) = arm.success_interval.unwrap();
        assert!(low < 0.5 && high == 1.0, "{low} to {high}");
    }

    #[test]
    fn a_changed_experiment_begins_anew_and_an_unchanged_one_goes_on() {
        let mut tallies = Tallies::default();
        tallies.follow(Some(&document(0)));
        tallies.count("c", &report("off", 3, 0, 10));
        tallies.follow(Some(&document(0)));
        assert_eq!(tallies.show()[0].arms[0].reports, 1);
        tallies.follow(Some(&document(3)));
        assert_eq!(tallies.show()[0].arms[0].reports, 0);
        tallies.follow(None);
        assert!(tallies.show().is_empty());
    }
}
