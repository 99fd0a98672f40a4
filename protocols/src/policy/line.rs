//! What POLICY says in fields of its own, since the first version of the link: how a line is made and kept.

use std::time::Duration;

use super::parameters::{hours, millis, minutes, parameters, seconds};

parameters! {
    /// How a line is made and kept.
    pub struct LinePolicy in "line" {
        /// Time between beats on a quiet connection.
        heartbeat: Duration = seconds(30), seconds(1) => hours(1);
        /// How long QUIC is waited for before TCP is tried beside it, where it has passed before and nothing is known of how
        /// long that takes; `race.warm` says what happens where it has not.
        fallback_delay: Duration = millis(300), millis(0) => seconds(30);
        /// Bound on one connection attempt.
        connect_timeout: Duration = seconds(10), millis(100) => seconds(120);
        /// First reconnect delay; doubles with full jitter.
        backoff_min: Duration = millis(500), millis(10) => minutes(10);
        /// Longest reconnect delay.
        backoff_max: Duration = seconds(60), millis(10) => hours(1);
    }
    check LinePolicy::check_delays;
}

impl LinePolicy {
    fn check_delays(&self) -> Result<(), String> {
        if self.backoff_min > self.backoff_max {
            let Self { backoff_min, backoff_max, .. } = self;
            return Err(format!("backoff_min {backoff_min:?} is above backoff_max {backoff_max:?}"));
        }
        Ok(())
    }
}
