//! What the client sees of the network in use, and the limits that follow from it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use towline_protocols::{
    link::{LevelReported, QualitySnapshot},
    policy::{Event, Level, Quality, Step, Strategies},
};

use crate::core::now;

/// The machines, behind a lock that is held for a step.
pub(crate) struct Observed {
    quality: Mutex<Quality>,
    strategies: watch::Receiver<Strategies>,
    pub(crate) level: watch::Sender<Option<Level>>,
}

/// Something that is waited for no longer than its limit.
pub(crate) struct Wait<'a> {
    observed: &'a Observed,
    step: Step,
    began: Instant,
    pub(crate) limit: Duration,
}

impl Observed {
    pub(crate) fn new(strategies: watch::Receiver<Strategies>) -> Self {
        let quality = Mutex::new(Quality::new(strategies.borrow().quality.clone()));
        Self { quality, strategies, level: watch::Sender::new(None) }
    }

    /// Begins to wait, for `highest` at most.
    pub(crate) fn wait(&self, step: Step, highest: Duration) -> Wait<'_> {
        let began = now();
        let strategies = self.strategies.borrow();
        let limit = strategies.timeouts.limit(began, step, &self.quality.lock(), highest);
        Wait { observed: self, step, began, limit }
    }

    /// What is known of the network in use, for the gateway.
    pub(crate) fn snapshot(&self) -> QualitySnapshot {
        let (quality, now) = (self.quality.lock(), now());
        let level = match quality.level() {
            None => LevelReported::Unspecified,
            Some(Level::Poor) => LevelReported::Poor,
            Some(Level::Weak) => LevelReported::Weak,
            Some(Level::Fair) => LevelReported::Fair,
            Some(Level::Good) => LevelReported::Good,
        };
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        QualitySnapshot {
            level: level.into(),
            round_trip_ms: quality.round_trip(now).map(ms),
            failures_permille: quality.failure_share(now).map(|share| (share * 1000.0).round() as u32),
            ..QualitySnapshot::default()
        }
    }

    pub(crate) fn on(&self, event: Event) {
        let mut quality = self.quality.lock();
        if let Some(level) = quality.on(now(), event) {
            tracing::debug!(?level, "the network is judged anew");
            self.level.send_replace(level);
        }
    }
}

impl Wait<'_> {
    pub(crate) fn came(&self) {
        let after = now().saturating_duration_since(self.began);
        self.observed.on(Event::Came(self.step, after));
    }

    /// It failed: at its limit, or before.
    pub(crate) fn failed(&self) {
        let is_expired = now().saturating_duration_since(self.began) >= self.limit;
        self.observed.on(if is_expired { Event::Expired(self.step) } else { Event::Failed });
    }
}
