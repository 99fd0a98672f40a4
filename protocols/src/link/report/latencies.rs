//! A histogram of times whose parts can be added up, wherever they were counted.

use std::time::Duration;

use crate::link::proto::Latencies;

/// Buckets of a histogram; the last one begins above an hour.
pub const BUCKETS: usize = 160;
/// Buckets of one doubling: a bucket is an eighth as wide as where it begins, at most.
const PER_DOUBLING: u64 = 8;

/// How often something took how long: counts of times in buckets that grow with them, as REPORT carries it.
///
/// ```text
///  ms      0   1  ...  15 | 16-17  18-19 ... 30-31 | 32-35 ... 60-63 | 64-71 ...
///  bucket  0   1  ...  15 |   16     17  ...   23  |   24  ...   31  |   32  ...
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl LatencyHistogram {
    /// Counts one time.
    pub fn record(&mut self, time: Duration) {
        self.add(bucket(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), 1);
    }

    /// Times that were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add(bucket, *count);
        }
    }

    /// The time that the given share of all, 0 to 1, did not exceed: the middle of its bucket. `None` without a time.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut sum = 0;
        let bucket = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        })?;
        let (begin, end) = (begin(bucket), begin(bucket + 1));
        Some(Duration::from_micros((begin * 1000 + (end - 1) * 1000) / 2))
    }

    /// As REPORT carries it. A count that is too large for it is cut.
    pub fn to_wire(&self) -> Latencies {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let (buckets, counts) =
            counted.map(|(bucket, count)| (bucket as u32, u32::try_from(*count).unwrap_or(u32::MAX))).unzip();
        Latencies { buckets, counts }
    }

    /// Reads what REPORT carries; buckets that there are none of are left out.
    pub fn from_wire(latencies: &Latencies) -> Self {
        let mut histogram = Self::default();
        for (bucket, count) in latencies.buckets.iter().zip(&latencies.counts) {
            histogram.add(*bucket as usize, u64::from(*count));
        }
        histogram
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if let Some(place) = self.counts.get_mut(bucket) {
            *place = place.saturating_add(count);
            self.total = self.total.saturating_add(count);
        }
    }
}

/// Whether a peer's histogram keeps the rules of the message.
pub(super) fn is_sound(latencies: &Latencies) -> bool {
    let Latencies { buckets, counts } = latencies;
    let rises = buckets.is_sorted_by(|one, next| one < next);
    let is_in_range = buckets.last().is_none_or(|last| (*last as usize) < BUCKETS);
    rises && is_in_range && buckets.len() == counts.len() && !counts.contains(&0)
}

fn bucket(ms: u64) -> usize {
    if ms < 2 * PER_DOUBLING {
        return ms as usize;
    }
    let doublings = u64::from(ms.ilog2()) - 2;
    let bucket = PER_DOUBLING * doublings + (ms >> (doublings - 1)) - PER_DOUBLING;
    (bucket as usize).min(BUCKETS - 1)
}

/// The first time of a bucket, ms.
fn begin(bucket: usize) -> u64 {
    let (doublings, part) = (bucket as u64 / PER_DOUBLING, bucket as u64 % PER_DOUBLING);
    if doublings < 2 { bucket as u64 } else { (PER_DOUBLING + part) << (doublings - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for ms in 0..100_000 {
            let bucket = bucket(ms);
            assert!(bucket == last || bucket == last + 1, "{ms}");
            assert!(begin(bucket) <= ms && ms < begin(bucket + 1), "{ms} in {bucket}");
            last = bucket;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(begin(BUCKETS - 1) > 3_600_000);
    }

    #[test]
    fn quantiles_are_near_what_was_counted() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for share in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let seen = histogram.quantile(share).unwrap().as_secs_f64() * 1000.0;
            let exact = share * 1000.0;
            assert!((seen - exact).abs() <= exact / 16.0 + 1.0, "{share}: {seen}");
        }
    }

    #[test]
    fn histograms_add_up_and_come_back_from_the_wire() {
        let mut parts = [LatencyHistogram::default(), LatencyHistogram::default()];
        for ms in [0, 3, 3, 40, 5000, 10_000_000] {
            parts[ms as usize % 2].record(Duration::from_millis(ms));
        }
        let [mut all, odd] = parts;
        all.merge(&odd);
        let wire = all.to_wire();
        assert!(is_sound(&wire));
        assert_eq!(LatencyHistogram::from_wire(&wire), all);
        assert_eq!(all.count(), 6);
    }
}
