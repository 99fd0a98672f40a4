//! Tells connections when their next operation is due.

use std::{num::NonZeroU64, thread, time::Duration};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::{
    clock,
    fault::{Fault, FaultKind},
    schedule::Schedule,
};

/// Operations that may wait for one connection. An open loop that is further behind than this is
/// hopeless, and what does not fit is counted as unsent.
pub const BACKLOG_MAX: usize = 1024;

/// Sleeps shorter than this cost more CPU than they buy precision.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// Runs a schedule from `start` to `end` on a thread of its own, since tokio's timer has a grain of a
/// millisecond, and sends each operation's due time down its connection's channel. `unsent` counts
/// those that found their channel full.
pub fn start(
    schedule: Schedule,
    start: u64,
    end: u64,
    lanes: Vec<Sender<u64>>,
    unsent: impl Fn() + Send + 'static,
) {
    thread::spawn(move || {
        // The kernel adds up to 50 microseconds to a sleep unless told otherwise.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        for step in 0.. {
            let (lane, offset) = schedule.step(step);
            let due = start + offset;
            if due >= end {
                return;
            }
            wait_until(due);
            match lanes[lane].try_send(due) {
                Err(TrySendError::Full(_)) => unsent(),
                // A closed lane is a broken connection, which counted itself.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
            }
        }
    });
}

/// An operation that was never sent.
pub fn backlog_fault() -> Fault {
    Fault::new(FaultKind::Backlog, format!("{BACKLOG_MAX} operations waited on their connection already"))
}

fn wait_until(due: u64) {
    let left = due.saturating_sub(clock::now());
    if left > 0 {
        thread::sleep(Duration::from_nanos(left).max(SLEEP_MIN));
    }
}
