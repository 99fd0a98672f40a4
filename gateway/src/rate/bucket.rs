//! A token bucket that can be in debt: what has been read already is paid for by not reading on.

use std::time::{Duration, Instant};

/// Parts of a token, so that slow rates fill it evenly.
const PARTS: i64 = 1_000_000;

/// Holds so many tokens, and gets new ones at its rate.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: u32,
    /// Most parts that it holds.
    capacity: i64,
    parts: i64,
    at: Instant,
}

impl Bucket {
    /// A full one; `None` for a rate of 0, which is no limit.
    pub fn new(per_second: u32, burst: Duration, now: Instant) -> Option<Self> {
        if per_second == 0 {
            return None;
        }
        let tokens =
            i64::try_from(u128::from(per_second) * burst.as_micros() / 1_000_000).unwrap_or(i64::MAX);
        let capacity = tokens.max(1).saturating_mul(PARTS);
        Some(Self { per_second, capacity, parts: capacity, at: now })
    }

    /// Takes tokens, also such as are not there yet.
    pub fn take(&mut self, tokens: u64, now: Instant) {
        self.fill(now);
        let parts = i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(PARTS);
        self.parts = self.parts.saturating_sub(parts);
    }

    /// Takes one, if it is there.
    pub fn try_take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.parts >= PARTS;
        if is_there {
            self.parts -= PARTS;
        }
        is_there
    }

    /// When its debt is paid; `None`: there is none.
    pub fn ready_at(&self) -> Option<Instant> {
        self.holds_at(0)
    }

    /// When there is a token; `None`: now.
    pub fn has_one_at(&self) -> Option<Instant> {
        self.holds_at(PARTS)
    }

    /// Whether it has all it can hold: nobody has taken from it for a while.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.parts >= self.capacity
    }

    fn holds_at(&self, parts: i64) -> Option<Instant> {
        let missing = parts.saturating_sub(self.parts);
        let missing = u64::try_from(missing).ok().filter(|missing| *missing > 0)?;
        // A token is a million parts, and a second a million microseconds.
        Some(self.at + Duration::from_micros(missing.div_ceil(u64::from(self.per_second))))
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_micros();
        let parts = elapsed.saturating_mul(u128::from(self.per_second));
        self.parts = self.parts.saturating_add(i64::try_from(parts).unwrap_or(i64::MAX)).min(self.capacity);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10, 2 * SECOND, now).unwrap();
        for _ in 0..20 {
            assert!(bucket.try_take(now));
        }
        assert!(!bucket.try_take(now));
        assert_eq!(bucket.has_one_at(), Some(now + SECOND / 10));
        assert!(!bucket.try_take(now + SECOND / 10 - Duration::from_micros(1)));
        assert!(bucket.try_take(now + SECOND / 10));
        // An hour's rest fills it no further.
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.try_take(later)).count(), 20);
    }

    #[test]
    fn a_debt_is_paid_at_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, SECOND, now).unwrap();
        bucket.take(100, now);
        assert_eq!(bucket.ready_at(), None);
        bucket.take(50, now);
        assert_eq!(bucket.ready_at(), Some(now + SECOND / 2));
        assert!(!bucket.is_full(now + SECOND));
        assert!(bucket.is_full(now + 2 * SECOND));
    }

    #[test]
    fn a_rate_below_one_burst_still_lets_one_through() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1, SECOND / 10, now).unwrap();
        assert!(bucket.try_take(now) && !bucket.try_take(now));
        assert!(bucket.try_take(now + SECOND));
        assert!(Bucket::new(0, SECOND, now).is_none());
    }
}
