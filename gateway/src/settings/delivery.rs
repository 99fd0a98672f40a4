//! How messages of a topic route reach their backend.

use std::time::Duration;

use super::QueueBounds;

/// Batches, attempts, and what becomes of what a backend does not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Several messages become one call; `None`: each is one.
    pub batch: Option<Batch>,
    /// When a call is repeated.
    pub retry: Retry,
    /// The queue in the store for what was not taken; `None` keeps nothing.
    pub dead_letters: Option<QueueBounds>,
    /// What was not taken is published under this topic, with its own topic behind it.
    pub dead_letter_topic: Option<String>,
}

/// A batch goes when the first of its bounds is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Messages.
    pub count_max: usize,
    /// Bytes of their topics and payloads.
    pub bytes_max: usize,
    /// How long its first message waits for others.
    pub time_max: Duration,
}

/// Attempts at a call that failed for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first one counts.
    pub attempts_max: usize,
    /// Pause after the first one; doubles with full jitter.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { count_max: 100, bytes_max: 1 << 20, time_max: Duration::from_millis(100) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 1,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
        }
    }
}
