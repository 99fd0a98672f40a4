//! Keeps what peers can cause over and over from flooding the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Lets one message through per period and counts those it holds back.
#[derive(Debug)]
pub struct Throttle {
    started: Instant,
    period: Duration,
    /// Milliseconds after `started` from which on the next message may pass.
    next_ms: AtomicU64,
    held_back: AtomicU64,
}

impl Throttle {
    /// One message per `period`.
    pub fn new(period: Duration) -> Self {
        Self { started: Instant::now(), period, next_ms: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// Whether a message may pass at `now`, and how many were held back since the last that did.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let now_ms = now.saturating_duration_since(self.started).as_millis() as u64;
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let after_ms = now_ms + self.period.as_millis() as u64;
        let passes = now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, after_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if passes {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_passes_per_period_and_tells_of_the_others() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let at = |seconds| throttle.started + Duration::from_secs(seconds);
        assert_eq!(throttle.pass(at(0)), Some(0));
        assert_eq!(throttle.pass(at(1)), None);
        assert_eq!(throttle.pass(at(9)), None);
        assert_eq!(throttle.pass(at(10)), Some(2));
        assert_eq!(throttle.pass(at(25)), Some(0));
    }
}
