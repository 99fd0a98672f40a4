//! How long to wait for what has always come until now.

use std::time::{Duration, Instant};

use super::{
    parameters::{millis, parameters, seconds},
    quality::{Quality, Step},
};

parameters! {
    /// How limits follow from what a network is like. A limit that is too short repeats what would have come, so it is
    /// never shorter than what 99 of 100 took there, by a margin, and is doubled where it was not kept.
    pub struct TimeoutPolicy in "timeouts" {
        /// Off: limits are the highest.
        enabled: bool = true, false => true;
        /// Times that are known of a network before a limit follows them; until then it is the highest.
        samples_min: usize = 3, 1 => 64;
        /// A limit is so many times what 99 of 100 took.
        margin: f64 = 3.0, 1.5 => 20.0;
        /// The shortest limit of connecting.
        connect_min: Duration = seconds(2), millis(100) => seconds(120);
        /// The shortest limit of the first byte: a server may have more to do than at other times.
        first_byte_min: Duration = seconds(4), millis(100) => seconds(120);
    }
}

/// The share of what came that a limit is never shorter than.
/// The highest limit is reached by fewer doublings from the lowest.
const DOUBLINGS_MAX: u32 = 16;

impl TimeoutPolicy {
    /// How long to wait for that step now, and never longer than `highest`.
    pub fn limit(&self, now: Instant, step: Step, quality: &Quality, highest: Duration) -> Duration {
        if !self.enabled {
            return highest;
        }
        let lowest = match step {
            Step::Connect => self.connect_min,
            Step::FirstByte => self.first_byte_min,
            Step::Gap => self.first_byte_min,
        };
        let Some(time) = quality.highest(now, step, self.samples_min) else { return highest };
        let limit = time.mul_f64(self.margin).max(lowest);
        limit.saturating_mul(1 << quality.expired(step).min(DOUBLINGS_MAX)).min(highest)
    }
}
