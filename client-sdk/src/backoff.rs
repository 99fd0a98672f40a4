//! When to try again: exponential back-off with full jitter, a pure function of its seed.

use std::time::Duration;

/// The delays between connection attempts. Full jitter (a uniform draw between zero and the
/// ceiling) keeps clients that lost the same gateway from coming back in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The pause after one more failure: uniform between zero and a ceiling that starts at `min` and
    /// doubles up to `max`; from the second failure on at least `min / 2`, so that a refused client does
    /// not spin.
    pub(crate) fn next(&mut self, min: Duration, max: Duration) -> Duration {
        // 2^20 times the smallest allowed minimum is above the largest allowed maximum.
        let doublings = self.failures.min(20);
        let lowest = if self.failures == 0 { Duration::ZERO } else { min / 2 };
        self.failures = self.failures.saturating_add(1);
        let ceiling = min.saturating_mul(1 << doublings).min(max);
        let floor = lowest.min(ceiling);
        floor + self.share(ceiling - floor)
    }

    /// A uniform draw between zero and `whole`.
    pub(crate) fn share(&mut self, whole: Duration) -> Duration {
        Duration::from_secs_f64(whole.as_secs_f64() * self.random.f64())
    }

    /// A uniform draw in `0..bound`.
    pub(crate) fn pick(&mut self, bound: usize) -> usize {
        self.random.usize(..bound.max(1))
    }

    /// Call when a connection proved good.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(60);

    #[test]
    fn delays_grow_to_the_maximum_and_stay_there() {
        let mut backoff = Backoff::new(7);
        let mut ceiling = MIN;
        assert!(backoff.next(MIN, MAX) <= MIN);
        for _ in 0..100 {
            ceiling = (ceiling * 2).min(MAX);
            let delay = backoff.next(MIN, MAX);
            assert!(delay >= MIN / 2 && delay <= ceiling, "{delay:?} against {ceiling:?}");
        }
    }

    #[test]
    fn clients_that_fell_together_do_not_rise_together() {
        let delays: Vec<Duration> = (0..1000)
            .map(|seed| {
                let mut backoff = Backoff::new(seed);
                (0..6).map(|_| backoff.next(MIN, MAX)).last().unwrap_or_default()
            })
            .collect();
        let widest = MIN * 32;
        for tenth in 0..10u32 {
            let range = widest * tenth / 10..widest * (tenth + 1) / 10;
            let within = delays.iter().filter(|delay| range.contains(*delay)).count();
            assert!((50..=200).contains(&within), "{within} of 1000 clients in {range:?}");
        }
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new(1);
        assert!((0..10).all(|_| backoff.next(MIN, MAX) <= MAX));
        backoff.reset();
        assert!(backoff.next(MIN, MAX) <= MIN);
    }
}
