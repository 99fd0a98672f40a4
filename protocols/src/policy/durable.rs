//! How much an app may leave on disk for later.

use std::time::Duration;

use super::parameters::{parameters, seconds};

parameters! {
    /// Bounds of calls that outlive the app's process: those that wait, and outcomes that the app has not acknowledged.
    pub struct DurablePolicy in "durable" {
        /// Off: no call is taken in as durable. Those of earlier runs go on.
        enabled: bool = true, false => true;
        /// Calls and outcomes on disk; a further call is refused.
        count_max: usize = 256, 1 => 10_000;
        /// Their bytes; a call that would exceed them is refused. Outcomes are kept beyond, one for each call.
        bytes_max: usize = 16 << 20, 4 << 10 => 1 << 30;
        /// How long a call waits for its outcome that names no deadline, and how long one may wait at most.
        age_max: Duration = seconds(86_400), seconds(1) => seconds(604_800);
    }
}
