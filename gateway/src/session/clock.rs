//! The time that sessions go by: a monotonic clock, and what it was on the wall when it was made, since
//! what the store keeps must mean the same after a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A source of time. Clones of a simulated clock are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    base: Instant,
    base_unix_ms: u64,
    /// Milliseconds since `base`; `None` follows the machine.
    simulated_ms: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            base: Instant::now(),
            base_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            simulated_ms: None,
        }
    }

    /// A clock that stands still until it is advanced.
    pub fn simulated() -> Self {
        Self { simulated_ms: Some(Arc::default()), ..Self::system() }
    }

    /// Moves a simulated clock.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.simulated_ms {
            ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// This moment.
    pub fn now(&self) -> Instant {
        match &self.simulated_ms {
            Some(ms) => self.base + Duration::from_millis(ms.load(Ordering::Relaxed)),
            None => Instant::now(),
        }
    }

    /// Milliseconds since 1970 at `instant`.
    pub fn unix_ms(&self, instant: Instant) -> u64 {
        let before = self.base.saturating_duration_since(instant).as_millis();
        let after = instant.saturating_duration_since(self.base).as_millis();
        (u128::from(self.base_unix_ms) + after).saturating_sub(before).try_into().unwrap_or(u64::MAX)
    }

    /// The moment that [`unix_ms`](Self::unix_ms) named, as near as an `Instant` can express it.
    pub fn instant(&self, unix_ms: u64) -> Instant {
        let after = Duration::from_millis(unix_ms.saturating_sub(self.base_unix_ms));
        let before = Duration::from_millis(self.base_unix_ms.saturating_sub(unix_ms));
        self.base.checked_add(after).and_then(|at| at.checked_sub(before)).unwrap_or(self.base)
    }
}
