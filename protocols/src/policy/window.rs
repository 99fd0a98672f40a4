//! The newest observations of something, of which older ones weigh less.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Observations that are kept; beyond, the oldest is forgotten. So many that the highest of a hundred is not far.
const SAMPLES_MAX: usize = 64;
/// What weighs less than this share of a new one is forgotten.
const WEIGHT_MIN: f64 = 1.0 / 64.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Window<T> {
    samples: VecDeque<(Instant, T)>,
}

impl<T: Copy + Ord> Window<T> {
    pub(super) fn add(&mut self, now: Instant, value: T) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, value));
    }

    /// The values with their weights: one that is as old as `half_life` weighs half as much as a new one.
    pub(super) fn weighted(&self, now: Instant, half_life: Duration) -> Vec<(T, f64)> {
        let weight = |at: Instant| {
            let age = now.saturating_duration_since(at).as_secs_f64();
            (-age / half_life.as_secs_f64().max(f64::MIN_POSITIVE)).exp2()
        };
        let weighted = self.samples.iter().map(|&(at, value)| (value, weight(at)));
        weighted.filter(|&(_, weight)| weight >= WEIGHT_MIN).collect()
    }

    /// The value that the given share of the weight does not exceed; `None` where nothing is known.
    pub(super) fn quantile(&self, now: Instant, half_life: Duration, share: f64) -> Option<T> {
        let mut weighted = self.weighted(now, half_life);
        weighted.sort_by_key(|&(value, _)| value);
        let wanted = share * weighted.iter().map(|&(_, weight)| weight).sum::<f64>();
        let mut sum = 0.0;
        let reached = weighted.iter().find(|&&(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        // Rounding may leave the sum a little short.
        reached.or(weighted.last()).map(|&(value, _)| value)
    }
}
