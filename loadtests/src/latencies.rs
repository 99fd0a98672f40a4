//! Latency distributions that worker processes send to their parent.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told apart from longer ones: ten minutes, past every timeout that can be set.
const NANOS_MAX: u64 = 600 * crate::clock::SECOND;
/// 1 part in 1000: below the noise of any machine, and about 100 KB per histogram.
const DIGITS: u8 = 3;

/// Durations in nanoseconds, to three significant digits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.clamp(1, NANOS_MAX));
    }

    /// Adds another process's.
    pub fn merge(&mut self, other: &Self) {
        for (value, count) in other.pairs() {
            self.0.saturating_record_n(value, count);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value below or at which the share `quantile` (0 to 1) lies; 0 if nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The usual numbers, in microseconds; `None` if nothing was counted.
    pub fn summary(&self) -> Option<Summary> {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        (self.count() > 0).then(|| Summary {
            count: self.count(),
            mean_us: self.0.mean() / 1000.0,
            min_us: micros(self.0.min()),
            p50_us: micros(self.quantile(0.5)),
            p90_us: micros(self.quantile(0.9)),
            p99_us: micros(self.quantile(0.99)),
            p999_us: micros(self.quantile(0.999)),
            max_us: micros(self.0.max()),
        })
    }

    fn pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the constructor accepts; the fallback keeps this total.
        Self(Histogram::new_with_max(NANOS_MAX, DIGITS).unwrap_or_else(|_| empty()))
    }
}

#[expect(clippy::expect_used, reason = "one significant digit without bounds is always accepted")]
fn empty() -> Histogram<u64> {
    Histogram::new(1).expect("one digit is in range")
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut latencies = Self::default();
        for (value, count) in pairs {
            latencies.0.saturating_record_n(value, count);
        }
        latencies
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Self {
        latencies.pairs()
    }
}

/// A distribution in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Arithmetic mean, microseconds.
    pub mean_us: f64,
    /// Smallest.
    pub min_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        values.into_iter().for_each(|value| latencies.record(value));
        latencies
    }

    #[test]
    fn two_processes_merge_to_what_one_would_have_counted() {
        let mut left = of((1..=500).map(|ms| ms * 1_000_000));
        let sent = serde_json::to_string(&of((501..=1000).map(|ms| ms * 1_000_000))).unwrap();
        left.merge(&serde_json::from_str(&sent).unwrap());
        assert_eq!(left.pairs(), of((1..=1000).map(|ms| ms * 1_000_000)).pairs());
        let p50 = left.quantile(0.5) as f64 / 1e6;
        assert!((499.0..=501.0).contains(&p50), "{p50}");
    }

    #[test]
    fn bounds_clamp_instead_of_losing_values() {
        let latencies = of([0, u64::MAX]);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.quantile(1.0) >= NANOS_MAX);
    }

    #[test]
    fn nothing_counted_has_no_summary() {
        assert_eq!(Latencies::default().summary(), None);
    }
}
