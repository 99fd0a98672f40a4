//! How good a network is, in words that do not flutter.

use std::time::{Duration, Instant};

use super::QualityPolicy;

/// How good a network is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Most attempts fail, or a round trip takes seconds.
    Poor,
    /// Like 2G.
    Weak,
    /// Like 3G.
    Fair,
    /// Like 4G or better.
    Good,
}

/// What a level follows from. `None` is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) round_trip: Option<Duration>,
    pub(super) failures: Option<f64>,
    pub(super) loss: Option<f64>,
}

/// A level, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judge(Option<(Level, Instant)>);

impl Judge {
    pub(super) fn level(&self) -> Option<Level> {
        self.0.map(|(level, _)| level)
    }

    /// A worse level is believed at once, a better one after a while and by a margin.
    pub(super) fn look(&mut self, now: Instant, policy: &QualityPolicy, seen: &Seen) {
        let Some(strict) = seen.level(policy, 1.0) else { return };
        match self.0 {
            Some((level, since)) if strict >= level => {
                let is_over = now.saturating_duration_since(since) >= policy.better_after;
                let sure = seen.level(policy, policy.better_at).unwrap_or(strict);
                if is_over && sure > level {
                    self.0 = Some((sure, now));
                }
            }
            _ => self.0 = Some((strict, now)),
        }
    }
}

impl Seen {
    /// The level by thresholds that are taken times `share`.
    fn level(&self, policy: &QualityPolicy, share: f64) -> Option<Level> {
        let by_round_trip = self.round_trip.map(|time| match time {
            time if time <= policy.good_max.mul_f64(share) => Level::Good,
            time if time <= policy.fair_max.mul_f64(share) => Level::Fair,
            time if time <= policy.weak_max.mul_f64(share) => Level::Weak,
            _ => Level::Poor,
        });
        let by_share = |value: f64, weak: f64, poor: f64| match value {
            value if value >= poor * share => Level::Poor,
            value if value >= weak * share => Level::Weak,
            _ => Level::Good,
        };
        let by_failures = self.failures.map(|it| by_share(it, policy.weak_failures, policy.poor_failures));
        // That nothing is lost says nothing of a network of which nothing else is known.
        let by_loss = self.loss.map(|it| by_share(it, policy.weak_loss, policy.poor_loss));
        let by_loss = by_loss.filter(|level| *level < Level::Good);
        by_round_trip.into_iter().chain(by_failures).chain(by_loss).min()
    }
}
