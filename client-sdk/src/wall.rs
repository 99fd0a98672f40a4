//! The wall clock, for what another run of the app or the gateway reads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; zero where the clock is set before that.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whole milliseconds, within what a varint holds: 62 bits.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(1 << 60)
}
