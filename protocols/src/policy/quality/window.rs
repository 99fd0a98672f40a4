//! The newest observations of something, of which older ones weigh less.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Observations that are kept; beyond, the oldest is forgotten. So many that the highest of a hundred is not far.
const SAMPLES_MAX: usize = 64;
/// What weighs less than this share of a new one is forgotten.
const WEIGHT_MIN: f64 = 1.0 / 64.0;

/// What weighs half as much after one half-life, a quarter after two.
pub(super) fn weight(age: Duration, half_life: Duration) -> f64 {
    (-age.as_secs_f64() / half_life.as_secs_f64().max(f64::MIN_POSITIVE)).exp2()
}

#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    samples: VecDeque<(Instant, T)>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { samples: VecDeque::new() }
    }
}

impl<T: Copy> Window<T> {
    pub(super) fn add(&mut self, now: Instant, value: T) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, value));
    }

    /// The values with their weights: one that is as old as `half_life` weighs half as much as a new one.
    pub(super) fn weighted(&self, now: Instant, half_life: Duration) -> Vec<(T, f64)> {
        let aged = |at: Instant| weight(now.saturating_duration_since(at), half_life);
        let weighted = self.samples.iter().map(|&(at, value)| (value, aged(at)));
        weighted.filter(|&(_, weight)| weight >= WEIGHT_MIN).collect()
    }
}

/// The value that the given share of the weight does not exceed; `None` where nothing is known.
pub(super) fn quantile<T: Copy + PartialOrd>(mut weighted: Vec<(T, f64)>, share: f64) -> Option<T> {
    weighted
        .sort_unstable_by(|(one, _), (other, _)| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    let wanted = share * weighted.iter().map(|&(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let reached = weighted.iter().find(|&&(_, weight)| {
        sum += weight;
        sum >= wanted
    });
    // Rounding may leave the sum a little short.
    reached.or(weighted.last()).map(|&(value, _)| value)
}

/// The mean of what `measure` makes of each value.
pub(super) fn mean<T: Copy>(weighted: &[(T, f64)], measure: impl Fn(T) -> f64) -> Option<f64> {
    let all: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let sum: f64 = weighted.iter().map(|&(value, weight)| measure(value) * weight).sum();
    (all > 0.0).then(|| sum / all)
}
