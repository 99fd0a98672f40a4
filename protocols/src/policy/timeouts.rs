//! How long to wait for what has always come until now.

use std::time::{Duration, Instant};

use super::quality::{Quality, Step};

/// How limits follow from what a network is like. A limit that is too short repeats what would have come, so it is never
/// shorter than what 99 of 100 took there, by a margin, and is doubled where it was not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeoutPolicy {
    /// Times that are known of a network before a limit follows them; until then it is the highest. 1 to 64.
    pub samples_min: usize,
    /// A limit is so many times what 99 of 100 took. 1.5 to 20.
    pub margin: f64,
    /// The shortest limit of connecting. 0.1 s to 120 s.
    pub connect_min: Duration,
    /// The shortest limit of the first byte: a server may have more to do than at other times. 0.1 s to 120 s.
    pub first_byte_min: Duration,
}

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self {
            samples_min: 3,
            margin: 3.0,
            connect_min: Duration::from_secs(2),
            first_byte_min: Duration::from_secs(4),
        }
    }
}

/// The share of what came that a limit is never shorter than.
const SHARE_KEPT: f64 = 0.99;
/// The highest limit is reached by fewer doublings from the lowest.
const DOUBLINGS_MAX: u32 = 16;

impl TimeoutPolicy {
    /// Names the first parameter that is out of its range.
    ///
    /// # Errors
    /// For people.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=64).contains(&self.samples_min) {
            return Err(format!("samples_min is {}, allowed are 1 to 64", self.samples_min));
        }
        if !(1.5..=20.0).contains(&self.margin) {
            return Err(format!("margin is {}, allowed are 1.5 to 20", self.margin));
        }
        let second = Duration::from_secs(1);
        let shortest = [("connect_min", self.connect_min), ("first_byte_min", self.first_byte_min)];
        match shortest.iter().find(|(_, value)| !(second / 10..=120 * second).contains(value)) {
            Some((name, value)) => Err(format!("{name} is {value:?}, allowed are 100ms to 120s")),
            None => Ok(()),
        }
    }

    /// How long to wait for that step now, and never longer than `highest`.
    pub fn limit(&self, now: Instant, step: Step, quality: &Quality, highest: Duration) -> Duration {
        let lowest = match step {
            Step::Connect => self.connect_min,
            Step::FirstByte => self.first_byte_min,
        };
        let known = quality.quantile(now, step, SHARE_KEPT).filter(|(_, times)| *times >= self.samples_min);
        let Some((time, _)) = known else { return highest };
        let limit = time.mul_f64(self.margin).max(lowest);
        limit.saturating_mul(1 << quality.expired(step).min(DOUBLINGS_MAX)).min(highest)
    }
}
