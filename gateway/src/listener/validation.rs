//! When new QUIC peers must prove that they are where they say (RFC 9000, section 8.1.2): a spoofed Initial then
//! costs a Retry, which is a few microseconds, instead of a handshake.
//!
//! ```text
//!  off ── a quarter of the handshakes' places taken, or ARRIVALS_MAX within a second ──> on
//!   ^                                                                                     │
//!   └────────────────────────── CALM without either ──────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

/// The share of the places for handshakes that may be taken.
const BUSY_SHARE: usize = 4;
/// New peers of one listener within a second, proved ones aside. A handshake takes about a quarter of a
/// millisecond: a thousand take a quarter of one core.
const ARRIVALS_MAX: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(1);
/// How long it stays on: longer than a flood pauses, so that it does not flap.
const CALM: Duration = Duration::from_secs(5);

/// The state of one listener.
pub(super) struct Validation {
    window: Instant,
    arrivals: u32,
    /// On until then.
    until: Option<Instant>,
}

impl Validation {
    pub(super) fn new(now: Instant) -> Self {
        Self { window: now, arrivals: 0, until: None }
    }

    /// A peer came that has proved nothing, while `running` of `places` handshakes were running. Whether it must.
    pub(super) fn demands(&mut self, now: Instant, running: usize, places: usize) -> bool {
        if now.duration_since(self.window) >= WINDOW {
            self.window = now;
            self.arrivals = 0;
        }
        self.arrivals = self.arrivals.saturating_add(1);
        if running * BUSY_SHARE > places || self.arrivals > ARRIVALS_MAX {
            self.until = Some(now + CALM);
        }
        self.until = self.until.filter(|until| now < *until);
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_under_load_and_off_some_time_after() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut validation = Validation::new(start);
        assert!(!validation.demands(at(0), 0, 8));
        assert!(!validation.demands(at(0), 2, 8), "a quarter may run");
        assert!(validation.demands(at(0), 3, 8));
        assert!(validation.demands(at(4999), 0, 8), "calm has not lasted");
        assert!(!validation.demands(at(5000), 0, 8));
        let demanded = (0..1500).filter(|_| validation.demands(at(6000), 0, 8)).count();
        assert_eq!(demanded, 500, "a thousand within a second are served");
        assert!(validation.demands(at(7000), 0, 8) && !validation.demands(at(11_001), 0, 8));
    }
}
