//! Time as a number that processes of one machine agree on, so that a message's send time can be read
//! by the process that receives it.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds per second.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// Sleeps on tokio's timer until `moment`; at once if it is over.
pub async fn sleep_until(moment: u64) {
    let left = moment.saturating_sub(now());
    if left > 0 {
        tokio::time::sleep(std::time::Duration::from_nanos(left)).await;
    }
}
